"""Whole runs on the diffusers host beyond the ordinary: precision, too little memory, threads, what they leave."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import omg_ext.comprehension.assign
from omg_ext.comprehension import ContrastDetector, Models
from omg_ext.comprehension.masks import decode_mask
from omg_ext.diffusers import OMGPipeline
from omg_ext.diffusers.host import DiffusersHost
from omg_ext.errors import OMGError
from omg_ext.passes.memory import Memory
from omg_ext.passes.session import Session
from tests.diffusers_host import (
    PROMPT,
    ROUNDING,
    SIZE,
    as_in_paper,
    assert_untouched,
    difference,
    everywhere,
    generate,
    host_of,
    left_and_right,
    mask_text,
    merged,
    pipeline,
    plain,
    small_loras,
    snapshot,
    two_concepts,
    with_scheduler,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SMALL: dict[str, Any] = {"height": SIZE, "width": SIZE, "steps": 3, "output_type": "latent"}


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_loras(tmp_path_factory.mktemp("loras"))


@pytest.fixture(scope="module")
def usual(loras: Path) -> Tensor:
    return generate(pipeline(), two_concepts(), loras=loras).latents


# --- precision ---

@pytest.mark.parametrize("way", ["autocast", "model"])
def test_bfloat16(loras, way):
    """*everywhere is plain*, *nothing remains*"""
    pipe = pipeline()
    if way == "model":
        pipe = copy.deepcopy(pipe).to(torch.bfloat16)
        pipe.set_progress_bar_config(disable=True)

    def autocast() -> Any:
        """Anew for each call: it keeps the weights that it has cast."""
        return torch.autocast("cpu", torch.bfloat16) if way == "autocast" else nullcontext()

    before = snapshot(pipe)
    with autocast():
        result = generate(pipe, everywhere("sks man<lora:one>"), f"{PROMPT}<lora:style:0.5>", loras=loras)
        no_lora = generate(pipe, everywhere("sks man"))
        two = generate(pipe, two_concepts(), loras=loras, budgets=(0, 0))
    assert_untouched(pipe, before)
    with autocast():
        first, without = plain(pipe), plain(pipe, "sks man")
    with merged(pipe, loras / "one.safetensors"), merged(pipe, loras / "style.safetensors", 0.5, 0.5), autocast():
        expected = plain(pipe, "sks man")
    assert result.latents.dtype == expected.dtype
    # the small model amplifies bfloat16's rounding: its own pictures are as far from those in single precision
    assert mean_difference(result.latents, expected) < 0.15 < 0.4 < mean_difference(without, expected)
    assert mean_difference(no_lora.latents, without) < 0.05
    assert torch.equal(two.first_pass_latents, first)
    assert torch.isfinite(two.latents).all()
    assert two.warnings == result.warnings == []


def mean_difference(result: Tensor, expected: Tensor) -> float:
    """Root of the mean square, relative."""
    return float((result - expected).float().norm() / expected.float().norm())


# --- too little memory ---

@contextmanager
def no_room(pipe: Any, fails: Any) -> Iterator[list[int]]:
    """Yields a list of the rows of the calls that failed: those where ``fails(number of the call, rows)`` says so.

    Calls 0 to 2 are the first pass unless some fail; then global and concept rows alternate.
    """
    calls, failed, rows = iter(range(1000)), [], []

    def begin(unet: Any, args: Any) -> None:
        rows.append(len(args[0]))

    def hook(unet: Any, args: Any) -> None:
        if fails(next(calls), rows[-1]):
            failed.append(rows[-1])
            raise torch.cuda.OutOfMemoryError("no room")

    # in the middle: the first half of its queries are recorded by then
    handles = [pipe.unet.register_forward_pre_hook(begin), pipe.unet.mid_block.register_forward_pre_hook(hook)]
    try:
        yield failed
    finally:
        for handle in handles:
            handle.remove()


FAILS: dict[str, tuple[Any, tuple[int, int], list[int]]] = {
    # which calls fail, memory for queries on the device and on the host, rows of the failed calls of a first run
    "first pass": (lambda number, rows: number == 1, (2**40, 2**40), [2]),
    "first pass, no memory on the host": (lambda number, rows: number == 1, (2**40, 0), [2]),
    "whenever the first pass records": (lambda number, rows: number in (0, 2, 4), (2**40, 2**40), [2] * 3),
    "global rows": (lambda number, rows: rows == 3, (0, 0), [3]),
    "concept rows": (lambda number, rows: rows == 4, (2**40, 0), [4]),
    "all but single rows": (lambda number, rows: number > 2 and rows > 1, (2**40, 0), [2, 4, 2]),
}


@pytest.mark.parametrize("place", FAILS)
def test_out_of_memory(loras, usual, place):
    """*rows do not matter*, *nothing remains*: the picture was lost, or sizes were tried anew in every run."""
    fails, budgets, expected = FAILS[place]
    pipe, before = pipeline(), snapshot(pipeline())
    omg = OMGPipeline(pipe, loras, device_budget=budgets[0], host_budget=budgets[1])
    with no_room(pipe, fails) as failed:
        result = omg(as_in_paper(two_concepts()), PROMPT, **SMALL)
    assert failed == expected
    assert difference(result.latents, usual) < ROUNDING
    assert result.warnings == []
    assert_untouched(pipe, before)
    if "first pass" not in place:
        with no_room(pipe, fails) as failed:
            again = omg(as_in_paper(two_concepts()), PROMPT, **SMALL)
        assert failed == []
        assert torch.equal(again.latents, result.latents)


def test_the_ordinary_picture_does_not_fit(loras):
    pipe, before = pipeline(), snapshot(pipeline())
    with no_room(pipe, lambda number, rows: True) as failed, pytest.raises(torch.cuda.OutOfMemoryError):
        generate(pipe, two_concepts(), loras=loras)
    assert failed == [2, 2]
    assert_untouched(pipe, before)


@pytest.mark.parametrize("strict", [False, True])
def test_not_even_one_row_of_the_second_pass_fits(loras, strict):
    pipe, before = pipeline(), snapshot(pipeline())
    with no_room(pipe, lambda number, rows: number > 2) as failed:
        if strict:
            with pytest.raises(OMGError) as caught:
                generate(pipe, two_concepts(strict=True), loras=loras)
            assert caught.value.field == "second pass"
            said = caught.value.message
        else:
            result = generate(pipe, two_concepts(), loras=loras)
            said, = result.warnings
            assert torch.equal(result.latents, result.first_pass_latents)
    assert failed == [2, 1, 1]  # once more after what was kept in graphics memory is given up
    for part in ("memory", "lower", "batch size"):
        assert part in said
    assert_untouched(pipe, before)


def test_a_failed_search_leaves_the_first_picture(monkeypatch):
    """As a failed second pass does: the first picture, and why."""
    def find(self: Any, picture: Any, phrases: Any) -> Any:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(ContrastDetector, "find", find)
    result = generate(pipeline(), {"concepts": [{"phrase": "man", "prompt": "old man"}]})
    assert torch.equal(result.latents, result.first_pass_latents)
    said, = result.warnings
    assert "finding the concepts failed" in said
    assert "ZeroDivisionError: a fault" in said


# --- threads ---

@pytest.mark.parametrize("way", ["one object", "two objects"])
def test_two_threads(loras, way):
    """*off is off*: runs on one model once mixed up hooks, rows and random numbers. Now they take turns."""
    pipe = with_scheduler(pipeline(), diffusers.EulerAncestralDiscreteScheduler)
    one = OMGPipeline(pipe, loras)
    runs = [(one, everywhere("dog<lora:two>"), 3),
            (one if way == "one object" else OMGPipeline(pipe, loras), two_concepts(), 5)]
    alone = [omg(request, PROMPT, seed=seed, **SMALL).latents for omg, request, seed in runs]
    results: dict[int, list[Tensor]] = {0: [], 1: []}

    def run(number: int) -> None:
        omg, request, seed = runs[number]
        for _ in range(2):
            results[number].append(omg(request, PROMPT, seed=seed, **SMALL).latents)

    threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(results[number]) for number in (0, 1)] == [2, 2]
    assert all(torch.equal(result, alone[number]) for number in (0, 1) for result in results[number])


@torch.no_grad()
def test_a_forward_of_another_thread_meanwhile(loras):
    """*off is off*"""
    pipe = pipeline()
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(4, 4, 12, 12, generator=generator), torch.randn(4, 5, 32, generator=generator)
    host = host_of(pipe, everywhere("dog"))
    text = host.encoded.cond["encoder_hidden_states"].expand(4, -1, -1)
    added = {name: host.encoded.cond[name].expand(4, -1) for name in ("text_embeds", "time_ids")}
    results: list[Tensor] = []

    @torch.no_grad()
    def forward() -> None:
        results.append(pipe.unet(x, 500, text, added_cond_kwargs=added, return_dict=False)[0])

    forward()
    main = threading.get_ident()

    def hook(block: Any, args: Any) -> None:
        if threading.get_ident() == main:
            thread = threading.Thread(target=forward)
            thread.start()
            thread.join()

    handle = pipe.unet.mid_block.register_forward_pre_hook(hook)
    try:
        result = generate(pipe, two_concepts(), f"{PROMPT}<lora:style>", loras=loras)
    finally:
        handle.remove()
    assert len(results) == 1 + 9
    assert all(torch.equal(each, results[0]) for each in results)
    assert torch.equal(result.latents, generate(pipe, two_concepts(), f"{PROMPT}<lora:style>", loras=loras).latents)


# --- random numbers ---

@pytest.mark.parametrize("scheduler", ["DPMSolverSDEScheduler", "EulerAncestralDiscreteScheduler"])
def test_random_state_is_what_an_ordinary_call_leaves(loras, scheduler):
    """*off is off*: a run once left torch's global generator elsewhere, since reading LoRAs drew from it."""
    pipe = with_scheduler(pipeline(), getattr(diffusers, scheduler))
    torch.manual_seed(7)
    expected = plain(pipe)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    result = generate(pipe, two_concepts(), loras=loras)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(result.first_pass_latents, expected)


