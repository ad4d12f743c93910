"""What every way of prediction takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..host import ConceptConditioning, Evaluate, Guidance, Guided, Host, LoadedConcept
from ..request import Concept
from ..unet.calls import Row, join, select
from ..unet.evaluator import Evaluator

LEAD = 4.0
"""See :class:`Cast`. Likeness is decided early: guidance that falls gives more of it than one that stays (measured).
Strong guidance is found useful between high and low noise (Kynkäänniemi et al. 2024, arXiv 2404.07724), which is where
concepts step in."""


class GlobalCall(NamedTuple):
    """An evaluation of global rows that the host has just made; x, t and cond have these rows."""

    evaluate: Evaluate
    x: Tensor
    t: Tensor
    cond: Any
    rows: tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class Point:
    """Where the trajectory stands: what the UNet was asked for each of B pictures.

    Attributes:
        calls: the global rows of one denoiser call; together they have a row of each picture.
        step: the host's number of the step.
        progress: as in :class:`omg_ext.unet.calls.UNetCall`.
    """

    calls: Sequence[GlobalCall]
    step: int
    progress: float

    @property
    def evaluate(self) -> Evaluate:
        """The host's UNet."""
        return self.calls[0].evaluate

    @property
    def grid(self) -> tuple[int, int]:
        """As in :class:`omg_ext.unet.calls.UNetCall`."""
        x = self.calls[0].x
        return x.shape[-2], x.shape[-1]

    def inputs(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor, Any]:
        """What the UNet took for global rows: latents [n, C, h, w], timesteps [n] and the host's conditioning.

        In place of a row that was not asked for stands another of its picture: the last part of its prompt, if there
        is any. What no prompt decides is the same in all of them.
        """
        sources = [self._sources[row] for row in rows]
        x, t, cond = [], [], []
        for number, group in groupby(sources, key=lambda source: source[0]):
            call, indices = self.calls[number], [index for _, index in group]
            x.append(select(call.x, indices))
            t.append(select(call.t, indices))
            cond.append(select(call.cond, indices))
        return join(x), join(t), join(cond)

    def source(self, row: Row) -> int:
        """The number of the call in which a global row was asked for."""
        return self._sources[row][0]

    @cached_property
    def _sources(self) -> _Sources:
        return _Sources((row, (number, index)) for number, call in enumerate(self.calls)
                        for index, row in enumerate(call.rows))


class _Sources(dict[Row, tuple[int, int]]):
    """The number of the call, and of the row in it, by row."""

    def __missing__(self, row: Row) -> tuple[int, int]:
        own = [other for other in self if other.picture == row.picture]
        return self[max(own, key=lambda other: -1 if other.part is None else other.part)]


class Predict(Protocol):
    """A way to predict the concepts' noise (Eq. 5), each after its own guidance."""

    def __call__(self, point: Point, plain: Guided, guidance: Guidance) -> Guided:
        """[K, B, C, h, w] each; zeros where a concept has no part in a picture.

        Args:
            plain: the global prediction, [B, C, h, w].

        Raises:
            torch.cuda.OutOfMemoryError: not even one row fits into graphics memory.
        """
        ...


@dataclass(frozen=True, eq=False)
class Cast:
    """The concepts of one pass, and how their rows are evaluated.

    Attributes:
        host: puts conditioning into the form that its UNet takes.
        evaluator: for concepts' rows; their networks act on them.
        wishes: what the request says of them.
        concepts: loaded.
        pictures: for each concept, the pictures of the batch it has a mask in.
        blend_start: the initiation timestep as a fraction of the trajectory.
        lead: how much more guidance than the picture a concept has at the initiation timestep if it asks for none.
        is_controlled: whether spatial conditions of the picture act on concepts' rows. If not, the picture's
            unconditional prediction is no base for them: guidance would lead away from these conditions.
    """

    host: Host
    evaluator: Evaluator
    wishes: Sequence[Concept]
    concepts: Sequence[LoadedConcept]
    pictures: Sequence[Sequence[int]]
    blend_start: float
    lead: float = 1.0
    is_controlled: bool = True

    def shares_uncond(self, part: Part, is_guided: bool) -> bool:
        """Whether a concept can do with the picture's unconditional prediction.

        Args:
            is_guided: whether the picture has one.
        """
        is_alike = self.is_controlled and self.wishes[part.index].negative_prompt is None
        return part.scale is None or (is_guided and is_alike)

    def at(self, point: Point, guidance: Guidance) -> list[Part]:
        """Each concept's part in one denoiser call."""
        return [Part(index, concept.conditioning(point.step), concept.bare(point.step), self.pictures[index],
                     self._scale(wish, point.progress, guidance), wish.lora_guidance if concept.has_networks else 0.0)
                for index, (concept, wish) in enumerate(zip(self.concepts, self.wishes, strict=True))]

    def _scale(self, wish: Concept, progress: float, guidance: Guidance) -> float | None:
        if wish.cfg_scale is not None:
            return guidance.scale(scale_at(wish.cfg_scale, progress, self.blend_start))
        of_picture, lead = guidance.scale(None), scale_at((self.lead, 1.0), progress, self.blend_start)
        # what is beyond 1 is guidance
        return None if of_picture is None or lead is None else 1 + (of_picture - 1) * lead


