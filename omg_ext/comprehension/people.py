"""Which class of a detector with classes of its own a phrase means."""

from __future__ import annotations

from collections.abc import Mapping

from .phrases import find, words_in

_PERSON = "person"
# what a model that knows people but no kinds of them calls a person
_PEOPLE = ("person", "human", "man", "woman", "boy", "girl", "guy", "lady", "gentleman", "child", "kid", "baby",
           "toddler", "teenager", "adult", "male", "female", "warrior", "soldier", "knight", "king", "queen", "prince",
           "princess", "wizard", "witch", "bride", "groom")


def class_for(phrase: str, names: Mapping[int, str]) -> int | None:
    """The number of the class that a phrase means; None if there is none.

    It is the class whose words stand in the phrase, singular or plural: "an old man with a dog" is a ``man``. Where
    several follow each other, the last is what the thing is: "robot dog" is a ``dog``. A model that has a class
    ``person`` but none for the phrase takes men, women, girls and so on for persons.

    Args:
        phrase: of a concept.
        names: of all classes by their numbers.
    """
    places = {number: place for number, name in names.items() if (place := _place(name, phrase))}
    if not places:
        person = next((number for number, name in names.items() if name.lower() == _PERSON), None)
        return person if any(_place(word, phrase) for word in _PEOPLE) else None
    # the longest of those that begin first: a "teddy bear" is no bear
    chosen = min(places, key=lambda number: (places[number][0], -len(places[number])))
    while (behind := [number for number, place in places.items() if place[0] == places[chosen][-1] + 1]):
        chosen = max(behind, key=lambda number: len(places[number]))
    return chosen


def _place(name: str, phrase: str) -> list[int]:
    """The numbers of the words of a phrase that are a class's name; empty if they do not follow each other."""
    place = find(name.replace("_", " "), words_in(phrase))
    return place if place and place[-1] - place[0] == len(place) - 1 else []
