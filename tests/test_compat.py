"""Who imports whom: the core knows neither host and runs on the web UI's own Python; nothing leans on the bench."""

from __future__ import annotations

import ast
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "omg_ext"
HOSTS = ("webui", "forge", "diffusers")
# top-level modules that only a host package may import
HOST_MODULES = {"modules", "modules_forge", "backend", "ldm_patched", "gradio", "fastapi", "launch", "networks",
                "network", "ldm", "sgm", "k_diffusion", "diffusers", "transformers", "peft"}
# what runs models of transformers without a host: detectors, and what measures pictures
OF_TRANSFORMERS = {"omg_ext.comprehension.grounding", "omg_ext.comprehension.pretrained", "omg_ext.evaluate.clip"}
# who starts a host, where one is asked for
STARTS_A_HOST = {"omg_ext.cli.workers"}
# who asks for Forge where that runs; Forge itself takes what both web UIs share
ASKS_FOR_FORGE = {"omg_ext.webui.engine"}

# tests of what lies in bench/, and they alone, may import it
BENCH_TESTS = ("tests.world", "tests.bench")


def core_files() -> list[Path]:
    """The package's files outside its host packages."""
    files = sorted(PACKAGE.rglob("*.py"))
    return [file for file in files if file.relative_to(PACKAGE).parts[0] not in HOSTS]


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(file: Path) -> set[str]:
    """Full names of all modules that a file imports anywhere, relative imports resolved."""
    package = file.parent.relative_to(ROOT).parts
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[:len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def imported_from(file: Path, packages: Iterable[str]) -> set[str]:
    """The names among :func:`imported_modules` that lie in one of the packages."""
    return {name for name in imported_modules(file) if any(f"{name}.".startswith(f"{each}.") for each in packages)}


def product_files() -> list[Path]:
    """All that a user of the extension runs."""
    return [ROOT / "install.py", *(file for folder in ("omg_ext", "scripts") for file in (ROOT / folder).rglob("*.py"))]


def product_tests() -> list[Path]:
    """Everything in ``tests/`` but the folders of :data:`BENCH_TESTS`."""
    return [file for file in sorted((ROOT / "tests").rglob("*.py"))
            if not module_name(file).startswith(tuple(f"{name}." for name in BENCH_TESTS))]


@pytest.mark.parametrize("file", core_files(), ids=module_name)
def test_the_core_knows_no_host(file):
    imported = imported_modules(file)
    hosts = {f"omg_ext.{host}" for host in HOSTS}
    modules = HOST_MODULES - {"transformers"} if module_name(file) in OF_TRANSFORMERS else HOST_MODULES
    assert {name for name in imported if name.split(".")[0] in modules} == set()
    if module_name(file) not in STARTS_A_HOST:
        assert {name for name in imported if ".".join(name.split(".")[:2]) in hosts} == set()


@pytest.mark.parametrize(("host", "foreign", "known"), [
    ("webui", {"diffusers", "backend", "ldm_patched"}, set()),
    ("forge", {"diffusers", "ldm", "sgm", "k_diffusion"}, {"webui"}),
    ("diffusers", {"modules", "backend", "ldm_patched", "gradio", "networks"}, set()),
])
def test_no_host_knows_another(host, foreign, known):
    for file in sorted((PACKAGE / host).rglob("*.py")):
        imported = imported_modules(file)
        assert {name for name in imported if name.split(".")[0] in foreign} == set(), file
        others = {other for other in HOSTS if imported_from(file, [f"omg_ext.{other}"])} - {host, *known}
        assert others == ({"forge"} if module_name(file) in ASKS_FOR_FORGE else set()), file


def test_the_product_knows_neither_bench_nor_tests():
    assert {file: found for file in product_files() if (found := imported_from(file, ("bench", "tests")))} == {}


def test_the_products_tests_do_not_know_the_bench():
    known = {file: found for file in product_tests() if (found := imported_from(file, ("bench", *BENCH_TESTS)))}
    assert known == {}


@pytest.mark.webui
def test_the_core_imports_on_the_web_uis_python():
    webui = os.environ.get("OMG_WEBUI")
    if not webui:
        pytest.skip("OMG_WEBUI names no web UI installation")
    python = Path(webui, "venv/bin/python")
    # as the web UI does at a launch
    installed = run([python, ROOT / "install.py"], PYTHONPATH=webui, COMMANDLINE_ARGS="")
    assert installed.returncode == 0, installed.stderr
    imports = "; ".join(f"import {module_name(file)}" for file in core_files())
    result = run([python, "-c", imports], PYTHONPATH=str(ROOT))
    assert result.returncode == 0, installed.stdout + result.stderr


def run(command: list[str | Path], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
