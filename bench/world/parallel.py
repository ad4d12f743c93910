"""Work on several cores: parts of a batch side by side in threads, or whole jobs in processes, each on its own core.

Networks as small as the world's leave most threads of one layer waiting for each other: two halves of a batch on two
cores are done in two thirds of the time that the whole takes on both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from multiprocessing import get_context
from typing import TypeVar

import torch
from torch import Tensor, nn

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_processes(work: Callable[[Given], Made], given: Iterable[Given], jobs: int = CORES) -> Iterator[Made]:
    """What ``work`` makes of each, as it comes, in so many processes in which torch has one thread.

    Args:
        work: can be pickled, as all that it is given and returns.
    """
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        try:
            for future in as_completed([pool.submit(work, each) for each in given]):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


class Workers(AbstractContextManager["Workers"]):
    """Threads that evaluate losses. Outside them torch works with as many threads as before.

    Args:
        count: of threads.
    """

    def __init__(self, count: int = CORES):
        self.count = count
        # torch's number of threads belongs to the thread that sets it
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,))

    def __exit__(self, *exc_info: object) -> None:
        self._pool.shutdown()

    def parts(self, rows: int) -> list[slice]:
        """A batch of so many rows in equal parts, as many as there are threads; fewer if that does not divide it."""
        count = next(count for count in range(min(self.count, rows), 0, -1) if rows % count == 0)
        size = rows // count
        return [slice(start, start + size) for start in range(0, rows, size)]

    def backward(self, losses: Sequence[Callable[[], Tensor]], parameters: Iterable[nn.Parameter]) -> float:
        """Sets the parameters' gradients to those of the losses' mean, which is returned.

        Args:
            losses: of equally large parts of a batch. They must draw nothing at random: threads are never in order.
        """
        wanted = list(parameters)

        def gradients(loss: Callable[[], Tensor]) -> tuple[float, tuple[Tensor, ...]]:
            value = loss() / len(losses)
            return value.item(), torch.autograd.grad(value, wanted)

        # one alone has all cores to itself
        evaluated = self._pool.map(gradients, losses) if len(losses) > 1 else map(gradients, losses)
        values, found = zip(*evaluated, strict=True)
        for parameter, *parts in zip(wanted, *found, strict=True):
            parameter.grad = torch.stack(parts).sum(dim=0) if len(parts) > 1 else parts[0]
        return float(sum(values))
