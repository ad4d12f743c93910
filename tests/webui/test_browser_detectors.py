"""Settings, page OMG: what detectors lack is said there, and got when its button is pressed, not before."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.serving import Files, serving
from tests.webui.browser import SECONDS, choose, load, open_tab
from tests.webui.host import WebUI

pytestmark = [pytest.mark.webui, pytest.mark.browser]

SIZE = 30_000_000


class Weights(Files):
    """Weights that arrive slowly until somebody says go, and configurations."""

    go = threading.Event()

    def answer(self) -> None:
        _, kind, name = self.path.split("/")
        config = f'{{"model_type": "{kind}"}}'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(config) if name == "config.json" else SIZE))
        self.end_headers()
        if name == "config.json":
            self.wfile.write(config)
            return
        self.wfile.write(bytes(SIZE // 2))
        self.go.wait(60)
        self.wfile.write(bytes(SIZE - SIZE // 2))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(Weights) as address:
        yield address
        Weights.go.set()


@pytest.fixture
def settings(webui: WebUI, browser_page: Page, server: str, tmp_path: Path) -> Iterator[Page]:
    webui.doubles(f"downloads {server}")
    Weights.go.clear()
    open_settings(webui, browser_page)
    yield browser_page
    browser_page.screenshot(path=tmp_path / "settings.png")
    webui.doubles()
    for name in ("owlvit", "sam"):
        shutil.rmtree(webui.data_dir / "models" / "omg" / name, ignore_errors=True)


def open_settings(webui: WebUI, page: Page) -> None:
    load(webui, page)
    open_tab(page, "Settings")
    page.locator("#settings > .tab-nav").get_by_text("OMG", exact=True).click()


def get(page: Page, detector: str) -> None:
    choose(page.locator("#setting_omg_detectors_which"), detector)
    page.locator("#setting_omg_detectors_get").click()


def row(page: Page, detector: str) -> str:
    cell = page.get_by_role("cell", name=detector, exact=True)
    return page.locator("#setting_omg_detectors .prose tr", has=cell).inner_text()


def test_files_are_downloaded_on_a_click(webui: WebUI, settings: Page) -> None:
    folder = webui.data_dir / "models" / "omg"
    assert not (folder / "owlvit").exists()
    assert "✗ owlvit/model.safetensors" in row(settings, "transformers")
    get(settings, "transformers")
    said = settings.locator("#setting_omg_detectors_said .prose")
    expect(said).to_contain_text("model.safetensors: 15 of 30 MB")
    assert [file.name for file in (folder / "owlvit").iterdir()] == ["model.safetensors.part"]
    Weights.go.set()
    expect(said).to_have_text("transformers has all it needs now.", timeout=60 * SECONDS)
    assert row(settings, "transformers").count("✓") == 3
    assert (folder / "sam" / "model.safetensors").stat().st_size == SIZE
    listed = {each["name"]: each for each in webui.get("/omg/v1/detectors")}
    assert listed["transformers"]["ready"]
    get(settings, "transformers")
    expect(said).to_have_text("transformers has all it needs.")


def test_stop(webui: WebUI, settings: Page) -> None:
    get(settings, "transformers")
    said = settings.locator("#setting_omg_detectors_said .prose")
    expect(said).to_contain_text("15 of 30 MB")
    with settings.expect_response(lambda response: "/run/" in response.url):  # Gradio 4 takes its time
        settings.locator("#setting_omg_detectors_stop").click()
    Weights.go.set()
    expect(said).to_contain_text("Stopped.")
    assert list((webui.data_dir / "models" / "omg" / "owlvit").iterdir()) == []
    get(settings, "transformers")
    expect(said).to_have_text("transformers has all it needs now.", timeout=60 * SECONDS)


def test_goes_on_without_the_page(webui: WebUI, settings: Page) -> None:
    """A page that is loaded anew finds it going on."""
    get(settings, "transformers")
    expect(settings.locator("#setting_omg_detectors_said .prose")).to_contain_text("15 of 30 MB")
    open_settings(webui, settings)
    settings.locator("#setting_omg_detectors_get").click()
    said = settings.locator("#setting_omg_detectors_said .prose")
    expect(said).to_contain_text("15 of 30 MB")
    Weights.go.set()
    expect(said).to_have_text("transformers has all it needs now.", timeout=60 * SECONDS)


def test_packages(webui: WebUI, settings: Page) -> None:
    """Asked for by their bounds; what pip says is shown as text."""
    get(settings, "grounding-dino+sam")
    said = settings.locator("#setting_omg_detectors_said .prose")
    expect(said).to_have_text("OMG: packages: a stand-in for pip does not <install>")
    assert webui.doubles_saw()["installed"] == ["groundingdino-py==0.4.0", "segment-anything==1.0"]


@pytest.mark.parametrize("folder", [
    "models/insightface/models/antelopev2", "models/ControlNetPreprocessor/insightface/models/antelopev2/antelopev2",
    "extensions/sd-webui-controlnet/annotator/downloads/insightface/models/antelopev2"])
def test_models_for_faces_where_others_keep_them(webui: WebUI, settings: Page, folder: str) -> None:
    lacking = row(settings, "face")
    assert "the Python package insightface>=1,<3" in lacking
    assert "✗ antelopev2/glintr100.onnx, 261 MB" in lacking
    path = webui.data_dir / folder
    path.mkdir(parents=True)
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        (path / name).write_bytes(b"")
    open_settings(webui, settings)
    there = row(settings, "face")
    shutil.rmtree(webui.data_dir / folder)
    assert "✓ scrfd_10g_bnkps.onnx" in there
    assert "✓ glintr100.onnx" in there


def test_settings_are_saved_as_ever(settings: Page) -> None:
    settings.locator("#settings_submit").click()
    expect(settings.locator("#settings_result .prose")).to_contain_text("settings changed")
