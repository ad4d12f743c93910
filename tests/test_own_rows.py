"""Predicting concepts by rows of their own, the batching of their rows, and what happens where rows do not fit."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn

from omg_ext.host import ConceptConditioning, Guided
from omg_ext.predict.base import Cast, GlobalCall, Point, scale_at
from omg_ext.predict.guidance import classifier_free_guidance
from omg_ext.predict.own_rows import OwnRows
from omg_ext.unet.calls import ReplayingCall, Row, UNetCall, join, select
from omg_ext.unet.deltas import FullWeight
from omg_ext.unet.evaluator import Evaluator, RowLimit, repeated
from omg_ext.unet.networks import RowNetworks, of_concept
from omg_ext.unet.patches import Patches


class Model:
    """Stands in for a host's UNet: a row's output depends on its latent, its time, its conditioning and its concept.

    Args:
        room: it runs out of memory beyond so many rows.
    """

    def __init__(self, layer: nn.Module, room: int):
        self.layer, self.room = layer, room
        self.calls: list[list[int]] = []
        self.refused = 0

    def __call__(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        assert len(x) == len(t) == len(cond["text"]) == len(cond["time"])
        assert torch.equal(t, cond["time"])  # the picture's own, of which the host takes its part of the conditioning
        if len(x) > self.room:
            self.refused += 1
            raise torch.cuda.OutOfMemoryError("no room")
        self.calls.append([int(tokens.shape[0]) for tokens in cond["text"]])
        mark = self.layer(torch.ones(len(x), 1))  # each concept's network marks its rows
        return row_output(x, cond["text"].sum((1, 2)), mark[:, 0])


TIMES = [3.0, 5.0]


def row_output(x: Tensor, text: Tensor, mark: Tensor) -> Tensor:
    return x * text[:, None, None, None] + mark[:, None, None, None]


def conditioning(seed: int, lengths: tuple[int, int],
                 parts: Sequence[Sequence[tuple[int, float]]]) -> ConceptConditioning:
    """Random, with prompts of ``lengths`` tokens (cond, uncond); two pictures."""
    generator = torch.Generator().manual_seed(seed)
    cond = torch.randn(1 + max(row for rows in parts for row, _ in rows), lengths[0], 3, generator=generator)
    uncond = torch.randn(2, lengths[1], 3, generator=generator)
    return ConceptConditioning({"text": cond}, parts, {"text": uncond})


CONDITIONINGS = [
    conditioning(0, (4, 4), [[(0, 1.0)], [(0, 1.0)]]),
    conditioning(1, (8, 4), [[(0, 1.0)], [(1, 1.0)]]),  # a long prompt
    conditioning(2, (4, 4), [[(0, 0.7), (1, 0.6)], [(2, 1.0)]]),  # AND in the first picture
]
MARKS = (10.0, 20.0, 30.0)
SCALES = (5.0, 2.0, 7.5)
# of the second concept, which has a negative prompt of its own, without its networks
BARE = [conditioning(seed, (len(each.cond["text"][0]), len(each.uncond["text"][0])), each.parts)
        for seed, each in enumerate(CONDITIONINGS, 10)]
NEGATIVES = (None, "ugly", None)
Numbers = Sequence[float | None]


def expected_prediction(x: Tensor, pictures: Sequence[Sequence[int]], scales: Numbers, uncond: Tensor | None = None,
                        lora_guidance: float = 0.0) -> Tensor:
    """Concept by concept, row by row.

    Args:
        uncond: the picture's unconditional prediction, if the concepts without a negative prompt share it.
    """
    guided = torch.zeros(3, *x.shape)
    for concept, (conditioning, bare) in enumerate(zip(CONDITIONINGS, BARE, strict=True)):
        for picture in pictures[concept]:
            def row(text: Tensor, mark: float, picture: int = picture) -> Tensor:
                return row_output(x[picture:picture + 1], text.sum()[None], torch.tensor([mark]))[0]

            scale, parts = scales[concept], conditioning.parts[picture]
            base = row(conditioning.cond["text"][parts[0][0]], MARKS[concept])
            if scale is not None and uncond is None:
                base = row(conditioning.uncond["text"][picture], MARKS[concept])
            elif scale is not None and NEGATIVES[concept] is not None:
                base = row(bare.uncond["text"][picture], 0.0)
            elif scale is not None and uncond is not None:
                base = uncond[picture]
            guided[concept, picture] = base
            for part, weight in parts:
                cond = row(conditioning.cond["text"][part], MARKS[concept])
                guided[concept, picture] += weight * (scale or 1) * (cond - base)
                guided[concept, picture] += weight * lora_guidance * (cond - row(bare.cond["text"][part], 0.0))
    return guided


class Host:
    """Its conditioning has a part that no prompt decides: the picture's time."""

    def __init__(self, is_guided: bool = True):
        self.is_guided = is_guided

    def unet_input(self, cond: dict[str, Tensor], like: dict[str, Tensor], rows: Any) -> dict[str, Tensor]:
        return {**cond, "time": like["time"]}

    def scale(self, own: float | None) -> float | None:
        return own if own is not None or not self.is_guided else 1.0

    def guide(self, cond: Tensor, parts: Any, uncond: Tensor, scale: float, pictures: Sequence[int]) -> Tensor:
        return classifier_free_guidance(cond, parts, uncond, scale)


