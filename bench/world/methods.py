"""What the bench compares: ways to put several individuals, each with a LoRA, into one picture."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from bench.world import detector, weights
from bench.world.casts import CFG_SCALE, Cast
from bench.world.image_prompt import image_prompted, tokens_of
from bench.world.layout import MAX_FIGURES
from bench.world.regional import regional_attention
from omg_ext.comprehension import FirstPicture, Models
from omg_ext.comprehension.places import find_places, given_masks
from omg_ext.diffusers import Control, FaceModels, OMGPipeline
from omg_ext.diffusers.prompts import encode
from omg_ext.faces.adapter import FaceAdapter
from omg_ext.request import parse_request

Pictures = npt.NDArray[np.uint8]
Masks = Sequence[Sequence[npt.NDArray[np.float32] | None]]
"""[H, W] by picture and concept; None where a concept was not found"""
EVERYONE = range(MAX_FIGURES)
FACE_SCALE = 1.0
"""Of image prompts, everywhere: what their adapter was trained with."""


@dataclass(frozen=True)
class Take:
    """Pictures that a method made of one shot.

    Attributes:
        pictures: uint8 [B, H, W, 3].
        shown: the concepts that these pictures are to show; the others are there for company.
        rows: UNet rows evaluated for all of them.
        seconds: time for all of them.
        masks: the concepts' grown and softened masks, of methods that are given any.
    """

    pictures: Pictures
    shown: tuple[int, ...]
    rows: int
    seconds: float
    masks: Masks | None = None


@dataclass(frozen=True)
class Shot:
    """What all methods start from.

    Attributes:
        cast, scene: what is to be seen.
        latents: initial noise [B, 4, h, w].
        controls: the spatial conditions of all that is drawn.
    """

    cast: Cast
    scene: str
    latents: Tensor
    controls: Sequence[Control] = ()

    @property
    def everyone(self) -> tuple[int, ...]:
        """All concepts."""
        return tuple(range(len(self.cast.names)))

    @property
    def request(self) -> dict[str, Any]:
        """The request for all concepts, where the reader sees them."""
        concepts = [self.cast.concept(self.scene, index) for index in self.everyone]
        return {"concepts": concepts, "detector": detector.NAME}


@dataclass
class Studio:
    """A model, LoRAs by name, and the settings that all pictures share.

    Attributes:
        pipe: the small SDXL.
        loras: LoRA files by names of ``IDENTITIES`` in small letters; they are of the UNet only.
        steps, cfg_scale: of the sampling.
        rows_per_call: concept rows in one UNet call.
        adapter: draws individuals by a face, which is what the identity reader makes of a picture.
        portraits: these, [EMBEDDING] by names of ``IDENTITIES``, of one picture each.
    """

    pipe: StableDiffusionXLPipeline
    loras: Mapping[str, str | Path]
    steps: int = 25
    cfg_scale: float = CFG_SCALE
    rows_per_call: int = 32
    adapter: FaceAdapter | None = None
    portraits: Mapping[str, Tensor] = field(default_factory=dict)
    omg: OMGPipeline = field(init=False)

    def __post_init__(self) -> None:
        self.omg = OMGPipeline(self.pipe, self.loras, rows_per_call=self.rows_per_call,
                               detectors=[weights.DETECTOR.parent], keep_detectors=True,
                               faces=None if self.adapter is None else FaceModels(self.adapter))

    def plain(self, shot: Shot, prompt: str, shown: tuple[int, ...]) -> Take:
        """Ordinary pictures of a prompt, whose LoRAs act on the whole picture."""
        return replace(self.draw(shot, prompt, {**shot.request, "enabled": False}, shown), masks=None)

    def by_lora(self, shot: Shot, index: int, triggered: bool = True) -> Take:
        """Ordinary pictures with one concept's LoRA."""
        called = shot.cast.shot(shot.scene)
        return self.plain(shot, called.named([index]) if triggered else called.plain + called.tags([index]), (index,))

    def by_faces(self, shot: Shot, shown: tuple[int, ...]) -> Take:
        """Ordinary pictures with concepts' faces, which act on the whole picture; no trigger word, no LoRA."""
        assert self.adapter is not None
        batch = len(shot.latents)
        cond, uncond = tokens_of(self.adapter, [self.portraits[shot.cast.names[index]] for index in shown])
        # the pipeline's rows: conditional ones first
        tokens = torch.cat([cond.expand(batch, -1, -1), uncond.expand(batch, -1, -1)])
        with image_prompted(self.pipe.unet, self.adapter, tokens, FACE_SCALE):
            return self.plain(shot, shot.cast.prompt(shot.scene), shown)

    def draw(self, shot: Shot, prompt: str, request: Mapping[str, Any], shown: tuple[int, ...],
             by_face: Collection[int] = ()) -> Take:
        """Both passes, from the shot's noise.

        Args:
            by_face: the concepts that have a face.
        """
        with counted(self.pipe.unet) as rows:
            start = time.perf_counter()
            result = self.omg(dict(request), prompt, steps=self.steps, cfg_scale=self.cfg_scale, latents=shot.latents,
                              controls=shot.controls,
                              face_embeds={index: self.portraits[shot.cast.names[index]] for index in by_face})
            seconds = time.perf_counter() - start
        pictures = np.stack([np.asarray(picture) for picture in result.images or []])
        return Take(pictures, shown, sum(rows), seconds, result.masks)


