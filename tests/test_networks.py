"""Row-wise networks: every type of network on every kind of layer, and the batching of concept rows."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from lycoris.modules.locon import LoConModule
from torch import Tensor, nn

from omg_ext.errors import OMGError
from omg_ext.unet.deltas import Delta, DeltaSum, LowRankDelta, WeightDelta
from omg_ext.unet.networks import ConceptConditioning, ConceptPredictor, RowNetworks
from omg_ext.unet.patches import Hooks, batch_rows
from tests.webui.networks import KINDS, RANK, randomise

LAYERS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(16, 24), (5, 7, 16)),
    "linear without tokens": (lambda: nn.Linear(16, 24, bias=False), (5, 16)),
    "conv": (lambda: nn.Conv2d(16, 24, 3, padding=1), (5, 16, 6, 8)),
    "conv 1x1": (lambda: nn.Conv2d(16, 24, 1), (5, 16, 6, 8)),
    "strided conv": (lambda: nn.Conv2d(16, 24, 3, stride=2, padding=1), (5, 16, 6, 8)),
    "circular conv": (lambda: nn.Conv2d(16, 24, 3, padding=1, padding_mode="circular"), (5, 16, 6, 8)),
    "layer norm": (lambda: nn.LayerNorm(16), (5, 7, 16)),
    "group norm": (lambda: nn.GroupNorm(4, 16), (5, 16, 6, 8)),
}
ROWS, MINE = 5, slice(1, 3)


def fits(kind: str, layer: str) -> bool:
    if KINDS[kind].layers.__name__ == "norms":
        return "norm" in layer
    return "norm" not in layer and (KINDS[kind].layers.__name__ != "linear" or "linear" in layer)


def made(kind: str, layer: nn.Module, seed: int = 0) -> Any:
    """A random LyCORIS module of a kind for a layer."""
    module = KINDS[kind].module("layer", layer, **{"lora_dim": RANK, "alpha": RANK / 2, **KINDS[kind].options})
    randomise(module, layer, torch.Generator().manual_seed(seed))
    return module


def low_rank(module: LoConModule, multiplier: float = 1.0) -> LowRankDelta:
    """As a host reads it from a file."""
    state = module.state_dict()
    return LowRankDelta(state["lora_down.weight"], state["lora_up.weight"], multiplier * float(state["alpha"]) / RANK,
                        state.get("lora_mid.weight"))


def is_low_rank(kind: str) -> bool:
    return KINDS[kind].module is LoConModule and "weight_decompose" not in KINDS[kind].options


def merged_weight(module: Any, layer: Any) -> tuple[Tensor, Tensor | None]:
    """LyCORIS' own merged weight and bias."""
    weight, bias = module.get_merged_weight(1.0, layer.weight.shape)
    return weight.detach(), None if bias is None else bias.detach()


def delta_of(kind: str, module: Any, layer: Any) -> Delta:
    if is_low_rank(kind):
        return low_rank(module)
    weight, bias = merged_weight(module, layer)
    change = None if bias is None else bias if layer.bias is None else bias - layer.bias
    return WeightDelta(weight - layer.weight, change)


