"""Many random requests, one after another and at once: the plain picture stays what it is, and memory what it was.

OMG_SOAK says how many (24 unless it does); OMG_SOAK_SEED repeats a run, whose seed is printed.
"""

from __future__ import annotations

import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.webui.host import ApiError, WebUI
from tests.webui.test_api import png
from tests.webui.test_img2img import INPAINT, ONLY_MASKED, SQUARE

pytestmark = [pytest.mark.webui, pytest.mark.slow, pytest.mark.usefixtures("nothing_left")]

REQUESTS = int(os.environ.get("OMG_SOAK") or 24)
SEED = int(os.environ.get("OMG_SOAK_SEED") or random.SystemRandom().randrange(1 << 32))
LOOK = 8
"""After so many requests the plain picture is looked at."""
GROWTH = 1.1
"""Of the process's memory from one half of the run to the other: allocators keep some."""

CHECKPOINTS = ("tiny-sdxl", "tiny-sdxl-v")
STYLE = "<lora:sdxl-style:0.5>"
fractions = st.sampled_from([0, 0.25, 0.4, 0.75, 1])
PROMPTS = ("a red car", "a man <lora:sdxl-lora:1>", "a woman <lora:sdxl-loha:0.8>",
           "a [dog:cat:0.5] <lora:sdxl-locon:1>", "a man AND a hat", "(a knight:1.2) BREAK in armour", "a man, " * 30,
           "a cat <lora:sdxl-oft:0.6>")
prompts = st.sampled_from(PROMPTS)
wheres = st.sampled_from([
    {"where": {"box": [0, 0, 0.5, 1]}}, {"where": {"box": [0.4, 0.2, 1, 1]}}, {"phrase": "man"}, {"phrase": "woman"},
    {"phrase": "giraffe"}, {"phrase": "man", "where": {"point": [0.3, 0.5]}},
    {"where": {"mask": png(np.eye(128, dtype=np.uint8).cumsum(0).astype(np.uint8) * 255)}}])
concepts = st.builds(
    lambda prompt, where, more: {"prompt": prompt, **where, **more}, prompts, wheres,
    st.fixed_dictionaries({}, optional={
        "strength": fractions, "cfg_scale": st.sampled_from([1, 4, [9, 3]]), "lora_guidance": st.sampled_from([0, 1.5]),
        "negative_prompt": st.sampled_from(["", "grey"]), "enabled": st.booleans()}))
FAULTS: list[dict[str, Any]] = [
    {"blend_start": 2}, {"detector": "nobody"}, {"layout": {"cross": -1}}, {"concepts": []}, {"strange": 1},
    {"concepts": [{"prompt": "a <lora:no such file:1>", "phrase": "man"}]}, {"predict": "twice"},
    {"first_pass": "prefix", "layout": {"self": 1}}]
# three of four have none
faults = st.sampled_from([*[dict[str, Any]()] * (3 * len(FAULTS)), *FAULTS])
valid = st.fixed_dictionaries({"concepts": st.lists(concepts, min_size=1, max_size=3)}, optional={
    "predict": st.sampled_from(["separate", "shared", "joint"]), "blend_start": fractions,
    "detector": st.sampled_from(["contrast", "attention"]), "show": st.just(["masks", "overlay"]),
    "layout": st.sampled_from([{"cross": 0, "self": 0}, {"cross": 0.5, "self": 1}]), "preview": st.booleans(),
    "control_concepts": st.booleans(), "strict": st.booleans(), "enabled": st.booleans()})
asked = st.builds(lambda good, bad: {**good, **bad}, valid, faults)
payloads = st.fixed_dictionaries(
    {"steps": st.integers(2, 6), "seed": st.integers(0, 99),
     "sampler_name": st.sampled_from(["Euler", "Euler a", "DPM++ 2M", "DDIM", "UniPC", "DPM++ SDE"])},
    optional={"batch_size": st.just(2), "n_iter": st.just(2), "cfg_scale": st.sampled_from([1, 7]),
              "prompt": st.sampled_from(["a man and a woman", f"two men {STYLE}"])})
hires = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}
kinds: st.SearchStrategy[tuple[str, dict[str, Any]]] = st.one_of(
    st.just(("txt2img", {})), st.just(("txt2img", {})), st.just(("txt2img", hires)), st.just(("img2img", {})),
    st.sampled_from([("img2img", INPAINT), ("img2img", ONLY_MASKED)]))
