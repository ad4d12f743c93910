"""The X/Y/Z plot: Prompt S/R reaches the concepts' prompts, and fields of the request are axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modules import scripts

from ..comprehension import DETECTORS
from ..errors import OMGError
from ..request import parse_request
from .fields import CONCEPT_FIELDS, GLOBAL_FIELDS, Field, put
from .process import RefusedRequest
from .ui import request_from_args

Data = dict[str, Any]
"""A request as JSON data."""

Apply = Callable[[Any, Any, Sequence[Any]], None]
"""As the plot takes it: changes the processing object of a cell, by its value and all values of the axis."""

TEXTS = ("phrase", "prompt", "negative_prompt")
"""The phrase too: it has to stand in the main prompt, whose words are replaced."""


WIDGETS = ("slider", "detector", "dropdown")
"""Of the fields that are axes."""


def register() -> None:
    """Add to the plot's axes; to be called before the UI is built, as its script is loaded anew each time."""
    for data in scripts.scripts_data:
        if data.script_class.__module__ == "xyz_grid.py":
            options = data.module.axis_options
            for option in options:
                if option.label == "Prompt S/R":
                    option.apply = with_concepts(option.apply)
            options += [_axis(data.module, each, label) for each, label in axes()]


def axes() -> list[tuple[Field, str]]:
    """Fields that are one number or one choice, each with the label of its axis."""
    of_request, of_concepts = ([each for each in table if each.path and each.widget in WIDGETS]
                               for table in (GLOBAL_FIELDS, CONCEPT_FIELDS))
    return [(each, f"[OMG] {each.label}") for each in of_request] + [
        (each, f"[OMG] {each.label} of all concepts") for each in of_concepts]


def with_concepts(main: Apply) -> Apply:
    """The plot's own search and replace, which looks at the main prompts alone and raises if a text is not there."""

    def apply(p: Any, value: str, values: Sequence[str]) -> None:
        request, searched = _request(p), values[0]
        texts = [(concept, name) for concept in ([] if request is None else request["concepts"]) for name in TEXTS
                 if searched in (concept.get(name) or "")]
        for concept, name in texts:
            concept[name] = concept[name].replace(searched, value)
        if request is not None and texts:
            _put(p, _checked(request))
        if not texts or searched in p.prompt or searched in p.negative_prompt:
            main(p, value, values)

    return apply


def _axis(module: Any, each: Field, label: str) -> Any:
    def changed(p: Any, value: Any) -> Data:
        request = _request(p)
        if request is None:
            raise RefusedRequest(OMGError(label, "OMG is off; switch it on to use this axis"))
        try:
            for index, target in enumerate([request] if each in GLOBAL_FIELDS else request["concepts"]):
                if each.name != "face_index" or target.get("face"):  # in others there is nothing to choose from
                    put(target, each, value, index)
        except OMGError as error:
            raise RefusedRequest(error) from error
        return request

    def apply(p: Any, value: Any, values: Sequence[Any]) -> None:
        _put(p, changed(p, value))

    def confirm(p: Any, values: Sequence[Any]) -> None:
        """Before the first cell is drawn."""
        for value in values:
            _checked(changed(p, value))

    is_number = each.widget == "slider"
    choices = [entry for entry, _ in each.choices] or list(DETECTORS)
    return module.AxisOption(label, float if is_number else str, apply, confirm=confirm,
                             choices=None if is_number else lambda: choices)


def _request(p: Any) -> Data | None:
    """What the script's arguments ask for.

    Raises:
        RefusedRequest: it cannot be read. (What sampling refuses, the plot only prints.)
    """
    script = _script(p)
    try:
        data = request_from_args(p.script_args[script.args_from:script.args_to])
    except OMGError as error:
        raise RefusedRequest(error) from error
    return None if data is None else _checked(data)


def _checked(data: Data) -> Data:
    try:
        parse_request(data)
    except OMGError as error:
        raise RefusedRequest(error) from error
    return data


def _put(p: Any, request: Data) -> None:
    """Let the cell's arguments ask for this request. They are its own: the other cells share the list."""
    args, slot = list(p.script_args), _script(p).args_from
    args[slot] = request
    p.script_args = args


def _script(p: Any) -> Any:
    return next(script for script in p.scripts.alwayson_scripts if script.title() == "OMG")
