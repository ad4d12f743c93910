"""install.py, run at every launch of the web UI: checks first, makes one pip call at most, moves no pinned package."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent


class Launch(ModuleType):
    """What install.py uses of the web UI's module of this name; pip calls are noted."""

    def __init__(self):
        super().__init__("launch")
        self.args = SimpleNamespace(skip_install=False)
        self.python = "/webui/venv/bin/python"
        self.offline = False
        self.calls: list[str] = []
        self.constraints = ""

    def run_pip(self, command: str, desc: str) -> None:
        self.calls.append(command)
        held = re.search('--constraint "(.*)"', command)
        assert held is not None
        self.constraints = Path(held.group(1)).read_text()
        if self.offline:
            raise RuntimeError(f"Couldn't install {desc}.")


@pytest.fixture
def launch(monkeypatch):
    module = Launch()
    monkeypatch.setitem(sys.modules, "launch", module)
    return module


@pytest.fixture
def install(launch, monkeypatch):
    """install.py as a module; it is read anew, since it imports the module above."""
    monkeypatch.delitem(sys.modules, "install", raising=False)
    return importlib.import_module("install")


@pytest.fixture
def versions(install, monkeypatch):
    """Installed packages: at first those of a web UI that lacks msgspec; tests change them."""
    installed = {"scikit-image": "0.21.0", "numpy": "1.26.2", "torch": "2.1.2+cu121", "Pillow": "9.5.0"}
    monkeypatch.setattr(install, "installed_version", installed.get)
    return installed


@pytest.mark.parametrize("version", ["0.18.0", "0.22.0"])
def test_nothing_is_installed_if_all_is_there(install, launch, versions, capsys, version):
    versions["msgspec"] = version
    install.main()
    assert launch.calls == []
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("versions")
def test_nothing_is_installed_with_skip_install(install, launch):
    launch.args.skip_install = True
    install.main()
    assert launch.calls == []


@pytest.mark.parametrize("version", [None, "0.17.0", "1.0"])
def test_one_call_installs_what_is_missing_or_unfit(install, launch, versions, version):
    if version:
        versions["msgspec"] = version
    install.main()
    assert len(launch.calls) == 1
    assert '"msgspec>=0.18,<1"' in launch.calls[0]
    assert "scikit-image" not in launch.calls[0]


def test_one_call_installs_several(install, launch, versions):
    del versions["scikit-image"]
    install.main()
    assert len(launch.calls) == 1
    assert '"msgspec>=0.18,<1" "scikit-image>=0.21,<1"' in launch.calls[0]


@pytest.mark.usefixtures("versions")
def test_pinned_packages_stay_where_they_are(install, launch):
    install.main()
    assert launch.constraints == "torch==2.1.2+cu121\nnumpy==1.26.2\nPillow==9.5.0\n"


@pytest.mark.usefixtures("versions")
def test_without_network_it_says_what_to_do(install, launch, capsys):
    launch.offline = True
    install.main()
    said = capsys.readouterr().out
    assert "Check the network connection" in said
    assert '"/webui/venv/bin/python" -m pip install "msgspec>=0.18,<1"' in said


def test_bounds_are_those_of_the_project_file(install):
    project = (ROOT / "pyproject.toml").read_text()
    for package, bounds in install.REQUIRED.items():
        assert f'"{package}{bounds}"' in project
        assert "<" in bounds
