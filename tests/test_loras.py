"""LoRA files on the diffusers host: read once, kept for the models that they were read for, and never put into them."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

import omg_ext.diffusers.loras
from omg_ext.diffusers import OMGPipeline
from omg_ext.diffusers.loras import LoRA, LoraFiles, load_lora
from omg_ext.request.tags import Tag
from tests.diffusers_host import (
    KEY_FORMATS,
    PROMPT,
    ROUNDING,
    SIZE,
    assert_untouched,
    difference,
    everywhere,
    generate,
    merged,
    models_of,
    pipeline,
    plain,
    small_loras,
    snapshot,
    two_concepts,
    with_scheduler,
    write_lora,
)

SMALL: dict[str, Any] = {"height": SIZE, "width": SIZE, "steps": 1, "output_type": "latent"}


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_loras(tmp_path_factory.mktemp("loras"))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read."""
    names: list[str] = []

    def load(pipe: Any, path: Path, field: str) -> LoRA:
        names.append(path.stem)
        return load_lora(pipe, path, field)

    monkeypatch.setattr(omg_ext.diffusers.loras, "load_lora", load)
    return names


def own(pipe: Any) -> Any:
    """A pipeline of the same models, copied."""
    return with_scheduler(copy.deepcopy(pipe), type(pipe.scheduler))


# --- the cache ---

def test_each_file_is_read_once(loras, reads, tmp_path):
    """Until it changes. Every run once read all of its files."""
    shutil.copytree(loras, tmp_path, dirs_exist_ok=True)
    omg = OMGPipeline(pipeline(), tmp_path)
    results = [omg(two_concepts(), f"{PROMPT}<lora:style>", **SMALL).latents for _ in range(3)]
    assert sorted(reads) == ["one", "style", "two"]
    assert torch.equal(results[0], results[2])
    write_lora(pipeline(), tmp_path / "one.safetensors", seed=9, only="attn2")
    assert not torch.equal(omg(two_concepts(), f"{PROMPT}<lora:style>", **SMALL).latents, results[0])
    assert sorted(reads) == ["one", "one", "style", "two"]


def test_other_models_under_the_same_name(loras, reads):
    """A pipeline is no key: its models may be exchanged, and a new one may have the id of a dead one."""
    pipe, files = own(pipeline()), LoraFiles(loras)
    files.load(pipe, Tag("one"), "prompt")
    pipe.unet = copy.deepcopy(pipe.unet)
    again = files.load(pipe, Tag("one"), "prompt")
    assert files.load(pipe, Tag("one"), "prompt") is again
    assert reads == ["one", "one"]


def test_a_run_after_its_models_were_exchanged(loras):
    pipe = own(pipeline())
    omg = OMGPipeline(pipe, loras)
    request = everywhere("sks man<lora:one>")
    expected = omg(request, PROMPT, **SMALL).latents
    pipe.unet, pipe.text_encoder = copy.deepcopy(pipe.unet), copy.deepcopy(pipe.text_encoder)
    gc.collect()
    assert torch.equal(omg(request, PROMPT, **SMALL).latents, expected)


def test_the_cache_keeps_no_pipeline_alive(loras):
    """*nothing remains*"""
    pipe, files = own(pipeline()), LoraFiles(loras)
    files.load(pipe, Tag("one"), "prompt")
    generate(pipe, two_concepts(), loras=loras, steps=1)
    models = [weakref.ref(model) for model in models_of(pipe)]
    del pipe
    gc.collect()
    assert [model() for model in models] == [None] * 3
    files.load(pipeline(), Tag("one"), "prompt")


# --- reading ---

@pytest.mark.parametrize("keys", KEY_FORMATS)
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_reading_only_looks_at_the_models(tmp_path, monkeypatch, kind, keys):
    """*off is off*: files were once loaded as adapters and taken out again, which draws random numbers."""
    pipe = pipeline(kind)
    write_lora(pipe, tmp_path / "one.safetensors", keys, only=r"attn\d?_")

    def fail(*args: Any, **kwargs: Any) -> None:
        pytest.fail("the models were changed")

    for name in ("load_lora_weights", "load_lora_into_unet", "load_lora_into_text_encoder"):
        monkeypatch.setattr(type(pipe), name, fail)
    monkeypatch.setattr(peft, "inject_adapter_in_model", fail)
    monkeypatch.setattr(nn.Module, "register_module", fail)
    before, state = snapshot(pipe), torch.get_rng_state()
    lora = LoraFiles(tmp_path).load(pipe, Tag("one"), "prompt")
    assert lora.unet
    assert lora.text_encoders
    assert torch.equal(torch.get_rng_state(), state)
    assert_untouched(pipe, before)


PEFT: dict[str, dict[str, Any]] = {
    "one rank": {"r": 4, "lora_alpha": 6},
    "patterns": {"r": 4, "lora_alpha": 6, "rank_pattern": {"to_k": 2, "down_blocks.*to_v": 3},
                 "alpha_pattern": {"to_q": 1, "mid_block.*to_v": 9}},
    "rsLoRA": {"r": 4, "lora_alpha": 2, "use_rslora": True},
    "rsLoRA with patterns": {"r": 4, "lora_alpha": 2, "use_rslora": True, "rank_pattern": {"attn2.to_k": 2}},
}


@pytest.mark.filterwarnings("ignore:The following:RuntimeWarning")  # patterns of the UNet, in the text encoder
@torch.no_grad()
@pytest.mark.parametrize("options", PEFT.values(), ids=PEFT)
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_ranks_and_alphas_of_peft_files(tmp_path, kind, options):
    """*row-wise is merged*, with what the file's metadata says of ranks and alphas, as diffusers itself reads them."""
    pipe = own(pipeline(kind))
    generator = torch.Generator().manual_seed(0)
    weights, metadata = {}, {}
    for part, layers in (("unet", ["to_q", "to_k", "to_v"]), ("text_encoder", ["q_proj", "v_proj"])):
        model = getattr(pipe, part)
        config = LoraConfig(target_modules=layers, **options)
        model.add_adapter(config, "saved")
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.15 * torch.randn(weight.shape, generator=generator))
        weights[f"{part}_lora_layers"] = get_peft_model_state_dict(model, adapter_name="saved")
        metadata[f"{part}_lora_adapter_metadata"] = config.to_dict()
    pipe.save_lora_weights(str(tmp_path), weight_name="one.safetensors", **weights, **metadata)
    pipe.unload_lora_weights()
    result = generate(pipe, everywhere("sks man<lora:one:0.7>"), loras=tmp_path, steps=2)
    without = plain(pipe, "sks man", steps=2)
    pipe.load_lora_weights(str(tmp_path), weight_name="one.safetensors")
    pipe.fuse_lora(lora_scale=0.7)
    expected = plain(pipe, "sks man", steps=2)
    assert difference(result.latents, expected) < ROUNDING
    assert difference(without, expected) > 1e-2


def test_a_file_in_half_precision(tmp_path):
    pipe = pipeline()
    path = write_lora(pipe, tmp_path / "one.safetensors", only="attn2")
    save_file({key: value.to(torch.float16) for key, value in load_file(path).items()}, path)
    result = generate(pipe, everywhere("sks man<lora:one>"), loras=tmp_path)
    with merged(pipe, path):
        expected = plain(pipe, "sks man")
    assert difference(result.latents, expected) < 5 * ROUNDING
