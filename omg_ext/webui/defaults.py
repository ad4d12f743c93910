"""What the page starts with, if the settings name a preset for it. No Gradio in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import OMGError
from ..request import Request, parse_request
from .fields import arg_fields
from .presets import presets, to_args

NOT_LOADED = ('The page starts without the preset "{name}", which the settings name: {reason}. Choose another in '
              "Settings > OMG.")


NOT_SHOWN = "it has more than the fields can show, as more concepts than there are fields for"


@dataclass(frozen=True)
class Start:
    """
    Attributes:
        name: of the preset; empty if there is none.
        values: what its components have, by the number of the concept (0 is the request) and the name of the field.
            Fields that it leaves at their defaults are not among them: what the web UI keeps as a default counts there.
        request: the preset as a request for a preview.
        said: why the preset is not loaded.
    """

    name: str = ""
    values: Mapping[tuple[int, str], Any] = field(default_factory=dict)
    request: Request | None = None
    said: str = ""


def start_with(name: str, groups: int) -> Start:
    """Start with a preset.

    Args:
        name: its name; empty for none.
        groups: how many concept groups the accordion has.
    """
    if not name:
        return Start()
    try:
        data = presets().load(name)
    except OMGError as error:
        return Start(said=NOT_LOADED.format(name=name, reason=error.message))
    args = to_args(data, groups)
    if args[0]:  # which would count while OMG is off
        return Start(said=NOT_LOADED.format(name=name, reason=NOT_SHOWN))
    values = {(number, each.name): value for (number, each), value in zip(arg_fields(groups), args, strict=True)
              if value != each.default and each.name not in ("enabled", "preview")}
    return Start(name, values, parse_request({**data, "preview": True}))
