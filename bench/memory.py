"""Memory: what each storage mode of the attention queries takes, and whether anything is left behind by a run."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from scipy.stats import theilslopes
from torch import Tensor, nn

from bench.speed import read_loras, steps_before
from bench.subject import Subject
from bench.table import Row
from omg_ext.request import Layout
from omg_ext.unet.calls import Row as CallRow
from omg_ext.unet.calls import UNetCall, every_row
from omg_ext.unet.deltas import Deltas, LowRank, WeightDelta, like
from omg_ext.unet.networks import RowNetworks
from omg_ext.unet.patches import Patches
from omg_ext.unet.query_store import QueryStore

MIB = 2**20
_RUNS_PER_READING = 5
PLENTY = 1 << 40
# by storage mode: budgets that leave only that one
MODES = {"device": {"device_budget": PLENTY, "host_budget": 0}, "host": {"device_budget": 0, "host_budget": PLENTY},
         "recompute": {"device_budget": 0, "host_budget": 0}}


def live_bytes() -> int:
    """Bytes of all living tensors, those that share memory counted once."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (Tensor, nn.Parameter):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(storages.values())


@dataclass
class Peak:
    """The most that was seen at the starts of UNet calls, in bytes.

    Attributes:
        live: living tensors.
        stored: by the package's own account, device and host memory together.
        cuda: highest mark of the CUDA allocator; 0 without.
    """

    live: int = 0
    stored: int = 0
    cuda: int = 0


@contextmanager
def watched(unet: nn.Module) -> Iterator[Peak]:
    """Looks at the memory at each UNet call within the block."""
    peak = Peak()

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        stores = [thing for thing in gc.get_objects() if type(thing) is QueryStore]
        peak.live = max(peak.live, live_bytes())
        peak.stored = max([peak.stored, *(sum(store.used.values()) for store in stores)])

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    handle = unet.register_forward_pre_hook(look)
    try:
        yield peak
    finally:
        handle.remove()
        if torch.cuda.is_available():
            peak.cuda = torch.cuda.max_memory_allocated()


@torch.no_grad()
def computed_bytes(subject: Subject, steps: int) -> dict[str, int]:
    """What each mode has to keep for one picture, from the UNet's shape: nothing of the package is asked."""
    unet, layout = subject.pipe.unet, Layout()
    cross: list[int] = []
    own: list[tuple[int, int]] = []  # tokens, bytes

    def note(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        own.append((output.shape[1], output.nbytes))

    def note_cross(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        cross.append(output.nbytes)

    hooks = []
    for name, layer in unet.named_modules():
        if name.endswith("attn2.to_q"):
            hooks.append(layer.register_forward_hook(note_cross))
        if name.endswith(("attn1.to_q", "attn1.to_k")):
            hooks.append(layer.register_forward_hook(note))
    args, kwargs = subject.inputs(1)
    unet(*args, **kwargs)
    for hook in hooks:
        hook.remove()

    fewest = min(tokens for tokens, _ in own)
    deepest = sum(size for tokens, size in own if tokens == fewest)
    before = steps_before(subject, steps)
    with_self = steps_before(subject, steps, layout.self_) - before
    queries = (steps - before) * sum(cross) + with_self * deepest
    return {"device": queries, "host": queries, "recompute": (steps - before) * args[0].nbytes}


def storage_modes(subject: Subject, steps: int) -> list[Row]:
    """Peak extra memory of each mode over a run that keeps no layout, against the computed size."""
    def peak_of(**more: Any) -> Peak:
        with watched(subject.pipe.unet) as peak:
            subject.omg(steps, **more)
        return peak

    nothing_kept = {"layout": {"cross": 0, "self": 0}, "options": MODES["recompute"]}
    peak_of(**nothing_kept)
    without = peak_of(**nothing_kept)
    about = f"{steps} steps, {subject.size} x {subject.size}"
    rows = []
    for mode, computed in computed_bytes(subject, steps).items():
        peak = peak_of(options=MODES[mode])
        rows += [
            Row(f"Storage mode {mode}: computed size", computed / MIB, "MiB", note=about),
            Row(f"Storage mode {mode}: by the package's account", peak.stored / MIB, "MiB", note=about),
            Row(f"Storage mode {mode}: tensors alive beyond a run without layout", (peak.live - without.live) / MIB,
                "MiB", note=about)]
        if peak.cuda:
            rows.append(Row(f"Storage mode {mode}: peak of graphics memory beyond a run without layout",
                            (peak.cuda - without.cuda) / MIB, "MiB", note=about))
    return rows


@dataclass(frozen=True, eq=False)
class MultipliedOut:
    """A LoRA as most kinds of LyCORIS are: what it adds is known as a weight of the layer's size only."""

    factors: LowRank

    def resolve(self, layer: nn.Module, y: Tensor) -> WeightDelta:
        factors = self.factors
        return WeightDelta(like(factors.up.float() @ factors.down.float() * factors.scale, y))


@torch.no_grad()
def full_weights(subject: Subject) -> list[Row]:
    """What full-weight networks of one concept leave for the next call, with and without a budget."""
    unet = subject.pipe.unet
    networks = {unet.get_submodule(name): MultipliedOut(factors)
                for name, factors in read_loras(subject)[0].unet.items()}
    computed = sum(layer.get_parameter("weight").numel() for layer in networks) * unet.dtype.itemsize
    args, kwargs = subject.inputs(1)
    call = UNetCall((CallRow(0),), 0.5, (args[0].shape[2], args[0].shape[3]))

    def left_with(budget: int) -> float:
        before = live_bytes()
        with Patches(unet) as patches:
            RowNetworks(patches, [(every_row, networks)], Deltas(budget))
            with patches.running(call):
                unet(*args, **kwargs)
            return (live_bytes() - before) / MIB

    half = computed // 2
    about = f"one concept, on all {len(networks)} attention and feed-forward Linears, {unet.dtype}"
    return [
        Row("Full-weight networks: computed size", computed / MIB, "MiB", note=about),
        Row("Full-weight networks: tensors alive after a call, no budget", left_with(PLENTY), "MiB", note=about,
            exactly=computed / MIB),
        Row("Full-weight networks: tensors alive after a call, budget of half", left_with(half), "MiB", note=about,
            most=half / MIB)]


def left_behind(what: str, work: Callable[[], object], times: int) -> list[Row]:
    """What many small runs of ``work`` leave in memory; as many before, but at most 30, fill caches and do not count.

    The allocator takes from the system in lumps, at moments of its own, so two readings of resident memory say little:
    its trend is the median slope between all pairs of many readings (Theil-Sen), over three times as many runs.
    """
    process = psutil.Process()

    def resident_and_live() -> tuple[int, int]:
        gc.collect()
        return process.memory_info().rss, live_bytes()

    first = min(times, 30)
    for _ in range(first):
        work()
    readings = [resident_and_live()]
    for _ in range(3 * times // _RUNS_PER_READING):
        for _ in range(_RUNS_PER_READING):
            work()
        readings.append(resident_and_live())
    resident, live = (np.array(column) / MIB for column in zip(*readings, strict=True))
    runs = _RUNS_PER_READING * np.arange(len(readings))
    about = f"{runs[-1]} runs after {first} that do not count"
    trend, growth = float(theilslopes(resident, runs).slope) * times, float(live[-1] - live[0])
    return [Row(f"Trend of resident memory over {times} {what}", trend, "MiB",
                note=f"{about}; readings from {resident.min():.1f} to {resident.max():.1f} MiB"),
            Row(f"Growth of living tensors over {runs[-1]} {what}", growth, "MiB", note=about, exactly=0)]
