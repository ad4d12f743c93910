"""Adding packages to an environment with the real pip, offline: nothing that is there moves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import packaging
import pytest

ROOT = Path(__file__).parent.parent
# by name and version, what each needs
WHEELS = {
    ("held", "1.0"): (), ("held", "2.0"): (),
    ("opencv_python_headless", "4.11.0"): (), ("opencv_python", "4.11.0"): (),
    ("detector", "1.0"): ("held>=1", "part>=1"), ("part", "1.5"): (), ("part", "3.0"): ("held>=2",),
    ("mover", "1.0"): ("held>=2",),
    ("eyes", "1.0"): ("opencv-python>=4", "part"),
    ("onnxruntime", "1.23.2"): (), ("onnxruntime_gpu", "1.23.2"): (),
    ("faces", "1.0"): ("onnxruntime", "part"),
}


class Environment:
    """A new virtual environment, with wheels of its own and no index."""

    def __init__(self, folder: Path):
        self.python = folder / "venv" / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        wheels, library = folder / "wheels", folder / "library"
        wheels.mkdir()
        for (name, version), needs in WHEELS.items():
            write_wheel(wheels, name, version, needs)
        library.mkdir()
        (library / "packaging").symlink_to(Path(packaging.__file__).parent)
        self.variables = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels),
                          "PIP_CONFIG_FILE": os.devnull, "PYTHONPATH": os.pathsep.join([str(ROOT), str(library)])}
        self.variables.pop("INDEX_URL", None)

    def pip(self, *arguments: str) -> str:
        return self._run("-m", "pip", *arguments)

    def install(self, *requirements: str) -> list[str]:
        added = self._run("-c", "import json, sys; from omg_ext.webui.packages import install; "
                                "print(json.dumps(install(sys.argv[1:])))", *requirements)
        return list(json.loads(added.splitlines()[-1]))

    def versions(self) -> Mapping[str, str]:
        return {each["name"]: each["version"] for each in json.loads(self.pip("list", "--format", "json"))
                if each["name"] not in ("pip", "setuptools", "packaging")}

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([str(self.python), *arguments], env=self.variables, capture_output=True, text=True,
                              check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout


def write_wheel(folder: Path, name: str, version: str, needs: tuple[str, ...]) -> None:
    info = f"{name}-{version}.dist-info"
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{required}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
        wheel.writestr(f"{name}/__init__.py", "")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("environment"))
    environment.pip("install", "held==1.0", "opencv-python-headless")
    return environment


def test_only_new_ones_in_versions_that_fit(environment: Environment) -> None:
    """The newest `part` would move `held`."""
    assert set(environment.install("detector>=1,<2")) == {"detector==1.0", "part==1.5"}
    assert environment.versions()["held"] == "1.0"
    assert environment.install("detector>=1,<2") == []


def test_what_moves_another_is_refused(environment: Environment) -> None:
    before = environment.versions()
    with pytest.raises(RuntimeError, match=r"OMG: packages: .*mover 1.0 depends on held>=2; .* held==1.0"):
        environment.install("mover")
    assert environment.versions() == before


def test_no_opencv_beside_another(environment: Environment) -> None:
    assert "eyes==1.0" in environment.install("eyes")
    assert "opencv-python" not in environment.versions()
    environment.pip("uninstall", "--yes", "opencv-python-headless", "eyes")
    assert set(environment.install("eyes")) == {"eyes==1.0", "opencv-python==4.11.0"}


def test_no_onnxruntime_beside_that_for_gpus(environment: Environment) -> None:
    """Both are one folder: the second would overwrite the first, and faces be slow from then on."""
    environment.pip("install", "onnxruntime-gpu")
    assert "faces==1.0" in environment.install("faces", "onnxruntime>=1.17")
    assert "onnxruntime" not in environment.versions()
    environment.pip("uninstall", "--yes", "onnxruntime-gpu", "faces")
    assert set(environment.install("faces")) == {"faces==1.0", "onnxruntime==1.23.2"}


def test_what_nobody_has(environment: Environment) -> None:
    with pytest.raises(RuntimeError, match="No matching distribution found for nothing-of-this-name"):
        environment.install("nothing-of-this-name")
