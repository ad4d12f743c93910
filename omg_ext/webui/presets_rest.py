"""``/omg/v1/presets``: sets of concepts by name, see :mod:`.presets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from ..errors import OMGError
from .presets import NoSuchPresetError, PresetExistsError, presets

PATH = "/omg/v1/presets"


def register(app: Any, guard: Sequence[Any]) -> None:
    """Add the routes.

    Args:
        guard: the dependencies that ask for a password, if one is set.
    """
    for method, endpoint in (("GET", read), ("POST", write), ("DELETE", delete)):
        app.add_api_route(PATH, endpoint, methods=[method], dependencies=guard)


def read(name: str | None = None) -> Any:
    """Without a name the list of all presets: each one's ``name``, its concepts' ``phrases``, and as ``damaged`` why it
    cannot be loaded, or null. With a name that one's ``name`` and ``request``."""
    if name is None:
        return [_listed(each) for each in presets().names()]
    return {"name": name, "request": _answered(presets().load, name)}


async def write(request: Request) -> dict[str, str]:
    """Save a preset or give it another name; answers with the ``name`` that it has.

    The body: ``name``; and either ``request``, whose prompts may be empty, with ``overwrite`` true if it may take the
    place of a preset of this name, or ``rename_from``, the name that a preset has so far.
    """
    # the one type that pages of other sites cannot send unasked
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "OMG: request: send it as application/json")
    try:
        body = await request.json()
    except (ValueError, RecursionError) as error:
        raise HTTPException(422, f"OMG: request: this is not JSON: {error}") from None
    return {"name": await run_in_threadpool(_answered, _written, body)}


def delete(name: str) -> dict[str, str]:
    """Remove a preset; answers with the ``name`` that it had."""
    return {"name": _answered(presets().delete, name)}


def _listed(name: str) -> dict[str, Any]:
    try:
        concepts = presets().load(name)["concepts"]
    except OMGError as error:
        return {"name": name, "phrases": [], "damaged": error.message}
    return {"name": name, "phrases": [concept.get("phrase", "") for concept in concepts], "damaged": None}


def _written(body: Any) -> str:
    known = ("name", "request", "overwrite", "rename_from")
    if not isinstance(body, dict):
        raise OMGError("request", f"expected an object with {', '.join(known)}")
    if unknown := set(body) - set(known):
        raise OMGError(min(unknown), f"unknown field; known here: {', '.join(known)}")
    if ("request" in body) == ("rename_from" in body):
        raise OMGError("request", "give either `request`, to save it, or `rename_from`")
    if "rename_from" in body:
        if "overwrite" in body:
            raise OMGError("overwrite", "a preset that is renamed takes no other's place; delete that one first")
        return presets().rename(body["rename_from"], body.get("name"))
    overwrite = body.get("overwrite", False)
    if not isinstance(overwrite, bool):
        raise OMGError("overwrite", f"expected true or false, got {overwrite!r}")
    return presets().save(body.get("name"), body["request"], overwrite)


def _answered(do: Any, *args: Any) -> Any:
    """What it returns; its errors as the status of the answer."""
    try:
        return do(*args)
    except NoSuchPresetError as error:
        raise HTTPException(404, str(error)) from error
    except PresetExistsError as error:
        raise HTTPException(409, str(error)) from error
    except OMGError as error:
        raise HTTPException(422, str(error)) from error
