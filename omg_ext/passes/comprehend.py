"""Visual comprehension (Sec. 3.2) in the pictures of a batch: what a detector is given to see, and how it looks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ..comprehension import FirstPicture, Models, get_detector
from ..comprehension.confine import confined
from ..comprehension.heat import HeatMaps, StagePositions
from ..comprehension.masks import FloatArray
from ..comprehension.phrases import find
from ..comprehension.places import Places, find_places
from ..host import Host
from ..request import Request
from ..unet.calls import every_row
from ..unet.class_tokens import ClassTokenAttention
from ..unet.evaluator import Evaluator
from ..unet.networks import RowNetworks
from ..unet.patches import Patches
from .account import FINDING, Account
from .contrast import Contrast
from .given import Given, attended
from .memory import Memory
from .noise import Noise


class Comprehension:
    """Finds the concepts of a request.

    Args:
        account: of what is spent.
    """

    def __init__(self, host: Host, request: Request, memory: Memory, models: Models, account: Account):
        self._host, self._request, self._memory, self._models, self._account = host, request, memory, models, account

    @property
    def phrases(self) -> list[str]:
        """Those whose cross-attention the detector asks for."""
        if not get_detector(self._request.detector).needs_attention:
            return []
        return sorted({concept.phrase for concept in self._request.concepts if concept.needs_detection})

    def attention(self, patches: Patches) -> ClassTokenAttention | None:
        """What records it while a picture is drawn; None if nothing asks for it."""
        if not self.phrases:
            return None
        positions = {part: [StagePositions(stage.until, [find(phrase, stage.words) for phrase in self.phrases])
                            for stage in stages] for part, stages in self._host.prompt_words().items()}
        return ClassTokenAttention(patches, self.phrases, positions)

    def __call__(self, seen: Tensor, heat: HeatMaps | None, given: Sequence[FloatArray | None],
                 relieve: Callable[[], bool] = lambda: False,
                 picture: Callable[[int], npt.NDArray[np.uint8]] | None = None) -> Places:
        """Each concept's mask in each picture.

        Args:
            seen: the pictures' finished latents, or what they are going to be, [B, C, h, w].
            heat: what was attended to while they were drawn.
            given: the masks that need no search, see :func:`omg_ext.comprehension.places.given_masks`.
            relieve: gives memory back, see :class:`omg_ext.unet.evaluator.Evaluator`.
            picture: one of them by its number; None decodes it.
        """
        host, picture = self._host, picture or partial(self._host.decode, seen)
        limit, noise = self._memory.limit(False, host.latent_size), Noise.of(host.generators)
        with self._account.stage(FINDING, host.unet), Patches(host.unet) as patches:
            RowNetworks(patches, [(every_row, host.style)])
            contrast = Contrast(host, Evaluator(patches, limit, relieve), seen)
            pictures = [FirstPicture(prompt, partial(picture, number), partial(_heat, heat, number),
                                     partial(contrast, number), host.wordings(prompt))
                        for number, prompt in enumerate(host.prompts)]
            places = find_places(self._request, given, pictures, host.size, host.latent_size, self._models)
        noise.restore(host.generators)  # encoding a blank picture for an inpainting model draws random numbers
        return places

    def in_given(self, given: Given, masks: Sequence[FloatArray | None]) -> Places:
        """The same in given pictures (img2img), but for what has no place in them.

        Args:
            masks: those that need no search, see :func:`omg_ext.comprehension.places.given_masks`.
        """
        host, phrases, heat = self._host, self.phrases, None
        if phrases:
            noise = Noise.of(host.generators)
            with self._account.stage(FINDING, host.unet), Patches(host.unet) as patches:
                RowNetworks(patches, [(every_row, host.style)])
                evaluator = Evaluator(patches, self._memory.limit(False, host.latent_size))
                heat = attended(host, evaluator, given.latents, phrases)
            noise.restore(host.generators)
        places = self(given.latents, heat, masks, picture=given.picture)
        return confined(places, self._request, given.drawn, given.outside, host.latent_size)


def _heat(heat: HeatMaps | None, picture: int, phrase: str) -> npt.NDArray[np.float32] | None:
    return heat.of(picture, phrase) if heat is not None else None
