"""The extension's life in one generation of the web UI, from its script callbacks to its pictures and messages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from fastapi import HTTPException
from torch import Tensor

from ..errors import OMGError
from ..request import Request, parse_request
from .infotext import infotext_value
from .run import run_hires_pass, run_two_passes
from .ui import request_from_args


class RefusedRequest(HTTPException):
    """Status 422 at the API; in the UI the web UI shows the text of an exception."""

    def __init__(self, error: OMGError):
        super().__init__(status_code=422, detail=str(error))

    def __str__(self) -> str:
        return str(self.detail)


def before_sampling(p: Any, args: Sequence[Any]) -> None:
    """Make the sampler about to be used run OMG's passes, if the user asks for it.

    The web UI swallows what a script callback raises, so even reading the request waits until sampling starts.
    """
    method, run = ("sample_img2img", run_hires_pass) if p.is_hr_pass else ("sample", run_two_passes)
    sampler = p.sampler

    def sample(*sample_args: Any, **sample_kwargs: Any) -> Tensor:
        delattr(sampler, method)
        once = partial(getattr(sampler, method), *sample_args, **sample_kwargs)
        try:
            request = _request(args)
            if request is None:
                return once()
            result = run(p, request, once)
            p.extra_generation_params["OMG"] = infotext_value(request)
        except OMGError as error:
            raise RefusedRequest(error) from error
        _tell(p, result.warnings)
        p.omg_pictures = getattr(p, "omg_pictures", []) + result.pictures
        return result.latents

    setattr(sampler, method, sample)


def _tell(p: Any, warnings: Sequence[str]) -> None:
    """In the comments under the picture and in its infotext."""
    for warning in warnings:
        p.comment(f"OMG: {warning}")
    if warnings:
        p.extra_generation_params["OMG warnings"] = "; ".join(warnings)


def _request(args: Sequence[Any]) -> Request | None:
    data = request_from_args(args)
    if data is None:
        return None
    request = parse_request(data)
    return request if request.enabled else None


def postprocess(p: Any, processed: Any) -> None:
    """Show the pictures the user asked for behind the results."""
    for picture in getattr(p, "omg_pictures", []):
        processed.images.append(picture.image)
        processed.infotexts.append(f"OMG: {picture.title}")
