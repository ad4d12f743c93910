"""Who is in a picture of the bench, in the words of :mod:`omg_ext.evaluate.methods`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from bench.world.attributes import IDENTITIES
from bench.world.captions import PLACES
from omg_ext.evaluate.methods import Shot
from omg_ext.evaluate.scene import Scene
from omg_ext.evaluate.spec import Subject

CFG_SCALE = 4.5
"""The pictures' guidance."""


def template(scene: str) -> str:
    """The prompt of a scene, a key of ``PLACES``, in the words of the training captions."""
    return f"{{all}} {PLACES[scene][0]}"


def subject(name: str) -> Subject:
    """An individual of ``IDENTITIES``, whose LoRA is called by its name in small letters."""
    identity = IDENTITIES[name]
    kind = identity.character.kind
    return Subject(kind, f"{identity.trigger} {kind}", references=name, lora=f"<lora:{name.lower()}:1>")


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
        return tuple(IDENTITIES[name].character.kind for name in self.names)

    def shot(self, scene: str) -> Shot:
        """All of them in a scene; nobody has photos."""
        return Shot(Scene(template(scene), self.kinds), [subject(name) for name in self.names], lambda index: (),
                    CFG_SCALE)

    def prompt(self, scene: str, named: Collection[int] = ()) -> str:
        """The prompt of the whole picture.

        Args:
            named: whose trigger words stand before their class words.
        """
        shot = self.shot(scene)
        return shot.scene.prompt({index: shot.subjects[index].prompt for index in named})

    def concept(self, scene: str, index: int, alone: bool = False, by_face: bool = False) -> dict[str, Any]:
        """One of them as a concept of a request: prompt and LoRA, and which of several of its class it is.

        Args:
            alone: the prompt is that of a picture of it alone, not of the whole picture.
            by_face: the prompt is that of the whole picture, without trigger or LoRA.
        """
        shot = self.shot(scene)
        if by_face:
            return {**shot.placed(index), "prompt": shot.plain}
        if alone:
            return {**shot.placed(index), "prompt": shot.alone(index) + shot.tags([index])}
        return shot.by_lora(index)
