"""What is recorded in the first pass, where it waits, and what of it is replayed on which rows in the second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from omg_ext.request import Layout
from omg_ext.unet.layout import LayoutPreservation
from omg_ext.unet.query_store import Entry, QueryStore, size_of

ROOM = 2**20
CPU = torch.device("cpu")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(4, 4, bias=False) for _ in range(3))


class UNet(nn.Module):
    """Levels of attention blocks; a call runs their queries and keys and keeps them. The uppermost may be tiled."""

    def __init__(self, tokens: Sequence[int] = (16, 4)) -> None:
        super().__init__()
        self.tokens = tokens
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attn1": Attention(), "attn2": Attention()}) for _ in tokens)
        self.seen: dict[str, Tensor] = {}

    @torch.no_grad()
    def forward(self, x: Tensor, tiles: int = 1) -> Tensor:
        """x: one number per row."""
        block: Any
        for index, (block, tokens) in enumerate(zip(self.blocks, self.tokens, strict=True)):
            pieces = 1 if index else tiles
            rows = x[:, None, None].expand(-1, tokens, 4).reshape(len(x) * pieces, tokens // pieces, 4)
            for name in ("attn1", "attn2"):
                for part in ("to_q", "to_k"):
                    self.seen[f"{index}.{name}.{part}"] = getattr(block[name], part)(rows)
        return x


def name(index: int, attention: str, part: str) -> str:
    return f"blocks.{index}.{attention}" + ("" if attention == "attn2" else f".{part}")


def record(layout: LayoutPreservation, unet: UNet, x: Tensor, rows: slice, progress: float = 0.5, tiles: int = 1,
           keep: bool = True) -> Entry | None:
    with layout.recording(progress, rows, len(x), keep) as entries:
        unet(x, tiles)
    return entries[0] if entries else None


def replay(layout: LayoutPreservation, unet: UNet, x: Tensor, rows: slice, entry: Entry | None, progress: float = 0.5,
           carried: slice = slice(0, 0), tiles: int = 1) -> dict[str, Tensor]:
    with layout.replaying(progress, rows, len(x), entry, None, carried, x):
        unet(x, tiles)
    return unet.seen


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


@pytest.mark.parametrize("rows", [slice(0, 2), slice(0, 1), slice(0, 4)])
def test_replays_the_conditional_rows_of_the_right_layers(rows):
    unet = UNet()
    first, second = numbers(1, 2, 3, 4), numbers(5, 6, 7, 8)
    unet(second)
    own = dict(unet.seen)
    with LayoutPreservation(unet, Layout(1.0, 1.0), QueryStore(ROOM, 0)) as layout:
        entry = record(layout, unet, first, rows)
        recorded = dict(unet.seen)
        seen = dict(replay(layout, unet, second, rows, entry))
    replayed = {"0.attn2.to_q", "1.attn2.to_q", "1.attn1.to_q", "1.attn1.to_k"}
    for layer, output in seen.items():
        expected = own[layer].clone()
        if layer in replayed:
            expected[rows] = recorded[layer][rows]
        assert torch.equal(output, expected), layer
    unet(second)
    assert all(torch.equal(own[layer], output) for layer, output in unet.seen.items())


@pytest.mark.parametrize(("cross", "self_", "progress", "kinds"), [
    (1.0, 0.4, 0.39, {"attn1", "attn2"}), (1.0, 0.4, 0.4, {"attn2"}), (0.5, 1.0, 0.6, {"attn1"}),
    (1.0, 0.0, 0.0, {"attn2"}), (0.0, 1.0, 0.999, {"attn1"}), (0.0, 0.0, 0.0, set()), (0.3, 0.3, 0.3, set())])
def test_each_kind_until_its_fraction(cross, self_, progress, kinds):
    unet = UNet()
    with LayoutPreservation(unet, Layout(cross, self_), QueryStore(ROOM, 0)) as layout:
        entry = record(layout, unet, numbers(1, 2), slice(0, 1), progress)
        names = layout.wanted(progress)
    assert {part for layer in names for part in ("attn1", "attn2") if part in layer} == kinds
    assert set(entry.tensors if entry else ()) == names


def test_nothing_is_hooked_that_is_not_asked_for():
    unet = UNet()
    with LayoutPreservation(unet, Layout(0.0, 0.0), QueryStore(ROOM, 0)):
        assert not any(module._forward_hooks for module in unet.modules())
    with LayoutPreservation(unet, Layout(1.0, 0.0), QueryStore(ROOM, 0)):
        hooked = {name for name, module in unet.named_modules() if module._forward_hooks}
    assert hooked == {"blocks.0.attn2.to_q", "blocks.1.attn2.to_q"}
    assert not any(module._forward_hooks for module in unet.modules())


@pytest.mark.parametrize(("tokens", "deepest"), [((16, 4), {1}), ((4, 16), {0}), ((16, 4, 4), {1, 2}), ((9,), {0})])
@pytest.mark.parametrize("keep", [True, False])
def test_deepest_level_is_that_of_fewest_tokens(tokens, deepest, keep):
    """Learnt from the first call, also from one that is not recorded."""
    unet = UNet(tokens)
    with LayoutPreservation(unet, Layout(0.0, 1.0), QueryStore(ROOM, 0)) as layout:
        record(layout, unet, numbers(1, 2), slice(0, 1), keep=keep)
        assert layout.wanted(0.0) == {name(index, "attn1", part) for index in deepest for part in ("to_q", "to_k")}


def test_tiles_do_not_make_a_level_deeper():
    """HyperTile cuts the upper levels' rows into tiles, of fewer tokens than the deepest level has."""
    unet = UNet((16, 4))
    with LayoutPreservation(unet, Layout(0.0, 1.0), QueryStore(ROOM, 0)) as layout:
        record(layout, unet, numbers(1, 2), slice(0, 1), tiles=8)
        assert layout.wanted(0.0) == {name(1, "attn1", "to_q"), name(1, "attn1", "to_k")}


