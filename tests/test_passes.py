"""The two passes around a stand-in for a host: rows, prefix memo, lookup of first-pass calls, blending, noise."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from omg_ext.comprehension import Models
from omg_ext.comprehension.places import Places
from omg_ext.host import ConceptConditioning, Guided
from omg_ext.passes.first import FirstResult, FirstTap, LayoutCall, PrefixCall
from omg_ext.passes.memory import Memory
from omg_ext.passes.noise import Noise
from omg_ext.passes.second import Blending, SecondTap, blend, too_late
from omg_ext.passes.session import Session
from omg_ext.request import Concept, Layout, Request
from omg_ext.unet.calls import Row, is_global_cond
from omg_ext.unet.evaluator import Evaluator, RowLimit
from omg_ext.unet.layout import LayoutRecorder, LayoutReplay
from omg_ext.unet.patches import Patches
from omg_ext.unet.query_store import Entry, QueryStore
from tests.diffusers_host import everywhere, host_of, pipeline

ROOM = 2**20
BUDGETS = pytest.mark.parametrize("budgets", [(ROOM, 0), (0, ROOM), (0, 0)], ids=["device", "host", "recompute"])


class Attention(nn.Module):
    """One query (and key) per row."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k = (nn.Linear(1, 1, bias=False) for _ in range(2))
        for layer in (self.to_q, self.to_k):
            nn.init.ones_(layer.weight)


class UNet(nn.Module):
    """Its queries are its latent's mean times what a row is conditioned with; self-attention's are the mean alone.

    Of these the output shows how far they were replaced.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(), Attention()
        self.calls: list[list[float]] = []

    @torch.no_grad()
    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        mean = x.mean((1, 2, 3))[:, None, None]
        self.attn1.to_k(mean)
        own = self.attn1.to_q(mean) - mean
        query = self.attn2.to_q(mean * cond["text"][:, None, None])
        self.calls.append(query.flatten().tolist())
        return x + (query + own)[..., None] + t[:, None, None, None]


def number(row: Row) -> float:
    """What a row is conditioned with: 1, 2 and so on; unconditional rows over 100."""
    return 101.0 + row.picture if row.part is None else 1.0 + 3 * row.picture + row.part


class Host:
    """A sampler's calls: each denoiser call evaluates its rows in one or several UNet calls."""

    def __init__(self, budgets: tuple[int, int] = (ROOM, 0), blend_start: float = 0.3, cross: float = 1.0,
                 self_: float = 0.0):
        self.unet, self.blend_start = UNet(), blend_start
        self.patches = Patches(self.unet)
        self.recorder = LayoutRecorder(self.patches, Layout(cross, self_), QueryStore(*budgets))
        self.first = FirstTap(self.patches, blend_start, self.recorder)
        self.limit = RowLimit()

    def result(self) -> FirstResult:
        noise = Noise.of([])
        return FirstResult(torch.zeros(0), tuple(self.first.calls), self.recorder.record(), None, noise, noise)

    def second(self) -> SecondTap:
        """After the first pass, whose hooks are gone."""
        with self.patches:
            first = self.result()
        self.replay = LayoutReplay(self.patches, first.layout)
        blending = Blending(torch.ones(1, 1, 1, 1, 1), lambda point, plain, guidance: Guided(*(x[None] for x in plain)))
        return SecondTap(Evaluator(self.patches, self.limit), self.blend_start, blending, first)

    def call(self, tap: FirstTap | SecondTap, progress: float, groups: Sequence[Sequence[Row]],
             latent: float = 1.0) -> list[Tensor]:
        """One denoiser call: a UNet call per group. The predictions that it is guided by do not matter."""
        tap.begin(progress, 0)
        results = [tap.unet(self.unet, torch.full((len(rows), 1, 2, 2), latent),
                            torch.full((len(rows),), 1 - progress), {"text": torch.tensor([*map(number, rows)])}, rows)
                   for rows in groups]
        pictures = torch.zeros(1 + max(row.picture for rows in groups for row in rows), 1, 2, 2)
        tap.guided(Guided(pictures, pictures), cast(Any, None))
        return results


def conds(*pictures: int) -> list[Row]:
    """The conditional rows of so many parts of each picture's prompt."""
    return [Row(picture, None, part) for picture, parts in enumerate(pictures) for part in range(parts)]


