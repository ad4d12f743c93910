"""What the user asks for: one validated, JSON-able object, shared by UI, API, infotext and the Python pipeline."""

from __future__ import annotations

import difflib
import json
import math
import re
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import NODEFAULT, UNSET, Meta, Struct, UnsetType, field

from ..errors import OMGError

Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
SmallFraction = Annotated[float, Meta(ge=0.0, le=0.5)]
Show = Literal["first_pass", "masks"]

WHERE_KINDS = ("point", "index", "box", "mask")


class Where(Struct, forbid_unknown_fields=True):
    """Which instance of the phrase a concept takes. Exactly one field is set.

    Coordinates are fractions of the picture's width and height, x before y, origin top left.

    Attributes:
        point: ``[x, y]`` inside the instance.
        index: 0 for the leftmost instance, 1 for the next to its right, ...
        box: ``[x0, y0, x1, y1]``; the mask is this rectangle, nothing is detected.
        mask: a PNG, base64-encoded (a ``data:`` prefix is fine); white is the concept. Nothing is detected.
    """

    point: tuple[Fraction, Fraction] | UnsetType = UNSET
    index: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    box: tuple[Fraction, Fraction, Fraction, Fraction] | UnsetType = UNSET
    mask: str | UnsetType = UNSET

    @property
    def kind(self) -> str:
        """Which one of :data:`WHERE_KINDS` is set."""
        return next(kind for kind in WHERE_KINDS if getattr(self, kind) is not UNSET)

    @property
    def needs_detection(self) -> bool:
        """False if the mask is given outright."""
        return self.kind in ("point", "index")

    def __post_init__(self) -> None:
        given = [kind for kind in WHERE_KINDS if getattr(self, kind) is not UNSET]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(WHERE_KINDS)}, got {' and '.join(given) or 'none'}")
        if self.box is not UNSET:
            x0, y0, x1, y1 = self.box
            if not (x0 < x1 and y0 < y1):
                raise ValueError("the box is empty: it is [x0, y0, x1, y1] with x0 < x1 and y0 < y1")


class Concept(Struct, forbid_unknown_fields=True):
    """One personalised concept C^i (paper Sec. 3.3).

    Attributes:
        prompt: the concept's prompt p^i: trigger words and ``<lora:name:te:unet>`` tags.
        phrase: what to look for in the first-pass picture, the paper's class name ("man"). Not needed if ``where`` is a
            mask or a box.
        negative_prompt: None takes the global one.
        where: which instance; None takes the best match, each instance used once.
        strength: share of the concept's prediction inside its mask.
        cfg_scale: classifier-free guidance scale of this concept; None takes the global one.
    """

    prompt: str
    phrase: str = ""
    negative_prompt: str | None = None
    where: Where | None = None
    strength: Fraction = 1.0
    cfg_scale: Annotated[float, Meta(ge=0.0, le=100.0)] | None = None

    @property
    def needs_detection(self) -> bool:
        """False if the mask is given outright."""
        return self.where is None or self.where.needs_detection

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("field `prompt`: it is empty; write the concept's trigger words and its <lora:...> tag")
        if self.needs_detection and not self.phrase.strip():
            raise ValueError("field `phrase`: say what to look for in the picture (for example man), "
                             "or give where.box or where.mask")


class Layout(Struct, forbid_unknown_fields=True):
    """Occlusion layout preservation (Eq. 7): until which fraction of the trajectory attention is replayed; 0 is off."""

    cross: Fraction = 1.0
    self_: Fraction = field(default=0.4, name="self")


class Mask(Struct, forbid_unknown_fields=True):
    """What happens to every mask before it goes to the latent grid. Both are fractions of the picture's width.

    Attributes:
        grow: how far the mask is widened.
        feather: standard deviation of the Gaussian that softens its edge.
    """

    grow: SmallFraction = 0.01
    feather: SmallFraction = 0.01


class Request(Struct, forbid_unknown_fields=True):
    """A multi-concept generation on top of an ordinary txt2img one.

    Attributes:
        concepts: one or more.
        enabled: False makes the whole request do nothing.
        detector: the name of a detector in :mod:`omg_ext.comprehension`.
        blend_start: the initiation timestep of concept noise blending, as a fraction of the trajectory in model
            timesteps: 0 blends from the first step on, 1 never (paper Sec. 3.4: about 0.3).
        layout: see :class:`Layout`.
        mask: see :class:`Mask`.
        strict: a concept that is not found is an error instead of a warning.
        show: extra pictures to return.
    """

    concepts: Annotated[list[Concept], Meta(min_length=1)]
    enabled: bool = True
    detector: str = "attention"
    blend_start: Fraction = 0.3
    layout: Layout = field(default_factory=Layout)
    mask: Mask = field(default_factory=Mask)
    strict: bool = False
    show: list[Show] = field(default_factory=list)


