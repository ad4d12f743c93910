"""The extension's life in one generation of the web UI, from its script callbacks to its pictures and messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from fastapi import HTTPException
from modules import shared
from torch import Tensor

from ..errors import OMGError
from ..infotext import FOUND, KEY, RUN, WARNINGS, picture_infotext
from ..request import Request, parse_request
from . import settings
from .batch import Sample
from .conditioning import forget_kept
from .given import is_given
from .job import Job, Picture
from .preview import Preview
from .replacing import replaced
from .rest import Awaited
from .saving import save
from .ui import request_from_args

NOT_DRAWN = ("the concepts were not drawn, since another script or extension (such as DemoFusion) samples in a way of "
             "its own; turn it off for pictures with OMG")


class RefusedRequest(HTTPException):
    """Status 422 at the API; in the UI the web UI shows the text of an exception."""

    def __init__(self, error: OMGError):
        super().__init__(status_code=422, detail=str(error))

    def __str__(self) -> str:
        return str(self.detail)


def concerns(script: Any, p: Any) -> bool:
    """Whether the script is to act in a processing object of the web UI.

    Other extensions hand all scripts of a tab into pictures of their own, for which the user has not asked for
    concepts: ADetailer those of faces, which it draws by img2img, whatever the tab.
    """
    return is_given(p) == script.is_img2img and not getattr(p, "_ad_inner", False)


def start(p: Any) -> None:
    """A run of the web UI begins, perhaps with a processing object that had one before: the batch tab, Loopback and
    others go on with theirs, and change its pictures, prompts and seeds."""
    vars(p).pop("omg_job", None)
    for key in (KEY, FOUND, WARNINGS):
        p.extra_generation_params.pop(key, None)


def before_sampling(p: Any, args: Sequence[Any], shown: Preview) -> None:
    """Make the sampler about to be used run OMG's passes, if the user asks for it.

    The web UI swallows what a script callback raises, so even reading the request waits until sampling starts.

    Args:
        p: the web UI's processing object.
        args: the script's.
        shown: the first pass that the user has seen last.
    """
    if getattr(p, "omg_waits_for", None) is p.sampler:
        return  # Forge calls scripts twice before a hires pass
    p.omg_waits_for = p.sampler
    method = "sample_img2img" if p.is_hr_pass or is_given(p) else "sample"
    waiting = ExitStack()

    def sample(*sample_args: Any, **sample_kwargs: Any) -> Tensor:
        waiting.close()  # the sampler is as it was, so that it can be asked to sample twice
        p.omg_waits_for = None
        once = partial(getattr(p.sampler, method), *sample_args, **sample_kwargs)
        try:
            request = _request(args)
            if request is None:
                shown.drop()  # its memory is wanted elsewhere
                return once()
            job = Job.of(p)
            awaited = args[0] if isinstance(args[0], Awaited) else None
            start = _start(*sample_args, **sample_kwargs)
            latents, warnings = _drawn(job, p, request, once, start, shown, is_seen=awaited is None)
            if awaited is not None and job.places is not None:
                awaited.add(job.places)
        except OMGError as error:
            forget_kept()
            raise RefusedRequest(error) from error
        finally:
            shared.state.textinfo = None
        p.extra_generation_params[KEY] = job.infotext(request)
        p.extra_generation_params.pop(FOUND, None)
        if found := job.found():
            p.extra_generation_params[FOUND] = found
        _tell(p, warnings)
        return latents

    waiting.enter_context(replaced(p.sampler, method, sample))


def _drawn(job: Job, p: Any, request: Request, once: Sample, start: Tensor, shown: Preview, *,
           is_seen: bool) -> tuple[Tensor, Sequence[str]]:
    """Latents, and what the user should know.

    Args:
        once: runs the host's sampler.
        start: what it starts from.
        is_seen: whether a preview is for the page, which goes on from it.
    """
    if p.is_hr_pass:
        return job.draw_hires(request, once, start)
    if is_given(p):
        return (job.preview_over(request, once, shown if is_seen else None) if request.preview
                else job.draw_over(request, once, shown))
    if request.preview:
        return job.preview(request, once, start, shown if is_seen else None)
    return job.draw(request, once, start, shown)


def before_batch(p: Any, args: Sequence[Any]) -> None:
    """Have the request in the infotext before sampling: the web UI then writes `params.txt`, from which its arrow
    restores the last generation.

    By now other scripts have rewritten the prompts. A request that cannot be done is refused once sampling starts.
    """
    with suppress(OMGError):
        request = _request(args)
        if request is not None:
            p.extra_generation_params[KEY] = Job.of(p).infotext(request)


def _tell(p: Any, warnings: Sequence[str]) -> None:
    """In the comments under the picture and in its infotext: those of this batch, whose hires pass may add some."""
    before = p.extra_generation_params.pop(WARNINGS, None)
    told = [before] if before and p.is_hr_pass else []
    for warning in warnings:
        p.comment(f"OMG: {warning}")
    if told or warnings:
        p.extra_generation_params[WARNINGS] = "; ".join([*told, *warnings])


def _request(args: Sequence[Any]) -> Request | None:
    data = request_from_args(args)
    if data is None:
        return None
    request = parse_request(data)
    return request if request.enabled else None


def _start(p: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What the sampler starts from, of its arguments: noise; of a hires pass the picture that is upscaled."""
    return x


