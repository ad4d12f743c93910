"""The X/Y/Z plot on the page, with axes of concepts."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.webui.browser import (
    PLACES,
    PROMPTS,
    SECONDS,
    choose,
    fill,
    fill_concepts,
    generate,
    open_accordion,
    picture,
    thumbnails,
)
from tests.webui.host import WebUI, distance

pytestmark = [pytest.mark.webui, pytest.mark.browser]


def test_a_plot_of_two_axes(webui: WebUI, page: Page, tmp_path: Path) -> None:
    open_accordion(page)
    fill_concepts(page)
    choose(page.locator("#tab_txt2img #script_list"), "X/Y/Z plot")
    axes = {"x": ("[OMG] Strength of concept 1", "0, 1"), "y": ("[OMG] Draw concept 2", "on, off")}
    page.locator("#script_txt2img_xyz_plot_csv_mode input").check()
    page.locator("#script_txt2img_xyz_plot_draw_legend input").uncheck()
    for axis, (label, _) in axes.items():
        choose(page.locator(f"#script_txt2img_xyz_plot_{axis}_type"), label)
    page.wait_for_timeout(2 * SECONDS)  # the web UI answers with values, which would take the place of those here
    for axis, (_, values) in axes.items():
        fill(page.locator(f"#script_txt2img_xyz_plot_{axis}_values :is(input, textarea)"), values)
    page.locator("#script_txt2img_xyz_plot_include_lone_images input").check()
    generate(page)
    expect(thumbnails(page)).to_have_count(1 + 4, timeout=60 * SECONDS)
    grid = picture(page, tmp_path / "grid.png")
    boxes = [[float(number) for number in place.split(", ")] for place in PLACES]
    left, right = ({"prompt": prompt, "where": {"box": box}} for prompt, box in zip(PROMPTS, boxes, strict=True))
    cells: list[np.ndarray] = []
    for row, second in enumerate(([right], [])):
        for column, first in enumerate(([], [left])):
            cell = grid[row * 128:(row + 1) * 128, column * 128:(column + 1) * 128]
            concepts = [*first, *second]
            asked = {"OMG": {"args": [{"concepts": concepts}]}} if concepts else {}
            wanted = webui.txt2img(steps=6, sampler_name="DPM++ 2M", alwayson_scripts=asked)
            assert distance(cell, wanted.image) < 1  # the grid is a JPEG
            cells.append(cell)
    assert all(distance(one, other) > 2 for one, other in combinations(cells, 2))
