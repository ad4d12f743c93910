"""Row-wise networks: every type of network on every kind of layer, in the layer's precision, on the right rows."""

from __future__ import annotations

import copy
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from lycoris.modules.locon import LoConModule
from torch import Tensor, nn

from omg_ext.errors import OMGError
from omg_ext.unet.calls import Row, UNetCall
from omg_ext.unet.deltas import Delta, Deltas, FullWeight, LowRank, Source, Sources, summed
from omg_ext.unet.networks import RowNetworks, of_concept
from omg_ext.unet.patches import Patches
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
MINE = slice(1, 3)
ROWS = (Row(0), Row(0, 0), Row(1, 0, None), Row(1), Row(0, None, None))


@contextmanager
def acting(networks: Sequence[Sources], rows: Sequence[Row] = ROWS, full_budget: int = 1 << 62) -> Iterator[None]:
    """The networks of concepts 0, 1 and so on in a call of these rows."""
    with Patches(nn.Module()) as patches:
        RowNetworks(patches, [(of_concept(index), deltas) for index, deltas in enumerate(networks)],
                    Deltas(full_budget))
        with patches.running(UNetCall(tuple(rows), 0.5, (6, 8))):
            yield


def fits(kind: str, layer: str) -> bool:
    if KINDS[kind].layers.__name__ == "norms":
        return "norm" in layer
    return "norm" not in layer and (KINDS[kind].layers.__name__ != "linear" or "linear" in layer)


def made(kind: str, layer: nn.Module, seed: int = 0) -> Any:
    """A random LyCORIS module of a kind for a layer."""
    module = KINDS[kind].module("layer", layer, **{"lora_dim": RANK, "alpha": RANK / 2, **KINDS[kind].options})
    randomise(module, layer, torch.Generator().manual_seed(seed))
    return module


def low_rank(module: LoConModule, multiplier: float = 1.0) -> LowRank:
    """As a host reads it from a file."""
    state = module.state_dict()
    return LowRank(state["lora_down.weight"], state["lora_up.weight"], multiplier * float(state["alpha"]) / RANK,
                   state.get("lora_mid.weight"))


def is_low_rank(kind: str) -> bool:
    return KINDS[kind].module is LoConModule and "weight_decompose" not in KINDS[kind].options


def merged_weight(module: Any, layer: Any) -> tuple[Tensor, Tensor | None]:
    """LyCORIS' own merged weight and bias."""
    weight, bias = module.get_merged_weight(1.0, layer.weight.shape)
    return weight.detach(), None if bias is None else bias.detach()


def source_of(kind: str, module: Any, layer: Any) -> Source:
    if is_low_rank(kind):
        return low_rank(module)
    weight, bias = merged_weight(module, layer)
    change = None if bias is None else bias if layer.bias is None else bias - layer.bias
    return FullWeight(weight - layer.weight, change)


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
    source = source_of(kind, module, layer)
    x = torch.randn(shape)
    plain = layer(x)
    with acting([{layer: source}]):
        result = layer(x)
    expected = with_weights(layer, *merged_weight(module, layer))(x)
    torch.testing.assert_close(result[MINE], expected[MINE], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(result[MINE], plain[MINE], rtol=1e-2, atol=1e-3)
    others = [row for row in range(len(ROWS)) if not MINE.start <= row < MINE.stop]
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

    def source(multiplier: float) -> Source:
        return low_rank(module, multiplier) if is_low_rank(kind) else FullWeight(multiplier * change)

    change = merged_weight(module, layer)[0] - layer.weight
    plain = layer(x)
    with acting([{layer: source(0.5)}, {layer: source(-1.5)}], [Row(0, 0), Row(1, 0), Row(0, 1), Row(0), Row(1)]):
        result = layer(x)
    effect = with_weights(layer, layer.weight + change, None)(x) - plain
    torch.testing.assert_close(result[:2], plain[:2] + 0.5 * effect[:2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result[2:3], plain[2:3] - 1.5 * effect[2:3], rtol=1e-4, atol=1e-5)
    assert torch.equal(result[3:], plain[3:])


@torch.no_grad()
def test_several_networks_on_one_layer():
    layer, x = nn.Linear(16, 24), torch.randn(5, 7, 16)
    modules = [made(kind, layer, seed) for seed, kind in enumerate(("lora", "lokr"))]
    with acting([summed([{layer: low_rank(modules[0])}, {layer: source_of("lokr", modules[1], layer)}])]):
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
    source = source_of(kind, made(kind, layer), layer)
    with acting([{layer: source}]):
        expected = layer(x)
        result = layer.to(dtype)(x.to(dtype))
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), expected, rtol=5e-2, atol=5e-2)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["lora", "loha"])
def test_outputs_that_are_not_contiguous(kind):
    """A hook of someone else's, before ours, may give back any view."""
    layer, x = nn.Linear(16, 24), torch.randn(5, 7, 16)
    source = source_of(kind, made(kind, layer), layer)
    with acting([{layer: source}]):
        expected = layer(x)
    layer.register_forward_hook(lambda module, args, output: output.transpose(1, 2).contiguous().transpose(1, 2))
    with acting([{layer: source}]):
        result = layer(x.transpose(0, 1).contiguous().transpose(0, 1))
    assert not result.is_contiguous()
    torch.testing.assert_close(result, expected)


