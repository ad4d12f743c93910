"""Other extensions that take part in a picture: what is watched of all, and what is known of some."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import CellType
from typing import Any

import torch
from modules import extensions, processing, script_callbacks, script_loading, sd_samplers_cfg_denoiser
from torch import Tensor, nn

from ..errors import OMGError
from ..request import Request
from ..unet.calls import UNetCall
from ..unet.patches import Args, Kwargs, Patches
from . import controlnet
from .replacing import replaced

SAMPLING = ("cfg_denoiser", "cfg_denoised", "cfg_after_cfg")
NEGATIVE_WEIGHT = re.compile(r"\([^(:)]*:\s*-\d+(\.\d+)?\s*\)")
ATTENTION = re.compile(r"\battn[12](\.\w+)?$")


def refuse(p: Any, asked: Request, unet: nn.Module) -> None:
    """Refuse extensions that are active in a picture and known not to reach the concepts.

    Args:
        p: the web UI's processing object.
        asked: what the user asks for.
        unet: the loaded model's.

    Raises:
        OMGError: with the extension's name.
    """
    for script in scripts_of(p):
        if script.title() == "NegPiP" and getattr(script, "active", False):
            raise OMGError("NegPiP", "it puts the main prompt's words of negative weight into every concept, too; "
                                     "write them into the negative prompt instead, or turn NegPiP off")
        if script.title() == "Regional Prompter" and getattr(script, "active", False):
            # the web UI leaves this out after a refusal, and after two its latent mode's settings would stay
            script.postprocess(p, processing.Processed(p, []))
            raise OMGError("Regional Prompter", "its regions do not reach the concepts, which have prompts and places "
                                                "of their own; turn it off for pictures with OMG")
        if controlnet.is_controlnet(script):
            controlnet.refuse(script, asked)
    _refuse_hooks(unet)


def refuse_negative_weights(p: Any, texts: Sequence[str], field: str) -> None:
    """Refuse what NegPiP would act on in a main prompt. Without it the web UI takes negative weights by itself.

    Args:
        texts: a concept's prompts.
        field: how messages name them.

    Raises:
        OMGError: NegPiP is on, and a text has a negative weight.
    """
    found = next((match for match in map(NEGATIVE_WEIGHT.search, texts) if match), None)
    if found and any(script.title() == "NegPiP" and p.script_args[script.args_from] for script in scripts_of(p)):
        raise OMGError(field, f"NegPiP reads {found.group()} in the main prompts only; write it into the concept's "
                              "negative prompt without the minus, or turn NegPiP off")


def _refuse_hooks(unet: nn.Module) -> None:
    """Refuse extensions that rewrite what attention layers give: they go by the order of rows, or count the calls."""
    for name, layer in unet.named_modules():
        if ATTENTION.search(name):
            for hook in layer._forward_hooks.values():
                if is_of_extension(hook):
                    raise OMGError("other extensions", (
                        f"{maker_of(hook)} changes attention layers, which does not reach the concepts; turn it off "
                        "for pictures with OMG"))


def refuse_tiles(patches: Patches) -> None:
    """While the hooks live, refuse extensions that show the UNet tiles of a picture, several in one call or in turn.

    Concepts have places in the whole picture, its layout is that of the whole, and a call's rows are told by their
    order, which is another one in a batch of tiles. An extension whose tile is as large as the picture does no harm.

    Args:
        patches: the UNet's.
    """
    def enter(call: UNetCall, unet: nn.Module, args: Args, kwargs: Kwargs) -> tuple[UNetCall, Args, Kwargs]:
        if (len(args[0]), *args[0].shape[2:]) != (len(call.rows), *call.grid):
            raise OMGError("other extensions", "one (Tiled Diffusion, say) shows the model tiles of the picture, in "
                                               "which concepts have no places; turn it off for pictures with OMG")
        return call, args, kwargs

    def leave(call: UNetCall, inner: UNetCall, unet: nn.Module, args: Args, kwargs: Kwargs, output: Tensor) -> Tensor:
        return output

    patches.around(patches.network, enter, leave)


def scripts_of(p: Any) -> Sequence[Any]:
    """The extensions' scripts that take part in every picture."""
    return [] if p.scripts is None else p.scripts.alwayson_scripts


