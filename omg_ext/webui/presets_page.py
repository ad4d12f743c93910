"""The line of the accordion that keeps sets of concepts by name: see :mod:`.presets`."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from modules.ui_components import FormRow

from ..errors import OMGError
from ..request import parse_request
from . import lacks_page
from .defaults import Start
from .presets import PresetExistsError, from_args, presets, to_args
from .which import JS
from .words import said

Component = Any

CHOOSE = "Choose a preset first."
LOADED = '"{name}" is loaded.'
SAVED = 'Saved as "{name}".'
RENAMED = 'It is "{name}" now.'
DELETED = '"{name}" is deleted.'
REPLACE = 'There is a preset "{name}" already. Press Save once more to replace it.'
REMOVE = 'Press Delete once more to delete "{name}".'

# an open list keeps the entries that it was opened with
OPEN_ANEW = """() => setTimeout(() => {
    const input = document.activeElement;
    if (!input || !input.closest("#%s")) return;
    input.blur();
    input.focus();
})"""


@dataclass(frozen=True)
class PresetsPage:
    """
    Attributes:
        chosen: the preset that is loaded, renamed or deleted.
        name: the one that it is saved under, or gets.
        load, save, rename, delete: buttons.
        note: says what came of it.
        asked: hidden; what the next press of the same button confirms.
        names: hidden; the presets that there are, as JSON.
    """

    chosen: Component
    name: Component
    load: Component
    save: Component
    rename: Component
    delete: Component
    note: Component
    asked: Component
    names: Component


def build(elem_id: Callable[[str], str], start: Start) -> PresetsPage:
    """The components, in the accordion.

    Args:
        elem_id: the script's.
        start: what the page starts with.
    """
    with FormRow():
        chosen = gr.Dropdown(presets().names(), value=start.name or None, label="Preset", elem_id=elem_id("preset"),
                             info="Keeps what is filled in below, by name.")
        name = gr.Textbox(start.name, label="Name", max_lines=1, elem_id=elem_id("preset_name"),
                          info="To save under; for Rename the new one.")
    with gr.Row(elem_classes=["omg-presets"]):
        load, save, rename, delete = (
            gr.Button(label, size="sm", min_width=60, elem_id=elem_id(f"preset_{label.lower()}"), tooltip=tip)
            for label, tip in (("Load", "Fill in the fields below from the preset"),
                               ("Save", "Keep the fields below under this name"),
                               ("Rename", "Give the preset this name"), ("Delete", "Remove the preset")))
    note = gr.HTML(_note(start.said) if start.said else "", elem_id=elem_id("preset_note"), elem_classes=["omg-note"])
    asked = gr.Textbox("", visible=False, elem_id=elem_id("preset_asked"))
    names = gr.Textbox(_names(), visible=False, elem_id=elem_id("preset_names"))
    for component in (chosen, name, load, save, rename, delete, asked, names):
        component.do_not_save_to_config = True
    return PresetsPage(chosen, name, load, save, rename, delete, note, asked, names)


def connect(page: PresetsPage, components: Sequence[Component], shown: Callable[[Sequence[Any]], list[Any]],
            groups: int, lacking: Component) -> None:
    """What the buttons do.

    Args:
        page: see :func:`build`.
        components: the script's, in their order.
        shown: what these get for values that ask for a request.
        groups: how many concept groups there are.
        lacking: says what of a preset is not here.
    """
    quiet = {"show_progress": False, "queue": False}
    outputs = [page.chosen, page.name, page.note, page.asked]
    # other tabs and the API save, too, and Gradio would only tell the next page that the server builds
    page.chosen.focus(_names, None, [page.names], **quiet)
    page.names.change(lambda names: gr.update(choices=json.loads(names)), [page.names], [page.chosen], **quiet).then(
        None, **{JS: OPEN_ANEW % page.chosen.elem_id}, **quiet)
    page.chosen.input(lambda name: [name or "", "", ""], [page.chosen], [page.name, page.note, page.asked], **quiet)
    page.load.click(_load(shown, groups, len(components)), [page.chosen],
                    [*components, lacking, page.note, page.asked], **quiet)
    page.save.click(_save, [page.name, page.asked, *components], outputs, **quiet)
    page.rename.click(_rename, [page.chosen, page.name], outputs, **quiet)
    page.delete.click(_delete, [page.chosen, page.asked], outputs, **quiet)


def _names() -> str:
    return json.dumps(presets().names())


def _load(shown: Callable[[Sequence[Any]], list[Any]], groups: int, count: int) -> Callable[[Any], list[Any]]:
    def load(name: Any) -> list[Any]:
        leave = [gr.update() for _ in range(count + 1)]
        if not name:
            return [*leave, _note(said(CHOOSE)), ""]
        try:
            data = presets().load(name)
            api, _, *values = shown(to_args(data, groups))
            lacks = lacks_page.said(parse_request({**data, "preview": True}))  # which bears empty prompts
        except OMGError as error:
            return [*leave, _note(_words(error)), ""]
        # it does not switch OMG on or off
        return [api, gr.update(), *values, lacks, _note(said(LOADED, name=name)), ""]

    return load


def _save(name: str, asked: str, *args: Any) -> list[Any]:
    try:
        kept = presets().save(name, from_args(args), overwrite=asked == f"save {name}")
    except PresetExistsError as error:
        return _left(said(REPLACE, name=error.name), asked=f"save {name}")
    except OMGError as error:
        return _left(_words(error))
    return _done(kept, said(SAVED, name=kept))


def _rename(chosen: str | None, name: str) -> list[Any]:
    if not chosen:
        return _left(said(CHOOSE))
    try:
        renamed = presets().rename(chosen, name)
    except OMGError as error:
        return _left(_words(error))
    return _done(renamed, said(RENAMED, name=renamed))


def _delete(chosen: str | None, asked: str) -> list[Any]:
    if not chosen:
        return _left(said(CHOOSE))
    if asked != f"delete {chosen}":
        return _left(said(REMOVE, name=chosen), asked=f"delete {chosen}")
    try:
        presets().delete(chosen)
    except OMGError as error:
        return _left(_words(error))
    return _done(None, said(DELETED, name=chosen))


def _left(text: str, asked: str = "") -> list[Any]:
    """Nothing was done, and why."""
    return [gr.update(), gr.update(), _note(text), asked]


def _done(chosen: str | None, text: str) -> list[Any]:
    return [gr.update(choices=presets().names(), value=chosen), chosen or "", _note(text), ""]


def _words(error: OMGError) -> str:
    return f"{error.field}: {error.message}"


def _note(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"