@torch.no_grad()
def test_scale_is_taken_into_account_once():
    """The second call and the second run must not scale again."""
    layer, x = nn.Linear(16, 24), torch.randn(5, 7, 16)
    source = low_rank(made("lora", layer), 0.3)
    results = []
    for _ in range(2):
        with acting([{layer: source}]):
            results += [layer(x), layer(x)]
    assert all(torch.equal(result, results[0]) for result in results)


@torch.no_grad()
def test_tiles_belong_to_their_rows():
    """HyperTile cuts each row into consecutive tiles, so a layer sees a multiple of the UNet's rows."""
    layer, x = nn.Linear(16, 24), torch.randn(15, 7, 16)
    source = low_rank(made("lora", layer))
    with acting([{layer: source}]):
        result = layer(x)
    with acting([{layer: source}], [Row(0, 0)] * 15):
        expected = layer(x)
    changed = [row for row in range(15) if not torch.equal(result[row], layer(x)[row])]
    assert changed == [3, 4, 5, 6, 7, 8]
    torch.testing.assert_close(result[3:9], expected[3:9])


@pytest.mark.parametrize(("rows", "batch", "expected"), [
    (ROWS, 5, [slice(1, 3)]), (ROWS, 10, [slice(2, 6)]), (ROWS[3:], 6, []),
    (ROWS * 2, 20, [slice(2, 6), slice(12, 16)]), ([Row(0, 1)], 1, []),
    ([Row(0, 0), Row(0), Row(1, 0)], 0, [slice(0, 1), slice(2, 3)])])
def test_runs(rows, batch, expected):
    call = UNetCall(tuple(rows), 0.0, (1, 1))
    which = of_concept(0)
    for _ in range(2):
        assert call.runs(which, batch) == tuple(expected)


@pytest.mark.parametrize("batch", [3, 5, 2])
def test_rows_that_cannot_be_told_apart(batch):
    with pytest.raises(OMGError, match=f"{batch} rows in a UNet call of 4") as caught:
        UNetCall(ROWS[:4], 0.0, (1, 1)).runs(of_concept(0), batch)
    assert caught.value.field == "other extensions"


def test_hooks_go_with_the_block():
    """*nothing remains*"""
    layers = [nn.Linear(2, 2) for _ in range(3)]
    with Patches(nn.Module()) as patches:
        for layer in layers:
            patches.on_output(layer, lambda call, module, args, output: None)
        assert all(len(layer._forward_hooks) == 1 for layer in layers)
    assert not any(layer._forward_hooks for layer in layers)


@torch.no_grad()
def test_only_the_thread_of_the_call_is_touched():
    """*off is off*: whoever evaluates the model meanwhile, in another thread, once got some concept's networks."""
    layer, x = nn.Linear(16, 24), torch.randn(3, 7, 16)
    plain, results = layer(x), []

    @torch.no_grad()
    def other() -> None:
        results.append(layer(x))

    with acting([{layer: low_rank(made("lora", layer))}], [Row(0, 0)] * 3):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert not torch.equal(layer(x), plain)
    assert torch.equal(results[0], plain)


