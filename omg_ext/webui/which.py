"""Which web UI this is, and what its Gradio calls things: the one place that looks."""

from __future__ import annotations

from enum import Enum
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any


class Kind(Enum):
    """A web UI, by what its users call it."""

    WEBUI = "AUTOMATIC1111's web UI"
    FORGE = "Forge"
    REFORGE = "reForge"
    NEO = "Forge Neo"
    OTHER = "this version of Forge"


def look() -> Kind:
    """Which one's modules can be imported here."""
    if find_spec("modules_forge") is None:
        return Kind.WEBUI
    says = getattr(import_module("modules_forge.forge_version"), "version", "")
    if find_spec("backend") is not None:
        return Kind.NEO if says == "neo" else Kind.FORGE
    # Forge Classic, Forge before August 2024 and reForge's old branch have an ldm_patched, too, of before ComfyUI's
    # networks were objects
    is_reforge = says != "classic" and find_spec("ldm_patched") and find_spec("ldm_patched.modules.weight_adapter")
    return Kind.REFORGE if is_reforge else Kind.OTHER


def refusal(kind: Kind) -> str:
    """Why OMG draws nothing in this web UI; empty where it does."""
    if kind is not Kind.OTHER:
        return ""
    return (f"OMG does not know how {kind.value} draws; use AUTOMATIC1111's web UI v1.10, Forge (its versions of "
            "2025), Forge Neo or reForge")


def in_the_browser(**properties: Any) -> dict[str, Any]:
    """A component's new properties as a function in the browser gives them (``gr.update`` is the server's)."""
    return {"__type__": "update", **properties}


KIND = look()
JS = "_js" if version("gradio").startswith("3.") else "js"
"""The argument of an event that runs in the browser. Forge lets its components take Gradio 3's name, too, but only once
they are made: not those that an extension is told of before."""