def test_tiles_are_replayed_with_their_rows():
    unet = UNet((16,))
    with LayoutPreservation(unet, Layout(1.0, 0.0), QueryStore(ROOM, 0)) as layout:
        entry = record(layout, unet, numbers(1, 2, 3), slice(0, 2), tiles=4)
        recorded = unet.seen["0.attn2.to_q"].clone()
        seen = replay(layout, unet, numbers(4, 5, 6), slice(0, 2), entry, tiles=4)["0.attn2.to_q"]
    assert torch.equal(seen[:8], recorded[:8])
    assert not torch.equal(seen[8:], recorded[8:])


@pytest.mark.parametrize("tiles", [1, 4])
def test_carried_rows_stand_in_for_stored_queries(tiles):
    unet = UNet()
    with LayoutPreservation(unet, Layout(1.0, 1.0), QueryStore(0, 0)) as layout:
        assert record(layout, unet, numbers(1, 2), slice(0, 1)) is None
        recorded = dict(unet.seen)
        # the second pass's two rows, then the first pass's conditional one
        seen = replay(layout, unet, numbers(5, 6, 1), slice(0, 1), None, carried=slice(2, 3), tiles=tiles)
    same = {layer: torch.equal(seen[layer][:tiles if layer[0] == "0" else 1].flatten(), recorded[layer][0].flatten())
            for layer in seen}
    assert {layer for layer in same if same[layer]} == {"0.attn2.to_q", "1.attn2.to_q", "1.attn1.to_q", "1.attn1.to_k"}


