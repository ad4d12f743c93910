"""A single file in the web UI's layout, loaded by the engine's own loader without a network."""

from __future__ import annotations

import copy
import gzip
import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection

from bench.world import checkpoint, model
from bench.world.tokens import tokenizer
from omg_ext.diffusers import loading
from omg_ext.diffusers.engine import DiffusersEngine
from omg_ext.jobs.job import parse_job
from tests.models.sgm_config import SIZE_EMBEDDING

# diffusers tells the two text encoders by their widths
WIDER = 2 * model.TEXT_WIDTH


@pytest.fixture(scope="module")
def pipe() -> Any:
    """The small world's architecture, untrained, with a wider second text encoder."""
    torch.manual_seed(0)
    first, second = model.text_encoders()
    config = copy.deepcopy(second.config)
    config.hidden_size = config.projection_dim = WIDER
    config.intermediate_size = 4 * WIDER
    unet = UNet2DConditionModel.from_config({
        **model.unet().config, "cross_attention_dim": model.TEXT_WIDTH + WIDER,
        "projection_class_embeddings_input_dim": 6 * SIZE_EMBEDDING + WIDER})
    return StableDiffusionXLPipeline(
        vae=model.autoencoder(), unet=unet, text_encoder=first, text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer(), tokenizer_2=tokenizer("!"), scheduler=model.pipeline(model.parts()).scheduler,
        add_watermarker=False)


def parts_of(pipe: Any) -> model.Parts:
    return model.Parts(pipe.vae, pipe.unet, pipe.text_encoder, pipe.text_encoder_2)


def test_it_draws_what_the_folder_draws(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *unused: pytest.fail("asks the network"))
    pipe.save_pretrained(tmp_path / "folder")
    save_file(checkpoint.to_sgm(parts_of(pipe)),
              tmp_path / "file.safetensors")
    job = {"prompt": "a red circle", "width": 64, "height": 64, "steps": 2}
    engine = DiffusersEngine(checkpoints=tmp_path, config=tmp_path / "folder", device="cpu")
    file, folder = (engine.draw(parse_job({**job, "checkpoint": name})) for name in ("file", "folder"))
    assert file.picture.tobytes() == folder.picture.tobytes()
    assert "Model: file" in file.infotext


def test_clips_vocabulary_makes_its_tokenizer(tmp_path):
    """Merges in the order of ranks; a word without any falls into its letters."""
    letters = loading._byte_tokens()[:256]
    others = [f"{first} {second}" for first in letters for second in letters if (first, second) != ("t", "h")]
    merges = ["header", "t h", "th e</w>", *others]
    (tmp_path / loading._MERGES).write_bytes(gzip.compress("\n".join(merges).encode()))
    for name, padding in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        made = loading._tokenizer(name, tmp_path / loading._MERGES)
        assert made("the th")["input_ids"] == [49406, 513, *made.convert_tokens_to_ids(["t", "h</w>"]), 49407]
        assert made.pad_token == padding
        assert len(made) == 49408


def test_what_a_file_says_of_its_prediction(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "folder")
    state = checkpoint.to_sgm(parts_of(pipe))
    save_file({**state, "v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "file.safetensors")
    scheduler = loading.load(tmp_path / "file.safetensors", torch.float32, tmp_path / "folder").scheduler
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.rescale_betas_zero_snr


def test_the_trained_world_by_its_own_loader():
    """Its text encoders are of one width, which diffusers' reading of single files cannot tell apart."""
    file = Path(checkpoint.__file__).parent / "weights" / "world.safetensors"
    engine = DiffusersEngine(file, device="cpu", load=lambda path, dtype: model.pipeline(checkpoint.load(path)))
    drawn = engine.draw(parse_job({"prompt": "a red circle", "width": 128, "height": 128, "steps": 2}))
    assert "Model: world" in drawn.infotext
    assert json.dumps(drawn.extras) == "{}"
