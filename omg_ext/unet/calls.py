"""Who is who in a UNet call. Everything that OMG does acts on some rows of a UNet batch, and a row says what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import OMGError

JOINT = -1
"""In place of a concept's number: all concepts, each in its place"""


class Row(NamedTuple):
    """One latent with one conditioning.

    Attributes:
        picture: which one of the batch.
        concept: whose prompt conditions it; None is the global prompt, :data:`JOINT` those of all concepts.
        part: which part of that prompt (several with ``AND``); None is the negative prompt (unconditional).
        repeats_first: the row evaluates the first pass's latent once more, for its attention queries alone.
        is_bare: the concepts' networks do not act on it.
    """

    picture: int
    concept: int | None = None
    part: int | None = 0
    repeats_first: bool = False
    is_bare: bool = False


Which = Callable[[Row], bool]
"""Picks the rows that an intervention acts on. One function object for each purpose: its answers are kept."""


def every_row(row: Row) -> bool:
    return True


def is_global_cond(row: Row) -> bool:
    """The global prompt's conditional rows: those whose attention keeps the layout (Eq. 7)."""
    return row.concept is None and row.part is not None and not row.repeats_first


def repeats_first(row: Row) -> bool:
    return row.repeats_first


@dataclass(frozen=True, eq=False)
class UNetCall:
    """One evaluation of the UNet.

    Attributes:
        rows: what each row of the batch is.
        progress: fraction of the trajectory that lies behind, in model timesteps.
        grid: height and width of the latent.
        step: the host's number of the step, by which it schedules prompts.
    """

    rows: tuple[Row, ...]
    progress: float
    grid: tuple[int, int]
    step: int = 0
    _runs: dict[tuple[Which, int], tuple[slice, ...]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def kinds(self) -> tuple[tuple[int, bool], ...]:
        """Each row's picture, and whether it is bare: what concepts' places depend on."""
        return tuple((row.picture, row.is_bare) for row in self.rows)

    def runs(self, which: Which, batch: int = 0) -> tuple[slice, ...]:
        """Where the rows that ``which`` picks lie, in as few slices as possible.

        Args:
            batch: rows that a layer sees; 0 for the call's own. Tiling optimisations (HyperTile) cut every row into
                the same number of consecutive tiles, so it may be a multiple of the call's rows.

        Raises:
            OMGError: rows cannot be told apart in this layer.
        """
        batch = batch or len(self.rows)
        found = self._runs.get((which, batch))
        if found is None:
            tiles, rest = divmod(batch, len(self.rows))
            if rest or not tiles:
                raise OMGError("other extensions", (
                    f"a layer saw {batch} rows in a UNet call of {len(self.rows)}: another extension or setting "
                    "changes the batch inside the model, so that concepts cannot be told apart; those that rewrite "
                    "attention do this (NegPiP, reference-only ControlNet), turn them off for pictures with OMG"))
            found = tuple(slice(run.start * tiles, run.stop * tiles) for run in _runs_of(self.rows, which))
            self._runs[which, batch] = found
        return found

    def replaying(self, queries: Mapping[str, Tensor]) -> ReplayingCall:
        """The call with these queries for its global conditional rows."""
        return ReplayingCall(self.rows, self.progress, self.grid, self.step, queries=queries)

    def of_rows(self, rows: Sequence[Row]) -> UNetCall:
        """A call of other rows at the same point of the trajectory."""
        return UNetCall(tuple(rows), self.progress, self.grid, self.step)

    def select(self, indices: Sequence[int]) -> UNetCall:
        """The call with some of its rows."""
        return self.of_rows([self.rows[index] for index in indices])


@dataclass(frozen=True, eq=False)
class RecordingCall(UNetCall):
    """A call in which layers leave the attention queries (and keys) of the global conditional rows.

    Attributes:
        queries: by layer, as they come.
    """

    queries: dict[str, Tensor] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True, eq=False)
class ReplayingCall(UNetCall):
    """A call whose global conditional rows attend with other queries (and keys) than their own.

    Attributes:
        queries: by layer, the rows in the call's order.
    """

    queries: Mapping[str, Tensor] = field(kw_only=True)

    def select(self, indices: Sequence[int]) -> UNetCall:
        part = super().select(indices)
        numbers = {index: number for number, index in enumerate(
            index for index, row in enumerate(self.rows) if is_global_cond(row))}
        kept = [numbers[index] for index in indices if index in numbers]
        if not kept:
            return part
        # a layer may have seen every row in tiles, see runs()
        return part.replaying({name: select(tensor.unflatten(0, (len(numbers), -1)), kept).flatten(0, 1)
                               for name, tensor in self.queries.items()})


class Place(NamedTuple):
    """One concept's place in one row of a call.

    Attributes:
        row: the row's number.
        concept: whose.
    """

    row: int
    concept: int


