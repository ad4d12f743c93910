"""Networks as Forge reads their files, evaluated row by row: Forge itself knows them as changes of merged weights."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import networks as lora
import torch
from torch import Tensor, nn

from ..errors import OMGError
from ..request.architecture import architecture_of, is_for_another, is_network
from ..request.tags import Tag
from ..unet.deltas import LowRank, Source, Sources, WeightDelta, like, summed
from ..webui.network_files import (
    loaded_architecture,
    on_disk,
    shapes_of,
    wrong_architecture_of,
)
from ..webui.replacing import replaced
from ..webui.which import KIND
from .backend import Patches, backend

_UNET, _WEIGHT, _BIAS, _EMBEDDING = "diffusion_model.", ".weight", ".bias", "bundle_emb."


@dataclass(frozen=True, eq=False)
class Network:
    """A file's networks for the loaded model.

    Attributes:
        network_on_disk: as Forge's Lora extension knows the file.
        mentioned_name: what the tag calls it.
        unet, clip: what it does to UNet and text encoders.
        embeddings: the names of textual inversions that it brings, which Forge does not read.
        unknown: its other keys that Forge does not know.
    """

    network_on_disk: Any
    mentioned_name: str
    unet: Patches
    clip: Patches
    embeddings: Sequence[str] = ()
    unknown: Sequence[str] = ()

    @property
    def notes(self) -> Iterator[str]:
        """What the user should know."""
        if self.embeddings:
            named = ", ".join(self.embeddings)
            brings = f"an embedding, {named}," if len(self.embeddings) == 1 else f"embeddings, {named},"
            yield (f"the LoRA {self.mentioned_name} brings {brings} which Forge does not read: its name is in prompts "
                   "a word like others")
        if self.unknown:
            yield (f"of the LoRA {self.mentioned_name} {len(self.unknown)} keys are not read, such as "
                   f"{self.unknown[0]!r}; neither does {KIND.value} in the main prompt")


@dataclass
class Kept:
    """Networks that were read for one job.

    Attributes:
        networks: by file and when it was changed.
    """

    networks: dict[tuple[str, float], Network] = field(default_factory=dict)

    def read(self, model: Any, tag: Tag, field: str) -> Network:
        """The network of a tag that names a file.

        Args:
            model: Forge's loaded model.

        Raises:
            OMGError: the file is broken, made for another model or of a kind that Forge does not read; or the tag cuts
                its rank, which Forge does not do.
        """
        if tag.dyn is not None:
            raise OMGError(field, f"<lora:{tag.name}> asks for a rank of {tag.dyn} (dyn), which does nothing in Forge; "
                                  "take it out of the tag")
        disk = on_disk(tag.name)
        key = str(disk.filename), os.path.getmtime(disk.filename)
        if key not in self.networks:
            self.networks[key] = _read(model, disk, tag.name, field)
        return self.networks[key]


def _read(model: Any, disk: Any, name: str, field: str) -> Network:
    try:
        state = lora.load_lora_state_dict(disk.filename)
    except Exception as error:  # whatever reads the format may raise anything
        raise OMGError(field, f"the LoRA {name} could not be read; the file is broken: {error}") from error
    disk.read_hash()
    objects = model.forge_objects
    embeddings = dict.fromkeys(key.split(".")[1] for key in state if key.startswith(_EMBEDDING))
    unet, clip, unread = backend.read(state, objects.unet.model, objects.clip.cond_stage_model)
    unknown = [key for key in unread.keys if not key.startswith(_EMBEDDING)]
    network = Network(disk, name, unet, clip, [*embeddings], unknown)
    if unread.is_all:
        raise _not_read(disk, next(iter(unread.keys), ""), field)
    if not unet and is_for_another(shapes_of(disk), disk.metadata or {}, loaded_architecture()):
        raise wrong_architecture_of(disk, field)
    for key, patch in unet.items():
        try:
            fits = _fits(patch, _parameter(objects.unet.model, key))
        except (RuntimeError, IndexError) as error:
            raise OMGError(field, f"{KIND.value} cannot merge the LoRA {disk.name} into this model: {error}") from error
        if not fits:
            raise wrong_architecture_of(disk, field)
    return network


def _not_read(disk: Any, key: str, field: str) -> OMGError:
    """Why Forge leaves a file out, which it does without a word."""
    shapes = shapes_of(disk)
    if is_network(shapes) and architecture_of(shapes, disk.metadata or {}) == loaded_architecture():
        return OMGError(field, f"the LoRA {disk.name} has key names that {KIND.value} does not read, such as {key!r} "
                               f"(in the main prompt it silently does nothing); {backend.READS}")
    return wrong_architecture_of(disk, field)


def _parameter(model: nn.Module, key: Any) -> Any:
    """A model's parameter by its name; with what a patch says of a part of it, if it does."""
    parent, _, name = (key if isinstance(key, str) else key[0]).rpartition(".")
    return getattr(model.get_submodule(parent), name)


