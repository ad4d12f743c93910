"""The X/Y/Z plot: Prompt S/R reaches the concepts' prompts, and fields of the request are axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modules import scripts

from ..comprehension import DETECTORS
from ..errors import OMGError
from ..request import parse_request
from ..request.tags import with_weight
from . import settings
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
OF_EACH = ("strength", "cfg_scale")
"""Those of a concept that are axes of each one, too."""
SWITCH = {"on": True, "off": False}

ChangeConcept = Callable[[Data, Any, int], None]
"""Puts a value into the concept of an index."""


def register() -> None:
    """Add to the plot's axes; to be called before the UI is built, as its script is loaded anew each time."""
    for data in scripts.scripts_data:
        if data.script_class.__module__ == "xyz_grid.py":
            options = data.module.axis_options
            for option in options:
                if option.label == "Prompt S/R":
                    option.apply = with_concepts(option.apply)
            options += [_option(data.module, each) for each in axes(settings.ui_concepts())]


@dataclass(frozen=True)
class Axis:
    """
    Attributes:
        label: what the plot calls it.
        change: puts a value into a request; raises OMGError if that cannot be.
        choices: the values to choose from; without any it takes numbers.
    """

    label: str
    change: Callable[[Data, Any], None]
    choices: tuple[str, ...] = ()


def axes(concepts: int) -> list[Axis]:
    """Fields that are one number or one choice: of the request, of all concepts at once, and some of each concept.

    Args:
        concepts: how many have axes of their own.
    """
    of_request, of_concepts = ([each for each in table if each.path and each.widget in WIDGETS]
                               for table in (GLOBAL_FIELDS, CONCEPT_FIELDS))
    of_each = {**{each.label: _put_into_concept(each) for each in of_concepts if each.name in OF_EACH},
               "LoRA weight": _weigh}
    on = next(each for each in CONCEPT_FIELDS if each.name == "on")
    return [
        *(Axis(f"[OMG] {each.label}", _put_into_request(each), _choices(each)) for each in of_request),
        *(Axis(f"[OMG] {each.label} of all concepts", _of_all(_put_into_concept(each)), _choices(each))
          for each in of_concepts),
        *(Axis(f"[OMG] {label} of concept {number}", _of_one(number, change))
          for number in range(1, concepts + 1) for label, change in of_each.items()),
        *(Axis(f"[OMG] Draw concept {number}", _of_one(number, _switched(on)), tuple(SWITCH))
          for number in range(1, concepts + 1)),
    ]


def _choices(each: Field) -> tuple[str, ...]:
    if each.widget == "slider":
        return ()
    return tuple(entry for entry, _ in each.choices) or tuple(DETECTORS)


def _put_into_request(each: Field) -> Callable[[Data, Any], None]:
    return lambda request, value: put(request, each, value)


def _put_into_concept(each: Field) -> ChangeConcept:
    def change(concept: Data, value: Any, index: int) -> None:
        if each.name != "face_index" or concept.get("face"):  # in others there is nothing to choose from
            put(concept, each, value, index)

    return change


def _switched(on: Field) -> ChangeConcept:
    def change(concept: Data, value: Any, index: int) -> None:
        if value not in SWITCH:
            raise OMGError(f"concepts[{index}].enabled", f"the axis takes {' and '.join(SWITCH)}, got {value!r}")
        put(concept, on, SWITCH[value], index)

    return change


def _weigh(concept: Data, value: Any, index: int) -> None:
    """Give a concept's one LoRA this weight."""
    concept["prompt"], count = with_weight(concept["prompt"], value)
    if count != 1:
        raise OMGError(f"concepts[{index}].prompt", f"Concept {index + 1} has {count or 'no'} LoRAs, and the axis "
                       "gives one its weight; Prompt S/R changes any text")


def _of_all(change: ChangeConcept) -> Callable[[Data, Any], None]:
    def all_changed(request: Data, value: Any) -> None:
        for index, concept in enumerate(request["concepts"]):
            change(concept, value, index)

    return all_changed


def _of_one(number: int, change: ChangeConcept) -> Callable[[Data, Any], None]:
    def one_changed(request: Data, value: Any) -> None:
        count = len(request["concepts"])
        if number > count:
            raise OMGError("concepts", f"there is no concept {number} for the axis, only {count}")
        change(request["concepts"][number - 1], value, number - 1)

    return one_changed


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


def _option(module: Any, axis: Axis) -> Any:
    def changed(p: Any, value: Any) -> Data:
        request = _request(p)
        if request is None:
            raise RefusedRequest(OMGError(axis.label, "OMG is off; switch it on to use this axis"))
        try:
            axis.change(request, value)
        except OMGError as error:
            raise RefusedRequest(error) from error
        return request

    def apply(p: Any, value: Any, values: Sequence[Any]) -> None:
        _put(p, changed(p, value))

    def confirm(p: Any, values: Sequence[Any]) -> None:
        """Before the first cell is drawn."""
        for value in values:
            _checked(changed(p, value))

    return module.AxisOption(axis.label, str if axis.choices else float, apply, confirm=confirm,
                             choices=(lambda: list(axis.choices)) if axis.choices else None)


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
