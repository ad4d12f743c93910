"""What acts in a concept's place alone, layer by layer, against the sum that it is said to be."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omg_ext.errors import OMGError
from omg_ext.unet.calls import JOINT, PlacesCall, RegionalCall, Row, UNetCall
from omg_ext.unet.deltas import Deltas, FullWeight, LowRank, Source, SourceSum
from omg_ext.unet.patches import Patches
from omg_ext.unet.regional import RegionalAttention, RegionalNetworks
from omg_ext.unet.regions import Regions


class HalfAttention(nn.Module):
    """Adds what it attends to, and gives another type than it takes, as under autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Identity()

    def forward(self, x: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        return (self.to_q(x) + encoder_hidden_states.mean(1, keepdim=True)).half()


def test_prompts_have_the_type_that_attention_is_given():
    """With a model in half precision the web UI casts what it gives; what stands beside it is cast alike, and once."""
    row = Row(0, JOINT)
    call = RegionalCall((row,), 0.5, (2, 2), pooled={}, contexts={(row, 0): torch.zeros(3, 1)})
    half, = call.prompts(torch.zeros(1, 3, 1, dtype=torch.half))
    assert half.context.dtype == torch.half
    assert call.prompts(torch.zeros(1, dtype=torch.half))[0] is half
    assert call.prompts(torch.zeros(1))[0].context.dtype == torch.float32


def test_nothing_holds_a_call_that_is_over():
    """Prompts of every step would pile up in graphics memory until Python looks for cycles."""
    row = Row(0, JOINT)
    call = RegionalCall((row,), 0.5, (2, 2), pooled={}, contexts={(row, 0): torch.zeros(3, 1)})
    call.prompts(torch.zeros(1))
    gone = weakref.ref(call)
    gc.disable()
    try:
        del call
        assert gone() is None
    finally:
        gc.enable()


def test_maps_of_many_kinds_of_ranks_are_not_kept():
    regions, call = Regions(torch.ones(1, 1, 1, 4, 4)), UNetCall((Row(0, JOINT),), 0.5, (4, 4))
    for rank in range(1, 40):
        ranks = regions.of_ranks(call, ((0, rank),), torch.zeros(1, 16, 8))
        assert ranks.shape == (1, 16, rank)
    assert len(regions._made) < 10


def test_a_layer_that_sees_other_rows_is_refused():
    regions, call = Regions(torch.ones(1, 1, 1, 4, 4)), UNetCall((Row(0, JOINT),), 0.5, (4, 4))
    for like in (torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 8)):
        with pytest.raises(OMGError, match="other tokens"):
            regions.of_ranks(call, ((0, 2),), like)


@pytest.mark.parametrize("lengths", [(3, 3), (3, 6), (6, 3)])
def test_attention_is_evaluated_once_for_each_place(lengths):
    """Where all space is somebody's, not for the row's own prompt besides; prompts of one length together."""
    network, seen = nn.Module(), []
    module = HalfAttention()
    network.add_module("attn2", module)
    row = Row(0, JOINT)
    weights = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1.0]]).view(2, 1, 1, 2, 2)
    call = RegionalCall((row,), 0.5, (2, 2), pooled={}, contexts={
        (row, concept): torch.full((length, 1), 4.0 * (concept + 1)) for concept, length in enumerate(lengths)})
    with Patches(network) as patches:
        RegionalAttention(patches, Regions(weights))
        module.to_q.register_forward_hook(lambda layer, args, output: seen.append(args[0].shape))
        with patches.running(call):
            output = module(torch.arange(4.0).view(1, 4, 1), encoder_hidden_states=torch.zeros(1, 3, 1))
    assert sum(shape[0] * shape[1] for shape in seen) == 4
    torch.testing.assert_close(output.flatten().float(), torch.tensor([4.0, 4, 8, 8]) + torch.arange(4.0))


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("lengths", [(3, 3), (3, 6)])
def test_attention_gives_its_own_type(share, lengths):
    """In the web UI what goes into attention is float32 and what comes out half, whether all space is somebody's."""
    network = nn.Module()
    network.add_module("attn2", HalfAttention())
    row = Row(0, JOINT)
    weights = torch.tensor([[1, 1, 0, 0.5], [0, 0, 1, 0.5]]).view(2, 1, 1, 2, 2) * share
    call = RegionalCall((row,), 0.5, (2, 2), pooled={}, contexts={
        (row, concept): torch.full((length, 1), 4.0 * (concept + 1)) for concept, length in enumerate(lengths)})
    with Patches(network) as patches:
        RegionalAttention(patches, Regions(weights))
        with patches.running(call):
            x, prompt = torch.arange(4.0).view(1, 4, 1), torch.zeros(1, 3, 1)
            output = network.get_submodule("attn2")(x, encoder_hidden_states=prompt)
        assert patches.call is None
    assert output.dtype == torch.half
    own = torch.tensor([4.0, 4, 8, 6]) * share + torch.arange(4.0)
    torch.testing.assert_close(output.flatten().float(), own)


