"""What is recorded of the first pass, and what of it is replayed on which rows in the second: *replay*."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from omg_ext.request import Layout
from omg_ext.unet.calls import RecordingCall, ReplayingCall, Row, UNetCall, is_global_cond
from omg_ext.unet.layout import (
    LayoutRecord,
    LayoutRecorder,
    LayoutReplay,
    cross_attention_layers,
    self_attention_layers,
)
from omg_ext.unet.patches import Patches
from omg_ext.unet.query_store import Entry, QueryStore

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


COND, UNCOND = Row(0), Row(0, None, None)
PAIR = [COND, UNCOND]


def name(index: int, attention: str, part: str) -> str:
    return f"blocks.{index}.{attention}.{part}"


class Layouts:
    """One UNet's first pass, with its hooks on until :meth:`second`, and the second."""

    def __init__(self, unet: UNet, cross: float = 1.0, self_: float = 0.4, room: int = ROOM):
        self.unet, self.store, self.patches = unet, QueryStore(room, 0), Patches(unet)
        self.recorder = LayoutRecorder(self.patches, Layout(cross, self_), self.store)
        self._replay: LayoutReplay | None = None
        self.recorded: dict[str, Tensor] = {}

    def record(self, x: Tensor, rows: Sequence[Row], progress: float = 0.5, tiles: int = 1,
               keep: bool = True) -> Entry | None:
        conds = sum(map(is_global_cond, rows))
        recording, plain = RecordingCall(tuple(rows), progress, (8, 8)), UNetCall(tuple(rows), progress, (8, 8))
        call = recording if keep and self.recorder.has_room(progress, conds) else plain
        with self.patches.running(call):
            self.unet(x, tiles)
        self.recorded = recording.queries
        return self.recorder.put(recording)

    def second(self) -> LayoutReplay:
        """The replaying hooks, in the place of the recording ones."""
        if self._replay is None:
            with self.patches:
                record = self.recorder.record()
            self._replay = LayoutReplay(self.patches, record)
        return self._replay

    def replay(self, x: Tensor, rows: Sequence[Row], entry: Entry | None, progress: float = 0.5,
               tiles: int = 1) -> dict[str, Tensor]:
        self.second()
        call = UNetCall(tuple(rows), progress, (8, 8))
        queries = None if entry is None else self.store.get(entry, CPU)
        with self.patches.running(call if queries is None else call.replaying(queries)):
            self.unet(x, tiles)
        return self.unet.seen

    def wanted(self, progress: float) -> set[str]:
        record = self.recorder.record()
        return {layer for layer in (*cross_attention_layers(self.unet), *self_attention_layers(self.unet))
                if record.wants(layer, progress)}


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


ROWS = {"first two": [Row(0), Row(1), *(Row(picture, None, None) for picture in (0, 1))],
        "first": [COND, UNCOND, Row(0, 0), Row(1, 1)], "all": [Row(picture) for picture in range(4)],
        "in turns": [UNCOND, COND, Row(1, None, None), Row(1)]}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_replays_the_conditional_rows_of_the_right_layers(rows):
    unet = UNet()
    first, second = numbers(1, 2, 3, 4), numbers(5, 6, 7, 8)
    mine = [index for index, row in enumerate(rows) if is_global_cond(row)]
    unet(second)
    own = dict(unet.seen)
    layouts = Layouts(unet, 1.0, 1.0)
    with layouts.patches:
        entry = layouts.record(first, rows)
        recorded = dict(unet.seen)
        seen = dict(layouts.replay(second, rows, entry))
    replayed = {"0.attn2.to_q", "1.attn2.to_q", "1.attn1.to_q", "1.attn1.to_k"}
    for layer, output in seen.items():
        expected = own[layer].clone()
        if layer in replayed:
            expected[mine] = recorded[layer][mine]
        assert torch.equal(output, expected), layer
    unet(second)
    assert all(torch.equal(own[layer], output) for layer, output in unet.seen.items())


@pytest.mark.parametrize(("cross", "self_", "progress", "kinds"), [
    (1.0, 0.4, 0.39, {"attn1", "attn2"}), (1.0, 0.4, 0.4, {"attn2"}), (0.5, 1.0, 0.6, {"attn1"}),
    (1.0, 0.0, 0.0, {"attn2"}), (0.0, 1.0, 0.999, {"attn1"}), (0.0, 0.0, 0.0, set()), (0.3, 0.3, 0.3, set())])
def test_each_kind_until_its_fraction(cross, self_, progress, kinds):
    layouts = Layouts(UNet(), cross, self_)
    with layouts.patches:
        entry = layouts.record(numbers(1, 2), PAIR, progress)
        names = layouts.wanted(progress)
    assert {part for layer in names for part in ("attn1", "attn2") if part in layer} == kinds
    assert set((layouts.store.get(entry, CPU) or {}) if entry else ()) == names


@pytest.mark.parametrize(("recorded", "progress", "covers"), [
    (0.2, 0.3, True), (0.5, 0.3, False), (0.5, 0.4, True), (0.5, 0.9, True), (0.95, 0.3, False), (0.95, 0.9, True),
    (0.2, 0.9, True), (0.85, 0.8, True), (0.4, 0.4, True), (0.4, 0.39, False), (0.9, 0.8, False)])
def test_what_a_call_at_another_fraction_leaves(recorded, progress, covers):
    assert LayoutRecord(Layout(0.9, 0.4), frozenset(), QueryStore(0, 0)).covers(recorded, progress) is covers


