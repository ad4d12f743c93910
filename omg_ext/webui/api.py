"""The request in the body of an API call, in whichever of the likely forms it was written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import Depends, HTTPException, Request
from fastapi.dependencies.utils import get_parameterless_sub_dependant
from modules import scripts as host_scripts

from .fields import concept_count
from .positions import misfit
from .settings import ui_concepts

FORM = '"alwayson_scripts": {"OMG": {"args": [{"concepts": [{"phrase": "man", "prompt": "..."}]}]}}'


def read_bodies(app: Any) -> None:
    """Let the host's routes hand their JSON bodies to this module first; to be called when the app has started.

    Of a script the host reads ``args`` alone: without that key it makes the plain picture and says nothing, and an
    object in its place is an error 500. By the time any script is called the form is lost. A dependency is FastAPI's
    own way to look at a call before its route does, after the host's authentication, and replaces nothing of the host.
    """
    for route in app.routes:
        look = _LOOKS.get(getattr(route, "path", ""))
        if look is not None:
            route.dependant.dependencies.append(
                get_parameterless_sub_dependant(depends=Depends(_looking(look)), path=route.path_format))


def _looking(look: Callable[[dict[str, Any]], None]) -> Callable[[Request], Any]:
    async def dependency(request: Request) -> None:
        try:
            body = await request.json()  # read once: the route goes on with this very object
        except ValueError:
            return  # what is no JSON is the host's to refuse
        scripts = body.get("alwayson_scripts") if isinstance(body, dict) else None
        if isinstance(scripts, dict):
            look(scripts)

    return dependency


def as_args(scripts: dict[str, Any]) -> None:
    """Bring OMG's entry into the host's form, in place.

    Raises:
        HTTPException: 422, with the form that is right.
    """
    for name in _named_omg(scripts):
        scripts[name] = {"args": _args(scripts[name])}


def _args(given: Any) -> list[Any]:
    if isinstance(given, dict) and "args" in given:
        if len(given) > 1:
            others = ", ".join(f"`{name}`" for name in given if name != "args")
            raise _wrong(f"{others} beside `args` would not be read; put it into the request")
        given = given["args"]
    if isinstance(given, (dict, str)):
        return [given]
    if isinstance(given, list):
        if len(given) > 1 and all(isinstance(each, dict) for each in given):
            raise _wrong(f"{len(given)} requests would make one picture; put all concepts into one")
        # what stands in the first place is a request, and the rest does not count
        if given and given[0] in (None, "") and (reason := misfit(len(given), _groups())):
            raise _wrong(reason)
        return given
    raise _wrong("there is no request")


def _groups() -> int:
    """How many concept groups the components are made for, whatever the setting says by now."""
    for script in host_scripts.scripts_txt2img.alwayson_scripts:
        if script.title() == "OMG" and script.args_to:
            return concept_count(script.args_to - script.args_from)
    return ui_concepts()


def _named_omg(scripts: dict[str, Any]) -> list[str]:
    return [name for name in scripts if name.lower() == "omg"]


def _wrong(what: str) -> HTTPException:
    return HTTPException(422, f"OMG: {what}. The right form is {FORM}")


_LOOKS = {"/sdapi/v1/txt2img": as_args, "/sdapi/v1/img2img": as_args}
