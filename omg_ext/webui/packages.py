"""Adding Python packages to the web UI's environment without moving any that it has."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from ..errors import OMGError

# the packages of each line share one folder: a second one breaks the first
_ALIKE = (
    ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-rocm",
     "onnxruntime-migraphx", "onnxruntime-qnn", "onnxruntime-silicon", "onnxruntime-training"),
)
# of a message, in characters
_LONGEST = 800


def install(requirements: Sequence[str]) -> list[str]:
    """Install packages, and what they take, in two steps: what pip would add is looked at before anything changes.

    Args:
        requirements: as pip takes them.

    Returns:
        What was added, ``name==version`` each.

    Raises:
        OMGError: it does not fit beside what is installed, or pip failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        held, report = Path(folder, "constraints.txt"), Path(folder, "report.json")
        held.write_text("".join(f"{name}=={version}\n" for name, version in installed().items()), encoding="utf8")
        _pip("install", "--dry-run", "--report", str(report), "--constraint", str(held), *requirements)
        added = planned(json.loads(report.read_text(encoding="utf8")))
    if added:
        _pip("install", "--no-deps", *added)
    importlib.invalidate_caches()
    return added


def installed() -> dict[str, str]:
    """The version of every installed package, by its canonical name."""
    found = ((each.metadata["Name"], each.version) for each in importlib.metadata.distributions())
    return {canonicalize_name(name): version for name, version in found if name and version}


def planned(report: Any) -> list[str]:
    """What to install of what pip's report says it would, ``name==version`` each: nothing beside another of its
    line in :data:`_ALIKE`.

    Raises:
        OMGError: something that is installed would be replaced. Constraints should not let it come to that.
    """
    there = installed()
    new = [(canonicalize_name(each["metadata"]["name"]), each["metadata"]["version"]) for each in report["install"]]
    moved = [f"{name} {there[name]} by {version}" for name, version in new if there.get(name, version) != version]
    if moved:
        raise OMGError("packages", f"nothing was installed, since it would replace {', '.join(moved)}")
    names = [*there, *(name for name, _ in new)]
    doubled = [name for alike in _ALIKE for name in [each for each in names if each in alike][1:]]
    return [f"{name}=={version}" for name, version in new if name not in doubled]


def _pip(*arguments: str) -> None:
    index = os.environ.get("INDEX_URL")  # as the web UI's own launcher takes it
    options = ["--prefer-binary", "--disable-pip-version-check", "--no-input",
               *(("--index-url", index) if index else ())]
    done = subprocess.run([sys.executable, "-m", "pip", *arguments, *options], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise OMGError("packages", f"pip could not do it: {_reason(done.stdout, done.stderr)}")


def _reason(out: str, errors: str) -> str:
    """What pip says was in the way, in one line."""
    said = [line.removeprefix("ERROR: ") for line in errors.splitlines() if line.startswith("ERROR: ")]
    # which requirements contradict each other stands in its ordinary output
    _, _, conflict = out.partition("The conflict is caused by:")
    lines = [line.strip() for line in conflict.split("\n\n")[0].splitlines() if line.strip()]
    reasons = [*(line for line in said if not line.startswith("ResolutionImpossible")), *lines]
    return "; ".join(reasons or errors.splitlines()[-1:])[:_LONGEST]
