"""When, on what and with which versions something was measured."""

from __future__ import annotations

import platform
import re
from datetime import date
from pathlib import Path


def conditions() -> dict[str, str]:
    """What every file of results says about how they came about."""
    import torch

    return {"date": date.today().isoformat(), "hardware": hardware(), "python": platform.python_version(),
            "torch": torch.__version__}


def hardware() -> str:
    """The GPU's name, else the processor's and how many threads torch uses."""
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"{_processor()}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", information.read_text()) if information.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()
