"""What an IdentityNet says, added to skip connections and middle block of the web UI's UNet."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..unet.calls import UNetCall
from ..unet.identity import IdentityControl
from ..unet.patches import Args, Kwargs, Patches

_NAMES = ("x", "timesteps", "context", "y")


class Residuals:
    """Lets an IdentityNet act on a UNet while its hooks live.

    The UNet has no inputs for it, so the middle block's output and the skip half of what the output blocks get are
    changed: also where sd-webui-controlnet's ``forward`` stands in for the UNet's.

    Args:
        patches: the UNet's.
    """

    def __init__(self, patches: Patches, control: IdentityControl):
        self._control = control
        self._left: list[Tensor] = []  # of the running call, the next one last
        unet: Any = patches.network
        patches.around(unet, self._enter, _as_it_is)
        patches.on_output(unet.middle_block, self._add_to_middle)
        for block in unet.output_blocks:
            patches.on_input(block, self._add_to_skip)

    def _enter(self, call: UNetCall, unet: nn.Module, args: Args, kwargs: Kwargs) -> tuple[UNetCall, Args, Kwargs]:
        given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
        x, t, *cond = (given[name] for name in _NAMES)
        self._left = (self._control.residuals(call, x, t, dict(zip(_NAMES[2:], cond, strict=True)))
                      if self._control.acts_in(call) else [])
        return call, args, kwargs

    def _add_to_middle(self, call: UNetCall, block: nn.Module, args: Args, output: Tensor) -> None:
        if self._left:
            output += self._left.pop()

    def _add_to_skip(self, call: UNetCall, block: nn.Module, args: Args) -> None:
        if self._left:
            residual = self._left.pop()
            args[0][:, -residual.shape[1]:] += residual


def _as_it_is(call: UNetCall, inner: UNetCall, unet: nn.Module, args: Args, kwargs: Kwargs, output: Tensor) -> Tensor:
    return output
