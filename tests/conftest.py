"""Settings of all tests, and a real web UI for those that need one: started once, with all checkpoints and networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from PIL import Image, UnidentifiedImageError

from tests.webui.host import (
    CHECKPOINTS,
    PAGE,
    WebUI,
    find_installation,
    forge_is_tested,
    install_extension,
    is_forge,
    make_data_dir,
    write_checkpoints,
)

NO_WEBUI = ("no web UI: set OMG_WEBUI to a web UI v1.10 folder, or OMG_FORGE to a Forge's, that has its Python "
            "environment in venv/")

NO_PARAMETERS = SimpleNamespace(params={})

HAS_FAILED = pytest.StashKey[bool]()

# time limits per example fail by chance on a busy machine
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class Hooks:
    """What the conftest of a folder of tests may define besides pytest's own hooks."""

    @staticmethod
    def pytest_webui_data_dir(folder: Path, installation: Path) -> None:
        """Put more into the data folder of the session's web UI, before it starts."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--each-choice", action="store_true", help=(
        "in a web UI each choice of a test's parameters, but not each combination of them"))


@pytest.hookimpl(trylast=True)  # of what -k and -m leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Each-choice coverage, where it was asked for: left out is what brings no choice that its test has not had."""
    if not config.getoption("each_choice"):
        return
    had, kept, left_out = set[tuple[str, ...]](), list[pytest.Item](), list[pytest.Item]()
    for item in items:
        now = set(choices(item)) if item.get_closest_marker("webui") else set()
        (left_out if now and now <= had else kept).append(item)
        had |= now
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def choices(item: pytest.Item) -> Iterator[tuple[str, ...]]:
    """What a test runs with, each with the test's name; arguments of one ``parametrize`` are one choice."""
    given = dict(getattr(item, "callspec", NO_PARAMETERS).params)
    together = [[name.strip() for name in names.split(",")] if isinstance(names, str) else names
                for names in (mark.args[0] for mark in item.iter_markers("parametrize"))]
    alone = [[name] for name in given if not any(name in names for names in together)]
    for names in (*together, *alone):
        yield (item.nodeid.partition("[")[0], *names, *(repr(given[name]) for name in names))


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


@pytest.fixture(params=["Pillow's", "another's"])
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """``Image.open`` as it is, and as ultralytics replaces it: formats that Pillow does not know ask for a package."""
    original = Image.open

    def replaced(*args: Any, **options: Any) -> Image.Image:
        try:
            return original(*args, **options)
        except UnidentifiedImageError:
            raise ModuleNotFoundError("No module named 'pi_heif'") from None

    if request.param != "Pillow's":
        monkeypatch.setattr(Image, "open", replaced)


@pytest.fixture(scope="session")
def installation() -> Path:
    """The web UI installation; without one the test is skipped."""
    found = find_installation()
    if found is None:
        pytest.skip(NO_WEBUI)
    return found


@pytest.fixture(scope="session")
def checkpoints(installation: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that ``webui/checkpoints.py`` wrote."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoints(installation, folder)
    yield folder
    shutil.rmtree(folder)  # pytest would keep 130 MB of each of the last runs


@pytest.fixture(scope="session")
def running(installation: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory,
            pytestconfig: pytest.Config) -> Iterator[WebUI]:
    """The one web UI of the session."""
    from tests.webui.controls import write_controls
    from tests.webui.networks import write_networks  # takes seconds, which most runs of a few tests need not

    folder = tmp_path_factory.mktemp("webui")
    make_data_dir(folder, checkpoints)
    write_networks(checkpoints, folder / "models" / "Lora")
    if is_forge(installation):  # whose ControlNet is a part of it, and knows the files that are there at the start
        write_controls(checkpoints, folder / "models" / "ControlNet")
    install_extension(installation, folder)
    (folder / "ui-config.json").write_text(json.dumps(PAGE))
    pytestconfig.hook.pytest_webui_data_dir(folder=folder, installation=installation)
    with WebUI(installation, folder) as started:
        # the first switch of checkpoints changes the last bit of later pictures, with or without the extension
        for name in started.checkpoints():
            started.set_checkpoint(name)
        yield started
    shutil.rmtree(folder / "models")


@pytest.fixture
def webui(running: WebUI) -> WebUI:
    """The running web UI with the tiny SDXL checkpoint loaded."""
    running.set_checkpoint(CHECKPOINTS[0])
    return running


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of what is another thing in Forge are skipped there, by their reason."""
    for marker in item.iter_markers("not_in_forge"):
        if forge_is_tested():
            pytest.skip(f"not in Forge: {marker.args[0]}")


@pytest.fixture(scope="module")
def browser_page(running: WebUI) -> Iterator[Any]:
    """A page of a browser, for all tests of a file."""
    from tests.webui.browser import browsing  # which not every environment can drive

    with browsing(running) as page:
        yield page


@pytest.fixture
def page(webui: WebUI, browser_page: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A freshly loaded page with a small picture to make; a screenshot of it is kept if the test fails."""
    from tests.webui.browser import ask_for_a_small_picture, load

    load(webui, browser_page)
    ask_for_a_small_picture(browser_page)
    yield browser_page
    if request.node.stash.get(HAS_FAILED, False):
        browser_page.screenshot(path=tmp_path / "page.png", full_page=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what the web UI printed last; all tests skipped for want of one make one summary line."""
    report = yield
    if report.when == "call":
        item.stash[HAS_FAILED] = report.failed
    if report.skipped and NO_WEBUI in str(report.longrepr):
        # the summary counts what has the same place and reason, and pytest's own place is each test's
        report.longrepr = (__file__, 0, NO_WEBUI)
    started = getattr(item, "funcargs", {}).get("webui")
    if report.failed and started is not None:
        report.sections.append(("web UI log, its end", started.log()[-4000:]))
    return report
