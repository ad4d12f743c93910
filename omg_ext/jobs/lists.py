"""Lists of jobs in files: JSON Lines, YAML and CSV, with grids and ranges of seeds; read as a stream but for YAML."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from msgspec import inspect

from ..errors import OMGError
from ..request.validate import members, type_info
from ..request.values import in_words
from .job import Job, parse_job, with_seed
from .pictures import with_pictures

Entry = dict[str, Any]
_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")
_NOTHING = object()
_TOO_MANY = "\0"
_SEEDS = {"seed", "seeds"}


@dataclass(frozen=True)
class Fault:
    """A line of a list that is no job.

    Attributes:
        line: its number, from 1.
        error: what is wrong with it.
    """

    line: int
    error: OMGError

    def __str__(self) -> str:
        return f"line {self.line}: {self.error.field}: {self.error.message}"


@dataclass(frozen=True)
class JobList:
    """A file of jobs.

    Attributes:
        path: a ``.jsonl``, ``.yaml`` or ``.csv`` file.
        settings: fields for all jobs that do not have them, by their paths, such as ``request.blend_start``.
    """

    path: Path
    settings: Mapping[str, Any]

    def __iter__(self) -> Iterator[tuple[int, Job | OMGError]]:
        """The jobs in order with their lines, as many for each line as it means; in place of one what is wrong with it.

        Raises:
            OMGError: naming ``jobs``: the file cannot be read, or is of another kind.
        """
        for line, entry in self._entries():
            if isinstance(entry, OMGError):
                yield line, entry
                continue
            try:
                for job in self._jobs(entry):
                    yield line, job
            except OMGError as error:
                yield line, error

    def _entries(self) -> Iterator[tuple[int, Entry | OMGError]]:
        read = _READERS.get(self.path.suffix.lower())
        if read is None:
            raise OMGError("jobs", f"{self.path} is none of {', '.join(_READERS)}; its ending says how it is read")
        try:
            yield from read(self.path)
        except (OSError, UnicodeDecodeError) as error:
            raise OMGError("jobs", f"{self.path} cannot be read: {error}") from None

    def _jobs(self, entry: Entry) -> Iterator[Job]:
        fill(entry, self.settings)
        grid = _grid(entry)
        if "seeds" in entry and ("seed" in entry or "seed" in grid):
            raise OMGError("seeds", "give either seed or seeds")
        seeds = seeds_of(entry.pop("seeds")) if "seeds" in entry else None
        for chosen in itertools.product(*grid.values()):
            filled: Entry = json.loads(json.dumps(entry))
            for path, value in zip(grid, chosen, strict=True):
                put(filled, path, value)
            job = parse_job(with_pictures(filled, self.path.parent))
            # not one more factor: all factors of a product are held in memory
            yield from (job,) if seeds is None else (with_seed(job, seed) for seed in seeds)


def _grid(entry: Entry) -> Mapping[str, Sequence[Any]]:
    """Takes the grid out of an entry: by path the values that are tried."""
    grid = entry.pop("grid", {})
    if not isinstance(grid, dict):
        raise OMGError("grid", f"expected an object of lists by the fields' names, got {in_words(grid)}")
    for path, values in grid.items():
        if not isinstance(values, list) or not values:
            raise OMGError(f"grid.{path}", f"expected a list of values to try, got {in_words(values)}")
    return grid


def seeds_of(given: Any) -> Sequence[Any]:
    """The seeds that ``[1, 2]`` or ``"0-99, 200"`` means; of a list the items as they are.

    Raises:
        OMGError: naming ``seeds``.
    """
    if isinstance(given, list) and given:
        return given
    parts = [_RANGE.fullmatch(part) for part in given.split(",")] if isinstance(given, str) else [None]
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part is not None]
    if len(ranges) < len(parts) or not all(ranges):
        raise OMGError("seeds", f'expected a list of numbers, or ranges such as "0-99, 200", got {in_words(given)}')
    return ranges[0] if len(ranges) == 1 else list(itertools.chain.from_iterable(ranges))


def put(entry: Entry, path: str, value: Any, is_default: bool = False) -> None:
    """Sets a field by its path: names, and numbers of items, with dots between them.

    ``request.concepts.0.strength``, or ``request.concepts[0].strength``. What is on the way there is made.

    Args:
        is_default: what is there stays.

    Raises:
        OMGError: naming the path, if something on the way has no fields, or a list has fewer items.
    """
    parts = path.replace("[", ".").replace("]", "").split(".")
    place: Any = entry
    for name, below in itertools.pairwise(parts):
        place = _at(place, name, path, [] if below.isdecimal() else {})
    last = parts[-1]
    before = _at(place, last, path, _NOTHING)
    if before is _NOTHING or not is_default:
        place[int(last) if isinstance(place, list) else last] = value


def _at(place: Any, name: str, path: str, new: Any) -> Any:
    """What stands there; if nothing does, ``new`` from now on."""
    if isinstance(place, dict):
        return place.setdefault(name, new)
    if isinstance(place, list) and name.isdecimal() and int(name) <= len(place):
        if int(name) == len(place):
            place.append(new)
        return place[int(name)]
    raise OMGError(path, f"there is no {name} in {in_words(place)}")


def _json_lines(path: Path) -> Iterator[tuple[int, Entry | OMGError]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _object(line)


def _object(text: str) -> Entry | OMGError:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        return OMGError("job", f"this is not JSON: {error}")
    return _as_entry(data)


def _as_entry(data: Any) -> Entry | OMGError:
    return data if isinstance(data, dict) else OMGError("job", f"expected an object, got {in_words(data)}")


def _csv(path: Path) -> Iterator[tuple[int, Entry | OMGError]]:
    """The first line names the fields, by their paths; empty cells are left out."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, restkey=_TOO_MANY, restval="")
        for row in rows:
            yield rows.line_num, _of_cells(row)


