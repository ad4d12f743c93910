"""Timing on a machine that others use too: what is compared takes turns, so that the noise meets all alike."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


def now() -> float:
    """Seconds, after all that was queued on the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def median_seconds(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """The median time of each function; they are called in turn, after a round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = now()
            work()
            seconds[name].append(now() - start)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


@dataclass
class Runner:
    """A long run that gives way to others before each call of its UNet.

    Attributes:
        work: the run.
        unet: its own UNet module (parameters may be shared).
        expected: UNet rows that it will evaluate.
        rows: UNet rows so far.
        seconds: time spent in the run so far, without the time of the others.
    """

    work: Callable[[], object]
    unet: nn.Module
    expected: int
    rows: int = 0
    seconds: float = 0.0
    _start: float = 0.0
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class Turns:
    """Runs several runners side by side, one at a time: the one that has come least far goes on."""

    def __init__(self, runners: Mapping[str, Runner]):
        self._waiting = list(runners.values())

    def run(self) -> None:
        """Run all to their ends. ``seconds`` and ``rows`` of the runners say how it went."""
        with ThreadPoolExecutor(len(self._waiting)) as pool:
            futures = [pool.submit(self._run, runner) for runner in self._waiting]
            self._wake_next()
            for future in futures:
                future.result()

    def _run(self, runner: Runner) -> None:
        hook = runner.unet.register_forward_pre_hook(lambda module, args: self._give_way(runner, args))
        self._wait(runner)
        try:
            runner.work()
            runner.seconds += now() - runner._start
        finally:
            hook.remove()
            self._waiting.remove(runner)
            self._wake_next()

    def _give_way(self, runner: Runner, args: tuple[Any, ...]) -> None:
        runner.seconds += now() - runner._start
        runner.rows += len(args[0])
        self._wake_next()
        self._wait(runner)

    def _wake_next(self) -> None:
        if self._waiting:
            min(self._waiting, key=lambda runner: runner.rows / runner.expected)._go.release()

    @staticmethod
    def _wait(runner: Runner) -> None:
        runner._go.acquire()
        runner._start = now()
