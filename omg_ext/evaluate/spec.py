"""What is compared: concepts, who appears together, prompts, seeds and methods, as one validated object."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct, field

from ..errors import OMGError
from ..jobs.lists import put, seeds_of
from ..request.schema import Detect, Fraction
from ..request.tags import parse_tags
from ..request.validate import check
from .figures import FIGURES
from .scene import Scene, fits, listed

# no character that a field's path has
Name = Annotated[str, Meta(pattern=r"^[^.\[\]\n]{1,60}$",
                           extra={"in words": "a name of 1 to 60 characters without dots, brackets and line breaks"})]
_MOST_SEED = 2**32
Number = Annotated[int, Meta(ge=0)]
# of a table and its files
Title = Annotated[str, Meta(pattern=r"^[^\n]*\w[^\n]*$", max_length=60, extra={
    "in words": "a title of one line with a letter or a digit, of at most 60 characters"})]
Text = Annotated[str, Meta(pattern=r"\S", extra={"in words": "text that is not blank"})]
_OURS = {"prompt", "request", "seed", "name"}
# what a method's fields may not have
_MADE = {"request.concepts": "the evaluation makes them; give fields for each of them as `concept`",
         "request.enabled": "a method that does nothing is the kind plain; leave it out",
         "request.preview": "a preview draws no picture to be measured; leave it out",
         "concept.prompt": "the evaluation makes it of the spec's prompts and concepts; leave it out",
         "concept.face": "the evaluation makes it of the references, by: face; leave it out"}
TABLES = {"table-1": "Table 1: single- and multi-concept personalisation",
          "concepts": "By concept, alone in the picture",
          "table-2": "Table 2: several concepts, each in its region"}
"""The titles of those that every evaluation has, by the names of their files"""
PLACING = ("regional", "blending", "omg")
"""The kinds of methods that put each concept in a place of its own."""
# on one picture: their scale grows with their number, and a request's has a limit
_MOST_FACES = 3
_OF_FACES = {"face_scale", "face_index", "identitynet"}
_WITH_FACES = ("single", "simultaneous", "omg")


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
            everything (Fig. 2 a); ``regional`` and ``blending`` what :mod:`.methods` says of Mix-of-Show and
            MultiDiffusion; ``omg`` each in its place.
        by: what calls the concepts: their LoRAs, or their references as InstantID's face photos.
        request: of those that place concepts, fields of the request but for ``concepts``.
        concept: of the same, fields of each of their concepts.
        grid: values to try for some of these, by their paths, such as ``request.blend_start``: a method for each
            combination.
        casts: numbers of the spec's casts that it draws, from 0; all without any.

    Raises:
        OMGError: naming what does not go together.
    """

    kind: Literal["plain", "single", "simultaneous", "regional", "blending", "omg"]
    by: Literal["lora", "face"] = "lora"
    request: dict[str, Any] = field(default_factory=dict)
    concept: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, Annotated[list[Any], Meta(min_length=1)]] = field(default_factory=dict)
    casts: tuple[Number, ...] = ()

    def __post_init__(self) -> None:
        for name in ("request", "concept", "grid"):
            if self.kind not in PLACING and getattr(self, name):
                raise OMGError(name, f"only methods of the kinds {listed(PLACING)} have one, and this is "
                                     f"{self.kind}; leave it out")
        for path, why in _MADE.items():
            part, name = path.split(".")
            if name in getattr(self, part):
                raise OMGError(path, why)
        if self.by == "face" and self.kind not in _WITH_FACES:
            raise OMGError("by", f"faces are drawn by the kinds {listed(_WITH_FACES)}, and this is {self.kind}")
        if self.by == "lora" and (of_faces := _OF_FACES & self.concept.keys()):
            raise OMGError(f"concept.{min(of_faces)}", "it is of faces, and the concepts have LoRAs; leave it out, or "
                                                       "say by: face")
        self._check_grid()

    def _check_grid(self) -> None:
        for path in self.grid:
            if not path.startswith(("request.", "concept.")):
                raise OMGError(f"grid.{path}", "expected a field of the request or of each concept, such as "
                                               "request.blend_start or concept.cfg_scale")
        try:
            if self.grid:
                list(self.variants(""))
        except OMGError as error:
            raise OMGError(f"grid.{error.field}", error.message) from None

    def variants(self, name: str) -> Iterator[tuple[str, Method]]:
        """The methods that it means, without a grid, by the names that tables call them."""
        for values in product(*self.grid.values()):
            data = {"request": json.loads(json.dumps(self.request)), "concept": json.loads(json.dumps(self.concept))}
            for path, value in zip(self.grid, values, strict=True):
                put(data, path, value)
            tried = [f"{path.rpartition('.')[2]} {_short(value)}" for path, value in
                     zip(self.grid, values, strict=True)]
            yield ", ".join([name, *tried]), msgspec.structs.replace(self, grid={}, **data)


