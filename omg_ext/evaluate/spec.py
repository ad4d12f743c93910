"""What is compared: concepts, who appears together, prompts, seeds and methods, as one validated object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from ..errors import OMGError
from ..jobs.lists import seeds_of
from ..request.schema import Detect, Fraction
from ..request.validate import check
from .figures import FIGURES
from .scene import Scene, fits

# no character that a field's path has
Name = Annotated[str, Meta(pattern=r"^[^.\[\]\n]{1,60}$")]
Text = Annotated[str, Meta(pattern=r"\S")]
_OURS = ("prompt", "request", "seed", "name")


class Subject(Struct, frozen=True, forbid_unknown_fields=True):
    """A personalised concept.

    Attributes:
        phrase: its class words, such as "man": they stand in prompts where nobody is to be called, and are sought.
        prompt: its trigger words with the class, such as "sks man".
        references: a folder of pictures of it, from the spec's folder.
        lora: its tag, such as ``<lora:sks_man:1>``; not needed by methods that draw it by its face.
        kind: a ``character`` is measured by Identity Alignment, an ``object`` by Image Alignment (paper Sec. 4).
    """

    phrase: Text
    prompt: Text
    references: Text
    lora: str = ""
    kind: Literal["character", "object"] = "character"


class Method(Struct, frozen=True, forbid_unknown_fields=True):
    """A way to make the pictures.

    Attributes:
        kind: ``plain`` draws class words, and no concept: what chance gives; ``single`` a picture for each concept with
            its trigger and its LoRA alone: what one can hope for; ``simultaneous`` all triggers and LoRAs at once on
            everything (Fig. 2 a); ``omg`` each in its place.
        by: what calls the concepts: their LoRAs, or their references as InstantID's face photos.
        request: of ``omg``, fields of the request but for ``concepts``.
        concept: of ``omg``, fields of each of its concepts.

    Raises:
        OMGError: naming what does not go together.
    """

    kind: Literal["plain", "single", "simultaneous", "omg"]
    by: Literal["lora", "face"] = "lora"
    request: dict[str, Any] = field(default_factory=dict)
    concept: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("request", "concept"):
            if self.kind != "omg" and getattr(self, name):
                raise OMGError(name, f"only methods of the kind omg have one, and this is {self.kind}; leave it out")
        if "concepts" in self.request:
            raise OMGError("request.concepts", "the evaluation makes them; give fields for each of them as `concept`")
        if self.by == "face" and self.kind not in ("single", "omg"):
            raise OMGError("by", f"faces are drawn by the kinds single and omg, and this is {self.kind}")


class Regions(Struct, frozen=True, forbid_unknown_fields=True):
    """How the concepts are found in results (paper Sec. 4.1, Tab. 2).

    Attributes:
        detector: one that sees finished pictures; those that go by what the model attends to see none.
        detect: as in a request.
    """

    detector: str
    detect: Detect = field(default_factory=Detect)


class Spec(Struct, frozen=True, forbid_unknown_fields=True):
    """An evaluation: every method draws every cast in every prompt that fits it, with every seed.

    Attributes:
        concepts: by name.
        casts: names of concepts that appear together; one alone is single-concept personalisation.
        prompts: templates, see :class:`.Scene`; of a cast those that name as many.
        methods: by name, in the order of the tables' rows.
        seeds: a list, or ranges such as ``"0-49"``.
        settings: fields of every job, such as ``steps``.
        regions: without it there are no figures by region.
        figures: those that must be measured, of :data:`.FIGURES`; others are where their models are given.
        threshold: the least cosine between two faces of one person.

    Raises:
        OMGError: naming the field.
    """

    concepts: Annotated[dict[Name, Subject], Meta(min_length=1)]
    casts: Annotated[tuple[Annotated[tuple[str, ...], Meta(min_length=1)], ...], Meta(min_length=1)]
    prompts: Annotated[tuple[Text, ...], Meta(min_length=1)]
    methods: Annotated[dict[Name, Method], Meta(min_length=1)]
    seeds: str | list[Annotated[int, Meta(ge=0, lt=2**32)]] = "0"
    settings: dict[str, Any] = field(default_factory=dict)
    regions: Regions | None = None
    figures: tuple[str, ...] = ()
    threshold: Fraction = 0.32
    """by default that of the package deepface for ArcFace"""

    def __post_init__(self) -> None:
        seeds_of(self.seeds)
        for index, cast in enumerate(self.casts):
            self._check_cast(f"casts[{index}]", cast)
        for index, template in enumerate(self.prompts):
            if not any(fits(template, len(cast)) for cast in self.casts):
                raise OMGError(f"prompts[{index}]", "it is for no cast: {0}, {1} and so on stand for the concepts of a "
                                                    "cast of just so many, {all} for those of any")
        for name, method in self.methods.items():
            self._check_loras(name, method)
        for name in _OURS:
            if name in self.settings:
                raise OMGError(f"settings.{name}", "the evaluation sets it; leave it out")
        for index, name in enumerate(self.figures):
            if name not in FIGURES:
                raise OMGError(f"figures[{index}]", f"'{name}' is unknown; known here: {', '.join(FIGURES)}")

    def _check_cast(self, path: str, cast: Sequence[str]) -> None:
        for number, name in enumerate(cast):
            if name not in self.concepts:
                raise OMGError(f"{path}[{number}]", f"'{name}' is none of the concepts: {', '.join(self.concepts)}")
            if name in cast[:number]:
                raise OMGError(f"{path}[{number}]", f"'{name}' is in it already")
        if not any(fits(template, len(cast)) for template in self.prompts):
            raise OMGError(path, f"no prompt is for {len(cast)}: write one with "
                                 + ", ".join(f"{{{number}}}" for number in range(len(cast))) + ", or with {all}")

    def _check_loras(self, name: str, method: Method) -> None:
        if method.kind == "plain" or method.by == "face":
            return
        for subject in dict.fromkeys(each for cast in self.casts for each in cast):
            if not self.concepts[subject].lora.strip():
                raise OMGError(f"concepts.{subject}.lora", f"the method {name} draws by LoRAs; write its tag")

    def scene(self, cast: Sequence[str], prompt: int) -> Scene:
        """A prompt with a cast in it."""
        return Scene(self.prompts[prompt], tuple(self.concepts[name].phrase for name in cast))


def parse_spec(data: Any) -> Spec:
    """Validate an evaluation given as a dict.

    Raises:
        OMGError: naming the field.
    """
    check(data, Spec)
    return msgspec.convert(data, Spec)