# --- where the layer computes ---

@dataclass(frozen=True, eq=False)
class Watched:
    """A source that notes when it is resolved, and for what."""

    source: Source
    seen: list[tuple[bool, torch.dtype]] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)

    def resolve(self, layer: nn.Module, y: Tensor) -> Delta:
        assert y.shape[0] == len(ROWS)
        self.seen.append((torch.is_autocast_enabled("cpu"), y.dtype))
        self.deltas.append(self.source.resolve(layer, y))
        return self.deltas[-1]


def tensors_of(delta: Any) -> list[Tensor]:
    return [tensor for value in vars(delta).values()
            for tensor in ([value] if isinstance(value, Tensor) else
                           [part for each in value for part in tensors_of(each)] if isinstance(value, tuple) else [])]


RESOLVED = [("lora", "linear"), ("locon", "conv"), ("locon-cp", "conv"), ("loha", "linear"), ("lokr", "conv"),
            ("norm", "layer norm"), ("norm", "group norm")]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "layer_name"), RESOLVED)
def test_resolved_in_the_first_forward(kind, layer_name, dtype):
    """*row-wise is merged*: networks were once made from the host's weights outside of any forward.

    Now it happens once, inside the first forward, in the dtype that autocast gives the output.
    """
    make, shape = LAYERS[layer_name]
    layer = make()
    x, module = torch.randn(shape), made(kind, layer)
    watched = Watched(source_of(kind, module, layer))
    autocast = torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else nullcontext()
    for run in range(2):
        with acting([{layer: watched}]), autocast:
            assert len(watched.seen) == run
            results = [layer(x) for _ in range(3)]
        assert len(watched.seen) == run + 1
    with autocast:
        out = layer(x).dtype
        expected = with_weights(layer, *merged_weight(module, layer))(x)
    assert watched.seen == [(dtype == torch.bfloat16, out)] * 2
    assert out == (torch.float32 if "norm" in layer_name else dtype)
    assert all(tensor.dtype == out for tensor in tensors_of(watched.deltas[0]))
    assert all(torch.equal(result, results[0]) for result in results)
    assert results[0].dtype == out
    rtol, atol = (1e-4, 1e-5) if out == torch.float32 else (5e-2, 5e-2)
    torch.testing.assert_close(results[0][MINE], expected[MINE], rtol=rtol, atol=atol)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "layer_name"), RESOLVED)
def test_full_networks_beyond_their_budget(kind, layer_name, dtype):
    """They are made again in each call, with the same result; low-rank ones are always kept."""
    make, shape = LAYERS[layer_name]
    layer = make().to(dtype)
    x, source = torch.randn(shape).to(dtype), source_of(kind, made(kind, layer.float()), layer)
    layer = layer.to(dtype)
    size, results = source.resolve(layer, x).nbytes, []
    assert size == sum(tensor.numel() * dtype.itemsize for tensor in tensors_of(source.resolve(layer, x)))
    for budget, resolved in ((size, 1), (size - 1, 1 if is_low_rank(kind) else 3), (0, 1 if is_low_rank(kind) else 3)):
        watched = Watched(source)
        with acting([{layer: watched}], full_budget=budget):
            results += [layer(x) for _ in range(3)]
        assert len(watched.seen) == resolved
    assert all(torch.equal(result, results[0]) for result in results)


@torch.no_grad()
def test_the_budget_is_that_of_all_layers():
    layers = [nn.Linear(16, 16, bias=False) for _ in range(3)]
    watched = [Watched(FullWeight(torch.randn(16, 16))) for _ in layers]
    with acting([dict(zip(layers, watched, strict=True))], full_budget=2 * 4 * 16 * 16):
        for _ in range(2):
            for layer in layers:
                layer(torch.randn(5, 16))
    assert [len(each.seen) for each in watched] == [1, 1, 2]
