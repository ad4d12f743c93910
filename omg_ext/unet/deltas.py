"""What networks (LoRA, LyCORIS, ...) add to one layer's output, without touching the layer's weights.

All layers here are linear in their parameters, so a network that changes the weight by dW and the bias by db adds
``layer(x; dW, db)`` to the output. A low-rank dW is never multiplied out.

What a file holds is a *source*. It is resolved to a delta where the layer computes, in the dtype and on the device of
the layer's output: only there is it known (medvram keeps a UNet on the CPU before its first call, autocast decides the
dtype), and only there is the layer's own weight what the host's own networks have made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn


class Delta(Protocol):
    """The effect of one concept's networks on one layer, ready to be added.

    Attributes:
        nbytes: what it takes in memory beyond the file's own tensors.
        is_full: whether it is as large as the layer's weight.
    """

    @property
    def nbytes(self) -> int: ...

    @property
    def is_full(self) -> bool: ...

    def add_to(self, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        """Add the effect for inputs ``x`` to the layer's outputs ``y`` in place. Both have the same rows."""
        ...


class Source(Protocol):
    """One concept's networks on one layer, as the files hold them."""

    def resolve(self, layer: nn.Module, y: Tensor) -> Delta:
        """The delta for outputs like ``y`` of the layer."""
        ...


Sources = Mapping[nn.Module, Source]
"""Networks by the layers that they change: those of one concept, or those of the global prompt"""


def summed(networks: Sequence[Sources]) -> Sources:
    """Several networks that act on the same rows as one."""
    by_layer: dict[nn.Module, list[Source]] = {}
    for network in networks:
        for layer, source in network.items():
            by_layer.setdefault(layer, []).append(source)
    return {layer: sources[0] if len(sources) == 1 else SourceSum(tuple(sources))
            for layer, sources in by_layer.items()}


@dataclass(frozen=True, eq=False)
class LowRank:
    """dW = scale * up @ mid @ down: LoRA, LoCon and LoCon with a CP/Tucker core.

    Attributes:
        down: [r, in] or [r, in, kh, kw] (1x1 if ``mid`` is given).
        up: [out, r] or [out, r, 1, 1].
        scale: multiplier * alpha / r.
        mid: [r, r, kh, kw], or None.
    """

    down: Tensor
    up: Tensor
    scale: float
    mid: Tensor | None = None

    def resolve(self, layer: nn.Module, y: Tensor) -> LowRankDelta:
        return LowRankDelta(like(self.down, y), like(self.up.float() * self.scale, y),
                            None if self.mid is None else like(self.mid, y))


@dataclass(frozen=True, eq=False)
class LowRankDelta:
    """See :class:`LowRank`; ``up`` holds the scale."""

    down: Tensor
    up: Tensor
    mid: Tensor | None = None
    is_full = False

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.down, self.up, self.mid) if tensor is not None)

    def add_to(self, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        if isinstance(layer, nn.Conv2d):
            # with a core, the core has the kernel and down is 1x1
            hidden = conv(layer, x, self.down) if self.mid is None else conv(layer, F.conv2d(x, self.down), self.mid)
            y += F.conv2d(like(hidden, y), self.up)
        else:
            add_product(like(F.linear(x, self.down), y), self.up, y)


@dataclass(frozen=True, eq=False)
class FullWeight:
    """dW in full.

    Attributes:
        weight: dW in the shape of the layer's weight.
        bias: db in the shape of the layer's bias, or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    def resolve(self, layer: nn.Module, y: Tensor) -> WeightDelta:
        return WeightDelta(like(self.weight, y), None if self.bias is None else like(self.bias, y))


@dataclass(frozen=True, eq=False)
class WeightDelta:
    """dW and db in full, in the dtype of the layer's output."""

    weight: Tensor
    bias: Tensor | None = None
    is_full = True

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def add_to(self, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        y += like(_apply(layer, x, self.weight, self.bias), y)


@dataclass(frozen=True, eq=False)
class SourceSum:
    """Several networks of one concept on one layer."""

    sources: tuple[Source, ...]

    def resolve(self, layer: nn.Module, y: Tensor) -> DeltaSum:
        return DeltaSum(tuple(source.resolve(layer, y) for source in self.sources))


@dataclass(frozen=True, eq=False)
class DeltaSum:
    """See :class:`SourceSum`."""

    deltas: tuple[Delta, ...]

    @property
    def nbytes(self) -> int:
        return sum(delta.nbytes for delta in self.deltas)

    @property
    def is_full(self) -> bool:
        return any(delta.is_full for delta in self.deltas)

    def add_to(self, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        for delta in self.deltas:
            delta.add_to(layer, x, y)


class Deltas:
    """Resolved sources of one UNet, kept from call to call.

    Args:
        full_budget: bytes that deltas as large as their layer's weight may take in all. What is beyond is resolved
            again in every call, which costs time. Low-rank deltas are always kept.
    """

    def __init__(self, full_budget: int = 1 << 62):
        self._left = full_budget
        self._kept: dict[tuple[nn.Module, Source], tuple[Delta, Tensor]] = {}

    def of(self, source: Source, layer: nn.Module, y: Tensor) -> Delta:
        """A source's delta for outputs like ``y`` of the layer."""
        kept = self._kept.get((layer, source))
        if kept is not None and (kept[1].dtype, kept[1].device) == (y.dtype, y.device):
            return kept[0]
        if kept is not None:
            self._left += _full_bytes(self._kept.pop((layer, source))[0])
        delta = source.resolve(layer, y)
        size = _full_bytes(delta)
        if size <= self._left:
            self._left -= size
            self._kept[layer, source] = (delta, y.new_empty(0))
        return delta

    def forget_low_rank(self) -> None:
        """Give up the memory of those that are made again in no time."""
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0].is_full}


def _full_bytes(delta: Delta) -> int:
    """Of a delta as large as its layer's weight; a low-rank one does not count."""
    return delta.nbytes if delta.is_full else 0


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """``tensor`` in the device and dtype of ``reference``."""
    return tensor.to(device=reference.device, dtype=reference.dtype)


def add_product(hidden: Tensor, up: Tensor, y: Tensor) -> None:
    """``y += up hidden`` in place, without a copy of ``y`` where possible."""
    if y.is_contiguous():
        y.view(-1, y.shape[-1]).addmm_(hidden.reshape(-1, hidden.shape[-1]), up.t())
    else:
        y += F.linear(hidden, up)


def conv(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The layer's own convolution, its stride and its padding (circular for tiling pictures), with other weights."""
    return layer._conv_forward(x, weight, bias)


def _apply(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return conv(layer, x, weight, bias)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x.to(weight.dtype), layer.normalized_shape, weight, bias, layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x.to(weight.dtype), layer.num_groups, weight, bias, layer.eps)
    return F.linear(x, weight, bias)
