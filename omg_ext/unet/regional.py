"""Networks and prompts that act in their concept's place alone, within each layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OMGError
from .calls import PlacesCall, RegionalCall, UNetCall
from .deltas import Deltas, LowRank, Source, Sources
from .patches import Args, Kwargs, Patches, cross_attentions
from .regions import Regions
from .stacks import Sizes, Stack, stackable

# how the UNets call what their cross-attention attends to
_CONTEXT_NAMES = ("encoder_hidden_states", "context")


class RegionalNetworks:
    """``W x + sum_i M_i delta_i(x)`` in the rows of :class:`RegionalCall`, delta_i(x) in concept i's rows of
    :class:`PlacesCall`.

    Layers without a place in the picture stay as they are: :mod:`omg_ext.unet.embeddings` sees to them. So do rows
    without networks.

    Args:
        patches: the UNet's.
        regions: M_i.
        networks: of each concept.
        deltas: where those that are not low-rank are kept.
    """

    def __init__(self, patches: Patches, regions: Regions, networks: Sequence[Sources], deltas: Deltas):
        self._regions, self._deltas = regions, deltas
        self._low_rank: dict[nn.Module, list[tuple[int, LowRank]]] = {}
        self._others: dict[nn.Module, list[tuple[int, Source]]] = {}
        self._stacks: dict[nn.Module, Stack] = {}
        self._of_places: dict[tuple[object, ...], Tensor] = {}
        for concept, sources in enumerate(networks):
            for layer, source in sources.items():
                factors = stackable(source)
                if factors is None:
                    self._others.setdefault(layer, []).append((concept, source))
                else:
                    self._low_rank.setdefault(layer, []).extend((concept, each) for each in factors)
        inner = {layer for module in cross_attentions(patches.network) for layer in module.modules()}
        for layer in {**self._low_rank, **self._others}:
            patches.on_output(layer, self._act_on_places if layer in inner else self._act)

    def _act(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if not isinstance(call, RegionalCall) or output.dim() < 3:
            return
        if layer in self._low_rank:
            stack = self._stack(layer, output)
            stack.add_to(layer, args[0], output, self._regions.of_ranks(call, stack.sizes, output))
        others = self._others.get(layer, [])
        if others and output.dim() == 3:
            shares = self._regions.shares(call, call.places, output)
            x = shares.gather(args[0])
            change = output.new_zeros(*x.shape[:2], output.shape[2])
            self._add_others(layer, call.acting, x, change)
            shares.add(change, output)
            return
        for concept, source in others:
            change = torch.zeros_like(output)
            self._deltas.of(source, layer, output).add_to(layer, args[0], change)
            output.addcmul_(change, self._regions.of_ranks(call, ((concept, 1),), output))

    def _act_on_places(self, call: UNetCall, layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if not isinstance(call, PlacesCall):
            return
        if layer in self._low_rank:
            stack = self._stack(layer, output)
            stack.add_to(layer, args[0], output, self._mine(call, stack.sizes, output))
        self._add_others(layer, call.acting, args[0], output)

    def _add_others(self, layer: nn.Module, whose: Sequence[int], x: Tensor, y: Tensor) -> None:
        """``y[n] += delta_i(x[n])`` in place, i the concept of row n."""
        runs = [list(run) for _, run in groupby(range(len(whose)), key=lambda number: whose[number])]
        for concept, source in self._others.get(layer, ()):
            own = [slice(run[0], run[-1] + 1) for run in runs if whose[run[0]] == concept]
            if own:
                delta = self._deltas.of(source, layer, y)
                for some in own:
                    delta.add_to(layer, x[some], y[some])

    def _stack(self, layer: nn.Module, output: Tensor) -> Stack:
        kept = self._stacks.get(layer)
        if kept is None or (kept.up.dtype, kept.up.device) != (output.dtype, output.device):
            kept = self._stacks[layer] = Stack.of(self._low_rank[layer], layer, output)
        return kept

    def _mine(self, call: PlacesCall, sizes: Sizes, output: Tensor) -> Tensor:
        """1 where a rank is of the concept whose place a row is, else 0, [rows, 1, R]."""
        key = (call.acting, sizes, output.dtype, output.device)
        if key not in self._of_places:
            ranks = [concept for concept, size in sizes for _ in range(size)]
            of_rows = torch.tensor([[float(own == mine) for own in ranks] for mine in call.acting])
            self._of_places[key] = of_rows.unsqueeze(1).to(output)
        return self._of_places[key]


class RegionalAttention:
    """``A(x, p) + sum_i M_i (A_i(x, p_i) - A(x, p))`` in the rows of :class:`RegionalCall`.

    p is the row's own prompt; A_i is the module itself with concept i's networks, evaluated once for the tokens of all
    places. Where all space is somebody's that is instead of A, else besides it.

    Args:
        patches: the UNet's.
        regions: M_i.
    """

    def __init__(self, patches: Patches, regions: Regions):
        self._patches, self._regions = patches, regions
        for module in cross_attentions(patches.network):
            patches.around(module, self._enter, self._leave)

    def _enter(self, call: UNetCall, layer: nn.Module, args: Args, kwargs: Kwargs) -> tuple[UNetCall, Args, Kwargs]:
        if not isinstance(call, RegionalCall):
            return call, args, kwargs
        shares = self._regions.shares(call, call.places, args[0])
        if shares.rest is not None:
            return call, args, kwargs
        name = _context_name(args, kwargs)
        prompts = call.prompts(kwargs[name])[0]
        return prompts.call, (shares.gather(args[0])[prompts.places],), {**kwargs, name: prompts.context}

    def _leave(self, call: UNetCall, inner: UNetCall, layer: nn.Module, args: Args, kwargs: Kwargs,
               output: Tensor) -> Tensor:
        if not isinstance(call, RegionalCall):
            return output
        # under autocast what comes in has another type than what goes out
        shares = self._regions.shares(call, call.places, args[0], output.dtype)
        name = _context_name(args, kwargs)
        is_first = inner is not call  # the module was given the first prompts' places in place of its rows
        own = [output] if is_first else []
        for prompts in call.prompts(kwargs[name])[is_first:]:
            with self._patches.running(prompts.call):
                own.append(layer(shares.gather(args[0])[prompts.places], **{**kwargs, name: prompts.context}))
        return shares.blended(own[0] if len(own) == 1 else torch.cat(own), args[0] if is_first else output)


def _context_name(args: Args, kwargs: Kwargs) -> str:
    name = next((name for name in _CONTEXT_NAMES if name in kwargs), None)
    if name is None or len(args) > 1:
        raise OMGError("other extensions", "cross-attention is called in an unknown way; turn off the extension that "
                                           "changes it, or choose shared")
    return name
