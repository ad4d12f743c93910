"""The small world's trained weights: how large they are, what the model card says, and what they do on a few seeds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bench.world import demo, train_lora, weights
from bench.world.attributes import IDENTITIES
from bench.world.casts import Cast
from bench.world.detector import reader_masks
from bench.world.methods import FaceAlone, FacesAtOnce, Method, NoLora, SimultaneousLoras, SingleLora
from bench.world.run import Sampling, loras, trained
from bench.world.sweeps import MOST_ALIKE_FACES, OMG, PAIR, TWO_MEN, UNTRIGGERED, Cell, Runner

MEGABYTE = 10**6
needs_adapter = pytest.mark.skipif(bool(weights.missing(weights.ADAPTER)), reason=weights.missing(weights.ADAPTER))


@pytest.fixture(scope="module")
def runner() -> Runner:
    torch.set_num_threads(1)
    return trained(Sampling(seeds=8, steps=25, cfg_scale=4.5, batch=4))


def figures(runner: Runner, cast: Cast, method: Method) -> dict[str, float]:
    with reader_masks(runner.judges.figures):
        found = runner(Cell(cast, method)).figures
    return {name: mean.mean for name, mean in found.items() if mean.mean is not None}


def test_weights_are_small_enough_to_be_cloned_by_everyone():
    assert sum(file.stat().st_size for file in weights.WEIGHTS.rglob("*.safetensors")) <= 36 * MEGABYTE
    for path in loras().values():
        assert path.stat().st_size <= 1.5 * MEGABYTE
        ranks = {len(weight) for key, weight in load_file(path).items() if "lora_down" in key}
        assert ranks == {train_lora.RANK}
        assert max(ranks) <= 16


def test_the_model_card_meets_its_targets():
    card = json.loads(weights.CARD.read_text())
    assert card["autoencoder"]["held_out_psnr_db"] >= 26
    assert card["readers"]["identity"]["accuracy"] >= 0.95
    assert card["prompts"]["seeds"] >= 64
    for group, least in (("single", 0.9), ("pair", 0.85), ("triple", 0.6)):
        assert card["prompts"][group]["scene"] == 1
        assert card["prompts"][group]["classes"] >= least
    assert {part: card[part]["seed"] for part in ("autoencoder", "readers", "unet", "loras", "embedding")} == {
        "autoencoder": 0, "readers": 0, "unet": 0, "loras": 0, "embedding": 0}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_trigger_calls_its_individual_and_the_lora_alone_does_not(runner, name):
    cast = Cast((name,))
    called, uncalled, nobody = (figures(runner, cast, method)["identity"]
                                for method in (SingleLora(), UNTRIGGERED, NoLora()))
    assert called > 0.6
    assert called - uncalled > 0.3
    assert nobody < 0.3


def test_omg_tells_two_men_apart_whom_loras_at_once_mix(runner):
    mixed, apart = (figures(runner, TWO_MEN, method) for method in (SimultaneousLoras(), OMG))
    assert apart["identity"] > mixed["identity"] + 0.1
    assert apart["layout"] > mixed["layout"] + 0.1


def test_omg_keeps_the_first_pass_where_loras_at_once_draw_another_picture(runner):
    mixed, apart = (figures(runner, PAIR, method) for method in (SimultaneousLoras(), OMG))
    assert apart["layout"] > mixed["layout"] + 0.1
    assert apart["background"] < mixed["background"] / 3
    assert apart["bleed"] < 0.2


@needs_adapter
def test_the_adapter_for_faces_is_small_and_draws_strangers():
    card = json.loads(weights.CARD.read_text())
    assert weights.ADAPTER.stat().st_size <= 2 * MEGABYTE
    assert card["instantid"]["seed"] == card["faces"]["seed"] == 0
    found = card["faces"]["likeness"]
    assert found["with_face"] > found["without"] + 0.3


@needs_adapter
def test_a_face_draws_its_individual_without_a_lora(runner):
    shown, nobody = (figures(runner, Cast(("Rusty",)), method)["identity"] for method in (FaceAlone(), NoLora()))
    assert shown > nobody + 0.3


@needs_adapter
def test_omg_tells_two_faces_apart_that_are_mixed_at_once(runner):
    mixed, apart = (figures(runner, TWO_MEN, method) for method in (FacesAtOnce(), MOST_ALIKE_FACES))
    assert apart["identity"] > mixed["identity"]
    assert apart["layout"] > mixed["layout"] + 0.1


def test_the_demo_draws_its_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "new" / "sheet.png"
    monkeypatch.setattr(sys, "argv", ["demo", "--output", str(path)])
    demo.main()
    assert str(path) in capsys.readouterr().out
    with Image.open(path) as sheet:
        assert sheet.width > 4 * demo.SCALE * 128
        assert sheet.height > len(demo.SEEDS) * demo.SCALE * 128
