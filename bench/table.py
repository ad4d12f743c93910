"""What was measured, as a table and as JSON."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        name: what was measured.
        value, unit: how much.
        note: under which conditions.
        most: the target, if it is an upper bound.
        exactly: the target, if it is a number to be met.
    """

    name: str
    value: float
    unit: str
    note: str = ""
    most: float | None = None
    exactly: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if self.exactly is not None:
            return self.value == self.exactly
        return None if self.most is None else self.value <= self.most

    @property
    def target(self) -> str:
        """The target and whether it is met, in words."""
        if self.met is None:
            return ""
        wanted = f"<= {self.most:g}" if self.exactly is None else f"= {self.exactly:g}"
        return f"{wanted} {'met' if self.met else 'MISSED'}"


def formatted(rows: Sequence[Row]) -> str:
    """The rows as lines of text."""
    width = max(len(row.name) for row in rows)
    numbers = [f"{row.value:,.0f}" if row.value == int(row.value) else f"{row.value:,.3g}" for row in rows]
    return "\n".join(f"{row.name:{width}}  {number:>8} {row.unit:5}  {row.target:14}  {row.note}".rstrip()
                     for row, number in zip(rows, numbers, strict=True))


def hardware() -> str:
    """The GPU's name, else the processor's and how many threads torch uses."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", information.read_text()) if information.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def results_name() -> str:
    """The day and the hardware, as file names have them."""
    return f"{date.today().isoformat()}-{re.sub(r'[^a-z0-9]+', '-', hardware().lower()).strip('-')}"


def conditions() -> dict[str, str]:
    """What every file of results says about how they came about."""
    return {"date": date.today().isoformat(), "hardware": hardware(), "python": platform.python_version(),
            "torch": torch.__version__}


def save(rows: Sequence[Row], settings: Mapping[str, Any], folder: Path, part: str = "") -> Path:
    """Write the rows as JSON, named by date, hardware and the part that they are; returns the file."""
    path = folder / f"{results_name()}{part}.json"
    folder.mkdir(parents=True, exist_ok=True)
    data = {**conditions(), **settings, "rows": [{**asdict(row), "met": row.met} for row in rows]}
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path
