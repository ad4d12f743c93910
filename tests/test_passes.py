"""The two passes around a stand-in for a host: row cursor, prefix memo, lookup of first-pass calls, blending."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from omg_ext.passes.noise import NoiseSnapshot
from omg_ext.passes.taps import FirstPass, SecondPass, append_rows
from omg_ext.request import Layout
from omg_ext.unet.layout import LayoutPreservation
from omg_ext.unet.query_store import QueryStore


class UNet(nn.Module):
    """One cross-attention query per row: its latent's mean times what it is conditioned with."""

    def __init__(self) -> None:
        super().__init__()
        self.attn2: Any = nn.Module()
        self.attn2.to_q = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.attn2.to_q.weight)
        self.calls: list[list[float]] = []

    @torch.no_grad()
    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        query = self.attn2.to_q(x.mean((1, 2, 3))[:, None, None] * cond["text"][:, None, None])
        self.calls.append(query.flatten().tolist())
        return x + query[..., None] + t[:, None, None, None]


class Host:
    """A sampler's calls: each denoiser call evaluates its rows in one or several UNet calls."""

    def __init__(self, budget: int = 2**20, blend_start: float = 0.3, cross: float = 1.0):
        self.unet = UNet()
        self.layout = LayoutPreservation(self.unet, Layout(cross, 0.0), QueryStore(budget, 0))
        self.first = FirstPass(blend_start, self.layout)

    def second(self) -> SecondPass:
        return SecondPass(self.first, torch.ones(1, 1, 1, 1, 1))

    def call(self, stage: FirstPass | SecondPass, progress: float, groups: Sequence[Sequence[float]], cond_rows: int,
             latent: float = 1.0) -> list[Tensor]:
        """One denoiser call: a UNet call per group, each row conditioned with one number."""
        results = []
        stage.begin_denoiser_call(progress, cond_rows)
        for group in groups:
            x, t = torch.full((len(group), 1, 2, 2), latent), torch.full((len(group),), 1 - progress)
            results.append(stage.unet_call(self.unet, x, t, {"text": torch.tensor(group)}))
        return results


# conditional rows come first; numbers above 100 are unconditional
ROW_LAYOUTS: dict[str, tuple[list[list[float]], int]] = {
    "one call": ([[1, 2, 101, 102]], 2),
    "separate calls": ([[1, 2], [101, 102]], 2),
    "row by row": ([[1], [2], [101], [102]], 2),
    "no unconditional rows": ([[1, 2]], 2),
    "AND: several rows per picture": ([[1, 2, 3, 4, 101, 102]], 4),
    "AND of unequal lengths": ([[1, 2, 3], [4], [101, 102]], 4),
    "a call across the border": ([[1, 2, 3], [4, 101], [102]], 4),
}


@pytest.mark.parametrize(("groups", "cond_rows"), ROW_LAYOUTS.values(), ids=ROW_LAYOUTS)
def test_row_cursor(groups, cond_rows):
    host = Host()
    rows = [value for group in groups for value in group]
    for _ in range(2):  # it starts again with each denoiser call
        host.first.begin_denoiser_call(0.5, cond_rows)
        for group in groups:
            local, absolute = host.first.take_rows(len(group))
            assert group[local] == rows[absolute] == [value for value in group if value < 100]
        assert host.first.has_uncond == any(value > 100 for value in rows)


@pytest.mark.parametrize("budget", [2**20, 0], ids=["stored", "recomputed"])
@pytest.mark.parametrize(("groups", "cond_rows"), ROW_LAYOUTS.values(), ids=ROW_LAYOUTS)
def test_replay_in_every_row_layout(groups, cond_rows, budget):
    """Conditional rows get the first pass's queries, unconditional ones their own."""
    host = Host(budget, blend_start=0.0)
    with host.layout:
        firsts = host.call(host.first, 0.5, groups, cond_rows, latent=1.0)
        results = host.call(host.second(), 0.5, groups, cond_rows, latent=3.0)
    for group, result in zip(groups, results, strict=True):
        queries = [value * (1.0 if value < 100 else 3.0) for value in group]
        expected = 3.0 + torch.tensor(queries) + 0.5
        torch.testing.assert_close(result[:, 0, 0, 0], expected)
        assert len(result) == len(group)
    rows = [len(call) for call in host.unet.calls[len(groups):]]
    extra = [sum(value < 100 for value in group) if not budget else 0 for group in groups]
    assert rows == [len(group) + more for group, more in zip(groups, extra, strict=True)]
    assert len(firsts) == len(groups)


