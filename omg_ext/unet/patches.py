"""Everything OMG does to a network it does through forward hooks, and one context manager owns them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

OutputHook = Callable[[nn.Module, tuple[Any, ...], Tensor], "Tensor | None"]


class Hooks:
    """Forward hooks that live as long as the ``with`` block.

    A hook may change the output in place or return a new one, as in :meth:`torch.nn.Module.register_forward_hook`.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def on_output(self, module: nn.Module, hook: OutputHook) -> None:
        """Call ``hook(module, args, output)`` after each forward call of ``module``."""
        self._handles.append(module.register_forward_hook(hook))

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, *exc_info: object) -> None:
        while self._handles:
            self._handles.pop().remove()


def batch_rows(rows: slice, total: int, batch: int) -> slice:
    """Where ``rows`` of a UNet call of ``total`` rows lie in a layer that sees ``batch`` rows.

    Tiling optimisations (HyperTile) cut every row into the same number of consecutive tiles, so ``batch`` may be a
    multiple of ``total``.

    Raises:
        RuntimeError: ``batch`` is no multiple of ``total``: rows cannot be told apart in this layer.
    """
    tiles, rest = divmod(batch, total)
    if rest or not tiles:
        raise RuntimeError(f"a layer saw {batch} rows in a UNet call of {total}; another extension changes the batch")
    return slice(rows.start * tiles, rows.stop * tiles)


def modules_named(unet: nn.Module, last: str, child: str) -> dict[str, nn.Module]:
    """The submodules ``child`` of every module whose name ends in ``last``, e.g. the ``to_q`` of every ``attn2``."""
    return {name: getattr(module, child) for name, module in unet.named_modules()
            if name.rpartition(".")[2] == last and hasattr(module, child)}
