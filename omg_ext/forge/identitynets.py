"""IdentityNets in Forge: of its own layers, whose weights its memory management moves, and casts when they are used."""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from backend import memory_management
from backend.nn.unet import timestep_embedding
from backend.operations import using_forge_operations
from backend.patcher.base import ModelPatcher
from modules import shared
from torch import Tensor

from ..unet.identity import Ask, IdentityControl
from ..unet.patches import Patches
from ..webui.identitynet import IdentityNet, read
from .residuals import ForgeResiduals


class ForgeIdentityNets:
    """See :class:`omg_ext.webui.identitynet.IdentityNets`.

    Forge finds room for one when it is asked, as it does for ControlNets of its own; it does not join their chain,
    which acts on all rows.
    """

    def __init__(self) -> None:
        self._own: Any = None

    @property
    def unet(self) -> Any:
        return _patcher().model.diffusion_model

    @property
    def kind(self) -> Hashable:
        return repr(dict(self.unet.config)), memory_management.unet_dtype(), _patcher().model.computation_dtype

    def read(self, path: Path, field: str) -> IdentityNet:
        stored, calculated = memory_management.unet_dtype(), _patcher().model.computation_dtype  # as its ControlNets
        # of torch's own layers, which refuse what does not fit; Forge's do not
        plain = read(path, field, self._untrained, timestep_embedding, stored)
        weights = plain.state_dict()
        with using_forge_operations(device=memory_management.cpu, dtype=stored,
                                    manual_cast_enabled=stored != calculated):
            net = IdentityNet(self._untrained(plain.channels), {name: each.shape for name, each in weights.items()},
                              timestep_embedding, calculated)
        net.load_state_dict(weights, assign=True)
        return net.eval().requires_grad_(False)

    def at_work(self, net: IdentityNet) -> Ask:
        if self._own is None:
            unet = _patcher()
            self._own = ModelPatcher(net, load_device=unet.load_device, offload_device=unet.offload_device)
            # Forge would keep what it has loaded, though nobody can ask it any more
            weakref.finalize(self, _forget, self._own)
        own = self._own

        def ask(x: Tensor, t: Tensor, cond: Mapping[str, Tensor], pictures: Tensor, scale: float) -> list[Tensor]:
            _make_room(own, x)
            return net.ask(x, t, cond, pictures, scale)

        return ask

    def act(self, patches: Patches, control: IdentityControl) -> None:
        ForgeResiduals(patches, control)

    def rest(self, net: IdentityNet, is_kept: bool) -> None:
        if is_kept:
            _unload(self._own)

    def _untrained(self, channels: int) -> Any:
        return type(self.unet).from_config({**self.unet.config, "in_channels": channels})


def _patcher() -> Any:
    """Of the loaded checkpoint's UNet, as it is at present."""
    return shared.sd_model.forge_objects.unet


def _make_room(own: Any, x: Tensor) -> None:
    """Have Forge load an IdentityNet, if it is not loaded or another model has taken its room.

    Args:
        own: its patcher.
        x: what the UNet, which is at work, was given.
    """
    if any(each.model is own for each in memory_management.current_loaded_models):
        return
    unet = _patcher()
    controls = unet.controlnet_linked_list.get_models() if unet.controlnet_linked_list else []
    # what is at work, too, so that it keeps its room
    models = [*dict.fromkeys([unet, *unet.extra_model_patchers_during_sampling, *controls, own])]
    memory_management.load_models_gpu(models, memory_required=unet.memory_required(x.shape))


def _forget(own: Any) -> None:
    """Have Forge forget an IdentityNet, whose memory is then free at once if it is not kept."""
    _unload(own)
    vars(own.model).pop("lora_loader", None)  # which holds it, too


def _unload(own: Any) -> None:
    """Have Forge put it back into host memory."""
    loaded = memory_management.current_loaded_models
    for number in reversed(range(len(loaded))):
        if loaded[number].model is own:
            loaded.pop(number).model_unload()
