"""IdentityNets in AUTOMATIC1111's web UI, whose SDXL UNet is sgm's."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import torch
from modules import devices, lowvram, shared
from omegaconf import OmegaConf
from sgm.modules.diffusionmodules.util import timestep_embedding
from torch import nn

from ..unet.identity import Ask, IdentityControl
from ..unet.patches import Patches
from .identitynet import IdentityNet, read
from .residuals import Residuals


class SgmIdentityNets:
    """See :class:`.identitynet.IdentityNets`. One is on the graphics card while it acts and, if the web UI does not
    have to spare its memory, until the next press of Generate."""

    @property
    def unet(self) -> nn.Module:
        unet: nn.Module = shared.sd_model.model.diffusion_model
        return unet

    @property
    def kind(self) -> Hashable:
        return shared.sd_model.used_config, devices.dtype_unet

    def read(self, path: Path, field: str) -> IdentityNet:
        return read(path, field, _untrained_unet, timestep_embedding, devices.dtype_unet)

    def at_work(self, net: IdentityNet) -> Ask:
        try:
            net.to(devices.device)
        except torch.cuda.OutOfMemoryError:
            net.to(devices.cpu)  # some of it was there already
            raise
        return net.ask

    def act(self, patches: Patches, control: IdentityControl) -> None:
        Residuals(patches, control)

    def rest(self, net: IdentityNet, is_kept: bool) -> None:
        if is_kept or lowvram.is_enabled(shared.sd_model):
            net.to(devices.cpu)


def _untrained_unet(channels: int) -> Any:
    network = OmegaConf.load(shared.sd_model.used_config).model.params.network_config
    options: Any = OmegaConf.to_container(network.params, resolve=True)
    return type(shared.sd_model.model.diffusion_model)(**{**options, "in_channels": channels})