def test_replay_ends_at_its_fraction():
    host = Host(blend_start=0.0, cross=0.5)
    with host.layout:
        for progress in (0.4, 0.6):
            host.call(host.first, progress, [[1, 101]], 1)
        second = host.second()
        results = [host.call(second, progress, [[1, 101]], 1, latent=3.0)[0] for progress in (0.4, 0.6)]
    assert [float(result[0, 0, 0, 0]) for result in results] == pytest.approx([3 + 1 + 0.6, 3 + 3 + 0.4])


# --- the prefix ---

def test_prefix_comes_from_memory():
    host = Host()
    with host.layout:
        firsts = [host.call(host.first, progress, [[1, 101]], 1)[0] for progress in (0.0, 0.1, 0.2)]
        second = host.second()
        results = [host.call(second, progress, [[1, 101]], 1)[0] for progress in (0.0, 0.1, 0.2)]
    assert all(torch.equal(first, result) for first, result in zip(firsts, results, strict=True))
    assert len(host.unet.calls) == 3


def test_memory_survives_what_the_host_does_to_its_tensors():
    host = Host()
    with host.layout:
        first = host.call(host.first, 0.0, [[1, 101]], 1)[0]
        kept = first.clone()
        first.zero_()
        second = host.second()
        result = host.call(second, 0.0, [[1, 101]], 1)[0]
        assert torch.equal(result, kept)
        result.zero_()
        assert torch.equal(host.call(host.second(), 0.0, [[1, 101]], 1)[0], kept)


@pytest.mark.parametrize("change", ["latent", "time"])
def test_another_question_gets_an_answer_of_its_own(change):
    host = Host()
    with host.layout:
        host.call(host.first, 0.1, [[1, 101]], 1)
        result = host.call(host.second(), *((0.1,) if change == "latent" else (0.2,)), [[1, 101]], 1,
                           latent=1.0001 if change == "latent" else 1.0)[0]
    assert len(host.unet.calls) == 2
    expected = 2 * 1.0001 + 0.9 if change == "latent" else 2 + 0.8
    assert float(result[0, 0, 0, 0]) == pytest.approx(expected)


@pytest.mark.parametrize(("blend_start", "progress", "blends"), [
    (0.3, 0.29, False), (0.3, 0.3, True), (0.0, 0.0, True), (1.0, 0.999, False), (1.0, 1.0, False)])
def test_initiation_timestep(blend_start, progress, blends):
    host = Host(blend_start=blend_start)
    second = host.second()
    second.begin_denoiser_call(progress, 1)
    assert second.blends is blends


def test_queries_of_the_prefix_are_not_kept():
    host = Host()
    with host.layout:
        for progress in (0.0, 0.2, 0.4):
            host.call(host.first, progress, [[1, 101]], 1)
    assert [call.entry is not None for call in host.first.calls] == [False, False, True]
    assert [call.output is not None for call in host.first.calls] == [True, True, False]


def test_without_layout_nothing_is_kept_after_the_prefix():
    host = Host(cross=0.0)
    with host.layout:
        host.call(host.first, 0.5, [[1, 101]], 1)
    call, = host.first.calls
    assert (call.x, call.t, call.output, call.entry) == (None,) * 4


# --- other timesteps in the second pass, as adaptive samplers choose them ---

@pytest.mark.parametrize(("progress", "nearest"), [(0.42, 4.0), (0.58, 6.0), (0.99, 8.0), (0.31, 4.0)])
@pytest.mark.parametrize("budget", [2**20, 0], ids=["stored", "recomputed"])
def test_nearest_call_serves(progress, nearest, budget):
    host = Host(budget)
    with host.layout:
        for step, latent in ((0.1, 1.0), (0.4, 4.0), (0.6, 6.0), (0.8, 8.0)):
            host.call(host.first, step, [[1, 101]], 1, latent)
        result = host.call(host.second(), progress, [[1, 101]], 1, latent=3.0)[0]
    assert float(result[0, 0, 0, 0]) == pytest.approx(3 + nearest + 1 - progress)


