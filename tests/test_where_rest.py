"""A concept that takes all that no other one takes, on the diffusers host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from omg_ext.comprehension.masks import box_mask
from omg_ext.errors import OMGError
from tests.diffusers_host import (
    PROMPT,
    ROUNDING,
    SIZE,
    assert_untouched,
    difference,
    everywhere,
    generate,
    mask_text,
    merged,
    pipeline,
    plain,
    small_loras,
    snapshot,
)
from tests.test_invariants import unet_rows

WAYS = ("separate", "shared", "joint")
HARD = {"grow": 0, "feather": 0}
BOX = [0.1, 0.15, 0.55, 0.9]
REST = {"prompt": "blue dog<lora:two:0.8>", "where": {"rest": True}}


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_loras(tmp_path_factory.mktemp("loras"))


def beside(*concepts: dict[str, Any], **options: Any) -> dict[str, Any]:
    """A concept in a box, and these."""
    return {"concepts": [{"prompt": "old man<lora:one>", "where": {"box": BOX}}, *concepts], "blend_start": 0,
            "mask": HARD, **options}


def alone(**options: Any) -> dict[str, Any]:
    return {**everywhere(""), "concepts": [REST], **options}


# --- everywhere is plain ---

@pytest.mark.parametrize("predict", WAYS)
@pytest.mark.parametrize("mask", [HARD, {"grow": 0.1, "feather": 0.2}], ids=["hard", "soft"])
def test_alone_it_is_the_plain_picture_of_its_prompt(loras, predict, mask):
    """*everywhere is plain*: of every way where there is no guidance, and of the paper's with it."""
    pipe = pipeline()
    for scale in (1, 7.5) if predict == "separate" else (1,):
        result = generate(pipe, alone(predict=predict, mask=mask), loras=loras, cfg_scale=scale)
        with merged(pipe, loras / "two.safetensors", 0.8, 0.8):
            expected = plain(pipe, "blue dog", cfg_scale=scale)
        assert difference(result.latents, expected) < ROUNDING
        assert difference(result.first_pass_latents, expected) > 1e-2
    assert [mask is not None and bool((mask == 1).all()) for mask in result.masks[0]] == [True]
    assert result.warnings == []


def test_where_nothing_else_is_found_it_is_the_whole_picture(loras):
    request = alone(predict="separate", detector="attention")
    request["concepts"] = [{"prompt": "grey cat<lora:one>", "phrase": "giraffe"}, REST]
    result = generate(pipeline(), request, loras=loras)
    assert torch.equal(result.latents, generate(pipeline(), alone(), loras=loras).latents)
    said, = result.warnings
    assert said.startswith("concepts[0]: no 'giraffe' was found")


# --- beside others ---

@pytest.mark.parametrize("options", [{}, {"layout": {"cross": 0, "self": 0}}, {"blend_start": 0.4},
                                     {"first_pass": "prefix", "blend_start": 0.4}], ids=str)
@pytest.mark.parametrize("predict", WAYS)
def test_it_is_a_mask_of_what_the_others_leave(loras, predict, options):
    left = 1 - box_mask(BOX, SIZE, SIZE)
    assert 0 < left.mean() < 1
    painted = {**REST, "where": {"mask": mask_text(left)}}
    result, expected = (generate(pipeline(), beside(last, predict=predict, **options), loras=loras, batch_size=2)
                        for last in (REST, painted))
    rest = result.masks[1][1]
    assert rest is not None
    np.testing.assert_allclose(rest, left, atol=1e-6)
    # at the box's edge a painted mask has 256 levels
    assert difference(result.latents, expected.latents) < 5e-3
    without = generate(pipeline(), beside(predict=predict, **options), loras=loras, batch_size=2)
    assert difference(result.latents, without.latents) > 2e-2


@pytest.mark.parametrize("predict", WAYS)
def test_of_what_is_found_it_is_the_rest_in_each_picture(loras, predict):
    """*rows do not matter*: a batch is its single pictures, whichever concept comes first."""
    found = {"prompt": "old man<lora:one>", "phrase": "man"}
    request = {"concepts": [found, REST], "detector": "attention", "blend_start": 0.3, "predict": predict}
    batch = generate(pipeline(), request, loras=loras, batch_size=2, seed=3)
    for masks in batch.masks:
        man, rest = masks
        assert man is not None
        assert rest is not None
        np.testing.assert_allclose(man + rest, 1, atol=1e-6)
        assert 0.01 < rest.mean() < 0.99
    assert difference(*map(torch.tensor, (batch.masks[0][1], batch.masks[1][1]))) > 0.1
    for number in (0, 1):
        single = generate(pipeline(), request, loras=loras, seed=3 + number).latents
        assert difference(batch.latents[number:number + 1], single) < 1e-3
    turned = generate(pipeline(), {**request, "concepts": [REST, found]}, loras=loras, batch_size=2, seed=3)
    assert difference(turned.latents, batch.latents) < 1e-3


def test_in_a_joint_row_it_costs_no_row(loras):
    rows = []
    for concepts in ([], [REST]):
        with unet_rows(pipeline()) as counted:
            generate(pipeline(), beside(*concepts, predict="joint"), loras=loras)
        rows.append(sum(counted))
    assert rows[0] == rows[1]


@pytest.mark.parametrize("predict", WAYS)
def test_where_the_others_take_all_it_is_left_out(loras, predict):
    whole = {"prompt": "old man<lora:one>", "where": {"box": [0, 0, 1, 1]}}
    request: dict[str, Any] = {"concepts": [REST, whole], "blend_start": 0, "predict": predict, "show": ["masks"]}
    before = snapshot(pipeline())
    result = generate(pipeline(), request, loras=loras)
    assert result.masks[0][0] is None
    said, = result.warnings
    assert said.startswith("concepts[0]: the other concepts take all of the picture, so nothing is left")
    expected = generate(pipeline(), {**request, "concepts": [whole]}, loras=loras)
    assert difference(result.latents, expected.latents) < ROUNDING
    with unet_rows(pipeline()) as counted, pytest.raises(OMGError, match=r"strict: concepts\[0\]"):
        generate(pipeline(), {**request, "strict": True}, loras=loras)
    assert counted == []
    assert_untouched(pipeline(), before)


# --- what is shown ---

def test_a_preview_shows_it_and_draws_nothing_of_it(loras):
    request = beside({**REST, "prompt": ""}, preview=True)
    result = generate(pipeline(), request, PROMPT, loras=loras)
    whole = generate(pipeline(), beside(REST, show=["overlay"]), PROMPT, loras=loras)
    assert torch.equal(result.latents, whole.first_pass_latents)
    np.testing.assert_array_equal(result.masks[0][1], whole.masks[0][1])
    shown = np.asarray(result.overlay[0])
    np.testing.assert_array_equal(shown, np.asarray(whole.overlay[0]))
    first = np.asarray(generate(pipeline(), beside(REST, show=["first_pass"]), PROMPT, loras=loras).first_pass[0])
    rest = result.masks[0][1]
    assert rest is not None
    assert 0.01 < (shown != first).any(2)[rest > 0.5].mean() < 0.5