UNCONDS = [Row(0, None, None), Row(1, None, None)]
PAIR = [[Row(0), Row(0, None, None)]]
ROW_LAYOUTS: dict[str, list[list[Row]]] = {
    "one call": [conds(1, 1) + UNCONDS],
    "separate calls": [conds(1, 1), UNCONDS],
    "row by row": [[row] for row in conds(1, 1) + UNCONDS],
    "no unconditional rows": [conds(1, 1)],
    "AND: several rows per picture": [conds(2, 2) + UNCONDS],
    "AND of unequal lengths": [conds(2, 2)[:3], conds(2, 2)[3:], UNCONDS],
    "a call across the border": [conds(2, 2)[:3], [conds(2, 2)[3], UNCONDS[0]], UNCONDS[1:]],
    "unconditional rows first": [UNCONDS + conds(1, 1)],
    "in turns": [[Row(0), UNCONDS[0], Row(1), UNCONDS[1]]],
}
layouts = pytest.mark.parametrize("groups", ROW_LAYOUTS.values(), ids=ROW_LAYOUTS)


@layouts
def test_rows_are_what_the_host_says(groups):
    host = Host(blend_start=0.0)
    for _ in range(2):
        host.call(host.first, 0.5, groups)
    record = host.result()
    for call, group in zip(record.calls, [*groups, *groups], strict=True):
        mine = [number(row) for row in group if row.part is not None]
        assert isinstance(call, LayoutCall) == bool(mine)
        if isinstance(call, LayoutCall):
            assert call.rows == tuple(group)
            assert call.queries is not None
            kept = record.layout.store.get(call.queries, torch.device("cpu"))
            assert kept is not None
            assert kept["attn2.to_q"].flatten().tolist() == mine
            assert [len(call.x), len(call.t)] == [len(mine)] * 2


@pytest.mark.parametrize("guided", [True, False])
def test_the_rows_of_the_diffusers_host(guided):
    told: list[Any] = []
    host = host_of(pipeline(), everywhere("dog"), batch_size=2, steps=2, cfg_scale=7.5 if guided else 1.0)

    def unet(evaluate: Any, x: Tensor, t: Tensor, cond: Any, rows: Sequence[Row]) -> Tensor:
        told.append((rows, len(x)))
        return torch.zeros_like(x)

    host.sample(cast(Any, SimpleNamespace(title="", begin=lambda progress, step: told.append(step), unet=unet,
                                          guided=lambda plain, guidance: plain)))
    rows = conds(1, 1) + (UNCONDS if guided else [])
    assert told == [0, (rows, len(rows)), 1, (rows, len(rows))]


@BUDGETS
@layouts
def test_replay_in_every_row_layout(groups, budgets):
    """*replay*: conditional rows get the first pass's queries, unconditional ones their own."""
    host = Host(budgets, blend_start=0.0)
    firsts = host.call(host.first, 0.5, groups, latent=1.0)
    with host.patches:
        results = host.call(host.second(), 0.5, groups, latent=3.0)
    for group, result in zip(groups, results, strict=True):
        queries = [number(row) * (1.0 if is_global_cond(row) else 3.0) for row in group]
        expected = 3.0 + torch.tensor(queries) + 0.5
        torch.testing.assert_close(result[:, 0, 0, 0], expected)
        assert len(result) == len(group)
    rows = [len(call) for call in host.unet.calls[len(groups):]]
    extra = [sum(map(is_global_cond, group)) if not any(budgets) else 0 for group in groups]
    assert rows == [len(group) + more for group, more in zip(groups, extra, strict=True)]
    assert len(firsts) == len(groups)


def test_replay_ends_at_its_fraction():
    host = Host(blend_start=0.0, cross=0.5)
    for progress in (0.4, 0.6):
        host.call(host.first, progress, PAIR)
    second = host.second()
    results = [host.call(second, progress, PAIR, latent=3.0)[0] for progress in (0.4, 0.6)]
    assert [float(result[0, 0, 0, 0]) for result in results] == pytest.approx([3 + 1 + 0.6, 3 + 3 + 0.4])


# --- the prefix ---

def test_prefix_comes_from_memory():
    host = Host()
    firsts = [host.call(host.first, progress, PAIR)[0] for progress in (0.0, 0.1, 0.2)]
    second = host.second()
    results = [host.call(second, progress, PAIR)[0] for progress in (0.0, 0.1, 0.2)]
    assert all(torch.equal(first, result) for first, result in zip(firsts, results, strict=True))
    assert len(host.unet.calls) == 3


def test_memory_survives_what_the_host_does_to_its_tensors():
    host = Host()
    first = host.call(host.first, 0.0, PAIR)[0]
    kept = first.clone()
    first.zero_()
    result = host.call(host.second(), 0.0, PAIR)[0]
    assert torch.equal(result, kept)
    result.zero_()
    assert torch.equal(host.call(host.second(), 0.0, PAIR)[0], kept)