@dataclass(frozen=True, eq=False)
class Part:
    """One concept in one denoiser call.

    Attributes:
        index: which concept.
        conditioning: of its prompts.
        bare: the same without its networks in the text encoder.
        pictures: those it has a mask in.
        scale: its guidance scale; None is to do without unconditional rows.
        lora_guidance: w.
    """

    index: int
    conditioning: ConceptConditioning
    bare: ConceptConditioning
    pictures: Sequence[int]
    scale: float | None
    lora_guidance: float

    def parts(self, picture: int) -> Sequence[tuple[int, float]]:
        """The rows of ``conditioning`` that make up its prompt in a picture, with their weights."""
        return self.conditioning.parts[picture]

    def rows(self, concept: int) -> list[list[Row]]:
        """By picture the conditional rows, one for each part of its prompt.

        Args:
            concept: what the rows say of whose they are: its number, or that of the joint row.
        """
        return [[Row(picture, concept, number) for number in range(len(self.parts(picture)))]
                for picture in self.pictures]

    def asked(self, concept: int, uncond: Sequence[Row]) -> list[Row]:
        """All rows to evaluate, with those without networks if there is LoRA guidance; arguments as :meth:`guided`."""
        cond = [row for of_picture in self.rows(concept) for row in of_picture]
        return [*cond, *uncond, *([_bare(row) for row in cond] if self.lora_guidance else [])]

    def guided(self, outputs: Mapping[Row, Tensor], concept: int, uncond: Sequence[Row], plain_uncond: Tensor,
               guidance: Guidance) -> Guided:
        """``u + s sum_j w_j (c_j - u) + w sum_j w_j (c_j - b_j)`` in its pictures, [n, C, h, w].

        Args:
            outputs: predictions of :meth:`asked`: c_j, u and b_j, [C, h, w] each.
            concept: as :meth:`rows`.
            uncond: the rows of u, one for each picture; none takes the picture's.
            plain_uncond: the picture's, [B, C, h, w].
        """
        rows = self.rows(concept)
        if self.scale is None:
            uncond = [of_picture[0] for of_picture in rows]  # it stands in, and the scale is 1, as in the web UI
        base = torch.stack([outputs[row] for row in uncond] or [plain_uncond[picture] for picture in self.pictures])
        weights = [[weight for _, weight in self.parts(picture)] for picture in self.pictures]
        starts = accumulate(map(len, weights), initial=0)
        numbered = [[(start + number, weight) for number, weight in enumerate(of_picture)]
                    for start, of_picture in zip(starts, weights, strict=False)]
        cond = torch.stack([outputs[row] for of_picture in rows for row in of_picture])
        prediction = guidance.guide(cond, numbered, base, 1.0 if self.scale is None else self.scale, self.pictures)
        for number, of_picture in enumerate(rows if self.lora_guidance else ()):
            for weight, row in zip(weights[number], of_picture, strict=True):
                prediction[number] += self.lora_guidance * weight * (outputs[row] - outputs[_bare(row)])
        return Guided(prediction, base)


def _bare(row: Row) -> Row:
    return row._replace(is_bare=True)


def gathered(parts: Sequence[Part], predictions: Sequence[Guided | None], like: Tensor) -> Guided:
    """The concepts' predictions in their pictures as [K, B, C, h, w].

    Args:
        predictions: one of each part; None if the concept is in no picture.
        like: [B, C, h, w].
    """
    shape = (len(parts), *like.shape)
    whole = Guided(like.new_zeros(shape), like.new_zeros(shape))
    for part, prediction in zip(parts, predictions, strict=True):
        if prediction is not None:
            for ours, theirs in zip(whole, prediction, strict=True):
                for number, picture in enumerate(part.pictures):
                    ours[part.index, picture] = theirs[number]
    return whole


def scale_at(cfg_scale: float | tuple[float, ...] | None, progress: float, blend_start: float) -> float | None:
    """A concept's guidance scale at a point of the trajectory: of a pair, from one to the other while it is blended."""
    if not isinstance(cfg_scale, tuple):
        return cfg_scale
    share = (progress - blend_start) / (1 - blend_start) if blend_start < 1 else 0.0
    first, last = cfg_scale
    return first + (last - first) * min(max(share, 0.0), 1.0)


def of_equal_shape(rows: Sequence[Row], shape: Callable[[Row], Hashable]) -> Iterator[list[Row]]:
    """Rows of equal prompt length (75 tokens, 150, ...) together, in the order given."""
    by_shape: dict[Hashable, list[Row]] = {}
    for row in rows:
        by_shape.setdefault(shape(row), []).append(row)
    yield from by_shape.values()
