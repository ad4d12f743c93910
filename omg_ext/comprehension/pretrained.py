"""Models of transformers, from folders as its ``save_pretrained`` writes them. Weights are read as safetensors only."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import OMGError
from .files import chosen, model_folders, model_type, package, reading
from .models import Models, Need

_WEIGHTS = "model*.safetensors"


@dataclass(frozen=True)
class Kind:
    """One kind of model in transformers.

    Attributes:
        model, reader: its class, and that of what makes its input: a processor or a tokenizer; empty is none.
        threshold: the least score that counts unless the request says.
    """

    model: str
    reader: str = ""
    threshold: float = 0.0


@dataclass(frozen=True)
class Pretrained:
    """A loaded model, with what makes its input."""

    folder: Path
    type: str
    model: Any
    reader: Any

    @property
    def device(self) -> torch.device:
        return self.model.device


def needed() -> Need:
    """The package, as a need."""
    return package("transformers>=4.30,<6", "transformers")


def folders(models: Models, types: Collection[str]) -> list[Path]:
    """All folders with weights of one of these ``model_type``, those that this transformers is too old for too."""
    return [folder for folder in model_folders(models, types) if weights_in(folder)]


def chosen_folder(models: Models, types: Collection[str], name: str, field: str) -> Path | None:
    """The folder that a request names, or the first that this transformers knows; None if there is none.

    Raises:
        OMGError: naming ``field``: the named one is missing, or this transformers is too old for it.
    """
    there = folders(models, types)
    folder = chosen(there if name else [each for each in there if is_known(each)], name, field)
    if folder is not None and not is_known(folder):
        raise OMGError(field, f"the installed transformers does not know {model_type(folder)!r}, the kind of model in "
                              f"{folder}; choose another one")
    return folder


def weights_in(folder: Path) -> Path | None:
    """A folder's weights; of several parts the first."""
    return next(iter(sorted(folder.glob(_WEIGHTS))), None)


def is_known(folder: Path) -> bool:
    """Whether the installed transformers has that kind of model. Looks without importing it."""
    spec = importlib.util.find_spec("transformers")
    kind = model_type(folder).replace("-", "_")
    return any((Path(place) / "models" / kind).is_dir()
               for place in (spec.submodule_search_locations or () if spec else ()))


def load(folder: Path, kinds: Mapping[str, Kind], device: torch.device) -> Pretrained:
    """The model in a folder, in float32.

    Args:
        kinds: by ``model_type``.

    Raises:
        OMGError: it is broken.
    """
    import transformers

    name = model_type(folder)
    kind = kinds[name]
    with reading(folder):
        reader = getattr(transformers, kind.reader).from_pretrained(folder, local_files_only=True) if kind.reader \
            else None
        model = getattr(transformers, kind.model).from_pretrained(folder, local_files_only=True, use_safetensors=True)
        return Pretrained(folder, name, model.to(device, torch.float32).eval(), reader)
