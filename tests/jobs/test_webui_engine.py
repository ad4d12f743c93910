"""A web UI as a worker: what is asked of it and what its answers and faults mean, with a stand-in for it."""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from omg_ext.errors import OMGError
from omg_ext.jobs.draw import WorkerDiedError
from omg_ext.jobs.job import Job, parse_job
from omg_ext.remote.connection import auth_from
from omg_ext.remote.webui import WebUIEngine
from tests.serving import Files, serving

SECRET = "s3cret:with/marks"
DETECTORS = [{"name": "contrast", "ready": True, "needs": []},
             {"name": "yolo", "ready": False, "needs": [{"name": "ultralytics", "is_there": True},
                                                        {"name": "person.pt", "is_there": False}]}]
STATE = {"job_timestamp": "20260101120000", "interrupted": False, "skipped": False, "stopping_generation": False}
TEXT = "a man\nNegative prompt: blurry\nSteps: 8, Sampler: Euler, Seed: 7"
BOX = {"where": {"box": [0, 0, 0.5, 1]}}
TWO = {"concepts": [{"prompt": "x <lora:ann:1>", **BOX}, {"prompt": "y", **BOX}]}
SOUGHT = {"concepts": [{"prompt": "x", "phrase": "man"}]}
DRAW, LOOK = "/sdapi/v1/txt2img", "/sdapi/v1/samplers"


def picture(level: int, form: str = "PNG") -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(file, form)
    return base64.b64encode(file.getvalue()).decode()


def answer(*, images: list[str] | None = None, infotexts: list[str] | None = None, **info: Any) -> dict[str, Any]:
    told = {"infotexts": infotexts or [TEXT], "index_of_first_image": 0, "job_timestamp": STATE["job_timestamp"],
            "sd_model_name": "sdxl", **info}
    return {"images": images or [picture(10)], "parameters": {}, "info": json.dumps(told)}


class FakeWebUI(Files):
    """Answers as a web UI does, but for what a test puts into ``answers``: by path, JSON data or a function of the
    handler. On a connection that is kept it answers no second call, as if it closed it just then."""

    protocol_version = "HTTP/1.1"
    is_kept = False
    answers: dict[str, Any]
    asked: list[tuple[str, Any]]
    password: str

    def do_POST(self) -> None:  # noqa: N802 (its base calls it so)
        self.answer()

    def answer(self) -> None:
        if self.is_kept:
            self.close_connection = True
            return
        self.is_kept = True
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.asked.append((path, json.loads(body) if body else None))
        wanted = "Basic " + base64.b64encode(f"ann:{self.password}".encode()).decode()
        if self.password and self.headers.get("Authorization") != wanted:
            self.say({"detail": "Incorrect username or password"}, 401)
        elif path not in self.answers:
            self.say({"detail": "Not Found"}, 404)
        elif callable(self.answers[path]):
            self.answers[path](self)
        else:
            self.say(self.answers[path])

    def say(self, data: Any, status: int = 200, kind: str = "application/json", missing: int = 0) -> None:
        """Answer; the last ``missing`` bytes are announced and do not come."""
        text = data.encode() if isinstance(data, str) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if status == 302:
            self.send_header("Location", LOOK)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[:len(text) - missing])
        self.close_connection = missing > 0


@pytest.fixture
def fake() -> type[FakeWebUI]:
    answers = {
        LOOK: [{"name": "Euler", "aliases": ["k_euler"], "options": {}}, {"name": "DPM++ 2M"}],
        "/sdapi/v1/schedulers": [{"name": "automatic", "label": "Automatic"}, {"name": "karras", "label": "Karras"}],
        "/sdapi/v1/options": {"samples_format": "png"},
        "/sdapi/v1/sd-models": [
            {"title": "own/sdxl.safetensors [0123456789]", "model_name": "own_sdxl", "hash": "0123456789",
             "sha256": "0123456789ab", "filename": "C:\\models\\own\\sdxl.safetensors"},
            {"title": "old.ckpt", "model_name": "old", "hash": None, "sha256": None, "filename": "/models/old.ckpt"}],
        "/sdapi/v1/loras": [{"name": "ann", "alias": "anna", "path": "ann.safetensors"},
                            {"name": "bob", "alias": "face", "path": "bob.safetensors"},
                            {"name": "cy", "alias": "Face", "path": "cy.safetensors"}],
        "/sdapi/v1/scripts": {"txt2img": ["omg", "seed"], "img2img": []},
        "/sdapi/v1/progress": {"progress": 0, "state": STATE},
        "/omg/v1/detectors": DETECTORS,
        DRAW: answer(),
    }
    return type("Fake", (FakeWebUI,), {"answers": answers, "asked": [], "password": ""})


