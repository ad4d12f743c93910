"""The list of concepts on the page: what adds, removes, moves and copies them, and what helps to fill them in.

Which groups of fields there are is settled when the page is made. What moves is their values, in the browser
(``javascript/omg_concepts.js``).
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from modules.call_queue import wrap_queued_call

from ..comprehension.overlay import COLOURS
from ..comprehension.proposals import proposals
from .fields import CONCEPT_FIELDS
from .which import JS

Component = Any
ElemId = Callable[[str], str]

TOOLS = (("up", "Up", "Move this concept up: of two alike, the first takes the better place"),
         ("down", "Down", "Move this concept down"), ("copy", "Duplicate", "Another one with the same fields"),
         ("remove", "Remove", "Take this concept away"))
ADD = "Add a concept"
UNDO = "Bring the removed one back"
FULL = "All are in use. For more, raise Settings > OMG > Concepts shown in the accordion."
PROPOSED = "The prompt at the top names"
# no field of a concept, but a component beside them: what the main prompt offers as its phrase
OFFERS = "proposed"
# prompt editing by numbers of steps changes the count by little
_STEPS = 20


def classes(number: int) -> list[str]:
    """The CSS classes of a concept's group (1 is the first): the second one gives it its colour."""
    return ["omg-concept", f"omg-colour-{(number - 1) % len(COLOURS) + 1}"]


def tools(number: int) -> Component:
    """The buttons of a concept's group."""
    return gr.HTML('<div class="omg-tools">' + "".join(
        f'<button type="button" data-omg="{action}" data-concept="{number}" title="{title}">{label}</button>'
        for action, label, title in TOOLS) + "</div>")


def proposed(elem_id: str) -> Component:
    """Where phrases are offered."""
    return gr.HTML("", elem_id=elem_id, elem_classes=["omg-proposed"])


def prompt(elem_id: str, make: Callable[[], Component]) -> Component:
    """A prompt with the number of its tokens, counted as the web UI counts those of its own.

    Args:
        make: makes the text field of this id.
    """
    from modules.ui import update_negative_prompt_token_counter, update_token_counter  # is there once the page is made

    count = update_negative_prompt_token_counter if elem_id.endswith("negative_prompt") else update_token_counter
    with gr.Column(elem_classes=["omg-prompt"]):
        made = make()
        counter = gr.HTML("<span>0/75</span>", elem_id=f"{elem_id}_tokens",
                          elem_classes=["token-counter", "omg-tokens"], visible=False)
        button = gr.Button(visible=False, elem_id=f"{elem_id}_tokens_count")
    button.do_not_save_to_config = True
    button.click(wrap_queued_call(lambda text: count(text, _STEPS, [])), [made], [counter], show_progress=False)
    return made


def foot(is_full: bool, elem_id: ElemId) -> Component:
    """What stands below the groups: the button that adds one, or that there is none left.

    Args:
        is_full: whether all groups are shown at first.
    """
    defaults = html.escape(json.dumps([each.default for each in CONCEPT_FIELDS]))
    return gr.HTML(f'<div class="omg-list{" omg-full" * is_full}" data-fresh="{defaults}">'
                   f'<button type="button" data-omg="add">{ADD}</button><span>{FULL}</span> '
                   f'<button type="button" data-omg="undo" hidden>{UNDO}</button></div>', elem_id=elem_id("list"))


def connect(count: Component, panels: Sequence[Component], target: Component,
            concepts: Sequence[dict[str, Component]], main_prompt: Component | None, elem_id: ElemId) -> Any:
    """What happens as the list changes; returns the event of a change, for what is to follow it.

    Args:
        count: the number of concepts.
        panels: the groups.
        target: the choice of a concept for what is done on the picture.
        concepts: each one's components by field name, with what :func:`proposed` has made.
        main_prompt: the prompt at the top; None if the page has none.
    """
    quiet = {"show_progress": False, "queue": False}
    values = [count, *(concept[each.name] for concept in concepts for each in CONCEPT_FIELDS)]
    rearrange, propose = (gr.Button(name, visible=False, elem_id=elem_id(name)) for name in ("rearrange", "propose"))
    for button in (rearrange, propose):
        button.do_not_save_to_config = True
    accordion = f'gradioApp().getElementById("{elem_id("enabled")}")'
    moved = rearrange.click(None, values, values,
                            **{JS: f"(...values) => {accordion}.omgConcepts.rearranged(...values)"}, **quiet)
    count.change(None, [count, target], [*panels, target],
                 **{JS: f"(count, target) => {accordion}.omgConcepts.shown(count, target)"}, **quiet)
    if main_prompt is not None:
        phrases, offers = ([concept[name] for concept in concepts] for name in ("phrase", OFFERS))
        offered = propose.click(_offers, [main_prompt, *phrases], offers, **quiet)
        offered.then(None, None, None, **{JS: f"() => {accordion}.omgConcepts.proposed()"}, **quiet)
    return moved


def _offers(text: str, *phrases: str) -> list[str]:
    """HTML for each concept: the phrases that the main prompt offers to those that have none."""
    left = list(dict.fromkeys(proposals(text, [phrase for phrase in phrases if phrase.strip()])))
    # the browser translates what is to be read
    buttons = " ".join(f'<button type="button" data-omg="phrase" data-phrase="{word}">{word}</button>'
                       for word in map(html.escape, left))
    return ["" if phrase.strip() or not left else f"<span>{PROPOSED}</span> {buttons}" for phrase in phrases]


def watch(script: Any) -> None:
    """Be there when the host makes its prompts; to be called before the page is made.

    ``script.main_prompts`` then has them by tab.
    """
    script.main_prompts = {}
    for tab in ("txt2img", "img2img"):
        script.on_after_component(lambda made, tab=tab: script.main_prompts.update({tab: made.component}),
                                  elem_id=f"{tab}_prompt")
