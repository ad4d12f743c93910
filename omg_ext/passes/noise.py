"""The second pass needs the noise of the first again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class NoiseSnapshot:
    """The state of random generators at one moment.

    Args:
        generators: torch generators, or others that keep ``seed`` and ``offset`` (the web UI's philox generator).
    """

    def __init__(self, generators: Sequence[Any]):
        self._generators = list(generators)
        self._states = [_state(generator) for generator in generators]
        # Brownian-tree samplers without a seed of their own draw one from the global generator
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def restore(self) -> None:
        """Put all generators back."""
        for generator, state in zip(self._generators, self._states, strict=True):
            _set_state(generator, state)
        torch.set_rng_state(self._cpu)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.seed, generator.offset


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    else:
        generator.seed, generator.offset = state
