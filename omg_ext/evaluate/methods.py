"""What each kind of method makes of a scene: the fields of a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..request import Concept
from .scene import Scene
from .spec import Method, Subject

Fields = dict[str, Any]

_FROM_NOISE = {"blend_start": 0, "layout": {"cross": 0, "self": 0}, "mask": {"grow": 0, "feather": 0}}
"""Concepts from pure noise on, each in just its place."""
_EVERYWHERE = {"box": [0, 0, 1, 1]}


@dataclass(frozen=True)
class Shot:
    """A scene, and what calls those who are to be seen in it.

    Attributes:
        scene: a prompt in which everybody is by class.
        subjects: of the cast, in the order of the scene's numbers.
        photos: the references of one of them, as a request takes them.
        cfg_scale: the picture's guidance.
    """

    scene: Scene
    subjects: Sequence[Subject]
    photos: Callable[[int], Sequence[str]]
    cfg_scale: float

    @property
    def plain(self) -> str:
        """The prompt in class words."""
        return self.scene.prompt({})

    def named(self, shown: Sequence[int]) -> str:
        """The prompt with some of them by their trigger words, and with their LoRAs."""
        return self.scene.prompt({index: self.subjects[index].prompt for index in shown}) + self.tags(shown)

    def tags(self, shown: Sequence[int]) -> str:
        """Their LoRAs' tags."""
        return "".join(f" {self.subjects[index].lora}" for index in shown)

    def placed(self, index: int) -> Fields:
        """Which thing in the picture one of them is: of several of a class by the order from left to right."""
        alike = self.scene.alike(index)
        where = {"where": {"index": alike.index(index)}} if len(alike) > 1 else {}
        return {"phrase": self.subjects[index].phrase, **where}

    def by_lora(self, index: int) -> Fields:
        """One of a request's concepts, by its LoRA.

        Everyone of its class has its trigger in its prompt: so its model draws as many as there are, and this one in
        whichever place the mask is.
        """
        named = dict.fromkeys(self.scene.alike(index), self.subjects[index].prompt)
        return {**self.placed(index), "prompt": self.scene.prompt(named) + self.tags([index])}

    def by_face(self, index: int) -> Fields:
        """One of a request's concepts, by its photos."""
        return {**self.placed(index), "prompt": self.plain, "face": list(self.photos(index))}

    def alone(self, index: int) -> str:
        """The prompt of one of them alone, by its trigger words, without its LoRA."""
        return self.scene.of_one(index, self.subjects[index].prompt)


def fields(method: Method, shot: Shot, shown: Sequence[int]) -> Fields:
    """What a job has beside the settings, for one picture that is to show some of the cast."""
    return _KINDS[method.kind](method, shot, shown)


def _plain(method: Method, shot: Shot, shown: Sequence[int]) -> Fields:
    return {"prompt": shot.plain}


def _at_once(method: Method, shot: Shot, shown: Sequence[int]) -> Fields:
    """All LoRAs or all faces act on the whole picture; one alone, too.

    With faces it is an ordinary picture (the invariant *everywhere is plain*) to whose cross-attention each face adds
    its own: in a joint row a place of all of it, shared by n, takes n times the scale.
    """
    if method.by == "lora":
        return {"prompt": shot.named(shown)}
    several = {"face_scale": _FACE_SCALE * len(shown)} if len(shown) > 1 else {}
    concepts = [{"prompt": shot.plain, "where": _EVERYWHERE, "face": list(shot.photos(index)),
                 "cfg_scale": shot.cfg_scale, **several} for index in shown]
    return {"prompt": shot.plain, "request": {**_FROM_NOISE, "predict": "joint" if several else "separate",
                                              "concepts": concepts}}


def _omg(method: Method, shot: Shot, shown: Sequence[int]) -> Fields:
    called = shot.by_face if method.by == "face" else shot.by_lora
    return {"prompt": shot.plain, "request": _request(method, [called(index) for index in shown])}


def _regional(method: Method, shot: Shot, shown: Sequence[int]) -> Fields:
    """Regionally controllable sampling (Mix-of-Show, arXiv 2305.18292, Sec. 3.3).

    One model with all LoRAs; in every cross-attention the place of a concept attends to the concept's own prompt, and
    all the rest to the prompt of the picture. Mix-of-Show fuses the LoRAs by an optimisation; here they are summed,
    which is what can be had without any training. So its first pass has them, too, and is none to measure against. Of
    SDXL, which Mix-of-Show does not know, each concept's pooled prompt acts in its place, too.
    """
    guided = {"cfg_scale": shot.cfg_scale}
    concepts = [{**shot.placed(index), "prompt": shot.alone(index), **guided, **method.concept} for index in shown]
    rest = {"prompt": shot.plain, "where": {"rest": True}, **guided}
    request = {**_FROM_NOISE, "predict": "joint", **method.request, "concepts": [*concepts, rest]}
    return {"prompt": shot.plain + shot.tags(shown), "request": request}


def _blending(method: Method, shot: Shot, shown: Sequence[int]) -> Fields:
    """Latent blending as in MultiDiffusion (arXiv 2302.08113, Eq. 5).

    From pure noise on, in the place of a concept the mean of the predictions of those who are there, each by its own
    model and prompt; nothing is kept of the first picture but the places.
    """
    concepts = [{**shot.placed(index), "prompt": shot.alone(index) + shot.tags([index])} for index in shown]
    return {"prompt": shot.plain, "request": _request(method, concepts, **_FROM_NOISE, predict="separate")}


def _request(method: Method, concepts: Sequence[Fields], **options: Any) -> Fields:
    """With the method's own fields, which come last, and the first pass, by which layout is measured."""
    request = {**options, **method.request, "concepts": [{**concept, **method.concept} for concept in concepts]}
    show = request.get("show", [])
    # where only the first pass's beginning is drawn there is none
    if request.get("first_pass") == "prefix" or not isinstance(show, list) or "first_pass" in show:
        return request
    return {**request, "show": [*show, "first_pass"]}


_FACE_SCALE = Concept("", "-").face_scale
_KINDS: Mapping[str, Callable[[Method, Shot, Sequence[int]], Fields]] = {
    "plain": _plain, "single": _at_once, "simultaneous": _at_once, "regional": _regional, "blending": _blending,
    "omg": _omg}
