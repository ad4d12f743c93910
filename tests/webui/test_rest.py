"""The routes under ``/omg/v1``, in a real web UI."""

from __future__ import annotations

import base64
import io
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.webui.host import DEFAULTS, ApiError, WebUI, install_extension, make_data_dir
from tests.webui.test_api import omg

pytestmark = pytest.mark.webui

SITE = "https://studio.example"
GETS = ("/omg/v1/detectors", "/omg/v1/schema", "/omg/v1/version")
PAYLOAD = {**DEFAULTS, "prompt": "a photo of two men and a dog"}


def detect(webui: WebUI, **body: Any) -> Any:
    return webui.post("/omg/v1/detect", body)


def mask(instance: dict[str, Any]) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(instance["mask"]))) as picture:
        return np.asarray(picture.convert("L")) > 127


def png(picture: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_detectors_and_what_they_lack(webui: WebUI) -> None:
    listed = {each["name"]: each for each in webui.get("/omg/v1/detectors")}
    assert listed["attention"] == {"name": "attention", "ready": True, "needs_first_pass": True, "needs": []}
    assert not listed["yolo"]["ready"]
    missing = [need for need in listed["yolo"]["needs"] if not need["is_there"]]
    assert {"kind", "name", "size", "page", "folder"} <= set(missing[0])


def test_first_pass_of_a_txt2img_call(webui: WebUI) -> None:
    """The same as a preview finds, and its masks."""
    found, = detect(webui, phrases=["man", "dog"], txt2img=PAYLOAD)["pictures"]
    assert found
    for instance in found:
        shape = mask(instance)
        assert shape.mean() == pytest.approx(instance["area"], abs=1e-3)
        rows, columns = np.nonzero(shape)
        edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert edges / (*shape.shape[::-1], *shape.shape[::-1]) == pytest.approx(instance["box"], abs=1e-3)
    assert np.sum([mask(instance) for instance in found], axis=0).max() == 1
    assert {phrase for instance in found for phrase in instance["phrases"]} <= {"man", "dog"}
    shown = omg(webui, {"concepts": [{"phrase": phrase, "prompt": ""} for phrase in ("man", "dog")], "preview": True},
                **{name: PAYLOAD[name] for name in ("prompt",)})
    said = shown.info["extra_generation_params"]["OMG found"][0]
    for instance in found:
        assert str(instance["box"]) in said


def test_pictures_of_an_img2img_call(webui: WebUI) -> None:
    """Looked at as a preview of img2img does, in fractions of the whole picture, and not drawn."""
    given = webui.txt2img(**PAYLOAD).image
    payload = {**PAYLOAD, "init_images": [png(given)]}
    concepts = [{"phrase": phrase, "prompt": ""} for phrase in ("man", "dog")]
    shown = webui.img2img(given, prompt=PAYLOAD["prompt"],
                          alwayson_scripts={"OMG": {"args": [{"concepts": concepts, "preview": True}]}})
    calls = webui.denoiser_calls()
    with webui.seeded():
        found, = detect(webui, phrases=["man", "dog"], img2img=payload)["pictures"]
    assert webui.denoiser_calls() == calls
    assert found
    said = json.loads(shown.info["extra_generation_params"]["OMG found"][0])
    assert [instance["box"] for instance in found] == [instance["box"] for instance in said]
    assert {phrase for instance in found for phrase in instance["phrases"]} <= {"man", "dog"}
    masked = np.zeros((128, 128), np.uint8)
    masked[:64, 64:] = 255
    only = {**payload, "mask": png(masked), "inpaint_full_res": True, "inpaint_full_res_padding": 0}
    here, = detect(webui, phrases=["man"], img2img=only)["pictures"]
    assert here
    # the web UI blurs the mask, and goes a little beyond it
    assert all(instance["box"][0] > 0.4 and instance["box"][3] < 0.6 for instance in here)
    assert len(detect(webui, phrases=["man"], img2img={**payload, "batch_size": 2})["pictures"]) == 2


def test_batches(webui: WebUI) -> None:
    assert len(detect(webui, phrases=["man"], txt2img={**PAYLOAD, "batch_size": 2, "n_iter": 2})["pictures"]) == 4


@pytest.mark.parametrize(("body", "reason"), [
    ({}, "phrases: expected a list"), ({"phrases": []}, "phrases: expected a list"),
    ({"phrases": ["man"]}, "give either"), ({"phrases": ["man"], "image": "x", "txt2img": {}}, "give either"),
    ({"phrases": ["man"], "img2img": {}, "txt2img": {}}, "give either"),
    ({"phrases": ["man"], "picture": "x"}, "picture: unknown field"),
    ({"phrases": ["man"], "img2img": []}, "img2img: expected"), ({"phrases": ["man"], "img2img": {}}, "img2img: "),
    ({"phrases": ["man"], "img2img": {"init_images": ["nonsense"]}}, "img2img: Invalid encoded image"),
    ({"phrases": [""], "image": "x"}, r"concepts\[0\].phrase"), ({"phrases": [3], "image": "x"}, r"concepts\[0\]"),
    ({"phrases": ["man"], "txt2img": []}, "txt2img: expected"),
    ({"phrases": ["man"], "txt2img": {"alwayson_scripts": 3}}, "txt2img: expected"),
    ({"phrases": ["man"], "txt2img": {"steps": "many"}}, "txt2img: the web UI does not take it: .*steps"),
    ({"phrases": ["man"], "image": "nonsense"}, "no base64-encoded picture"),
    ({"phrases": ["man"], "image": "x", "detector": "magic"}, "no detector"),
    ({"phrases": ["man"], "image": "x", "detect": {"threshold": 2}}, "detect.threshold"),
], ids=str)
def test_bad_bodies_are_refused_with_the_field(webui: WebUI, body: dict[str, Any], reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as caught:
        webui.post("/omg/v1/detect", body)
    assert caught.value.status == 422


def test_what_is_not_found_is_said(webui: WebUI) -> None:
    answer = detect(webui, phrases=["man", "giraffe"], txt2img=PAYLOAD)
    said, = answer["warnings"]
    assert "no 'giraffe' was found" in said
    assert detect(webui, phrases=["man"], txt2img=PAYLOAD)["warnings"] == []


@pytest.mark.parametrize("detector", ["attention", "contrast"])
def test_a_detector_that_goes_by_the_prompt_needs_a_first_pass(webui: WebUI, detector: str) -> None:
    with pytest.raises(ApiError, match="send `txt2img`"):
        detect(webui, phrases=["man"], image=png(np.zeros((64, 64, 3), np.uint8)), detector=detector)


def test_what_is_missing_is_said(webui: WebUI) -> None:
    with pytest.raises(ApiError, match="`yolo` needs"):
        detect(webui, phrases=["man"], image=png(np.zeros((64, 64, 3), np.uint8)), detector="yolo")


@pytest.fixture
def guarded(installation: Path, checkpoints: Path, tmp_path: Path) -> Iterator[WebUI]:
    """A web UI of its own whose API wants a password, and which pages of another site may ask."""
    make_data_dir(tmp_path, checkpoints)
    install_extension(installation, tmp_path)
    flags = ("--nowebui", "--api-auth", "me:secret", "--cors-allow-origins", SITE)
    with WebUI(installation, tmp_path, flags) as started:
        yield started
    shutil.rmtree(tmp_path / "models")


def test_under_the_hosts_api_auth(guarded: WebUI) -> None:
    """Refused without the password, answered with it, and another site's page may read the answer."""
    for path, body in (*((path, None) for path in GETS), ("/omg/v1/detect", {"phrases": ["man"], "txt2img": {}})):
        with pytest.raises(ApiError) as caught:
            guarded.request(path, body)
        assert caught.value.status == 401
    password = base64.b64encode(b"me:secret").decode()
    for path in GETS:
        status, headers = ask(guarded.url + path, Authorization=f"Basic {password}", Origin=SITE)
        assert status == 200
        assert headers["Access-Control-Allow-Origin"] == SITE
    for path, method in (*((path, "GET") for path in GETS), ("/omg/v1/detect", "POST")):
        # what a browser asks first, without the password
        status, headers = ask(guarded.url + path, "OPTIONS", Origin=SITE, **{
            "Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization, content-type"})
        assert status == 200
        assert headers["Access-Control-Allow-Origin"] == SITE
        assert "authorization" in headers["Access-Control-Allow-Headers"].lower()


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, Any]:
    """The status and the headers of an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers, method=method), timeout=60) as answer:
        return answer.status, answer.headers
