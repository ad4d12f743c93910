"""Model files from a real HTTP server on this machine: whole, checked, under another name until then."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from omg_ext.comprehension import DETECTORS, Models
from omg_ext.comprehension.catalog import CATALOG, Download
from omg_ext.comprehension.downloads import download, wanted
from omg_ext.errors import OMGError
from omg_ext.request import Detect
from tests.serving import Files, serving

CONTENT = bytes(range(256)) * 10_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Content(Files):
    def answer(self) -> None:
        if self.path == "/moved.pt":
            self.send_response(302)
            self.send_header("Location", "/model.pt")
            self.end_headers()
            return
        self.send_response(200 if self.path != "/gone.pt" else 404)
        if self.path != "/unknown-size.pt":
            self.send_header("Content-Length", str(2**60 if self.path == "/huge.pt" else len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1_000_000] if self.path == "/short.pt" else CONTENT)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Content) as address:
        yield address


def file(server: str, name: str = "model.pt", sha256: str | None = SHA256) -> Download:
    return Download(name, f"{server}/{name}", "the page", sha256=sha256)


@pytest.mark.parametrize("name", ["model.pt", "moved.pt", "unknown-size.pt"])
def test_whole(server: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / "new folder" / name
    steps = []
    for step in download(file(server, name), path):
        assert not path.exists()
        steps.append(step)
    assert path.read_bytes() == CONTENT
    assert [each.name for each in path.parent.iterdir()] == [name]
    assert steps[-1] == (len(CONTENT), 0 if name == "unknown-size.pt" else len(CONTENT))
    assert len(steps) > 1


@pytest.mark.parametrize(("name", "sha256", "reason"), [
    ("short.pt", None, "ended after 1000000 of 2560000 bytes"), ("model.pt", "0" * 64, "SHA-256"),
    ("gone.pt", None, "404"), ("huge.pt", None, "not so much room")])
def test_not_whole(server: str, tmp_path: Path, name: str, sha256: str | None, reason: str) -> None:
    with pytest.raises(OMGError, match=f"{reason}.*get it from the page and put it in {tmp_path}"):
        list(download(file(server, name, sha256), tmp_path / name))
    assert list(tmp_path.iterdir()) == []


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(OMGError, match="could not be downloaded"):
        list(download(file("http://127.0.0.1:9"), tmp_path / "model.pt"))


def test_broken_off(server: str, tmp_path: Path) -> None:
    going = download(file(server), tmp_path / "model.pt")
    next(going)
    assert [each.name for each in tmp_path.iterdir()] == ["model.pt.part"]
    going.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["grounding-dino+sam", "transformers", "yolo"])
def test_what_a_detector_lacks(tmp_path: Path, name: str) -> None:
    """With what is wanted in its place, no file is missing; what an earlier attempt has got is not got again."""
    models = Models(folders=[tmp_path])
    lacking = wanted(DETECTORS[name].needs(Detect(), models))
    assert len(lacking) >= 2
    assert {lacked for lacked, _ in lacking} <= {each for downloads in CATALOG.values() for each in downloads}
    kinds = {"owlvit-base-patch32": "owlvit", "sam-vit-base": "sam", "bert-base-uncased": "bert"}
    for number, (lacked, path) in enumerate(lacking):
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = kinds.get(path.parent.name)
        path.write_text(f'{{"model_type": "{kind}"}}')
        assert path.is_relative_to(tmp_path)
        assert lacked.url.startswith("https://")
        # a folder counts as there once its last file is: what was broken off before can be got again
        for need in DETECTORS[name].needs(Detect(), models):
            if need.kind == "file" and need.is_there:
                folder = next(path for _, path in lacking if path.parent == need.folder).parent
                assert all(path.is_file() for _, path in lacking if path.parent == folder != tmp_path)
        if number == 0:
            assert len(wanted(DETECTORS[name].needs(Detect(), models))) < len(lacking)
    assert all(need.is_there for need in DETECTORS[name].needs(Detect(), models) if need.kind == "file")
    assert wanted(DETECTORS[name].needs(Detect(), models)) == []