@pytest.mark.parametrize("change", ["latent", "time"])
def test_another_question_gets_an_answer_of_its_own(change):
    host = Host()
    host.call(host.first, 0.1, PAIR)
    result = host.call(host.second(), 0.1 if change == "latent" else 0.2, PAIR,
                       latent=1.0001 if change == "latent" else 1.0)[0]
    assert len(host.unet.calls) == 2
    expected = 2 * 1.0001 + 0.9 if change == "latent" else 2 + 0.8
    assert float(result[0, 0, 0, 0]) == pytest.approx(expected)


@pytest.mark.parametrize(("blend_start", "progress", "blends"), [
    (0.3, 0.29, False), (0.3, 0.3, True), (0.0, 0.0, True), (1.0, 0.999, False), (1.0, 1.0, False)])
def test_initiation_timestep(blend_start, progress, blends):
    second = Host(blend_start=blend_start).second()
    second.begin(progress, 0)
    assert second.blends is blends


def test_queries_of_the_prefix_are_not_kept():
    host = Host()
    for progress in (0.0, 0.2, 0.4):
        host.call(host.first, progress, PAIR)
    assert [type(call) for call in host.first.calls] == [PrefixCall, PrefixCall, LayoutCall]
    assert [call.queries is not None for call in host.first.calls if isinstance(call, LayoutCall)] == [True]


def test_without_layout_nothing_is_kept_after_the_prefix():
    host = Host(cross=0.0)
    host.call(host.first, 0.5, PAIR)
    assert host.first.calls == [None]


# --- other timesteps in the second pass, as adaptive samplers choose them ---

@pytest.mark.parametrize(("progress", "nearest"), [(0.42, 4.0), (0.58, 6.0), (0.99, 8.0), (0.31, 4.0)])
@BUDGETS
def test_nearest_call_serves(progress, nearest, budgets):
    host = Host(budgets)
    for step, latent in ((0.1, 1.0), (0.4, 4.0), (0.6, 6.0), (0.8, 8.0)):
        host.call(host.first, step, PAIR, latent)
    result = host.call(host.second(), progress, PAIR, latent=3.0)[0]
    assert float(result[0, 0, 0, 0]) == pytest.approx(3 + nearest + 1 - progress)


@BUDGETS
def test_nearest_call_is_one_for_the_same_rows(budgets):
    """Conditional rows in two calls: each takes its own queries, not those of the first of the two."""
    host = Host(budgets)
    groups = [conds(2), [Row(1)], [Row(0, None, None)]]
    for step, latent in ((0.4, 4.0), (0.6, 6.0)):
        host.call(host.first, step, groups, latent)
    results = host.call(host.second(), 0.59, groups, latent=9.0)
    assert not host.replay.warnings
    queries = [float(value) for result in results for value in result[:, 0, 0, 0] - 9.0 - 0.41]
    assert queries == pytest.approx([6.0, 12.0, 24.0, 909.0], rel=1e-4)


def test_nothing_recorded_after_the_prefix():
    host = Host()
    host.call(host.first, 0.1, PAIR)
    result = host.call(host.second(), 0.9, PAIR, latent=3.0)[0]
    assert float(result[0, 0, 0, 0]) == pytest.approx(3 + 3 + 0.1)


@BUDGETS
@pytest.mark.parametrize(("first_calls", "progress", "cross", "self_"), [
    ((0.5, 0.95), 0.85, 5.0, 5.0), ((0.5, 0.87), 0.85, 5.0, 5.0), ((0.5, 0.95), 0.88, 9.0, 5.0), ((0.95,), 0.85, 9, 9),
    ((0.5, 0.85), 0.9, 9.0, 9.0)])
def test_a_nearest_call_that_holds_too_little(budgets, first_calls, progress, cross, self_):
    """*replay*: an adaptive sampler's call whose nearest one lies beyond the layout's fractions was an error once.

    It takes the nearest call that holds all it needs, wherever queries wait.
    """
    host, groups = Host(budgets, 0.0, cross=0.86, self_=0.89), [conds(1, 1) + UNCONDS]
    for step in first_calls:
        host.call(host.first, step, groups, latent=10 * step)
    result = host.call(host.second(), progress, groups, latent=9.0)[0]
    shown = [float(value) - 9 - (1 - progress) for value in result[:, 0, 0, 0]]
    assert shown == pytest.approx([cross * number(Row(0)) + self_ - 9, cross * number(Row(1)) + self_ - 9,
                                   9 * 101, 9 * 102], rel=1e-4)


