"""How much memory a session may use, and how many rows were found to fit into it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..unet.evaluator import RowLimit


@dataclass
class Memory:
    """What may be used of it, and what was found out about it.

    Attributes:
        device_budget, host_budget: bytes for stored attention queries on the UNet's device and in host memory; what
            fits in neither is recomputed.
        full_budget: bytes for networks as large as their layers' weights; what does not fit is made again in each call.
        rows_per_call: at most so many rows of concepts in one UNet call; 0 for all.
        fitting: how many rows were found to fit, by what they are and the latent's size.
    """

    device_budget: int = 2 << 30
    host_budget: int = 8 << 30
    full_budget: int = 2 << 30
    rows_per_call: int = 0
    fitting: dict[tuple[str, tuple[int, int]], RowLimit] = field(default_factory=dict)

    def limit(self, of_concepts: bool, latent_size: tuple[int, int]) -> RowLimit:
        """The limit for concepts' rows, or for the others of the second pass."""
        key = ("concepts" if of_concepts else "picture", latent_size)
        return self.fitting.setdefault(key, RowLimit(self.rows_per_call if of_concepts else 0))
