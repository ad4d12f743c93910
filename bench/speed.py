"""Speed: whole runs against bare UNet calls and plain txt2img, and one UNet call with row-wise LoRAs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from bench.scene import PROMPTS
from bench.subject import BLEND_START, Subject
from bench.table import Row
from bench.timing import Runner, Turns, median_seconds, now
from omg_ext.comprehension.contrast import PLAN
from omg_ext.diffusers.loras import LoRA, load_lora, on_unet
from omg_ext.unet.calls import Row as CallRow
from omg_ext.unet.calls import UNetCall
from omg_ext.unet.deltas import LowRankDelta
from omg_ext.unet.networks import RowNetworks, of_concept
from omg_ext.unet.patches import Patches

K = len(PROMPTS)


def steps_before(subject: Subject, steps: int, fraction: float = BLEND_START) -> int:
    """How many of the steps lie before a fraction of the trajectory; by default, before the initiation timestep."""
    scheduler = type(subject.pipe.scheduler).from_config(subject.pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    total = scheduler.config.num_train_timesteps
    return sum((total - 1 - int(t)) / total < fraction for t in scheduler.timesteps)


def call_rows(steps: int, before: int) -> list[int]:
    """The rows of each UNet call of a whole run, by the cost model: global ones, then concepts' too."""
    return [2] * steps + [2, 2 * K] * (steps - before)


def looks() -> int:
    """UNet rows that the contrast detector asks for, whatever the steps."""
    return len(PLAN.times) * PLAN.noises * (K + 1)


@torch.no_grad()
def bare_calls(subject: Subject, rows: list[int]) -> None:
    """UNet calls of these batch shapes and nothing else."""
    inputs = {count: subject.inputs(count) for count in set(rows)}
    for count in rows:
        args, kwargs = inputs[count]
        subject.pipe.unet(*args, **kwargs)


def read_loras(subject: Subject) -> list[LoRA]:
    """Each concept's LoRA."""
    return [load_lora(subject.pipe, path, "lora") for path in subject.loras.values()]


def whole_runs(subject: Subject, steps: int) -> list[Row]:
    """Rows evaluated and wall time of whole runs, K = 2."""
    before = steps_before(subject, steps)
    calls = call_rows(steps, before)

    def runner(work: Callable[[Subject], None], expected: int) -> Runner:
        twin = subject.twin()
        twin.omg(2)  # warms up: kernels, memory, imports, LoRA files, which a pipeline reads once
        return Runner(lambda: work(twin), twin.pipe.unet, expected)

    runners = {
        "plain": runner(lambda twin: twin.plain(steps), 2 * steps),
        "bare": runner(lambda twin: bare_calls(twin, calls), sum(calls)),
        "engine": runner(lambda twin: twin.omg(steps, tags=False), sum(calls)),
        "given": runner(lambda twin: twin.omg(steps), sum(calls)),
        "found": runner(lambda twin: twin.omg(steps, given=False, detector="attention"), sum(calls)),
        "contrast": runner(lambda twin: twin.omg(steps, given=False, detector="contrast"), sum(calls) + looks()),
    }
    Turns(runners).run()
    start = now()
    read_loras(subject)
    reading = now() - start
    plain, bare, engine, given, found, contrast = runners.values()
    about = (f"K = {K}, rank {subject.rank}, {steps} steps, {before} before the blend start, "
             f"{subject.size} x {subject.size}")
    return [
        Row("UNet rows of a whole run", given.rows, "rows", note=about, exactly=sum(calls)),
        Row("The same with the attention detector", found.rows, "rows", note=about, exactly=sum(calls)),
        Row("The same with the contrast detector", contrast.rows, "rows", note=about, exactly=sum(calls) + looks()),
        Row("Reading both LoRA files, once per pipeline and not part of the runs", reading, "s", note=about),
        Row("Plain txt2img", plain.seconds, "s", note=about),
        Row("Bare UNet calls of a whole run", bare.seconds, "s", note=about),
        Row("Whole run, given masks, no LoRAs", engine.seconds, "s", note=about),
        Row("Whole run, given masks", given.seconds, "s", note=about),
        Row("Whole run, attention detector", found.seconds, "s", note=about),
        Row("Whole run, given masks, no LoRAs / bare UNet calls", engine.seconds / bare.seconds, "times", most=1.05,
            note="what is not UNet rows: blending, layout, text encoders, decoding"),
        Row("Whole run, given masks / bare UNet calls", given.seconds / bare.seconds, "times", most=1.05),
        Row("Whole run, attention detector / bare UNet calls", found.seconds / bare.seconds, "times", most=1.05),
        Row("Whole run, given masks / plain txt2img", given.seconds / plain.seconds, "times", most=3.4),
        Row("Whole run, attention detector / plain txt2img", found.seconds / plain.seconds, "times", most=3.4),
        Row("Whole run, contrast detector / plain txt2img", contrast.seconds / plain.seconds, "times", most=3.7),
    ]


