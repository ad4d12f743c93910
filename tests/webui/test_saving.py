"""Extra pictures as files: only where the settings ask for them and the web UI saves the picture itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.webui.host import Result, WebUI
from tests.webui.test_api import LEFT, RIGHT, assert_close, concept, omg, request

pytestmark = pytest.mark.webui

TWO = request(concept("a red car <lora:sdxl-lora:1>", LEFT), concept("a dog", RIGHT))
SETTINGS = {"samples_save": True, "omg_save": ["first_pass", "masks"]}


@pytest.fixture
def saved(webui: WebUI) -> Iterator[Callable[[], list[Path]]]:
    """The files that were saved since, in their order."""
    def files() -> list[Path]:
        return sorted(file for file in webui.data_dir.rglob("outputs/**/*.png") if file not in before)

    before: set[Path] = set()
    before |= set(files())
    yield files
    webui.doubles()


def draw(webui: WebUI, data: dict[str, Any], settings: dict[str, Any], **payload: Any) -> Result:
    return omg(webui, data, **{"steps": 3, "save_images": True, "override_settings": settings, **payload})


def text_of(file: Path) -> str:
    with Image.open(file) as picture:
        return str(picture.info["parameters"])


def test_nothing_is_saved_by_default(webui: WebUI, saved: Callable[[], list[Path]]) -> None:
    """What is returned is not saved for that."""
    result = draw(webui, {**TWO, "show": ["masks", "first_pass"]}, {"samples_save": True})
    assert len(result.images) == 4
    file, = saved()
    assert "omg" not in file.name


def test_first_pictures_and_masks_beside_each_picture(webui: WebUI, saved: Callable[[], list[Path]]) -> None:
    """Each with its picture's infotext, and not returned for that, nor in the grid."""
    result = draw(webui, TWO, {**SETTINGS, "return_grid": True}, batch_size=2, n_iter=2)
    assert len(result.images) == 5
    by_kind: dict[str, list[Path]] = {}
    for file in saved():
        by_kind.setdefault(file.stem.partition("-omg-")[2], []).append(file)
    assert {kind: len(files) for kind, files in by_kind.items()} == {
        "": 4, "first-pass": 4, "mask-of-concept-1": 4, "mask-of-concept-2": 4}
    texts = [text_of(file) for file in by_kind[""]]
    assert [text_of(file) for file in by_kind["mask-of-concept-2"]] == [
        f"{text}, OMG picture: mask of concept 2" for text in texts]
    plain = webui.txt2img(steps=3, batch_size=2, n_iter=2).images
    for file, wanted in zip(by_kind["first-pass"], plain, strict=True):
        with Image.open(file) as picture:
            made = np.asarray(picture.convert("RGB"))
        if webui.is_forge:  # which decodes a batch at once
            assert_close(made, wanted)
        else:
            np.testing.assert_array_equal(made, wanted)
    with Image.open(by_kind["mask-of-concept-1"][0]) as mask:
        assert np.asarray(mask.convert("L"))[:, :60].min() == 255


def test_what_is_saved_may_be_returned_too(webui: WebUI, saved: Callable[[], list[Path]]) -> None:
    result = draw(webui, {**TWO, "show": ["masks", "overlay"]}, SETTINGS)
    assert len(result.images) == 4
    assert sorted(file.stem.partition("-omg-")[2] for file in saved()) == [
        "", "first-pass", "mask-of-concept-1", "mask-of-concept-2"]


@pytest.mark.parametrize(("payload", "settings"), [({"save_images": False}, {}), ({}, {"samples_save": False})])
def test_nothing_is_saved_where_the_picture_is_not(webui: WebUI, saved: Callable[[], list[Path]],
                                                   payload: dict[str, Any], settings: dict[str, Any]) -> None:
    draw(webui, TWO, {**SETTINGS, **settings}, **payload)
    assert saved() == []


def test_nothing_is_saved_of_a_picture_that_was_skipped(webui: WebUI, saved: Callable[[], list[Path]]) -> None:
    """The web UI saves the second picture alone."""
    webui.doubles("skip 5")
    result = draw(webui, TWO, SETTINGS, n_iter=2)
    assert len(result.images) == 2
    assert len(saved()) == 4
    assert all(f"Seed: {result.info['all_seeds'][1]}," in text_of(file) for file in saved())
