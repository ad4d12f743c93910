"""What faces cost: the time and memory of two concepts with a photo each, over the same without."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from diffusers import ControlNetModel

from bench.memory import MIB, watched
from bench.scene import HEADS, PROMPT, request
from bench.speed import steps_before
from bench.subject import BLEND_START, Subject
from bench.table import Row
from bench.timing import Runner, Turns
from bench.ways import Way
from omg_ext.diffusers import FaceModels, OMGPipeline
from omg_ext.faces.adapter import FaceAdapter
from tests.models.tiny_instantid import Face, KnownFaces, adapter_state, draw_points, embedding, face

WAYS = tuple(map(Way, ("separate", "shared", "joint")))
KINDS = ("no face", "face", "face with IdentityNet")
# of a head, in fractions of the picture
_FACE = 0.16


class _Drawing:
    """Draws two concepts without LoRAs; each has a face, or none.

    Args:
        kind: of :data:`KINDS`.
    """

    def __init__(self, subject: Subject, way: Way, kind: str):
        self._subject, self._way, self._has_face = subject, way, kind != KINDS[0]
        self.asked = 0  # rows of the IdentityNet
        options: dict[str, Any] = {}
        if self._has_face:
            net = self._identitynet() if kind == KINDS[2] else None
            options["faces"] = FaceModels(_adapter(subject), net, KnownFaces([_placed(subject.size)]), draw_points)
        self._pipeline = OMGPipeline(subject.pipe, **options)

    def __call__(self, steps: int) -> None:
        size = self._subject.size
        asked = request(size, False, blend_start=BLEND_START, strict=True, predict=self._way.predict)
        embeds = {number: torch.from_numpy(embedding(number)) for number in range(2)} if self._has_face else {}
        self._pipeline(asked, PROMPT, face_embeds=embeds, steps=steps, cfg_scale=7.5, height=size, width=size)

    def _identitynet(self) -> Any:
        unet = self._subject.pipe.unet
        with torch.device(unet.device):
            net = ControlNetModel.from_unet(unet).to(unet.dtype)

        def count(module: Any, args: tuple[Any, ...]) -> None:
            self.asked += len(args[0])

        net.eval().requires_grad_(False).register_forward_pre_hook(count)
        return net


def _placed(size: int) -> list[Face]:
    """The faces in the first picture: where the heads are."""
    return [face(x * size, y * size, _FACE * size) for x, y in HEADS.values()]


def _adapter(subject: Subject) -> FaceAdapter:
    """InstantID's layout, as wide as the model."""
    path = subject.folder / "ip-adapter.bin"
    if not path.exists():
        width = subject.pipe.unet.config.cross_attention_dim
        torch.save(adapter_state(subject.pipe.unet, dim=width // 2, inner=width // 2, tokens=16), path)
    return FaceAdapter.read(path, "adapter")


def faces(subject: Subject, steps: int) -> list[Row]:
    """Wall time and rows of faces, with and without IdentityNet, over those of concepts without."""
    before = steps_before(subject, steps)
    drawings: dict[tuple[Way, str], tuple[_Drawing, Runner]] = {}
    for way in WAYS:
        for kind in KINDS:
            twin = subject.twin()
            drawing = _Drawing(twin, way, kind)
            drawing(2)
            drawing.asked = 0
            drawings[way, kind] = drawing, Runner(_run(drawing, steps), twin.pipe.unet, way.rows(steps, before, 2))
    Turns({f"{way} {kind}": runner for (way, kind), (_, runner) in drawings.items()}).run()
    about = f"2 concepts, {steps} steps, {before} before the blend start, {subject.size} x {subject.size}"
    rows = []
    for way in WAYS:
        without = drawings[way, KINDS[0]][1]
        for kind in KINDS[1:]:
            drawing, runner = drawings[way, kind]
            rows += [Row(f"UNet rows: {way}, {kind}", runner.rows, "rows", note=about, exactly=runner.expected),
                     Row(f"Time over no face: {way}, {kind}", runner.seconds / without.seconds, "times", note=about)]
        of_concepts = (way.rows(steps, before, 2) - 2 * steps) - 2 * (steps - before)
        # in a row of all concepts it is asked for each by itself
        expected = of_concepts * (2 if way.predict == "joint" else 1)
        rows.append(Row(f"IdentityNet rows: {way}", drawing.asked, "rows", note=about, exactly=expected))
    return rows


def _run(drawing: _Drawing, steps: int) -> Callable[[], object]:
    return lambda: drawing(steps)


def peaks_of_faces(subject: Subject) -> list[Row]:
    """Peaks of short runs over those without a face; what the models themselves take counts, too."""
    rows = []
    for way in WAYS:
        peaks = {}
        for kind in KINDS:
            gc.collect()  # what went before holds itself, and would count
            drawing = _Drawing(subject, way, kind)
            drawing(4)
            with watched(subject.pipe.unet) as peaks[kind]:
                drawing(4)
            del drawing
        for kind in KINDS[1:]:
            more = (peaks[kind].live - peaks[KINDS[0]].live) / MIB
            rows.append(Row(f"Tensors alive beyond no face: {way}, {kind}", more, "MiB", note="2 concepts, 4 steps"))
    return rows