events = st.sampled_from(["", "", "", "", "interrupt", "skip", "twice", "checkpoint", "fault 6", "out of memory 5"])
checkpoints = st.sampled_from(CHECKPOINTS)


class Soak:
    """What happens to one web UI.

    Attributes:
        ends: how requests ended, counted.
        memory: bytes of the process after each look.
    """

    def __init__(self, webui: WebUI):
        self.webui, self.ends, self.memory = webui, Counter[str](), list[int]()
        # of a model that has had a LoRA merged the web UI keeps the weights before, and Forge keeps the last five files
        tags = re.findall("<.*?>", " ".join([STYLE, *PROMPTS]))
        for name in CHECKPOINTS:
            webui.set_checkpoint(name)
            webui.txt2img(prompt=" ".join(["a man", *tags]), steps=1)
        self._plain = self._look()
        self._tensors = webui.tensors()
        self._done = 0

    def ask(self, kind: tuple[str, dict[str, Any]], data: Any, payload: dict[str, Any], event: str,
            checkpoint: str) -> None:
        """One request, with something that happens meanwhile."""
        webui, (tab, more) = self.webui, kind
        if event == "checkpoint":
            webui.set_checkpoint(checkpoint)
        webui.doubles(*([event] if " " in event else []))

        def once() -> str:
            scripts = {"OMG": {"args": [data]}}
            try:
                if tab == "img2img":
                    webui.img2img(SQUARE, **payload, **more, alwayson_scripts=scripts)
                else:
                    webui.txt2img(**payload, **more, alwayson_scripts=scripts)
            except ApiError as error:
                # a sentence that names something, and no stack of calls
                assert error.status in (404, 422, 500), error
                assert "Traceback" not in error.detail
                return error.detail.removeprefix("OMG: ").partition(":")[0]
            return "drawn"

        with ThreadPoolExecutor(2) as pool:
            running = [pool.submit(once) for _ in range(2 if event == "twice" else 1)]
            if event in ("interrupt", "skip"):
                _soon(webui.interrupt if event == "interrupt" else webui.skip)
            self.ends.update(each.result() for each in running)
        self._done += 1
        if self._done % LOOK == 0:
            self.look()

    def look(self) -> None:
        """*off is off*, *nothing remains*."""
        self.webui.doubles()
        np.testing.assert_array_equal(self._look(), self._plain)
        self.memory.append(self._process().memory_info().rss)

    def end(self) -> None:
        """All that is to be said of it."""
        self.look()
        half = len(self.memory) // 2
        assert max(self.memory[half:]) < GROWTH * max(self.memory[:half])
        after = self.webui.tensors()
        assert after["number"] <= 1.01 * self._tensors["number"], (after, self._tensors)
        assert after["bytes"] <= 1.01 * self._tensors["bytes"], (after, self._tensors)

    def _look(self) -> np.ndarray:
        self.webui.set_checkpoint("tiny-sdxl")
        return self.webui.txt2img(steps=3).image

    def _process(self) -> psutil.Process:
        return psutil.Process(self.webui.pid)


def _soon(stop: Callable[[], None]) -> None:
    """While the picture is drawn, or just after."""
    time.sleep(random.uniform(0.1, 1))
    stop()


def test_soak(webui: WebUI, capsys: pytest.CaptureFixture[str]) -> None:
    soak = Soak(webui)

    @seed(SEED)
    @settings(max_examples=REQUESTS, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(kinds, asked, payloads, events, checkpoints)
    def all_of_them(kind: tuple[str, dict[str, Any]], data: Any, payload: dict[str, Any], event: str,
                    checkpoint: str) -> None:
        soak.ask(kind, data, payload, event, checkpoint)

    all_of_them()
    soak.end()
    drawn = soak.ends.pop("drawn", 0)
    with capsys.disabled():
        grown = soak.memory[-1] / soak.memory[0]
        sys.stdout.write(
            f"\nsoak of {REQUESTS} (OMG_SOAK_SEED={SEED}): {drawn} drawn, {sum(soak.ends.values())} refused "
            f"({len(soak.ends)} reasons), memory {grown:.2f} times that of the first look\n")
    assert drawn > REQUESTS / 6  # at random; most are
    assert soak.ends
