"""Where in a prompt a concept's phrase stands: as written, in the plural, counted, or with words between.

Only words count: letters in any case, and digits one by one, as text encoders see them. So attention syntax,
underscores and brackets make no difference.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from .plurals import same_thing

MAX_WORDS_BETWEEN = 3

_BORDERS = ",.;!?|，。、；！？"
_ITEM = re.compile(rf"[^\W\d_]+|\d|[\u2600-\u27bf\U0001f000-\U0001faff]|[{_BORDERS}]")  # words, digits, emoji
# in front of a phrase they say how many, not what
COUNTS = frozenset((
    "a", "an", "the", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "both",
    "several", "multiple", "many", "some", "few"))
# those that say how many of a thing there are
_NUMBERS = {"a": 1, "an": 1, "another": 1, "one": 1, "two": 2, "both": 2, "couple": 2, "three": 3, "four": 4, "five": 5,
            "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
# what follows one of these is another thing: "old woman and man" is no old man
JOINERS = frozenset((
    "and", "or", "but", "with", "without", "of", "in", "on", "at", "by", "to", "from", "for", "as", "is", "are",
    "who", "that", "near", "beside", "between", "behind", "before", "under", "over", "next", "while", "holding",
    "wearing"))
_WEIGHT = re.compile(r":\s*[-+]?(\d+\.?\d*|\.\d+)\s*(?=[)\]]|$)")
_TAG = re.compile(r"<\w+:[^>]*>")
_KEYWORD = re.compile(r"\b(AND|BREAK)\b")
_AND = re.compile(r"\bAND\b")

# of a byte that stands for itself in the vocabularies of CLIP; the others follow from 256 on, in order
_OWN_BYTES = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTES = {chr(byte): byte for byte in _OWN_BYTES} | {
    chr(256 + number): byte for number, byte in enumerate(byte for byte in range(256) if byte not in _OWN_BYTES)}


class Word(NamedTuple):
    """A word of a prompt, or a piece with several, such as the name of an embedding, and its tokens' positions."""

    text: str
    positions: Sequence[int]


class Stage(NamedTuple):
    """A prompt as it reads for some steps, if prompt editing changes it.

    Attributes:
        until: the last step, by the host's numbers.
        words: in order.
    """

    until: float
    words: Sequence[Word]


class Item(NamedTuple):
    """A word, a digit or a punctuation mark, and its tokens' positions."""

    text: str
    positions: Sequence[int]

    @property
    def is_border(self) -> bool:
        return self.text in _BORDERS


def find(phrase: str, words: Sequence[Word]) -> list[int]:
    """The token positions of a phrase, in all its places; empty if there is none.

    The first of these that is found anywhere counts: the very words; singular for plural and the other way round; the
    same without the phrase's leading count or article; the same with up to :data:`MAX_WORDS_BETWEEN` other words
    between two of it, of the same thing and up to the next comma. A comma stops none of them if the phrase has one.
    """
    items, wanted, bare = _items(words), _words(phrase), uncounted(phrase)
    if any(item.is_border for item in _items(_plain(phrase))):
        items = [item for item in items if not item.is_border]
    tries: tuple[tuple[Sequence[str], Callable[[str, str], bool], int], ...] = (
        (wanted, str.__eq__, 0), (wanted, same_thing, 0), (bare, same_thing, 0),
        (bare, same_thing, MAX_WORDS_BETWEEN))
    for sought, match, between in tries:
        found = {position for item in _search(items, sought, match, between) for position in item.positions}
        if found:
            return sorted(found)
    return []


def alike(phrase: str, other: str) -> bool:
    """Whether two phrases name one kind of thing, so that a detector has to look for it only once."""
    ours, theirs = uncounted(phrase), uncounted(other)
    return len(ours) == len(theirs) and all(map(same_thing, ours, theirs))


def counted(phrase: str, prompt: str) -> int:
    """How many of a phrase a prompt asks for, at least 1: "two old men", "2girls", "a man and another man"."""
    sought = uncounted(phrase)
    parts = [_items(_plain(part, _BORDERS[0])) for part in _AND.split(prompt)]  # parts of AND are one picture
    return max(1, *(sum(_number(items, places[-1] - 1) for places in _places(items, sought, same_thing, 0))
                    for items in parts))


def near(phrase: str, prompt: str) -> str | None:
    """The word of a prompt that is most like one of the phrase, for a message; None if none comes near."""
    words = [item.text for item in _items(_plain(prompt))
             if len(item.text) > 1 and item.text not in COUNTS | JOINERS]
    sought = [word for word in reversed(uncounted(phrase)) if len(word) > 1]  # what the thing is stands last
    for match in (same_thing, lambda ours, theirs: ours in theirs or theirs in ours):
        for ours in sought:
            for theirs in words:
                if match(ours, theirs):
                    return theirs
    close = (difflib.get_close_matches(ours, words, 1, cutoff=0.7) for ours in sought)
    return next((matches[0] for matches in close if matches), None)


