"""Infotexts of jobs are read as the web UI's own."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import ones

from omg_ext.diffusers.hashes import lora_hash, model_hash
from omg_ext.diffusers.parameters import infotext
from omg_ext.infotext import FOUND, KEY, WARNINGS, parameters
from omg_ext.jobs.job import parse_job
from omg_ext.request import parse_request

REQUEST = {"concepts": [{"prompt": "sks \"man\", with: a hat<lora:one:0.8>", "phrase": "man", "where": {"index": 1}},
                        {"prompt": "woman\nin the park \\ ü", "phrase": "woman", "cfg_scale": [9, 4.5]}],
           "blend_start": 0.3, "show": ["first_pass", "masks"]}
JOB = {"prompt": "a man and a woman\nin the park: Steps: 1, Seed: 2<lora:style:0.5>", "negative_prompt": "blurry, bad",
       "seed": 42, "steps": 25, "cfg_scale": 6.5, "width": 832, "height": 1216, "sampler": "DPM++ 2M SDE Karras",
       "request": REQUEST}
FOUND_THINGS = [{"phrases": {"man": 0.9}, "box": [0.1, 0.2, 0.3, 0.4], "area": 0.05, "concept": 0}]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "big, model.safetensors").write_bytes(b"weights")
    save_file({"a": ones(3)}, folder / "style.safetensors")
    save_file({"a": ones(3)}, folder / "one.safetensors", {"sshs_model_hash": "abcdef0123456789"})
    return folder


@pytest.fixture(scope="module")
def text(files: Path) -> str:
    return infotext(parse_job(JOB), files / "big, model.safetensors",
                    {name: files / f"{name}.safetensors" for name in ("style", "one")}, FOUND_THINGS, ["one: no, two"])


def own_reader(text: str) -> dict[str, str]:
    """Values by name, as the web UI's pattern finds them in the last line."""
    pattern = r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)'
    return {name: json.loads(value) if value.startswith('"') else value
            for name, value in re.findall(pattern, text.rsplit("\n", maxsplit=1)[-1])}


def webui_reader(installation: Path, text: str) -> dict[str, Any]:
    """The web UI's own function, with stand-ins for what it asks of the rest."""
    source = ast.parse((installation / "modules/infotext_utils.py").read_text(encoding="utf8"))
    wanted = ("unquote", "parse_generation_parameters", "restore_old_hires_fix_params")
    body = [node for node in source.body if getattr(node, "name", "") in wanted or (
        isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "").startswith("re_"))]
    names: dict[str, Any] = {
        "re": re, "json": json, "infotext_versions": SimpleNamespace(backcompat=lambda found: None),
        "prompt_parser": SimpleNamespace(parse_prompt_attention=lambda prompt: [[prompt, 1.0]]),
        "shared": SimpleNamespace(opts=SimpleNamespace(infotext_skip_pasting=[], infotext_styles="Ignore",
                                                       use_old_hires_fix_width_height=False))}
    exec(compile(ast.Module(body, []), "infotext_utils", "exec"), names)
    found: dict[str, Any] = names["parse_generation_parameters"](text)
    return found


def assert_is_the_jobs(found: dict[str, Any]) -> None:
    wanted = {"Steps": "25", "Sampler": "DPM++ 2M SDE", "Schedule type": "Karras", "CFG scale": "6.5", "Seed": "42",
              "Model": "big, model", "RNG": "CPU"}
    assert {name: found[name] for name in wanted} == wanted
    assert parse_request(found[KEY]) == parse_request(REQUEST)
    assert json.loads(found[FOUND]) == FOUND_THINGS
    assert found[WARNINGS] == "one: no, two"


def test_values_are_read_back(text):
    found = own_reader(text)
    assert_is_the_jobs(found)
    assert found["Size"] == "832x1216"
    prompt, rest = text.split("\nNegative prompt: ")
    assert prompt == JOB["prompt"]
    assert rest.split("\n")[0] == JOB["negative_prompt"]


@pytest.mark.webui
def test_the_web_ui_reads_them_back(installation, text):
    found = webui_reader(installation, text)
    assert_is_the_jobs(found)
    assert (found["Prompt"], found["Negative prompt"]) == (JOB["prompt"], JOB["negative_prompt"])
    assert (found["Size-1"], found["Size-2"]) == ("832", "1216")


def test_hashes(files, text):
    """The first ten digits of the file's; twelve of the weights', or what the file says of them."""
    found = own_reader(text)
    assert found["Model hash"] == hashlib.sha256(b"weights").hexdigest()[:10]
    assert found["Model hash"] == model_hash(files / "big, model.safetensors")
    assert found["Lora hashes"] == f"style: {lora_hash(files / 'style.safetensors')}, one: abcdef012345"
    same = files / "renamed.safetensors"
    save_file({"b": ones(3)}, same)
    assert lora_hash(same) == lora_hash(files / "style.safetensors")


def test_an_ordinary_picture(files):
    plain = parse_job({"prompt": "a park", "sampler": "Euler a", "cfg_scale": 7})
    found = infotext(plain, files, {}, [], [])
    assert re.sub(r"omg-webui [\d.]+$", "", found) == (
        f"a park\nSteps: 30, Sampler: Euler a, Schedule type: Automatic, CFG scale: 7, Seed: 0, Size: 1024x1024, "
        f"Model: {files.name}, RNG: CPU, Version: ")


def test_quotes_are_the_web_uis():
    values = {"A": "x: y", "B": "x, y", "C": 'x "y"', "D": "x\ny", "E": 1}
    assert parameters("p", "", values) == 'p\nA: "x: y", B: "x, y", C: x "y", D: "x\\ny", E: 1'


def test_without_a_prompt():
    assert parameters("", "", {"Steps": 1, "None": None}) == "Steps: 1"
    assert parameters("", "bad", {"Steps": 1}) == "Negative prompt: bad\nSteps: 1"
