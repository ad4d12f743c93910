"""Who a figure is: its class, which captions name, and its identity attributes, which they never do.

Every attribute is the colour of one large area, or says that the area is absent (:data:`ABSENT`). The colours that one
attribute can take lie far apart, so that they survive an autoencoder that makes one latent cell of 8x8 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt

RGB = tuple[int, int, int]

KINDS = ("man", "woman", "dog", "robot")
ABSENT = "none"

COLOURS: Mapping[str, RGB] = {
    "red": (214, 40, 52), "orange": (244, 128, 36), "yellow": (250, 206, 50), "green": (34, 154, 76),
    "cyan": (70, 210, 220), "blue": (44, 86, 214), "purple": (126, 56, 178), "pink": (245, 132, 188),
    "white": (248, 247, 242), "grey": (146, 150, 160), "black": (44, 42, 52),
    "light": (250, 214, 184), "tan": (206, 146, 102), "dark": (112, 70, 48),  # skin
    "brown": (140, 88, 50), "golden": (226, 168, 84),  # fur
}

_SKIN = ("light", "tan", "dark")
_HAIR = ("black", "yellow", "orange", "white", "blue")

# class -> attribute -> its values
SCHEMA: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "man": {
        "skin": _SKIN,
        "hair": _HAIR,
        "beard": (ABSENT, "black", "orange", "white"),
        "shirt": ("red", "yellow", "green", "blue", "white", "purple"),
        "stripe": (ABSENT, "black", "white", "yellow"),
        "trousers": ("black", "blue", "brown", "cyan", "pink"),
        "hat": (ABSENT, "red", "green", "blue"),
    },
    "woman": {
        "skin": _SKIN,
        "hair": _HAIR,
        "dress": ("red", "yellow", "green", "blue", "pink", "white"),
        "hem": (ABSENT, "black", "cyan", "orange"),
        "shawl": (ABSENT, "red", "white", "purple", "green"),
        "bow": (ABSENT, "red", "yellow", "purple", "cyan"),
    },
    "dog": {
        "coat": ("brown", "golden", "white", "black", "grey"),
        "ears": ("black", "brown", "white", "orange"),
        "jacket": (ABSENT, "red", "yellow", "green", "blue", "pink"),
        "scarf": (ABSENT, "red", "cyan", "yellow", "purple"),
        "socks": (ABSENT, "white", "black", "orange"),
    },
    "robot": {
        "body": ("grey", "red", "yellow", "green", "blue", "pink"),
        "head": ("grey", "red", "yellow", "green", "purple", "white"),
        "visor": ("cyan", "red", "yellow", "black"),
        "panel": ("black", "white", "orange", "blue", "green"),
        "lamp": ("red", "yellow", "cyan", "purple"),
        "wheel": ("black", "orange", "blue", "white"),
    },
}


@dataclass(frozen=True)
class Character:
    """One individual.

    Attributes:
        kind: its class, one of :data:`KINDS`.
        attributes: a value for each attribute that :data:`SCHEMA` lists for the class.

    Raises:
        ValueError: unknown class, missing or unknown attribute, or a value that the attribute cannot take.
    """

    kind: str
    attributes: Mapping[str, str]

    def __post_init__(self) -> None:
        if self.kind not in SCHEMA:
            raise ValueError(f"kind: {self.kind!r} is unknown; choose one of {', '.join(KINDS)}")
        schema = SCHEMA[self.kind]
        if set(self.attributes) != set(schema):
            raise ValueError(f"attributes: give a {self.kind} exactly {', '.join(schema)}")
        for name, value in self.attributes.items():
            if value not in schema[name]:
                raise ValueError(f"attributes: {name} of a {self.kind} is {value!r}; use {' or '.join(schema[name])}")

    def colour(self, attribute: str) -> RGB | None:
        """The attribute's colour, None where the area is absent."""
        value = self.attributes[attribute]
        return None if value == ABSENT else COLOURS[value]


@dataclass(frozen=True)
class Identity:
    """A named individual and the rare word (one token of CLIP's) that stands for it before the class word."""

    character: Character
    trigger: str


def random_character(kind: str, rng: Random) -> Character:
    """An individual of the class, each attribute drawn evenly and independently."""
    return Character(kind, {name: rng.choice(values) for name, values in SCHEMA[kind].items()})


def nearest_value(kind: str, attribute: str, colour: npt.NDArray[np.floating]) -> str:
    """The value of ``attribute`` whose colour is nearest (Euclidean, RGB 0..255) to ``colour`` ``[3]``."""
    values = [value for value in SCHEMA[kind][attribute] if value != ABSENT]
    palette = np.array([COLOURS[value] for value in values], dtype=np.float64)
    return values[int(((palette - colour) ** 2).sum(axis=1).argmin())]


# Two of one class differ in every attribute.
IDENTITIES: Mapping[str, Identity] = {
    "Rusty": Identity(Character("man", {
        "skin": "light", "hair": "orange", "beard": "orange", "shirt": "green", "stripe": "white", "trousers": "blue",
        "hat": ABSENT}), "sks"),
    "Marlow": Identity(Character("man", {
        "skin": "dark", "hair": "white", "beard": "white", "shirt": "yellow", "stripe": "black", "trousers": "pink",
        "hat": "red"}), "ohwx"),
    "Azura": Identity(Character("woman", {
        "skin": "tan", "hair": "blue", "dress": "yellow", "hem": "orange", "shawl": "white", "bow": ABSENT}), "phol"),
    "Goldie": Identity(Character("woman", {
        "skin": "light", "hair": "yellow", "dress": "red", "hem": "black", "shawl": "purple", "bow": "cyan"}), "olis"),
    "Biscuit": Identity(Character("dog", {
        "coat": "white", "ears": "brown", "jacket": "blue", "scarf": "yellow", "socks": "orange"}), "hta"),
    "Bolt": Identity(Character("robot", {
        "body": "pink", "head": "yellow", "visor": "black", "panel": "white", "lamp": "purple", "wheel": "blue"}),
        "adl"),
}
