"""What a prompt offers as phrases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omg_ext.comprehension.phrases import find, words_in
from omg_ext.comprehension.proposals import MOST, proposals


@pytest.mark.parametrize(("prompt", "offered"), [
    ("photo of a man and a woman at the beach", ["man", "woman", "beach"]),
    ("a photo of a man", ["man"]),
    ("two tall men walking under an umbrella", ["man", "man", "umbrella"]),
    ("1girl, 2boys, park, sunset", ["girl", "boy", "boy"]),
    ("a (red:1.2) knight fighting a dragon <lora:a man:1>", ["knight", "dragon"]),
    ("portrait of an old man with a hat BREAK a dog", ["man", "hat", "dog"]),
    ("a man and another man", ["man", "man"]),
    ("oil painting, masterpiece, 8k", []),
    ("", []),
    ("a", []),
])
def test_things_that_are_counted_or_have_an_article(prompt, offered):
    assert proposals(prompt) == offered


@pytest.mark.parametrize(("taken", "left"), [
    (["man"], ["woman", "man"]), (["man", "Men"], ["woman"]), (["woman", "giraffe"], ["man", "man"]),
    (["man", "man", "woman", "man"], [])])
def test_what_is_taken_is_not_offered_again(taken, left):
    assert sorted(proposals("two men and a woman", taken)) == sorted(left)


@given(st.lists(st.sampled_from(["a", "two", "3", "men", "woman", "and", ",", "of", "(dog:1.1)", "BREAK", "holding",
                                 "photo", "<lora:x:1>", "猫", "2girls"]), max_size=12).map(" ".join))
def test_each_is_a_phrase_that_is_found_there(prompt):
    offered = proposals(prompt)
    assert len(set(offered)) <= MOST
    assert all(find(phrase, words_in(prompt)) for phrase in offered)
