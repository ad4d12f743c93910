"""Visual comprehension without a download: recorded attention against materialised attention, the detector on drawn
heat maps."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from omg_ext.comprehension import DETECTORS, AttentionDetector, FirstPicture, Instance, Query, get_detector
from omg_ext.comprehension.heat import HeatMaps, Positions, StagePositions
from omg_ext.comprehension.masks import resize
from omg_ext.errors import OMGError
from omg_ext.unet.calls import Row, UNetCall
from omg_ext.unet.class_tokens import ClassTokenAttention
from omg_ext.unet.patches import Patches


def disc(x: float, y: float, radius: float, height: int = 64, width: int = 64) -> np.ndarray:
    """True inside the disc; centre in fractions, radius in widths."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.hypot(columns - x * width, rows - y * height) <= radius * width


def first_pass(**heats: np.ndarray) -> FirstPicture:
    """What is left of a first pass whose prompt has the phrases given, with these heat maps."""
    return FirstPicture("a prompt", lambda: pytest.fail("the picture is not needed"), heats.get)


def find(*phrases: str, **heats: np.ndarray) -> list[list[Instance]]:
    return AttentionDetector().find(first_pass(**heats), [Query(phrase) for phrase in phrases])


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    return (np.minimum(a, b).sum() / np.maximum(a, b).sum()).item()


def always(positions: dict[tuple[int, int], list[list[int]]]) -> Positions:
    """Token positions of prompts without stages."""
    return {part: [StagePositions(math.inf, phrases)] for part, phrases in positions.items()}


TOKENS = 13
POSITIONS = always({(0, 0): [[2, 3], [5]], (1, 0): [[1], []], (2, 0): [[7, 8, 9], [10, 11]]})
PHRASES = ("man", "dog")
CONDS = [Row(picture) for picture in range(3)]


class Attention(nn.Module):
    """Cross-attention as LDM and sgm have it: heads side by side in the projections, any kernel after them."""

    def __init__(self, width: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)

    def forward(self, x, context):
        q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for p in (self.to_q(x), self.to_k(context), self.to_v(context)))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Block(nn.Module):
    def __init__(self, heads: int):
        super().__init__()
        self.attn1 = Attention(32, 32, 4)
        self.attn2 = Attention(32, 24, heads)

    def forward(self, x, context):
        return x + self.attn2(x + self.attn1(x, x), context)


class Levels(nn.Module):
    """Cross-attention on the token grids of two levels of a 7 x 5 latent, beside self-attention."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(heads) for heads in (4, 2, 4))
        self.grids = [(7, 5), (4, 3), (7, 5)]

    def forward(self, x, context):
        for block, (height, width) in zip(self.blocks, self.grids, strict=True):
            tokens = height * width
            x = torch.cat([block(x[:, :tokens], context), x[:, tokens:]], 1)
        return x


@cache
def tiny_unet() -> nn.Module:
    """A diffusers UNet with cross-attention at the levels 0, 1 and 2 (middle)."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed in this environment")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=24,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D")).eval()


def unet_call(rows: int, height: int = 12, width: int = 10, seed: int = 1) -> dict:
    generator = torch.Generator().manual_seed(seed)
    # contexts far apart, so that attention is not uniform
    return {"sample": torch.randn(rows, 4, height, width, generator=generator), "timestep": torch.tensor(500),
            "encoder_hidden_states": 40 * torch.randn(rows, TOKENS, 24, generator=generator), "return_dict": False}


