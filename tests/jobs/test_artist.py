"""A worker's work."""

from __future__ import annotations

import pickle

from omg_ext.jobs.artist import Artist, Failure
from omg_ext.jobs.job import Job
from omg_ext.jobs.store import Store
from tests.jobs.engines import Painter


def test_a_store_that_cannot_be_written_to(tmp_path, monkeypatch):
    """It ended the worker's thread, and the run waited for its answer for ever."""
    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(Store, "write", full)
    outcome = Artist(Painter(tmp_path), Store(str(tmp_path)))(Job("a picture"))
    assert outcome == Failure("OSError: no space left")


def test_a_store_for_another_process(tmp_path, monkeypatch):
    """Which may well run in another folder."""
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(Store("out"))
    monkeypatch.chdir("/")
    pickle.loads(sent).open()
    assert (tmp_path / "out").is_dir()
