"""A prompt less one of its things, and with one thing of a kind."""

from __future__ import annotations

import pytest

from omg_ext.comprehension.without import single, without


@pytest.mark.parametrize(("prompt", "phrase", "left"), [
    ("a man and a woman in the park", "man", "a woman in the park"),
    ("a man and a woman in the park", "woman", "a man in the park"),
    ("a man and a woman in the park", "a man", "a woman in the park"),
    ("a man", "man", ""),
    ("park: a man and a woman", "man", "park: a woman"),
    ("park: a man", "man", "park"),
    ("a man and a woman\nin a park", "man", "a woman\nin a park"),
    ("old man and woman", "man", "woman"),
    ("his dog and a cat", "dog", "a cat"),
    ("a man's hat", "man", "hat"),
    ("a man with a hat and a woman", "man", "with a hat and a woman"),
])
def test_with_its_article_and_and(prompt: str, phrase: str, left: str) -> None:
    assert without(prompt, phrase) == left


@pytest.mark.parametrize(("phrase", "left"), [
    ("man", "a woman and a dog in the park"),
    ("woman", "a man and a dog in the park"),
    ("dog", "a man, a woman in the park"),
])
def test_lists(phrase: str, left: str) -> None:
    assert without("a man, a woman and a dog in the park", phrase) == left


@pytest.mark.parametrize(("prompt", "phrase", "left"), [
    ("photo of a tall old man, park", "man", "photo, park"),
    ("a woman and a red-haired man in the park", "man", "a woman in the park"),
    ("a (red:1.2) man and a dog", "red man", "a dog"),
    ("a (red:1.2) man and a dog", "man", "a dog"),
    # no article, so nothing says where what describes it begins
    ("highly detailed cinematic dramatic photograph man, x", "man", "highly detailed cinematic dramatic photograph, x"),
])
def test_with_what_describes_it(prompt: str, phrase: str, left: str) -> None:
    assert without(prompt, phrase) == left


@pytest.mark.parametrize(("prompt", "phrase", "left"), [
    ("a man and another man in the park", "man", "in the park"),
    ("two men in the park", "man", "in the park"),
    ("a couple of men on a bench", "man", "on a bench"),
    ("photo of two old men, a man and a dog", "man", "photo of a dog"),
    ("1boy, 1girl, park", "boy", "1girl, park"),
    ("1boy,1girl,park", "girl", "1boy,park"),
    ("2girls, park", "1girl", "park"),
    ("best quality, a man", "man", "best quality"),
])
def test_in_all_places_and_numbers(prompt: str, phrase: str, left: str) -> None:
    assert without(prompt, phrase) == left


@pytest.mark.parametrize(("prompt", "phrase", "left"), [
    ("photo of a man", "man", "photo"),
    ("photo of a man in the park", "man", "photo in the park"),
    ("photo of a man and a woman", "man", "photo of a woman"),
    ("a woman next to a man in the park", "man", "a woman in the park"),
    ("a woman with a man", "man", "a woman"),
])
def test_no_preposition_hangs(prompt: str, phrase: str, left: str) -> None:
    assert without(prompt, phrase) == left


@pytest.mark.parametrize(("prompt", "phrase", "left"), [
    ("photo of (a man:1.2) and (a woman:1.1), park", "man", "photo of (a woman:1.1), park"),
    ("photo of (a man:1.2) and (a woman:1.1), park", "woman", "photo of (a man:1.2), park"),
    ("(a man and a woman:1.2), park", "man", "(a woman:1.2), park"),
    ("((a man)), [a man], park", "man", "park"),
    (r"a man \(series\) x", "man", r"\(series\) x"),
    ("<lora:man:1> a man <lora:x:0.5>, y", "man", "<lora:man:1> <lora:x:0.5>, y"),
    ("a man [red:blue:0.5] sky", "man", "[red:blue:0.5] sky"),
    ("[cat|dog] and a man", "man", "[cat|dog]"),
    ("[a man:a dog:0.5] in the park", "man", "[:a dog:0.5] in the park"),
    ("[a dog:a man:0.5] in the park", "man", "[a dog::0.5] in the park"),
    ("[a man|a dog] in the park", "man", "[|a dog] in the park"),
    ("[a man:0.5] in the park", "man", "in the park"),
])
def test_syntax_stays_valid(prompt: str, phrase: str, left: str) -> None:
    assert without(prompt, phrase) == left


@pytest.mark.parametrize(("prompt", "phrase", "left"), [
    ("a man AND a woman :1.2", "man", "a woman :1.2"),
    ("a man :0.7 AND a woman :1.2", "man", "a woman :1.2"),
    ("a woman AND a man :1.2", "man", "a woman"),
    ("a man in the park AND a woman and a man in the park", "man", "in the park AND a woman in the park"),
    ("a man BREAK a woman", "man", "a woman"),
    ("a man BREAK a woman", "woman", "a man"),
])
def test_parts(prompt: str, phrase: str, left: str) -> None:
    assert without(prompt, phrase) == left


@pytest.mark.parametrize("prompt", [
    "", " a  woman ,  (two robots)\n", "a woman's [cat|dog:0.5], manly", "(((", "a:b:c"])
def test_a_prompt_that_does_not_name_it_stays(prompt: str) -> None:
    assert without(prompt, "man") == single(prompt, "man") == prompt


@pytest.mark.parametrize(("prompt", "phrase", "left"), [
    ("two men in the park", "man", "a man in the park"),
    ("a man and another man in the park", "man", "a man in the park"),
    ("a couple of men on a bench", "man", "a man on a bench"),
    ("two old men and a woman", "a man", "a man and a woman"),
    ("three apples on a desk", "apple", "an apple on a desk"),
    ("(two men:1.2) in the park", "man", "(a man:1.2) in the park"),
    ("2girls, park", "girl", "1girl, park"),
    ("2girls, park", "1girl", "1girl, park"),
    ("a red dog and a blue dog", "dog", "a red dog"),
    ("two men in the park", "men", "a man in the park"),
    ("two men in the park", "(Man:1.2)", "a man in the park"),
    ("two old men in the park", "old_man", "an old man in the park"),
    ("two old men in the park", "old men", "an old man in the park"),
    ("three horses and a man", "horses", "a horse and a man"),
    ("two glasses on a table", "glasses", "a glass on a table"),
    ("two knives", "knives", "a knife"),
])
def test_one_of_several(prompt: str, phrase: str, left: str) -> None:
    assert single(prompt, phrase) == left


@pytest.mark.parametrize(("prompt", "phrase"), [
    ("a man in the park", "man"), ("1girl, park", "girl"), ("the old man", "a man"),
    ("a red dog and a blue dog", "red dog"), ("a man AND a woman", "woman"),
])
def test_one_stays_as_it_is(prompt: str, phrase: str) -> None:
    assert single(prompt, phrase) == prompt
