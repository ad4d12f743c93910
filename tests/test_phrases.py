"""Finding a phrase in a prompt, on plain strings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omg_ext.comprehension.phrases import Word, alike, counted, find, near, words_in, words_of
from omg_ext.comprehension.plurals import same_thing


def found(phrase: str, prompt: str) -> str:
    """The words of the prompt in which the phrase is found."""
    words = words_in(prompt)
    return " ".join(words[position].text for position in find(phrase, words))


class TestFind:
    @pytest.mark.parametrize(("phrase", "prompt", "expected"), [
        # as written
        ("man", "a man and a woman", "man"),
        ("old man", "an old man and a young man", "old man"),
        ("man", "a man, another man", "man man"),
        ("MAN", "A Man in a park", "man"),
        ("mr. smith", "mr. smith and a dog", "mr smith"),
        ("Ångström", "the ångström house", "ångström"),
        ("café", "in the cafe\u0301", "café"),
        ("🐶", "a 🐶 in a park", "🐶"),
        ("少女", "街の 少女", "少女"),
        # plural and counted
        ("girl", "2girls, side by side, park", "girls"),
        ("2girls", "2girls, side by side", "2 girls"),
        ("1girl", "2girls", "girls"),
        ("man", "two men", "men"),
        ("two men", "a man and a dog", "man"),
        ("multiple girls", "3girls", "girls"),
        ("a man", "the man", "man"),
        ("woman", "women in a park", "women"),
        ("person", "a crowd of people", "people"),
        ("child", "three children", "children"),
        ("wolf", "five wolves", "wolves"),
        ("fairy", "fairies", "fairies"),
        ("witch", "witches", "witches"),
        ("policeman", "two policemen", "policemen"),
        ("dogs", "a dog", "dog"),
        ("old man", "old men", "old men"),
        # the very word is better than its plural
        ("man", "a man before a crowd of men", "man"),
        # attention syntax, underscores
        ("(man:1.2)", "a man", "man"),
        ("((man))", "a man", "man"),
        ("[man]", "a man", "man"),
        ("man:1.2", "a man", "man"),
        ("man BREAK", "a man", "man"),
        ("man", "a (man:1.3) and ((dog))", "man"),
        ("old man", "an (old:1.3) [man]", "old man"),
        ("dog", "a man AND a (dog:1.2) :0.6", "dog"),
        ("dog", "a man BREAK a dog", "dog"),
        ("man <lora:sks:1>", "a man", "man"),
        ("hatsune miku", "hatsune_miku", "hatsune miku"),
        ("hatsune_miku", "hatsune miku, 1girl", "hatsune miku"),
        (r"miku \(vocaloid\)", r"miku_\(vocaloid\), solo", "miku vocaloid"),
        ("spider-man", "spider man", "spider man"),
        # words between
        ("old man", "old wise man", "old man"),
        ("old man", "an old, wise man", ""),
        ("old man", "old woman and young man", ""),
        ("old man", "an old man, old wise man", "old man"),
        ("knight in armour", "a knight in shining armour", "knight in armour"),
        ("old man", "old big grey tired wise man", ""),
        ("man old", "old man", ""),
        ("old man", "old BREAK man", ""),
        # not there
        ("man", "a woman in a manor", ""),
        ("girl", "a catgirl", ""),
        ("2b", "a b in a park", ""),
        ("2b", "2b, android", "2 b"),
        ("princess", "two princes", ""),
        ("man", "", ""),
        ("()", "a man", ""),
        ("two", "two men", "two"),
    ])
    def test_plain(self, phrase: str, prompt: str, expected: str) -> None:
        assert found(phrase, prompt) == expected

    @given(st.text(max_size=20), st.text(max_size=40))
    def test_any_text(self, phrase: str, prompt: str) -> None:
        words = words_in(prompt)
        assert set(find(phrase, words)) <= set(range(len(words)))
        near(phrase, prompt)
        assert alike(phrase, phrase)

    @given(st.lists(st.sampled_from(["red", "fox", "2", "miku"]), min_size=1), st.integers(0, 9), st.integers(1, 3))
    def test_finds_what_stands_there(self, words: list[str], start: int, length: int) -> None:
        start = min(start, len(words) - 1)
        phrase = words[start:start + length]
        assert set(range(start, start + len(phrase))) <= set(find(" ".join(phrase), words_in(" ".join(words))))


class TestAlike:
    @pytest.mark.parametrize(("one", "other"), [
        ("man", "Men"), ("a man", "two men"), ("2girls", "girl"), ("hatsune_miku", "(hatsune miku:1.1)"),
        ("cookies", "cookie")])
    def test_alike(self, one: str, other: str) -> None:
        assert alike(one, other)
        assert alike(other, one)

    @pytest.mark.parametrize(("one", "other"), [("man", "woman"), ("old man", "man"), ("2b", "b"), ("bus", "bu")])
    def test_unlike(self, one: str, other: str) -> None:
        assert not alike(one, other)


@pytest.mark.parametrize(("one", "other"), [
    ("men", "man"), ("women", "woman"), ("people", "person"), ("children", "child"), ("mice", "mouse"),
    ("wolves", "wolf"), ("knives", "knife"), ("boxes", "box"), ("heroes", "hero"), ("dresses", "dress"),
    ("ladies", "lady"), ("zombies", "zombie"), ("horses", "horse"), ("gloves", "glove"), ("dwarves", "dwarf")])
def test_plurals(one: str, other: str) -> None:
    assert same_thing(one, other)
    assert same_thing(other, one)


@pytest.mark.parametrize(("one", "other"), [("glass", "glas"), ("man", "woman"), ("virus", "viru"), ("s", "")])
def test_no_plurals(one: str, other: str) -> None:
    assert not same_thing(one, other)


@pytest.mark.parametrize(("phrase", "prompt", "expected"), [
    ("old man", "a man in a park", "man"), ("old man", "an old house", "old"), ("girl", "1boy, catgirl", "catgirl"),
    ("knigt", "a knight in armour", "knight"), ("man", "a woman and a dog", "woman"), ("giraffe", "a man", None),
    ("man", "the and", None), ("two wizards", "two men", None), ("wizard", "(wizzard:1.2) in a park", "wizzard")])
def test_near(phrase: str, prompt: str, expected: str | None) -> None:
    assert near(phrase, prompt) == expected


class TestWordsOf:
    def test_clip(self) -> None:
        pieces = ["", "2</w>", "girls</w>", ",</w>", "hat", "sune</w>", "_</w>", "miku</w>", "", "", ""]
        words = words_of(pieces)
        assert [(word.text, list(word.positions)) for word in words if word.positions] == [
            ("2", [1]), ("girls", [2]), (",", [3]), ("hatsune", [4, 5]), ("_", [6]), ("miku", [7])]
        assert find("hatsune miku", words) == [4, 5, 7]

    def test_bytes_of_other_scripts(self) -> None:
        """A letter may be spread over tokens, whose characters stand for bytes."""
        assert find("café", words_of(["caf", "Ã", "©</w>"])) == [0, 1, 2]
        assert find("дом", words_of(["Ð´", "Ð¾", "Ð¼</w>"])) == [0, 1, 2]

    def test_sentence_pieces(self) -> None:
        words = words_of(["", "▁old", "▁m", "an", ",", "▁café", ""])
        assert find("old man", words) == [1, 2, 3, 4]
        assert find("café", words) == [5]

    def test_chunks(self) -> None:
        """A phrase may stand across two chunks of tokens, but not across BREAK, which fills up a chunk."""
        assert find("old man", words_of(["", "old</w>", "", "", "man</w>", ""])) == [1, 4]
        assert find("old man", words_of(["", "old</w>", "", "", "", "man</w>", ""])) == []

    def test_embeddings(self) -> None:
        """An embedding has a name instead of text, and several tokens."""
        words = words_of(["", "a</w>", "!", "!", "!", "man</w>", ""], {2: "cat-toy", 3: "cat-toy", 4: "café"})
        assert find("cat toy", words) == [2, 3]
        assert find("café", words) == [4]
        assert find("man", words) == [5]

    @given(st.lists(st.sampled_from(["", "a", "b</w>", "▁c", ",</w>", "Ã", "☃"])))
    def test_every_token_once(self, pieces: list[str]) -> None:
        positions = [position for word in words_of(pieces) for position in word.positions]
        assert positions == [position for position, piece in enumerate(pieces) if piece]

    def test_nothing(self) -> None:
        assert words_of([]) == []
        assert find("man", [Word("", ())]) == []


@pytest.mark.parametrize(("phrase", "prompt", "count"), [
    ("man", "two old men in the park", 2), ("girl", "2girls, standing", 2), ("(man:1.2)", "a man and another man", 2),
    ("man", "a man and a woman, the man smiles", 1), ("woman", "a man and a woman", 1), ("man", "12 men", 12),
    ("man", "a couple of men", 2), ("man", "one woman and three tall bearded men", 3), ("man", "a dog", 1),
    ("man", "a man AND a man :0.5", 1), ("man", "two women and a man", 1), ("man", "two dogs, man", 1),
    ("", "a man", 1),
])
def test_how_many_a_prompt_asks_for(phrase: str, prompt: str, count: int) -> None:
    assert counted(phrase, prompt) == count
