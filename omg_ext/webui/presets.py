"""Sets of concepts that the user keeps by name: requests as JSON files, one each, in one folder. No Gradio in here.

A preset may be a draft: its prompts may be empty. Whatever else a request refuses, a preset refuses.
"""

from __future__ import annotations

import json
import os
import threading
import unicodedata
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import OMGError
from ..request import Request, dump_request, parse_request
from .fields import NO_PREVIEW, arg_fields, concept_count
from .form import args_from_request, request_from_args

Data = dict[str, Any]
"""A request as JSON data, without ``enabled`` and ``preview``, which are not the set's."""

MAX_NAME = 64
# in UTF-8: file systems take 255 with the suffix
MAX_BYTES = 240
SUFFIX = ".json"
_SIGNS = " -_.,()&+'"
# Windows knows these under any suffix
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³")}


class NoSuchPresetError(OMGError):
    """There is no preset of this name."""

    def __init__(self, name: str):
        super().__init__("name", f'there is no preset "{name}"')


class PresetExistsError(OMGError):
    """There is a preset of this name already.

    Attributes:
        name: as that one has it.
    """

    def __init__(self, name: str):
        super().__init__("name", f'there is a preset "{name}" already')
        self.name = name


def checked_name(name: Any) -> str:
    """A name as it is kept, which is a safe file name on every system.

    Raises:
        OMGError: it is none, and why.
    """
    if not isinstance(name, str) or not name.strip():
        raise OMGError("name", "give the preset a name")
    name = unicodedata.normalize("NFC", name.strip())
    if len(name) > MAX_NAME or len(name.encode(errors="replace")) > MAX_BYTES:
        raise OMGError("name", f"it is too long; {MAX_NAME} characters are the most")
    # letters, the marks on them, and digits
    wrong = next((sign for sign in name if unicodedata.category(sign)[0] not in "LMN" and sign not in _SIGNS), "")
    if wrong:
        shown = wrong if wrong.isprintable() else f"U+{ord(wrong):04X}"
        raise OMGError("name", f"it may have letters, digits, spaces and {_SIGNS.strip()}, but not {shown}")
    if name[0] == "." or name[-1] == ".":
        raise OMGError("name", "it may not begin or end with a dot")
    if name.partition(".")[0].strip().casefold() in _DEVICES:
        raise OMGError("name", f'Windows keeps "{name}" for a device; take another')
    return name


