"""Ways to predict the concepts: rows and time over an ordinary picture, and memory, as concepts are added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from bench.memory import MIB, watched
from bench.scene import write_loras
from bench.speed import looks, steps_before
from bench.subject import BLEND_START, Subject
from bench.table import Row
from bench.timing import Runner, Turns
from omg_ext.diffusers import OMGPipeline
from omg_ext.request import Request

COUNTS = (1, 2, 3, 5)
MOST = 5
PROMPT = "photo of people in the park"


@dataclass(frozen=True)
class Way:
    """A way to draw K concepts.

    Attributes:
        predict, first_pass: of the request.
    """

    predict: str
    first_pass: str = "whole"

    def __str__(self) -> str:
        return self.predict if self.first_pass == "whole" else f"{self.predict}, prefix"

    def rows(self, steps: int, before: int, count: int) -> int:
        """UNet rows by the cost model, of so many steps and those of them before the blend start."""
        of_concepts = {"separate": 2 * count, "shared": count, "joint": 1}[self.predict]
        blended = (steps - before) * (2 + of_concepts)
        return blended + 2 * (steps if self.first_pass == "whole" else before)

    def request(self, count: int) -> dict[str, Any]:
        """Concepts side by side with a LoRA each, in given places."""
        concepts = [{"prompt": f"photo of sks{number} man in the park <lora:{number}:1>",
                     "where": {"box": [(number + 0.1) / count, 0.15, (number + 0.9) / count, 1]}}
                    for number in range(count)]
        return {"concepts": concepts, "predict": self.predict, "first_pass": self.first_pass,
                "blend_start": BLEND_START, "strict": True}


WAYS = (Way("separate"), Way("shared"), Way("joint"), Way("joint", "prefix"))
MOST_OVER_PLAIN = {"joint": 2.1, "joint, prefix": 1.45}
MOST_FOR_FIVE = 1.3
MOST_BY_DEFAULT = 2.4


def _drawing(subject: Subject, way: Way, count: int) -> Callable[[int], object]:
    """A function of the steps. It has read the LoRAs after its first call."""
    loras = {str(number): subject.folder / f"way-{number}.safetensors" for number in range(MOST)}
    if not all(path.exists() for path in loras.values()):
        write_loras(subject.pipe.unet, loras.values(), subject.rank, 0.1)
    pipeline = OMGPipeline(subject.pipe, loras)
    return lambda steps: pipeline(way.request(count), PROMPT, steps=steps, cfg_scale=7.5, height=subject.size,
                                  width=subject.size)


def ways(subject: Subject, steps: int, counts: Sequence[int] = COUNTS) -> list[Row]:
    """Rows and wall time of each way over plain txt2img."""
    before = steps_before(subject, steps)

    def runner(way: Way, count: int) -> Runner:
        twin = subject.twin()
        draw = _drawing(twin, way, count)
        draw(2)
        return Runner(lambda: draw(steps), twin.pipe.unet, way.rows(steps, before, count))

    plain = subject.twin()
    plain.plain(2)
    runners = {(way, count): runner(way, count) for way in WAYS for count in counts}
    ordinary = Runner(lambda: plain.plain(steps), plain.pipe.unet, 2 * steps)
    Turns({"plain": ordinary, **{f"{way} {count}": each for (way, count), each in runners.items()}}).run()
    about = f"rank {subject.rank}, {steps} steps, {before} before the blend start, {subject.size} x {subject.size}"
    rows = [Row("Plain txt2img", ordinary.seconds, "s", note=about)]
    for way in WAYS:
        for count in counts:
            done, named = runners[way, count], f"{way}, {count} concept{'s' * (count > 1)}"
            rows += [Row(f"UNet rows: {named}", done.rows, "rows", note=about, exactly=done.expected),
                     Row(f"Time over plain: {named}", done.seconds / ordinary.seconds, "times", note=about,
                         most=MOST_OVER_PLAIN.get(str(way)) if count == 2 else None)]
        if {2, 5} <= set(counts):
            ratio = runners[way, 5].seconds / runners[way, 2].seconds
            rows.append(Row(f"Five concepts over two: {way}", ratio, "times",
                            most=MOST_FOR_FIVE if way.predict == "joint" else None))
    return rows


def defaults(subject: Subject, steps: int) -> list[Row]:
    """Rows and wall time over plain txt2img of two concepts, found by their phrases, with all else by default.

    As by the cost model of 50 steps: what the detector asks of the UNet does not grow with the steps.
    """
    usual = Request(concepts=())
    fields = {name: getattr(usual, name) for name in ("predict", "first_pass", "blend_start", "detector")}
    before = steps_before(subject, steps, usual.blend_start)
    plain, twin = subject.twin(), subject.twin()
    plain.plain(2)
    twin.omg(2, given=False, **fields)
    ordinary = Runner(lambda: plain.plain(steps), plain.pipe.unet, 2 * steps)
    omg = Runner(lambda: twin.omg(steps, given=False, **fields), twin.pipe.unet,
                 Way(usual.predict, usual.first_pass).rows(steps, before, 2) + looks())
    Turns({"plain": ordinary, "omg": omg}).run()
    about = f"rank {subject.rank}, {steps} steps, {before} before the blend start, {subject.size} x {subject.size}"
    return [Row("UNet rows: the defaults, 2 concepts", omg.rows, "rows", note=about, exactly=omg.expected),
            Row("Time over plain: the defaults, 2 concepts", omg.seconds / ordinary.seconds, "times", note=about,
                most=MOST_BY_DEFAULT)]


def peaks(subject: Subject, counts: Sequence[int] = COUNTS) -> list[Row]:
    """Peaks of short runs over that of an ordinary picture."""
    with watched(subject.pipe.unet) as plain:
        subject.plain(4)
    rows = []
    for way, count in product(WAYS, (count for count in counts if count > 1)):
        draw = _drawing(subject, way, count)  # the one before, and the networks that its pipeline keeps, are gone
        draw(4)
        with watched(subject.pipe.unet) as peak:
            draw(4)
        name = f"{way}, {count} concepts"
        rows.append(Row(f"Tensors alive beyond plain: {name}", (peak.live - plain.live) / MIB, "MiB", note="4 steps"))
        if peak.cuda:
            rows.append(Row(f"Peak of graphics memory beyond plain: {name}", (peak.cuda - plain.cuda) / MIB, "MiB",
                            note="4 steps"))
        del draw
    return rows