class Watch:
    """Sees which extension's sampler callback does what cannot reach the concepts.

    Such are: evaluating the UNet for guidance of its own (SAG, PAG), and changing the prompts' conditioning or the
    predictions of single rows. The web UI swallows what is raised in a callback, so a refusal waits for :meth:`check`.
    """

    def __init__(self) -> None:
        self._running: str | None = None  # the file of the callback that is
        self._params: Any = None
        self._refusal: OMGError | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While samplers run within the block."""
        ordered, denoiser = script_callbacks.ordered_callbacks, sd_samplers_cfg_denoiser

        def watched(category: str, *args: Any, **kwargs: Any) -> Any:
            callbacks = ordered(category, *args, **kwargs)
            return self._one_by_one(category, callbacks) if category in SAMPLING else callbacks

        def seen(call: Callable[[Any], None]) -> Callable[[Any], None]:
            def call_back(params: Any) -> None:
                self._params = params
                call(params)

            return call_back

        with ExitStack() as stack:
            stack.enter_context(replaced(script_callbacks, "ordered_callbacks", watched))
            for name in (f"{category}_callback" for category in SAMPLING):
                if hasattr(denoiser, name):  # reForge's asks nobody about single predictions
                    stack.enter_context(replaced(denoiser, name, seen(getattr(denoiser, name))))
            yield

    @property
    def is_calling_back(self) -> bool:
        return self._running is not None

    def blame(self, deed: str, who: str | None = None) -> None:
        """An extension (the one that is running) has done what cannot reach the concepts."""
        who = who or extension_name(self._running or "")
        self._refusal = self._refusal or OMGError("other extensions", (
            f"{who} {deed}, which does not reach the concepts; turn it off for pictures with OMG"))

    def check(self) -> None:
        """
        Raises:
            OMGError: an extension was blamed.
        """
        if self._refusal is not None:
            raise self._refusal

    def _one_by_one(self, category: str, callbacks: Sequence[Any]) -> Iterator[Any]:
        """The callbacks; what the web UI does with one happens before the next is asked for."""
        for registered in callbacks:
            before = [tensor.clone() for tensor in _of_single_rows(category, self._params)]
            self._running = registered.script
            yield registered
            if not _equal(before, _of_single_rows(category, self._params)):
                self.blame("changes the prompts or the predictions of single rows")
            self._running = None


def _of_single_rows(category: str, params: Any) -> list[Tensor]:
    if category == "cfg_denoised":
        return [params.x]
    if category == "cfg_denoiser":
        return [tensor for cond in (params.text_cond, params.text_uncond) if cond is not None  # Forge needs not have it
                for tensor in (cond.values() if isinstance(cond, dict) else [cond])]
    return []


def _equal(before: Sequence[Tensor], after: Sequence[Tensor]) -> bool:
    return len(before) == len(after) and all(map(torch.equal, before, after))


def extension_name(filename: str) -> str:
    """What users know the code in a file by: its extension's folder."""
    return next((extension.name for extension in extensions.extensions
                 if filename.startswith(_folders(extension))), Path(filename).name)


def _folders(extension: Any) -> tuple[str, str]:
    """Where its files lie; many link their extensions from elsewhere."""
    return extension.path + os.sep, str(Path(extension.path).resolve()) + os.sep


def maker_of(function: Any) -> str:
    """Whose function this is."""
    return extension_name(_file_of(function)) if _file_of(function) else "another extension"


def is_of_extension(function: Any) -> bool:
    """Whether this is a function of an extension that the web UI does not bring."""
    return _file_of(function).startswith(_own_folders())


def _file_of(function: Any) -> str:
    """Where a function's code stands; empty if it has none."""
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return "" if code is None else str(code.co_filename)


def _own_folders() -> tuple[str, ...]:
    return tuple(folder for extension in extensions.extensions if not extension.is_builtin
                 for folder in _folders(extension))


class Counters:
    """Numbers in which other extensions count steps, calls or passes, and the UNet's blocks, which they may replace.

    The second pass must look to them like the first, so all are put back to where they stood before it. Numbers
    are looked for in the extensions' modules and scripts, and in what their sampler callbacks hold.

    Args:
        p: the web UI's processing object.
        unet: the loaded model's.
    """

    def __init__(self, p: Any, unet: Any):
        holders = [vars(thing) for thing in (*_modules(), *scripts_of(p), *_holders())]
        self._numbers = [(space, {name: value for name, value in space.items() if _is_number(value)})
                         for space in holders]
        self._blocks = [(blocks, dict(blocks._modules))
                        for blocks in (unet, unet.input_blocks, unet.middle_block, unet.output_blocks)]
        self._cells = [(cell, content) for cell in _cells() if _is_number(content := _content(cell))]

    def put_back(self) -> None:
        for space, numbers in self._numbers:
            space.update({name: value for name, value in numbers.items() if _is_number(space.get(name))})
        for cell, value in self._cells:
            cell.cell_contents = value
        for blocks, children in self._blocks:
            blocks._modules.update(children)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _modules() -> list[Any]:
    folders = _own_folders()
    loaded = {id(module): module for module in (*sys.modules.values(), *script_loading.loaded_scripts.values())}
    return [module for module in loaded.values() if str(getattr(module, "__file__", "")).startswith(folders)]


def _callbacks() -> list[Any]:
    return [registered.callback for category in SAMPLING for registered in script_callbacks.ordered_callbacks(category)]


def _cells() -> list[CellType]:
    return [cell for callback in _callbacks() for cell in getattr(callback, "__closure__", None) or ()]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


def _holders() -> list[Any]:
    """The objects whose methods the sampler callbacks are, or that they hold; the web UI's own are not counters."""
    held = [getattr(callback, "__self__", None) for callback in _callbacks()]
    held += [_content(cell) for cell in _cells()]
    return [thing for thing in held if hasattr(thing, "__dict__") and not isinstance(
        thing, (type, nn.Module, processing.StableDiffusionProcessing)) and isinstance(vars(thing), dict)]
