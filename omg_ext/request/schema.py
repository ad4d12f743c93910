"""What the user asks for: one validated, JSON-able object, shared by UI, API, infotext and the Python pipeline.

An object built in Python is not checked but for the rules over several fields, in ``__post_init__``;
:func:`parse_request` checks all of it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType, field

from ..errors import OMGError
from .validate import check
from .values import in_words

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
SmallFraction = Annotated[float, Meta(ge=0.0, le=0.5)]
Scale = Annotated[float, Meta(ge=0.0, le=100.0)]
FaceScale = Annotated[float, Meta(ge=0.0, le=3.0)]
Show = Literal["first_pass", "masks", "overlay"]
Predict = Literal["separate", "shared", "joint"]
FirstPass = Literal["whole", "prefix"]
EARLIEST = 0.1
"""Of ``blend_start`` where the concepts are to be found by then: before, there is nothing to be seen."""

WHERE_KINDS = ("point", "index", "overlap", "box", "outline", "mask", "rest")
SOUGHT = ("point", "index", "overlap")
"""Those of them that choose among what is found by phrase"""


class Where(Struct, frozen=True, forbid_unknown_fields=True):
    """Which instance of the phrase a concept takes, or a place of its own. Exactly one field is set.

    Coordinates are fractions of the picture's width and height, x before y, origin top left.

    Attributes:
        point: ``[x, y]`` inside the instance.
        index: 0 for the leftmost instance, 1 for the next to its right, ...
        overlap: ``[x0, y0, x1, y1]``, a box that the instance overlaps more than others do.
        box: ``[x0, y0, x1, y1]``; the mask is this rectangle, nothing is detected.
        outline: ``[x0, y0, x1, y1]``, a box; a segmenter finds the shape of the thing in it. Nothing is sought by
            phrase.
        mask: a PNG, JPEG or WebP, base64-encoded (a ``data:`` prefix is fine); what is painted is the concept. Nothing
            is detected.
        rest: true; the mask is all that no other concept's mask takes. Nothing is detected.

    Raises:
        OMGError: naming ``where``, unless exactly one is set and a box has an area; or ``rest`` if it is false.
    """

    point: tuple[Fraction, Fraction] | UnsetType = UNSET
    index: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    overlap: tuple[Fraction, Fraction, Fraction, Fraction] | UnsetType = UNSET
    box: tuple[Fraction, Fraction, Fraction, Fraction] | UnsetType = UNSET
    outline: tuple[Fraction, Fraction, Fraction, Fraction] | UnsetType = UNSET
    mask: str | UnsetType = UNSET
    rest: bool | UnsetType = UNSET

    @property
    def kind(self) -> str:
        """Which one of :data:`WHERE_KINDS` is set."""
        return next(kind for kind in WHERE_KINDS if getattr(self, kind) is not UNSET)

    @property
    def needs_detection(self) -> bool:
        """False if nothing is sought by phrase."""
        return self.kind in SOUGHT

    def __post_init__(self) -> None:
        given = [kind for kind in WHERE_KINDS if getattr(self, kind) is not UNSET]
        if len(given) != 1:
            raise OMGError("where",
                           f"give exactly one of {', '.join(WHERE_KINDS)}, got {' and '.join(given) or 'none'}")
        for box in (self.overlap, self.box, self.outline):
            if box is UNSET:
                continue
            x0, y0, x1, y1 = box
            if not (x0 < x1 and y0 < y1):
                raise OMGError("where", "the box is empty: it is [x0, y0, x1, y1] with x0 < x1 and y0 < y1")
        if self.rest is False:
            raise OMGError("rest", "it can only be true: the concept then takes all that no other one takes; for any "
                                   "other place leave it out")


class IdentityNet(Struct, frozen=True, forbid_unknown_fields=True):
    """InstantID's ControlNet (arXiv 2401.07519), which draws a concept's face where the first picture has one.

    Attributes:
        scale: its residuals are multiplied by it; 0 is off.
        start, end: fractions of the steps. It acts in step i of n if ``start <= i/n`` and ``(i + 1)/n <= end``.

    Raises:
        OMGError: naming ``start`` unless it is before the end.
    """

    scale: FaceScale = 0.8
    start: Fraction = 0.0
    end: Fraction = 1.0

    def __post_init__(self) -> None:
        if self.start >= self.end:
            raise OMGError("start", f"expected less than the end ({self.end:g}), got {self.start:g}; to turn it off "
                                    "set its scale to 0")


class Concept(Struct, frozen=True, forbid_unknown_fields=True):
    """One personalised concept C^i (paper Sec. 3.3).

    Attributes:
        prompt: the concept's prompt p^i: trigger words and ``<lora:name:te:unet>`` tags.
        phrase: what to look for in the first-pass picture, the paper's class name ("man"). Not needed if ``where`` is a
            mask, a box, an outline or the rest.
        negative_prompt: None takes the global one.
        where: which instance; None takes the best match, each instance used once.
        strength: share of the concept's prediction inside its mask.
        cfg_scale: classifier-free guidance scale of this concept; ``[from, to]`` changes evenly from the initiation
            timestep to the end; None takes the global one, with ``shared`` and ``joint`` four times as much at first
            (:data:`omg_ext.predict.base.LEAD`). 1 is no guidance.
        lora_guidance: w in ``+ w (c - b)``: c is the concept's prediction, b the same without its networks and face.
        face: a picture of the face that it is to have, or several of the same person: PNG, JPEG or WebP,
            base64-encoded (a ``data:`` prefix is fine). It may have networks besides.
        face_index: which face of each of these pictures, 0 for the leftmost; None takes the largest.
        face_scale: w in ``Attn(q, K, V) + w Attn(q, K_face, V_face)``, the face's share of cross-attention; 0 is off.
        identitynet: see :class:`IdentityNet`.
        enabled: False leaves it out: it is not sought, nothing of it is loaded, and it takes no place. It keeps its
            number, and its phrase and prompt may be blank.

    Raises:
        OMGError: naming ``phrase`` if it is blank and needed, ``face`` if one of its pictures is,
            or ``face_index`` if there is no face.
    """

    prompt: str
    phrase: str = ""
    negative_prompt: str | None = None
    where: Where | None = None
    strength: Fraction = 1.0
    cfg_scale: Scale | Annotated[tuple[Scale, ...], Meta(min_length=2, max_length=2)] | None = None
    lora_guidance: Annotated[float, Meta(ge=0.0, le=20.0)] = 0.0
    face: str | Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    face_index: Annotated[int, Meta(ge=0)] | None = None
    face_scale: FaceScale = 0.8
    identitynet: IdentityNet = field(default_factory=IdentityNet)
    enabled: bool = True

    @property
    def place(self) -> Where | None:
        """Where it is; None if that says nothing: it is sought by its phrase, or switched off."""
        return self.where if self.enabled else None

    @property
    def faces(self) -> tuple[str, ...]:
        """The pictures of its face; none if it has none."""
        return (self.face,) if isinstance(self.face, str) else tuple(self.face or ())

    @property
    def needs_detection(self) -> bool:
        """False if nothing is sought by phrase."""
        return self.enabled and (self.where is None or self.where.needs_detection)

    @property
    def is_rest(self) -> bool:
        """Whether it takes all that no other concept takes."""
        return self.place is not None and self.place.rest is not UNSET

    def __post_init__(self) -> None:
        if self.needs_detection and not self.phrase.strip():
            raise OMGError("phrase", "say what to look for in the picture (for example man), "
                                     "or give where.box or where.mask")
        if any(not picture.strip() for picture in self.faces):
            raise OMGError("face", "it is empty; give a picture, or leave it out")
        if self.face_index is not None and self.face is None:
            raise OMGError("face_index", "there is no face to choose from; give its picture as face, or leave this out")


class Layout(Struct, frozen=True, forbid_unknown_fields=True):
    """Occlusion layout preservation (Eq. 7): until which fraction of the trajectory attention is replayed; 0 is off."""

    cross: Fraction = 1.0
    self_: Fraction = field(default=0.4, name="self")


class Mask(Struct, frozen=True, forbid_unknown_fields=True):
    """What happens to every mask before it goes to the latent grid. Both are fractions of the picture's width.

    Attributes:
        grow: how far the mask is widened.
        feather: standard deviation of the Gaussian that softens its edge.
    """

    grow: SmallFraction = 0.01
    feather: SmallFraction = 0.01


class Detect(Struct, frozen=True, forbid_unknown_fields=True):
    """How the detector looks. A field that the detector does not go by is refused.

    Attributes:
        threshold: the least confidence of what counts as found; None takes the detector's own.
        model: the file or folder name of the detector's model, where there are several; empty takes the first found.
        segmenter: the same for the model that turns boxes into shapes.
    """

    threshold: Fraction | None = None
    model: str = ""
    segmenter: str = ""


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """A multi-concept generation on top of an ordinary txt2img one.

    Attributes:
        concepts: one or more; a request built in Python may have none, until it is parsed.
        enabled: False makes the whole request do nothing.
        detector: the name of a detector in :mod:`omg_ext.comprehension`.
        detect: see :class:`Detect`.
        blend_start: the initiation timestep of concept noise blending, as a fraction of the trajectory in model
            timesteps: 0 blends from the first step on, 1 never (paper Sec. 3.4).
        layout: see :class:`Layout`.
        mask: see :class:`Mask`.
        strict: a concept that is not found is an error instead of a warning.
        show: extra pictures to return: the first pass's, each concept's mask, the first pass's with all that was found
            in it coloured and named.
        preview: only the first picture is drawn, and the concepts are found in it.
        predict: how the concepts' noise is predicted: by ``separate`` rows (the paper's), rows that are ``shared`` with
            the picture where they can, or one ``joint`` row; see :mod:`omg_ext.predict`.
        first_pass: ``whole``, or only the ``prefix`` up to the initiation timestep: the concepts are found in what the
            picture is going to be, and the same sampling goes on with them.
        control_concepts: whether spatial conditions that act on the picture (ControlNet's units in the web UI) act on
            the concepts' predictions, too.

    Raises:
        OMGError: naming a concept's ``prompt`` if it is blank and this is no preview, the ``where.rest`` of a second
            concept that has it, or what ``first_pass`` rules out.
    """

    concepts: Annotated[tuple[Concept, ...], Meta(min_length=1)]
    enabled: bool = True
    detector: str = "contrast"
    detect: Detect = field(default_factory=Detect)
    blend_start: Fraction = 0.4
    layout: Layout = field(default_factory=Layout)
    mask: Mask = field(default_factory=Mask)
    strict: bool = False
    show: tuple[Show, ...] = ()
    preview: bool = False
    predict: Predict = "joint"
    first_pass: FirstPass = "whole"
    control_concepts: bool = True

    @property
    def drawn(self) -> tuple[Concept, ...]:
        """The concepts that are switched on."""
        return tuple(concept for concept in self.concepts if concept.enabled)

    @property
    def rest(self) -> int | None:
        """The concept that takes all that no other one takes; None if there is none."""
        return next((index for index, concept in enumerate(self.concepts) if concept.is_rest), None)

    def __post_init__(self) -> None:
        for index, concept in enumerate(self.concepts):
            if concept.enabled and not (self.preview or concept.prompt.strip()):
                raise OMGError(f"concepts[{index}].prompt",
                               "it is empty; write the concept's trigger words and its <lora:...> tag")
            if concept.is_rest and self.rest != index:
                raise OMGError(f"concepts[{index}].where.rest", f"the rest is concepts[{self.rest}]'s already; give "
                                                                "this one another place")
        if self.first_pass == "prefix":
            self._check_prefix()

    def _check_prefix(self) -> None:
        if self.layout not in (Layout(), Layout(cross=0.0, self_=0.0)):
            raise OMGError("layout", "with first_pass prefix there is no first picture whose layout could be kept; "
                                     "leave it at its defaults, set both to 0, or take first_pass whole")
        if self.blend_start < EARLIEST and any(concept.needs_detection for concept in self.concepts):
            raise OMGError("blend_start", f"with first_pass prefix the concepts are found at blend_start, and before "
                                          f"{EARLIEST} there is nothing to be seen; raise it, take first_pass whole, "
                                          "or give where.box or where.mask")


def parse_request(data: Any) -> Request:
    """Validate a request given as a dict, as its JSON text, or as a :class:`Request` built in Python.

    Raises:
        OMGError: naming the field, for unknown or missing fields, wrong types and numbers out of range.
    """
    if isinstance(data, Request):
        data = dump_request(data)
    if isinstance(data, (str, bytes)):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise OMGError("request", f"this is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise OMGError("request", f"expected an object with the field `concepts`, got {in_words(data)}")
    check(data, Request)
    return msgspec.convert(data, Request)


def dump_request(request: Request) -> dict[str, Any]:
    """The request as JSON data, defaults left out: ``parse_request(dump_request(r)) == r``."""
    data: dict[str, Any] = _without_defaults(request)
    return data


def _without_defaults(value: Any) -> Any:
    """``value`` as JSON data. (msgspec's ``omit_defaults`` goes by identity, which a parsed float does not have.)"""
    if isinstance(value, (list, tuple)):
        return [_without_defaults(item) for item in value]
    if not isinstance(value, Struct):
        return value
    # compared as JSON data, in which a list given in Python is like the default's tuple
    given = ((known, _without_defaults(getattr(value, known.name))) for known in msgspec.structs.fields(value))
    return {known.encode_name: item for known, item in given if item != _without_defaults(_default(known))}


def _default(known: msgspec.structs.FieldInfo) -> Any:
    return known.default if known.default_factory is NODEFAULT else known.default_factory()
