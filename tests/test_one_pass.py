"""Early comprehension: the concepts are found in what the picture is going to be, and the same sampling goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import omg_ext.comprehension.places
import omg_ext.passes.comprehend
import omg_ext.passes.second
from omg_ext.errors import OMGError
from omg_ext.host import Guidance, Guided
from omg_ext.passes.one_pass import OnePassTap
from omg_ext.request import parse_request
from tests.diffusers_host import (
    assert_untouched,
    difference,
    generate,
    left_and_right,
    pipeline,
    plain,
    small_loras,
    snapshot,
    two_concepts,
    with_scheduler,
)
from tests.test_invariants import unet_rows

# of diffusers' own schedulers with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BOXES: dict[str, Any] = {"concepts": left_and_right(), "blend_start": 0.3, "layout": {"cross": 0, "self": 0}}
PHRASES: dict[str, Any] = {"concepts": [{"prompt": "old man", "phrase": "man"}, {"prompt": "young woman",
                                                                              "phrase": "woman"}], "blend_start": 0.4}
PREFIX = {"first_pass": "prefix"}


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_loras(tmp_path_factory.mktemp("loras"))


@pytest.mark.parametrize("predict", ["separate", "shared", "joint"])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerAncestralDiscreteScheduler",
                                       "DPMSolverMultistepScheduler"])
def test_in_given_places_it_is_both_passes_without_layout(loras, predict, scheduler):
    """Bit for bit, and without the first pass's rows: the places do not depend on what is seen."""
    pipe, before = with_scheduler(pipeline(), getattr(diffusers, scheduler)), snapshot(pipeline())
    request = {**two_concepts(**{**BOXES, "concepts": two_concepts()["concepts"]}), "predict": predict}
    results, rows = [], []
    for options in ({}, PREFIX):
        with unet_rows(pipe) as counted:
            results.append(generate(pipe, {**request, **options}, loras=loras, steps=5, batch_size=2))
        rows.append(sum(counted))
        assert_untouched(pipe, before)
    assert torch.equal(results[0].latents, results[1].latents)
    assert difference(results[0].latents, results[0].first_pass_latents) > 1e-3
    blended = {"separate": 4, "shared": 2, "joint": 1}[predict]
    late = (rows[1] // 2 - 2 * 5) // blended
    assert rows[1] == 2 * (2 * 5 + late * blended)
    assert rows[0] == rows[1] + 2 * 2 * late  # the global rows after the prefix, twice


def test_never_blended_is_the_ordinary_picture():
    """*empty second pass*"""
    result = generate(pipeline(), {**BOXES, **PREFIX, "blend_start": 1}, steps=4, seed=2)
    assert torch.equal(result.latents, plain(pipeline(), steps=4, seed=2))
    assert [mask is not None for masks in result.masks for mask in masks] == [True, True]
    assert result.warnings == []


def test_a_sampler_that_ends_before_the_blend_start_is_told():
    """As after a whole first pass: a warning, and the concepts are looked for all the same."""
    late = {**BOXES, "blend_start": 0.999}
    whole, prefix = (generate(pipeline(), {**late, **options}, steps=4) for options in ({}, PREFIX))
    assert prefix.warnings == whole.warnings
    assert "none of the sampler's steps" in prefix.warnings[0]
    assert torch.equal(prefix.latents, whole.latents)
    nobody = {**PHRASES, **PREFIX, "blend_start": 0.999, "detector": "attention", "strict": True,
              "concepts": [{"prompt": "zebra", "phrase": "zebra"}]}
    with pytest.raises(OMGError, match="zebra"):
        generate(pipeline(), nobody, steps=4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "EulerDiscreteScheduler"])