def test_nothing_is_hooked_that_is_not_asked_for():
    unet = UNet()
    hooked: list[set[str]] = []
    for cross in (0.0, 1.0):
        layouts = Layouts(unet, cross, 0.0)
        for _ in ("recording", "replaying"):
            hooked.append({name for name, module in unet.named_modules() if module._forward_hooks})
            layouts.second()
        with layouts.patches:
            pass
        assert not any(module._forward_hooks for module in unet.modules())
    assert hooked == [set(), set(), *[{"blocks.0.attn2.to_q", "blocks.1.attn2.to_q"}] * 2]


@pytest.mark.parametrize(("tokens", "deepest"), [((16, 4), {1}), ((4, 16), {0}), ((16, 4, 4), {1, 2}), ((9,), {0})])
@pytest.mark.parametrize("keep", [True, False])
def test_deepest_level_is_that_of_fewest_tokens(tokens, deepest, keep):
    """Learnt from the first call, also from one that is not recorded."""
    layouts = Layouts(UNet(tokens), 0.0, 1.0)
    with layouts.patches:
        layouts.record(numbers(1, 2), PAIR, keep=keep)
        assert layouts.wanted(0.0) == {name(index, "attn1", part) for index in deepest for part in ("to_q", "to_k")}


def test_tiles_do_not_make_a_level_deeper():
    """HyperTile cuts the upper levels' rows into tiles, of fewer tokens than the deepest level has."""
    layouts = Layouts(UNet((16, 4)), 0.0, 1.0)
    with layouts.patches:
        layouts.record(numbers(1, 2), PAIR, tiles=8)
        assert layouts.wanted(0.0) == {name(1, "attn1", "to_q"), name(1, "attn1", "to_k")}


def test_tiles_are_replayed_with_their_rows():
    unet, rows = UNet((16,)), [Row(0), Row(1), UNCOND]
    layouts = Layouts(unet, 1.0, 0.0)
    with layouts.patches:
        entry = layouts.record(numbers(1, 2, 3), rows, tiles=4)
        recorded = unet.seen["0.attn2.to_q"].clone()
        seen = layouts.replay(numbers(4, 5, 6), rows, entry, tiles=4)["0.attn2.to_q"]
    assert torch.equal(seen[:8], recorded[:8])
    assert not torch.equal(seen[8:], recorded[8:])


@pytest.mark.parametrize("tiles", [1, 4])
def test_repeated_rows_stand_in_for_stored_queries(tiles):
    unet = UNet()
    layouts = Layouts(unet, 1.0, 1.0, room=0)
    with layouts.patches:
        assert layouts.record(numbers(1, 2), PAIR) is None
        recorded = dict(unet.seen)
        # the second pass's two rows, then the first pass's conditional one
        seen = layouts.replay(numbers(5, 6, 1), [*PAIR, COND._replace(repeats_first=True)], None, tiles=tiles)
    same = {layer: torch.equal(seen[layer][:tiles if layer[0] == "0" else 1].flatten(), recorded[layer][0].flatten())
            for layer in seen}
    assert {layer for layer in same if same[layer]} == {"0.attn2.to_q", "1.attn2.to_q", "1.attn1.to_q", "1.attn1.to_k"}


def test_changed_tokens_are_said_and_left_alone():
    unet = UNet()
    layouts = Layouts(unet, 1.0, 0.0)
    with layouts.patches:
        entry = layouts.record(numbers(1, 2), PAIR)
        unet.tokens = (8, 4)
        unet(numbers(3, 4))
        own = unet.seen["0.attn2.to_q"].clone()
        seen = layouts.replay(numbers(3, 4), PAIR, entry)
        assert torch.equal(seen["0.attn2.to_q"], own)
        layouts.replay(numbers(3, 4), PAIR, entry)
    warning, = layouts.second().warnings
    assert "16 tokens" in warning
    assert "8 in the second" in warning


@pytest.mark.parametrize("second", [False, True])
def test_outside_its_blocks_it_does_nothing(second):
    unet = UNet()
    unet(numbers(1, 2))
    own = dict(unet.seen)
    layouts = Layouts(unet)
    with layouts.patches:
        entry = layouts.record(numbers(5, 6), PAIR)
        assert entry is not None
        if second:
            layouts.second()
        call = ReplayingCall(tuple(PAIR), 0.5, (8, 8), queries=layouts.store.get(entry, CPU) or {})
        with pytest.raises(RuntimeError, match="fault"), layouts.patches.running(call):
            raise RuntimeError("fault")
        unet(numbers(1, 2))
        assert all(torch.equal(own[layer], output) for layer, output in unet.seen.items())


def test_a_call_without_conditional_rows():
    """Where cond and uncond are separate calls, the second has none: nothing to record, nothing to replay."""
    layouts = Layouts(UNet())
    with layouts.patches:
        assert layouts.record(numbers(1, 2), [UNCOND, Row(0, 0)]) is None


def test_calls_that_shrink_below_what_was_turned_away_are_kept_again():
    """Self-attention ends before cross-attention, so later calls need less room than those that found none."""
    size = 4 * 4 * (16 + 4)  # bytes of one row's cross-attention queries
    layouts = Layouts(UNet(), 1.0, 0.5, size)
    with layouts.patches:
        kept = [layouts.record(numbers(1, 2), PAIR, progress) for progress in (0.0, 0.1, 0.6, 0.7)]
    assert [entry is not None for entry in kept] == [False, False, True, False]


def test_calls_of_no_use_are_not_copied():
    """Once a call's queries were turned away, those of the next ones are not even collected."""
    layouts = Layouts(UNet(), room=0)
    with layouts.patches:
        for _ in range(2):
            layouts.record(numbers(1, 2), PAIR)
    assert layouts.recorded == {}
