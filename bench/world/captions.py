"""What a picture's caption says: classes and scene, in varied plain words, and nothing about identity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from bench.world.attributes import IDENTITIES, KINDS
from omg_ext.evaluate.scene import listed

PLURALS: Mapping[str, str] = {"man": "men", "woman": "women", "dog": "dogs", "robot": "robots"}
NUMBERS = ("no", "one", "two", "three", "four", "five")
PLACES: Mapping[str, tuple[str, ...]] = {
    "park": ("in the park", "in a park"),
    "beach": ("at the beach", "on the beach"),
    "room": ("in the room", "in a room"),
    "night": ("at night", "in the night"),
}
OPENINGS = ("", "", "a picture of ", "a drawing of ")
# Each is one token of CLIP's and no identity's trigger.
RARE_WORDS = ("uhc", "dwp", "nwo", "bnha", "shs", "kst", "iom", "lcs")

VOCABULARY = tuple(sorted(
    {"a", "another", "and", ",", ":", *KINDS, *PLURALS.values(), *NUMBERS[2:], *RARE_WORDS, *PLACES}
    | {word for phrases in (*PLACES.values(), OPENINGS) for phrase in phrases for word in phrase.split()}
    | {identity.trigger for identity in IDENTITIES.values()}))
"""Every word and mark that a caption can hold."""


def random_tokens(count: int, rng: Random, share: float) -> list[str]:
    """For each of ``count`` figures a rare word with probability ``share``, else "".

    In base training they teach that a word before the class word says nothing about how many figures there are, and
    leave the triggers of :data:`IDENTITIES` unused.
    """
    return [rng.choice(RARE_WORDS) if rng.random() < share else "" for _ in range(count)]


def _phrases(kinds: Sequence[str], tokens: Sequence[str], rng: Random) -> list[str]:
    """In random order one phrase per figure ("a man", "another man", "a sks dog") or per group ("two men")."""
    figures = list(zip(kinds, tokens, strict=True))
    named = {kind for kind, token in figures if token}
    grouped = [kind for kind in KINDS if kinds.count(kind) > 1 and kind not in named and rng.random() < 0.6]
    rng.shuffle(figures)
    phrases, seen = [], set()
    for kind, token in figures:
        if kind not in grouped:
            phrases.append(" ".join(filter(None, ("another" if kind in seen else "a", token, kind))))
        elif kind not in seen:
            phrases.append(f"{NUMBERS[kinds.count(kind)]} {PLURALS[kind]}")
        seen.add(kind)
    return phrases


def write_caption(kinds: Sequence[str], scene: str, rng: Random, tokens: Sequence[str] = ()) -> str:
    """A caption of 1 to 5 figures in a scene.

    Args:
        kinds: the class of each figure; the caption lists them in random order.
        scene: a key of :data:`PLACES`.
        tokens: for each figure a word to put before its class word, or ""; figures with one are never grouped.
    """
    figures = listed(_phrases(kinds, tokens or [""] * len(kinds), rng))
    if rng.random() < 0.2:
        return f"{scene}: {figures}"
    return f"{rng.choice(OPENINGS)}{figures} {rng.choice(PLACES[scene])}"
