"""ControlNets that act on some rows of a UNet's calls: what they add to its skip connections and its middle block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from ..unet.calls import UNetCall, Which, select
from ..unet.identity import IdentityControl
from ..unet.patches import Args, Kwargs, Patches

CONTEXT, POOLED = "encoder_hidden_states", "text_embeds"
_DOWN, _MIDDLE = "down_block_additional_residuals", "mid_block_additional_residual"


@dataclass(frozen=True, eq=False)
class RowControl:
    """One ControlNet, and the rows that it acts on.

    Attributes:
        model: it is asked in its own type and answers in the UNet's.
        pictures: what it is shown, one for each of the batch: [B, channels, H, W], in its type and on its device.
        scales: of its residuals, one for each step of the sampler; at 0 it is not asked.
        which: the rows it acts on. The others are as if it were not there.
        guesses: deeper residuals count more, see diffusers' ``guess_mode``.
    """

    model: ControlNetModel
    pictures: Tensor
    scales: Sequence[float]
    which: Which
    guesses: bool = False

    def acts_in(self, call: UNetCall) -> bool:
        """Whether it has anything to say in a call."""
        return self.scales[call.step] != 0 and bool(call.runs(self.which))

    def residuals(self, call: UNetCall, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> list[Tensor]:
        """What it adds to each skip connection and, at last, to the middle block: zeros in rows it does not act on.

        Args:
            x, t, cond: the UNet's inputs, with the call's rows.
        """
        runs = call.runs(self.which)
        rows = [index for run in runs for index in range(run.start, run.stop)]
        own_x, own_t, own = select([x, t, cond], rows)
        pictures = select(self.pictures, [call.rows[index].picture for index in rows])
        each = asked(self.model, own_x, own_t, own, pictures, self.scales[call.step], self.guesses)
        return [_placed(residual, runs, len(call.rows)) for residual in each]


def asked(model: ControlNetModel, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], pictures: Tensor,
          scale: float = 1.0, guesses: bool = False) -> list[Tensor]:
    """What a ControlNet adds to each skip connection and, at last, to the middle block, in the type of ``x``.

    Args:
        x, t, cond: the UNet's inputs; ControlNets are asked in their own type.
        pictures: what it is shown in each row, [n, channels, H, W].
        scale, guesses: see :class:`RowControl`.
    """
    kind = model.dtype
    added = {name: tensor.to(kind) for name, tensor in cond.items() if name != CONTEXT}
    down, middle = model(
        x.to(kind), t, encoder_hidden_states=cond[CONTEXT].to(x.device, kind), controlnet_cond=pictures,
        conditioning_scale=scale, guess_mode=guesses, added_cond_kwargs=added or None, return_dict=False)
    return [residual.to(x.dtype) for residual in (*down, middle)]


class RowControls:
    """Lets ControlNets act on a UNet while its hooks live; what several of them add is summed.

    They are asked within the UNet's calls, of just the rows that these have, so that calls in parts, rows that repeat
    the first pass and those of concepts need nothing of their own.
    """

    def __init__(self, patches: Patches, controls: Sequence[RowControl | IdentityControl]):
        self._controls = controls
        patches.around(patches.network, self._enter, _as_it_is)

    def _enter(self, call: UNetCall, unet: nn.Module, args: Args, kwargs: Kwargs) -> tuple[UNetCall, Args, Kwargs]:
        x, t = args
        cond = {CONTEXT: kwargs[CONTEXT], **(kwargs["added_cond_kwargs"] or {})}
        each = [control.residuals(call, x, t, cond) for control in self._controls if control.acts_in(call)]
        if not each:
            return call, args, kwargs
        if kwargs.get(_DOWN) is not None:  # of other controls
            each.append([*kwargs[_DOWN], kwargs[_MIDDLE]])
        *down, middle = (reduce(torch.add, summands) for summands in zip(*each, strict=True))
        return call, args, {**kwargs, _DOWN: down, _MIDDLE: middle}


def _as_it_is(call: UNetCall, inner: UNetCall, unet: nn.Module, args: Args, kwargs: Kwargs, output: Tensor) -> Tensor:
    return output


def _placed(residual: Tensor, runs: Sequence[slice], count: int) -> Tensor:
    """The rows of some runs among ``count`` rows, the others zeros."""
    if len(residual) == count:
        return residual
    whole = residual.new_zeros(count, *residual.shape[1:])
    for run, rows in zip(runs, residual.split([run.stop - run.start for run in runs]), strict=True):
        whole[run] = rows
    return whole
