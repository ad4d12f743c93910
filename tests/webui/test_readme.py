"""README.md's examples of the API are run as they stand there, but for sizes, steps and the port."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from tests.webui.host import REPOSITORY, WebUI, clean_environment

pytestmark = pytest.mark.webui

# as the README calls them
LORAS = {"sks_man": "sdxl-lora", "zwx_woman": "sdxl-locon"}
SMALLER = ((r"127\.0\.0\.1:7860", "{netloc}"), (r"port=7860", "port={port}"), (r'(width"?[=:] ?)1024', r"\g<1>128"),
           (r'(height"?[=:] ?)1024', r"\g<1>128"), (r'(steps"?[=:] ?)30', r"\g<1>6"))


def example(section: str, language: str, webui: WebUI) -> str:
    """The code block of a language in a section, for a small picture at this web UI."""
    text = (REPOSITORY / "README.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    block, = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    at = urlsplit(webui.url)
    for pattern, small in SMALLER:
        block = re.sub(pattern, small.replace("{netloc}", at.netloc).replace("{port}", str(at.port)), block)
    assert "1024" not in block
    assert "7860" not in block
    return block


@pytest.fixture
def _loras(webui: WebUI) -> Iterator[None]:
    folder = webui.data_dir / "models" / "Lora"
    for name, kind in LORAS.items():
        shutil.copyfile(folder / f"{kind}.safetensors", folder / f"{name}.safetensors")
    webui.post("/sdapi/v1/refresh-loras")
    yield
    for name in LORAS:
        (folder / f"{name}.safetensors").unlink()
    webui.post("/sdapi/v1/refresh-loras")


@pytest.mark.usefixtures("_loras")
def test_with_curl(webui: WebUI, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    done = subprocess.run(["sh", "-c", example("API", "sh", webui)], cwd=tmp_path, env=clean_environment(), check=True,
                          capture_output=True, text=True, timeout=300)
    assert done.stderr == ""
    answer = json.loads((tmp_path / "answer.json").read_text())
    info = json.loads(answer["info"])
    request = json.loads(info["extra_generation_params"]["OMG"])
    assert [each["phrase"] for each in request["concepts"]] == ["man", "woman"]
    assert request["concepts"][1]["where"] == {"point": [0.7, 0.5]}
    found, = info["extra_generation_params"]["OMG found"]
    assert all({"phrases", "box", "area", "concept"} <= set(each) for each in json.loads(found))
    assert len(answer["images"]) > 1  # masks
    with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))) as made:
        assert made.size == (128, 128)


@pytest.mark.usefixtures("_loras")
def test_with_webuiapi(webui: WebUI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    names: dict[str, Any] = {}
    exec(compile(example("API", "python", webui), "README.md", "exec"), names)
    result = names["result"]
    asked = json.loads(result.info["extra_generation_params"]["OMG"])
    assert asked == names["request"]
    with Image.open(tmp_path / "result.png") as made:
        drawn = np.asarray(made.convert("RGB"))
    plain = webui.generate({"prompt": "photo of a man and a woman in a park", "steps": 6, "width": 128, "height": 128,
                            "seed": result.info["seed"], "sampler_name": result.info["sampler_name"], "cfg_scale": 7})
    assert plain.image.shape == drawn.shape
    assert np.abs(plain.image.astype(int) - drawn).max() > 10
