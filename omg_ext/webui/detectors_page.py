"""The part of the settings that says what each detector, and reading faces, lacks, and gets it on a click."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import gradio as gr
from modules import script_callbacks, shared

from ..comprehension import DETECTORS, Need
from ..comprehension.downloads import download, wanted
from ..errors import OMGError
from ..faces import files as faces
from ..request import Detect
from . import packages
from .models import models
from .settings import SECTION

ABOUT = """A detector finds in the first picture who is where; face is for concepts with a photo of a face. Nothing is
installed or downloaded unless you press the button. Packages are added beside what the web UI has; where that is
impossible, nothing changes. Some model files are pickles (.pt), which can run code when they are loaded: take them from
sources you trust. The models that read faces are free for non-commercial research only."""
NO_ACCESS = ("This web UI is started with --share, --listen or a like option, so packages cannot be installed from the "
             "page; start it with --enable-insecure-extension-access, or install them by hand.")
NOTHING = "{detector} has all it needs."
DONE = "{detector} has all it needs now."
STOPPED = "Stopped. What was got whole is kept."
# of the page, in seconds
_EVERY = 0.3


def register() -> None:
    """Ask the host to show it in its settings; to be called from the script, as a UI reload forgets callbacks."""
    script_callbacks.on_ui_settings(_add, name="omg_detectors")


def _add() -> None:
    option = _DetectorsOption()
    option.section = SECTION
    shared.opts.add_option("omg_detectors", option)


class _DetectorsOption(shared.OptionInfo):
    """A place in the settings that holds a table and a button, and nothing to save."""

    def __init__(self) -> None:
        super().__init__("", "", _build)
        self.do_not_save = True

    @property
    def default(self) -> str:
        """The table as it is now: the host shows this whenever the page is loaded."""
        return table()

    @default.setter
    def default(self, value: str) -> None:
        """The host's class sets one."""


def _build(label: str, value: str, elem_id: str) -> Any:
    """The components. The table is what the host takes for the setting's value."""
    gr.HTML(f"<h3>Detectors</h3><p>{ABOUT}</p>")
    shown = gr.HTML(value, elem_id=elem_id)
    with gr.Row():
        which = gr.Dropdown(_with_needs(), label="Detector", elem_id=f"{elem_id}_which", value=None)
        button = gr.Button("Get what it lacks", elem_id=f"{elem_id}_get")
        stop = gr.Button("Stop", elem_id=f"{elem_id}_stop")
    said = gr.HTML(elem_id=f"{elem_id}_said")
    # gradio takes functions that report in between only where it has its queue
    button.click(_get_at_once if shared.cmd_opts.no_gradio_queue else get, [which], [shown, said], show_progress=False)
    stop.click(_stop, queue=False, show_progress=False)
    return shown


def table() -> str:
    """All that needs something, with what is there and what is missing, in HTML."""
    rows = "".join(f"<tr><td>{name}</td><td>{_state(needs)}</td></tr>" for name, needs in _needs().items() if needs)
    return f'<table class="omg-detectors"><tr><th>Detector</th><th>What it needs</th></tr>{rows}</table>'


class _Job:
    """Gets what a detector lacks, in a thread of its own, so that it goes on whatever becomes of the page."""

    def __init__(self, detector: str):
        self.said = ""
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(detector,), daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def stop(self) -> None:
        self._stops.set()

    def _run(self, detector: str) -> None:
        try:
            with closing(_steps(detector)) as steps:
                for self.said in steps:
                    if self._stops.is_set():
                        self.said = STOPPED
                        return
        except OMGError as error:
            self.said = str(error)
        except Exception as error:
            self.said = f"It failed ({type(error).__name__}: {error})."
            raise  # for the log


# the last one
_jobs: list[_Job] = []


def get(detector: str | None) -> Iterator[tuple[Any, str]]:
    """Install and download what a detector lacks; if something is being got, say how far that is.

    Yields:
        the table, as it is or at the end anew, and how far it is.
    """
    if not _jobs or _jobs[-1].is_over:
        if detector not in (*DETECTORS, faces.NAME):
            yield gr.update(), "Choose a detector first."
            return
        _jobs[:] = [_Job(detector)]
    job = _jobs[-1]
    while not job.is_over:
        yield gr.update(), f"<p>{html.escape(job.said)}</p>"
        time.sleep(_EVERY)
    yield table(), f"<p>{html.escape(job.said)}</p>"


def _get_at_once(detector: str | None) -> tuple[Any, str]:
    return list(get(detector))[-1]


def _stop() -> None:
    for job in _jobs:
        job.stop()


def _steps(detector: str) -> Generator[str, None, None]:
    """A sentence now and then.

    Raises:
        OMGError: something cannot be had.
    """
    needs = _needs()[detector]
    requirements = [need.name for need in needs if need.kind == "package" and not need.is_there]
    files = wanted(needs)
    if not requirements and not files:
        yield NOTHING.format(detector=detector)
        return
    if requirements:
        if shared.cmd_opts.disable_extension_access:
            raise OMGError("packages", NO_ACCESS)
        yield f"Installing {', '.join(requirements)}. This can take minutes."
        yield f"Installed {', '.join(packages.install(requirements)) or 'nothing new'}."
    for file, path in files:
        shown = -1
        for done, size in download(file, path):
            percent = 100 * done // size if size else done // 10_000_000
            if percent != shown:
                shown = percent
                yield f"{file.name}: {done / 1e6:.0f}{f' of {size / 1e6:.0f}' if size else ''} MB"
    left = [str(need) for need in _needs()[detector] if not need.is_there]
    yield f"{detector} still needs {'; and '.join(left)}" if left else DONE.format(detector=detector)


def _with_needs() -> list[str]:
    return [name for name, needs in _needs().items() if needs]


def _needs() -> dict[str, list[Need]]:
    options, tools = Detect(), models()
    found = {name: [need for need in detector.needs(options, tools) if need.kind != "place"]
             for name, detector in DETECTORS.items()}
    return {**found, faces.NAME: faces.drawing_needs(tools)}


def _state(needs: Sequence[Need]) -> str:
    return "<br>".join(_line(need) for need in needs)


def _line(need: Need) -> str:
    name = html.escape(need.name)
    if need.is_there:
        return f"&#10003; {name}"
    if need.kind == "package":
        return f"&#10007; the Python package {name}"
    size = f", {need.size / 1e6:.0f} MB" if need.size else ""
    page = html.escape(need.page, quote=True)
    folder = html.escape(str(need.folder))
    others = "".join(f", {html.escape(download.name)}" for download in need.downloads[1:])
    return f'&#10007; {name}{size}{others}, from <a href="{page}" target="_blank">{page}</a>, in {folder}'
