"""Phrases in the prompts of a diffusers pipeline: which tokens are theirs, and what is said of one that is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed in this environment")

from omg_ext.comprehension.phrases import find
from omg_ext.diffusers.prompts import words
from tests.diffusers_host import generate, pipeline
from tests.models.tiny import tiny_sd15

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def tokens(pipe: Any, phrase: str, prompt: str) -> list[str]:
    """What the tokens at a phrase's positions spell."""
    ids = pipe.tokenizer(prompt, truncation=True).input_ids
    return pipe.tokenizer.convert_ids_to_tokens([ids[position] for position in find(phrase, words(pipe, prompt))])


@pytest.mark.parametrize(("phrase", "prompt", "expected"), [
    ("man", "a man and a Man", ["man</w>", "man</w>"]),
    ("girl", "2girls, side by side", ["g", "i", "r", "l", "s</w>"]),
    ("(hat_man:1.2)", "the hat man", ["hat</w>", "man</w>"]),
    ("old man", "an old wise man", ["old</w>", "man</w>"]),
    ("man", "a woman", []),
    ("dog", "a man " * 40 + "and a dog", []),
])
def test_tokens_of_a_phrase(phrase: str, prompt: str, expected: list[str]) -> None:
    assert tokens(pipeline(), phrase, prompt) == expected


def test_embeddings_of_several_vectors() -> None:
    pipe = tiny_sd15()
    pipe.load_textual_inversion(torch.randn(3, pipe.text_encoder.config.hidden_size), token="<cat-toy>")
    assert find("<cat-toy>", words(pipe, "a <cat-toy> man")) == [2, 3, 4]
    assert find("man", words(pipe, "a <cat-toy> man")) == [5]


def masks(prompt: str, *phrases: str) -> list[np.ndarray | None]:
    request = {"concepts": [{"prompt": "dog", "phrase": phrase} for phrase in phrases]}
    result = generate(pipeline(), request, prompt, seed=3)
    return list(result.masks[0])


@pytest.mark.parametrize(("phrase", "same", "prompt"), [
    ("man", "men", "two men in the park"), ("(Man:1.2)", "men", "two men in the park"),
    ("old_man", "old men", "two old men in the park"), ("the red hat", "red hat", "a red hat in a park")])
def test_a_place_is_the_same_however_it_is_named(phrase: str, same: str, prompt: str) -> None:
    found, expected = (masks(prompt, each)[0] for each in (phrase, same))
    assert found is not None
    assert expected is not None
    np.testing.assert_array_equal(found, expected)


def test_two_of_one_kind_share_what_is_found() -> None:
    """However they are named: the better place is the first's, and no place is both's."""
    prompt = "two men in the park"
    first, second = masks(prompt, "man", "men")
    alone, = masks(prompt, "man")
    assert first is not None
    np.testing.assert_array_equal(first, alone)
    again = masks(prompt, "man", "man")[1]
    assert (second is None) == (again is None)
    if second is not None:
        np.testing.assert_array_equal(second, again)


@pytest.mark.parametrize(("phrase", "prompt", "hint"), [
    ("old man", "a man in the park", "of which 'man' comes near: write that as the phrase"),
    ("girl", "a catgirl", "of which 'catgirl' comes near: write that as the phrase"),
    ("giraffe", "a man", "goes by the prompt's words"),
    ("dog", "a man " * 40 + "and a dog", "behind the last word that the text encoder takes"),
])
def test_what_comes_near_is_said(phrase: str, prompt: str, hint: str) -> None:
    result = generate(pipeline(), {"concepts": [{"prompt": "dog", "phrase": phrase}]}, prompt, steps=1)
    said, = result.warnings
    assert f"no '{phrase}' was found" in said
    assert said.endswith(hint)
