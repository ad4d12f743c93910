"""The note of the accordion that names what is not here: see :mod:`.lacks`."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from ..errors import OMGError
from ..request import Concept, Detect, Request, Where
from .fields import PLACES
from .lacks import lacks

Component = Any

DETECT = ("detector", "threshold", "model", "segmenter")
# any of the kind: what is there to find a concept does not depend on where it is
_ANYWHERE: dict[str, Any] = {"point": (0.5, 0.5), "index": 0, "rest": True, "mask": "-"}
_WHOLE = (0.0, 0.0, 1.0, 1.0)


def build(elem_id: Callable[[str], str], request: Request | None) -> Component:
    """The note, in the accordion.

    Args:
        elem_id: the script's.
        request: what the page starts with, if it is not empty.
    """
    return gr.HTML("" if request is None else said(request), elem_id=elem_id("lacks"), elem_classes=["omg-note"])


def connect(note: Component, made: dict[str, Component], concepts: Sequence[dict[str, Component]], moved: Any) -> None:
    """The note follows what the user changes. What fills all fields at once says it by itself.

    Args:
        note: see :func:`build`.
        made: components of the request by field name.
        concepts: each one's.
        moved: the event that they have changed places.
    """
    prompts, places, ons = ([concept[name] for concept in concepts] for name in ("prompt", "where", "on"))
    inputs = [note, made["api"], made["count"], *(made[name] for name in DETECT), *prompts, *places, *ons]
    left = [each.blur for each in (*prompts, made["model"], made["segmenter"])]
    for event in (*left, moved.then, made["detector"].input, made["threshold"].release,
                  *(each.input for each in (*places, *ons))):
        event(_of_fields, inputs, [note], show_progress=False, queue=False)


def said(request: Request) -> str:
    """HTML: a line for each thing that is not here; empty if all is."""
    return "".join(f"<p>{html.escape(line)}</p>" for line in lacks(request))


def _of_fields(before: str, api: str, count: Any, detector: Any, threshold: Any, model: Any, segmenter: Any,
               *concepts: Any) -> str:
    if api:  # it counts alone, and the note is about it
        return before
    groups, shown = len(concepts) // 3, int(count or 0)
    prompts, places, ons = (concepts[start:start + shown] for start in range(0, len(concepts), groups))
    try:
        asked = Request(
            concepts=tuple(Concept(prompt=prompt or "", phrase="-", where=_anywhere(choice), enabled=bool(on))
                           for prompt, choice, on in zip(prompts, places, ons, strict=True)),
            detector=detector, detect=Detect(threshold=threshold or None, model=model or "", segmenter=segmenter or ""),
            preview=True)  # prompts may be empty yet
    except OMGError:  # there is more to be said about it, by Generate
        return before
    return said(asked)


def _anywhere(choice: str) -> Where | None:
    kind = next(place.kind for place in PLACES if place.choice == choice)
    return Where(**{kind: _ANYWHERE.get(kind, _WHOLE)}) if kind else None
