"""The accordion. What it consists of stands in :mod:`.fields`; here it becomes Gradio components and their events."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import gradio as gr
import numpy as np
from modules.ui_components import FormRow, InputAccordion

from ..comprehension import DETECTORS
from ..comprehension.masks import decode_mask
from ..errors import OMGError
from ..request import parse_request
from ..request.pictures import decode_picture, rgb
from . import concepts_page, face_page, few_steps_page, infotext, lacks_page, presets_page, preview_page, settings
from .defaults import Start, start_with
from .fields import (
    BLEND,
    FACE,
    FIND,
    GLOBAL_FIELDS,
    NO_PREVIEW,
    PLACES,
    Field,
    arg_fields,
    concept_count,
    concept_fields,
)
from .form import args_from_request, request_from_args
from .prompts import unstyled
from .which import JS, KIND, in_the_browser, refusal

__all__ = ["build", "request_from_args"]

Component = Any
Components = dict[str, Component]
"""Components by field name."""
# no field: what is seen in a photo
FACE_FOUND = "face_found"

# localizations go by nodes of text: so each is a sentence, or stands alone
HINT = """<ol>
<li><b>The prompt at the top of the page</b>
<span>The whole scene in plain words, without the characters' LoRAs.</span>
<i>photo of a man and a woman at the beach</i></li>
<li><b>Each concept</b>
<span>One character with a LoRA or a photo. Its phrase is the plain word for it at the top.</span> <i>man</i></li>
<li><b>The concept's prompt</b>
<span>The prompt at the top once more, with this character's trigger word and LoRA put in, and no other's.</span>
<i>photo of <u>sks</u> man and a woman at the beach <u>&lt;lora:sks_man:1&gt;</u></i></li>
</ol>
"""
FIRST = ("Find concepts, below, draws the first picture and shows who is where, before anything more is drawn.",)
OVER = ("Here the picture that you give is the first picture: the concepts are found in it and drawn over it.",
        "Denoising strength says how much they may change; below 0.4 little of them shows.",
        "An inpaint mask confines them.",
        "Positions are parts of the whole picture, also with Only masked.",
        "Find concepts, below, shows who is where, and draws nothing.")
"""What follows the hint in the tabs."""
WORK_OVER = ("Work for two concepts, if an ordinary picture is 100: fastest 150 (for more, too), faster 200, "
             "faithful 300.")
"""Of ways to draw them, in img2img, where nothing is drawn before."""
NO_FIELDS_OF_IMG2IMG = ("first_pass", "cross", "self")
"""What is asked of a first sampling, which there is none of; they keep what is pasted into them."""

HINTS = {FIND: ("Detector, above, chooses what seeks the concepts.",
                ("contrast needs nothing more: it looks at the finished picture a second time, which costs as much as "
                 "twelve steps for two concepts, and sees shapes."),
                "attention costs nothing and finds things roughly.",
                "painted seeks nothing: every concept then needs a box or a mask, or is everything else.",
                "The others need models and packages: Settings > OMG > Detectors says which, and gets them."),
         FACE: ("A photo instead of a LoRA, or beside one: InstantID gives the character this face. SDXL only.",
                "Without a LoRA, this concept's prompt is the prompt at the top once more.",
                "Say more of the person if you like.",
                "It needs models and packages: Settings > OMG > Detectors, entry face, says which, and gets them.")}
"""By panel: what the user reads above its fields."""

WIDGETS: dict[str, Callable[..., Component]] = {
    "accordion": lambda info, **kwargs: InputAccordion(**kwargs),
    "checkbox": gr.Checkbox,
    "checkboxes": gr.CheckboxGroup,
    "detector": lambda **kwargs: gr.Dropdown(choices=list(DETECTORS), **kwargs),
    "dropdown": gr.Dropdown,
    "hidden": lambda **kwargs: gr.Textbox(visible=False, **kwargs),
    "picture": lambda info, **kwargs: gr.Image(type="pil", image_mode="RGBA", source="upload", height=200, **kwargs),
    "photo": lambda info, **kwargs: gr.Image(type="pil", image_mode="RGBA", source="upload", height=200, **kwargs),
    # the host's attention keys, and tag completion, look for this class
    "prompt": lambda **kwargs: gr.Textbox(elem_classes=["prompt"], **kwargs),
    "request": lambda **kwargs: gr.Textbox(lines=3, visible=False, **kwargs),
    "slider": gr.Slider,
    "text": gr.Textbox,
}


def build(script: Any, is_img2img: bool) -> list[Component]:
    """The components of the script, in the order that :func:`request_from_args` takes their values.

    Sets ``script.infotext_fields`` and ``script.paste_field_names``. The host calls this again to read the defaults for
    the API: the number of concept groups then stays that of the first call, whatever the setting says by now.
    """
    groups = concept_count(len(script.controls)) if script.controls else settings.ui_concepts()
    # the API's defaults are the fields' own
    start = Start() if script.controls else start_with(settings.start_preset(), groups)
    shown = start.values.get((0, "count"), min(2, groups))
    table = {each.name: _started(each, 0, start) for each in GLOBAL_FIELDS}
    table["count"] = replace(table["count"], default=shown, options={**table["count"].options, "maximum": groups})
    accordion = table.pop("enabled")
    if is_img2img:
        table["predict"] = replace(table["predict"], info=WORK_OVER)
    for name in NO_FIELDS_OF_IMG2IMG if is_img2img else ():
        table[name] = replace(table[name], options={**table[name].options, "visible": False})
    made = {"enabled": _component(accordion, script.elem_id(accordion.name))}
    tab = "img2img" if is_img2img else "txt2img"
    panels, concepts = [], []
    with made["enabled"]:
        if refusal(KIND):
            gr.HTML(f"<p><b>{refusal(KIND)}.</b></p>")
        gr.HTML(HINT + _sentences(OVER if is_img2img else FIRST), elem_classes=["omg-hint"])
        presets = presets_page.build(script.elem_id, start)
        lacking = lacks_page.build(script.elem_id, start.request)
        made |= _render((each for each in table.values() if not each.panel), script.elem_id)
        for number in range(1, groups + 1):
            with gr.Accordion(f"Concept {number}", visible=number <= shown, elem_id=script.elem_id(f"concept{number}"),
                              elem_classes=concepts_page.classes(number)) as panel:
                concepts_page.tools(number)
                concepts.append(_render((_started(each, number, start) for each in concept_fields(number)),
                                        script.elem_id, f"concept{number}_"))
            panels.append(panel)
        concepts_page.foot(shown == groups, script.elem_id)
        page = preview_page.build(script.elem_id, groups, shown, tab)
        panel_fields = [each for each in table.values() if each.panel]
        made |= _render((each for each in panel_fields if each.panel != BLEND), script.elem_id)
        few_steps = few_steps_page.build(script.elem_id)
        made |= _render((each for each in panel_fields if each.panel == BLEND), script.elem_id)
        moved = concepts_page.connect(made["count"], panels, page.target, concepts, script.main_prompts.get(tab),
                                      script.elem_id)
    components = [[made, *concepts][number][each.name] for number, each in arg_fields(groups)]
    _connect(made, concepts, components, lacking)
    presets_page.connect(presets, components, lambda args: _shown_values(args, groups), groups, lacking)
    lacks_page.connect(lacking, made, concepts, moved)
    script.after_steps = few_steps_page.on_steps(few_steps, made, concepts)
    preview_page.connect(page, concepts)
    script.after_generation = preview_page.on_results(script.preview, page, made["preview"],
                                                      [concept["mask_picture"] for concept in concepts])
    sent = infotext.sent_fields({f"concept{number}_{each.name}" if number else each.name: component
                                 for (number, each), component in zip(arg_fields(groups), components, strict=True)
                                 if each.name != "preview"})
    script.infotext_fields = [*infotext.paste_fields(made["api"], made["enabled"], unstyled), *sent]
    script.paste_field_names = [name for _, name in sent]
    return components


def _sentences(texts: Iterable[str]) -> str:
    return "<p>" + "\n".join(f"<span>{html.escape(text)}</span>" for text in texts) + "</p>"


def _started(each: Field, number: int, start: Start) -> Field:
    """The field of a concept (0 is the request) as the page begins with it."""
    if (number, each.name) in start.values:
        value = start.values[number, each.name]
        default = value if each.name == "face_mark" else _of_component(each, value)
        # the web UI's own default would take its place
        each = replace(each, default=default, saved=False)
        if each.name == "face_mark":
            each = replace(each, options={**each.options, "visible": True})
    if each.name in ("where_text", "mask_picture") and (number, "where") in start.values:
        text, mask = _place_inputs(start.values[number, "where"])
        shown = {name: value for name, value in (text if each.name == "where_text" else mask).items() if value}
        label, info = shown.pop("label", each.label), shown.pop("info", each.info)
        each = replace(each, label=label, info=info, options={**each.options, **shown})
    return each


def _component(each: Field, elem_id: str) -> Component:
    options = {"choices": [entry for entry, _ in each.choices], **each.options} if each.choices else each.options
    component = WIDGETS[each.widget](label=each.label, info=each.info or None, value=each.default, elem_id=elem_id,
                                     **options)
    component.do_not_save_to_config = not each.saved
    return component


def _render(table: Iterable[Field], elem_id: Callable[[str], str], prefix: str = "") -> Components:
    """Lay the fields out: a closed panel for those that name one, a line for those that share a row."""
    made: Components = {}
    for panel, fields in groupby(table, key=lambda each: each.panel):
        with gr.Accordion(panel, open=False) if panel else nullcontext():
            if panel in HINTS:
                gr.HTML(_sentences(HINTS[panel]))
            for row, line in groupby(fields, key=lambda each: each.row):
                with FormRow() if row else nullcontext():
                    for each in line:
                        made |= _parts(each, lambda name: elem_id(prefix + name))
    return made


def _parts(each: Field, elem_id: Callable[[str], str]) -> Components:
    """A field's component, with what is shown beside it."""
    make = partial(_component, each, elem_id(each.name))
    if each.widget == "prompt":
        return {each.name: concepts_page.prompt(elem_id(each.name), make)}
    before = {}
    if each.name == "mask_picture":
        before[concepts_page.OFFERS] = concepts_page.proposed(elem_id(concepts_page.OFFERS))
    own = {each.name: make()}
    behind = {FACE_FOUND: gr.HTML(elem_id=elem_id(FACE_FOUND))} if each.name == "face" else {}
    return before | own | behind


