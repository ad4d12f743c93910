"""What the page shows of a photo: the faces that are found in it, and which one counts."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from typing import Any

import gradio as gr
import numpy as np
from modules import devices
from modules.call_queue import queue_lock
from PIL import Image, ImageDraw

from ..errors import OMGError
from ..faces import analysis
from ..faces.base import Face, Picture
from ..faces.reference import choose
from .fields import CONCEPT_FIELDS
from .form import handy
from .models import models
from .which import JS, in_the_browser

CHOSEN, OTHERS = (0, 158, 115), (160, 160, 160)
# of what is shown, in pixels
_SIDE = 320
HIDDEN = in_the_browser(visible=False)
_INDEX = next(each for each in CONCEPT_FIELDS if each.name == "face_index")


def connect(photo: Any, mark: Any, index: Any, found: Any) -> None:
    """What happens as a photo is put in: the components are its slot, the field that says which photo is missing, the
    choice of a face, and the place for what is found."""
    photo.change(seen, [photo, index], [found], show_progress=False)
    # as where a concept moves, or the gallery's buttons send it from the other tab; in the browser, since the server's
    # answers to two quick changes may come in any order
    quiet = {"show_progress": False, "queue": False}
    seen_if_any = f"(text) => text ? {json.dumps(in_the_browser(visible=True))} : {json.dumps(HIDDEN)}"
    replaced = f"(photo) => photo ? {json.dumps({**HIDDEN, 'value': ''})} : {json.dumps(in_the_browser())}"
    mark.change(None, [mark], [mark], **{JS: seen_if_any}, **quiet)
    photo.change(None, [photo], [mark], **{JS: replaced}, **quiet)
    index.change(seen, [photo, index], [found], show_progress=False)


def seen(photo: Image.Image | None, choice: Any) -> str:
    """HTML: the photo with its faces marked, or why it will not do."""
    if photo is None:
        return ""
    picture = np.asarray(handy(photo))
    try:
        with queue_lock, devices.without_autocast(), analysis.loaded(models(), "face") as analyser:
            faces, doubt = analyser.faces(picture), analyser.doubt
        chosen = choose(faces, _INDEX.meant(choice), "face")
    except OMGError as error:
        return f"<p>{html.escape(error.message)}</p>"
    count = "1 face found." if len(faces) == 1 else f"{len(faces)} faces found; the green one counts."
    return (f'<img alt="faces" src="data:image/jpeg;base64,{_jpeg(_marked(picture, faces, chosen))}"/>'
            f"<p>{count}{html.escape(f' {doubt}' if doubt else '')}</p>")


def missing(mark: str) -> Any:
    """The field that says which photo is missing; hidden if none is."""
    return gr.update(value=mark, visible=bool(mark))


def _marked(picture: Picture, faces: Sequence[Face], chosen: Face) -> Image.Image:
    shown = Image.fromarray(picture)
    scale = min(1.0, _SIDE / max(shown.size))
    shown = shown.resize((max(1, round(scale * shown.width)), max(1, round(scale * shown.height))))
    draw = ImageDraw.Draw(shown)
    for face in faces:
        draw.rectangle([scale * float(edge) for edge in face.box], outline=CHOSEN if face is chosen else OTHERS,
                       width=3)
    return shown


def _jpeg(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return base64.b64encode(file.getvalue()).decode()