def key_of(name: str) -> str:
    """What names share that some file system takes for the same: they differ in capitals alone."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).upper().casefold())


def checked(data: Any) -> Data:
    """A request as it is kept: defaults left out.

    Raises:
        OMGError: naming the field that no draft may have.
    """
    if isinstance(data, Request):
        data = dump_request(data)
    if isinstance(data, str):
        data = _from_json(data, "request")
    # a preview may have empty prompts
    kept = dump_request(parse_request({**data, "preview": True} if isinstance(data, dict) else data))
    return {name: value for name, value in kept.items() if name not in ("preview", "enabled")}


def from_args(args: Sequence[Any]) -> Data:
    """The preset that the component values of the accordion make, whether OMG is on or off.

    Raises:
        OMGError: naming the field, if they make none.
    """
    if args[0]:  # the request that the fields cannot show
        return checked(args[0])
    names = [each.name for _, each in arg_fields(concept_count(len(args)))]
    values = list(args)
    values[names.index("enabled")], values[names.index("preview")] = True, NO_PREVIEW
    return checked(request_from_args(values))


def to_args(data: Data, groups: int) -> list[Any]:
    """The component values that show a preset: see :func:`omg_ext.webui.form.args_from_request`.

    Args:
        data: as :func:`checked` makes it.
        groups: how many concept groups the accordion has.
    """
    names = [each.name for _, each in arg_fields(groups)]
    args = args_from_request(parse_request({**data, "preview": True}), groups)
    args[names.index("preview")] = NO_PREVIEW
    args[0] = "" if _shows(args, data) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return args


def _shows(args: Sequence[Any], data: Data) -> bool:
    try:
        return from_args(["", *args[1:]]) == data
    except OMGError:
        return False


def _from_json(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise OMGError(field, f"this is not JSON: {error}") from None


@contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OMGError("name", f"the preset could not be written: {error.strerror or error}") from error


class Presets:
    """The presets of one folder, which is made when the first is saved. Threads may share it.

    Another process may write there too: of two that save a new preset of one name, one is told that it exists.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.RLock()

    def names(self) -> list[str]:
        """Of all presets, in alphabetical order; what else lies in the folder does not count."""
        return sorted(self._files(), key=key_of)

    def load(self, name: Any) -> Data:
        """A preset.

        Raises:
            NoSuchPresetError: there is none of this name.
            OMGError: the name is no name, or the file is damaged.
        """
        with self._lock:
            path = self._path(checked_name(name))
            try:
                text = path.read_text(encoding="utf-8")
                return checked(_from_json(text, "file"))
            except OMGError as error:
                raise OMGError("name", f'the preset "{name}" is damaged: {error.field}: {error.message}') from None
            except (OSError, UnicodeError) as error:
                raise OMGError("name", f'the preset "{name}" cannot be read: {error}') from None

    def save(self, name: Any, data: Any, overwrite: bool = False) -> str:
        """Keep a request.

        Args:
            data: what :func:`checked` takes.
            overwrite: whether it may take the place of one that is there.

        Returns:
            the name that it has now.

        Raises:
            PresetExistsError: there is one of this name, or of one that differs in capitals alone.
            OMGError: the name is no name, the request is refused, or the disk does not take the file.
        """
        name, text = checked_name(name), json.dumps(checked(data), ensure_ascii=False, indent=1)
        with self._lock:
            there = self._existing(name)
            if there and not overwrite:
                raise PresetExistsError(there)
            self._write(there or name, text, is_new=not there)
        return there or name

    def rename(self, name: Any, new_name: Any) -> str:
        """Give a preset another name.

        Returns:
            the name that it has now.

        Raises:
            NoSuchPresetError: there is none of this name.
            PresetExistsError: there is another one of the new name.
            OMGError: a name is no name, or the disk does not do it.
        """
        name, new_name = checked_name(name), checked_name(new_name)
        with self._lock:
            path, there = self._path(name), self._existing(new_name)
            if there and there != self._existing(name):
                raise PresetExistsError(there)
            with _on_disk():
                _move(path, self.folder / (new_name + SUFFIX), is_new=not there)
        return new_name

    def delete(self, name: Any) -> str:
        """Remove a preset.

        Returns:
            the name that it had.

        Raises:
            NoSuchPresetError: there is none of this name.
            OMGError: the name is no name, or the disk does not do it.
        """
        with self._lock:
            path = self._path(checked_name(name))
            with _on_disk():
                path.unlink()
        return path.name.removesuffix(SUFFIX)

    def _files(self) -> dict[str, Path]:
        found = {}
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                name = unicodedata.normalize("NFC", path.name.removesuffix(SUFFIX))
                with suppress(OMGError):
                    if path.name.endswith(SUFFIX) and checked_name(name) == name and path.is_file():
                        found[name] = path
        return found

    def _existing(self, name: str) -> str:
        """The name of the preset that this one names; empty if there is none."""
        names = self._files()
        return name if name in names else next((each for each in names if key_of(each) == key_of(name)), "")

    def _path(self, name: str) -> Path:
        there = self._existing(name)
        if not there:
            raise NoSuchPresetError(name)
        return self._files()[there]

    def _write(self, name: str, text: str, is_new: bool) -> None:
        """At no time does a part of the file stand under the name."""
        path = self._files().get(name, self.folder / (name + SUFFIX))
        part = self.folder / f".{uuid.uuid4().hex}.part"
        with _on_disk():
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                part.write_text(text, encoding="utf-8")
                _move(part, path, is_new)
            finally:
                part.unlink(missing_ok=True)


def _move(source: Path, target: Path, is_new: bool) -> None:
    """Give a file a name, which is to be new or its who had it before.

    Raises:
        PresetExistsError: it is not new: another process was faster.
    """
    if is_new:
        try:
            target.open("x").close()  # takes the name
        except FileExistsError:
            raise PresetExistsError(target.name.removesuffix(SUFFIX)) from None
    try:
        os.replace(source, target)
    except OSError:
        if is_new:
            target.unlink(missing_ok=True)
        raise


@cache
def presets() -> Presets:
    """Those of this web UI."""
    from modules import paths

    return Presets(Path(paths.data_path).absolute() / "omg" / "presets")