@dataclass(frozen=True, eq=False)
class RegionalCall(UNetCall):
    """A call whose rows attend to a prompt of their own in each concept's place.

    Attributes:
        contexts: by row and concept what cross-attention attends to there, [tokens, width].
        pooled: by row and concept the pooled prompt, [width]; none in models without.
    """

    contexts: Mapping[tuple[Row, int], Tensor] = field(kw_only=True)
    pooled: Mapping[tuple[Row, int], Tensor] = field(kw_only=True)
    _prompts: dict[tuple[torch.dtype, torch.device], list[Prompts]] = field(
        default_factory=dict, init=False, repr=False)

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """All there are, those with prompts of equal length one behind the other, and of these a concept's."""
        numbers = {row: number for number, row in enumerate(self.rows)}
        own = [key for key in self.contexts if key[0] in numbers]
        own.sort(key=lambda key: (len(self.contexts[key]), key[1]))
        return tuple(Place(numbers[row], concept) for row, concept in own)

    @cached_property
    def acting(self) -> tuple[int, ...]:
        """For each place the concept whose networks act there; -1 if none do."""
        return _acting((self.rows[row], concept) for row, concept in self.places)

    def prompts(self, like: Tensor) -> list[Prompts]:
        """What consecutive :attr:`places` attend to, those of one length together; made once for all layers.

        Args:
            like: what the host gives cross-attention, whose type and device they get.
        """
        key = (like.dtype, like.device)
        if key not in self._prompts:
            alike = groupby(range(len(self.places)), key=lambda number: len(self._context(number)))
            self._prompts[key] = [self._together(list(group), like) for _, group in alike]
        return self._prompts[key]

    def _together(self, numbers: Sequence[int], like: Tensor) -> Prompts:
        places = [self.places[number] for number in numbers]
        call = PlacesCall(tuple(self.rows[place.row] for place in places), self.progress, self.grid, self.step,
                          concepts=tuple(place.concept for place in places))
        context = torch.stack([self._context(number) for number in numbers]).to(like)
        return Prompts(slice(numbers[0], numbers[-1] + 1), context, call)

    def _context(self, number: int) -> Tensor:
        row, concept = self.places[number]
        return self.contexts[self.rows[row], concept]

    def select(self, indices: Sequence[int]) -> UNetCall:
        return RegionalCall(tuple(self.rows[index] for index in indices), self.progress, self.grid, self.step,
                            contexts=self.contexts, pooled=self.pooled)


@dataclass(frozen=True, eq=False)
class PlacesCall(UNetCall):
    """An evaluation of one module of a :class:`RegionalCall`, with a row for each of some places.

    Attributes:
        concepts: whose place each row is.
    """

    concepts: tuple[int, ...] = field(kw_only=True)

    @cached_property
    def acting(self) -> tuple[int, ...]:
        """For each row the concept whose networks act on it; -1 if none do."""
        return _acting(zip(self.rows, self.concepts, strict=True))


class Prompts(NamedTuple):
    """Prompts of one length.

    Attributes:
        places: whose.
        context: [n, tokens, width].
        call: in which a row of each attends to them.
    """

    places: slice
    context: Tensor
    call: PlacesCall


def _acting(places: Iterable[tuple[Row, int]]) -> tuple[int, ...]:
    return tuple(-1 if row.is_bare else concept for row, concept in places)


def _runs_of(rows: Sequence[Row], which: Which) -> list[slice]:
    runs, start = [], 0
    for picked, group in groupby(rows, which):
        stop = start + len(list(group))
        if picked:
            runs.append(slice(start, stop))
        start = stop
    return runs


def select(value: Any, rows: Sequence[int]) -> Any:
    """Rows of a tensor, or of a host's conditioning: tensors in dicts and lists, rows first. Views where possible."""
    if isinstance(value, Mapping):
        return {name: select(item, rows) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [select(item, rows) for item in value]
    tensor: Tensor = value
    runs = _consecutive(rows)
    return tensor[runs[0]] if len(runs) == 1 else torch.cat([tensor[run] for run in runs])


def _consecutive(rows: Sequence[int]) -> list[slice]:
    """The numbers as slices. An index tensor would have to be sent to the device, which makes a GPU wait."""
    runs = [slice(0, 0)]
    for row in rows:
        if row == runs[-1].stop and runs[-1].stop > runs[-1].start:
            runs[-1] = slice(runs[-1].start, row + 1)
        else:
            runs.append(slice(row, row + 1))
    return runs[1:] or runs


def join(values: Sequence[Any]) -> Any:
    """The opposite of :func:`select`: the rows of several tensors or conditionings, one behind the other."""
    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, Mapping):
        return {name: join([value[name] for value in values]) for name in first}
    if isinstance(first, (list, tuple)):
        return [join(items) for items in zip(*values, strict=True)]
    return torch.cat(list(values))
