"""``/omg/v1``: which detectors there are, and what one sees in a picture, in the first pass of one, or in what img2img
is given."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from modules import devices
from modules.call_queue import queue_lock
from PIL import Image
from pydantic import ValidationError

from ..comprehension import DETECTORS, FirstPicture, get_detector
from ..comprehension.masks import encode_mask
from ..comprehension.models import require
from ..comprehension.places import Finding, Places, find_places
from ..errors import OMGError
from ..request import Detect, parse_request
from ..request.pictures import DAMAGED
from . import about, presets_rest
from .models import models

TABS = ("txt2img", "img2img")
ROUTE = "/sdapi/v1/{tab}"
SEEN = ("image", *TABS)
"""What a body may have to be looked at, one of them."""
# more than any card makes
MOST_PIXELS = 64_000_000


def register(app: Any) -> None:
    """Add the routes to a web UI that has its API, behind the same ``--api-auth``; to be called when it has started."""
    paths = {ROUTE.format(tab=tab): tab for tab in TABS}
    hosts = {paths[route.path]: route for route in app.routes if getattr(route, "path", "") in paths}
    if len(hosts) < len(paths):
        return
    guard = list(hosts["txt2img"].dependencies)
    app.add_api_route("/omg/v1/schema", about.schema, methods=["GET"], dependencies=guard)
    app.add_api_route("/omg/v1/version", about.version, methods=["GET"], dependencies=guard)
    app.add_api_route("/omg/v1/detectors", detectors, methods=["GET"], dependencies=guard)
    presets_rest.register(app, guard)
    app.add_api_route("/omg/v1/detect", _detect_with(hosts), methods=["POST"], dependencies=guard)


class Awaited(dict[str, Any]):
    """A request whose sender waits for what is found, and not for a picture.

    Attributes:
        findings: by picture, once the preview is drawn.
        warnings: what the sender should know.
    """

    findings: Sequence[Sequence[Finding]] = ()
    warnings: Sequence[str] = ()

    def add(self, places: Places) -> None:
        """What was found in one batch."""
        self.findings = [*self.findings, *places.findings]
        self.warnings = [*self.warnings, *places.warnings]


def detectors() -> list[dict[str, Any]]:
    """Every detector, and what it needs: ``ready``, and for each need its ``kind``, ``name``, ``is_there``, and for a
    file that is missing its ``size`` in bytes, the ``page`` it comes from, the ``folder`` it belongs in, and the
    ``downloads`` that make it up."""
    options, tools = Detect(), models()
    answer = []
    for name, detector in DETECTORS.items():
        needs = [need for need in detector.needs(options, tools) if need.kind != "place"]  # a request's to give
        answer.append({
            "name": name, "ready": all(need.is_there for need in needs), "needs_first_pass": detector.goes_by_prompt,
            "needs": [{key: str(value) if key in ("path", "folder") and value else value
                       for key, value in asdict(need).items()} for need in needs]})
    return answer


def _detect_with(hosts: Mapping[str, Any]) -> Any:
    """The endpoint.

    Args:
        hosts: the web UI's own routes, by tab.
    """
    async def detect(request: Request) -> dict[str, Any]:
        """What a detector sees.

        The body: ``phrases``, a list of texts; ``image``, a base64 picture, ``txt2img``, the body of a txt2img call
        whose first pass is drawn, or ``img2img``, the body of an img2img call, whose pictures are looked at and not
        drawn; and, if they are to differ from the defaults, ``detector`` and ``detect``, as in a request. A phrase that
        stands several times in the list asks for as many instances.

        The answer: ``pictures``, for each a list of instances from left to right with ``phrases`` (and their scores),
        ``box`` and ``area`` in fractions of the picture, and ``mask``, a base64 PNG; and ``warnings``, such as of a
        phrase that was not found.
        """
        try:
            body = await request.json()
        except ValueError as error:
            raise HTTPException(422, f"OMG: request: this is not JSON: {error}") from None
        try:
            asked = _asked(body)
            tab = next((tab for tab in TABS if tab in body), None)
            look = _in_picture if tab is None else partial(_in_call, tab, hosts[tab])
            found = await run_in_threadpool(look, body, asked)
        except OMGError as error:
            raise HTTPException(422, str(error)) from error
        return {"pictures": [[{**finding.data(), "mask": encode_mask(finding.instance.mask)} for finding in of_picture]
                             for of_picture in found.findings], "warnings": list(found.warnings)}

    return detect


def _asked(body: Any) -> dict[str, Any]:
    """The body as a request for a preview.

    Raises:
        OMGError: naming the field that is wrong.
    """
    if not isinstance(body, dict) or not isinstance(body.get("phrases"), list) or not body["phrases"]:
        raise OMGError("phrases", "expected a list of texts: what to look for")
    known = ("phrases", *SEEN, "detector", "detect")
    unknown = set(body) - set(known)
    if unknown:
        raise OMGError(min(unknown), f"unknown field; known here: {', '.join(known)}")
    if sum(name in body for name in SEEN) != 1:
        raise OMGError("image", "give either `image`, `txt2img` or `img2img`")
    request = {"concepts": [{"phrase": phrase, "prompt": ""} for phrase in body["phrases"]], "preview": True,
               **{name: body[name] for name in ("detector", "detect") if name in body}}
    get_detector(parse_request(request).detector)
    return request


def _in_call(tab: str, host: Any, body: dict[str, Any], asked: dict[str, Any]) -> Awaited:
    payload = body[tab]
    if not isinstance(payload, dict) or not isinstance(payload.get("alwayson_scripts", {}), dict):
        raise OMGError(tab, f"expected the body of a {tab} call")
    awaited = Awaited(asked)
    scripts = {**payload.get("alwayson_scripts", {}), "OMG": {"args": [awaited]}}
    try:
        call = host.body_field.type_(**{**payload, "send_images": False, "save_images": False,
                                        "alwayson_scripts": scripts})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise OMGError(tab, f"the web UI does not take it: {wrong}") from None
    try:
        host.endpoint(call)
    except HTTPException as error:  # what it refuses, such as a picture that it cannot read
        raise error if str(error.detail).startswith("OMG: ") else OMGError(tab, str(error.detail)) from error
    if not awaited.findings:
        ended = "no first pass was finished" if tab == "txt2img" else "the pictures were not looked at"
        raise OMGError(tab, f"{ended}: it was broken off, or another script samples in its own way")
    return awaited


def _in_picture(body: dict[str, Any], asked: dict[str, Any]) -> Places:
    request, picture = parse_request(asked), _picture(body["image"])
    detector, tools = get_detector(request.detector), models()
    if detector.goes_by_prompt:
        raise OMGError("detector", f"`{detector.name}` looks at how a picture is made; send `txt2img` or `img2img`, or "
                                   "name another detector")
    require(detector.name, detector.needs(request.detect, tools), tools.remedy)
    size = picture.shape[0], picture.shape[1]
    with queue_lock, devices.without_autocast():
        # on any grid: nothing is blended
        return find_places(request, [None] * len(request.concepts), [FirstPicture.of(picture)], size, size, tools)


def _picture(text: Any) -> npt.NDArray[np.uint8]:
    """A base64 picture, uint8 [H, W, 3].

    Raises:
        OMGError: it is none.
    """
    try:
        data = base64.b64decode(str(text).rpartition(",")[2], validate=True)
        with Image.open(io.BytesIO(data)) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise OMGError("image", f"it has more than {MOST_PIXELS // 1_000_000} million pixels")
            return np.asarray(opened.convert("RGB"))
    except (*DAMAGED, Image.DecompressionBombError):
        raise OMGError("image", "this is no base64-encoded picture, or it is broken") from None

