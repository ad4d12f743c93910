"""The one table of fields behind the accordion.

It drives the components (:mod:`.ui`), the way from their values to a request and back (:mod:`.form`), and so what a
pasted infotext restores (:mod:`.infotext`). Defaults and limits are those of :mod:`omg_ext.request`. No Gradio in here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from ..errors import OMGError
from ..request import Concept, Request


@dataclass(frozen=True)
class Field:
    """One component of the accordion.

    Attributes:
        name: unique in its table; ends the component's element id.
        widget: what kind of component, a key of the widget table in :mod:`.ui`.
        label, info: what the user reads.
        default: the component's value at the start; of the type that the host casts a pasted value to.
        path: where the value stands in the request (or in the concept); empty if no single place does. A number at its
            end: in a pair, of which the first may stand alone.
        optional: the default stands for a value that the request leaves out.
        choices: a dropdown's entries, each with the request's word for it.
        options: further arguments of the component.
        examples: what the empty field shows, for the first concept, the second, and so on in turn.
        panel: the title of the closed panel it lies in; empty if it lies open.
        row: consecutive fields of one row number share a line; 0 has a line of its own.
        saved: the web UI may keep a changed value as the default of the next start.
        since: orders the values, see :func:`arg_fields`. A new field takes a number above all others, or that of those
            that come with it.
    """

    name: str
    widget: str
    label: str
    info: str = ""
    default: Any = ""
    path: tuple[str | int, ...] = ()
    optional: bool = False
    choices: tuple[tuple[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[str, ...] = ()
    panel: str = ""
    row: int = 0
    saved: bool = True
    since: int = 0

    def shown(self, value: Any) -> Any:
        """The component's value for one of the request."""
        return next((entry for entry, word in self.choices if word == value), value)

    def meant(self, value: Any) -> Any:
        """The opposite; the request's own word will do as well, for API users."""
        return next((word for entry, word in self.choices if entry == value), value)


def value_at(struct: msgspec.Struct, path: Sequence[str | int]) -> Any:
    """The value of a request field by its path as the API spells it, e.g. ``("layout", "self")``."""
    value: Any = struct
    for name in path:
        if isinstance(name, int):
            value = _pair(value)[name]
        else:
            value = getattr(value, next(f.name for f in msgspec.structs.fields(value) if f.encode_name == name))
    return list(value) if isinstance(value, tuple) else value  # Gradio's groups of checkboxes take lists alone


def put(data: dict[str, Any], each: Field, value: Any, index: int = 0) -> None:
    """Set a field in the data of a request, or of a concept, to what its component's value means.

    Args:
        index: of the concept, for the message.

    Raises:
        OMGError: it is a pair's second, and there is no first.
    """
    *outer, name = (part for part in each.path if isinstance(part, str))
    for part in outer:
        data = data.setdefault(part, {})
    value = None if each.optional and value == each.default else each.meant(value)
    place = each.path[-1]
    if isinstance(place, int):
        pair = _pair(data.get(name))
        pair[place] = value
        if pair[0] is None and pair[1] is not None:
            raise OMGError(f"concepts[{index}].{name}", f"Concept {index + 1}: {ALONE}")
        value = pair[0] if pair[1] is None else pair
    if value is None and each.optional:
        data.pop(name, None)
    else:
        data[name] = value


def _pair(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value, None]


def _default_of(struct: msgspec.Struct) -> Callable[..., Field]:
    """Makes fields with the struct's own defaults."""
    def made(name: str, widget: str, label: str, info: str, path: str, **more: Any) -> Field:
        parts = tuple(path.split("."))
        each = Field(name, widget, label, info, path=parts, **more)
        return replace(each, default=each.shown(value_at(struct, parts)))

    return made


_of_request, _of_concept = _default_of(Request(concepts=())), _default_of(Concept(prompt="-", phrase="-"))


def _slider(minimum: float, maximum: float, step: float = 0.01) -> dict[str, float]:
    return {"minimum": minimum, "maximum": maximum, "step": step}


@dataclass(frozen=True)
class Place:
    """One way to say which instance a concept takes.

    Attributes:
        choice: the dropdown's entry.
        kind: the field of :class:`omg_ext.request.Where`; empty for the best match.
        label, info, hint: of the text field that goes with it; an empty label means that there is none.
        expected: what the text must be, for the error message.
        parse: the text as the request's value; raises ValueError if it is something else.
        show: the request's value as text.
    """

    choice: str
    kind: str = ""
    label: str = ""
    info: str = ""
    hint: str = ""
    expected: str = ""
    parse: Callable[[str], Any] = str
    show: Callable[[Any], str] = str


def _numbers(text: str, count: int) -> list[float]:
    numbers = [float(part) for part in re.split(r"[\s,;]+", text.strip(" []()"))]
    if len(numbers) != count:
        raise ValueError(text)
    return numbers