@contextmanager
def counted(unet: torch.nn.Module) -> Iterator[list[int]]:
    """Yields a list that grows by the number of rows of each call of the UNet."""
    rows: list[int] = []
    handle = unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


class Method(Protocol):
    """A way to make pictures.

    Attributes:
        name: what tables call it.
        placed: whether it says which figure is which concept, where several are of one class.
    """

    @property
    def name(self) -> str: ...

    @property
    def placed(self) -> bool: ...

    def __call__(self, studio: Studio, shot: Shot, plain: Take) -> list[Take]:
        """Pictures of the shot; ``plain`` are the ordinary ones, which are also what any first pass gives."""
        ...


@dataclass(frozen=True)
class NoLora:
    """The lower bound: the prompt without trigger words, and no LoRA."""

    name: str = "no LoRA"
    placed: bool = False

    def __call__(self, studio: Studio, shot: Shot, plain: Take) -> list[Take]:
        return [plain]


def ordinary(studio: Studio, shot: Shot) -> Take:
    """The pictures without any LoRA."""
    return studio.plain(shot, shot.cast.prompt(shot.scene), shot.everyone)


@dataclass(frozen=True)
class SingleLora:
    """The upper bound: for each concept pictures of the whole scene with its trigger and its LoRA, and no other's.

    Attributes:
        triggered: without the trigger they show how far the LoRA alone calls the concept.
    """

    name: str = "single LoRA"
    triggered: bool = True
    placed: bool = False

    def __call__(self, studio: Studio, shot: Shot, plain: Take) -> list[Take]:
        return [studio.by_lora(shot, index, self.triggered) for index in shot.everyone]


@dataclass(frozen=True)
class SimultaneousLoras:
    """One prompt with all trigger words, and all LoRAs at once on everything (the paper's Fig. 2 a)."""

    name: str = "simultaneous LoRAs"
    placed: bool = False

    def __call__(self, studio: Studio, shot: Shot, plain: Take) -> list[Take]:
        return [studio.plain(shot, shot.cast.shot(shot.scene).named(shot.everyone), shot.everyone)]


@dataclass(frozen=True)
class FaceAlone:
    """The upper bound without LoRAs: for each concept pictures of the whole scene with its face, and no other's.

    Attributes:
        by_lora: concepts that have their LoRA instead.
    """

    name: str = "face alone"
    by_lora: Collection[int] = ()
    placed: bool = False

    def __call__(self, studio: Studio, shot: Shot, plain: Take) -> list[Take]:
        return [studio.by_lora(shot, index) if index in self.by_lora else studio.by_faces(shot, (index,))
                for index in shot.everyone]


@dataclass(frozen=True)
class FacesAtOnce:
    """InstantID with all faces at once on everything (the paper's Fig. 9)."""

    name: str = "faces at once"
    placed: bool = False

    def __call__(self, studio: Studio, shot: Shot, plain: Take) -> list[Take]:
        return [studio.by_faces(shot, shot.everyone)]


@dataclass(frozen=True)
class Regional:
    """Mix-of-Show's sampling (:mod:`bench.world.regional`) in the places where the reader sees the figures.

    The places come from the ordinary pictures, so these count as its first pass, with their rows and seconds.
    """

    name: str = "regional prompts"
    placed: bool = True

    def __call__(self, studio: Studio, shot: Shot, plain: Take) -> list[Take]:
        called, everyone = shot.cast.shot(shot.scene), shot.everyone
        start = time.perf_counter()
        pictures = [FirstPicture.of(picture) for picture in plain.pictures]
        request = parse_request(shot.request)
        (height, width), (rows, columns) = plain.pictures.shape[1:3], shot.latents.shape[2:]
        sizes = (height, width), (rows, columns)
        models = Models()
        places = find_places(request, given_masks(request, *sizes, models), pictures, *sizes, models)
        contexts = torch.cat([encode(studio.pipe, called.alone(index), None, {}).cond
                              for index in everyone])
        seconds = time.perf_counter() - start
        with regional_attention(studio.pipe.unet, contexts, places.weights):
            take = studio.plain(shot, called.plain + called.tags(everyone), everyone)
        return [replace(take, rows=plain.rows + take.rows, seconds=plain.seconds + seconds + take.seconds,
                        masks=places.masks)]


@dataclass(frozen=True)
class Omg:
    """Each concept is put where the detector sees it in the first pass.

    Attributes:
        options: fields of the request that differ: by default it is the paper's way, from 0.3 of the trajectory on,
            with the masks of the reader.
        alone: a concept's prompt is that of a picture of the concept alone, not of the whole picture.
        concept: fields of each concept that differ.
        by_face: concepts that have a face instead of a LoRA.
    """

    name: str = "OMG"
    options: Mapping[str, Any] = field(default_factory=dict)
    alone: bool = False
    concept: Mapping[str, Any] = field(default_factory=dict)
    by_face: Collection[int] = ()
    placed: bool = True

    def __call__(self, studio: Studio, shot: Shot, plain: Take) -> list[Take]:
        cast = shot.cast
        concepts = [{**cast.concept(shot.scene, index, self.alone, index in self.by_face),
                     "cfg_scale": studio.cfg_scale, "face_scale": FACE_SCALE, **self.concept}
                    for index in shot.everyone]
        request = {**shot.request, "concepts": concepts, "predict": "separate", "blend_start": 0.3, **self.options}
        return [studio.draw(shot, cast.prompt(shot.scene), request, shot.everyone,
                            [index for index in shot.everyone if index in self.by_face])]
