"""What the API says besides pictures: the request's schema, versions, what was found, and what a run took."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import omg_ext
from tests.webui.host import WebUI
from tests.webui.test_api import BAD_REQUESTS, LEFT, concept, omg, request

pytestmark = pytest.mark.webui

# a schema takes the form, and nothing behind it: files, masks, what is found, and two fields compared
BEHIND_THE_FORM = {"empty box", "box too small", "mask is not base64", "mask is no PNG", "broken mask", "huge mask",
                   "black mask", "no such LoRA", "LoRA weight is no number", "LoRA for SD 1.5", "LoCon for SD 1.5",
                   "OFT for SD 1.5", "broken LoRA", "not found, strict", "not a number", "two rests",
                   "nothing left, strict"}


def test_schema(webui: WebUI) -> None:
    validator = Draft202012Validator(webui.get("/omg/v1/schema"))
    validator.validate(request(concept("a red car", LEFT)))
    refused = {name for name, (data, _) in BAD_REQUESTS.items() if not validator.is_valid(data)}
    assert set(BAD_REQUESTS) - refused == BEHIND_THE_FORM


def test_versions(webui: WebUI) -> None:
    said = webui.get("/omg/v1/version")
    assert said["extension"] == omg_ext.__version__
    assert said["request"] == 1
    assert "1.10" in said["webui"]


def run_of(info: dict[str, Any]) -> list[dict[str, Any]]:
    run: list[dict[str, Any]] = info["extra_generation_params"]["OMG run"]
    return run


@pytest.mark.parametrize(("fields", "payload", "rows"), [
    # per step two of the picture, and two of the concept
    ({}, {}, (16, 0, 32)), ({"blend_start": 0.5}, {}, (16, 0, 16)), ({"blend_start": 1}, {}, (16, 0, 0)),
    ({"predict": "shared"}, {"batch_size": 2}, (32, 0, 48)),
    pytest.param({}, {"cfg_scale": 1}, (16, 0, 32),
                 marks=pytest.mark.not_in_forge("at a scale of 1 it evaluates no unconditional rows")),
    ({"first_pass": "prefix", "blend_start": 0.5}, {}, (0, 0, 24)),
], ids=str)
def test_rows_of_a_run(webui: WebUI, fields: dict[str, Any], payload: dict[str, Any],
                       rows: tuple[int, int, int]) -> None:
    """As many as the cost model says; the prefix is free."""
    run, = run_of(omg(webui, request(concept("a red car", LEFT), **fields), **payload).info)
    assert tuple(run.get(stage, {"rows": 0})["rows"] for stage in ("first_pass", "finding", "second_pass")) == rows
    assert all(stage["seconds"] > 0 for stage in run.values())


def test_run_says_what_finding_and_upscaling_took(webui: WebUI) -> None:
    result = omg(webui, request({"phrase": "man", "prompt": "a dog"}), n_iter=2, steps=4, enable_hr=True,
                 hr_upscaler="Latent", hr_scale=1.5, denoising_strength=0.6)
    runs = run_of(result.info)
    assert len(runs) == 2
    for run in runs:
        assert list(run) == ["first_pass", "finding", "second_pass", "hires_pass"]
        assert all(stage["rows"] > 0 for stage in run.values())


def test_infotexts_are_repeatable(webui: WebUI) -> None:
    """Seconds never are, so they stand in the answer alone."""
    data = request({"phrase": "man", "prompt": "a dog"}, show=["masks"])
    first, again = (omg(webui, data).info for _ in range(2))
    assert first["infotexts"] == again["infotexts"]
    assert not any("OMG run" in text for text in first["infotexts"])
    assert run_of(first)[0].keys() == run_of(again)[0].keys()
    assert "OMG run" not in webui.txt2img().info["extra_generation_params"]


def test_findings_say_which_from_the_left(webui: WebUI) -> None:
    """By the number that `where.index` takes, with the score of the phrase that it was taken by."""
    prompt = "a photo of two men and a dog"
    data = request({"phrase": "man", "prompt": "a dog"}, {"phrase": "man", "prompt": "a cat"})
    found = json.loads(omg(webui, data, prompt=prompt).info["extra_generation_params"]["OMG found"][0])
    men = [thing for thing in found if "man" in thing["phrases"]]
    assert [thing["instance"] for thing in men] == list(range(len(men)))
    assert [thing["score"] for thing in men] == [thing["phrases"]["man"] for thing in men]
    for thing in men:
        chosen = request({"phrase": "man", "prompt": "a dog", "where": {"index": thing["instance"]}})
        again = json.loads(omg(webui, chosen, prompt=prompt).info["extra_generation_params"]["OMG found"][0])
        assert [each["box"] for each in again if each["concept"] == 0] == [thing["box"]]