@torch.no_grad()
def test_generators_are_where_one_pass_leaves_them(loras):
    pipe = with_scheduler(pipeline(), diffusers.EulerAncestralDiscreteScheduler)
    states = []
    for blend_start in (1, 0):
        request = two_concepts(blend_start=blend_start)
        host = host_of(pipe, request, loras=loras, batch_size=2)
        session = Session(host, host.loader.request, Memory(), Models())
        if blend_start:
            session.first()
        else:
            session.draw()
        states.append([generator.get_state() for generator in host.generators])
    assert all(torch.equal(one, two) for one, two in zip(*states, strict=True))


# --- a first pass is a value ---

@torch.no_grad()
@pytest.mark.parametrize("budget", [2**40, 0])
def test_two_second_passes_after_one_first(loras, budget):
    """*nothing remains*: what a first pass left was once bound to hooks that went with its only second pass."""
    pipe, before = pipeline(), snapshot(pipeline())
    words = {"concepts": [{"prompt": "dog<lora:two>", "phrase": "woman"}], "blend_start": 0.3}
    requests = [{"concepts": [{"prompt": "old man<lora:one>", "phrase": "woman"}], "blend_start": 0.3}, words]

    def session(request: dict[str, Any]) -> Session:
        host = host_of(pipe, request, loras=loras)
        return Session(host, host.loader.request, Memory(budget, 0), Models())

    first = session(requests[0]).first()
    assert_untouched(pipe, before)
    for request in (*requests, requests[0]):
        of_request = session(request)
        concepts, places = of_request.load(), of_request.find(first, [None])
        assert places
        latents, warnings = of_request.second(concepts, places, first)
        assert_untouched(pipe, before)
        drawn = session(request).draw()
        assert torch.equal(latents, drawn.latents)
        assert warnings == drawn.warnings == []
        assert difference(latents, first.latents) > 1e-2


