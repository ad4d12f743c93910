"""The web UI's bundled Lora extension as a source of row-wise networks."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import networks as lora
import safetensors
import torch
from modules import shared
from network_lora import NetworkModuleLora
from torch import Tensor, nn
from torch.nn.functional import pad

from ..errors import OMGError
from ..request.architecture import (
    Shapes,
    architecture_of,
    has_diffusers_keys,
    is_for_another,
    is_network,
    wrong_architecture,
)
from ..request.tags import Tag
from ..unet.deltas import LowRank, Source, Sources, SourceSum, WeightDelta, like
from .block_weights import BlockWeights
from .network_files import loaded_architecture, on_disk, shapes_of, wrong_architecture_of

UNET_PREFIX = "diffusion_model_"


@dataclass
class Kept:
    """Networks that were read for one job: the Lora extension forgets them when others are loaded.

    Attributes:
        networks: by name, as the Lora extension reads them.
    """

    networks: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def activated(self, p: Any, tags: Sequence[Tag], field: str) -> Iterator[list[Any]]:
        """The global prompt's networks and the concept's are the web UI's active ones within the block.

        Yields the concept's networks, one per tag, with their own multipliers and block weights.

        Args:
            p: the web UI's processing object.

        Raises:
            OMGError: a file cannot be read, or block weights cannot be honoured.
        """
        last = {tag.name: tag for tag in tags}
        tags = [last[tag.name] for tag in tags]  # of a name that comes twice the Lora extension applies the last twice
        before = [Tag(net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in lora.loaded_networks]
        # one file in both prompts is one cached network with one multiplier, so its weights are added up
        wanted = {tag.name: tag for tag in before}
        for tag in tags:
            known = wanted.get(tag.name)
            if not tag.items:
                wanted[tag.name] = tag if known is None else tag._replace(te=tag.te + known.te,
                                                                          unet=tag.unet + known.unet)
        try:
            self._load([*wanted.values(), *(tag for tag in tags if tag.name not in wanted)])
            loaded = {net.name: net for net in lora.loaded_networks}
            own = [_with_multipliers(_loaded(loaded, tag, field), tag) for tag in tags]
            weighted = [(net, tag) for net, tag in zip(own, tags, strict=True) if tag.items]
            for net, tag in weighted:
                BlockWeights.of(p, field).apply(net, tag, field)
            lora.loaded_networks[:] = [*(net for name, net in loaded.items() if name in wanted),
                                       *(net for net, _ in weighted)]
            yield own
        finally:
            self._load(before)

    def _load(self, tags: Sequence[Tag]) -> None:
        # behind ours, so that what the user has in memory is not what the Lora extension throws out next
        others = {**self.networks, **lora.networks_in_memory}
        lora.networks_in_memory.clear()
        lora.networks_in_memory.update(_unweighted(others))
        lora.load_networks([tag.name for tag in tags], [tag.te for tag in tags], [tag.unet for tag in tags],
                           [tag.dyn for tag in tags])
        self.networks |= _unweighted({net.mentioned_name: net for net in lora.loaded_networks})


def _unweighted(nets: dict[str, Any]) -> dict[str, Any]:
    """Those whose weights are the file's: LoRA Block Weight writes its own into cached networks, and renames them."""
    return {name: net for name, net in nets.items() if net.name == name}


def _loaded(loaded: dict[str, Any], tag: Tag, field: str) -> Any:
    if tag.name in loaded:
        return loaded[tag.name]
    disk = on_disk(tag.name)
    try:
        shapes = shapes_of(disk)
    except (safetensors.SafetensorError, pickle.PickleError, AttributeError, EOFError, OSError, RuntimeError,
            ValueError) as error:
        raise OMGError(field, f"the LoRA {tag.name} could not be read; the file is broken: {error}") from error
    raise _nothing_fits(disk, shapes, field)


def _with_multipliers(net: Any, tag: Tag) -> Any:
    """A copy that shares the weights: the Lora extension keeps multipliers on the cached network itself."""
    own = copy.copy(net)
    own.te_multiplier, own.unet_multiplier, own.dyn_dim = tag.te, tag.unet, tag.dyn
    own.modules = {}
    for name, module in net.modules.items():
        own.modules[name] = copy.copy(module)
        own.modules[name].network = own
    return own


def on_unet(nets: Sequence[Any], field: str) -> Sources:
    """What one concept's networks do to the UNet.

    Raises:
        OMGError: a network was made for another architecture.
    """
    by_layer: dict[str, list[Any]] = {}
    for net in nets:
        _refuse_misfit(net, field)
        for name, module in net.modules.items():
            if name.startswith(UNET_PREFIX) and net.unet_multiplier:
                by_layer.setdefault(name, []).append(module)
    found: dict[nn.Module, Source] = {}
    for name, modules in by_layer.items():
        layer = shared.sd_model.network_layer_mapping.get(name)
        for module in modules:
            if layer is None or not _fits(module, _unmerged_weight(layer)):
                raise wrong_architecture_of(module.network.network_on_disk, field)
        if all(_is_low_rank(module) for module in modules):
            sources = tuple(_low_rank(module, layer) for module in modules)
            found[layer] = sources[0] if len(sources) == 1 else SourceSum(sources)
        else:
            found[layer] = InFull(tuple(modules))
    return found


