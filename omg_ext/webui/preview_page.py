"""The part of the accordion in which the first picture is seen: who is where, and where clicks and a brush put them.

The picture and what is done on it are the browser's (``javascript/omg_preview.js``). From here it gets the picture of a
preview; what it gives goes into the fields of the concepts, which alone count.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ..infotext import WHO_IS_WHERE, title_of
from .fields import NO_PREVIEW, PREVIEW, choice_of
from .preview import Preview
from .which import JS
from .words import said

Component = Any

ABOUT = {"txt2img": ("Draws the first picture and shows who is where. Generate goes on from it, if First picture is "
                     "Whole."),
         "img2img": "Shows who is where in the picture that you give. Nothing is drawn."}
"""By tab."""
TOOLS = (("is the thing that is clicked", "point"), ("gets a box: click two corners, or drag", "box"),
         ("gets a mask: paint it", "mask"))
PICTURE = """<div id="{who}" class="omg-who" data-concepts="{concepts}" data-yes="{yes}" data-no="{no}"
data-point="{point}" data-box="{box}" data-outline="{outline}" data-mask="{mask}" data-tool="point">
<canvas role="application" tabindex="0"
aria-label="The first picture: click or paint on it, or move with the arrow keys and press Enter"></canvas>
<div class="omg-brush">
<label>Brush <input type="range" min="1" max="40" value="10"></label>
<label><input type="checkbox"> Erase</label>
<button type="button" class="omg-undo">Undo</button>
<button type="button" class="omg-clear">Clear</button>
</div>
</div>"""
BROKEN_OFF = "Nothing was sought in the first picture: it was broken off, or the blend start lies behind all steps."
FAILED = "There is nothing to show. The reason stands below the gallery."
SHOWN = "This is the first picture of seed {seed}. Generate goes on from it, as long as you change concepts alone."
FILLED = "The seed was random. It is {seed} now, so that Generate goes on from this picture."
NOT_KEPT = "This is the first picture of seed {seed}. It cannot be kept with this script, so Generate draws it again."
GIVEN = "This is the picture that you give, with what was found in it. Generate draws the concepts over it."
SOFT = ("This is the ordinary picture of seed {seed}, with what was found in it at the blend start. From there on "
        "Generate draws another one, with the concepts.")


@dataclass(frozen=True)
class PreviewPage:
    """
    Attributes:
        tab: where it is, txt2img or img2img.
        button: runs a preview.
        note: says what came of it, and of each click.
        panel: holds what follows; hidden until there is a picture.
        target: the concept that a click is for, 1 is the first.
        tool: what a click does.
        picture, overlay: the first picture as it is and with who is where; hidden: the browser draws them.
        pick: a hidden button that the browser presses when the picture was clicked or painted on.
        browser: what acts for it in the browser, in JavaScript.
    """

    tab: str
    button: Component
    note: Component
    panel: Component
    target: Component
    tool: Component
    picture: Component
    overlay: Component
    pick: Component
    browser: str


def build(elem_id: Callable[[str], str], groups: int, shown: int, tab: str) -> PreviewPage:
    """The components, in the accordion.

    Args:
        elem_id: the script's.
        groups: how many concept groups there are.
        shown: how many are shown at first.
        tab: txt2img or img2img. Ids name the latter alone, which came later.
    """
    button = gr.Button("Find concepts", elem_id=elem_id("find"))
    note = gr.HTML(f"<p>{ABOUT[tab]}</p>", elem_id=elem_id("note"), elem_classes=["omg-note"])
    with gr.Column(visible=False, elem_id=elem_id("who_is_where")) as panel:
        target = gr.Radio([(f"Concept {number}", number) for number in range(1, shown + 1)], value=1,
                          label="On this picture", elem_id=elem_id("target"))
        tool = gr.Radio(list(TOOLS), value="point", show_label=False, label="What it does", elem_id=elem_id("tool"))
        kinds = {kind: choice_of(kind) for kind in ("point", "box", "outline", "mask")}
        gr.HTML(PICTURE.format(who="omg_who" if tab == "txt2img" else f"omg_{tab}_who", concepts=groups, yes=PREVIEW,
                               no=NO_PREVIEW, **kinds))
        picture, overlay = (gr.Image(type="pil", interactive=False, visible=False, label=name, elem_id=elem_id(name))
                            for name in ("picture", "overlay"))
        pick = gr.Button("pick", visible=False, elem_id=elem_id("pick"))
    for component in (button, target, tool, picture, overlay, pick):
        component.do_not_save_to_config = True
    browser = f'gradioApp().getElementById("{elem_id("enabled")}").omgPreview'
    return PreviewPage(tab, button, note, panel, target, tool, picture, overlay, pick, browser)


def connect(page: PreviewPage, concepts: Sequence[dict[str, Component]]) -> None:
    """What happens on the page alone.

    Args:
        page: see :func:`build`.
        concepts: each one's components by field name.
    """
    quiet, browser = {"show_progress": False, "queue": False}, page.browser
    page.button.click(None, **{JS: f"() => {browser}.find()"}, **quiet)
    where, texts, masks = ([concept[name] for concept in concepts] for name in ("where", "where_text", "mask_picture"))
    page.pick.click(None, where, [*where, *texts, *masks, page.note],
                    **{JS: f"(...choices) => {browser}.picks(...choices)"}, **quiet)
    for component in (page.tool, page.target, *masks):
        component.change(None, [page.tool, page.target, *masks], None,
                         **{JS: f"(...chosen) => {browser}.chosen(...chosen)"}, **quiet)
    for number, dropdown in enumerate(where, 1):
        dropdown.input(None, [dropdown], [page.tool, page.target],
                       **{JS: f"choice => {browser}.placeChosen({number}, choice)"}, **quiet)


def watch(script: Any) -> None:
    """Be there when the host makes its seeds, and its account of a generation; to be called before the page is made.

    ``script.after_generation`` then has to say what happens when a generation ends: see :func:`on_results`.
    """
    seeds: dict[str, Component] = {}
    for tab in ("txt2img", "img2img"):  # of which the script is told about its own
        for name in ("seed", "subseed"):
            script.on_after_component(lambda made, name=name: seeds.update({name: made.component}),
                                      elem_id=f"{tab}_{name}")
        script.on_after_component(lambda made: script.after_generation(made.component, seeds),
                                  elem_id=f"generation_info_{tab}")


def on_results(preview: Preview, page: PreviewPage, marker: Component,
               masks: Sequence[Component]) -> Callable[[Component, dict[str, Component]], None]:
    """To be called with the host's account of a generation, and its seeds, once they are made.

    Args:
        preview: the one that was made last.
        page: see :func:`build`.
        marker: the field that makes a request a preview.
        masks: each concept's.
    """
    def connected(info: Component, seeds: dict[str, Component]) -> None:
        inputs = [info, marker, seeds["seed"], seeds["subseed"]]
        outputs = [page.panel, page.picture, page.overlay, page.note, seeds["seed"], seeds["subseed"]]
        browser = page.browser
        asked = f"(info, _, ...more) => [info, {browser}.asked ? 'asked' : '', ...more.slice(0, 2)]"
        ended = info.change(after(preview, page.tab), inputs, outputs, show_progress=False, queue=False, **{JS: asked})
        ended.then(None, [page.picture, page.overlay, page.tool, page.target, *masks], None, show_progress=False,
                   queue=False, **{JS: f"(...shown) => {browser}.show(...shown)"})

    return connected


def after(preview: Preview, tab: str = "txt2img") -> Callable[[str, str, Any, Any], list[Any]]:
    """What the page does after a generation, from the host's account of it, whether it was a preview, and its seeds.

    Its values are those of the outputs in :func:`on_results`.
    """
    leave = [gr.update() for _ in range(6)]

    def shown(account: str, asked: str, seed: Any, subseed: Any) -> list[Any]:
        if not asked:
            return leave
        info = json.loads(account) if account else {}
        if not any(title_of(each) == WHO_IS_WHERE for each in info.get("infotexts", ())) or preview.overlay is None:
            return [*leave[:3], _note(BROKEN_OFF if info else FAILED), *leave[4:]]
        if tab == "img2img":  # which does not depend on a seed
            return [gr.update(visible=True), gr.update(value=preview.picture), gr.update(value=preview.overlay),
                    _note(GIVEN), *leave[4:]]
        filled = _is_random(seed)
        text = SOFT if preview.first is None else NOT_KEPT if preview.key is None else FILLED if filled else SHOWN
        fill_subseed = _is_random(subseed) and info["subseed_strength"] > 0
        return [gr.update(visible=True), gr.update(value=preview.picture), gr.update(value=preview.overlay),
                _note(text, seed=info["seed"]), _as(seed, info["seed"]) if filled else gr.update(),
                _as(subseed, info["subseed"]) if fill_subseed else gr.update()]

    return shown


def _note(template: str, **slots: object) -> str:
    return f"<p>{said(template, **slots)}</p>"


def _is_random(seed: Any) -> bool:
    """As the host reads its fields, which are texts in some installations."""
    return seed is None or str(seed).strip() in ("", "-1", "-1.0")


def _as(field: Any, seed: int) -> Any:
    return gr.update(value=str(seed) if isinstance(field, str) else seed)