def test_changed_tokens_are_said_and_left_alone():
    unet = UNet()
    with LayoutPreservation(unet, Layout(1.0, 0.0), QueryStore(ROOM, 0)) as layout:
        entry = record(layout, unet, numbers(1, 2), slice(0, 1))
        unet.tokens = (8, 4)
        unet(numbers(3, 4))
        own = unet.seen["0.attn2.to_q"].clone()
        seen = replay(layout, unet, numbers(3, 4), slice(0, 1), entry)
        assert torch.equal(seen["0.attn2.to_q"], own)
        replay(layout, unet, numbers(3, 4), slice(0, 1), entry)
        assert len(layout.warnings) == 1
        assert "16 tokens" in min(layout.warnings)
        assert "8 in the second" in min(layout.warnings)


def test_outside_its_blocks_it_does_nothing():
    unet = UNet()
    with LayoutPreservation(unet, Layout(), QueryStore(ROOM, 0)) as layout:
        unet(numbers(1, 2))
        own = dict(unet.seen)
        entry = record(layout, unet, numbers(5, 6), slice(0, 1))
        block = layout.replaying(0.5, slice(0, 1), 2, entry, None, slice(0, 0), numbers(1))
        with pytest.raises(RuntimeError, match="fault"), block:
            raise RuntimeError("fault")
        unet(numbers(1, 2))
        assert all(torch.equal(own[layer], output) for layer, output in unet.seen.items())


def test_a_call_without_conditional_rows():
    """Where cond and uncond are separate calls, the second has none: nothing to record, nothing to replay."""
    unet = UNet()
    with LayoutPreservation(unet, Layout(), QueryStore(ROOM, 0)) as layout:
        assert record(layout, unet, numbers(1, 2), slice(0, 0)) is None


# --- the store ---

def tensors(count: int) -> dict[str, Tensor]:
    """``count`` floats in two tensors."""
    return {"a": torch.ones(count - 1), "b": torch.ones(1)}


def test_size():
    assert size_of(tensors(10)) == 40
    assert size_of({"half": torch.zeros(3, 5, dtype=torch.float16)}) == 30
    assert size_of({}) == 0


@pytest.mark.parametrize(("device", "host", "places"), [
    (1000, 0, ["device"] * 4), (0, 1000, ["host"] * 4), (0, 0, [None] * 4),
    (80, 40, ["device", "device", "host", None]),
    (79, 80, ["device", "host", "host", None]), (39, 0, [None] * 4)])
def test_tiers_fill_up_in_order(device, host, places):
    store = QueryStore(device, host)
    entries = [store.put(tensors(10)) for _ in range(4)]
    assert [entry.place if entry else None for entry in entries] == places
    assert store.used == {"device": 40 * places.count("device"), "host": 40 * places.count("host")}
    for entry in entries:
        if entry is not None:
            assert size_of(store.get(entry, CPU, None)) == 40


def test_a_smaller_call_still_fits():
    store = QueryStore(50, 0)
    assert store.put(tensors(10)) is not None
    assert store.put(tensors(10)) is None
    assert store.put(tensors(2)) is not None
    assert store.used["device"] == 48


def test_nothing_is_no_entry():
    assert QueryStore(ROOM, ROOM).put({}) is None


def test_calls_that_shrink_below_what_was_turned_away_are_kept_again():
    """Self-attention ends before cross-attention, so later calls need less room than those that found none."""
    unet = UNet()
    size = 4 * 4 * (16 + 4)  # bytes of one row's cross-attention queries
    with LayoutPreservation(unet, Layout(1.0, 0.5), QueryStore(size, 0)) as layout:
        kept = [record(layout, unet, numbers(1, 2), slice(0, 1), progress) for progress in (0.0, 0.1, 0.6, 0.7)]
    assert [entry is not None for entry in kept] == [False, False, True, False]


def test_calls_of_no_use_are_not_copied():
    """Once a call's queries were turned away, those of the next ones are not even collected."""
    unet = UNet()
    store = QueryStore(0, 0)
    with LayoutPreservation(unet, Layout(), store) as layout:
        record(layout, unet, numbers(1, 2), slice(0, 1))
        with layout.recording(0.5, slice(0, 1), 2, keep=True):
            unet(numbers(1, 2))
            assert not layout._recorded