def _ordinal(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number - 1


def _listed(values: Sequence[float]) -> str:
    return ", ".join(repr(value) for value in values)


PLACES = (
    Place("Best match"),
    Place("At a point", "point", "Point: x, y", "Parts of width and height.", "0.25, 0.5", "two numbers",
          lambda text: _numbers(text, 2), _listed),
    Place("N-th from the left", "index", "N", "1 is the leftmost.", "1", "a whole number from 1 on", _ordinal,
          lambda index: str(index + 1)),
    Place("The one over a box", "overlap", "Left, top, right, bottom", "The one that overlaps this most.",
          "0, 0, 0.5, 1", "four numbers", lambda text: _numbers(text, 4), _listed),
    Place("In a box", "box", "Left, top, right, bottom", "Parts of width and height.", "0, 0, 0.5, 1", "four numbers",
          lambda text: _numbers(text, 4), _listed),
    Place("The shape inside a box", "outline", "Left, top, right, bottom", "A segmenter finds the shape in this box.",
          "0, 0, 0.5, 1", "four numbers", lambda text: _numbers(text, 4), _listed),
    Place("Painted mask", "mask"),
    Place("Everything else", "rest", parse=lambda text: True, show=lambda rest: ""),
)


def choice_of(kind: str) -> str:
    """The dropdown's entry for a field of :class:`omg_ext.request.Where`."""
    return next(place.choice for place in PLACES if place.kind == kind)


FIND = "How to find them"
BLEND = "Blending, layout and mask edges"
FACE = "Face from a photo"
MORE = "Negative prompt, strength, CFG scale, LoRA guidance"
PREVIEW, NO_PREVIEW = "omg preview: yes", "omg preview: no"
"""What the page sends in the field ``preview``: see ``javascript/omg_preview.js``, which puts the one for the other."""
ALONE = "Final CFG scale is set, and CFG scale is not: set both, or set Final CFG scale to 0"

# in the order of the page, which is not that of the values
GLOBAL_FIELDS = (
    Field("api", "request", "Request as JSON",
          "The fields below cannot show this request, so while it stands here it alone counts. Empty it to use them.",
          saved=False),
    Field("enabled", "accordion", "OMG", default=False),
    Field("count", "slider", "Number of concepts", default=2, options={**_slider(1, 6, 1), "visible": False},
          saved=False),
    _of_request("detector", "detector", "Detector", "What finds the concepts in the first picture.", "detector", row=1),
    _of_request("predict", "dropdown", "How to draw them",
                "Work for two concepts, if an ordinary picture is 100: fastest 190 (for more, too), faster 220, "
                "faithful 280.", "predict",
                choices=(("Fastest: all in one go", "joint"), ("Faster: shared guidance", "shared"),
                         ("Faithful to the paper", "separate")), row=2, since=2),
    _of_request("first_pass", "dropdown", "First picture",
                "Whole keeps its layout. Up to the blend start takes 60 less, but seeks in a soft picture and keeps "
                "none.", "first_pass",
                choices=(("Whole", "whole"), ("Up to the blend start only", "prefix")), row=2, since=2),
    Field("threshold", "slider", "Least confidence",
          "What the detector is less sure of does not count as found. 0: the detector's own.", 0.0,
          ("detect", "threshold"), optional=True, options=_slider(0, 1), panel=FIND, since=1),
    _of_request("model", "text", "Model", "File or folder, if there are several. Empty: the first found.",
                "detect.model", options={"max_lines": 1}, panel=FIND, row=1, since=1),
    _of_request("segmenter", "text", "Model for outlines", "The same for what turns boxes into shapes.",
                "detect.segmenter", options={"max_lines": 1}, panel=FIND, row=1, since=1),
    _of_request("blend_start", "slider", "Blend start",
                "When the concepts step in. 0: at once, more likeness, for Turbo, Lightning and LCM. 1: never.",
                "blend_start", options=_slider(0, 1), panel=BLEND),
    _of_request("cross", "slider", "Keep layout until", "What stands where. 0: off, 1: to the end.",
                "layout.cross", options=_slider(0, 1), panel=BLEND, row=1),
    _of_request("self", "slider", "Keep outlines until", "The same for shapes.",
                "layout.self", options=_slider(0, 1), panel=BLEND, row=1),
    _of_request("grow", "slider", "Grow masks", "By this part of the picture's width.",
                "mask.grow", options=_slider(0, 0.5, 0.005), panel=BLEND, row=2),
    _of_request("feather", "slider", "Feather masks", "Soft edge; part of the picture's width.",
                "mask.feather", options=_slider(0, 0.5, 0.005), panel=BLEND, row=2),
    _of_request("strict", "checkbox", "Stop if a concept is not found",
                "Off: a warning, and it is left out.", "strict", panel=BLEND, row=3),
    _of_request("show", "checkboxes", "Also return", "Behind the result.", "show",
                options={"choices": [("First picture", "first_pass"), ("Masks", "masks"), ("Who is where", "overlay")]},
                panel=BLEND, row=3),
    _of_request("control_concepts", "checkbox", "ControlNet acts on concepts",
                "Off: its units act on the picture alone.", "control_concepts", panel=BLEND, row=4, since=3),
    Field("preview", "hidden", "Preview", "Set by the button Find concepts.", NO_PREVIEW, saved=False, since=1),
)

CONCEPT_FIELDS = (
    Field("on", "checkbox", "Draw this concept", "Off: it is left out, and keeps its fields.", True, ("enabled",),
          saved=False, since=5),
    Field("phrase", "text", "Phrase", "Its word in the prompt at the top, as it stands there.", path=("phrase",),
          options={"max_lines": 1}, examples=("man", "woman"), row=1, saved=False),
    Field("where", "dropdown", "Where",
          "Which one, if there are several; or a place of your own; or all that the others leave.", PLACES[0].choice,
          options={"choices": [place.choice for place in PLACES]}, row=1, saved=False),
    Field("where_text", "text", "Position", options={"visible": False, "max_lines": 1}, row=1, saved=False),
    Field("mask_picture", "picture", "Mask: what is painted is the concept", default=None, options={"visible": False},
          saved=False),
    Field("prompt", "prompt", "Prompt",
          "The whole scene once more, with this one's trigger word and LoRA, and no other's.", path=("prompt",),
          options={"lines": 2}, examples=("photo of sks man and a woman at the beach <lora:sks_man:1>",
                                          "photo of a man and zwx woman at the beach <lora:zwx_woman:1>"), saved=False),
    Field("face_mark", "text", "Photo that is missing",
          "A picture's file keeps no photo, only this checksum of it. Put the photo in again, below, or empty this.",
          options={"visible": False, "max_lines": 1}, saved=False, since=4),
    Field("face", "photo", "Photo", default=None, panel=FACE, saved=False, since=4),
    _of_concept("face_index", "dropdown", "Which face", "If the photo shows several.", "face_index", optional=True,
                choices=(("The largest", None), *((f"{number} from the left", index) for index, number in enumerate(
                    ("1st", "2nd", "3rd", "4th", "5th", "6th")))), panel=FACE, row=1, saved=False, since=4),
    _of_concept("face_scale", "slider", "Face strength", "How much it looks like the photo. 0: off.", "face_scale",
                options=_slider(0, 3), panel=FACE, row=1, saved=False, since=4),
    _of_concept("identity_scale", "slider", "Face pose strength",
                "Holds the face where the first picture has one. 0: off.", "identitynet.scale", options=_slider(0, 3),
                panel=FACE, row=2, saved=False, since=4),
    _of_concept("identity_start", "slider", "Face pose from", "Part of the steps.", "identitynet.start",
                options=_slider(0, 1), panel=FACE, row=2, saved=False, since=4),
    _of_concept("identity_end", "slider", "Face pose until", "Part of the steps.", "identitynet.end",
                options=_slider(0, 1), panel=FACE, row=2, saved=False, since=4),
    Field("negative_prompt", "prompt", "Negative prompt", "Empty: that of the picture.", path=("negative_prompt",),
          optional=True, panel=MORE, saved=False),
    _of_concept("strength", "slider", "Strength", "1: all of it, 0: none.", "strength", options=_slider(0, 1),
                panel=MORE, row=1, saved=False),
    _of_concept("lora_guidance", "slider", "LoRA guidance", "More of its LoRA and photo, more work. 0: off.",
                "lora_guidance", options=_slider(0, 20, 0.1), panel=MORE, row=1, saved=False, since=2),
    Field("cfg_scale", "slider", "CFG scale", "At the blend start. 0: automatic.", 0.0, ("cfg_scale", 0),
          optional=True, options=_slider(0, 30, 0.5), panel=MORE, row=2, saved=False),
    Field("cfg_end", "slider", "Final CFG scale", "At the end. 0: as at the start.", 0.0,
          ("cfg_scale", 1), optional=True, options=_slider(0, 30, 0.5), panel=MORE, row=2, saved=False, since=2),
)


def concept_fields(number: int) -> list[Field]:
    """The fields of one concept (1 is the first), with an example of its own in those that are empty."""
    return [replace(each, options={**each.options, "placeholder": each.examples[(number - 1) % len(each.examples)]})
            if each.examples else each for each in CONCEPT_FIELDS]


def arg_fields(groups: int) -> list[tuple[int, Field]]:
    """The fields behind the component values, in their order, for an accordion with this many concept groups.

    Each with the number of its concept (1 is the first); 0 are the request's. Values that API users send in their order
    stay where they were: later fields come behind all others, again the request's before the concepts'.
    """
    tables = [GLOBAL_FIELDS, *[CONCEPT_FIELDS] * groups]
    return [(number, each) for since in sorted({each.since for each in (*GLOBAL_FIELDS, *CONCEPT_FIELDS)})
            for number, table in enumerate(tables) for each in table if each.since == since]


def concept_count(args: int) -> int:
    """How many concept groups there are behind this many component values."""
    return (args - len(GLOBAL_FIELDS)) // len(CONCEPT_FIELDS)
