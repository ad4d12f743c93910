"""Runs inside the web UI, as a script of a second extension: what tests must tell it, and what they cannot see.

It registers the tiny OpenCLIP architecture before the first checkpoint is loaded, and answers at
``/omg-tests/comments`` with the comments of the last picture, which the web UI's own API leaves out, and at
``/omg-tests/patches`` and ``/omg-tests/tensors`` with what a run could leave behind.
"""

from __future__ import annotations

import gc
import os
from typing import Any

import open_clip
import torch
from modules import script_callbacks, scripts, shared

open_clip.add_model_config(os.environ["OMG_TEST_OPENCLIP"])

last_comments: list[str] = []


class Support(scripts.Script):
    """Keeps the comments of the last picture."""

    def title(self) -> str:
        return "OMG test support"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        last_comments[:] = p.comments


def comments() -> list[str]:
    """Of the last picture."""
    return last_comments


def patches() -> dict[str, int]:
    """Forward hooks and pre-hooks on the model's modules, and its modules with a ``forward`` of their own."""
    modules = list(shared.sd_model.modules())
    return {"hooks": sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules),
            "forwards": sum("forward" in vars(module) for module in modules)}


def tensors() -> dict[str, int]:
    """Live tensors of the whole process: their number and bytes."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    return {"number": len(found), "bytes": sum(tensor.nbytes for tensor in found if tensor.device.type != "meta")}


def add_route(demo: Any, app: Any) -> None:
    app.get("/omg-tests/comments")(comments)
    app.get("/omg-tests/patches")(patches)
    app.get("/omg-tests/tensors")(tensors)


script_callbacks.on_app_started(add_route)
