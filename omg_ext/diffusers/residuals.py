"""ControlNets that act on some rows of a UNet's calls: what they add to its skip connections and its middle block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from diffusers import ControlNetModel
from torch import Tensor, nn

from ..faces.base import ConceptFace
from ..unet.calls import RegionalCall, UNetCall, Which, select
from ..unet.image_prompts import COND, UNCOND
from ..unet.patches import Args, Kwargs, Patches
from ..unet.regions import Regions

_CONTEXT, _POOLED = "encoder_hidden_states", "text_embeds"
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


@dataclass(frozen=True, eq=False)
class IdentityControl:
    """InstantID's ControlNet on the rows of concepts in whose place a face was found.

    It attends to the tokens of the concept's face, not to a prompt. In a row of all concepts it is asked for each
    concept by itself, and acts in that one's place: ``sum_i M_i r_i``.

    Attributes:
        model: as in :class:`RowControl`.
        faces: of each concept.
        pictures: of key points, by picture of the batch and concept: [channels, H, W], in its type and on its device.
        regions: M_i; None if concepts have rows of their own.
    """

    model: ControlNetModel
    faces: Sequence[ConceptFace | None]
    pictures: Mapping[tuple[int, int], Tensor]
    regions: Regions | None

    def acts_in(self, call: UNetCall) -> bool:
        """See :class:`RowControl`."""
        return any(self._rows(call, concept) for concept in range(len(self.faces)))

    def residuals(self, call: UNetCall, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> list[Tensor]:
        """See :class:`RowControl`."""
        sums: list[Tensor] = []
        # one concept after the other: so the rows of one do not hang on the others, not even by rounding, and there are
        # no more of them at once than the UNet has
        for concept in range(len(self.faces)):
            rows = self._rows(call, concept)
            each = self._of_concept(call, concept, rows, *select([x, t, cond], rows)) if rows else []
            sums = sums or [residual.new_zeros(len(call.rows), *residual.shape[1:]) for residual in each]
            for total, residual in zip(sums, each, strict=bool(each)):
                maps = None if self.regions is None else self.regions.of_concepts(call, total)[:, concept].unsqueeze(1)
                for own, row in zip(residual, rows, strict=True):
                    total[row] += own if maps is None else own * maps[row]
        return sums

    def _of_concept(self, call: UNetCall, concept: int, rows: Sequence[int], x: Tensor, t: Tensor,
                    cond: Mapping[str, Tensor]) -> list[Tensor]:
        """Its residuals in some rows of the call, of which the inputs are."""
        face, chosen = self.faces[concept], [call.rows[row] for row in rows]
        assert face is not None
        own = {**cond, _CONTEXT: torch.stack([face.tokens[UNCOND if row.part is None else COND] for row in chosen])}
        if isinstance(call, RegionalCall) and call.pooled:
            own[_POOLED] = torch.stack([call.pooled[row, concept] for row in chosen])
        pictures = torch.stack([self.pictures[row.picture, concept] for row in chosen])
        return asked(self.model, x, t, own, pictures, face.scales[call.step])

    def _rows(self, call: UNetCall, concept: int) -> list[int]:
        """A concept's rows in which it is asked, or those of all concepts in which this one has a place."""
        face = self.faces[concept]
        if face is None or not face.scales or not face.scales[call.step]:
            return []
        rows = ([place.row for place in call.places if place.concept == concept] if isinstance(call, RegionalCall)
                else [number for number, row in enumerate(call.rows) if row.concept == concept])
        return [row for row in rows
                if (call.rows[row].picture, concept) in self.pictures and not call.rows[row].is_bare]


def asked(model: ControlNetModel, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], pictures: Tensor,
          scale: float = 1.0, guesses: bool = False) -> list[Tensor]:
    """What a ControlNet adds to each skip connection and, at last, to the middle block, in the type of ``x``.

    Args:
        x, t, cond: the UNet's inputs; ControlNets are asked in their own type.
        pictures: what it is shown in each row, [n, channels, H, W].
        scale, guesses: see :class:`RowControl`.
    """
    kind = model.dtype
    added = {name: tensor.to(kind) for name, tensor in cond.items() if name != _CONTEXT}
    down, middle = model(
        x.to(kind), t, encoder_hidden_states=cond[_CONTEXT].to(x.device, kind), controlnet_cond=pictures,
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
        cond = {_CONTEXT: kwargs[_CONTEXT], **(kwargs["added_cond_kwargs"] or {})}
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
