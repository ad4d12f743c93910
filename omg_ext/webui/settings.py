"""The extension's page in the web UI's settings, and typed access to what is set there.

Read in the host package only: the core gets the numbers as arguments.
"""

from __future__ import annotations

import gradio as gr
import psutil
import torch
from modules import devices, script_callbacks, shared

from ..passes.memory import Memory
from .presets import presets

SECTION = ("omg", "OMG")
MIB = 1024 * 1024
# no preset has a colon in its name
NO_PRESET = "None: the fields as they are"


def register() -> None:
    """Ask the host to add the settings; to be called from the script, as a UI reload forgets callbacks."""
    script_callbacks.on_ui_settings(_add_settings, name="omg")


def memory() -> Memory:
    """What may be used of it, whatever is set: never more than half of what is free for the layout, a quarter for
    networks."""
    graphics = _free_graphics_memory()
    return Memory(min(_whole("omg_device_budget_mb") * MIB, graphics // 2),
                  min(_whole("omg_host_budget_mb") * MIB, psutil.virtual_memory().available // 2),
                  min(_whole("omg_full_budget_mb") * MIB, graphics // 4), max(0, _whole("omg_rows_per_call")))


def _free_graphics_memory() -> int:
    if devices.device.type != "cuda":
        return int(psutil.virtual_memory().available)
    unused = torch.cuda.memory_reserved(devices.device) - torch.cuda.memory_allocated(devices.device)
    return int(torch.cuda.mem_get_info(devices.device)[0]) + unused


def ui_concepts() -> int:
    """How many concept groups the accordion has."""
    return max(1, _whole("omg_ui_concepts"))


_OPTIONS = {
    "omg_device_budget_mb": shared.OptionInfo(
        2048, "Graphics memory for keeping the layout, MB", gr.Number, {"precision": 0, "minimum": 0}
    ).info("the first picture's attention queries; what does not fit is kept in ordinary memory"),
    "omg_host_budget_mb": shared.OptionInfo(
        8192, "Ordinary memory for keeping the layout, MB", gr.Number, {"precision": 0, "minimum": 0}
    ).info("what fits neither here nor there is computed again, at the cost of one more UNet row per step"),
    "omg_full_budget_mb": shared.OptionInfo(
        2048, "Graphics memory for concepts' full-weight networks, MB", gr.Number, {"precision": 0, "minimum": 0}
    ).info("LoHa, LoKr, OFT, DoRA, full and others; what does not fit is made anew at every step. LoRA needs none"),
    "omg_rows_per_call": shared.OptionInfo(
        0, "Concept rows per UNet call", gr.Slider, {"minimum": 0, "maximum": 32, "step": 1}
    ).info("0 = all at once, or as many as fit into graphics memory; a concept takes up to two rows per picture"),
    "omg_keep_detectors": shared.OptionInfo(False, "Keep models of detectors and faces in memory").info(
        "off: they are loaded for each picture, and their memory is free afterwards"),
    "omg_detect_on_cpu": shared.OptionInfo(False, "Run detectors on the CPU").info(
        "slower, and takes no graphics memory"),
    "omg_save": shared.OptionInfo(
        [], "Save beside the picture", gr.CheckboxGroup,
        {"choices": [("First picture", "first_pass"), ("Masks", "masks"), ("Who is where", "overlay")]}
    ).info("as files of their own, with their infotexts, where the picture itself is saved"),
    "omg_defaults": shared.OptionInfo(
        NO_PRESET, "Preset that the page starts with", gr.Dropdown, lambda: {"choices": _start_choices()},
        refresh=lambda: None
    ).info("OMG stays off until you switch it on; the API does not go by it").needs_reload_ui(),
    "omg_ui_concepts": shared.OptionInfo(
        6, "Concepts shown in the accordion", gr.Slider, {"minimum": 1, "maximum": 16, "step": 1}
    ).info("the API takes any number").needs_reload_ui(),
}


def saved_pictures() -> tuple[str, ...]:
    """Which extra pictures become files, as in a request's ``show``."""
    chosen = shared.opts.data.get("omg_save") or ()
    return tuple(kind for kind in ("first_pass", "masks", "overlay") if kind in chosen)


def start_preset() -> str:
    """The name of the preset that the page starts with; empty if there is none."""
    name = shared.opts.data.get("omg_defaults") or NO_PRESET
    return "" if name == NO_PRESET else str(name)


def _start_choices() -> list[str]:
    """The one that is set is among them, whether it is there or not."""
    return list(dict.fromkeys([NO_PRESET, *presets().names(), start_preset() or NO_PRESET]))


def is_keeping_detectors() -> bool:
    """Whether detectors' models stay in memory after use."""
    return bool(shared.opts.data.get("omg_keep_detectors"))


def is_detecting_on_cpu() -> bool:
    """Whether detectors leave the graphics card alone."""
    return bool(shared.opts.data.get("omg_detect_on_cpu"))


def _add_settings() -> None:
    for key, option in _OPTIONS.items():
        option.section = SECTION
        shared.opts.add_option(key, option)


def _whole(key: str) -> int:
    """The setting; its default if it was never saved, or cleared in the settings page."""
    value = shared.opts.data.get(key)
    return int(_OPTIONS[key].default if value is None else value)
