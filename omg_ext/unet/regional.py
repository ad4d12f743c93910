"""Cross-attention to a prompt of its own in each concept's place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .calls import JOINT, RegionalCall, Row, UNetCall, Which
from .patches import Patches, cross_attentions
from .regions import Regions

# how the UNets call what their cross-attention attends to
_CONTEXT_NAMES = ("encoder_hidden_states", "context")


def joint_with(pictures: Sequence[int], is_bare: bool | None = None) -> Which:
    """Picks the joint rows of pictures that a concept is in; those with or without networks, or both."""
    mine = frozenset(pictures)

    def has_concept(row: Row) -> bool:
        return row.concept == JOINT and row.picture in mine and is_bare in (None, row.is_bare)

    return has_concept


class RegionalAttention:
    """``A(x, p) + sum_i M_i (A_i(x, p_i) - A(x, p))`` for the rows of :class:`RegionalCall`.

    p is the row's own prompt; A_i is the module itself on rows of concept i: what acts on these, its networks, acts in
    there.

    Args:
        patches: the UNet's.
        regions: M_i.
        pictures: of each concept, those that it is in.
    """

    def __init__(self, patches: Patches, regions: Regions, pictures: Sequence[Sequence[int]]):
        self._patches, self._regions = patches, regions
        self._which = [joint_with(own) for own in pictures]
        for module in cross_attentions(patches.network):
            patches.on_call(module, self._blend)

    def _blend(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any],
               output: Tensor) -> None:
        if not isinstance(call, RegionalCall):
            return
        output *= self._regions.rest(call, output)
        for concept, which in enumerate(self._which):
            for rows in call.runs(which, output.shape[0]):
                place = self._regions.tokens(concept, call, rows, output)
                own = [row._replace(concept=concept) for row in call.rows[rows]]
                named = _with_context(args, kwargs, call.context(concept, rows))
                with self._patches.running(call.of_rows(own)):
                    place.add(layer(place.of(args[0][rows]), **named), output[rows])


def _with_context(args: tuple[Any, ...], kwargs: dict[str, Any], context: Tensor) -> dict[str, Any]:
    name = next((name for name in _CONTEXT_NAMES if name in kwargs), None)
    if name is None or len(args) > 1:
        raise TypeError("a cross-attention module was called in an unknown way")
    return {**kwargs, name: context}
