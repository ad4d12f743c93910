"""A prompt without a phrase: what the model is asked for the same picture less one thing; or with a phrase once.

The phrase goes in all its places, with the article, number and adjectives in front of it, and with the "and", comma or
preposition that would be left hanging. Attention syntax, prompt editing, ``AND`` and network tags stay valid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .phrases import MAX_WORDS_BETWEEN, Word, find, uncounted
from .plurals import same_thing, singular

# in front of a thing they say which or how many; what stands between them and the thing describes it
_DETERMINERS = frozenset((
    "a", "an", "the", "another", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "both",
    "several", "multiple", "many", "some", "few", "other", "this", "these", "those", "my", "your", "his", "her", "its",
    "our", "their"))
# of these, those that say there is one thing of the kind, or one more
_SINGULAR = frozenset((
    "a", "an", "the", "another", "one", "1", "other", "this", "my", "your", "his", "her", "its", "our", "their"))
# "a couple of men" is gone with the men
_GROUPS = frozenset(("couple", "pair", "trio", "group", "crowd", "number", "lot"))
_LISTING = frozenset(("and", "or", "&", "plus"))
_PREPOSITIONS = frozenset((
    "with", "without", "of", "in", "on", "at", "by", "to", "from", "for", "near", "beside", "between", "behind",
    "before", "under", "over", "next", "while", "but", "as"))
# a describing word is none of these
_JOINERS = _LISTING | _PREPOSITIONS | {"is", "are", "who", "that", "holding", "wearing"}

_PIECE = re.compile(r"""
      (?P<tag>     <\w+:[^>]*> )
    | (?P<escaped> \\. )
    | (?P<weight>  :\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*(?=[)\]]|$|\bAND\b) )
    | (?P<open>    [(\[] )
    | (?P<close>   [)\]] )
    | (?P<keyword> \b(?:AND|BREAK)\b )
    | (?P<border>  [:|.;!?。；！？，、] )
    | (?P<comma>   , )
    | (?P<word>    [^\W\d_]+(?:['’]s\b)? | \d | & | [☀-➿\U0001f000-\U0001faff] )
""", re.VERBOSE)
_BRACKETS = ("open", "close", "weight")


@dataclass(eq=False)
class _Piece:
    """A word or mark of a prompt.

    Attributes:
        kind: the group of the pattern that matched.
        text: as written.
        lead: what stands between the piece before and this one: space, quotes, hyphens.
        dropped: whether it goes.
    """

    kind: str
    text: str
    lead: str
    dropped: bool = False

    @property
    def word(self) -> str:
        """In lower case; empty for a mark."""
        return self.text.casefold() if self.kind == "word" else ""

    @property
    def is_list(self) -> bool:
        return self.kind == "comma" or self.word in _LISTING


def without(prompt: str, phrase: str) -> str:
    """The prompt without a phrase, in all places where :func:`omg_ext.comprehension.phrases.find` finds it.

    "a man and a woman in the park" without "man" is "a woman in the park". What is said of the thing after it stays
    ("with a hat"): where that ends, words do not tell. A prompt that does not name the phrase is given back as it is;
    parts of ``AND`` and brackets that are empty without it go too.
    """
    pieces, rest = _pieces(prompt)
    named = _named(pieces, phrase)
    if not named:
        return prompt
    _drop(pieces, named)
    return _cleaned(pieces, rest)


def single(prompt: str, phrase: str) -> str:
    """The prompt with a phrase once where it asks for several: "two men" and "a man and another man" become "a man".

    A prompt that names it once, or not at all, is given back as it is.
    """
    pieces, rest = _pieces(prompt)
    named = _named(pieces, phrase)
    *describing, kind = uncounted(phrase) or [""]
    # what a thing is stands last in its phrase
    heads = [number for number in named if same_thing(pieces[number].word, kind)]
    if not heads:
        return prompt
    first, head = [number for number in named if number <= heads[0]], pieces[heads[0]]
    before = [piece for piece in _described(pieces, first[0]) if piece.word]
    is_one = head.word == kind and all(
        piece.word in _SINGULAR for piece in before if _determines(piece.word))
    if is_one and len(heads) == 1:
        return prompt
    _drop(pieces, [number for number in named if number > heads[0]])
    if not is_one:
        start = next(iter(before), pieces[first[0]])
        is_tag, what = start.word.isdigit(), " ".join([*describing, singular(kind)])
        _drop(pieces, first)
        head.dropped, head.lead = False, start.lead
        head.text = f"1{what}" if is_tag else f"{'an' if what[0] in 'aeiou' else 'a'} {what}"
    return _cleaned(pieces, rest)


def _named(pieces: Sequence[_Piece], phrase: str) -> list[int]:
    """The pieces of all places of a phrase: also "two men" beside "a man", of which a search takes the nearer one."""
    words = [_sought(piece, number) for number, piece in enumerate(pieces)]
    named: list[int] = []
    while found := find(phrase, words):
        named += found
        for number in found:
            words[number] = Word(",", ())
    return sorted(named)


def _drop(pieces: Sequence[_Piece], named: Sequence[int]) -> None:
    """Drops the words of some places of a phrase, and what describes them."""
    for number in named:
        pieces[number].dropped = True
    for number in named:
        for describing in _described(pieces, number):
            # brackets stay, to be dropped if nothing is left in them
            describing.dropped |= bool(describing.word)


def _cleaned(pieces: Sequence[_Piece], rest: str) -> str:
    """The text of what is left, without what hangs."""
    while any([_drop_empty_groups(pieces), _drop_empty_parts(pieces), _drop_hanging(pieces)]):
        pass
    return _text(pieces, rest)


def _pieces(prompt: str) -> tuple[list[_Piece], str]:
    """The prompt's pieces, and what stands after the last."""
    pieces, end = [], 0
    for match in _PIECE.finditer(prompt):
        pieces.append(_Piece(match.lastgroup or "", match.group(), prompt[end:match.start()]))
        end = match.end()
    return pieces, prompt[end:]


def _sought(piece: _Piece, number: int) -> Word:
    """A piece as a search reads it."""
    if piece.kind == "word":
        return Word(re.sub(r"['’]s$", "", piece.text), (number,))
    # brackets around some of its words do not end a phrase
    return Word("," if piece.kind in ("keyword", "border", "comma") else "", ())


def _described(pieces: Sequence[_Piece], place: int) -> Sequence[_Piece]:
    """What stands in front of a thing and belongs to it: from its determiner on; without one, what may describe it."""
    start = _back(pieces, place, lambda word: word not in _JOINERS, MAX_WORDS_BETWEEN + 1, _BRACKETS)
    determiner = next((number for number in range(place - 1, start - 1, -1) if _determines(pieces[number].word)), None)
    if determiner is None:
        start = _back(pieces, place, lambda word: word not in _JOINERS, MAX_WORDS_BETWEEN + 1)
        start = start if place - start <= MAX_WORDS_BETWEEN else place
    else:
        start = _back(pieces, determiner, _determines, len(pieces))
    return pieces[_group(pieces, start):place]


def _determines(word: str) -> bool:
    return word in _DETERMINERS or word.isdigit()


def _back(pieces: Sequence[_Piece], place: int, accepts: Callable[[str], bool], most: int,
          across: Collection[str] = ()) -> int:
    """Where the run of at most so many accepted words starts that ends in front of a place, across marks of a kind."""
    start = number = place
    while number > 0 and most > 0 and (pieces[number - 1].word or pieces[number - 1].kind in across):
        number -= 1
        if pieces[number].word:
            if not accepts(pieces[number].word):
                break
            start, most = number, most - 1
    return start


def _group(pieces: Sequence[_Piece], start: int) -> int:
    """Where "a couple of" starts that stands in front of a place; the place if none does."""
    if start > 1 and pieces[start - 1].word == "of" and pieces[start - 2].word in _GROUPS:
        return _back(pieces, start - 2, lambda word: word not in _JOINERS, 2)
    return start


def _drop_empty_groups(pieces: Sequence[_Piece]) -> bool:
    """Drops brackets with nothing left in them, and their weights; says whether there were any."""
    opened: list[int] = []
    found = False
    for number, piece in enumerate(pieces):
        if piece.kind == "open":
            opened.append(number)
        elif piece.kind == "close" and opened:
            start = opened.pop()
            inside = pieces[start:number + 1]
            if not piece.dropped and any(each.dropped for each in inside) and not any(map(_is_content, inside)):
                for each in inside:
                    each.dropped = True
                found = True
    return found


def _drop_empty_parts(pieces: Sequence[_Piece]) -> bool:
    """Drops parts of ``AND`` and ``BREAK`` with nothing left in them; says whether there were any."""
    alive = [piece for piece in pieces if not piece.dropped]
    edges = [-1, *(number for number, piece in enumerate(alive) if piece.kind == "keyword"), len(alive)]
    for start, end in pairwise(edges):
        if len(edges) > 2 and not any(map(_is_content, alive[start + 1:end])):
            # with the keyword behind it; the last part with the one before
            for piece in alive[start + 1:end + 1] if end < len(alive) else alive[start:end]:
                piece.dropped = True
            return True
    return False


def _is_content(piece: _Piece) -> bool:
    return not piece.dropped and piece.kind in ("word", "tag", "escaped")


def _drop_hanging(pieces: Sequence[_Piece]) -> bool:
    """Drops one word or mark that hangs at a place where something went; says whether there was one."""
    for before, piece, after in zip(pieces, pieces[1:], pieces[2:], strict=False):
        if piece.is_list and before.dropped and after.dropped and not piece.dropped:
            piece.dropped = True
            return True
    for number, piece in enumerate(pieces):
        if piece.dropped and (number == 0 or not pieces[number - 1].dropped):
            end = next((later for later in range(number, len(pieces)) if not pieces[later].dropped), len(pieces))
            hanging = _hanging(pieces[number - 1] if number else None, pieces[end] if end < len(pieces) else None)
            if hanging is not None:
                hanging.dropped = True
                return True
    return False


def _hanging(before: _Piece | None, after: _Piece | None) -> _Piece | None:
    """Which of the two around a gap hangs."""
    starts = before is None or before.kind in ("open", "keyword", "border")
    ends = after is None or after.kind in ("close", "keyword", "border", "weight", "comma")
    if after is not None and after.is_list and (starts or (before is not None and before.word in _PREPOSITIONS)):
        return after if after.kind != "comma" or starts else before
    if before is None or starts:
        return before if before is not None and after is None and before.text == ":" else None
    if before.kind == "comma":
        return before if ends or (after is not None and after.is_list) else None
    hangs = before.word in _LISTING or (before.word in _PREPOSITIONS
                                        and (ends or (after is not None and after.word in _JOINERS)))
    return before if hangs else None


def _text(pieces: Sequence[_Piece], rest: str) -> str:
    """What is left, without the space that stood around what went."""
    text, gap = "", ""
    for piece in pieces:
        if piece.dropped:
            gap += piece.lead
            continue
        lead = piece.lead
        if gap and not lead and any(map(str.isspace, gap)) and piece.kind not in ("close", "comma", "border", "weight"):
            lead = " "
        text += (lead if text and not (gap and text[-1] in "([") else lead.lstrip()) + piece.text
        gap = ""
    return (text + rest).rstrip() if pieces and pieces[-1].dropped else text + rest