@pytest.fixture
def url(fake: type[FakeWebUI], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(fake) as address:
        yield address


@pytest.fixture
def engine(url: str) -> WebUIEngine:
    return WebUIEngine(url)


def job(**fields: Any) -> Job:
    return parse_job({"prompt": "a man", "sampler": "Euler", **fields})


# what is asked, and what is read

def test_body_of_a_call(fake: type[FakeWebUI], engine: WebUIEngine) -> None:
    engine.draw(job(request=TWO, negative_prompt="blurry", seed=7, steps=8, cfg_scale=5, width=64, height=128,
                    scheduler="Karras", checkpoint="models/sdxl.safetensors"))
    body = next(body for path, body in fake.asked if path == DRAW)
    assert body == {
        "prompt": "a man", "negative_prompt": "blurry", "seed": 7, "steps": 8, "cfg_scale": 5, "width": 64,
        "height": 128, "sampler_name": "Euler", "scheduler": "Karras", "send_images": True, "save_images": False,
        "override_settings": {"sd_model_checkpoint": "own/sdxl.safetensors"},
        "override_settings_restore_afterwards": True, "alwayson_scripts": {"OMG": {"args": [TWO]}}}


@pytest.mark.parametrize("fields", [{}, {"request": {**TWO, "enabled": False}}])
def test_plain_job_asks_for_no_script_and_no_checkpoint(fake: type[FakeWebUI], engine: WebUIEngine,
                                                        fields: dict[str, Any]) -> None:
    del fake.answers["/omg/v1/detectors"]
    fake.answers["/sdapi/v1/scripts"] = {"txt2img": [], "img2img": []}
    engine.draw(job(**fields))
    body = next(body for path, body in fake.asked if path == DRAW)
    assert body["alwayson_scripts"] == body["override_settings"] == {}


def test_pictures_by_name(fake: type[FakeWebUI], engine: WebUIEngine) -> None:
    """A grid comes first, others' pictures last, and of a concept that was not found there is no mask."""
    titles = ["first pass", "who is where", "mask of concept 2", "something new"]
    found = [{"phrases": {"man": 0.9}, "concept": 0}]
    text = f'{TEXT}, OMG found: {json.dumps(json.dumps(found))}, OMG warnings: "one: not found; two, too"'
    texts = ["grid", text, *(f"{text}, OMG picture: {title}" for title in titles), "of others"]
    fake.answers[DRAW] = answer(images=[picture(level) for level in range(len(texts) + 1)], infotexts=texts,
                                index_of_first_image=1)
    drawn = engine.draw(job())
    assert drawn.picture.getpixel((0, 0)) == (1, 1, 1)
    assert drawn.infotext == text
    assert {name: extra.getpixel((0, 0)) for name, extra in drawn.extras.items()} == \
        {"first_pass": (2, 2, 2), "overlay": (3, 3, 3), "mask-1": (4, 4, 4)}
    assert drawn.found == found
    assert drawn.warnings == ["one: not found; two, too"]


def test_what_prompts_say_is_not_read_as_a_value(fake: type[FakeWebUI], engine: WebUIEngine) -> None:
    request = json.dumps(json.dumps({"prompt": "OMG warnings: x, OMG found: y, OMG picture: first pass"}))
    fake.answers[DRAW] = answer(infotexts=[f"OMG warnings: x, OMG found: y\n{TEXT}, OMG: {request}"])
    drawn = engine.draw(job())
    assert (drawn.warnings, drawn.found) == ([], [])
    assert drawn.extras == {}


def test_asked_once_for_what_it_has(fake: type[FakeWebUI], engine: WebUIEngine) -> None:
    for _ in range(3):
        engine.check(job(request=SOUGHT))
    engine.draw(job())
    paths = [path for path, _ in fake.asked]
    assert len(paths) == len(set(paths))


# what is refused before it is drawn

@pytest.mark.parametrize(("fields", "named", "said"), [
    ({"sampler": "Euler A"}, "sampler", "did you mean 'Euler'"), ({"sampler": "k_euler"}, "sampler", "unknown"),
    ({"sampler": "what"}, "sampler", "known there: DPM++ 2M, Euler"),
    ({"scheduler": "Karas"}, "scheduler", "did you mean 'Karras'"),
    ({"checkpoint": "sd15"}, "checkpoint", "'sd15' is unknown"),
    ({"prompt": "<lora:Ann:0.5>"}, "prompt", "did you mean <lora:ann:0.5>"),
    ({"prompt": "<lora:face:1>"}, "prompt", "no LoRA 'face'"),  # the alias of two
    ({"request": {"concepts": [{"prompt": "x", **BOX}, {"prompt": "<lora:zoe:1>", **BOX}]}},
     "request.concepts[1].prompt", "press Refresh"),
    ({"request": {**SOUGHT, "detector": "yolo"}}, "request.detector", "lacks person.pt"),
    ({"request": {**SOUGHT, "detector": "magic"}}, "request.detector", "known there: contrast, yolo"),
])
def test_refused(fake: type[FakeWebUI], engine: WebUIEngine, fields: dict[str, Any], named: str, said: str) -> None:
    for refuse in (engine.check, engine.draw):
        with pytest.raises(OMGError) as caught:
            refuse(job(**fields))
        assert caught.value.field == named
        assert said in caught.value.message
    assert DRAW not in [path for path, _ in fake.asked]


@pytest.mark.parametrize("fields", [
    *({"checkpoint": name} for name in ("own/sdxl.safetensors", "own_sdxl", "sdxl", "0123456789", "old", "old.ckpt",
                                        "own/sdxl.safetensors [0123456789]", "/home/me/old.ckpt", "D:\\x\\old.ckpt")),
    {"prompt": "<lora:anna:1> <lora:bob:1>"}, {"scheduler": "karras"}, {"request": SOUGHT},
    {"request": {**TWO, "detector": "yolo"}},  # nothing is sought
])
def test_not_refused(engine: WebUIEngine, fields: dict[str, Any]) -> None:
    engine.check(job(**fields))


def test_web_ui_without_omg_or_with_an_old_one(fake: type[FakeWebUI], url: str) -> None:
    del fake.answers["/omg/v1/detectors"]
    with pytest.raises(OMGError, match=r"request: .* too old"):
        WebUIEngine(url).check(job(request=TWO))
    fake.answers["/sdapi/v1/scripts"] = {"txt2img": ["seed"], "img2img": []}
    with pytest.raises(OMGError, match=r"request: .* does not have the OMG extension"):
        WebUIEngine(url).check(job(request=TWO))


def test_web_ui_without_the_lora_extension(fake: type[FakeWebUI], engine: WebUIEngine) -> None:
    del fake.answers["/sdapi/v1/loras"]
    with pytest.raises(OMGError, match="no LoRA 'ann'"):
        engine.check(job(prompt="<lora:ann:1>"))


def test_pictures_that_have_lost_detail(fake: type[FakeWebUI], url: str) -> None:
    fake.answers["/sdapi/v1/options"] = {"samples_format": "jpg"}
    with pytest.raises(OMGError, match=r"webui: .*jpg.*choose png"):
        WebUIEngine(url).check(job())
    fake.answers.update({"/sdapi/v1/options": {}, DRAW: answer(images=[picture(5, "JPEG")])})
    with pytest.raises(WorkerDiedError, match="JPEG"):
        WebUIEngine(url).draw(job())


# what is not what was asked for

def test_another_checkpoint_than_that_asked_for(fake: type[FakeWebUI], engine: WebUIEngine) -> None:
    fake.answers[DRAW] = answer(sd_model_name="old")
    with pytest.raises(OMGError, match=r"checkpoint: .*drew with 'old'"):
        engine.draw(job(checkpoint="sdxl"))
    engine.draw(job(checkpoint="old"))


@pytest.mark.parametrize("flag", ["interrupted", "skipped", "stopping_generation"])
def test_picture_that_somebody_broke_off(fake: type[FakeWebUI], engine: WebUIEngine, flag: str) -> None:
    fake.answers["/sdapi/v1/progress"] = {"state": {**STATE, flag: True}}
    with pytest.raises(OMGError, match="broke the picture off"):
        engine.draw(job())
    fake.answers["/sdapi/v1/progress"] = {"state": {**STATE, flag: True, "job_timestamp": "of the next"}}
    engine.draw(job())


# faults

def saying(data: Any, status: int = 200, **how: Any) -> Callable[[FakeWebUI], None]:
    return lambda web: web.say(data, status, **how)


def hang_up(web: FakeWebUI) -> None:
    """Say nothing."""
    web.close_connection = True


OF_OMG = "OMG: concepts[1].where.box: the box is empty: it is [x0, y0, x1, y1]"
OUT_OF_MEMORY = {"error": "OutOfMemoryError", "detail": "", "body": "", "errors": "CUDA out of memory. Tried 2 GiB"}


@pytest.mark.parametrize(("said", "status", "named", "message"), [
    ({"error": "RefusedRequest", "detail": OF_OMG, "errors": ""}, 422, "request.concepts[1].where.box",
     "the box is empty: it is [x0, y0, x1, y1]"),
    ({"detail": "OMG: request: this is not JSON"}, 422, "request", "this is not JSON"),
    ({"detail": "OMG: img2img does not work"}, 422, "webui", "OMG: img2img does not work"),
    ({"detail": [{"loc": ["body", "steps"], "msg": "value is not a valid integer"}]}, 422, "steps",
     "value is not a valid integer"),
    ({"detail": [{"loc": ["body", "sampler_name"], "msg": "bad"}]}, 422, "sampler", "bad"),
    ({"error": "HTTPException", "detail": "Sampler not found", "errors": ""}, 400, "webui", "Sampler not found"),
    ("<html>too large</html>", 413, "webui", "status 413: <html>too large</html>"),
    (OUT_OF_MEMORY, 500, "webui", "OutOfMemoryError: CUDA out of memory. Tried 2 GiB"),
    ({"error": "ValueError", "detail": "", "errors": ""}, 500, "webui", "ValueError"),
])
def test_job_fails(fake: type[FakeWebUI], engine: WebUIEngine, said: Any, status: int, named: str,
                   message: str) -> None:
    fake.answers[DRAW] = saying(said, status)
    with pytest.raises(OMGError) as caught:
        engine.draw(job())
    assert caught.value.field == named
    assert caught.value.message.endswith(message)


@pytest.mark.parametrize("told", [
    {"images": [picture(1)], "info": "{"}, {"images": [picture(1)], "info": "{}"},
    answer(images=["no picture"]), answer(images=[picture(1)[:60]]), answer(index_of_first_image=3),
    {"images": [], "info": answer()["info"]},
], ids=["no info", "no infotexts", "no picture", "half a picture", "too few", "none"])
def test_answer_without_a_picture(fake: type[FakeWebUI], engine: WebUIEngine, told: Any) -> None:
    fake.answers[DRAW] = told
    with pytest.raises(OMGError, match=r"webui: .*without a picture"):
        engine.draw(job())


DEADLY: dict[str, tuple[Callable[[FakeWebUI], None], str]] = {
    "bad gateway": (saying("<html>", 502, kind="text/html"), "502"),
    "unavailable": (saying("<html>", 503, kind="text/html"), "503"),
    "gateway timeout": (saying({"error": "timeout"}, 504), "504"),
    "500 of a proxy": (saying("Internal Server Error", 500, kind="text/plain"), "500"),
    "graphics card lost": (saying({"error": "RuntimeError", "errors": "CUDA error: unspecified launch failure"}, 500),
                           "CUDA error"),
    "hangs up": (hang_up, "(?i)connection"),
    "dies in its answer": (saying(answer(), missing=50), "(?i)incomplete|breaks off"),
    "half an answer": (saying(json.dumps(answer())[:-50]), "breaks off"),
    "unauthorised by now": (saying({}, 401), "OMG_WEBUI_AUTH"),
    "gone by now": (saying({}, 404), "--api"),
    "a page": (saying("<html>", kind="text/html"), "not as a web UI"),
    "other JSON": (saying({"hello": "world"}), "not as a web UI"),
    "elsewhere": (saying("", 302), "sends on"),
}


@pytest.mark.parametrize("name", DEADLY)
def test_worker_dies(fake: type[FakeWebUI], url: str, engine: WebUIEngine, name: str) -> None:
    fake.answers[DRAW], said = DEADLY[name]
    with pytest.raises(WorkerDiedError, match=said) as caught:
        engine.draw(job())
    assert url in str(caught.value)


@pytest.mark.parametrize(("told", "said"), [
    (saying({}, 404), "without --api"), (saying("", 302), "sends on"), (saying([{"names": 1}]), "not as a web UI"),
    (saying("<html>", kind="text/html"), "not as a web UI"), (saying({}, 401), "set OMG_WEBUI_AUTH=user:password"),
])
def test_no_web_ui(fake: type[FakeWebUI], engine: WebUIEngine, told: Any, said: str) -> None:
    fake.answers[LOOK] = told
    with pytest.raises(OMGError, match=f"webui: .*{said}"):
        engine.check(job())
    with pytest.raises(WorkerDiedError, match=said):
        engine.draw(job())


def test_nobody_listens(fake: type[FakeWebUI]) -> None:
    with serving(fake) as gone:
        pass
    for ask in (WebUIEngine(gone).check, WebUIEngine(gone).draw):
        with pytest.raises(WorkerDiedError, match=r"refused") as caught:
            ask(job())
        assert gone in str(caught.value)


def test_slow_answers(fake: type[FakeWebUI], url: str) -> None:
    def slowly(web: FakeWebUI) -> None:
        time.sleep(1)
        web.say(answer())

    fake.answers[DRAW] = slowly
    WebUIEngine(url).draw(job())
    with pytest.raises(WorkerDiedError, match="timed out"):
        WebUIEngine(url, timeout=0.2).draw(job())


def test_asks_whether_the_other_end_is_there(engine: WebUIEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that loses its power says nothing any more: the kernel's probes notice."""
    made: list[Any] = []
    setsockopt = socket.socket.setsockopt

    def noted(self: socket.socket, *args: Any) -> None:
        made.append(args)
        setsockopt(self, *args)

    monkeypatch.setattr(socket.socket, "setsockopt", noted)
    engine.check(job())
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in made


# user and password

@pytest.mark.parametrize(("environment", "auth"), [
    ({}, None), ({"OMG_WEBUI_AUTH": ""}, None), ({"OMG_WEBUI_AUTH": f"ann:{SECRET}"}, ("ann", SECRET))])
def test_auth_of_the_environment(environment: dict[str, str], auth: tuple[str, str] | None) -> None:
    assert auth_from(environment) == auth


@pytest.mark.parametrize("text", ["s3cret", ":s3cret"])
def test_auth_that_is_none(text: str) -> None:
    with pytest.raises(OMGError, match="OMG_WEBUI_AUTH: expected user:password") as caught:
        auth_from({"OMG_WEBUI_AUTH": text})
    assert "s3cret" not in str(caught.value)


def test_auth(fake: type[FakeWebUI], url: str) -> None:
    fake.password = SECRET
    WebUIEngine(url, ("ann", SECRET)).draw(job())
    with_both = WebUIEngine(url.replace("//", f"//ann:{SECRET.replace('/', '%2F')}@"), ("bob", "nonsense"))
    with_both.draw(job())
    assert with_both.name == url
    with pytest.raises(OMGError, match="set OMG_WEBUI_AUTH=user:password"):
        WebUIEngine(url).check(job())
    with pytest.raises(OMGError, match="does not take this user and password") as caught:
        WebUIEngine(url.replace("//", "//ann:wr0ng@")).check(job())
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "http://", "ftp://ann:s3cret@host", "http://ann:s3cret@host:port", "http://[::1"])
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(OMGError, match="webui: this is no URL") as caught:
        WebUIEngine(text)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("text", "name"), [
    ("localhost:7860", "http://localhost:7860"), ("https://ann:x@host/sd/", "https://host/sd")])
def test_url_as_people_write_it(text: str, name: str) -> None:
    assert WebUIEngine(text).name == name


def test_client_needs_little() -> None:
    """It runs where there is no model."""
    heavy = ("torch", "diffusers", "transformers", "scipy", "skimage", "gradio", "fastapi")
    code = f"import sys, omg_ext.remote.webui; assert not set({heavy}) & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