def _connect(made: Components, concepts: list[Components], components: list[Component], lacking: Component) -> None:
    """What happens in the accordion as values change, whether the user or a pasted infotext changed them."""
    quiet = {"show_progress": False, "queue": False}
    # in the browser: the server's answers to two quick changes may come in any order
    inputs = {place.choice: [in_the_browser(**each) for each in _place_inputs(place.choice)] for place in PLACES}
    for concept in concepts:
        concept["where"].change(None, [concept["where"]], [concept["where_text"], concept["mask_picture"]],
                                **{JS: f"(choice) => ({json.dumps(inputs)})[choice]"}, **quiet)
        face_page.connect(concept["face"], concept["face_mark"], concept["face_index"], concept[FACE_FOUND])
    made["api"].change(_spread_request(len(concepts)), [made["api"]], [*components, lacking], **quiet)
    # a request that the fields cannot show must not outlive the accordion that it came with
    made["enabled"].change(None, [made["enabled"], made["api"]], [made["api"]],
                           show_progress=False, **{JS: "(enabled, request) => enabled ? request : ''"})


def _place_inputs(choice: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The properties of the text field and of the mask picture that go with a choice of "which one"."""
    place = next(place for place in PLACES if place.choice == choice)
    return ({"visible": bool(place.label), "label": place.label, "info": place.info, "placeholder": place.hint},
            {"visible": place.kind == "mask"})


def _spread_request(groups: int) -> Callable[[str], list[Any]]:
    """From the text of a request (pasted with an infotext) to the fields, and what of it is not here.

    The text stays, in sight, if the fields cannot show what it asks for or if it is no valid request.
    """
    def spread(text: str) -> list[Any]:
        leave = [gr.update() for _ in (*arg_fields(groups), "what is not here")]
        if not text:
            return [gr.update(visible=False), *leave[1:]]
        try:
            request = parse_request(text)
            return [*_shown_values(args_from_request(request, groups), groups), lacks_page.said(request)]
        except OMGError:
            return [gr.update(visible=True), *leave[1:]]

    return spread


def _shown_values(args: Sequence[Any], groups: int) -> list[Any]:
    """What the components get for these values. The request's text is in sight if it counts."""
    values = [_of_component(each, value) for (_, each), value in zip(arg_fields(groups), args, strict=True)]
    return [gr.update(value=values[0], visible=bool(values[0])), *values[1:]]


def _of_component(each: Field, value: Any) -> Any:
    """A value as the component takes it: masks and photos as pictures, and only the button makes a preview."""
    if each.name == "preview":
        return NO_PREVIEW
    if each.name == "mask_picture" and value is not None:
        return np.rint(decode_mask(value, "mask") * 255).astype(np.uint8)
    if each.name == "face_mark":
        return face_page.missing(value)
    if each.name == "face" and value is not None:
        return rgb(decode_picture(value, "face"))
    return value
