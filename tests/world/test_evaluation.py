"""``omg evaluate`` where everything is trained: what it measures tells methods apart, and the same whoever draws."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.world import paper, weights
from bench.world.webui import install
from tests.webui.host import WebUI, install_extension, make_data_dir

MISSING = weights.missing(weights.CHECKPOINT, weights.FIGURES, weights.IDENTITY)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

THRESHOLD = 0.5
PAIR, MEN = "Rusty+Azura", "Rusty+Marlow"


def evaluation(out: Path, *arguments: str) -> dict[str, Any]:
    """What the quick evaluation finds, of one seed."""
    assert paper.main(["--quick", "--seeds", "0", "--steps", "10", "--out", str(out), *arguments]) == 0
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paper")


@pytest.fixture(scope="module")
def here(out: Path) -> dict[str, Any]:
    """Drawn by this process."""
    return evaluation(out)


def means(found: dict[str, Any], table: str, cast: str) -> dict[str, dict[str, float]]:
    """By method and figure."""
    return {row["method"]: {name: value["mean"] for name, value in row.items() if isinstance(value, dict)}
            for row in found["tables"][table] if row.get("cast", cast) == cast}


def test_methods_are_told_apart(here):
    for cast in (PAIR, MEN):
        table = means(here, "table-2", cast)
        assert table["single LoRA"]["ida"] > table["OMG"]["ida"] > table["no LoRA"]["ida"] + 0.2
        assert table["no LoRA"]["layout"] == 1
        assert table["no LoRA"]["background"] == 0
        for other in ("simultaneous LoRAs", "regional sampling", "latent blending"):
            assert table["OMG"]["layout"] > table[other]["layout"]
            assert table["OMG"]["background"] < table[other]["background"]
    # two men are where all LoRAs at once fail
    assert means(here, "table-2", MEN)["simultaneous LoRAs"]["ida"] < means(here, "table-2", MEN)["OMG"]["ida"]


def test_the_papers_figures_are_there(out, here):
    starts = means(here, "fig-5-initiation-timestep", PAIR)
    assert list(starts) == ["no LoRA", *(f"OMG from, blend_start {value}" for value in (0, 0.2, 0.4, 0.6, 0.8, 1))]
    # blended in never is the ordinary picture; the later, the more of it stays
    assert starts["OMG from, blend_start 1"] == starts["no LoRA"]
    layouts = [figures["layout"] for figures in list(starts.values())[1:]]
    assert layouts[0] < layouts[2] < layouts[5] == 1
    assert [row["cast"] for row in here["tables"]["fig-10-c-numbers-of-concepts"] if row["method"] == "OMG"] == [
        "Rusty", PAIR]
    for name in ("fig-2-a", "fig-5", "fig-10-a", "fig-10-b", "fig-10-c"):
        assert len(list((out / "sheets").glob(f"*-{name}-*.jpg"))) == 1


def same(found: dict[str, Any], here: dict[str, Any], tolerance: float) -> None:
    """All values of all pictures, to a tolerance."""
    assert found["missing"] == 0
    assert len(found["pictures"]) == len(here["pictures"])
    for one, other in zip(found["pictures"], here["pictures"], strict=True):
        assert one["key"] == other["key"]
        assert one["figures"] == pytest.approx(other["figures"], abs=100 * tolerance)  # of 255 grey levels
        assert one["concepts"].keys() == other["concepts"].keys()
        for name, values in one["concepts"].items():
            known = other["concepts"][name]
            unsure = _unsure(values, tolerance) | _unsure(known, tolerance)
            assert ({figure: value for figure, value in values.items() if figure not in unsure}
                    == pytest.approx({figure: value for figure, value in known.items() if figure not in unsure},
                                     abs=tolerance))


def _unsure(values: dict[str, float], tolerance: float) -> set[str]:
    """What the tolerance may turn over: whether somebody is recognised who is just at the threshold."""
    return {told for name, told in (("identity", "detected"), ("ida", "ida_detected"))
            if abs(values.get(name, 0) - THRESHOLD) <= tolerance}


def test_two_processes_of_rays_find_the_same(here, tmp_path):
    same(evaluation(tmp_path, "--ray", "--workers", "2"), here, 0.01)


@pytest.fixture
def two(running: WebUI, installation: Path, checkpoints: Path,
        tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebUI, WebUI]]:
    """The session's web UI and another one, each with the small world loaded."""
    folder = tmp_path_factory.mktemp("second")
    make_data_dir(folder, checkpoints)
    install_extension(installation, folder)
    install(folder, installation)
    with WebUI(installation, folder) as other:
        for each in (running, other):
            each.set_checkpoint(weights.CHECKPOINT.stem)
        yield running, other


@pytest.mark.webui
def test_two_web_uis_find_the_same(two, here, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    urls = [each.url for each in two]
    found = evaluation(tmp_path, "--webui", *urls)
    same(found, here, 0.05)
    lines = [json.loads(line) for part in (tmp_path / "manifest").iterdir() for line in part.read_text().splitlines()]
    assert {line["worker"] for line in lines} == set(urls)