def after_batch(p: Any) -> None:
    """Keep whether the web UI is about to save this batch's results: that changes if it is broken off later."""
    job = getattr(p, "omg_job", None)
    if job is not None:
        job.saved.append(p.save_samples())


def postprocess(p: Any, processed: Any) -> None:
    """Show the pictures the user asked for behind the results, each with all that the web UI knows of a picture.

    Save, Zip and the buttons that reuse a seed read it.
    """
    if not processed.images:
        return  # ADetailer calls all scripts so, with nothing, before it redraws a batch's first picture
    job = getattr(p, "omg_job", None)
    if job is not None and not job.has_drawn and not shared.state.interrupted and not shared.state.skipped:
        # what the user reads is written by now
        processed.comments += f"OMG: {NOT_DRAWN}\n"
        processed.infotexts = [f"{text}, {WARNINGS}: {json.dumps(NOT_DRAWN)}" for text in processed.infotexts]
    if job is not None and job.accounts:
        # no infotext has it, which is to be the same whenever the same is drawn
        processed.extra_generation_params = {**processed.extra_generation_params, RUN: job.spent()}
    first, end = processed.index_of_first_image, len(processed.infotexts)

    def text_of(extra: Picture) -> str:
        return picture_infotext(processed.infotexts[first + extra.number], extra.title)

    if job is not None:
        for extra in job.to_save(settings.saved_pictures()):
            save(p, extra.number, extra.image, text_of(extra), extra.title, processed.all_seeds[extra.number],
                 processed.all_prompts[extra.number])
    extras = [] if job is None else [extra for extra in job.pictures if extra.is_shown]
    texts = [text_of(extra) for extra in extras]
    for extra, text in zip(extras, texts, strict=True):
        if shared.opts.enable_pnginfo:
            extra.image.info["parameters"] = text
    # before pictures of other extensions that have no infotext, so that both lists go on in step; behind all where the
    # web UI has put masks between the results
    at = len(processed.images) if _has_masks_between(p) else end
    processed.images[at:at] = [extra.image for extra in extras]
    processed.infotexts += texts
    for name in ("all_prompts", "all_negative_prompts", "all_seeds", "all_subseeds"):
        values = getattr(processed, name)
        added = [values[extra.number] for extra in extras]
        # a list of its own, as this one is the processing object's; it does not count the grid
        setattr(processed, name, [*values[:end - first], *added, *values[end - first:]])


def _has_masks_between(p: Any) -> bool:
    options = shared.opts
    return getattr(p, "mask_for_overlay", None) is not None and (options.return_mask or options.return_mask_composite)
