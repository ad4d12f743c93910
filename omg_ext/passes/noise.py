"""The second pass needs the noise of the first again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class Noise:
    """Where random generators stand.

    Attributes:
        states: of a sampler's own generators, in their order.
        cpu: torch's global generator: Brownian-tree samplers without a seed of their own draw one from it.
        cuda: those of all CUDA devices.
    """

    states: tuple[Any, ...]
    cpu: torch.Tensor
    cuda: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, generators: Sequence[Any]) -> Noise:
        """
        Args:
            generators: torch generators, or others that keep ``seed`` and ``offset`` (the web UI's philox generator).
        """
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else ()
        return cls(tuple(_state(generator) for generator in generators), torch.get_rng_state(), tuple(cuda))

    def restore(self, generators: Sequence[Any]) -> None:
        """Put generators of the same kinds, and the global ones, where these stood."""
        for generator, state in zip(generators, self.states, strict=True):
            _set_state(generator, state)
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.seed, generator.offset


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    else:
        generator.seed, generator.offset = state