@dataclass(frozen=True, eq=False)
class InFull:
    """All networks of a layer in their order, since DoRA, OFT, IA3 and GLora depend on the weight they find.

    Attributes:
        modules: the Lora extension's.
    """

    modules: tuple[Any, ...]

    def resolve(self, layer: nn.Module, y: Tensor) -> WeightDelta:
        """In the layer's forward call: its weight is then what the global prompt's networks have made of it."""
        weight = _unmerged_weight(layer).to(y.device)
        total = torch.zeros_like(weight, dtype=torch.float32)
        bias: Tensor | None = None
        for module in self.modules:
            change, bias_change = module.calc_updown((weight.to(total) + total).to(weight))
            if _is_inpainting(layer, change):
                change = pad(change, (0, 0, 0, 0, 0, 5))
            total = total + change.reshape(weight.shape)
            if bias_change is not None:
                bias = bias_change if bias is None else bias + bias_change
        return WeightDelta(like(total, y), None if bias is None else like(bias, y))


def _unmerged_weight(layer: Any) -> Tensor:
    """The layer's weight; in half precision where the web UI keeps it in fp8."""
    half = getattr(layer, "fp16_weight", None)
    return layer.weight if half is None else half


def _is_inpainting(layer: nn.Module, weight: Tensor) -> bool:
    """Whether a network made for the usual 4 latent channels meets an inpainting checkpoint's first layer, of 9."""
    return weight.dim() == 4 and weight.shape[1] == 4 and _unmerged_weight(layer).shape[1] == 9


def _is_low_rank(module: Any) -> bool:
    return isinstance(module, NetworkModuleLora) and module.dora_scale is None and module.bias is None


def _low_rank(module: NetworkModuleLora, layer: nn.Module) -> LowRank:
    down, up = module.down_model.weight, module.up_model.weight
    mid = None if module.mid_model is None else module.mid_model.weight
    dyn = module.network.dyn_dim
    if dyn is not None and mid is None:
        down, up = down[:dyn], up[:, :dyn]
    if _is_inpainting(layer, down):
        down = pad(down, (0, 0, 0, 0, 0, 5))  # as the Lora extension does
    return LowRank(down, up, module.multiplier() * module.calc_scale(), mid)


def _fits(module: Any, weight: Tensor) -> bool:
    """Whether a network's module changes a weight of this shape."""
    shapes = {
        "NetworkModuleLora": _lora_shape, "NetworkModuleHada": _hada_shape, "NetworkModuleLokr": _lokr_shape,
        "NetworkModuleFull": lambda module: module.weight.shape,
        "NetworkModuleNorm": lambda module: module.w_norm.shape,
        "NetworkModuleGLora": lambda module: (module.w2b.shape[0], module.w1b.shape[1])}
    kind, wanted = type(module).__name__, tuple(weight.shape)
    if kind == "NetworkModuleIa3":
        return bool(module.w.numel() == wanted[1 if module.on_input else 0])
    if kind == "NetworkModuleOFT":
        blocks = module.oft_blocks.shape  # ..., number of blocks, side, side: the class computes sides that always fit
        return bool(blocks[-3] * blocks[-1] == wanted[0])
    if kind not in shapes:
        return True  # a kind that this extension has never seen is left to the layer's forward call
    shape = tuple(shapes[kind](module))
    if len(wanted) == 4 and wanted[1] == 9 and len(shape) == 4 and shape[1] == 4:
        wanted = (wanted[0], 4, *wanted[2:])
    # a 1x1 kernel counts as none, and LyCORIS keeps a kernel flat beside the inputs
    return shape[:1] == wanted[:1] and math.prod(shape) == math.prod(wanted)


def _lora_shape(module: Any) -> tuple[int, ...]:
    core = module.down_model if module.mid_model is None else module.mid_model
    return (module.up_model.weight.shape[0], module.down_model.weight.shape[1], *core.weight.shape[2:])


def _hada_shape(module: Any) -> tuple[int, ...]:
    if module.t1 is not None:
        return (module.w1a.shape[1], module.w1b.shape[1], *module.t1.shape[2:])
    return (module.w1a.shape[0], *module.w1b.shape[1:])


def _lokr_shape(module: Any) -> tuple[int, ...]:
    first = (module.w1a.shape[0], module.w1b.shape[1]) if module.w1 is None else module.w1.shape
    if module.w2 is not None:
        second = module.w2.shape
    elif module.t2 is not None:
        second = (module.w2a.shape[1], module.w2b.shape[1], *module.t2.shape[2:])
    else:
        second = (module.w2a.shape[0], *module.w2b.shape[1:])
    return (first[0] * second[0], first[1] * second[1], *second[2:])


def _refuse_misfit(net: Any, field: str) -> None:
    """Raises:
        OMGError: nothing of the file fits the loaded model, or only what other families share with it.
    """
    disk = net.network_on_disk
    if not net.modules and not net.bundle_embeddings:
        raise _nothing_fits(disk, shapes_of(disk), field)
    if not any(name.startswith(UNET_PREFIX) for name in net.modules):
        shapes = shapes_of(disk)
        if is_for_another(shapes, disk.metadata or {}, loaded_architecture()):
            raise _nothing_fits(disk, shapes, field)


def _nothing_fits(disk: Any, shapes: Shapes, field: str) -> OMGError:
    """Why the Lora extension found nothing in a file that belongs to the loaded model's UNet."""
    made_for, loaded = architecture_of(shapes, disk.metadata or {}), loaded_architecture()
    is_ours = is_network(shapes) and made_for == loaded
    if (is_ours or made_for is None) and has_diffusers_keys(shapes):
        return OMGError(field, f"the LoRA {disk.name} has diffusers' key names, which the web UI does not read (in the "
                               "main prompt it silently does nothing); convert it to kohya's with diffusers' script "
                               "convert_diffusers_sdxl_lora_to_webui.py")
    if is_ours:
        return OMGError(field, f"the LoRA {disk.name} has key names that the web UI does not read, such as "
                               f"{next(iter(shapes))!r} (in the main prompt it silently does nothing); look for it in "
                               "kohya's format")
    return wrong_architecture(field, disk.name, shapes, disk.metadata or {}, loaded)