def parse_request(data: Any) -> Request:
    """Validate a request given as a dict, as its JSON text, or as a :class:`Request` built in Python.

    Raises:
        OMGError: naming the field, for unknown or missing fields, wrong types and numbers out of range.
    """
    if isinstance(data, Request):
        data = _without_defaults(data)
    if isinstance(data, (str, bytes)):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise OMGError("request", f"this is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise OMGError("request", f"expected an object with the field `concepts`, got {_in_words(data)}")
    _refuse_odd_values(data, "", MAX_DEPTH)
    try:
        return msgspec.convert(data, Request)
    except msgspec.ValidationError as error:
        raise OMGError(*_explain(str(error), data)) from None


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
    given = ((known, getattr(value, known.name)) for known in msgspec.structs.fields(value))
    return {known.encode_name: _without_defaults(item) for known, item in given if item != _default(known)}


def _default(known: msgspec.structs.FieldInfo) -> Any:
    return known.default if known.default_factory is NODEFAULT else known.default_factory()


def _refuse_odd_values(value: Any, path: str, depth: int) -> None:
    """What Python's JSON reader lets through, and neither a range check nor msgspec's messages can deal with."""
    if depth == 0:
        raise OMGError(path, "the request is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise OMGError(path, f"expected a finite number, got {value}")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise OMGError(path, "the number is too large")
    if isinstance(value, str) and _LONE_SURROGATE.search(value):
        raise OMGError(path, "the text holds half a character (a lone surrogate); send it as UTF-8")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or _LONE_SURROGATE.search(key):
                raise OMGError(path or "request", f"{key!a} is not a field name")
            _refuse_odd_values(item, f"{path}.{key}" if path else key, depth - 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_odd_values(item, f"{path}[{index}]", depth - 1)


# the deepest field, `concepts[0].where.point[0]`, lies 5 levels down
MAX_DEPTH = 16
# beyond it a float, as which JSON readers may hold any number, is not exact
MAX_INTEGER = 2**53

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`$")
_EXPECTED = re.compile(r"Expected `([^`]*)`(?: (of length|[<>]=) ([0-9.]+))?(?:, got .*)?$", re.DOTALL)
# how __post_init__ names the field of its struct that is wrong
_NAMED = re.compile(r"field `([^`]*)`: (.*)$", re.DOTALL)
_TYPES = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "array": "a list",
          "object": "an object", "null": "null"}
_LIMITS = {"of length": "of length", ">=": "of at least", "<=": "of at most"}
_STRUCTS: dict[str, type[Struct]] = {"": Request, "concepts": Concept, "where": Where, "layout": Layout, "mask": Mask}


def _explain(message: str, data: dict[str, Any]) -> tuple[str, str]:
    """msgspec's message as (field, sentence)."""
    found = _PATH.search(message)
    path = found.group(1) if found else ""
    message = _PATH.sub("", message)
    if unknown := _UNKNOWN.match(message):
        return _join(path, unknown.group(1)), f"unknown field; {_hint(path, unknown.group(1))}"
    if missing := _MISSING.match(message):
        return _join(path, missing.group(1)), "this field is required"
    if named := _NAMED.match(message):
        return _join(path, named.group(1)), named.group(2)
    if path == "concepts" and "length" in message:
        return path, "the list is empty; give at least one concept"
    if message.startswith("Invalid enum value"):  # `show` is the one field of this kind
        return path, f"{_in_words(_value_at(data, path))} is unknown; known here: {', '.join(get_args(Show))}"
    if expected := _EXPECTED.match(message):
        kinds, limit, number = expected.groups()
        wanted = " or ".join(_TYPES.get(kind, kind) for kind in kinds.split(" | "))
        bound = f" {_LIMITS[limit]} {float(number):g}" if limit else ""
        return path, f"expected {wanted}{bound}, got {_in_words(_value_at(data, path))}"
    return path or "request", message


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name or "request"


def _hint(path: str, name: str) -> str:
    """What the unknown field ``name`` of the object at ``path`` may have meant."""
    owner = re.sub(r"\[\d+\]$", "", path).rsplit(".", 1)[-1]
    known = [known.encode_name for known in msgspec.structs.fields(_STRUCTS[owner])]
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"known here: {', '.join(known)}"


def _value_at(data: Any, path: str) -> Any:
    """The value that msgspec's ``path`` (names and list positions) leads to."""
    for step in re.findall(r"\w+", path):
        data = data[int(step)] if isinstance(data, (list, tuple)) else data[step]
    return data


def _in_words(value: Any) -> str:
    """``value`` as its sender would write it if that is short, else its kind."""
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 40 else "a long text"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return "an object"
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return type(value).__name__