def _low_rank(layer: nn.Module, rank: int, core: bool = False) -> LowRank:
    weight = layer.get_parameter("weight")
    kernel, ones = weight.shape[2:], (1,) * (weight.dim() - 2)
    if core:
        return LowRank(torch.randn(rank, weight.shape[1], *ones), torch.randn(weight.shape[0], rank, *ones), 0.5,
                       torch.randn(rank, rank, *kernel))
    return LowRank(torch.randn(rank, weight.shape[1], *kernel), torch.randn(weight.shape[0], rank, *ones), 0.5)


def _full(layer: nn.Module) -> FullWeight:
    bias = layer.get_parameter("bias")
    return FullWeight(torch.randn_like(layer.get_parameter("weight")), torch.randn_like(bias))


NETWORKS: Mapping[str, Callable[[nn.Module], Source]] = {
    "low rank": lambda layer: _low_rank(layer, 3), "another rank": lambda layer: _low_rank(layer, 2),
    "two tags": lambda layer: SourceSum((_low_rank(layer, 1), _low_rank(layer, 4))), "full": _full,
    "low rank and full": lambda layer: SourceSum((_low_rank(layer, 2), _full(layer))),
    "with a core": lambda layer: _low_rank(layer, 2, core=isinstance(layer, nn.Conv2d)),
}
PLACED: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(8, 6), (3, 24, 8)),
    "conv": (lambda: nn.Conv2d(8, 6, 3, padding=1), (3, 8, 4, 6)),
    "strided conv": (lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1), (3, 8, 8, 12)),
}


@torch.no_grad()
@pytest.mark.parametrize("second", NETWORKS)
@pytest.mark.parametrize("first", NETWORKS)
@pytest.mark.parametrize("name", PLACED)
def test_each_layer_gives_the_sum_of_what_acts_in_its_places(name, first, second):
    """``W x + sum_i M_i delta_i(x)`` in rows with networks, ``W x`` in others; delta_i(x) where a module is evaluated
    for places alone."""
    make, shape = PLACED[name]
    layer = make()
    network = nn.Module()
    network.add_module("layer", layer)
    inner, query = nn.Module(), nn.Linear(8, 6)
    inner.add_module("to_q", query)
    network.add_module("attn2", inner)
    layers = [layer, query]
    sources = [{each: NETWORKS[kind](each) for each in layers} for kind in (first, second)]
    rows = (Row(0, JOINT), Row(1, JOINT), Row(0, JOINT, None, is_bare=True))
    weights = torch.rand(2, 2, 1, 8, 12)
    weights[0, 0, :, :, :8] = weights[1, 0, :, :, 8:] = 0
    x, tokens = torch.randn(shape), torch.randn(4, 5, 8)
    plain, own = layer(x), query(tokens)
    expected = plain.clone()
    grid = tuple(plain.shape[2:]) if plain.dim() == 4 else (4, 6)
    for row in (0, 1):
        for concept, source in enumerate(each[layer] for each in sources):
            change = torch.zeros_like(plain[:1])
            source.resolve(layer, plain).add_to(layer, x[row:row + 1], change)
            place = F.interpolate(weights[concept, row][None], grid, mode="area")
            expected[row] += ((place if plain.dim() == 4 else place.flatten(2).mT) * change)[0]
    whose = ((0, 1), (1, 0), (1, 1), (2, 0))
    for number, (row, concept) in enumerate(whose):
        if not rows[row].is_bare:
            sources[concept][query].resolve(query, own).add_to(
                query, tokens[number:number + 1], own[number:number + 1])

    regions = Regions(weights)
    regions.grid = (4, 6)
    call = RegionalCall(rows, 0.5, (8, 12), pooled={}, contexts={
        (row, concept): torch.zeros(3, 1) for row in rows for concept in range(2)})
    within = PlacesCall(tuple(rows[row] for row, _ in whose), 0.5, (8, 12),
                        concepts=tuple(concept for _, concept in whose))
    with Patches(network) as patches:
        RegionalNetworks(patches, regions, sources, Deltas())
        with patches.running(call):
            found, base = layer(x), query(tokens)
        with patches.running(within):
            placed = query(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(found[2], plain[2])
    assert torch.equal(base, query(tokens))
    torch.testing.assert_close(placed, own, rtol=1e-4, atol=1e-4)