def _of_cells(row: Mapping[str, Any]) -> Entry | OMGError:
    entry: Entry = {}
    try:
        if _TOO_MANY in row:
            raise OMGError("job", "it has more cells than the first line; quote cells that hold a comma")
        # a whole request stands before fields in it
        for path, cell in sorted(row.items(), key=lambda item: item[0].count(".")):
            if cell:
                put(entry, path.strip(), of_text(path.strip(), cell))
    except OMGError as error:
        return error
    return entry


def of_text(path: str, cell: str) -> Any:
    """The value of a job's field that is written as text: JSON, but for fields that may be texts.

    Raises:
        OMGError: naming the path.
    """
    if path == "seeds" or is_text(path):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        raise OMGError(path, f"{in_words(cell)} cannot be read; numbers, true, false, and JSON can") from None


def is_text(path: str) -> bool:
    """Whether a job's field may be a text."""
    kinds = [type_info(Job)]
    for name in path.replace("[", ".").replace("]", "").split("."):
        kinds = [below for kind in kinds for below in _below(kind, name)]
    return any(isinstance(kind, inspect.StrType) or (isinstance(kind, inspect.LiteralType) and
                                                     isinstance(kind.values[0], str)) for kind in kinds)


def _below(kind: inspect.Type, name: str) -> list[inspect.Type]:
    if isinstance(kind, inspect.StructType):
        return [each for field in kind.fields if field.encode_name == name for each in members(field.type)]
    return members(kind.item_type) if isinstance(kind, inspect.VarTupleType) else []


def _yaml(path: Path) -> Iterator[tuple[int, Entry | OMGError]]:
    """A list of jobs, or an object with ``jobs``, and ``defaults`` for all of them by their paths."""
    with path.open("rb") as file:
        loader = yaml.SafeLoader(file)
        try:
            root = loader.get_single_node()
            defaults, items = _parts_of(loader, root)
            for node in items:
                yield node.start_mark.line + 1, _with_defaults(loader.construct_object(node, deep=True), defaults)
        except yaml.YAMLError as error:
            raise OMGError("jobs", f"{path} is not YAML: {error}") from None
        finally:
            loader.dispose()


def _parts_of(loader: yaml.SafeLoader, root: yaml.Node | None) -> tuple[Entry, list[yaml.Node]]:
    parts: dict[str, yaml.Node] = {}
    if isinstance(root, yaml.MappingNode):
        parts = {key.value: node for key, node in root.value}
        root = parts.get("jobs")
    defaults = loader.construct_object(parts["defaults"], deep=True) if "defaults" in parts else {}
    if not isinstance(root, yaml.SequenceNode) or not isinstance(defaults, dict) or set(parts) - {"jobs", "defaults"}:
        raise OMGError("jobs", "expected a list of jobs, or an object with a list of `jobs`, and `defaults` for all of "
                               "them if wanted")
    return defaults, root.value


def _with_defaults(data: Any, defaults: Entry) -> Entry | OMGError:
    entry = _as_entry(data)
    try:
        # what JSON does not know, such as a date, is text
        entry = json.loads(json.dumps(entry, default=str)) if isinstance(entry, dict) else entry
        if isinstance(entry, dict):
            fill(entry, defaults)
    except (OMGError, ValueError) as error:
        return error if isinstance(error, OMGError) else OMGError("job", str(error))
    return entry


def fill(entry: Entry, settings: Mapping[str, Any]) -> None:
    """Gives an entry what it lacks, by paths; what is about a request, if it has one."""
    for path, value in settings.items():
        is_elsewhere = path.startswith("request.") and "request" not in entry
        if not is_elsewhere and not (path in _SEEDS and _SEEDS & set(entry)):
            put(entry, path, value, is_default=True)


_READERS: Mapping[str, Callable[[Path], Iterator[tuple[int, Entry | OMGError]]]] = {
    ".jsonl": _json_lines, ".yaml": _yaml, ".yml": _yaml, ".csv": _csv}