def with_weights(layer: Any, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """The layer with other weights, as the host would merge them."""
    merged = copy.deepcopy(layer)
    merged.weight = nn.Parameter(weight)
    if bias is not None:
        merged.bias = nn.Parameter(bias)
    return merged


@torch.no_grad()
@pytest.mark.parametrize(("kind", "layer_name"), [
    (kind, layer) for kind, layer in itertools.product(KINDS, LAYERS) if fits(kind, layer)])
def test_every_network_type_on_its_rows(kind, layer_name):
    """LyCORIS' own merged weight is the reference; other rows stay bit-identical."""
    torch.manual_seed(1)
    make, shape = LAYERS[layer_name]
    layer = make()
    module = made(kind, layer)
    delta = delta_of(kind, module, layer)
    x = torch.randn(shape)
    plain = layer(x)
    with RowNetworks([{layer: delta}]) as networks, networks.acting([(0, MINE)], ROWS):
        result = layer(x)
    expected = with_weights(layer, *merged_weight(module, layer))(x)
    torch.testing.assert_close(result[MINE], expected[MINE], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(result[MINE], plain[MINE], rtol=1e-2, atol=1e-3)
    others = [row for row in range(ROWS) if not MINE.start <= row < MINE.stop]
    assert torch.equal(result[others], plain[others])
    assert torch.equal(layer(x), plain)


@torch.no_grad()
@pytest.mark.parametrize("layer_name", ["linear", "conv"])
@pytest.mark.parametrize("kind", ["lora", "locon-cp", "loha"])
def test_two_concepts_use_one_file(kind, layer_name):
    """Each with its own multiplier, on its own rows, in one call."""
    make, shape = LAYERS[layer_name]
    layer, x = make(), torch.randn(shape)
    module = made(kind, layer)

    def delta(multiplier: float) -> Delta:
        return low_rank(module, multiplier) if is_low_rank(kind) else WeightDelta(multiplier * change)

    change = merged_weight(module, layer)[0] - layer.weight
    plain = layer(x)
    with RowNetworks([{layer: delta(0.5)}, {layer: delta(-1.5)}]) as networks, \
            networks.acting([(0, slice(0, 2)), (1, slice(2, 3))], ROWS):
        result = layer(x)
    effect = with_weights(layer, layer.weight + change, None)(x) - plain
    torch.testing.assert_close(result[:2], plain[:2] + 0.5 * effect[:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result[2:3], plain[2:3] - 1.5 * effect[2:3], rtol=1e-4, atol=1e-5)
    assert torch.equal(result[3:], plain[3:])


@torch.no_grad()
def test_several_networks_on_one_layer():
    layer, x = nn.Linear(16, 24), torch.randn(5, 7, 16)
    modules = [made(kind, layer, seed) for seed, kind in enumerate(("lora", "lokr"))]
    total = DeltaSum([low_rank(modules[0]), delta_of("lokr", modules[1], layer)])
    with RowNetworks([{layer: total}]) as networks, networks.acting([(0, MINE)], ROWS):
        result = layer(x)
    weight = layer.weight + sum(module.get_diff_weight(1.0)[0] for module in modules)
    torch.testing.assert_close(result[MINE], with_weights(layer, weight, None)(x)[MINE], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("layer_name", ["linear", "conv"])
@pytest.mark.parametrize("kind", ["lora", "locon-cp", "loha"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_layers_precision(kind, layer_name, dtype):
    """Networks come in any precision and follow the layer's; the result keeps it."""
    make, shape = LAYERS[layer_name]
    layer, x = make(), torch.randn(shape)
    delta = delta_of(kind, made(kind, layer), layer)
    with RowNetworks([{layer: delta}]) as networks, networks.acting([(0, MINE)], ROWS):
        expected = layer(x)
        result = layer.to(dtype)(x.to(dtype))
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, rtol=5e-2, atol=5e-2)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_outputs_that_are_not_contiguous(kind):
    """A hook of someone else's, before ours, may give back any view."""
    layer, x = nn.Linear(16, 24), torch.randn(5, 7, 16)
    delta = delta_of(kind, made(kind, layer), layer)
    with RowNetworks([{layer: delta}]) as networks, networks.acting([(0, MINE)], ROWS):
        expected = layer(x)
    layer.register_forward_hook(lambda module, args, output: output.transpose(1, 2).contiguous().transpose(1, 2))
    with RowNetworks([{layer: delta}]) as networks, networks.acting([(0, MINE)], ROWS):
        result = layer(x.transpose(0, 1).contiguous().transpose(0, 1))
    assert not result.is_contiguous()
    torch.testing.assert_close(result, expected)


@torch.no_grad()
def test_scale_is_taken_into_account_once():
    """The second call and the second run must not scale again."""
    layer, x = nn.Linear(16, 24), torch.randn(5, 7, 16)
    delta = low_rank(made("lora", layer), 0.3)
    results = []
    for _ in range(2):
        with RowNetworks([{layer: delta}]) as networks, networks.acting([(0, MINE)], ROWS):
            results += [layer(x), layer(x)]
    assert all(torch.equal(result, results[0]) for result in results)


@torch.no_grad()
def test_tiles_belong_to_their_rows():
    """HyperTile cuts each row into consecutive tiles, so a layer sees a multiple of the UNet's rows."""
    layer, x = nn.Linear(16, 24), torch.randn(15, 7, 16)
    delta = low_rank(made("lora", layer))
    with RowNetworks([{layer: delta}]) as networks:
        with networks.acting([(0, MINE)], ROWS):
            result = layer(x)
        with networks.acting([(0, slice(0, 15))], 15):
            expected = layer(x)
    changed = [row for row in range(15) if not torch.equal(result[row], layer(x)[row])]
    assert changed == [3, 4, 5, 6, 7, 8]
    torch.testing.assert_close(result[3:9], expected[3:9])


@pytest.mark.parametrize(("rows", "total", "batch", "expected"), [
    (slice(1, 3), 4, 4, slice(1, 3)), (slice(1, 3), 4, 8, slice(2, 6)), (slice(0, 0), 2, 6, slice(0, 0))])
def test_batch_rows(rows, total, batch, expected):
    assert batch_rows(rows, total, batch) == expected


@pytest.mark.parametrize("batch", [3, 5, 2])
def test_rows_that_cannot_be_told_apart(batch):
    with pytest.raises(RuntimeError, match=f"{batch} rows in a UNet call of 4"):
        batch_rows(slice(0, 1), 4, batch)


def test_hooks_go_with_the_block():
    layers = [nn.Linear(2, 2) for _ in range(3)]
    with Hooks() as hooks:
        for layer in layers:
            hooks.on_output(layer, lambda module, args, output: None)
        assert all(len(layer._forward_hooks) == 1 for layer in layers)
    assert not any(layer._forward_hooks for layer in layers)


# --- batching ---

class Model:
    """Stands in for a host's UNet: a row's output depends on its latent, its time, its conditioning and its concept.

    Args:
        room: it runs out of memory beyond so many rows.
    """

    def __init__(self, layer: nn.Module, room: int):
        self.layer, self.room = layer, room
        self.calls: list[list[int]] = []

    def __call__(self, x: Tensor, t: Tensor, cond: dict[str, Tensor], pictures: Sequence[int]) -> Tensor:
        assert len(x) == len(t) == len(pictures) == len(cond["text"])
        assert torch.equal(t, torch.tensor(TIMES)[list(pictures)])
        if len(x) > self.room:
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


def expected_prediction(x: Tensor, pictures: Sequence[Sequence[int]], scales: Sequence[float | None]) -> Tensor:
    """Concept by concept, row by row."""
    guided = torch.zeros(3, *x.shape)
    for concept, (cond, parts, uncond) in enumerate(CONDITIONINGS):
        for picture in pictures[concept]:
            def row(text: Tensor, picture: int = picture, concept: int = concept) -> Tensor:
                return row_output(x[picture:picture + 1], text.sum()[None], torch.tensor([MARKS[concept]]))[0]

            scale = scales[concept]
            first = row(cond["text"][parts[picture][0][0]])
            base = first if scale is None else row(uncond["text"][picture])
            guided[concept, picture] = base + (scale or 1) * sum(
                weight * (row(cond["text"][part]) - base) for part, weight in parts[picture])
    return guided


def predict(rows_per_call: int, pictures: Sequence[Sequence[int]] = ((0, 1),) * 3,
            scales: Sequence[float | None] = SCALES, room: int = 100) -> tuple[Any, Model, Tensor]:
    x = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(9))
    layer = nn.Linear(1, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    with torch.no_grad(), RowNetworks([{layer: WeightDelta(torch.full((1, 1), mark))} for mark in MARKS]) as networks:
        model = Model(layer, room)
        predictor = ConceptPredictor(networks, pictures, rows_per_call)
        prediction = predictor(model, x, torch.tensor(TIMES), CONDITIONINGS, scales)
    return prediction, model, x


@pytest.mark.parametrize("rows_per_call", [0, 1, 2, 3, 100])
@pytest.mark.parametrize("pictures", [[[0, 1], [0, 1], [0, 1]], [[0], [1], [0, 1]], [[], [0], [1]]])
def test_prediction_is_that_of_single_rows(rows_per_call, pictures):
    prediction, model, x = predict(rows_per_call, pictures, SCALES)
    torch.testing.assert_close(prediction.guided, expected_prediction(x, pictures, SCALES))
    assert all(len(call) <= (rows_per_call or 100) and len(set(call)) == 1 for call in model.calls)
    rows = sum(len(CONDITIONINGS[concept].parts[picture]) + 1 for concept in range(3) for picture in pictures[concept])
    assert sum(map(len, model.calls)) == rows
    for concept in range(3):  # where a concept is not, its weight is 0, and so is its prediction
        assert not prediction.guided[concept, [picture for picture in (0, 1) if picture not in pictures[concept]]].any()


def test_one_call_per_prompt_length():
    _, model, _ = predict(0)
    assert sorted(map(len, model.calls)) == [2, 11]


def test_without_guidance_no_unconditional_rows():
    pictures = [[0, 1]] * 3
    prediction, model, x = predict(0, pictures, (None, 2.0, None))
    torch.testing.assert_close(prediction.guided, expected_prediction(x, pictures, (None, 2.0, None)))
    assert sum(map(len, model.calls)) == 2 + 4 + 3


def test_unconditional_predictions_are_given_too():
    pictures = [[0, 1]] * 3
    prediction, _, x = predict(0, pictures, SCALES)
    for concept, (_, _, uncond) in enumerate(CONDITIONINGS):
        expected = row_output(x, uncond["text"].sum((1, 2)), torch.tensor([MARKS[concept]] * 2))
        torch.testing.assert_close(prediction.uncond[concept], expected)


def test_rows_that_do_not_fit_go_in_smaller_calls():
    prediction, model, x = predict(0, room=3)
    torch.testing.assert_close(prediction.guided, expected_prediction(x, [[0, 1]] * 3, SCALES))
    assert max(map(len, model.calls)) <= 3
    assert sum(map(len, model.calls)) == 13


def test_not_even_one_row_fits():
    with pytest.raises(OMGError) as caught:
        predict(0, room=0)
    assert caught.value.field == "concepts"
    for part in ("memory", "lower", "batch size"):
        assert part in caught.value.message
