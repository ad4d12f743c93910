"""A spec's file, in which every field has a line, and the pictures that it names."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import OMGError
from ..jobs.lists import Fault
from ..jobs.pictures import encoded
from .spec import Spec, parse_spec

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_KINDS = (".json", ".yaml", ".yml")
_STEP = re.compile(r"[^.\[\]]+")


class SpecError(Exception):
    """The spec is none.

    Attributes:
        fault: what is wrong with it, and where.
    """

    def __init__(self, fault: Fault):
        super().__init__(str(fault))
        self.fault = fault


@dataclass(frozen=True, eq=False)
class SpecFile:
    """A spec, as it stands in a file.

    Attributes:
        path: a YAML or JSON file.
        spec: what it says.
        data: the same as JSON data.
        root: where its fields stand.
    """

    path: Path
    spec: Spec
    data: dict[str, Any]
    root: yaml.Node | None

    @classmethod
    def read(cls, path: Path) -> SpecFile:
        """
        Raises:
            OMGError: naming ``spec``: there is no such file, or it is of another kind.
            SpecError: something in it is wrong.
        """
        if path.suffix.lower() not in _KINDS:
            raise OMGError("spec", f"{path} is none of {', '.join(_KINDS)}; its ending says how it is read")
        try:
            text = path.read_text(encoding="utf-8-sig")
            root = yaml.compose(text, yaml.SafeLoader)
            loaded = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
            # what JSON does not know, such as a date, is text
            data = json.loads(json.dumps(loaded, default=str))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise OMGError("spec", f"{path} cannot be read: {error}") from None
        try:
            spec = parse_spec(data)
            for name, subject in spec.concepts.items():
                references(path, subject.references, f"concepts.{name}.references")
        except OMGError as error:
            raise SpecError(Fault(_line(root, error.field), error)) from None
        return cls(path, spec, data, root)

    def line(self, field: str) -> int:
        """Where a field stands, or the nearest thing around it that does; from 1."""
        return _line(self.root, field)

    def references(self, concept: str) -> list[Path]:
        """A concept's reference pictures, sorted by name."""
        return references(self.path, self.spec.concepts[concept].references, f"concepts.{concept}.references")

    def photos(self, concept: str) -> list[str]:
        """The same, as a request takes them."""
        return [encoded(path) for path in self.references(concept)]


def references(spec: Path, folder: str, field: str) -> list[Path]:
    """The pictures in a folder that a spec names.

    Raises:
        OMGError: naming the field: there are none.
    """
    place = spec.parent / folder
    found = sorted(path for path in (place.iterdir() if place.is_dir() else ()) if path.suffix.lower() in _PICTURES)
    if not found:
        raise OMGError(field, f"{place} is no folder with pictures ({', '.join(_PICTURES)})")
    return found


def _line(node: yaml.Node | None, field: str) -> int:
    line = 0
    for step in _STEP.findall(field):
        if isinstance(node, yaml.MappingNode):
            key, node = next(((key, value) for key, value in node.value if key.value == step), (None, None))
        elif isinstance(node, yaml.SequenceNode) and step.isdecimal() and int(step) < len(node.value):
            key = node = node.value[int(step)]
        else:
            break
        if key is None:
            break
        line = key.start_mark.line
    return line + 1
