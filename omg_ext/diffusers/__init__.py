"""OMG on a diffusers SDXL or SD 1.5 pipeline: for scripts, tests, benchmarks and the demo."""

from .controls import Control
from .engine import DiffusersEngine
from .faces import FaceModels
from .pipeline import OMGOutput, OMGPipeline
from .prompts import PromptEmbeds

__all__ = ["Control", "DiffusersEngine", "FaceModels", "OMGOutput", "OMGPipeline", "PromptEmbeds"]
