"""Jobs drawn by a real web UI over its API."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omg_ext.cli.main import main
from omg_ext.errors import OMGError
from omg_ext.jobs.job import Job, dump_job, parse_job
from omg_ext.remote.webui import WebUIEngine
from tests.jobs.fakes import a_list
from tests.webui.host import DEFAULTS, WebUI
from tests.webui.test_api import LEFT, RIGHT, concept, omg

pytestmark = [pytest.mark.webui, pytest.mark.usefixtures("nothing_left")]

MAN = {"phrase": "man", "prompt": "x"}
TWO = {"concepts": [concept("a red car <lora:sdxl-lora:1>", LEFT), concept("a dog", RIGHT)], "blend_start": 0.2}


def job(**fields: Any) -> Job:
    """As the direct calls of these tests ask for it."""
    same = {name: DEFAULTS[name] for name in ("prompt", "negative_prompt", "width", "height", "steps", "seed",
                                              "cfg_scale", "scheduler")}
    return parse_job({**same, "sampler": DEFAULTS["sampler_name"], **fields})


@pytest.fixture
def engine(webui: WebUI, monkeypatch: pytest.MonkeyPatch) -> WebUIEngine:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return WebUIEngine(webui.url)


def test_concepts_and_extras_are_those_of_a_direct_call(webui: WebUI, engine: WebUIEngine) -> None:
    data = {**TWO, "show": ["first_pass", "masks", "overlay"]}
    direct = omg(webui, data)
    drawn = engine.draw(job(request=data))
    np.testing.assert_array_equal(np.asarray(drawn.picture), direct.image)
    assert drawn.infotext == direct.info["infotexts"][0]
    assert set(drawn.extras) == {"first_pass", "overlay", "mask-0", "mask-1"}
    np.testing.assert_array_equal(np.asarray(drawn.extras["first_pass"]), webui.txt2img().image)
    left, right = (np.asarray(drawn.extras[f"mask-{index}"].convert("L")) for index in (0, 1))
    assert left[:, :40].min() == right[:, 88:].min() == 255
    assert left[:, 88:].max() == right[:, :40].max() == 0
    assert np.asarray(drawn.extras["overlay"]).shape == direct.image.shape
    assert drawn.warnings == []


def test_plain_job(webui: WebUI, engine: WebUIEngine) -> None:
    drawn = engine.draw(job())
    np.testing.assert_array_equal(np.asarray(drawn.picture), webui.txt2img().image)
    assert drawn.extras == {}


def test_what_was_found_and_what_was_not(webui: WebUI, engine: WebUIEngine) -> None:
    concepts = [{"phrase": "man", "prompt": "a red car"}, {"phrase": "giraffe", "prompt": "a giraffe"}]
    drawn = engine.draw(job(request={"concepts": concepts, "detector": "attention"}))
    assert any("giraffe" in warning for warning in drawn.warnings)
    assert drawn.found[0].keys() >= {"phrases", "box", "area", "concept"}


@pytest.mark.parametrize(("fields", "named", "said"), [
    ({"sampler": "DPM++ 2N"}, "sampler", "did you mean 'DPM++ 2M'"),
    ({"sampler": "DPM++ 2M Karras"}, "sampler", "unknown"),
    ({"scheduler": "Karass"}, "scheduler", "did you mean 'Karras'"),
    ({"checkpoint": "tiny-sdxk"}, "checkpoint", "did you mean 'tiny-sdxl'"),
    ({"prompt": "a man <lora:sdxl-lore:1>"}, "prompt", "<lora:sdxl-lora:1>"),
    ({"request": {"concepts": [concept("x", LEFT), concept("y <lora:nobody:1>", RIGHT)]}},
     "request.concepts[1].prompt", "no LoRA 'nobody'"),
    ({"request": {"concepts": [MAN], "detector": "yolo"}}, "request.detector", "not ready"),
    ({"request": {"concepts": [MAN], "detector": "crystal ball"}}, "request.detector", "known"),
])
def test_refused_before_anything_is_drawn(webui: WebUI, engine: WebUIEngine, fields: dict[str, Any], named: str,
                                          said: str) -> None:
    before = webui.denoiser_calls()
    for refuse in (engine.check, engine.draw):
        with pytest.raises(OMGError) as caught:
            refuse(job(**fields))
        assert caught.value.field == named
        assert said in caught.value.message
    assert webui.denoiser_calls() == before


def test_refused_by_the_extension(webui: WebUI, engine: WebUIEngine) -> None:
    small = {"box": [0.5, 0.5, 0.51, 0.51]}
    with pytest.raises(OMGError) as caught:
        engine.draw(job(request={"concepts": [concept("x", small)]}))
    assert caught.value.field.startswith("request.concepts[0]")


def test_checkpoints_switch_and_the_owners_setting_stays(webui: WebUI, engine: WebUIEngine) -> None:
    webui.set_checkpoint("tiny-sd15")
    expected = webui.txt2img().image
    webui.set_checkpoint("tiny-sdxl")
    mine = webui.txt2img().image
    for name in ("tiny-sd15", "models/Stable-diffusion/tiny-sd15.safetensors"):
        other = engine.draw(job(checkpoint=name))
        np.testing.assert_array_equal(np.asarray(other.picture), expected)
    if not webui.is_forge:  # which loads what a setting names as it is looked at
        assert webui.get("/omg-tests/checkpoint") == "tiny-sd15"  # still loaded, for the next job
    assert webui.options()["sd_model_checkpoint"].startswith("tiny-sdxl")
    np.testing.assert_array_equal(np.asarray(engine.draw(job()).picture), mine)


def test_a_picture_that_somebody_breaks_off_is_none(webui: WebUI, engine: WebUIEngine) -> None:
    def interrupt() -> None:
        while webui.progress()["state"]["sampling_step"] < 20:
            time.sleep(0.02)
        webui.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(OMGError, match="broke the picture off"):
        engine.draw(job(steps=150))
    thread.join()
    engine.draw(job(steps=2))


def test_the_command_draws_at_web_uis(webui: WebUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    two = {name: value for name, value in dump_job(job(request=TWO)).items() if name != "seed"}
    path = a_list(tmp_path, [{**two, "seeds": "5-7"}, {**dump_job(job(prompt="a dog")), "grid": {"steps": [1, 2]}}])
    out = tmp_path / "out"
    # one that is known by two names: each of them is a worker, and they wait for each other
    urls = [webui.url, webui.url.replace("127.0.0.1", "localhost")]
    assert main(["draw", str(path), "--out", str(out), "--webui", *urls]) == 0
    assert "5 pictures drawn" in capsys.readouterr().err
    lines = [json.loads(line) for part in (out / "manifest").iterdir() for line in part.read_text().splitlines()]
    assert {line["worker"] for line in lines} <= set(urls)
    for seed in (5, 7):
        file, = (line["file"] for line in lines if "request" in line["job"] and line["job"]["seed"] == seed)
        np.testing.assert_array_equal(np.asarray(Image.open(out / file)), omg(webui, TWO, seed=seed).image)
    assert main(["draw", str(path), "--out", str(out), "--webui", *urls]) == 0
    assert "5 there already" in capsys.readouterr().err


def test_the_command_refuses_what_a_web_ui_lacks(webui: WebUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path = a_list(tmp_path, [{"prompt": "a"}, {"prompt": "a", "sampler": "DPM++ 2N"}])
    assert main(["draw", str(path), "--out", str(tmp_path / "out"), "--webui", webui.url]) == 2
    said = capsys.readouterr().err
    assert "line 2: sampler" in said
    assert webui.url in said
    assert not (tmp_path / "out").exists()
