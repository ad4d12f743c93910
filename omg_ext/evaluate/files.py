"""A spec's file, in which every field has a line, and the pictures that it names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
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
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
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
            OMGError: naming ``spec``: there is no such file, it is of another kind, or it has no fields.
            SpecError: something in it is wrong.
        """
        if path.suffix.lower() not in _KINDS:
            raise OMGError("spec", f"{path} is none of {', '.join(_KINDS)}; its ending says how it is read")
        try:
            text = path.read_text(encoding="utf-8-sig")
            root = yaml.compose(text, yaml.SafeLoader)
            _refuse_names(root)
            loaded = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
            # what JSON does not know, such as a date, is text
            data = json.loads(json.dumps(loaded, default=str))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise OMGError("spec", f"{path} cannot be read: {error}") from None
        if not isinstance(data, dict):
            raise OMGError("spec", f"{path} has no fields; write concepts, casts, prompts and methods into it")
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


def _refuse_names(root: yaml.Node | None) -> None:
    """Refuse names of fields that would be lost or become others where the file is read.

    Raises:
        SpecError: one is no text, or stands twice in one place.
    """
    # an anchor's node stands wherever it is named
    seen: set[int] = set()
    left = [(root, "")]
    while left:
        node, path = left.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _refuse_keys([key for key, _ in node.value], path)
            left += [(value, f"{path}.{key.value}".lstrip(".")) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            left += [(value, f"{path}[{index}]") for index, value in enumerate(node.value)]


def _refuse_keys(keys: Sequence[yaml.Node], path: str) -> None:
    names: set[str] = set()
    for key in keys:
        if key.tag == _MERGE:
            continue
        if key.tag != _TEXT:
            raise _refused(key, path, "a name must be text, and this is none; quote it")
        if key.value in names:
            raise _refused(key, path, f"'{key.value}' stands twice; leave out one, or give it another name")
        names.add(key.value)


def _refused(key: yaml.Node, path: str, message: str) -> SpecError:
    return SpecError(Fault(key.start_mark.line + 1, OMGError(path or "spec", message)))


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