def _fits(patch: Any, parameter: Any) -> bool:
    """Whether a patch changes a parameter of this shape. Those of four bits do not tell theirs, and Forge tries.

    Raises:
        RuntimeError: Forge fails on it.
        IndexError: the same.
    """
    if hasattr(parameter, "bnb_quantized"):
        return True
    kind, values = backend.parts(patch)
    shape = tuple(parameter.shape)
    if kind in ("diff", "set"):
        return tuple(values[0].shape) == shape
    if kind == "lora":
        up, down, mid = values[0], values[1], values[3]
        inner = math.prod(down.shape[1:]) * (1 if mid is None else math.prod(mid.shape[2:]))
        return len(shape) > 1 and (up.shape[0], up.shape[1], inner) == (shape[0], down.shape[0], math.prod(shape[1:]))
    # on no device, where only shapes are computed
    return tuple(backend.merged(backend.on_meta(patch), 1.0, torch.empty(shape, device="meta")).shape) == shape


def on_unet(unet: nn.Module, networks: Sequence[tuple[Network, float]]) -> Sources:
    """What networks do to the UNet, each with its weight."""
    return summed([_on_unet(unet, network.unet, strength) for network, strength in networks if strength])


def _on_unet(unet: nn.Module, patches: Patches, strength: float) -> Sources:
    found: dict[nn.Module, Source] = {}
    for name in dict.fromkeys(key.rpartition(".")[0] for key in patches):
        layer = unet.get_submodule(name.removeprefix(_UNET))
        weight, bias = patches.get(name + _WEIGHT), patches.get(name + _BIAS)
        low_rank = None if bias else _low_rank(layer, weight, strength)
        found[layer] = low_rank or Merged(weight, bias, strength)
    return found


def _low_rank(layer: nn.Module, patch: Any, strength: float) -> LowRank | None:
    """None if it is something else."""
    kind, values = backend.parts(patch)
    if kind != "lora":
        return None
    up, down, alpha, mid, dora_scale = values
    if dora_scale is not None:
        return None
    scale = strength * (1.0 if alpha is None else alpha / len(down))
    if not isinstance(layer, nn.Conv2d):
        return LowRank(down.flatten(1), up.flatten(1), scale)
    kernel = layer.kernel_size if mid is None else (1, 1)
    return LowRank(down.reshape(len(down), -1, *kernel), up.reshape(*up.shape[:2], 1, 1), scale, mid)


@dataclass(frozen=True, eq=False)
class Merged:
    """The difference that Forge's own merging makes, since LoHa, LoKr and others are no product of two matrices, and
    GLora and DoRA depend on the weight they find.

    Attributes:
        weight, bias: patches; None for none.
        strength: of both.
    """

    weight: Any
    bias: Any
    strength: float

    def resolve(self, layer: nn.Module, y: Tensor) -> WeightDelta:
        """In the layer's forward call: its weight is then what the global prompt's networks have made of it."""
        weight, bias = backend.weight_and_bias(layer, y)
        change = self._change(self.weight, weight)
        return WeightDelta(like(change, y), None if bias is None or self.bias is None else like(
            self._change(self.bias, bias), y))

    def _change(self, patch: Any, parameter: Tensor) -> Tensor:
        """dW of a weight or bias, float32."""
        if patch is None:
            return torch.zeros_like(parameter)
        return backend.merged(patch, self.strength, parameter) - parameter


@contextmanager
def in_text_encoders(model: Any, networks: Sequence[tuple[Network, float]]) -> Iterator[None]:
    """Within the block the model's text encoders have these networks, each with its weight, beside the global
    prompt's."""
    objects = model.forge_objects
    before = objects.clip
    changed = backend.with_networks(before, [(str(network.network_on_disk.filename), network.clip, strength)
                                             for network, strength in networks if strength])
    if changed is None:
        yield
        return
    try:
        with replaced(objects, "clip", changed):
            yield
    finally:
        backend.load(before)  # with the global prompt's alone