def changes_of(unet: nn.Module, lora: LoRA) -> list[tuple[nn.Parameter, LowRankDelta]]:
    """The weights that a LoRA changes, with what it adds to them, in their type and on their device."""
    layers = {name: unet.get_submodule(name) for name in lora.unet}
    weights = {name: unet.get_parameter(f"{name}.weight") for name in lora.unet}
    return [(weights[name], source.resolve(layers[name], weights[name])) for name, source in lora.unet.items()]


@contextmanager
def merged(changes: Sequence[tuple[nn.Parameter, LowRankDelta]]) -> Iterator[None]:
    """Within the block a LoRA's changes are added to the layers' weights."""
    for weight, delta in changes:
        weight.addmm_(delta.up, delta.down)
    try:
        yield
    finally:
        for weight, delta in changes:
            weight.addmm_(delta.up, delta.down, alpha=-1)


@torch.no_grad()
def one_call(subject: Subject, repeats: int) -> list[Row]:
    """One UNet call on 2K rows: bare, with K row-wise LoRAs, and as K calls with merged weights."""
    unet = subject.pipe.unet
    loras = read_loras(subject)
    args, kwargs = subject.inputs(2 * K)
    two_args, two_kwargs = subject.inputs(2)
    rows = tuple(CallRow(0, concept, part) for concept in range(K) for part in (0, None))
    changes = [changes_of(unet, lora) for lora in loras]

    def with_merging() -> None:
        for each in changes:
            with merged(each):
                unet(*two_args, **two_kwargs)

    def with_rows() -> None:
        with patches.running(UNetCall(rows, 0.5, (args[0].shape[2], args[0].shape[3]))):
            unet(*args, **kwargs)

    # hooks that have nothing to do cost a little too, so the bare calls have a UNet of their own
    bare = subject.twin().pipe.unet
    with Patches(unet) as patches:
        RowNetworks(patches, [(of_concept(concept), on_unet(subject.pipe, lora)) for concept, lora in enumerate(loras)])
        seconds = median_seconds({"bare": lambda: bare(*args, **kwargs), "rows": with_rows}, repeats)
    merging = median_seconds({"bare": lambda: bare(*args, **kwargs), "merged": with_merging}, repeats)
    about = f"K = {K}, rank {subject.rank}, on all attention and feed-forward Linears"
    # the target is meant for the full-size UNet on a GPU
    most = 1.15 if torch.cuda.is_available() else None
    slowdown = seconds["rows"] / seconds["bare"]
    return [
        Row(f"UNet call of {2 * K} rows", seconds["bare"], "s", note=about),
        Row("The same with row-wise LoRAs / without", slowdown, "times", most=most, note=about),
        Row("Merging for each concept and step / row-wise LoRAs", merging["merged"] / merging["bare"] / slowdown,
            "times", note=about),
    ]
