"""The note above Blend start that says, as the user sets steps and guidance, what leaves the concepts few steps.

The host's fields are followed in the browser, and asked about only while OMG is on.
"""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from modules import shared

from .few_steps import few_steps, guided_at_one, steps_over
from .which import JS

Component = Any

GUIDANCE = ("cfg_scale", "cfg_end", "lora_guidance", "on")
# the last argument is what the output has now
_GATHERED = "(enabled, ...values) => enabled ? JSON.stringify(values.slice(0, -1)) : ''"
# Gradio drops what changes while it waits for an answer; a space makes another text of the same values
_ASKED_ANEW = "(gathered, answered) => gathered == answered ? gathered : `${gathered} `"


def build(elem_id: Callable[[str], str]) -> Component:
    """The note; returns the hidden field that says what it is about.

    Args:
        elem_id: the script's.
    """
    note = gr.HTML("", elem_id=elem_id("few_steps"), elem_classes=["omg-note"])
    gathered, answered = (gr.Textbox("", visible=False, elem_id=elem_id(f"few_steps_{name}"))
                          for name in ("of", "said_of"))
    for component in (gathered, answered):
        component.do_not_save_to_config = True
    quiet = {"show_progress": False, "queue": False}
    asked = gathered.change(lambda text: [said(text), text], [gathered], [note, answered], **quiet)
    asked.then(None, [gathered, answered], [gathered], **{JS: _ASKED_ANEW}, **quiet)
    return gathered


def watch(script: Any) -> None:
    """Be there when the host makes its steps and guidance; to be called before the page is made.

    ``script.after_steps`` then has to take them, by name: see :func:`on_steps`.
    """
    host: dict[str, Component] = {}
    names = [(f"{tab}_{name}", name) for tab in ("txt2img", "img2img") for name in ("steps", "cfg_scale")]
    for elem_id, name in (*names, ("img2img_denoising_strength", "denoising_strength")):
        script.on_after_component(lambda made, name=name: host.update({name: made.component}), elem_id=elem_id)
    for tab in ("txt2img", "img2img"):  # the last of the page
        script.on_after_component(lambda made: script.after_steps(host), elem_id=f"generation_info_{tab}")


def on_steps(gathered: Component, made: dict[str, Component],
             concepts: Sequence[dict[str, Component]]) -> Callable[[dict[str, Component]], None]:
    """To be called with the host's components by name, once they are made.

    Args:
        gathered: see :func:`build`.
        made: components of the request by field name.
        concepts: each one's.
    """
    def connected(host: dict[str, Component]) -> None:
        # where no picture is given all of it is drawn
        strength = [host[name] for name in ("denoising_strength",) if name in host]
        inputs = [made["enabled"], host["steps"], host["cfg_scale"], made["blend_start"], made["count"],
                  *(concept[name] for concept in concepts for name in GUIDANCE), *strength]
        for component in inputs:
            component.change(None, inputs, [gathered], show_progress=False, queue=False, **{JS: _GATHERED})

    return connected


def said(gathered: str) -> str:
    """HTML: a line for each thing to set otherwise; empty if there is none, or OMG is off.

    Args:
        gathered: values of the inputs in :func:`on_steps` but the first, as JSON.
    """
    if not gathered.strip():
        return ""
    steps, cfg_scale, start, count, *more = (value or 0 for value in json.loads(gathered))
    size = len(GUIDANCE)
    concepts = [more[at:at + size] for at in range(0, len(more) - size + 1, size)]
    guidance = [own if on else [0] * len(own) for *own, on in concepts]
    if len(more) % size:
        strength = float(more[-1])
        whole, run = steps_over(int(steps), strength, bool(shared.opts.data.get("img2img_fix_steps")))
        lines = few_steps(start, whole, run, strength)
    else:
        lines = few_steps(start, int(steps))
    lines += guided_at_one(cfg_scale, guidance[:int(count)])
    return "".join(f"<p>{html.escape(line)}.</p>" for line in lines)
