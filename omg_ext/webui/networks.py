"""The web UI's bundled Lora extension as a source of row-wise networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import networks as lora
import safetensors
import torch
from modules import sd_models, shared
from network_lora import NetworkModuleLora
from torch import Tensor, nn
from torch.nn.functional import pad

from ..errors import OMGError
from ..request.architecture import wrong_architecture
from ..request.tags import Tag
from ..unet.deltas import Delta, DeltaSum, LowRankDelta, WeightDelta

UNET_PREFIX = "diffusion_model_"


def refuse_unknown(tags: Sequence[Tag], field: str) -> None:
    """Raises:
        OMGError: a tag names no file.
    """
    for tag in tags:
        if _on_disk(tag.name) is None:
            lora.update_available_networks_by_names([tag.name])
        if _on_disk(tag.name) is None:
            raise OMGError(field, f"there is no LoRA {tag.name!r} in {shared.cmd_opts.lora_dir}")


def _on_disk(name: str) -> Any:
    """As the Lora extension looks a name up: by alias, unless the alias is ambiguous."""
    ambiguous = name.lower() in lora.forbidden_network_aliases
    return (lora.available_networks if ambiguous else lora.available_network_aliases).get(name)


@contextmanager
def activated(tags: Sequence[Tag], field: str) -> Iterator[list[Any]]:
    """The global prompt's networks and the concept's are the web UI's active ones within the block.

    Yields the concept's networks as loaded, one per tag, with their own multipliers.

    Raises:
        OMGError: a file cannot be read.
    """
    before = [Tag(net.name, net.te_multiplier, net.unet_multiplier, net.dyn_dim) for net in lora.loaded_networks]
    # one file in both prompts is one cached network with one multiplier, so its weights are added up
    wanted = {tag.name: tag for tag in before}
    for tag in tags:
        known = wanted.get(tag.name)
        wanted[tag.name] = tag if known is None else tag._replace(te=tag.te + known.te, unet=tag.unet + known.unet)
    try:
        _load(list(wanted.values()))
        loaded = {net.name: net for net in lora.loaded_networks}
        yield [_with_multipliers(_loaded(loaded, tag, field), tag) for tag in tags]
    finally:
        _load(before)


def _load(tags: Sequence[Tag]) -> None:
    lora.load_networks([tag.name for tag in tags], [tag.te for tag in tags], [tag.unet for tag in tags],
                       [tag.dyn for tag in tags])


def _loaded(loaded: dict[str, Any], tag: Tag, field: str) -> Any:
    if tag.name not in loaded:
        raise OMGError(field, f"the LoRA {tag.name} could not be read; the file is broken or of an unknown kind")
    return loaded[tag.name]


def _with_multipliers(net: Any, tag: Tag) -> Any:
    """A copy that shares the weights: the Lora extension keeps multipliers on the cached network itself."""
    own = copy.copy(net)
    own.te_multiplier, own.unet_multiplier, own.dyn_dim = tag.te, tag.unet, tag.dyn
    own.modules = {}
    for name, module in net.modules.items():
        own.modules[name] = copy.copy(module)
        own.modules[name].network = own
    return own


def unet_deltas(nets: Sequence[Any], field: str) -> dict[nn.Module, Delta]:
    """What one concept's networks do to the UNet. The global prompt's networks must be the active ones.

    Raises:
        OMGError: a network was made for another architecture.
    """
    by_layer: dict[str, list[Any]] = {}
    for net in nets:
        if not net.modules:
            raise _wrong_architecture(net, field)
        for name, module in net.modules.items():
            if name.startswith(UNET_PREFIX) and net.unet_multiplier:
                by_layer.setdefault(name, []).append(module)
    deltas: dict[nn.Module, Delta] = {}
    for name, modules in by_layer.items():
        layer = shared.sd_model.network_layer_mapping[name]
        lora.network_apply_weights(layer)  # brings in the global prompt's networks now, as a forward call would
        if all(_is_low_rank(module) for module in modules):
            parts = [_low_rank(module, layer, field) for module in modules]
            deltas[layer] = parts[0] if len(parts) == 1 else DeltaSum(parts)
        else:
            deltas[layer] = _in_full(modules, layer, field)
    return deltas


def add_hashes(p: Any, nets: Sequence[Any]) -> None:
    """Into the infotext's "Lora hashes", by which model sites recognise what a picture was made with."""
    if not shared.opts.lora_add_hashes_to_infotext:
        return
    for net in nets:
        if net.network_on_disk.shorthash and net.mentioned_name:
            name = net.mentioned_name.translate(lora.extra_network_lora.remove_symbols)
            p.lora_hashes[name] = net.network_on_disk.shorthash
    if p.lora_hashes:
        p.extra_generation_params["Lora hashes"] = ", ".join(": ".join(item) for item in p.lora_hashes.items())


def _weight(layer: Any) -> Tensor:
    """The layer's weight; in half precision where the web UI keeps it in fp8."""
    half = getattr(layer, "fp16_weight", None)
    return layer.weight if half is None else half


def _is_low_rank(module: Any) -> bool:
    return isinstance(module, NetworkModuleLora) and module.dora_scale is None and module.bias is None


def _low_rank(module: NetworkModuleLora, layer: nn.Module, field: str) -> Delta:
    down, up = module.down_model.weight, module.up_model.weight
    mid = None if module.mid_model is None else module.mid_model.weight
    dyn = module.network.dyn_dim
    if dyn is not None and mid is None:
        down, up = down[:dyn], up[:, :dyn]
    shape = _weight(layer).shape
    if isinstance(layer, nn.Conv2d) and shape[1] == 9 and down.shape[1] == 4:
        down = pad(down, (0, 0, 0, 0, 0, 5))  # an inpainting checkpoint's first layer, as the Lora extension does
    kernel = (down if mid is None else mid).shape[2:]
    if (up.shape[0], down.shape[1], *kernel) != tuple(shape):
        raise _wrong_architecture(module.network, field)
    return LowRankDelta(down, up, module.multiplier() * module.calc_scale(), mid)


def _in_full(modules: Sequence[Any], layer: nn.Module, field: str) -> Delta:
    """All networks of a layer in their order, since DoRA, OFT, IA3 and GLora depend on the weight they find."""
    weight = _weight(layer)
    total = torch.zeros_like(weight, dtype=torch.float32)
    bias: Tensor | None = None
    for module in modules:
        try:
            change, bias_change = module.calc_updown((weight.to(total) + total).to(weight))
            if change.dim() == 4 and weight.shape[1] == 9 and change.shape[1] == 4:
                change = pad(change, (0, 0, 0, 0, 0, 5))
            total = total + change.reshape(weight.shape)
        except RuntimeError:
            raise _wrong_architecture(module.network, field) from None
        if bias_change is not None:
            bias = bias_change if bias is None else bias + bias_change
    return WeightDelta(total, bias)


def _wrong_architecture(net: Any, field: str) -> OMGError:
    path = net.network_on_disk.filename
    if net.network_on_disk.is_safetensors:
        with safetensors.safe_open(path, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in list(file.keys())}
    else:
        shapes = {key: tuple(value.shape) for key, value in sd_models.read_state_dict(path).items()}
    model = shared.sd_model
    loaded = "SDXL" if model.is_sdxl else "SD 2.x" if model.is_sd2 else "SD 1.x"
    return wrong_architecture(field, net.name, shapes, net.network_on_disk.metadata or {}, loaded)
