"""The command ``omg draw`` with a real pipeline: the same pictures from one process and from a cluster's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omg_ext.cli.main import main
from omg_ext.jobs.cost import rows
from omg_ext.jobs.job import parse_job
from tests.diffusers_host import PROMPT, SIZE, left_and_right, two_concepts, write_lora
from tests.jobs.fakes import a_list
from tests.models.tiny import tiny_sdxl

JOBS = [{"prompt": PROMPT, "steps": 2, "width": SIZE, "height": SIZE, "seeds": "0-1", "name": "plain"},
        {"prompt": PROMPT, "steps": 3, "width": SIZE, "height": SIZE, "name": "two", "sampler": "Euler a",
         "request": two_concepts(show=["first_pass", "masks"]), "grid": {"request.predict": ["joint", "separate"]}}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model, two LoRAs, a list of jobs, and what it becomes here."""
    found = tmp_path_factory.mktemp("all")
    pipe = tiny_sdxl(depth=(1, 1, 1))
    pipe.save_pretrained(found / "xl")
    (found / "loras").mkdir()
    write_lora(pipe, found / "loras" / "one.safetensors", seed=1)
    write_lora(pipe, found / "loras" / "two.safetensors", seed=2)
    a_list(found, JOBS)
    assert draw(found, found / "here") == 0
    return found


def draw(folder: Path, out: Path, *further: str) -> int:
    return main(["draw", str(folder / "jobs.jsonl"), "--out", str(out), "--checkpoint", str(folder / "xl"), "--loras",
                 str(folder / "loras"), "--device", "cpu", *further])


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.asarray(Image.open(path)) for path in folder.glob("*.png")}


def test_every_job_has_its_files(folder):
    names = {path.name.split(".", 1)[1] if path.name.count(".") > 1 else path.name.split("-")[0]
             for path in (folder / "here").glob("*.png")}
    assert names == {"plain", "two", "first_pass.png", "mask-0.png", "mask-1.png"}
    assert len(pictures(folder / "here")) == 2 + 2 * 4
    lines = [json.loads(line) for part in (folder / "here" / "manifest").iterdir()
             for line in part.read_text().splitlines()]
    assert sorted(line["file"] for line in lines) == sorted(
        name for name in pictures(folder / "here") if name.count(".") == 1)
    for line in lines:
        text = Image.open(folder / "here" / line["file"]).info["parameters"]
        assert f"Seed: {line['job'].get('seed', 0)}" in text
        assert ("OMG: " in text) == ("request" in line["job"])


def test_the_same_command_again_draws_nothing(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in (folder / "here").glob("*.png")}
    assert draw(folder, folder / "here") == 0
    assert "4 there already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (folder / "here").glob("*.png")} == before


def test_a_cluster_draws_the_same(folder):
    assert draw(folder, folder / "ray", "--ray", "--workers", "2") == 0
    here, there = pictures(folder / "here"), pictures(folder / "ray")
    assert set(here) == set(there)
    for name, picture in here.items():
        # processes may have other numbers of threads
        np.testing.assert_allclose(there[name].astype(int), picture.astype(int), atol=1, err_msg=name)


def test_rows_are_reckoned_as_they_are_evaluated(folder):
    from omg_ext.diffusers.engine import DiffusersEngine
    engine = DiffusersEngine(checkpoint=folder / "xl", loras=folder / "loras", device="cpu")
    sought = [{"prompt": "old man<lora:one>", "phrase": "man"}, {"prompt": "young woman", "phrase": "woman"}]
    jobs: list[dict[str, Any]] = [{}, {"cfg_scale": 1}, {"request": {"concepts": left_and_right(), "preview": True}}]
    options: list[dict[str, Any]] = [
        {}, {"first_pass": "prefix", "blend_start": 0.5}, {"concepts": left_and_right()},
        {"concepts": left_and_right(negative_prompt="blue"), "blend_start": 0},
        {"concepts": [{**each, "lora_guidance": 2} for each in two_concepts()["concepts"]]}]
    jobs += [{"request": {"concepts": sought, "predict": predict, **each}}
             for predict in ("joint", "shared", "separate") for each in options]
    evaluated: list[int] = []
    engine.draw(parse_job({"prompt": PROMPT, "steps": 2, "width": SIZE, "height": SIZE}))
    assert engine._omg is not None
    engine._omg.pipe.unet.register_forward_pre_hook(lambda module, args: evaluated.append(len(args[0])))
    for data in jobs:
        job = parse_job({"prompt": PROMPT, "steps": 10, "width": SIZE, "height": SIZE, "sampler": "Euler", **data})
        evaluated.clear()
        assert not engine.draw(job).warnings
        assert sum(evaluated) == rows(job), data
    evaluated.clear()
    twice = parse_job({"prompt": PROMPT, "steps": 10, "width": SIZE, "height": SIZE, "sampler": "Heun"})
    engine.draw(twice)
    assert sum(evaluated) == pytest.approx(rows(twice), abs=2)