class Variant(NamedTuple):
    """What draws one picture of each shot.

    Attributes:
        name: of the method of the spec whose variant it is.
        method: without a grid.
    """

    name: str
    method: Method


class Excerpt(Struct, frozen=True, forbid_unknown_fields=True):
    """A table and a contact sheet of some methods and casts, such as those of a figure of the paper.

    Attributes:
        methods: names of methods, or of what a grid makes of one; all without any.
        casts: numbers in the spec's list, from 0; all without any.
    """

    methods: tuple[str, ...] = ()
    casts: tuple[Number, ...] = ()


class Regions(Struct, frozen=True, forbid_unknown_fields=True):
    """How the concepts are found in results (paper Sec. 4.1, Tab. 2).

    Attributes:
        detector: one that sees finished pictures; those that go by what the model attends to see none.
        detect: as in a request.
    """

    detector: str
    detect: Detect = field(default_factory=Detect)


class Spec(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
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
        excerpts: further tables and contact sheets, by their titles.

    Raises:
        OMGError: naming the field.
    """

    concepts: Annotated[dict[Name, Subject], Meta(min_length=1)]
    casts: Annotated[tuple[Annotated[tuple[str, ...], Meta(min_length=1)], ...], Meta(min_length=1)]
    prompts: Annotated[tuple[Text, ...], Meta(min_length=1)]
    methods: Annotated[dict[Name, Method], Meta(min_length=1)]
    seeds: str | list[Annotated[int, Meta(ge=0, lt=_MOST_SEED)]] = "0"
    settings: dict[str, Any] = field(default_factory=dict)
    regions: Regions | None = None
    figures: tuple[str, ...] = ()
    threshold: Fraction = 0.32
    """by default that of the package deepface for ArcFace"""
    excerpts: dict[Title, Excerpt] = field(default_factory=dict)

    @cached_property
    def variants(self) -> Mapping[str, Variant]:
        """All that draws, by the names that tables call it."""
        return {shown: Variant(name, variant) for name, method in self.methods.items()
                for shown, variant in method.variants(name)}

    def __post_init__(self) -> None:
        self._check_repeats()
        for index, cast in enumerate(self.casts):
            self._check_cast(f"casts[{index}]", cast)
        for index, template in enumerate(self.prompts):
            if not any(fits(template, len(cast)) for cast in self.casts):
                raise OMGError(f"prompts[{index}]", "it is for no cast: {0}, {1} and so on stand for the concepts of a "
                                                    "cast of just so many, {all} for those of any")
        self._check_grids()
        for name, method in self.methods.items():
            self._check_numbers(f"methods.{name}", method.casts)
            self._check_networks(name, method)
        for ours in self.settings.keys() & _OURS:
            raise OMGError(f"settings.{ours}", "the evaluation sets it; leave it out")
        for index, name in enumerate(self.figures):
            if name not in FIGURES:
                raise OMGError(f"figures[{index}]", f"'{name}' is unknown; known here: {', '.join(FIGURES)}")
        for title, excerpt in self.excerpts.items():
            self._check_excerpt(title, excerpt)

    def _check_repeats(self) -> None:
        """What is there twice would count twice, and means would seem surer than they are."""
        seeds = seeds_of(self.seeds)
        if not isinstance(seeds, range) and len(set(seeds)) < len(seeds):
            raise OMGError("seeds", "one of them is there twice")
        if (seeds[-1] if isinstance(seeds, range) else max(seeds)) >= _MOST_SEED:
            raise OMGError("seeds", f"expected numbers less than {_MOST_SEED}")
        for name, values in (("prompts", self.prompts), ("casts", self.casts)):
            for index, value in enumerate(values):
                if value in values[:index]:
                    raise OMGError(f"{name}[{index}]", "it is there already, and would count twice")

    def _check_cast(self, path: str, cast: Sequence[str]) -> None:
        for number, name in enumerate(cast):
            if name not in self.concepts:
                raise OMGError(f"{path}[{number}]", f"'{name}' is none of the concepts: {', '.join(self.concepts)}")
            if name in cast[:number]:
                raise OMGError(f"{path}[{number}]", f"'{name}' is in it already")
        if not any(fits(template, len(cast)) for template in self.prompts):
            raise OMGError(path, f"no prompt is for {len(cast)}: write one with "
                                 + ", ".join(f"{{{number}}}" for number in range(len(cast))) + ", or with {all}")

    def _check_grids(self) -> None:
        shown = [variant for name, method in self.methods.items() for variant, _ in method.variants(name)]
        variant, count = Counter(shown).most_common(1)[0]
        if count > 1:
            gridded = next(name for name, method in self.methods.items()
                           if method.grid and variant in dict(method.variants(name)))
            raise OMGError(f"methods.{gridded}.grid", f"there are two methods '{variant}'; leave out one, or give the "
                                                      "method another name")

    def _check_networks(self, name: str, method: Method) -> None:
        if method.kind == "simultaneous" and method.by == "face" and any(
                len(cast) > _MOST_FACES for cast in self.chosen(method.casts)):
            raise OMGError(f"methods.{name}.by", f"{_MOST_FACES} faces at most are drawn at once; name smaller casts "
                                                 "in its `casts`")
        if method.kind == "plain" or method.by == "face":
            return
        for subject in dict.fromkeys(each for cast in self.chosen(method.casts) for each in cast):
            path, lora = f"concepts.{subject}.lora", self.concepts[subject].lora
            if not lora.strip():
                raise OMGError(path, f"the method {name} draws by LoRAs; write its tag")
            rest, tags = parse_tags(lora, path)
            if rest.strip() or not tags:
                raise OMGError(path, f"expected a tag such as <lora:{subject}:1>, got {lora!r}")

    def _check_excerpt(self, title: str, excerpt: Excerpt) -> None:
        path = f"excerpts.{title}"
        alike = [other for other in (*TABLES, *self.excerpts) if file_name(other) == file_name(title)]
        if len(alike) > 1:
            raise OMGError(path, f"its files would have the names of those of '{alike[0]}'; give it another title")
        for index, name in enumerate(excerpt.methods):
            if name not in self.methods and name not in self.variants:
                raise OMGError(f"{path}.methods[{index}]", f"'{name}' is none of the methods: "
                                                           + ", ".join({**self.methods, **self.variants}))
        self._check_numbers(path, excerpt.casts)
        drawn = {cast for name, variant in self.variants.items() for cast in self.chosen(variant.method.casts)
                 if not excerpt.methods or not {name, variant.name}.isdisjoint(excerpt.methods)}
        if drawn.isdisjoint(self.chosen(excerpt.casts)):
            raise OMGError(path, "none of its methods draws any of its casts")

    def _check_numbers(self, path: str, casts: Sequence[int]) -> None:
        for index, number in enumerate(casts):
            if number >= len(self.casts):
                raise OMGError(f"{path}.casts[{index}]", f"there are {len(self.casts)} casts, counted from 0")

    def chosen(self, casts: Sequence[int]) -> list[tuple[str, ...]]:
        """The casts of these numbers; of no numbers, all."""
        return [self.casts[number] for number in casts] or list(self.casts)

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


def file_name(title: str) -> str:
    """A title as the name of a file, without its ending; the same in small letters is the same."""
    return re.sub(r"[^\w+-]+", "-", title)[:60].strip("-").lower()


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
