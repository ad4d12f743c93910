"""Runs inside the web UI: stand-ins for extensions that rewrite the main prompts before sampling.

They act on words that no other test uses: ``__colour__`` is a wildcard, drawn with each picture's seed as the wildcards
extensions do; ``stranger`` is replaced by an extension that OMG does not know.
"""

from __future__ import annotations

import random
from typing import Any

from modules import scripts

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")


class Wildcards(scripts.Script):
    """Draws a colour for each picture."""

    def title(self) -> str:
        return "Wildcards, a stand-in"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def process(self, p: Any, *args: Any) -> None:
        hires = [p.all_hr_prompts, p.all_hr_negative_prompts] if getattr(p, "enable_hr", False) else []
        for prompts in (p.all_prompts, p.all_negative_prompts, *hires):
            for number, prompt in enumerate(prompts):
                colour = random.Random(p.all_seeds[number]).choice(COLOURS)
                prompts[number] = prompt.replace("__colour__", colour)


class Stranger(scripts.Script):
    """Adds words to the main prompt."""

    def title(self) -> str:
        return "Something that adds quality words"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def process(self, p: Any, *args: Any) -> None:
        p.all_prompts = [prompt.replace("stranger", "masterpiece, best quality") for prompt in p.all_prompts]
