"""What an IdentityNet says, added to Forge's UNet where that takes what its ControlNets say."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..unet.calls import UNetCall
from ..unet.patches import Args, Kwargs, Patches
from ..webui.residuals import Residuals

OPTIONS, PATCHES, SKIPS = "transformer_options", "patches", "output_block_patch"


class ForgeResiduals(Residuals):
    """See :class:`omg_ext.webui.residuals.Residuals`. Other extensions (FreeU) change the sum, as with ControlNets."""

    def _reach_skips(self, patches: Patches, unet: Any) -> None:
        """Each call says for itself, see :meth:`_enter`."""

    def _enter(self, call: UNetCall, unet: nn.Module, args: Args, kwargs: Kwargs) -> tuple[UNetCall, Args, Kwargs]:
        call, args, kwargs = super()._enter(call, unet, args, kwargs)
        patches = kwargs[OPTIONS].get(PATCHES, {})
        own = {**patches, SKIPS: [self._patch, *patches.get(SKIPS, ())]}
        return call, args, {**kwargs, OPTIONS: {**kwargs[OPTIONS], PATCHES: own}}

    def _patch(self, h: Tensor, skip: Tensor, options: Any) -> tuple[Tensor, Tensor]:
        self._add_next(skip)
        return h, skip
