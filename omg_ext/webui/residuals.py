"""What an IdentityNet says, added to skip connections and middle block of a web UI's UNet."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..unet.calls import UNetCall
from ..unet.identity import IdentityControl
from ..unet.patches import Args, Kwargs, Patches

_NAMES = ("x", "timesteps", "context", "y")


class Residuals:
    """Lets an IdentityNet act on a UNet while its hooks live.

    The UNet has no inputs for it, so the middle block's output and the skip half of what the output blocks get are
    changed: also where sd-webui-controlnet's ``forward`` stands in for the UNet's. For a reference picture that one
    evaluates the UNet once more, as another call, in which IdentityNet does not act.

    Args:
        patches: the UNet's.
    """

    def __init__(self, patches: Patches, control: IdentityControl):
        self._control = control
        self._call: UNetCall | None = None
        self._left: list[Tensor] = []  # of that call, the next one last
        unet: Any = patches.network
        patches.around(unet, self._enter, _as_it_is)
        patches.on_output(unet.middle_block, self._add_to_middle)
        self._reach_skips(patches, unet)

    def _reach_skips(self, patches: Patches, unet: Any) -> None:
        for block in unet.output_blocks:
            patches.on_input(block, self._add_to_skip)

    def _enter(self, call: UNetCall, unet: nn.Module, args: Args, kwargs: Kwargs) -> tuple[UNetCall, Args, Kwargs]:
        given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
        x, t, *cond = (given[name] for name in _NAMES)
        self._call, self._left = call, []
        if self._control.acts_in(call):
            self._left = self._control.residuals(call, x, t, dict(zip(_NAMES[2:], cond, strict=True)))
        return call, args, kwargs

    def _add_to_middle(self, call: UNetCall, block: nn.Module, args: Args, output: Tensor) -> None:
        self._add(call, output)

    def _add_to_skip(self, call: UNetCall, block: nn.Module, args: Args) -> None:
        self._add(call, args[0])

    def _add(self, call: UNetCall, maps: Tensor) -> None:
        if call is self._call:
            self._add_next(maps)

    def _add_next(self, maps: Tensor) -> None:
        """To the last channels of feature maps, which others may have scaled (Kohya Hires.fix)."""
        if self._left:
            residual = self._left.pop()
            own = maps[:, -residual.shape[1]:]
            own += residual if own.shape == residual.shape else interpolate(residual, own.shape[2:], mode="nearest")


def _as_it_is(call: UNetCall, inner: UNetCall, unet: nn.Module, args: Args, kwargs: Kwargs, output: Tensor) -> Tensor:
    return output
