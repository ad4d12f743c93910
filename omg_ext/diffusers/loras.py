"""LoRA files as row-wise networks. Diffusers and PEFT read them, in kohya's, diffusers' and PEFT's key formats."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
from diffusers import DiffusionPipeline
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import OMGError
from ..request.architecture import wrong_architecture
from ..unet.deltas import Delta, LowRankDelta

_ADAPTER = "omg"
_NOT_LOW_RANK = ("hada_", "lokr_", "oft_", "dora_scale", "lora_magnitude_vector", "on_input", ".diff", "w_norm",
                 "a1.weight", "lora_mid")


Source = str | Path | Mapping[str, str | Path]
"""Where LoRA files are: a folder of ``name.safetensors`` files, or the files by name"""


class LoRA(NamedTuple):
    """One file's layers, by the module they act on, with multiplier 1."""

    unet: dict[nn.Module, LowRankDelta]
    text_encoders: dict[nn.Module, LowRankDelta]


class LoraFiles:
    """The files that tags name. Each is read once, and again if it has changed or is to act on other models.

    Args:
        source: a folder, or files by name; None is the working folder.
    """

    def __init__(self, source: Source | None):
        self._source = source if source is not None else "."
        self._read: dict[Path, tuple[tuple[int, ...], LoRA]] = {}

    def load(self, pipe: DiffusionPipeline, name: str, field: str) -> LoRA:
        """The LoRA of that name for the models of ``pipe``, which stay as they are.

        Raises:
            OMGError: see :func:`load_lora`; or there is no such name.
        """
        path = self._path(name, field)
        if not path.is_file():
            raise OMGError(field, f"there is no LoRA file {path}")
        stamp = (path.stat().st_mtime_ns, *map(id, _parts(pipe)))
        known, lora = self._read.get(path, (None, None))
        if lora is None or known != stamp:
            lora = load_lora(pipe, path, field)
            self._read[path] = (stamp, lora)
        return lora

    def _path(self, name: str, field: str) -> Path:
        if not isinstance(self._source, Mapping):
            return Path(self._source) / f"{name}.safetensors"
        if name not in self._source:
            known = ", ".join(sorted(self._source)) or "none"
            raise OMGError(field, f"there is no LoRA {name!r}; known: {known}")
        return Path(self._source[name])


def scaled(layers: Mapping[nn.Module, LowRankDelta], multiplier: float, dyn: int | None) -> dict[nn.Module, Delta]:
    """The layers at a multiplier, cut to rank ``dyn``. Weights are shared, not copied."""
    if not multiplier:
        return {}
    return {layer: LowRankDelta(delta.down[:dyn], delta.up[:, :dyn], delta.scale * multiplier)
            for layer, delta in layers.items()}


def load_lora(pipe: DiffusionPipeline, path: Path, field: str) -> LoRA:
    """Read a LoRA file through diffusers, which knows the key formats, and leave the pipeline as it was.

    Raises:
        OMGError: the file is broken, of an unsupported kind or made for another architecture.
    """
    shapes, metadata = _header(path, field)
    if any(mark in key for key in shapes for mark in _NOT_LOW_RANK):
        raise OMGError(field, f"{path.name} is not a plain LoRA or LoCon; in diffusers only those work (the web UI "
                              "loads the other kinds too)")
    had_adapters = any(isinstance(module, LoraLayer) for part in _parts(pipe) for module in part.modules())
    try:
        if any(key.endswith(".alpha") for key in shapes):
            pipe.load_lora_weights(_without_alpha(load_file(path)), adapter_name=_ADAPTER)
        else:
            pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=_ADAPTER,
                                   local_files_only=True)
        unet, *text_encoders = [_layers(part) for part in _parts(pipe)]
        lora = LoRA(unet, {layer: delta for layers in text_encoders for layer, delta in layers.items()})
    except (ValueError, RuntimeError, KeyError) as error:
        raise _wrong_architecture(pipe, path, field, shapes, metadata) from error
    finally:
        if had_adapters:
            pipe.delete_adapters(_ADAPTER)
        else:
            pipe.unload_lora_weights()
    if not lora.unet and not lora.text_encoders:
        raise _wrong_architecture(pipe, path, field, shapes, metadata)
    return lora


def _without_alpha(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kohya's weights with each layer's alpha / rank in its upper matrix: diffusers keeps one alpha for all layers."""
    scales = {key.removesuffix("alpha"): float(value) for key, value in weights.items() if key.endswith(".alpha")}
    kept = {key: value for key, value in weights.items() if not key.endswith(".alpha")}
    for layer, alpha in scales.items():
        up, down = f"{layer}lora_up.weight", f"{layer}lora_down.weight"
        kept[up] = kept[up].float() * (alpha / len(kept[down]))
    return kept


def _parts(pipe: DiffusionPipeline) -> list[nn.Module]:
    """The UNet first, then the text encoders."""
    names = ("unet", "text_encoder", "text_encoder_2")
    return [part for part in (getattr(pipe, name, None) for name in names) if part is not None]


def _layers(part: nn.Module) -> dict[nn.Module, LowRankDelta]:
    return {module.get_base_layer(): LowRankDelta(module.lora_A[_ADAPTER].weight.detach(),
                                                  module.lora_B[_ADAPTER].weight.detach(), module.scaling[_ADAPTER])
            for module in part.modules() if isinstance(module, LoraLayer) and _ADAPTER in module.lora_A}


def _header(path: Path, field: str) -> tuple[dict[str, Any], dict[str, str]]:
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            return {key: file.get_slice(key).get_shape() for key in list(file.keys())}, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise OMGError(field, f"{path.name} is not a readable safetensors file: {error}") from None


def _wrong_architecture(pipe: DiffusionPipeline, path: Path, field: str, shapes: Mapping[str, Any],
                        metadata: Mapping[str, str]) -> OMGError:
    loaded = "SDXL" if hasattr(pipe, "text_encoder_2") else "SD 1.x"
    return wrong_architecture(field, path.name, shapes, metadata, loaded)