def materialised(unet: nn.Module, run) -> list[tuple[int, torch.Tensor]]:
    """(image tokens, softmax(q k^T / sqrt(d)) [rows, heads, image tokens, prompt tokens]) of every attn2 in a run."""
    inputs: dict[str, list[torch.Tensor]] = {}
    handles = [getattr(module, part).register_forward_hook(
                   lambda module, args, output, name=name: inputs.setdefault(name, []).append(output.double()))
               for name, module in unet.named_modules() if name.endswith("attn2") for part in ("to_q", "to_k")]
    run()
    for handle in handles:
        handle.remove()
    maps = []
    for name, (query, key) in inputs.items():
        heads: Any = unet.get_submodule(name).heads
        q, k = (x.reshape(len(x), -1, heads, x.shape[-1] // heads).permute(0, 2, 1, 3) for x in (query, key))
        maps.append((q.shape[2], (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)))
    return maps


def expected_heat(maps, row: int, tokens: list[int], grids: dict[int, tuple[int, int]]) -> np.ndarray:
    """DAAM by its definition: the mean over all heads and layers of the token's maps, at the largest size."""
    finest = grids[max(count for count, _ in maps)]
    layers = [resize(probabilities[row, :, :, tokens].mean((0, 2)).reshape(grids[count]).numpy(), *finest)
              for count, probabilities in maps]
    return np.mean(layers, axis=0)


def recorded(model: nn.Module, positions: Positions, grid: tuple[int, int], *calls: tuple[Sequence[Row], Any],
             phrases: Sequence[str] = PHRASES) -> HeatMaps:
    """What (rows, evaluation) calls leave."""
    with Patches(model) as patches:
        attention = ClassTokenAttention(patches, phrases, positions)
        for rows, run in calls:
            with patches.running(UNetCall(tuple(rows), 0.5, grid)):
                run()
    return attention.maps(grid)


def heat_of(maps: HeatMaps, picture: int, phrase: str) -> np.ndarray:
    heat = maps.of(picture, phrase)
    assert heat is not None
    return heat


def hook_count(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


class TestClassTokenAttention:
    @pytest.fixture(autouse=True)
    def _no_grad(self):
        with torch.no_grad():
            yield

    # the last three rows of the call are the conditional ones, or they are among others
    @pytest.mark.parametrize("rows", [
        [Row(0, None, None), Row(1, None, None), *CONDS], [CONDS[0], Row(0, None, None), *CONDS[1:], Row(0, 0)],
        [Row(2), Row(0, 0), Row(1), CONDS[0]._replace(repeats_first=True), Row(0)],
        [Row(2), Row(0), Row(1), Row(0, None, None), Row(0, 0)]])
    def test_equals_materialised_attention_on_diffusers(self, rows):
        unet, call = tiny_unet(), unet_call(5)
        maps = materialised(unet, lambda: unet(**call))
        assert {count for count, _ in maps} == {120, 30}
        heats = recorded(unet, POSITIONS, (12, 10), (rows, lambda: unet(**call)))
        for (picture, _), (stage,) in POSITIONS.items():
            for phrase, tokens in zip(PHRASES, stage.phrases, strict=True):
                heat = heats.of(picture, phrase)
                if tokens:
                    assert heat is not None
                    assert heat.dtype == np.float32
                    assert heat.shape == (12, 10)
                    expected = expected_heat(maps, rows.index(Row(picture)), list(tokens), {120: (12, 10), 30: (6, 5)})
                    assert np.ptp(expected) > 0.05
                    np.testing.assert_allclose(heat, expected, rtol=1e-4, atol=1e-6)
                else:
                    assert heat is None

    def test_equals_materialised_attention_on_odd_grids(self):
        torch.manual_seed(0)
        model, x, context = Levels(), torch.randn(3, 35, 32), torch.randn(3, TOKENS, 24) * 10
        maps = materialised(model, lambda: model(x, context))
        heats = recorded(model, POSITIONS, (7, 5), (CONDS, lambda: model(x, context)))
        expected = expected_heat(maps, 2, [7, 8, 9], {35: (7, 5), 12: (4, 3)})
        np.testing.assert_allclose(heat_of(heats, 2, "man"), expected, rtol=1e-4, atol=1e-6)

    def test_output_is_bit_equal_and_no_hook_remains(self):
        """*nothing remains*"""
        unet, call = tiny_unet(), unet_call(3)
        before, plain = hook_count(unet), unet(**call)[0]
        results: list[torch.Tensor] = []

        def run():
            assert hook_count(unet) > before
            results.append(unet(**call)[0])

        recorded(unet, POSITIONS, (12, 10), (CONDS, run))
        assert torch.equal(results[0], plain)
        assert hook_count(unet) == before
        assert torch.equal(unet(**call)[0], plain)

    def test_no_hook_or_query_remains_after_an_error(self):
        """*nothing remains*"""
        unet = tiny_unet()
        before = hook_count(unet)
        queries = []
        handle = next(module for name, module in unet.named_modules() if name.endswith("attn2.to_q")) \
            .register_forward_hook(lambda module, args, output: queries.append(weakref.ref(output)))
        wrong_context = {**unet_call(3), "encoder_hidden_states": torch.zeros(3, TOKENS, 7)}
        with pytest.raises(RuntimeError):
            recorded(unet, POSITIONS, (12, 10), (CONDS, lambda: unet(**wrong_context)))
        handle.remove()
        gc.collect()
        assert hook_count(unet) == before
        assert queries
        assert all(query() is None for query in queries)

    def test_nothing_is_recorded_outside_of_calls(self):
        unet = tiny_unet()
        with Patches(unet) as patches:
            attention = ClassTokenAttention(patches, PHRASES, POSITIONS)
            unet(**unet_call(3))
        with pytest.raises(OMGError, match="do not have the picture's shape"):
            attention.maps((12, 10)).of(0, "man")

    def test_calls_split_in_any_way_give_the_same(self):
        """*rows do not matter*"""
        unet, call = tiny_unet(), unet_call(3)

        def record(*parts):
            calls = [(CONDS[part], lambda part=part: unet(
                **{**call, **{name: call[name][part] for name in ("sample", "encoder_hidden_states")}}))
                for part in parts]
            heats = recorded(unet, POSITIONS, (12, 10), *calls)
            return [heat_of(heats, picture, "man") for picture in range(3)]

        whole = record(slice(0, 3))
        split = record(slice(0, 1), slice(1, 3))
        np.testing.assert_allclose(split, whole, rtol=1e-3)  # some processors round batches of other sizes otherwise

    def test_mean_over_steps(self):
        unet = tiny_unet()

        def record(*seeds):
            calls = [(CONDS, lambda seed=seed: unet(**unet_call(3, seed=seed))) for seed in seeds]
            return heat_of(recorded(unet, POSITIONS, (12, 10), *calls), 0, "dog")

        np.testing.assert_allclose(record(1, 2), (record(1) + record(2)) / 2, rtol=1e-4, atol=1e-6)

    def test_mean_over_the_parts_that_name_the_phrase(self):
        model, x, contexts = Levels(), torch.randn(1, 35, 32), torch.randn(3, TOKENS, 24) * 10
        rows = [Row(0, None, part) for part in range(3)]
        heats = recorded(model, always({(0, 0): [[2]], (0, 1): [[]], (0, 2): [[3, 4]]}), (7, 5),
                         (rows, lambda: model(x.expand(3, -1, -1), contexts)), phrases=["man"])
        maps = materialised(model, lambda: model(x.expand(3, -1, -1), contexts))
        expected = np.mean([expected_heat(maps, row, tokens, {35: (7, 5), 12: (4, 3)})
                            for row, tokens in ((0, [2]), (2, [3, 4]))], axis=0)
        np.testing.assert_allclose(heat_of(heats, 0, "man"), expected, rtol=1e-4, atol=1e-6)

    def test_mean_over_the_steps_that_name_the_phrase(self):
        """Prompt editing: "a man" until step 2, then "a dog beside a man"; another picture has its own stages."""
        model, x = Levels(), torch.randn(2, 35, 32)
        contexts = [torch.randn(2, TOKENS, 24) * 10 for _ in range(5)]
        stages: Positions = {(0, 0): [StagePositions(2, [[2], []]), StagePositions(math.inf, [[5], [2, 3]])],
                             (1, 0): [StagePositions(math.inf, [[4], []])]}
        maps = [materialised(model, lambda context=context: model(x, context)) for context in contexts]
        with Patches(model) as patches:
            attention = ClassTokenAttention(patches, PHRASES, stages)
            for step, context in enumerate(contexts):
                with patches.running(UNetCall(tuple(CONDS[:2]), 0.5, (7, 5), step=step)):
                    model(x, context)
        heats, grids = attention.maps((7, 5)), {35: (7, 5), 12: (4, 3)}
        for picture, phrase, tokens in ((0, "man", [[2], [2], [2], [5], [5]]), (0, "dog", [[], [], [], [2, 3], [2, 3]]),
                                        (1, "man", [[4]] * 5)):
            expected = np.mean([expected_heat(maps[step], picture, positions, grids)
                                for step, positions in enumerate(tokens) if positions], axis=0)
            np.testing.assert_allclose(heat_of(heats, picture, phrase), expected, rtol=1e-4, atol=1e-6)
        assert heats.of(1, "dog") is None

    def test_steps_that_were_not_drawn(self):
        model, x, context = Levels(), torch.randn(1, 35, 32), torch.randn(1, TOKENS, 24)
        stages: Positions = {(0, 0): [StagePositions(2, [[2], []]), StagePositions(9, [[2], [3]])]}
        heats = recorded(model, stages, (7, 5), ([Row(0)], lambda: model(x, context)))
        assert heats.of(0, "man") is not None
        assert heats.of(0, "dog") is None

    def test_rows_with_longer_prompts_in_calls_of_their_own(self):
        model, x = Levels(), torch.randn(1, 35, 32)
        contexts = torch.randn(1, TOKENS, 24), torch.randn(1, 2 * TOKENS, 24)
        calls = [([Row(picture)], lambda context=context: model(x, context))
                 for picture, context in enumerate(contexts)]
        heats = recorded(model, always({(0, 0): [[4]], (1, 0): [[20, 21]]}), (7, 5), *calls, phrases=["man"])
        for picture, (context, tokens) in enumerate(zip(contexts, ([4], [20, 21]), strict=True)):
            maps = materialised(model, lambda context=context: model(x, context))
            expected = expected_heat(maps, 0, tokens, {35: (7, 5), 12: (4, 3)})
            np.testing.assert_allclose(heat_of(heats, picture, "man"), expected, rtol=1e-4, atol=1e-6)

    def test_more_phrases_than_a_head_is_wide(self):
        model, x, context = Levels(), torch.randn(1, 35, 32), torch.randn(1, TOKENS, 24)
        heats = recorded(model, always({(0, 0): [[token] for token in range(TOKENS)]}), (7, 5),
                         ([Row(0)], lambda: model(x, context)), phrases=[str(token) for token in range(TOKENS)])
        # every image token's attention is spent on the prompt's tokens
        total = sum(heat_of(heats, 0, str(token)) for token in range(TOKENS))
        np.testing.assert_allclose(total, np.ones((7, 5)), rtol=1e-5)

    def test_half_precision(self):
        model = Levels().bfloat16()
        x, context = (torch.randn(1, *shape, dtype=torch.bfloat16) for shape in ((35, 32), (TOKENS, 24)))
        heats = recorded(model, always({(0, 0): [[3]]}), (7, 5), ([Row(0)], lambda: model(x, context)), phrases=["man"])
        maps = materialised(model, lambda: model(x, context))
        expected = expected_heat(maps, 0, [3], {35: (7, 5), 12: (4, 3)})
        np.testing.assert_allclose(heat_of(heats, 0, "man"), expected, rtol=0.05)

    def test_inference_mode(self):
        model, x, context = Levels(), torch.randn(1, 35, 32), torch.randn(1, TOKENS, 24)
        with torch.inference_mode():
            heats = recorded(model, always({(0, 0): [[3]]}), (7, 5), *[([Row(0)], lambda: model(x, context))] * 2,
                             phrases=["man"])
        assert heat_of(heats, 0, "man").any()

    def test_merged_tokens_are_noticed(self):
        model = Levels()
        x, context = torch.randn(1, 35, 32), torch.randn(1, TOKENS, 24)
        heats = recorded(model, always({(0, 0): [[3]]}), (64, 64), ([Row(0)], lambda: model(x, context)),
                         phrases=["man"])
        with pytest.raises(OMGError, match="turn off token merging"):
            heats.of(0, "man")


class TestAttentionDetector:
    left, right = disc(0.3, 0.5, 0.15), disc(0.75, 0.4, 0.1)

    def test_two_discs(self):
        (found,) = find("man", man=0.01 + 0.2 * self.left + 0.18 * self.right)
        assert len(found) == 2
        assert overlap(found[0].mask, self.left) > 0.9
        assert overlap(found[1].mask, self.right) > 0.9
        assert found[0].score > found[1].score
        assert found[0].centre == pytest.approx((0.3, 0.5), abs=0.02)
        assert found[0].mask.dtype == np.float32

    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 999))
    def test_two_discs_in_noise(self, seed):
        noise = np.random.default_rng(seed).normal(0, 0.05, (64, 64))
        (found,) = find("man", man=0.3 + 0.2 * self.left + 0.2 * self.right + noise)
        assert len(found) == 2
        assert overlap(found[0].mask, self.left) > 0.85
        assert overlap(found[1].mask, self.right) > 0.8

    def test_wide_picture(self):
        heat = disc(0.2, 0.5, 0.1, 32, 64) + disc(0.8, 0.5, 0.08, 32, 64)
        (found,) = find("man", man=heat.astype(np.float32))
        assert [round(instance.centre[0], 1) for instance in found] == [0.2, 0.8]

    @settings(deadline=None, max_examples=20)
    @given(st.integers(0, 999), st.sampled_from([(64, 64), (32, 48), (8, 8)]))
    def test_pure_noise_gives_exclusive_instances_of_size(self, seed, shape):
        noise = np.random.default_rng(seed).random((2, *shape))
        found = find("man", "dog", man=noise[0], dog=noise[1])
        instances = [instance.mask for per_phrase in found for instance in per_phrase]
        assert np.sum(instances, axis=0).max(initial=0) <= 1
        assert all(mask.mean() >= 0.005 for mask in instances)
        assert all(per_phrase == sorted(per_phrase, key=lambda i: -i.score) for per_phrase in found)

    @pytest.mark.parametrize("level", [0.0, 0.2])
    def test_flat_heat_finds_nothing(self, level):
        assert find("man", man=np.full((64, 64), level, dtype=np.float32)) == [[]]

    def test_phrase_not_in_the_prompt(self):
        found = find("cat", "man", man=self.left.astype(np.float32))
        assert found[0] == []
        assert len(found[1]) == 1

    def test_exclusive_between_phrases(self):
        man = np.maximum(self.left, 0.6 * self.right)
        dog = np.maximum(0.5 * self.left, self.right)
        found = find("man", "dog", man=man, dog=dog)
        assert [len(per_phrase) for per_phrase in found] == [1, 1]
        assert overlap(found[0][0].mask, self.left) > 0.9
        assert overlap(found[1][0].mask, self.right) > 0.85

    def test_scale_of_a_phrase_does_not_matter(self):
        faint = find("man", "dog", man=self.left * 1.0, dog=self.right * 1e-3)
        assert [len(per_phrase) for per_phrase in faint] == [1, 1]

    def test_specks_are_dropped(self):
        speck = disc(0.1, 0.1, 0.03)
        (found,) = find("man", man=1.0 * (self.left | speck))
        assert len(found) == 1

    def test_hole_is_filled(self):
        ring = disc(0.5, 0.5, 0.3) & ~disc(0.5, 0.5, 0.1)
        (found,) = find("man", man=1.0 * ring)
        assert overlap(found[0].mask, disc(0.5, 0.5, 0.3)) > 0.9

    def test_hole_with_something_in_it_is_not_filled(self):
        ring, inside = disc(0.5, 0.5, 0.3) & ~disc(0.5, 0.5, 0.12), disc(0.5, 0.5, 0.1)
        (man,), (dog,) = find("man", "dog", man=1.0 * ring, dog=1.0 * inside)
        assert np.minimum(man.mask, dog.mask).max() == 0
        assert overlap(dog.mask, inside) > 0.8

    def test_rings_in_rings_stay_apart(self):
        rings = [disc(0.5, 0.5, r) & ~disc(0.5, 0.5, r - 0.08) for r in (0.45, 0.3, 0.17)]
        found = find("man", "dog", man=1.0 * (rings[0] | rings[2]), dog=1.0 * rings[1])
        instances = [instance.mask for per_phrase in found for instance in per_phrase]
        assert len(instances) == 3
        assert np.sum(instances, axis=0).max() == 1
        # the innermost hole is the innermost ring's
        assert sum(mask[32, 32] for mask in instances) == 1
        assert min(instances, key=np.sum)[32, 32] == 1

    def test_by_name(self):
        assert get_detector("attention") is DETECTORS["attention"]
        assert get_detector("attention").needs_attention

    def test_unknown_name_lists_the_known(self):
        with pytest.raises(OMGError, match="no detector `magic`; known: attention") as caught:
            get_detector("magic")
        assert caught.value.field == "detector"
