"""Where the trained weights of the small world lie."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights")
OUT = Path("out/world")
"""For what is not kept in the repository."""
AUTOENCODER = OUT / "autoencoder.safetensors"
"""What is trained before the checkpoint is there, which then holds it too."""
CHECKPOINT = WEIGHTS / "world.safetensors"
FIGURES = WEIGHTS / "figures.safetensors"
IDENTITY = WEIGHTS / "identity.safetensors"
DETECTOR = WEIGHTS / "figures-seg.pt"
"""A YOLO-seg of ultralytics, which is a pickle."""
CONTROL = OUT / "control"
"""A diffusers folder of a ControlNet; as large as the UNet's encoder, so it is made when it is needed."""
ADAPTER = WEIGHTS / "instantid.safetensors"
"""An image prompt adapter in InstantID's layout."""
CARD = WEIGHTS / "card.json"


def lora(identity: str) -> Path:
    """The LoRA file of an identity, named as in ``attributes.IDENTITIES``."""
    return WEIGHTS / "loras" / f"{identity.lower()}.safetensors"


def embedding(identity: str) -> Path:
    """The textual inversion of an identity."""
    return WEIGHTS / "embeddings" / f"{identity.lower()}.safetensors"


def missing(*files: Path) -> str:
    """Why what needs these trained weights cannot run, or nothing if they are there."""
    return "" if all(file.exists() for file in files) else "the small world is not trained yet: make world"
