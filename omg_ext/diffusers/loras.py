"""LoRA files as row-wise networks. Diffusers knows the key formats: kohya's, its own and PEFT's."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
from diffusers import DiffusionPipeline
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from peft.tuners.lora import LoraLayer
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import OMGError
from ..request.architecture import wrong_architecture
from ..request.tags import Tag, suggestion
from ..unet.deltas import LowRank, Sources

_NOT_LOW_RANK = ("hada_", "lokr_", "oft_", "dora_scale", "lora_magnitude_vector", "on_input", ".diff.", ".diff_b.",
                 "w_norm", "a1.weight", "lora_mid")
_PARTS = ("unet", "text_encoder", "text_encoder_2")
State = dict[str, Tensor]
Config = Mapping[str, Any]
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


LoraSource = str | Path | Mapping[str, str | Path]
"""Where LoRA files are: a folder of ``name.safetensors`` files, in it or in folders of it, or the files by name"""


class LoRA(NamedTuple):
    """One file's layers with multiplier 1, by the names of the models' modules.

    Attributes:
        unet: of the UNet.
        text_encoders: of the text encoders, with the encoder's name in front.
    """

    unet: dict[str, LowRank]
    text_encoders: dict[str, LowRank]

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(factor.nbytes for layers in self for layer in layers.values() for factor in (layer.down, layer.up))


class LoraFiles:
    """The files that tags name. Each is read once, and again if it has changed or is to act on other models.

    Args:
        source: a folder, or files by name; None is the working folder.
        budget: bytes of weights that are kept; beyond, those used longest ago are dropped. None keeps all.
    """

    def __init__(self, source: LoraSource | None, budget: int | None = None):
        self._source = source if source is not None else "."
        self._budget = budget
        self._read: dict[Path, tuple[int, list[weakref.ref[nn.Module]], LoRA]] = {}

    def load(self, pipe: DiffusionPipeline, tag: Tag, field: str) -> LoRA:
        """The LoRA that a tag names for the models of ``pipe``, which stay as they are.

        Raises:
            OMGError: see :func:`load_lora`; or there is no such name.
        """
        path = self.find(tag, field)
        changed, models = path.stat().st_mtime_ns, list(parts_of(pipe).values())
        known = self._read.pop(path, None)
        if known is None or known[0] != changed or [model() for model in known[1]] != models:
            known = changed, [weakref.ref(model) for model in models], load_lora(pipe, path, field)
        self._read[path] = known  # as the one used last
        self._keep_to_budget()
        return known[2]

    def find(self, tag: Tag, field: str) -> Path:
        """The file that a tag names.

        Raises:
            OMGError: there is none.
        """
        path = self._path(tag, field)
        if not path.is_file():
            raise OMGError(field, f"there is no LoRA file {path}{suggestion(tag, self._known())}")
        return path

    def _keep_to_budget(self) -> None:
        sizes = {path: lora.size for path, (_, _, lora) in self._read.items()}
        while self._budget is not None and len(sizes) > 1 and sum(sizes.values()) > self._budget:
            oldest = next(iter(sizes))
            del sizes[oldest], self._read[oldest]

    def _path(self, tag: Tag, field: str) -> Path:
        if not isinstance(self._source, Mapping):
            folder, file = Path(self._source), f"{tag.name}.safetensors"
            if (folder / file).is_file():
                return folder / file
            below = (path for path in sorted(folder.rglob("*.safetensors")) if path.name == file)
            return next(below, folder / file)
        if tag.name not in self._source:
            known = ", ".join(sorted(self._source)) or "none"
            raise OMGError(field, f"there is no LoRA {tag.name!r}; known: {known}{suggestion(tag, self._known())}")
        return Path(self._source[tag.name])

    def _known(self) -> dict[str, str]:
        """The names that tags may have, with their files: of a folder, those in it and below."""
        if isinstance(self._source, Mapping):
            return {name: str(path) for name, path in self._source.items()}
        folder = Path(self._source)
        files = folder.rglob("*.safetensors")
        return {file.relative_to(folder).with_suffix("").as_posix(): str(file) for file in files}


def parts_of(pipe: DiffusionPipeline) -> dict[str, nn.Module]:
    """The models that LoRA files act on, by name: the UNet first, then the text encoders."""
    return {name: part for name in _PARTS if (part := getattr(pipe, name, None)) is not None}


def on_unet(pipe: DiffusionPipeline, lora: LoRA, multiplier: float = 1.0, dyn: int | None = None) -> Sources:
    """A LoRA's layers in the UNet at a multiplier, cut to rank ``dyn``. Weights are shared, not copied."""
    return _scaled(_base_layers(pipe.unet), lora.unet, multiplier, dyn)


