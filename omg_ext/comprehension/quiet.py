"""Packages without their habits: ultralytics installs, downloads, reports and writes settings by itself; some print."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from PIL import Image

# read once, at the package's first import
_SWITCHES = {"YOLO_AUTOINSTALL": "false", "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false"}
# where the package keeps what decides: of others it may have been imported without the switches
_EVENTS = ("ultralytics.utils.events", "ultralytics.hub.utils")


@contextmanager
def without_habits() -> Iterator[None]:
    """Within the block ultralytics neither installs packages nor reports its use, and it can read its files.

    Those are pickles, which the web UI's replacement of ``torch.load`` refuses: within the block it is torch's own.

    The package's first import is made here, without going online. Its settings file then goes into a temporary folder,
    unless ``YOLO_CONFIG_DIR`` names one.
    """
    with changed(torch, "load", torch.serialization.load):
        if "ultralytics" not in sys.modules:
            _first_import()
        with ExitStack() as stack:
            checks = importlib.import_module("ultralytics.utils.checks")
            for name in ("AUTOINSTALL", "ONLINE"):
                stack.enter_context(changed(checks, name, False))
            for module in _EVENTS:
                if (events := getattr(sys.modules.get(module), "events", None)) is not None:
                    stack.enter_context(changed(events, "enabled", False))
            yield


def _first_import() -> None:
    with tempfile.TemporaryDirectory() as folder:
        own = {} if "YOLO_CONFIG_DIR" in os.environ else {"YOLO_CONFIG_DIR": folder}
        # it puts an Image.open in place that installs a reader of further formats
        with _environment({**_SWITCHES, **own}), changed(Image, "open", Image.open):
            importlib.import_module("ultralytics")


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def unprinted(module: Any) -> Iterator[None]:
    """Within the block what a module prints is not shown, while all others go on printing."""
    module.print = lambda *args, **options: None  # before the built-in one
    try:
        yield
    finally:
        del module.print


@contextmanager
def changed(owner: Any, name: str, value: object) -> Iterator[None]:
    """Within the block an attribute of a module or object has another value."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
