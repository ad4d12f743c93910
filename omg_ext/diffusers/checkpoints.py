"""Where checkpoints are, and which family of models one is. Loading it is :mod:`.loading`'s."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors

from ..errors import OMGError

FIELD = "checkpoint"
_HASH = re.compile(r"\s*\[[0-9a-fA-F]{6,64}\]\s*$")
_SUFFIX = ".safetensors"
_INDEX = "model_index.json"
_SDXL_KEY = "conditioner.embedders.1.model.transformer.resblocks.0.ln_1.weight"
_SD15_KEY = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
_INPUT = "model.diffusion_model.input_blocks.0.0.weight"
_LATENT_CHANNELS = 4


@dataclass(frozen=True)
class Family:
    """A kind of models.

    Attributes:
        name: for people.
        pipeline: diffusers' class.
        key: that single files of the kind have.
    """

    name: str
    pipeline: str
    key: str


SDXL = Family("SDXL", "StableDiffusionXLPipeline", _SDXL_KEY)
SD15 = Family("SD 1.5", "StableDiffusionPipeline", _SD15_KEY)
_FAMILIES = (SDXL, SD15)
_TAKEN = "SDXL and SD 1.5 checkpoints are taken, as a folder in diffusers' form or one .safetensors file"


@dataclass(frozen=True)
class Kind:
    """What a checkpoint is.

    Attributes:
        family: of its architecture.
        is_file: rather than a folder.
        predicts_v: rather than the noise; None if it does not say.
        is_zero_snr: whether its last timestep is noise alone; None if it does not say.
    """

    family: Family
    is_file: bool
    predicts_v: bool | None = None
    is_zero_snr: bool | None = None


class Checkpoints:
    """Finds checkpoints by what jobs call them.

    Args:
        default: the file or folder for jobs that name none.
        folder: where names are looked up, in it and in folders of it.
    """

    def __init__(self, default: str | Path | None = None, folder: str | Path | None = None):
        self._default = None if default is None else str(default)
        self._folder = None if folder is None else Path(folder)
        self._found: dict[str, Path] = {}

    def find(self, name: str) -> Path:
        """A file, or a folder of diffusers'. The name may be a path, lack the suffix, and end in a hash as in the web
        UI's lists: ``name.safetensors [31e35c80fc]``.

        Raises:
            OMGError: there is none; the message says what there is.
        """
        wanted = name.strip() or self._default
        if not wanted:
            raise OMGError(FIELD, "the job names none, and there is none to take by default (--checkpoint)")
        known = self._found.get(wanted)
        if known is None or not known.exists():
            known = self._found[wanted] = self._look(_HASH.sub("", wanted))
        return known

    def known(self) -> list[str]:
        """The names of what the folder has."""
        return sorted({path.relative_to(self._folder).with_suffix("" if path.is_file() else path.suffix).as_posix()
                       for path in self._all()}) if self._folder is not None else []

    def _all(self) -> list[Path]:
        if self._folder is None:
            return []
        folders = [index.parent for index in sorted(self._folder.rglob(_INDEX))]
        # a folder of diffusers' has files of its own
        files = [file for file in sorted(self._folder.rglob(f"*{_SUFFIX}"))
                 if not any(folder in file.parents for folder in folders)]
        return [*files, *folders]

    def _look(self, name: str) -> Path:
        places = [Path(name)] if self._folder is None else [Path(name), self._folder / name]
        direct = [path for place in places for path in (place, place.with_name(place.name + _SUFFIX))
                  if _is_checkpoint(path)]
        below = [path for path in self._all() if name in (path.name, path.stem)]
        found = next(iter([*direct, *below]), None)
        if found is None:
            raise OMGError(FIELD, self._message(name, places))
        return found

    def _message(self, name: str, places: list[Path]) -> str:
        there = next((place for place in places if place.exists()), None)
        if there is not None:
            return f"{there} is no checkpoint; {_TAKEN}"
        known = self.known()
        last = {known_name.rsplit("/", 1)[-1]: known_name for known_name in known}
        near = difflib.get_close_matches(name.rsplit("/", 1)[-1].removesuffix(_SUFFIX), last, 1)
        meant = f"; did you mean {last[near[0]]}?" if near else ""
        where = f"in {self._folder} there are: {', '.join(known[:20]) or 'none'}" if self._folder else "give its path"
        return f"there is no {name}{meant}; {where}{' and more' if len(known) > 20 else ''}"


def _is_checkpoint(path: Path) -> bool:
    return (path / _INDEX).is_file() or (path.suffix == _SUFFIX and path.is_file())


def kind_of(path: Path) -> Kind:
    """What a checkpoint is, by a file's header or a folder's index; read once unless it changes.

    Raises:
        OMGError: something that no checkpoint of these families is.
    """
    index = path / _INDEX
    is_file = path.is_file()
    return _kind_of(path, is_file, (path if is_file else index).stat().st_mtime_ns)


@lru_cache(maxsize=1000)
def _kind_of(path: Path, is_file: bool, changed: int) -> Kind:
    return _of_file(path) if is_file else _of_folder(path)


def _of_folder(path: Path) -> Kind:
    try:
        name = json.loads((path / _INDEX).read_text(encoding="utf8")).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise OMGError(FIELD, f"{path / _INDEX} cannot be read: {error}") from None
    family = next((family for family in _FAMILIES if family.pipeline == name), None)
    if family is None:
        raise OMGError(FIELD, f"{path} is a {name}; {_TAKEN}")
    return Kind(family, is_file=False)


def _of_file(path: Path) -> Kind:
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            keys, metadata = set(file.keys()), file.metadata() or {}
            channels: Any = file.get_slice(_INPUT).get_shape()[1] if _INPUT in keys else None
    except safetensors.SafetensorError as error:
        raise OMGError(FIELD, f"{path.name} is not a readable safetensors file: {error}") from None
    family = next((family for family in _FAMILIES if family.key in keys), None)
    if family is None or channels != _LATENT_CHANNELS:
        kind = "is made for inpainting" if family is not None and channels is not None else "is something else"
        raise OMGError(FIELD, f"{path.name} {kind}; {_TAKEN}")
    predicts = metadata.get("modelspec.prediction_type")
    return Kind(family, True, True if "v_pred" in keys or predicts == "v" else None, "ztsnr" in keys or None)
