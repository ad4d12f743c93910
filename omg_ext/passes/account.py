"""What a run took: seconds and rows of the UNet, by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

FIRST, FINDING, SECOND, HIRES = "first_pass", "finding", "second_pass", "hires_pass"


@dataclass
class Spent:
    """
    Attributes:
        seconds: of the wall clock.
        rows: that the UNet was given, those that did not fit and were given once more included.
    """

    seconds: float = 0.0
    rows: int = 0

    def data(self) -> dict[str, Any]:
        """In JSON's types."""
        return {"seconds": round(self.seconds, 3), "rows": self.rows}


@dataclass
class Account:
    """
    Attributes:
        stages: what each took, without those within it.
    """

    stages: dict[str, Spent] = field(default_factory=dict)
    _open: Spent | None = None
    _since: float = 0.0

    @contextmanager
    def stage(self, name: str, unet: nn.Module) -> Iterator[None]:
        """All within the block is of this stage; another one within it is not."""
        outer = self._open
        # one hook, however many stages are open
        handle = unet.register_forward_pre_hook(self._count, with_kwargs=True) if outer is None else None
        self._go_on_with(self.stages.setdefault(name, Spent()))
        try:
            yield
        finally:
            self._go_on_with(outer)
            if handle is not None:
                handle.remove()

    def data(self) -> dict[str, Any]:
        """In JSON's types, by stage."""
        return {name: spent.data() for name, spent in self.stages.items()}

    def _go_on_with(self, spent: Spent | None) -> None:
        now = time.perf_counter()
        if self._open is not None:
            self._open.seconds += now - self._since
        self._open, self._since = spent, now

    def _count(self, unet: nn.Module, args: Any, kwargs: Any) -> None:
        if self._open is not None:
            self._open.rows += len(args[0] if args else kwargs["sample"])
