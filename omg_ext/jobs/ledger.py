"""Which jobs of a list are done: nine bytes for each, so that ten million fit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_OPEN, _DONE = 0, 1


class Ledger:
    """
    Args:
        keys: of all jobs, each any number of times, as numbers below 2**64.
    """

    def __init__(self, keys: Iterable[int]):
        everything = np.fromiter(keys, np.uint64)
        self._keys = np.unique(everything)
        self._states = np.full(len(self._keys), _OPEN, np.uint8)
        self.repeated = len(everything) - len(self._keys)
        """How many jobs stand in the list again."""

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def done(self) -> int:
        """How many are taken or were done before."""
        return int(self._states.sum())

    def take(self, key: int) -> bool:
        """Whether the job is still to be done; it is not any more afterwards."""
        place = self._place(key)
        if place is None or self._states[place] == _DONE:
            return False
        self._states[place] = _DONE
        return True

    def __contains__(self, key: int) -> bool:
        """Whether it is a job of the list."""
        return self._place(key) is not None

    def _place(self, key: int) -> int | None:
        wanted = np.uint64(key)  # numpy compares a plain int as a float
        place = int(np.searchsorted(self._keys, wanted))
        return place if place < len(self._keys) and self._keys[place] == wanted else None