def words_in(text: str) -> list[Word]:
    """The words of a plain text; positions are numbers of words."""
    return [Word(item.text, (number,)) for number, item in enumerate(items_in(text))]


def items_in(text: str) -> list[Item]:
    """The words, digits and punctuation of a plain text, in lower case."""
    return _items(_plain(text, _BORDERS[0]))


def words_of(pieces: Sequence[str], names: Mapping[int, str] | None = None) -> list[Word]:
    """The words that a prompt's tokens spell.

    Args:
        pieces: each token as the vocabulary spells it, ``</w>`` at a word's end (CLIP) or ``▁`` at its beginning
            (SentencePiece); empty for tokens that are no text: start, end, padding.
        names: of the embeddings that stand in place of tokens, by position.
    """
    names = names or {}
    starts = [position for position in range(len(pieces)) if _starts_word(pieces, names, position)]
    return [_word(pieces, names, range(*span)) for span in pairwise([*starts, len(pieces)])]


def _starts_word(pieces: Sequence[str], names: Mapping[int, str], position: int) -> bool:
    if position == 0:
        return True
    piece, before = pieces[position], pieces[position - 1]
    kind, kind_before = ((names.get(place), bool(pieces[place])) for place in (position, position - 1))
    within_text = kind == kind_before == (None, True)
    return kind != kind_before or (within_text and (before.endswith("</w>") or piece.startswith("▁")))


def _word(pieces: Sequence[str], names: Mapping[int, str], span: range) -> Word:
    if span[0] in names:
        return Word(names[span[0]], span)
    text = "".join(pieces[position] for position in span).removesuffix("</w>")
    if not text:
        # more than the end of one chunk of tokens and the start of the next: BREAK
        return Word(_BORDERS[0] if len(span) > 2 else "", ())
    if any(character not in _BYTES for character in text):
        return Word(text, span)
    return Word(bytes(_BYTES[character] for character in text).decode("utf-8", "replace"), span)


def _plain(text: str, keyword: str = " ") -> list[Word]:
    """A text without network tags and weights, and with something else for keywords."""
    return [Word(_WEIGHT.sub("", _KEYWORD.sub(keyword, _TAG.sub(" ", text))), ())]


def _items(words: Sequence[Word]) -> list[Item]:
    return [Item(found, word.positions) for word in words
            for found in _ITEM.findall(unicodedata.normalize("NFC", word.text).casefold())]


def _words(phrase: str) -> list[str]:
    return [item.text for item in _items(_plain(phrase)) if not item.is_border]


def uncounted(phrase: str) -> list[str]:
    """The phrase's words without counts and articles before them, but "2b" is a name."""
    words = _words(phrase)
    while len(words) > 1 and (words[0] in COUNTS or (words[0].isdigit() and
                                                      (words[1].isdigit() or len(words[1]) > 2))):
        words = words[1:]
    return words


def _number(items: Sequence[Item], place: int) -> int:
    """How many of the thing are said at or before the item number ``place``, adjectives between; 0 is not said."""
    for number in range(place, max(place - 1 - MAX_WORDS_BETWEEN, -1), -1):
        text = items[number].text
        if text.isdigit():
            before = items[number - 1].text if number else ""
            return int(before + text if before.isdigit() else text)
        if text in _NUMBERS:
            return _NUMBERS[text]
        if items[number].is_border or text in JOINERS - {"of"}:
            return 0
    return 0


def _search(items: Sequence[Item], sought: Sequence[str], match: Callable[[str, str], bool],
            between: int) -> list[Item]:
    """The items of all places of a phrase."""
    return [items[number] for place in _places(items, sought, match, between) for number in place]


def _places(items: Sequence[Item], sought: Sequence[str], match: Callable[[str, str], bool],
            between: int) -> list[list[int]]:
    """Each place of a phrase, as numbers of items. From its end back, since what the thing is stands last."""
    found: list[list[int]] = []
    for end, item in enumerate(items):
        if sought and match(item.text, sought[-1]):
            place: list[int] = [end]
            for word in reversed(sought[:-1]):
                before = _before(items, place[-1], word, match, between)
                if before is None:
                    break
                place.append(before)
            else:
                found.append(place)
    return found


def _before(items: Sequence[Item], end: int, word: str, match: Callable[[str, str], bool],
            between: int) -> int | None:
    """Where the word stands before the item number ``end``, with so many others between at most."""
    for place in range(end - 1, max(end - 2 - between, -1), -1):
        if items[place].is_border:
            return None
        if match(items[place].text, word):
            return place
        if items[place].text in JOINERS:
            return None
    return None
