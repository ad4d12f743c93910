"""Who is in a picture of the bench, and how prompts and requests say so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from bench.world.attributes import IDENTITIES, Character
from bench.world.captions import PLACES
from omg_ext.evaluate.scene import listed


@dataclass(frozen=True)
class Cast:
    """Named individuals; those of one class stand in this order from left to right.

    Attributes:
        names: keys of ``IDENTITIES``.
    """

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "+".join(self.names)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Each one's class."""
        return tuple(self._character(name).kind for name in self.names)

    def is_one_of_several(self, index: int) -> bool:
        """Whether others of the same class are in the picture."""
        return self.kinds.count(self.kinds[index]) > 1

    def prompt(self, scene: str, named: Collection[int] = ()) -> str:
        """The prompt of the whole picture, in the words of the training captions.

        Args:
            scene: a key of ``PLACES``.
            named: whose trigger words stand before their class words.
        """
        return self._prompt(scene, {index: self.trigger(index) for index in named})

    def _prompt(self, scene: str, words: Mapping[int, str]) -> str:
        """``words``: what stands before the class words of some of them."""
        figures = [" ".join(filter(None, ("another" if kind in self.kinds[:index] else "a", words.get(index), kind)))
                   for index, kind in enumerate(self.kinds)]
        return f"{listed(figures)} {PLACES[scene][0]}"

    def concept_prompt(self, scene: str, index: int) -> str:
        """The prompt of the whole picture in which everyone of its class is this one.

        So the concept's model draws as many figures as there are, and this one in whichever place the mask is.
        """
        return self._prompt(scene, {other: self.trigger(index) for other, kind in enumerate(self.kinds)
                                    if kind == self.kinds[index]})

    def own_prompt(self, scene: str, index: int) -> str:
        """A prompt of one of them alone, with the trigger word."""
        return Cast((self.names[index],)).prompt(scene, {0})

    def tags(self, indices: Collection[int]) -> str:
        """The LoRA tags of some of them."""
        return "".join(f"<lora:{self.names[index]}:1>" for index in indices)

    def trigger(self, index: int) -> str:
        """The word that calls one of them."""
        return IDENTITIES[self.names[index]].trigger

    def concept(self, scene: str, index: int, alone: bool = False, by_face: bool = False) -> dict[str, Any]:
        """One of them as a concept of a request: prompt and LoRA, and which of several of its class it is.

        Args:
            alone: the prompt is :meth:`own_prompt`, not :meth:`concept_prompt`.
            by_face: the prompt is that of the whole picture, without trigger or LoRA.
        """
        own = self.own_prompt if alone else self.concept_prompt
        prompt = self.prompt(scene) if by_face else own(scene, index) + self.tags([index])
        concept: dict[str, Any] = {"phrase": self.kinds[index], "prompt": prompt}
        if self.is_one_of_several(index):
            concept["where"] = {"index": self.kinds[:index].count(self.kinds[index])}
        return concept

    def _character(self, name: str) -> Character:
        return IDENTITIES[name].character