class Predicted(NamedTuple):
    prediction: Guided
    model: Model
    x: Tensor
    limit: RowLimit
    uncond: Tensor


def predict(rows_per_call: int, pictures: Sequence[Sequence[int]] = ((0, 1),) * 3, scales: Numbers = SCALES,
            room: int = 100, is_shared: bool = False, lora_guidance: float = 0.0, is_guided: bool = True,
            is_controlled: bool = True) -> Predicted:
    x = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(9))
    layer = nn.Linear(1, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    model, limit, times = Model(layer, room), RowLimit(rows_per_call), torch.tensor(TIMES)
    host: Any = Host(is_guided)
    concepts: Any = [SimpleNamespace(has_networks=True, networks={layer: FullWeight(torch.full((1, 1), mark))},
                                     conditioning=lambda step, each=each: each, bare=lambda step, other=other: other)
                     for mark, each, other in zip(MARKS, CONDITIONINGS, BARE, strict=True)]
    wishes: Any = [SimpleNamespace(cfg_scale=scale, negative_prompt=negative, lora_guidance=lora_guidance)
                   for scale, negative in zip(scales, NEGATIVES, strict=True)]
    with torch.no_grad(), Patches(layer) as patches:
        RowNetworks(patches, [(of_concept(index), concept.networks) for index, concept in enumerate(concepts)])
        own_rows = OwnRows(Cast(host, Evaluator(patches, limit), wishes, concepts, pictures, 0.3,
                                is_controlled=is_controlled), is_shared)
        rows = (Row(0), Row(1), Row(0, part=None), Row(1, part=None))
        call = GlobalCall(model, torch.cat([x, x]), torch.cat([times, times]),
                          {"text": torch.zeros(4, 1, 3), "time": torch.cat([times, times])}, rows)
        plain = Guided(x * 2, x * 3)
        prediction = own_rows(Point([call], 0, 0.5), plain, host)
    return Predicted(prediction, model, x, limit, plain.uncond)


@pytest.mark.parametrize("rows_per_call", [0, 1, 2, 3, 100])
@pytest.mark.parametrize("pictures", [[[0, 1], [0, 1], [0, 1]], [[0], [1], [0, 1]], [[], [0], [1]]])
@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("lora_guidance", [0.0, 2.0])
def test_prediction_is_that_of_single_rows(rows_per_call, pictures, is_shared, lora_guidance):
    """*rows do not matter*"""
    prediction, model, x, _, uncond = predict(rows_per_call, pictures, SCALES, is_shared=is_shared,
                                              lora_guidance=lora_guidance)
    torch.testing.assert_close(prediction.prediction, expected_prediction(
        x, pictures, SCALES, uncond if is_shared else None, lora_guidance))
    assert all(len(call) <= (rows_per_call or 100) and len(set(call)) == 1 for call in model.calls)
    rows = 0
    for concept, own in enumerate(pictures):
        parts = sum(len(CONDITIONINGS[concept].parts[picture]) for picture in own)
        has_uncond = not is_shared or NEGATIVES[concept] is not None
        rows += parts * (2 if lora_guidance else 1) + has_uncond * len(own)
    assert sum(map(len, model.calls)) == rows
    for concept in range(3):  # where a concept is not, its weight is 0, and so is its prediction
        absent = [picture for picture in (0, 1) if picture not in pictures[concept]]
        assert not prediction.prediction[concept, absent].any()


@pytest.mark.parametrize("picture", [{"is_guided": False}, {"is_controlled": False}], ids=str)
def test_a_concept_that_is_guided_in_another_way_has_a_row_for_it(picture):
    """The picture's scale is 1, so that there is no unconditional prediction to share; or that has a condition in it
    which the concept is to be free of."""
    predicted = predict(0, [[0, 1], [], []], (5.0, None, None), is_shared=True, **picture)
    x, (cond, parts, _) = predicted.x, CONDITIONINGS[0]
    for picture in (0, 1):
        base = row_output(x[picture:picture + 1], BARE[0].uncond["text"][picture].sum()[None], torch.zeros(1))[0]
        own = row_output(x[picture:picture + 1], cond["text"][parts[picture][0][0]].sum()[None],
                         torch.tensor([MARKS[0]]))[0]
        torch.testing.assert_close(predicted.prediction.prediction[0, picture], base + 5 * (own - base))


@pytest.mark.parametrize(("cfg_scale", "progress", "expected"), [
    (None, 0.5, None), (6.0, 0.5, 6.0), ((12.0, 4.0), 0.2, 12.0), ((12.0, 4.0), 0.6, 8.0), ((12.0, 4.0), 1.0, 4.0),
    ((12.0, 4.0), 0.1, 12.0), ((4.0, 12.0), 0.4, 6.0)])
def test_a_pair_of_scales_changes_evenly(cfg_scale, progress, expected):
    assert scale_at(cfg_scale, progress, 0.2) == pytest.approx(expected)


@pytest.mark.parametrize(("of_picture", "progress", "expected"), [
    (7.0, 0.3, 10.0), (7.0, 1.0, 7.0), (7.0, 0.65, 8.5), (1.0, 0.3, 1.0), (None, 0.3, None)])
def test_a_concept_that_asks_for_no_scale_leads_a_little(of_picture, progress, expected):
    """Half as much guidance again at first, of what is beyond 1; with none the picture has none."""
    host: Any = SimpleNamespace(scale=lambda own: of_picture if own is None else own)
    prompt = CONDITIONINGS[0]
    loaded: Any = [SimpleNamespace(conditioning=lambda step: prompt, bare=lambda step: prompt, has_networks=True)] * 2
    wishes: Any = [SimpleNamespace(cfg_scale=scale, lora_guidance=0.0) for scale in (None, 4.0)]
    cast_ = Cast(host, cast(Any, None), wishes, loaded, [[0], [0]], 0.3, lead=1.5)
    automatic, own = cast_.at(Point([], 0, progress), host)
    assert automatic.scale == (None if expected is None else pytest.approx(expected))
    assert own.scale == 4.0


def test_one_call_per_prompt_length():
    model = predict(0).model
    assert sorted(map(len, model.calls)) == [2, 11]


def test_without_guidance_no_unconditional_rows():
    pictures = [[0, 1]] * 3
    prediction, model, x, _, _ = predict(0, pictures, (None, 2.0, None), is_guided=False)
    torch.testing.assert_close(prediction.prediction, expected_prediction(x, pictures, (None, 2.0, None)))
    assert sum(map(len, model.calls)) == 2 + 4 + 3


def test_unconditional_predictions_are_given_too():
    pictures = [[0, 1]] * 3
    prediction, _, x, _, _ = predict(0, pictures, SCALES)
    for concept, (_, _, uncond) in enumerate(CONDITIONINGS):
        expected = row_output(x, uncond["text"].sum((1, 2)), torch.tensor([MARKS[concept]] * 2))
        torch.testing.assert_close(prediction.uncond[concept], expected)


def test_rows_that_do_not_fit_go_in_smaller_calls():
    prediction, model, x, limit, _ = predict(0, room=3)
    torch.testing.assert_close(prediction.prediction, expected_prediction(x, [[0, 1]] * 3, SCALES))
    assert max(map(len, model.calls)) <= 3
    assert sum(map(len, model.calls)) == 13
    assert (limit.rows, model.refused) == (2, 2)  # 11, 5, 2
    again = predict(limit.rows, room=3)
    assert again.model.refused == 0
    assert torch.equal(again.prediction.prediction, prediction.prediction)


def test_not_even_one_row_fits():
    with pytest.raises(torch.cuda.OutOfMemoryError):
        predict(0, room=0)


# --- rows in parts ---

def test_points():
    """A row of each picture, whatever calls the host made."""
    rows = [Row(0), Row(1, None, None), Row(0, None, None), Row(1), Row(2)]
    x = torch.arange(5.0)[:, None, None, None]
    calls = [GlobalCall(cast(Any, None), x[part], x[part, 0, 0, 0], {"text": x[part]}, tuple(rows[part]))
             for part in (slice(0, 1), slice(1, 3), slice(3, 5))]
    point = Point(calls, 4, 0.5)
    for wanted, expected in (([Row(0), Row(1), Row(2)], [0, 3, 4]), ([Row(1, part=None), Row(0, part=None)], [1, 2]),
                             ([Row(0, part=1), Row(2, part=None)], [0, 4])):
        taken, t, cond = point.inputs(wanted)
        assert taken.flatten().tolist() == t.tolist() == cond["text"].flatten().tolist() == expected
    assert [point.source(row) for row in rows] == [0, 1, 1, 2, 2]
    assert (point.step, point.progress, point.grid) == (4, 0.5, (1, 1))


@pytest.mark.parametrize("rows", [[0, 1], [2], [], [2, 0], [0, 2, 1, 2]])
def test_select_and_join(rows):
    a, b = torch.arange(6.0).reshape(3, 2), torch.arange(3.0)
    cond = {"crossattn": a, "c_concat": [b], "nested": {"vector": (a, b)}}
    longer = join([cond, select(cond, rows)])
    assert torch.equal(longer["crossattn"], torch.cat([a, a[rows]]))
    assert torch.equal(longer["c_concat"][0], torch.cat([b, b[rows]]))
    assert torch.equal(longer["nested"]["vector"][0], torch.cat([a, a[rows]]))
    assert torch.equal(join([a]), a)
    assert torch.equal(select(a, rows), a[rows])


@pytest.mark.parametrize("room", [100, 4, 3, 2])
@pytest.mark.parametrize("replayed", [False, True])
def test_rows_that_repeat_the_first_pass_stay_with_theirs(room, replayed):
    """*rows do not matter*: each part of a call has its own conditional rows' queries, or the rows that make them."""
    rows = [Row(0), Row(0, None, None), Row(1), Row(1, None, None)]
    x, limit = torch.arange(4.0), RowLimit()
    call, t, cond = UNetCall(tuple(rows), 0.5, (1, 1)), x + 10, {"text": x + 20}
    inputs: tuple[UNetCall, Tensor, Tensor, Any] = (call, x, t, cond)
    if replayed:
        inputs = (ReplayingCall(call.rows, 0.5, (1, 1), queries={"layer": x[[0, 2]]}), x, t, cond)
    else:
        inputs = repeated(call, [0, 2], x, t, cond, torch.tensor([100.0, 102.0]), t[[0, 2]])
    patches, refused = Patches(nn.Module()), []

    def evaluate(x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        if len(x) > room:
            refused.append(len(x))
            raise torch.cuda.OutOfMemoryError("no room")
        running = patches.call
        assert running is not None
        assert len(running.rows) == len(x)
        assert torch.equal(t, x % 100 + 10)
        assert torch.equal(cond["text"], x % 100 + 20)
        own = [value for value, row in zip(x.tolist(), running.rows, strict=True)
               if row.part is not None and not row.repeats_first]
        again = [value - 100 for value, row in zip(x.tolist(), running.rows, strict=True) if row.repeats_first]
        assert own == (running.queries["layer"].tolist() if isinstance(running, ReplayingCall) else again)
        return x * 2

    for _ in range(2):
        assert torch.equal(Evaluator(patches, limit)(evaluate, *inputs), x * 2)
    sizes = [4, 2] if replayed else [6, 3]
    assert refused == [size for size in sizes if size > room]
    assert limit.rows == [0, 2, 1][len(refused)]


@pytest.mark.parametrize("tiles", [1, 3])
def test_a_part_of_a_call_has_its_part_of_the_queries(tiles):
    """HyperTile cuts rows into tiles: a part once had as many tiles as it has rows, and lost its layout."""
    rows = (Row(0), Row(0, None, None), Row(1), Row(2))
    queries = torch.arange(3.0 * tiles)[:, None]
    call = ReplayingCall(rows, 0.5, (1, 1), queries={"layer": queries})
    expected = queries.reshape(3, tiles, 1)[[0, 2]].flatten(0, 1)
    part = call.select([0, 1, 3])
    assert isinstance(part, ReplayingCall)
    assert torch.equal(part.queries["layer"], expected)
    assert not isinstance(part.select([1]).select([0]), ReplayingCall)


def test_what_is_kept_is_given_up_for_a_single_row():
    """Stored queries may take what one row needs; they are computed again then."""
    given_up: list[int] = []

    def evaluate(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        if len(x) > 1 or not given_up:
            raise torch.cuda.OutOfMemoryError("no room")
        return x * 2

    def relieve() -> bool:
        given_up.append(1)
        return len(given_up) == 1

    x = torch.arange(2.0)
    call = UNetCall((Row(0), Row(1)), 0.5, (1, 1))
    assert torch.equal(Evaluator(Patches(nn.Module()), RowLimit(), relieve)(evaluate, call, x, x, {"text": x}), x * 2)
    assert given_up == [1]
