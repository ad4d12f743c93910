"""A prompt of an evaluation: a template in which those who are to be seen stand by number, or all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PLACE = re.compile(r"\{(\d+|all)\}")


def fits(template: str, count: int) -> bool:
    """Whether a template is for so many concepts: it names each of them, or ``{all}``."""
    places = set(_PLACE.findall(template))
    numbers = {int(place) for place in places if place != "all"}
    everyone = set(range(count))
    return numbers == everyone or ("all" in places and numbers <= everyone)


def listed(phrases: Sequence[str]) -> str:
    """"a man, a dog and a robot"."""
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


@dataclass(frozen=True)
class Scene:
    """A template, and the class words of those who are to be seen.

    Attributes:
        template: ``{0}``, ``{1}`` stand for one of them, ``{all}`` for all with articles: "a man and another man".
        classes: such as "man", in the order of the numbers.
    """

    template: str
    classes: tuple[str, ...]

    def prompt(self, named: Mapping[int, str]) -> str:
        """The prompt of the whole picture.

        Args:
            named: what stands for some of them instead of their class words, such as "sks man".
        """
        words = [named.get(index, own) for index, own in enumerate(self.classes)]
        articles = [_article(own, own in self.classes[:index]) for index, own in enumerate(self.classes)]
        everyone = listed([f"{article} {word}" for article, word in zip(articles, words, strict=True)])
        return _PLACE.sub(lambda place: everyone if place[1] == "all" else words[int(place[1])], self.template)

    def of_one(self, index: int, word: str) -> str:
        """The prompt of a picture of one of them alone; of a template with several numbers nothing but the one.

        Args:
            word: what stands for the class words.
        """
        if len(self.classes) == 1:
            return self.prompt({index: word})
        alone = f"{_article(self.classes[index], False)} {word}"
        return self.template.replace("{all}", alone) if fits(self.template, 0) else alone

    def alike(self, index: int) -> list[int]:
        """All of the same class as one of them, itself included."""
        return [other for other, own in enumerate(self.classes) if own == self.classes[index]]


def _article(phrase: str, is_another: bool) -> str:
    """By the class words also before a trigger word, which nobody knows how to say."""
    return "another" if is_another else "an" if phrase[:1].lower() in tuple("aeiou") else "a"
