"""What was measured, as a table and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from omg_ext.evaluate.conditions import conditions, hardware


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


def results_name() -> str:
    """The day and the hardware, as file names have them."""
    return f"{date.today().isoformat()}-{re.sub(r'[^a-z0-9]+', '-', hardware().lower()).strip('-')}"


def save(rows: Sequence[Row], settings: Mapping[str, Any], folder: Path, part: str = "") -> Path:
    """Write the rows as JSON, named by date, hardware and the part that they are; returns the file."""
    path = folder / f"{results_name()}{part}.json"
    folder.mkdir(parents=True, exist_ok=True)
    data = {**conditions(), **settings, "rows": [{**asdict(row), "met": row.met} for row in rows]}
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path
