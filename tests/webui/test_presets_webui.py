"""``/omg/v1/presets`` in a real web UI."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode

import pytest

from tests.webui.host import ApiError, WebUI, install_extension, make_data_dir

pytestmark = pytest.mark.webui

PATH = "/omg/v1/presets"
REQUEST: dict[str, Any] = {"concepts": [{"phrase": "man", "prompt": "a man <lora:sdxl-lora:1>"},
                                        {"phrase": "dog", "prompt": ""}], "blend_start": 0.2}
OTHER: dict[str, Any] = {"concepts": [{"phrase": "cat", "prompt": "a cat"}]}


def read(webui: WebUI, name: str) -> Any:
    return webui.get(f"{PATH}?name={quote(name)}")


def delete(webui: WebUI, name: str) -> Any:
    return webui.request(f"{PATH}?name={quote(name)}", method="DELETE")


def test_save_list_load_rename_delete(webui: WebUI, presets_folder: Path) -> None:
    assert webui.get(PATH) == []
    assert not presets_folder.exists()
    assert webui.post(PATH, {"name": " Ann & Ben ", "request": REQUEST}) == {"name": "Ann & Ben"}
    webui.post(PATH, {"name": "日本", "request": {**OTHER, "enabled": False, "preview": True, "strict": False}})
    assert webui.get(PATH) == [{"name": "Ann & Ben", "phrases": ["man", "dog"], "damaged": None},
                               {"name": "日本", "phrases": ["cat"], "damaged": None}]
    assert read(webui, "Ann & Ben") == {"name": "Ann & Ben", "request": REQUEST}
    assert read(webui, "日本")["request"] == OTHER
    assert webui.post(PATH, {"name": "Ben", "rename_from": "ann & ben"}) == {"name": "Ben"}
    assert delete(webui, "日本") == {"name": "日本"}
    assert [path.name for path in presets_folder.iterdir()] == ["Ben.json"]
    assert read(webui, "Ben")["request"] == REQUEST


@pytest.mark.usefixtures("presets_folder")
def test_nothing_is_overwritten_unasked(webui: WebUI) -> None:
    webui.post(PATH, {"name": "a", "request": REQUEST})
    webui.post(PATH, {"name": "b", "request": REQUEST})
    for body in ({"name": "A", "request": OTHER}, {"name": "a", "request": OTHER, "overwrite": False},
                 {"name": "a", "rename_from": "b"}):
        with pytest.raises(ApiError, match='a preset "a" already') as refused:
            webui.post(PATH, body)
        assert refused.value.status == 409
    assert read(webui, "a")["request"] == REQUEST
    webui.post(PATH, {"name": "a", "request": OTHER, "overwrite": True})
    assert read(webui, "a")["request"] == OTHER


@pytest.mark.usefixtures("presets_folder")
def test_what_is_not_there_is_not_found(webui: WebUI) -> None:
    for call in (lambda: read(webui, "a"), lambda: delete(webui, "a"),
                 lambda: webui.post(PATH, {"name": "b", "rename_from": "a"})):
        with pytest.raises(ApiError, match='no preset "a"') as refused:
            call()
        assert refused.value.status == 404


@pytest.mark.parametrize(("body", "reason"), [
    ([], "request: expected an object"), ({"name": "a"}, "give either `request`"),
    ({"name": "a", "request": OTHER, "rename_from": "b"}, "give either `request`"), ({"request": OTHER}, "name: give"),
    ({"name": "../a", "request": OTHER}, "name: .*not /"), ({"name": ".a", "request": OTHER}, "name: .*dot"),
    ({"name": "a", "request": OTHER, "overwrite": "yes"}, "overwrite: expected true or false"),
    ({"name": "a", "rename_from": "b", "overwrite": True}, "overwrite: a preset that is renamed"),
    ({"name": "a", "request": OTHER, "force": True}, "force: unknown field"),
    ({"name": "a", "request": {"concepts": [{"prompt": "a"}]}}, r"concepts\[0\].phrase"),
    ({"name": "a", "request": {**OTHER, "blend_start": 2}}, "blend_start"),
    ({"name": "a", "request": None}, "request: expected an object"),
], ids=str)
def test_bad_bodies_are_refused_with_the_field(webui: WebUI, presets_folder: Path, body: Any, reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as refused:
        webui.post(PATH, body)
    assert refused.value.status == 422
    assert not presets_folder.exists()


def test_a_damaged_file_is_listed_as_such(webui: WebUI, presets_folder: Path) -> None:
    webui.post(PATH, {"name": "a", "request": OTHER})
    (presets_folder / "b.json").write_text("{")
    assert [bool(each["damaged"]) for each in webui.get(PATH)] == [False, True]
    with pytest.raises(ApiError, match="damaged") as refused:
        read(webui, "b")
    assert refused.value.status == 422


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_sites_page_cannot_write(webui: WebUI, presets_folder: Path, kind: str) -> None:
    """A browser sends these types there without asking the web UI first."""
    body = b'{"name": "a", "request": {"concepts": [{"phrase": "cat", "prompt": ""}]}}'
    asked = urllib.request.Request(webui.url + PATH, body, {"Content-Type": kind}, method="POST")
    with pytest.raises(HTTPError) as refused:
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=60)
    assert refused.value.code == 415
    assert not presets_folder.exists()


def test_a_preset_draws_what_was_saved(webui: WebUI, presets_folder: Path) -> None:
    data = {"concepts": [{"prompt": "a red car <lora:sdxl-lora:1>", "where": {"box": [0, 0, 0.5, 1]}}]}
    webui.post(PATH, {"name": "a", "request": data})
    made, wanted = (webui.txt2img(steps=3, alwayson_scripts={"OMG": {"args": [each]}})
                    for each in (read(webui, "a")["request"], data))
    assert made.info["infotexts"] == wanted.info["infotexts"]
    assert (made.image == wanted.image).all()


@pytest.fixture
def guarded(installation: Path, checkpoints: Path, tmp_path: Path) -> Iterator[WebUI]:
    """A web UI of its own whose API wants a password."""
    make_data_dir(tmp_path, checkpoints)
    install_extension(installation, tmp_path)
    with WebUI(installation, tmp_path, ("--nowebui", "--api-auth", "me:secret")) as started:
        yield started
    shutil.rmtree(tmp_path / "models")


def test_under_the_hosts_api_auth(guarded: WebUI) -> None:
    for path, body, method in ((PATH, None, "GET"), (f"{PATH}?name=a", None, "GET"),
                               (PATH, {"name": "a", "request": OTHER}, "POST"), (f"{PATH}?name=a", None, "DELETE")):
        with pytest.raises(ApiError) as refused:
            guarded.request(path, body, method)
        assert refused.value.status == 401
    assert not (guarded.data_dir / "omg").exists()
    passwords = urllib.request.HTTPPasswordMgrWithPriorAuth()
    passwords.add_password(None, guarded.url, "me", "secret", is_authenticated=True)
    guarded._opener.add_handler(urllib.request.HTTPBasicAuthHandler(passwords))
    guarded.post(PATH, {"name": "a", "request": OTHER})
    assert guarded.get(f"{PATH}?{urlencode({'name': 'a'})}")["request"] == OTHER
