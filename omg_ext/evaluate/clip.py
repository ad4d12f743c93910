"""CLIP's embeddings (arXiv 2103.00020), as transformers computes them, of a model in a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OMGError
from .means import FloatArray
from .regions import Picture

_FIELD = "clip"


@dataclass(frozen=True, eq=False)
class Clip:
    """
    Attributes:
        model, processor: of transformers.
        folder: where they are from.
    """

    model: Any
    processor: Any
    folder: Path

    @classmethod
    def read(cls, folder: Path, device: str = "cpu") -> Clip:
        """A ``CLIPModel`` with its processor, such as ViT-B/32 or ViT-L/14, as ``save_pretrained`` writes them.

        Raises:
            OMGError: naming ``clip``: transformers is not installed, or the folder has no such model.
        """
        try:
            import transformers
        except ImportError as error:
            raise OMGError(_FIELD, f"the package {error.name} is not installed") from None
        if not (folder / "config.json").is_file():
            raise OMGError(_FIELD, f"{folder} is no folder with a CLIPModel of transformers, such as ViT-B/32's or "
                                   "ViT-L/14's")
        try:
            model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            processor = transformers.CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # whatever its parts raise for files that are something else
            raise OMGError(_FIELD, f"{folder} cannot be read: {type(error).__name__}: {error}") from error
        return cls(model.to(device).eval(), processor, folder)

    @property
    def about(self) -> dict[str, str]:
        """Its name, and the version of what runs it, by title."""
        from transformers import __version__

        return {"CLIP": self.folder.resolve().name, "transformers": __version__}

    def pictures(self, pictures: Sequence[Picture]) -> FloatArray:
        """Embeddings [n, D] of unit length of pictures, uint8 RGB [H, W, 3] each."""
        return self._embedded(self.model.get_image_features, images=list(pictures))

    def texts(self, texts: Sequence[str]) -> FloatArray:
        """Embeddings [n, D] of unit length of texts, which are cut behind the last word that the model takes."""
        return self._embedded(self.model.get_text_features, text=list(texts), padding=True, truncation=True)

    def _embedded(self, features: Any, **given: Any) -> FloatArray:
        import torch

        with torch.inference_mode():
            found = features(**self.processor(return_tensors="pt", **given).to(self.model.device))
        # before transformers 5 the embeddings themselves
        embeddings = found if isinstance(found, torch.Tensor) else found.pooler_output
        return unit(embeddings.double().cpu().numpy())


def unit(vectors: Any) -> FloatArray:
    """Vectors [..., D] brought to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float64)
