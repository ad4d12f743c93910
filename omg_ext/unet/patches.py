"""Everything OMG does to a network it does through forward hooks, and one object owns those of one network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .calls import UNetCall

OutputHook = Callable[[UNetCall, nn.Module, tuple[Any, ...], Tensor], None]
"""``(running call, layer, its inputs, its output)``; changes the output in place"""
InputHook = Callable[[UNetCall, nn.Module, tuple[Any, ...]], None]
"""``(running call, layer, its inputs)``; changes the inputs in place"""
Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Enter = Callable[[UNetCall, nn.Module, Args, Kwargs], tuple[UNetCall, Args, Kwargs]]
"""``(running call, module, its inputs, those with names)``; the same, changed, for the module to work on"""
Leave = Callable[[UNetCall, UNetCall, nn.Module, Args, Kwargs, Tensor], Tensor]
"""``(running call, the module's, module, its inputs as they were, those with names, its output)``; another output"""


class Patches:
    """Owns the hooks of one network; they live as long as the ``with`` block and act while a call is running.

    Which call is running is all that changes here, and it is known to the thread that makes the call alone: whoever
    evaluates the network elsewhere at the same time, or outside :meth:`running`, gets it as it is.

    Args:
        network: a UNet (or a text encoder, whose one row is that of its prompt).
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self._handles: list[RemovableHandle] = []
        self._local = threading.local()

    @property
    def call(self) -> UNetCall | None:
        """The running call of this thread."""
        return getattr(self._local, "call", None)

    @contextmanager
    def running(self, call: UNetCall) -> Iterator[None]:
        """Within the block the network is evaluated once, on the call's rows."""
        before, self._local.call, depth = self.call, call, len(self._entered)
        try:
            yield
        finally:
            self._local.call = before
            del self._entered[depth:]  # of a call that failed

    def on_output(self, layer: nn.Module, hook: OutputHook) -> None:
        """Call ``hook`` after each forward call of ``layer`` within a running call. Hooks act in the order added."""
        def act(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            call = self.call
            if call is not None:
                hook(call, layer, args, output)

        self._handles.append(layer.register_forward_hook(act))

    def on_input(self, layer: nn.Module, hook: InputHook) -> None:
        """Call ``hook`` before each forward call of ``layer`` within a running call."""
        def act(layer: nn.Module, args: tuple[Any, ...]) -> None:
            call = self.call
            if call is not None:
                hook(call, layer, args)

        self._handles.append(layer.register_forward_pre_hook(act))

    def around(self, module: nn.Module, enter: Enter, leave: Leave) -> None:
        """Within a running call, let a module work on what ``enter`` gives, and give what ``leave`` makes of it."""
        def before(module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
            call = self.call
            if call is None:
                return None
            self._entered.append((call, args, kwargs))
            self._local.call, args, kwargs = enter(call, module, args, kwargs)
            return args, kwargs

        def after(module: nn.Module, args: Args, kwargs: Kwargs, output: Tensor) -> Tensor:
            inner = self.call
            if inner is None:
                return output
            call, args, kwargs = self._entered.pop()
            self._local.call = call
            return leave(call, inner, module, args, kwargs, output)

        self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        # of several, the one that entered last leaves first
        self._handles.append(module.register_forward_hook(after, with_kwargs=True, prepend=True))

    @property
    def _entered(self) -> list[tuple[UNetCall, Args, Kwargs]]:
        """What modules that work at present were given, the inner ones last."""
        if not hasattr(self._local, "entered"):
            self._local.entered = []
        entered: list[tuple[UNetCall, Args, Kwargs]] = self._local.entered
        return entered

    def __enter__(self) -> Patches:
        return self

    def __exit__(self, *exc_info: object) -> None:
        while self._handles:
            self._handles.pop().remove()


def modules_named(unet: nn.Module, last: str, child: str) -> dict[str, nn.Module]:
    """The submodules ``child`` of every module whose name ends in ``last``, e.g. the ``to_q`` of every ``attn2``."""
    return {name: getattr(module, child) for name, module in unet.named_modules()
            if name.rpartition(".")[2] == last and hasattr(module, child)}


def cross_attentions(unet: nn.Module) -> list[nn.Module]:
    """The cross-attention modules, whole."""
    return [module for name, module in unet.named_modules()
            if name.rpartition(".")[2] == "attn2" and hasattr(module, "to_q")]


def transformers(unet: nn.Module) -> list[nn.Module]:
    """The modules that make tokens of feature maps, and feature maps of these again."""
    return [module for module in unet.modules() if hasattr(module, "transformer_blocks")]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[rows, tokens, heads * d]`` as ``[rows, heads, tokens, d]``: how both kinds of UNet lay heads out."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