def on_text_encoders(pipe: DiffusionPipeline, lora: LoRA, multiplier: float = 1.0, dyn: int | None = None) -> Sources:
    """The same in the text encoders."""
    layers = {f"{part}.{name}": layer for part, model in parts_of(pipe).items() if part != "unet"
              for name, layer in _base_layers(model).items()}
    return _scaled(layers, lora.text_encoders, multiplier, dyn)


def _scaled(modules: Mapping[str, nn.Module], layers: Mapping[str, LowRank], multiplier: float,
            dyn: int | None) -> Sources:
    if not multiplier:
        return {}
    return {modules[name]: LowRank(source.down[:dyn], source.up[:, :dyn], source.scale * multiplier)
            for name, source in layers.items()}


def load_lora(pipe: DiffusionPipeline, path: Path, field: str) -> LoRA:
    """Read a LoRA file; the pipeline is only looked at.

    Raises:
        OMGError: the file is broken, of an unsupported kind or made for another architecture.
    """
    shapes, metadata = _header(path, field)
    if any(mark in f"{key}." for key in shapes for mark in _NOT_LOW_RANK):
        raise OMGError(field, f"{path.name} is not a plain LoRA or LoCon; in diffusers only those work (the web UI "
                              "loads the other kinds too)")
    loaded = "SDXL" if hasattr(pipe, "text_encoder_2") else "SD 1.x"
    wrong = wrong_architecture(field, path.name, shapes, metadata, loaded)
    try:
        found = _by_part(pipe, path, shapes)
    except (ValueError, KeyError) as error:  # keys that no format has
        raise wrong from error
    fitting: dict[str, dict[str, LowRank]] = {}
    for part, model in parts_of(pipe).items():
        layers = _base_layers(model)
        known = {name: source for name, source in found.get(part, {}).items() if name in layers}
        if (found.get(part) and not known) or not all(_fits(layers[name], known[name]) for name in known):
            raise wrong
        fitting[part] = {name: _shaped(source, layers[name]) for name, source in known.items()}
    if not any(fitting.values()):
        raise wrong
    return LoRA(fitting.pop("unet"), {f"{part}.{name}": source for part, sources in fitting.items()
                                      for name, source in sources.items()})


def _by_part(pipe: DiffusionPipeline, path: Path, shapes: Mapping[str, Any]) -> dict[str, dict[str, LowRank]]:
    """The file's layers by the models that they are for."""
    state, config = _in_diffusers_keys(pipe, path, shapes)
    return {part: _layers_of(part, state, config) for part in parts_of(pipe)
            if any(key.startswith(f"{part}.") for key in state)}


def _in_diffusers_keys(pipe: DiffusionPipeline, path: Path, shapes: Mapping[str, Any]) -> tuple[State, Config]:
    """The file's tensors by diffusers' keys, and what the file says of ranks and alphas."""
    options = {"unet_config": pipe.unet.config} if hasattr(pipe, "text_encoder_2") else {}
    if any(key.endswith(".alpha") for key in shapes):
        state, _, config = pipe.lora_state_dict(_without_alpha(load_file(path)), return_lora_metadata=True, **options)
    else:
        state, _, config = pipe.lora_state_dict(str(path.parent), weight_name=path.name, local_files_only=True,
                                                return_lora_metadata=True, **options)
    return state, config or {}


