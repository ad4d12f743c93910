"""One press of Generate: what its batches and their hires passes share, and what they give back."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from modules import shared
from PIL import Image
from torch import Tensor

from ..comprehension.overlay import overlay
from ..comprehension.places import Places
from ..errors import OMGError
from ..host import Prompts
from ..infotext import FIRST_PASS, MASK, WHO_IS_WHERE, infotext_value
from ..passes.account import HIRES, Account
from ..passes.memory import Memory
from ..passes.noise import Noise
from ..passes.session import Session
from ..request import Request
from . import settings
from .batch import OpenHost, Sample
from .conditioning import forget_kept
from .engine import engine
from .given import GivenPictures
from .models import models
from .preview import Preview, key_of
from .prompts import REWRITTEN, as_drawn, for_all_pictures, is_rewritten_by_others

PictureOf = Callable[[int], npt.NDArray[np.uint8]]
"""Of each number in the batch, [H, W, 3]"""

REUSED = "the first picture is that of the preview; it was not drawn again"
# what the progress line says
FIRST, FINDING, SECOND = "OMG: first picture", "OMG: finding the concepts", "OMG: drawing the concepts"
UNREFINED = "this is the picture before the refiner"
UPSCALED_LATER = ("a finished picture was upscaled, without the concepts: their places are known only while OMG draws "
                  "it; use Hires. fix in the same run")


@dataclass(frozen=True)
class Picture:
    """An extra picture for the user.

    Attributes:
        number: of the result it belongs to, of all batches.
        kind: as in a request's ``show``.
        title: what it shows.
        image: itself.
        is_shown: whether it is returned; if not it is to be a file alone.
    """

    number: int
    kind: str
    title: str
    image: Image.Image
    is_shown: bool = True


@dataclass
class Job:
    """
    Attributes:
        p: the web UI's processing object.
        memory: budgets, and the numbers of rows that were found to fit.
        kept: what was read for this model, see :meth:`.Engine.kept`.
        prompts: each concept's for all pictures of all batches, once the first is drawn.
        places: where the concepts are in the batch at hand; None if its first pass was broken off, or never ran.
        pictures: extra pictures of all batches.
        accounts: what each batch took.
        saved: of each batch, whether the web UI saves its results.
        is_counted: whether the progress bar knows of the second passes.
        has_drawn: whether any of its passes was asked for.
    """

    p: weakref.ref[Any]
    memory: Memory = field(default_factory=settings.memory)
    kept: Any = field(default_factory=lambda: engine().kept())
    model: weakref.ref[Any] = field(default_factory=lambda: weakref.ref(shared.sd_model))
    prompts: list[Prompts] = field(default_factory=list)
    places: Places | None = None
    pictures: list[Picture] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    saved: list[bool] = field(default_factory=list)
    is_counted: bool = False
    has_drawn: bool = False

    @classmethod
    def of(cls, p: Any) -> Job:
        """The job of a processing object; a copy of one starts its own."""
        job = getattr(p, "omg_job", None)
        if job is None or job.p() is not p:
            job = p.omg_job = cls(weakref.ref(p))
        if job.model() is not shared.sd_model:
            job.kept, job.model = engine().kept(), weakref.ref(shared.sd_model)
        return job

    def draw(self, request: Request, sample: Sample, noise: Tensor, shown: Preview) -> tuple[Tensor, Sequence[str]]:
        """Both passes of one batch.

        Args:
            request: the validated request.
            sample: runs the host's sampler once, from the start.
            noise: what it starts from.
            shown: the first pass that the user has seen; if it is this one it is not drawn again.

        Returns:
            Latents [B, C, h, w], and what the user should know.

        Raises:
            OMGError: anything the user can mend; nothing stays hooked.
        """
        self.places = None
        stages: list[str] = []
        host = self._host(request, _told(sample, stages))
        session = Session(host, request, self.memory, models())
        at_once = request.first_pass == "prefix"
        key = key_of(self._processing, request, noise) if shown.key and not at_once else None
        first = shown.result(key, session.comprehension.phrases)
        self._expect(0 if at_once else self._processing.n_iter - (first is not None))
        stages += [SECOND] if at_once or first is not None else [FIRST, FINDING, SECOND]
        self.accounts.append(session.account)
        drawn = session.draw(first)
        self.places = drawn.places
        if drawn.latents is drawn.first and not at_once:
            host.refiner.undo()  # the web UI goes on with the picture's own autoencoder
        saved, seen = self._also_made, partial(host.decode, drawn.first)
        with host.refiner.put_aside() if {"first_pass", "overlay"} & {*request.show, *saved} else nullcontext():
            self.pictures += _shown(request, seen, seen, drawn.places, self._before, saved)
        warnings = [*drawn.warnings, *(host.refiner.notes if drawn.places else []),
                    *([REWRITTEN] if is_rewritten_by_others(self._processing) else [])]
        if first is not None:
            forget_kept()  # with it there may be no step left in which the UNet is called
            self._processing.comment(f"OMG: {REUSED}")  # no warning: the picture is the same, and so is its infotext
        return drawn.latents, warnings

    def preview(self, request: Request, sample: Sample, noise: Tensor,
                shown: Preview | None) -> tuple[Tensor, Sequence[str]]:
        """The first pass of one batch, and the concepts found in it. The job's first is kept to go on from.

        A concept that is not found is told, even if the request is strict. Arguments, results and errors as
        :meth:`draw`.

        Args:
            shown: takes the place of the first pass that the user has seen; without, nothing is kept.
        """
        p = self._processing
        key = key_of(p, request, noise)
        p.enable_hr = False  # what would be upscaled is not there yet
        if shown is not None and not self._before:
            shown.drop()
        host = self._host(request, _told(sample, [FIRST, FINDING]))
        session = Session(host, msgspec.structs.replace(request, strict=False), self.memory, models())
        self._expect(0)
        self.accounts.append(session.account)
        drawn, first = session.preview()
        self.places = drawn.places
        if self.places is not None:
            seen = partial(host.decode, drawn.latents)
            self.pictures += _shown(msgspec.structs.replace(request, show=("overlay",)), seen, seen, self.places,
                                    self._before)
        if shown is not None and not self._before and self.places is not None:
            shown.keep(key, first, host.decode(drawn.latents, 0), self.pictures[0].image)
        elif first is not None:
            first.layout.store.clear()
        lacks_end = host.refines and request.first_pass == "whole"
        return drawn.latents, [*drawn.warnings, *([UNREFINED] if lacks_end else [])]

    def draw_hires(self, request: Request, sample: Sample, upscaled: Tensor) -> tuple[Tensor, Sequence[str]]:
        """The hires pass of one batch: one pass, with the concepts where the first pass had them.

        The picture's layout is there already, so nothing is replayed. Arguments and errors as :meth:`draw`.

        Args:
            upscaled: what the sampler adds noise to, [B, C, h, w].
        """
        host = self._host(request, sample)
        if self._is_upscaled_later:
            self.accounts.append(Account())
        with self.accounts[-1].stage(HIRES, host.unet):
            return self._hires(host, request, sample, upscaled)

    def _hires(self, host: OpenHost, request: Request, sample: Sample,
               upscaled: Tensor) -> tuple[Tensor, Sequence[str]]:
        """See :meth:`draw_hires`."""
        if self.places is None:
            return sample(), [UPSCALED_LATER] if self._is_upscaled_later else []
        if host.stopped:  # skipped as the concepts were drawn: of this batch the web UI would show noise
            return upscaled, []
        if not self.places:
            return sample(), []
        session, noise = Session(host, request, self.memory, models()), Noise.of(host.generators)
        try:
            latents, warnings = session.second(session.load(), self.places)
            return latents, [*warnings, *host.refiner.notes]
        except OMGError as error:
            if request.strict or not self._has_hires_checkpoint:
                raise
            reason = str(error)  # both passes are paid for, and the hires checkpoint could not be looked at before
        except Exception as error:
            reason = session.reason(error)
        noise.restore(host.generators)
        return sample(), [f"drawing the concepts failed, so the picture was upscaled without them: {reason}"]

    def draw_over(self, request: Request, sample: Sample, shown: Preview) -> tuple[Tensor, Sequence[str]]:
        """One batch of img2img: one pass, with the concepts where they are in the given pictures.

        Arguments, results and errors as :meth:`draw`.
        """
        shown.drop()
        self.places = None
        over = GivenPictures.of(self._processing, request)
        host = self._host(over.request, _told(sample, [SECOND]))
        shared.state.textinfo = FINDING
        session = Session(host, over.request, self.memory, models())
        self.accounts.append(session.account)
        drawn = session.over(over.given)
        self._keep_places(request, over, drawn.places, self._also_made)
        return drawn.latents, [*drawn.warnings, *(host.refiner.notes if drawn.places else []),
                               *([REWRITTEN] if is_rewritten_by_others(self._processing) else [])]

    def preview_over(self, request: Request, sample: Sample, shown: Preview | None) -> tuple[Tensor, Sequence[str]]:
        """The given pictures of one batch of img2img as they are, and the concepts found in them. Nothing is drawn.

        Arguments, results and errors as :meth:`preview`.
        """
        if shown is not None:
            shown.drop()
        self.places = None
        over = GivenPictures.of(self._processing, msgspec.structs.replace(request, strict=False))
        shared.state.textinfo = FINDING
        session = Session(self._host(over.request, sample), over.request, self.memory, models())
        self.accounts.append(session.account)
        drawn = session.preview_over(over.given)
        self._keep_places(msgspec.structs.replace(request, show=("overlay",)), over, drawn.places)
        if shown is not None and not self._before and self.pictures:
            shown.keep(None, None, over.whole[0], self.pictures[0].image)
        return drawn.latents, drawn.warnings

    def _keep_places(self, request: Request, over: GivenPictures, places: Places | None,
                     saved: Sequence[str] = ()) -> None:
        """Where the concepts are in the results of a batch, and the extra pictures of that; ``saved`` as for those."""
        self.places = None if places is None else over.frame.shown(places)
        self.pictures += _shown(request, over.given.picture, over.whole.__getitem__, self.places, self._before, saved)

    def infotext(self, request: Request) -> str | list[str]:
        """The request for the infotext of the batch at hand, as each picture was drawn (wildcards make them differ).

        The web UI takes a picture's entry of a list, by its number within the batch.
        """
        p, prompts = self._processing, self._prompts(request)
        first = p.iteration * p.batch_size
        if all(concept.prompt.strip() for concept in request.drawn):
            request = msgspec.structs.replace(request, preview=False)  # pasted, it is drawn
        texts = [infotext_value(as_drawn(request, prompts, first + number)) for number in range(len(p.prompts))]
        return texts[0] if len(set(texts)) == 1 else texts

    def found(self) -> list[str]:
        """What the detector saw in each picture of the batch at hand, as JSON; empty if nothing was sought."""
        findings = [] if self.places is None else self.places.findings
        return [json.dumps([finding.data() for finding in of_picture]) for of_picture in findings] \
            if any(findings) else []

    def to_save(self, kinds: Sequence[str]) -> list[Picture]:
        """Those of the extra pictures that become files, of these kinds."""
        size = self._processing.batch_size
        return [extra for extra in self.pictures if extra.kind in kinds
                and any(self.saved[extra.number // size:extra.number // size + 1])]

    def spent(self) -> list[dict[str, Any]]:
        """Seconds and rows of the UNet by stage, for each batch."""
        return [account.data() for account in self.accounts]

    def _host(self, request: Request, sample: Sample) -> OpenHost:
        self.has_drawn = True
        return engine().open_host(self._processing, sample, self.kept, self._prompts(request), request)

    def _prompts(self, request: Request) -> list[Prompts]:
        if not self.prompts:
            self.prompts = [for_all_pictures(self._processing, concept) for concept in request.concepts]
        return self.prompts

    @property
    def _processing(self) -> Any:
        return self.p()

    @property
    def _is_upscaled_later(self) -> bool:
        """The first pass of this job never ran: the picture comes from an earlier one."""
        return not self.is_counted

    @property
    def _has_hires_checkpoint(self) -> bool:
        return getattr(self._processing, "hr_checkpoint_info", None) is not None

    @property
    def _also_made(self) -> Sequence[str]:
        """Kinds of extra pictures that become files, whether they are shown or not."""
        return settings.saved_pictures() if self._processing.save_samples() else ()

    @property
    def _before(self) -> int:
        """How many results were drawn before the batch at hand."""
        return int(self._processing.iteration * self._processing.batch_size)

    def _expect(self, passes: int) -> None:
        """The progress bar counts the steps of so many more passes, as the web UI does for hires fix."""
        p = self._processing
        if not self.is_counted:
            self.is_counted = True
            shared.state.job_count += passes
        shared.total_tqdm.updateTotal(shared.state.job_count * p.steps)


def _told(sample: Sample, stages: list[str]) -> Sample:
    """The same, with the progress line saying what it does, and what comes after it.

    Args:
        stages: the texts in turn, two for each time. They are used up; of what is drawn after them nothing is said.
    """
    def told() -> Tensor:
        shared.state.textinfo = stages.pop(0) if stages else None
        latents = sample()
        shared.state.textinfo = stages.pop(0) if stages else None
        return latents

    return told


def _shown(request: Request, first: PictureOf, seen: PictureOf, places: Places | None, before: int,
           saved: Sequence[str] = ()) -> list[Picture]:
    """The extra pictures of a batch, before which so many results were drawn.

    Args:
        first: the first picture of each number in the batch.
        seen: the same, as large as the masks.
        saved: kinds that are to be there whether they are shown or not.
    """
    pictures: list[Picture] = []

    def add(kind: str, title: str, image: Any) -> None:
        # Forge writes into the pixels of what is saved, and takes grey ones for colours
        shown = Image.fromarray(image).convert("RGB")
        pictures.append(Picture(before + index, kind, title, shown, kind in request.show))

    wanted = {*request.show, *saved}
    for index, masks in enumerate([] if places is None else places.masks):
        if "first_pass" in wanted:
            add("first_pass", FIRST_PASS, first(index))
        if "overlay" in wanted and places is not None:
            names = [concept.phrase for concept in request.concepts]
            add("overlay", WHO_IS_WHERE, overlay(seen(index), places.findings[index], masks, names, request.rest))
        if "masks" in wanted:
            for number, mask in enumerate(masks, 1):
                if mask is not None:
                    add("masks", f"{MASK} {number}", (255 * mask).astype("uint8"))
    return pictures