def test_the_estimate_is_the_schedulers_own(monkeypatch, prediction_type, scheduler):
    pipe = with_scheduler(pipeline("sdxl", prediction_type), getattr(diffusers, scheduler))
    estimates: list[Tensor] = []
    seen: list[Tensor] = []
    step = getattr(diffusers, scheduler).step

    def keep(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(self, *args, **kwargs)
        estimates.append(result.pred_original_sample)
        return result

    guided = OnePassTap.guided

    def look(self: OnePassTap, plain: Guided, guidance: Guidance) -> Guided:
        seen.append(guidance.finished(plain.prediction))
        return guided(self, plain, guidance)

    monkeypatch.setattr(getattr(diffusers, scheduler), "step", keep)
    monkeypatch.setattr(OnePassTap, "guided", look)
    result = generate(pipe, {**BOXES, **PREFIX, "blend_start": 0.5}, steps=4, batch_size=2)
    first = next(number for number, estimate in enumerate(seen) if torch.equal(estimate, result.first_pass_latents))
    assert 0 < first < 3
    for number in range(first):  # nothing is blended in before
        assert difference(seen[number], estimates[number]) < 1e-4


@pytest.mark.parametrize("detector", ["attention", "contrast"])
def test_detectors_look_at_the_estimate(detector, monkeypatch):
    """Found once, at the initiation timestep; attention goes by the prefix alone."""
    found: list[Tensor] = []
    find = omg_ext.comprehension.places.find_places

    def look(request: Any, given: Any, pictures: Any, *args: Any) -> Any:
        assert pictures[0].picture().shape == (96, 96, 3)
        places = find(request, given, pictures, *args)
        found.append(places.weights)
        return places

    monkeypatch.setattr(omg_ext.passes.comprehend, "find_places", look)
    pipe, before = pipeline(), snapshot(pipeline())
    with unet_rows(pipe) as rows:
        result = generate(pipe, {**PHRASES, **PREFIX, "detector": detector, "predict": "joint"}, steps=6)
    assert len(found) == 1
    looks = 24 if detector == "contrast" else 0
    late = sum(rows) - looks - 2 * 6
    assert late == (4 if found[0].any() else 0)
    assert len(result.masks) == 1
    assert not torch.equal(result.first_pass_latents, result.latents)
    assert_untouched(pipe, before)


@pytest.mark.parametrize("place", ["find_places", "blend"])
def test_what_fails_gives_the_ordinary_picture(monkeypatch, place):
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the dog ate it")

    module = omg_ext.passes.comprehend if place == "find_places" else omg_ext.passes.second
    monkeypatch.setattr(module, place, fail)
    pipe, before = with_scheduler(pipeline(), diffusers.EulerAncestralDiscreteScheduler), snapshot(pipeline())
    result = generate(pipe, {**BOXES, **PREFIX}, steps=4, seed=3)
    assert torch.equal(result.latents, plain(pipe, steps=4, seed=3))
    assert any("so this is the ordinary picture: RuntimeError: the dog ate it" in text for text in result.warnings)
    with pytest.raises(OMGError, match="the dog ate it"):
        generate(pipe, {**BOXES, **PREFIX, "strict": True}, steps=4)
    assert_untouched(pipe, before)


def test_what_is_not_found_is_said_and_refused_if_strict():
    request = {**PHRASES, **PREFIX, "concepts": [{"prompt": "old man", "phrase": "unicorn"}]}
    result = generate(pipeline(), request, steps=4)
    assert torch.equal(result.latents, plain(pipeline(), steps=4))
    assert any("unicorn" in warning for warning in result.warnings)
    with pytest.raises(OMGError, match="unicorn"):
        generate(pipeline(), {**request, "strict": True}, steps=4)


def test_a_preview_is_the_ordinary_picture_with_the_places():
    pipe = pipeline()
    with unet_rows(pipe) as rows:
        result = generate(pipe, {**BOXES, **PREFIX, "preview": True}, steps=4, output_type="pil")
    assert sum(rows) == 2 * 4
    assert torch.equal(result.latents, plain(pipe, steps=4))
    assert len(result.masks[0]) == 2
    assert len(result.overlay) == 1


@pytest.mark.parametrize(("changes", "field"), [
    ({"layout": {"cross": 0.5, "self": 0}}, "layout"), ({"blend_start": 0.05}, "blend_start")])
def test_what_does_not_go_together_is_refused(changes, field):
    with pytest.raises(OMGError) as caught:
        parse_request({**PHRASES, **PREFIX, **changes})
    assert caught.value.field == field
    # in given places nothing has to be seen
    assert parse_request({**BOXES, **PREFIX, "blend_start": 0}).first_pass == "prefix"