def test_a_given_mask_is_decoded_once(monkeypatch):
    """It was decoded anew for each picture of a batch, and once more to see whether it is sound."""
    decoded: list[str] = []

    def decode(text: str, field: str) -> Any:
        decoded.append(field)
        return decode_mask(text, field)

    monkeypatch.setattr(omg_ext.comprehension.assign, "decode_mask", decode)
    half = torch.zeros(12, 12)
    half[:, :6] = 1
    first, second = left_and_right()
    result = generate(pipeline(), {"concepts": [{**first, "where": {"mask": mask_text(half)}}, second]}, batch_size=3)
    assert decoded == ["concepts[0].where.mask"]
    assert len(result.masks) == 3


# --- broken off ---

@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("stage", "said"), [("found", "looked for"), ("drawn", "drawn")])
def test_broken_off_second_pass_leaves_the_first_picture(monkeypatch, loras, stage, said, strict):
    """*nothing remains*"""
    pipe, before = pipeline(), snapshot(pipeline())
    host = host_of(pipe, two_concepts(strict=strict), loras=loras)
    samplings: list[Tensor] = []
    sample = DiffusersHost.sample

    def sampled(host: DiffusersHost, tap: Any) -> Tensor:
        samplings.append(sample(host, tap))
        monkeypatch.setattr(DiffusersHost, "stopped", stage == "drawn" and len(samplings) == 2)
        return samplings[-1]

    def found(*args: Any) -> Any:
        places = find(*args)
        monkeypatch.setattr(DiffusersHost, "stopped", stage == "found")
        return places

    find = Session.find
    monkeypatch.setattr(DiffusersHost, "sample", sampled)
    monkeypatch.setattr(Session, "find", found)
    drawn = Session(host, host.loader.request, Memory(), Models()).draw()
    assert drawn.warnings == [f"it was broken off while the concepts were {said}, so this is the first picture"]
    assert torch.equal(drawn.latents, samplings[0])
    assert torch.equal(drawn.first, samplings[0])
    assert drawn.places
    assert len(samplings) == (1 if stage == "found" else 2)
    assert_untouched(pipe, before)


def test_first_pass_that_lacks_its_end_is_sampled_to_it(monkeypatch, loras):
    """Where nothing is found to draw: a host's other model (a refiner) comes after what the first pass draws."""
    pipe, before = pipeline(), snapshot(pipeline())
    request = {"concepts": [{"prompt": "old man<lora:one>", "phrase": "giraffe"}], "blend_start": 0.5}
    samplings: list[Tensor] = []
    sample = DiffusersHost.sample

    def sampled(host: DiffusersHost, tap: Any) -> Tensor:
        samplings.append(sample(host, tap))
        return samplings[-1]

    monkeypatch.setattr(DiffusersHost, "sample", sampled)
    for refines in (False, True):
        samplings.clear()
        monkeypatch.setattr(DiffusersHost, "refines", refines)
        host = host_of(pipe, request, loras=loras)
        drawn = Session(host, host.loader.request, Memory(), Models()).draw()
        assert not drawn.places
        assert len(samplings) == 1 + refines
        assert drawn.latents is samplings[-1]
        assert torch.equal(drawn.latents, drawn.first)
    assert_untouched(pipe, before)
