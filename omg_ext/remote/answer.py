"""The pictures in a web UI's answer, and what it says of them."""

from __future__ import annotations

import base64
import io
import json
import re

import msgspec
from msgspec import Struct
from PIL import Image

from ..errors import OMGError
from ..infotext import FIRST_PASS, FOUND, MASK, WARNINGS, WHO_IS_WHERE, title_of
from ..jobs.draw import Drawn
from .connection import FIELD, WebUIError

# one value of an infotext's last line, as the web UI reads it
_VALUE = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
_TITLES = {FIRST_PASS: "first_pass", WHO_IS_WHERE: "overlay"}
_MASK = re.compile(rf"{MASK} (\d+)")


class Info(Struct):
    """What is told of the pictures.

    Attributes:
        infotexts: the pictures', as far as they have one.
        index_of_first_image: which of them is the first result.
        sd_model_name: the checkpoint's, without folder and suffix.
        job_timestamp: when it was begun.
    """

    infotexts: list[str]
    index_of_first_image: int = 0
    sd_model_name: str | None = None
    job_timestamp: str | None = None


class Answer(Struct):
    """What txt2img answers: pictures in base64, and an :class:`Info` as JSON."""

    images: list[str]
    info: str


def read(answer: Answer, name: str) -> tuple[Drawn, Info]:
    """The result of one job. Pictures of other extensions, and grids, are left out.

    Args:
        name: the web UI's, for messages.

    Raises:
        OMGError: there is no picture in it.
        WebUIError: the picture has lost something on its way.
    """
    try:
        info = msgspec.json.decode(answer.info, type=Info)
        picture = _picture(answer.images[info.index_of_first_image])
        infotext = info.infotexts[info.index_of_first_image]
        extras = {key: _picture(image) for image, text in zip(answer.images, info.infotexts, strict=False)
                  if (key := _key(text))}
        values = dict(_VALUE.findall(infotext.rpartition("\n")[2]))
        found = json.loads(_unquoted(values.get(FOUND, "[]")))
        warnings = [_unquoted(values[WARNINGS])] if WARNINGS in values else []
    except (ValueError, OSError, IndexError) as error:  # msgspec's and base64's are ValueErrors
        raise OMGError(FIELD, f"{name} answered without a picture that can be read ({error})") from None
    if picture.format != "PNG":
        raise WebUIError(f"{name} answers with {picture.format} pictures, which have lost detail")
    return Drawn(picture, infotext, extras, warnings, found), info


def _key(infotext: str) -> str:
    """What an extra picture is; empty for any other."""
    title = title_of(infotext)
    mask = _MASK.fullmatch(title)
    return f"mask-{int(mask[1]) - 1}" if mask else _TITLES.get(title, "")


def _picture(text: str) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2])))
    picture.load()
    return picture


def _unquoted(value: str) -> str:
    return str(json.loads(value)) if value.startswith('"') else value