@pytest.mark.parametrize("budget", [2**20, 0], ids=["stored", "recomputed"])
def test_nearest_call_is_one_for_the_same_rows(budget):
    """Conditional rows in two calls: each takes its own queries, not those of the first of the two."""
    host = Host(budget)
    with host.layout:
        for step, latent in ((0.4, 4.0), (0.6, 6.0)):
            host.call(host.first, step, [[1, 2], [3], [101]], 3, latent)
        results = host.call(host.second(), 0.59, [[1, 2], [3], [101]], 3, latent=9.0)
        assert not host.layout.warnings
    queries = [float(value) for result in results for value in result[:, 0, 0, 0] - 9.0 - 0.41]
    assert queries == pytest.approx([6.0, 12.0, 18.0, 909.0], rel=1e-4)


def test_nothing_recorded_after_the_prefix():
    host = Host()
    with host.layout:
        host.call(host.first, 0.1, [[1, 101]], 1)
        result = host.call(host.second(), 0.9, [[1, 101]], 1, latent=3.0)[0]
    assert float(result[0, 0, 0, 0]) == pytest.approx(3 + 3 + 0.1)


# --- blending ---

def test_blending():
    """Eq. 6 with two concepts, two pictures and background."""
    weights = torch.tensor([[[[[0.25, 1.0]]], [[[0.0, 0.5]]]], [[[[0.5, 0.0]]], [[[1.0, 0.5]]]]])
    second = SecondPass(Host().first, weights)
    concepts = torch.stack([torch.full((2, 3, 1, 2), value) for value in (16.0, 32.0)])
    result = second.blend(torch.full((2, 3, 1, 2), 8.0), concepts)
    assert torch.equal(result[:, 1, 0], torch.tensor([[2 + 4 + 16, 16.0], [32.0, 8.0 + 16.0]]))


def test_blending_keeps_the_precision():
    second = SecondPass(Host().first, torch.full((1, 1, 1, 2, 2), 0.5))
    result = second.blend(torch.ones(1, 4, 2, 2, dtype=torch.float16), torch.ones(1, 1, 4, 2, 2, dtype=torch.float16))
    assert result.dtype == torch.float16


# --- rows once more at the end ---

def test_append_rows():
    a, b = torch.arange(6.0).reshape(3, 2), torch.arange(3.0)
    rows = slice(0, 2)
    once = append_rows({"crossattn": a, "c_concat": [b], "nested": {"vector": (a, b)}}, rows)
    assert torch.equal(once["crossattn"], torch.cat([a, a[:2]]))
    assert torch.equal(once["c_concat"][0], torch.tensor([0.0, 1, 2, 0, 1]))
    assert torch.equal(once["nested"]["vector"][0], torch.cat([a, a[:2]]))
    assert torch.equal(append_rows(a, slice(0, 0)), a)


# --- noise ---

class Philox:
    """As the web UI's own generator keeps its state."""

    def __init__(self) -> None:
        self.seed, self.offset = 7, 0


def test_noise_comes_again():
    generator, philox = torch.Generator().manual_seed(3), Philox()
    torch.manual_seed(5)
    snapshot = NoiseSnapshot([generator, philox])

    def draw() -> list[Tensor]:
        philox.offset += 1
        return [torch.randn(3, generator=generator), torch.randn(3), torch.tensor(float(philox.offset))]

    first = draw()
    draw()
    snapshot.restore()
    assert all(torch.equal(a, b) for a, b in zip(first, draw(), strict=True))


@pytest.mark.parametrize(("blend_start", "progress", "warned"), [
    (0.3, 0.29, True), (0.3, 0.3, False), (1.0, 0.9, False)])
def test_schedule_that_ends_before_the_initiation_timestep_is_said(blend_start, progress, warned):
    host = Host(blend_start=blend_start)
    second = host.second()
    second.begin_denoiser_call(progress, 1)
    if second.blends:
        second.blend(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1))
    assert any("blend_start" in warning for warning in second.warnings()) is warned