def _layers_of(part: str, state: State, config: Config) -> dict[str, LowRank]:
    """One model's layers, by PEFT's names, which are those of the model's modules."""
    own = {key.removeprefix(f"{part}."): tensor for key, tensor in state.items() if key.startswith(f"{part}.")}
    if part == "unet":
        own = own if any("lora_A" in key for key in own) else convert_unet_state_dict_to_peft(own)
    else:
        own = convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))
    settings = {key.removeprefix(f"{part}."): value for key, value in config.items() if key.startswith(f"{part}.")}
    return {key.removesuffix(_DOWN): LowRank(own[key], own[key.removesuffix(_DOWN) + _UP],
                                             _scale(key.removesuffix(_DOWN), settings))
            for key in own if key.endswith(_DOWN)}


def _scale(layer: str, settings: Config) -> float:
    """alpha / rank, or alpha / sqrt(rank) (rsLoRA), as PEFT's settings in the file have it."""
    if "lora_alpha" not in settings:
        return 1.0
    ranks, alphas = settings.get("rank_pattern") or {}, settings.get("alpha_pattern") or {}
    rank = _matching(ranks, layer, settings["r"])
    alpha = _matching(alphas, layer, settings["lora_alpha"])
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _matching(patterns: Mapping[str, float], layer: str, default: float) -> float:
    """The value of the pattern that the layer's name ends in."""
    return patterns.get(get_pattern_key(patterns, layer), default)


def _base_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The model's Linear and Conv2d layers, those that adapters of the user's wrap by their wrappers' names.

    Older files and versions of transformers have the text encoder's layers in ``text_model``.
    """
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        layer = module.get_base_layer() if isinstance(module, LoraLayer) else module
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and ".base_layer" not in name:
            layers[name] = layer
            layers.setdefault(f"text_model.{name.removeprefix('text_model.')}", layer)
    return layers


def _shape(layer: Any) -> tuple[int, ...]:
    return tuple(layer.weight.shape)


def _fits(layer: nn.Module, source: LowRank) -> bool:
    """Whether the factors' product has the shape of the layer's weight; a 1x1 kernel counts as none."""
    shape = (source.up.shape[0], *source.down.shape[1:])
    wanted = _shape(layer)
    return source.up.shape[1] == source.down.shape[0] and shape[:2] == wanted[:2] and (
        shape[2:] == wanted[2:] or all(size == 1 for size in (*shape[2:], *wanted[2:])))


def _shaped(source: LowRank, layer: nn.Module) -> LowRank:
    """The factors as the layer takes them: [r, in] for a Linear, [r, in, kh, kw] for a convolution."""
    ones = (1, 1) if isinstance(layer, nn.Conv2d) else ()
    kernel = source.down.shape[2:] if ones and source.down.dim() == 4 else ones
    return LowRank(source.down.reshape(*source.down.shape[:2], *kernel), source.up.reshape(*source.up.shape[:2], *ones),
                   source.scale)


def _without_alpha(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kohya's weights with each layer's alpha / rank in its upper matrix: diffusers keeps one alpha for all layers."""
    scales = {key.removesuffix("alpha"): float(value) for key, value in weights.items() if key.endswith(".alpha")}
    kept = {key: value for key, value in weights.items() if not key.endswith(".alpha")}
    for layer, alpha in scales.items():
        up, down = f"{layer}lora_up.weight", f"{layer}lora_down.weight"
        kept[up] = kept[up].float() * (alpha / len(kept[down]))
    return kept


def _header(path: Path, field: str) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {key: file.get_slice(key).get_shape() for key in list(file.keys())}, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise OMGError(field, f"{path.name} is not a readable safetensors file: {error}") from None
