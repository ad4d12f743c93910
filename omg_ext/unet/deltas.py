"""What a network (LoRA, LyCORIS, ...) adds to one layer's output, without touching the layer's weights.

All layers here are linear in their parameters, so a network that changes the weight by dW and the bias by db adds
``layer(x; dW, db)`` to the output. A low-rank dW is never multiplied out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn


class Delta(Protocol):
    """The effect of one concept's networks on one layer."""

    def add_to(self, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        """Add the effect for inputs ``x`` to the layer's outputs ``y`` in place. Both have the same rows."""
        ...


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """``tensor`` in the device and dtype of ``reference``."""
    return tensor.to(device=reference.device, dtype=reference.dtype)


@dataclass
class LowRankDelta:
    """dW = scale * up @ mid @ down: LoRA, LoCon and LoCon with a CP/Tucker core.

    Attributes:
        down: [r, in] or [r, in, kh, kw] (1x1 if ``mid`` is given).
        up: [out, r] or [out, r, 1, 1].
        mid: [r, r, kh, kw], or None.
        scale: multiplier * alpha / r.
    """

    down: Tensor
    up: Tensor
    scale: float
    mid: Tensor | None = None

    def add_to(self, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        self._settle(x, y)
        if isinstance(layer, nn.Conv2d):
            # with a core, the core has the kernel and down is 1x1
            hidden = _conv(layer, x, self.down) if self.mid is None else _conv(layer, F.conv2d(x, self.down), self.mid)
            y += F.conv2d(like(hidden, y), self.up)
        else:
            hidden = like(F.linear(x, self.down), y)
            if y.is_contiguous():
                y.view(-1, y.shape[-1]).addmm_(hidden.reshape(-1, hidden.shape[-1]), self.up.t())
            else:
                y += F.linear(hidden, self.up)

    def _settle(self, x: Tensor, y: Tensor) -> None:
        """Move to where the layer works, once per run; medvram moves layers, so only the inputs know where."""
        if self.scale != 1.0:
            self.up = self.up.float() * self.scale
            self.scale = 1.0
        self.down, self.up = like(self.down, x), like(self.up, y)
        if self.mid is not None:
            self.mid = like(self.mid, x)


@dataclass
class WeightDelta:
    """dW in full: every network type whose weight change is not low-rank. Computed once per run by the host.

    Attributes:
        weight: dW in the shape of the layer's weight.
        bias: db in the shape of the layer's bias, or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    def add_to(self, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        self.weight = like(self.weight, x)
        if self.bias is not None:
            self.bias = like(self.bias, x)
        y += like(_apply(layer, x, self.weight, self.bias), y)


def _conv(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The layer's own convolution, its stride and its padding (circular for tiling pictures), with other weights."""
    return layer._conv_forward(x, weight, bias)


def _apply(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return _conv(layer, x, weight, bias)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
    return F.linear(x, weight, bias)


@dataclass
class DeltaSum:
    """Several networks of one concept on one layer."""

    deltas: list[Delta]

    def add_to(self, layer: nn.Module, x: Tensor, y: Tensor) -> None:
        for delta in self.deltas:
            delta.add_to(layer, x, y)
