"""A concept that is switched off, on the diffusers host: the others are drawn as without it, and keep their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from omg_ext.comprehension.places import ALL_OFF
from omg_ext.errors import OMGError
from omg_ext.jobs.cost import rows
from omg_ext.jobs.job import parse_job
from omg_ext.request import dump_request, parse_request
from tests.diffusers_host import assert_untouched, generate, pipeline, plain, small_loras, snapshot
from tests.test_invariants import unet_rows

WAYS = ("separate", "shared", "joint")
OWN = {"prompt": "old man<lora:one>", "where": {"box": [0.1, 0.15, 0.55, 0.9]}, "lora_guidance": 1}
# whatever could be asked of it, none of which is there
OFF: list[dict[str, Any]] = [
    {"prompt": "blue dog<lora:two:0.8>", "where": {"box": [0.5, 0, 1, 1]}, "negative_prompt": "x", "lora_guidance": 2},
    {"prompt": "blue dog<lora:no such file>", "where": {"rest": True}},
    {"prompt": "", "phrase": ""},
    {"prompt": "a giraffe", "phrase": "giraffe"},
    {"prompt": "a giraffe", "where": {"outline": [0.5, 0, 1, 1]}},
    {"prompt": "a face", "where": {"box": [0.5, 0, 1, 1]}, "face": "iVBORw0KGgo="},
]


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_loras(tmp_path_factory.mktemp("loras"))


def asked(*concepts: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"concepts": list(concepts), "blend_start": 0.3, "mask": {"grow": 0, "feather": 0}, **options}


@pytest.mark.parametrize("predict", WAYS)
@pytest.mark.parametrize("off", OFF, ids=range(len(OFF)))
def test_the_others_are_drawn_as_without_it(loras, predict, off):
    """To the bit, in both places, with no more rows, and without a word, strict or not."""
    pipe = pipeline()
    before = snapshot(pipe)
    with unet_rows(pipe) as wanted_rows:
        wanted = generate(pipe, asked(OWN, predict=predict), loras=loras)
    off = {**off, "enabled": False}
    for concepts in ([OWN, off], [off, OWN]):
        with unet_rows(pipe) as these_rows:
            result = generate(pipe, asked(*concepts, predict=predict, strict=True), loras=loras)
        assert torch.equal(result.latents, wanted.latents)
        assert [mask is None for mask in result.masks[0]] == [each is off for each in concepts]
        assert result.warnings == []
        assert these_rows == wanted_rows
    assert_untouched(pipe, before)


def test_the_one_behind_it_keeps_its_number(loras):
    with pytest.raises(OMGError) as refused:
        generate(pipeline(), asked({**OWN, "enabled": False}, {**OWN, "prompt": "a man<lora:none>"}), loras=loras)
    assert refused.value.field == "concepts[1].prompt"


@pytest.mark.parametrize("first_pass", ["whole", "prefix"])
def test_where_all_are_off_it_is_the_ordinary_picture(loras, first_pass):
    pipe = pipeline()
    result = generate(pipe, asked({**OWN, "enabled": False}, first_pass=first_pass, layout={"cross": 0, "self": 0}),
                      loras=loras)
    assert torch.equal(result.latents, plain(pipe))
    assert result.warnings == [ALL_OFF]


def test_who_is_off_takes_no_part_in_what_is_sought(loras):
    """Neither a phrase nor the only rest."""
    parse_request(asked({**OWN, "where": {"rest": True}, "enabled": False}, {**OWN, "where": {"rest": True}}))
    with pytest.raises(OMGError, match="phrase"):
        parse_request(asked({"prompt": "a man", "phrase": ""}))


def test_it_is_written_only_where_it_is_said():
    for concept in (OWN, {**OWN, "enabled": False}):
        assert dump_request(parse_request(asked(concept)))["concepts"][0].get("enabled", True) is concept.get("enabled",
                                                                                                            True)


def test_it_counts_for_nothing_in_the_estimate():
    job = {"prompt": "a man and a dog", "request": asked(OWN)}
    off = {**job, "request": asked(OWN, {**OFF[0], "enabled": False})}
    assert rows(parse_job(off)) == rows(parse_job(job))
    assert parse_job(off).concepts == 1
    assert parse_job(off).networks == ("one",)
