"""Pictures in a request: base64 PNG, JPEG and WebP, refused by their headers if they are too large to be decoded."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import struct

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import OMGError

MAX_PIXELS = 4096 * 4096
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, ImportError)
"""What opening a file raises that is no picture, or half of one: Pillow's errors, and ultralytics', whose own
``Image.open``, once it is imported, looks for a package that reads such files."""
_DATA_PREFIX = re.compile(r"data:[^,]*,")
_MARK = re.compile(r"sha256:[0-9a-f]{10}")
# of texts, by their checksums: they are asked for several times in a run, and no photo is to stay in memory for it
_MARKS: dict[str, str] = {}


def mark_of(text: str) -> str:
    """What stands for a picture where it is not kept: the beginning of its pixels' checksum.

    The same picture has the same mark in whatever file; what is no picture has that of its text.
    """
    if is_mark(text):
        return text
    key = hashlib.sha256(text.encode()).hexdigest()
    if key not in _MARKS:
        _MARKS[key] = _marked(text)
    return _MARKS[key]


def is_mark(text: str) -> bool:
    """Whether a text stands for a picture that was not kept."""
    return _MARK.fullmatch(text) is not None


def _marked(text: str) -> str:
    try:
        pixels = rgb(decode_picture(text, "picture"))
        digest = hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes())
    except OMGError:
        digest = hashlib.sha256(text.encode())
    return f"sha256:{digest.hexdigest()[:10]}"


def decode_picture(text: str, field: str) -> Image.Image:
    """A picture from a base64 PNG, JPEG or WebP, with or without a ``data:`` prefix, upright as its EXIF says.

    Args:
        field: the request field that errors name.

    Raises:
        OMGError: the text is not base64, no such picture, damaged, or larger than :data:`MAX_PIXELS` (found in the
            header, before anything is decoded); or it is a mark (:func:`mark_of`).
    """
    if is_mark(text):
        raise OMGError(field, f"the picture is missing: infotexts keep its checksum alone, {text}; put the picture in "
                              "again, or leave it out")
    data = _bytes(text, field)
    kind = _kind(data, field)
    try:
        width, height = _size(data, kind)
        if width * height > MAX_PIXELS:
            raise OMGError(field, f"the {kind} is {width} x {height} pixels, more than {MAX_PIXELS}; make it smaller")
        return _decode(data, kind)
    except (UnidentifiedImageError, ImportError):
        raise OMGError(field, f"the {kind} is damaged: its header cannot be read; save it again") from None
    except DAMAGED as error:
        raise OMGError(field, f"the {kind} is damaged ({error}); save it again") from None


def rgb(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """The colours of a picture of any mode, uint8 ``[H, W, 3]``, on white where it is transparent."""
    if picture.mode.startswith("I"):
        # 16-bit grey, which Pillow would clip to 255
        grey = (np.asarray(picture, dtype=np.float32) / np.float32(257)).round().clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    opaque = picture.convert("RGBA")
    white = Image.new("RGBA", opaque.size, "white")
    return np.asarray(Image.alpha_composite(white, opaque).convert("RGB"))


def _bytes(text: str, field: str) -> bytes:
    text = "".join(_DATA_PREFIX.sub("", text.strip(), count=1).split())
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise OMGError(field, f"this is not base64 ({error}); encode the picture file's bytes") from None


def _kind(data: bytes, field: str) -> str:
    """The picture's format by its first bytes, as Pillow calls it but for WebP's small letters."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    raise OMGError(field, "this is no PNG, JPEG or WebP file; save it as PNG")


def _size(data: bytes, kind: str) -> tuple[int, int]:
    """Width and height by the header, without memory for a picture.

    Raises:
        ValueError, struct.error, OSError: the header is damaged, or the file is shorter than it says.
    """
    if kind == "PNG":
        if data[12:16] != b"IHDR":
            raise ValueError("its header cannot be read")
        width, height = struct.unpack_from(">II", data, 16)
        return width, height
    if kind == "WebP":
        return _webp_size(data)
    if data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("its end is missing")
    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:  # reads the header alone
            return picture.size
    except Image.DecompressionBombError:
        return 1 << 16, 1 << 16  # Pillow's own limit, which lies above ours


def _webp_size(data: bytes) -> tuple[int, int]:
    """By the header of the first chunk, see RFC 9649 and RFC 6386."""
    if struct.unpack_from("<I", data, 4)[0] + 8 > len(data):
        raise ValueError("its end is missing")
    chunk = data[12:16]
    if chunk == b"VP8X":
        width, height = (int.from_bytes(data[start:start + 3], "little") + 1 for start in (24, 27))
    elif chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif chunk == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError("its header cannot be read")
    return width, height


def _decode(data: bytes, kind: str) -> Image.Image:
    # the checksums first: decoding can be set to take a truncated file for a black one
    with Image.open(io.BytesIO(data), formats=[kind]) as opened:
        opened.verify()
    with Image.open(io.BytesIO(data), formats=[kind]) as opened:
        return ImageOps.exif_transpose(opened)
