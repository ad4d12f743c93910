"""Phrases that a prompt offers: the things that it counts or puts an article before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise, takewhile

from .phrases import COUNTS, JOINERS, alike, counted, items_in
from .plurals import singular

MOST = 4
# what the whole is called, and nothing in it
_PICTURES = frozenset(("photo", "photograph", "picture", "image", "portrait", "painting", "drawing", "illustration",
                       "render", "sketch", "shot", "scene", "view", "selfie", "style"))


def proposals(prompt: str, taken: Iterable[str] = ()) -> list[str]:
    """Words for things of a prompt in its order, in the singular, each as often as the prompt has it.

    What stands behind a count or an article up to the next comma, preposition or participle is a thing, and its last
    word says what it is: *man* and *umbrella* of "photo of two tall men walking under an umbrella". At most
    :data:`MOST` different ones; English and tags ("2girls") alone are understood.

    Args:
        taken: phrases that concepts have already: of what the prompt has once, one is enough.
    """
    left = list(taken)
    found: list[str] = []
    for is_thing, group in groupby(items_in(prompt), key=lambda item: not item.is_border and item.text not in JOINERS):
        for word in _things([item.text for item in group]) if is_thing else ():
            if len(word.encode()) > 1 and word not in _PICTURES and not any(alike(word, other) for other in found):
                found.append(word)
    offered = []
    for word in found[:MOST]:
        used = [phrase for phrase in left if alike(phrase, word)]
        offered += [word] * (counted(word, prompt) - len(used))
    return offered


def _things(words: list[str]) -> Iterator[str]:
    """What words without a joiner between them name: one thing behind each count or article."""
    starts = [number for number, word in enumerate(words) if word in COUNTS or word.isdigit()]
    for start, end in pairwise([*starts, len(words)]):
        # a participle behind a thing says what it does
        named = [*takewhile(lambda word: not word.endswith("ing"), words[start + 2:end])]
        if start + 1 < end:
            yield singular([words[start + 1], *named][-1])
