"""From the accordion's component values to a request, and back. No Gradio in here."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import msgspec
from PIL import Image

from ..errors import OMGError
from ..infotext import request_text
from ..request import Concept, Request, dump_request, parse_request
from ..request.pictures import is_mark, rgb
from .fields import (
    CONCEPT_FIELDS,
    GLOBAL_FIELDS,
    NO_PREVIEW,
    PLACES,
    PREVIEW,
    Field,
    Place,
    arg_fields,
    choice_of,
    concept_count,
    put,
    value_at,
)

# of a photo, in pixels
_PHOTO_SIDE = 2048

Values = dict[str, Any]
"""Component values by field name."""


def request_from_args(args: Sequence[Any]) -> dict[str, Any] | None:
    """The request that the script's component values ask for, as the API would take it; None if OMG is off.

    Args:
        args: in the order of :func:`arg_fields`. Anything in the API slot, the first, is the request, as an object or
            its JSON text, and the rest does not count, but that the page may ask for a preview of it.

    Raises:
        OMGError: naming the field, if the request in the slot is not valid or a value in the fields cannot be read.
            Fields are not validated beyond that; :func:`omg_ext.request.parse_request` does it.
    """
    values, concepts = _named(args)
    preview = {"preview": True} if values["preview"] == PREVIEW else {}
    slot = values["api"]
    if slot is not None and slot != "":
        return {**dump_request(parse_request(slot)), **preview}
    if not (values["enabled"] or preview):
        return None
    shown = concepts[:max(0, _count(values["count"]))]
    request = _gather(GLOBAL_FIELDS, values) | preview
    if preview:
        shown = [_without_empty_place(concept, values["detector"]) for concept in shown]
    request["concepts"] = [_concept(index, concept) for index, concept in enumerate(shown)]
    return request


def _named(args: Sequence[Any]) -> tuple[Values, list[Values]]:
    """The request's values, and each concept's."""
    groups = concept_count(len(args))
    named: list[Values] = [{} for _ in range(1 + groups)]
    for (number, each), value in zip(arg_fields(groups), args, strict=True):
        named[number][each.name] = value
    return named[0], named[1:]


def _count(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        raise OMGError("Number of concepts", f"expected a whole number, got {value!r}") from None


def _without_empty_place(values: Values, detector: str) -> Values:
    """A concept's values for a preview: a place that is chosen and not yet given is what the picture is wanted for.

    The concept is sought then; if it cannot be, it is everywhere.
    """
    place = next((place for place in PLACES if place.choice == values["where"]), PLACES[0])
    given = {"": detector != "painted", "mask": values["mask_picture"], "rest": True}
    if given.get(place.kind, values["where_text"]):
        return values
    if values["phrase"] and detector != "painted":
        return {**values, "where": PLACES[0].choice}
    return {**values, "where": choice_of("box"), "where_text": "0, 0, 1, 1"}


def args_from_request(request: Request, groups: int) -> list[Any]:
    """The component values, in the order of :func:`request_from_args`, that ask for this request.

    A mask is its base64 text, and so is the photo of a face; :mod:`.ui` makes pictures of them.

    Args:
        groups: number of concept groups in the accordion. A request that the fields cannot show (more concepts than
            that, a negative prompt that is empty on purpose) also goes into the API slot, as JSON.
    """
    count = max(1, min(len(request.concepts), groups))
    values = {"enabled": request.enabled, "count": count,
              "preview": PREVIEW if request.preview and request.enabled else NO_PREVIEW,
              **_spread(GLOBAL_FIELDS, request)}
    named = [values, *map(_concept_values, request.concepts), *[{}] * groups]
    args = [named[number].get(each.name, each.default) for number, each in arg_fields(groups)]
    if request.enabled and not _ask_for(request, args):
        args[0] = request_text(request)
    return args


def _ask_for(request: Request, args: Sequence[Any]) -> bool:
    try:
        return parse_request(request_from_args(args)) == request
    except OMGError:
        return False


def _gather(table: Sequence[Field], values: Values, index: int = 0) -> dict[str, Any]:
    """The values that have a path, as the nested object of the request, or of the concept of this index."""
    gathered: dict[str, Any] = {}
    for each in table:
        if each.path:
            put(gathered, each, values[each.name], index)
    return gathered


def _spread(table: Sequence[Field], struct: msgspec.Struct) -> Values:
    """The opposite of :func:`_gather`."""
    found = {each.name: each.shown(value_at(struct, each.path)) for each in table if each.path}
    return {name: value for name, value in found.items() if value is not None}


def _concept(index: int, values: Values) -> dict[str, Any]:
    name = f"Concept {index + 1}"
    if all(values[each.name] == each.default for each in CONCEPT_FIELDS):
        raise OMGError(f"concepts[{index}]",
                       f"{name} is empty: fill in its phrase and prompt, or remove it")
    if not (values["on"] or values["cfg_scale"]):  # what is off may be half filled in
        values = {**values, "cfg_end": 0.0}
    concept = _gather(CONCEPT_FIELDS, values, index)
    photo = values["face"]
    if face := values["face_mark"] if photo is None else photo if isinstance(photo, str) else _png_text(handy(photo)):
        concept["face"] = face
    else:
        concept.pop("face_index", None)  # it outlives a photo that is taken away
    place = next((place for place in PLACES if place.choice == values["where"]), None)
    if place is None:
        raise OMGError(f"concepts[{index}].where", f"{name}: choose one of {', '.join(p.choice for p in PLACES)}")
    if place.kind:
        try:
            concept["where"] = {place.kind: _where_value(f"concepts[{index}].where.{place.kind}", name, place, values)}
        except OMGError:
            if values["on"]:
                raise
    return concept


def _where_value(where: str, name: str, place: Place, values: Values) -> Any:
    picture = values["mask_picture"]
    if place.kind == "mask" and picture is None:
        raise OMGError(where, f"{name} has no mask: paint it on the picture that Find concepts shows, or upload one "
                              "that is white where the concept is")
    if place.kind == "mask":
        return picture if isinstance(picture, str) else _png_text(picture)
    text = str(values["where_text"] or "")
    try:
        return place.parse(text)
    except ValueError:
        raise OMGError(where, f"{name}: expected {place.expected}, such as {place.hint}, got {text!r}") from None


def _concept_values(concept: Concept) -> Values:
    """The opposite of :func:`_concept`."""
    values = _spread(CONCEPT_FIELDS, concept)
    if isinstance(concept.face, str):
        values["face_mark" if is_mark(concept.face) else "face"] = concept.face
    if concept.where is not None:
        place = next(place for place in PLACES if place.kind == concept.where.kind)
        values["where"] = place.choice
        text = place.show(getattr(concept.where, place.kind))
        values["mask_picture" if place.kind == "mask" else "where_text"] = text
    return values


def handy(photo: Image.Image) -> Image.Image:
    """A photo on white, no larger than faces in it need: cameras' take seconds to be encoded, and more than once."""
    pixels = Image.fromarray(rgb(photo))
    pixels.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
    return pixels


def _png_text(picture: Any) -> str:
    """A PIL picture as base64 PNG."""
    file = io.BytesIO()
    picture.save(file, format="PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
