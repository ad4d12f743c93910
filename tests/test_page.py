"""What the page is made of beside its components: the style sheet and the scripts for the browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from omg_ext.comprehension.overlay import COLOURS

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "javascript").glob("*.js"))


def test_concepts_have_the_colours_of_the_overlay():
    found = re.findall(r"\.omg-colour-(\d+) \{ --omg-colour: rgb\((\d+), (\d+), (\d+)\); \}",
                       (ROOT / "style.css").read_text())
    assert [(int(number), (int(r), int(g), int(b))) for number, r, g, b in found] == [*enumerate(COLOURS, 1)]
    counted, = re.findall(r"const COLOURS = (\d+);", (ROOT / "javascript" / "omg_gallery.js").read_text())
    assert int(counted) == len(COLOURS)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_leave_no_names_behind(script):
    """All of it stands in one function that is called at once; the host's names are the only ones that it changes."""
    code = re.sub(r"^\s*//.*\n", "", script.read_text(), flags=re.MULTILINE).strip()
    assert code.startswith("(function() {\n")
    assert code.endswith("\n})();")
    assert not re.findall(r"^(?! |\(function|\}\)\(\);|$).*", code, flags=re.MULTILINE)
    changed = set(re.findall(r"^ +(\w+) = ", code, flags=re.MULTILINE))
    declared = set(re.findall(r"\b(?:let|const|var) (\w+)", code)) | {"focus", "count"}
    assert changed - declared <= {"cardClicked", "submit", "submit_img2img", "timer"}