def test_what_is_fetched_ahead():
    """The next call with stored queries, past those of unconditional rows, which leave none."""
    entries = [Entry("host") for _ in range(2)]
    calls = [LayoutCall(0.1 * index, (Row(0),), torch.zeros(0), torch.zeros(0), entry)
             for index, entry in enumerate([None, entries[0], None, None, entries[1], None])]
    first = FirstResult(torch.zeros(0), tuple(calls), Host().recorder.record(), None, Noise.of([]), Noise.of([]))
    assert [first.next_queries(index) for index in range(-1, 7)] == [
        entries[0], entries[0], entries[1], entries[1], entries[1], None, None, None]


# --- blending ---

def test_blending():
    """Eq. 6 with two concepts, two pictures and background: *partition of unity*."""
    weights = torch.tensor([[[[[0.25, 1.0]]], [[[0.0, 0.5]]]], [[[[0.5, 0.0]]], [[[1.0, 0.5]]]]])
    concepts = torch.stack([torch.full((2, 3, 1, 2), value) for value in (16.0, 32.0)])
    result = blend(weights, torch.full((2, 3, 1, 2), 8.0), concepts)
    assert torch.equal(result[:, 1, 0], torch.tensor([[2 + 4 + 16, 16.0], [32.0, 8.0 + 16.0]]))


def test_blending_keeps_the_precision():
    result = blend(torch.full((1, 1, 1, 2, 2), 0.5), torch.ones(1, 4, 2, 2, dtype=torch.float16),
                   torch.ones(1, 1, 4, 2, 2, dtype=torch.float16))
    assert result.dtype == torch.float16


# --- noise ---

class Philox:
    """As the web UI's own generator keeps its state."""

    def __init__(self) -> None:
        self.seed, self.offset = 7, 0


def test_noise_comes_again():
    generator, philox = torch.Generator().manual_seed(3), Philox()
    torch.manual_seed(5)
    noise = Noise.of([generator, philox])

    def draw() -> list[Tensor]:
        philox.offset += 1
        return [torch.randn(3, generator=generator), torch.randn(3), torch.tensor(float(philox.offset))]

    first = draw()
    draw()
    noise.restore([generator, philox])
    assert all(torch.equal(a, b) for a, b in zip(first, draw(), strict=True))


@pytest.mark.parametrize(("blend_start", "progress", "warned"), [
    (0.3, 0.29, True), (0.3, 0.3, False), (1.0, 0.9, False)])
def test_schedule_that_ends_before_the_initiation_timestep_is_said(blend_start, progress, warned):
    def sample(tap: Any) -> Tensor:
        tap.begin(progress, 0)
        x = tap.unet(lambda x, t, cond: x, torch.zeros(1, 1, 1, 1), torch.zeros(1), {}, [Row(0)])
        guidance = SimpleNamespace(scale=lambda own: None, guide=lambda cond, *more: cond)
        return cast(Tensor, tap.guided(Guided(x, x), guidance).prediction)

    text = {"text": torch.zeros(1, 1)}
    prompt = ConceptConditioning(text, [[(0, 1.0)]], text)
    concept = SimpleNamespace(networks={}, has_networks=False, face=None, conditioning=lambda step: prompt,
                              bare=lambda step: prompt)
    host = SimpleNamespace(unet=UNet(), style={}, generators=[], latent_size=(1, 1), device="cpu", stopped=False,
                           sample=sample, unet_input=lambda cond, like, rows: cond)
    request = Request(concepts=(Concept(prompt="dog", phrase="dog"),), blend_start=blend_start, predict="separate")
    places = Places(torch.ones(1, 1, 1, 1, 1), [[np.ones((8, 8), dtype=np.float32)]])
    _, warnings = Session(cast(Any, host), request, Memory(), Models()).second([cast(Any, concept)], places)
    assert any("blend_start" in warning for warning in warnings) is warned


@pytest.mark.parametrize(("steps", "blended", "warned"), [
    (50, 35, False), (50, 17, False), (50, 16, True), (8, 5, False), (6, 4, False), (4, 3, True), (4, 2, True),
    (2, 1, True), (2, 0, True), (4, 4, False), (1, 1, False),
])
def test_concepts_that_have_hardly_any_steps_are_said(steps, blended, warned):
    warnings = too_late(0.3, steps, blended)
    assert bool(warnings) is warned
    assert all("blend_start" in warning for warning in warnings)
    assert too_late(1.0, steps, 0) == []
