"""How a request may stand in an API call: every likely form makes its picture, or the answer shows the right one."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest

from omg_ext.request import parse_request
from omg_ext.webui.form import args_from_request
from tests.webui.host import SETTINGS, ApiError, WebUI, distance
from tests.webui.test_api import LEFT, RIGHT, concept, request

pytestmark = pytest.mark.webui

REQUEST = request(concept("a man <lora:sdxl-lora:1>", LEFT), concept("a woman", RIGHT))
OFF = {"enabled": False, **REQUEST}


@pytest.fixture(scope="module")
def wanted(running: WebUI) -> np.ndarray:
    """The picture that the request asks for."""
    running.set_checkpoint("tiny-sdxl")
    made = running.txt2img(alwayson_scripts={"OMG": {"args": [REQUEST]}}).image
    assert distance(made, running.txt2img().image) > 2
    return made


@pytest.mark.parametrize(("name", "given"), [
    ("OMG", REQUEST), ("omg", REQUEST), ("OMG", {"args": REQUEST}), ("OMG", [REQUEST]),
    ("OMG", json.dumps(REQUEST)), ("OMG", {"args": json.dumps(REQUEST)}), ("OMG", {"args": [json.dumps(REQUEST)]}),
], ids=["bare", "bare, in small letters", "args an object", "a list", "text", "args a text", "args a list of text"])
def test_every_likely_form_is_read(webui: WebUI, wanted: np.ndarray, name: str, given: Any) -> None:
    np.testing.assert_array_equal(webui.txt2img(alwayson_scripts={name: given}).image, wanted)


@pytest.mark.parametrize(("given", "reason"), [
    ({}, "concepts"), ({"args": {}}, "concepts"), ({"args": [{}]}, "concepts"),
    ({"concept": REQUEST["concepts"]}, "did you mean `concepts`"), (REQUEST["concepts"][0], "unknown field"),
    ({"args": [REQUEST], "strict": True}, '`strict` beside `args`.*"args": '), ("yes", "not JSON"),
    ({"args": [REQUEST, REQUEST]}, "2 requests would make one picture"),
    ({"args": ["", True, "two"]}, "expected a whole number"),
    (None, '"args": '), (7, '"args": '), (True, '"args": '), ({"args": None}, '"args": '), ({"args": 7}, '"args": '),
], ids=str)
def test_what_cannot_be_read_is_refused(webui: WebUI, given: Any, reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as refused:
        webui.txt2img(alwayson_scripts={"OMG": given})
    assert refused.value.status == 422


def test_calls_without_omg_are_left_alone(webui: WebUI) -> None:
    plain = webui.txt2img()
    calls: list[dict[str, Any]] = [{}, {"OMG": {"args": []}}, {"OMG": OFF}, {"Sampler": {"args": []}}]
    for scripts in calls:
        np.testing.assert_array_equal(webui.txt2img(alwayson_scripts=scripts).image, plain.image)
    with pytest.raises(ApiError) as refused:
        webui.post("/sdapi/v1/txt2img", ["no object"])
    assert refused.value.status == 422


@pytest.mark.parametrize("path", ["/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/omg/v1/detect"])
@pytest.mark.parametrize("body", [b"", b"hello", "{\"prompt\": \"caf\xe9\"}".encode("latin-1")])
def test_a_body_that_is_no_json_is_refused(webui: WebUI, path: str, body: bytes) -> None:
    call = urllib.request.Request(webui.url + path, body, {"Content-Type": "application/json"}, method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(call)
    assert 400 <= refused.value.code < 500


@pytest.mark.parametrize("given", [REQUEST, {"args": [REQUEST]}, json.dumps(REQUEST)], ids=["bare", "args", "text"])
def test_img2img_reads_it_too(webui: WebUI, given: Any) -> None:
    picture = webui.txt2img().image
    made = webui.img2img(picture, alwayson_scripts={"omg": given})
    assert "OMG: " in made.info["infotexts"][0]
    assert distance(made.image, webui.img2img(picture).image) > 2
    with pytest.raises(ApiError, match='"args": ') as refused:
        webui.img2img(picture, alwayson_scripts={"OMG": 7})
    assert refused.value.status == 422


def test_values_of_another_layout_are_refused(webui: WebUI) -> None:
    """They would be read shifted: as stored while the accordion had other groups."""
    groups = SETTINGS["omg_ui_concepts"]
    args = args_from_request(parse_request(REQUEST), groups - 2)
    with pytest.raises(ApiError, match=f"args: {len(args)} values fit no layout .* page with {groups - 2}") as caught:
        webui.txt2img(alwayson_scripts={"OMG": {"args": args}})
    assert caught.value.status == 422
    # behind a request the rest does not count
    webui.txt2img(steps=1, alwayson_scripts={"OMG": {"args": [REQUEST, *args[1:]]}})
