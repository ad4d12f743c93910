"""Checkpoints: what names find, and what a file or folder is, without loading it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from omg_ext.diffusers import checkpoints, loading
from omg_ext.diffusers.checkpoints import SD15, SDXL, Checkpoints, Kind, kind_of
from omg_ext.errors import OMGError

INPUT = "model.diffusion_model.input_blocks.0.0.weight"


def write_file(path: Path, *keys: str, channels: int = 4, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({INPUT: torch.zeros(8, channels, 3, 3), **{key: torch.zeros(1) for key in keys}}, path, metadata)
    return path


def write_folder(path: Path, pipeline: str = "StableDiffusionXLPipeline") -> Path:
    (path / "unet").mkdir(parents=True)
    (path / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    (path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    return path


@pytest.fixture
def folder(tmp_path):
    write_file(tmp_path / "juggernaut.v9.safetensors", SDXL.key)
    write_file(tmp_path / "styles" / "dream.safetensors", SD15.key)
    write_folder(tmp_path / "styles" / "base xl")
    return tmp_path


@pytest.mark.parametrize(("name", "file"), [
    ("juggernaut.v9", "juggernaut.v9.safetensors"), ("juggernaut.v9.safetensors", "juggernaut.v9.safetensors"),
    ("juggernaut.v9.safetensors [31e35c80fc]", "juggernaut.v9.safetensors"), ("dream", "styles/dream.safetensors"),
    ("styles/dream", "styles/dream.safetensors"), ("dream [aaaaaaaaaa]", "styles/dream.safetensors"),
    ("base xl", "styles/base xl"), ("", "styles/dream.safetensors")])
def test_names(folder, name, file):
    assert Checkpoints(folder / "styles" / "dream.safetensors", folder).find(name) == folder / file


def test_paths(folder, monkeypatch):
    found = Checkpoints(None, None)
    assert found.find(str(folder / "juggernaut.v9")) == folder / "juggernaut.v9.safetensors"
    monkeypatch.chdir(folder)
    assert found.find("styles/base xl") == Path("styles/base xl")


def test_known(folder):
    assert Checkpoints(None, folder).known() == ["juggernaut.v9", "styles/base xl", "styles/dream"]


@pytest.mark.parametrize(("name", "words"), [
    ("dreem", ["there is no dreem", "did you mean styles/dream?", "juggernaut.v9"]), ("zzz", ["there are: jugg"]),
    ("styles", ["is no checkpoint", "SDXL"]), ("notes.ckpt", ["is no checkpoint", ".safetensors"])])
def test_not_found(folder, name, words):
    (folder / "notes.ckpt").write_bytes(b"")
    with pytest.raises(OMGError) as raised:
        Checkpoints(None, folder).find(name)
    assert raised.value.field == "checkpoint"
    assert [word for word in words if word not in raised.value.message] == []


@pytest.mark.parametrize(("keys", "metadata", "kind"), [
    ((SDXL.key,), None, Kind(SDXL, True)), ((SD15.key,), None, Kind(SD15, True)),
    ((SDXL.key, "v_pred", "ztsnr"), None, Kind(SDXL, True, True, True)),
    ((SDXL.key,), {"modelspec.prediction_type": "v"}, Kind(SDXL, True, True)),
    ((SDXL.key,), {"modelspec.prediction_type": "epsilon"}, Kind(SDXL, True))])
def test_kinds_of_files(tmp_path, keys, metadata, kind):
    assert kind_of(write_file(tmp_path / "a.safetensors", *keys, metadata=metadata)) == kind


@pytest.mark.parametrize(("keys", "channels", "words"), [
    ((SDXL.key,), 9, "inpainting"), (("double_blocks.0.img_attn.proj.weight",), 4, "something else")])
def test_other_files(tmp_path, keys, channels, words):
    with pytest.raises(OMGError, match=words) as raised:
        kind_of(write_file(tmp_path / "a.safetensors", *keys, channels=channels))
    assert raised.value.field == "checkpoint"


def test_folders(tmp_path):
    assert kind_of(write_folder(tmp_path / "xl")) == Kind(SDXL, False)
    assert kind_of(write_folder(tmp_path / "sd", "StableDiffusionPipeline")) == Kind(SD15, False)
    with pytest.raises(OMGError, match="FluxPipeline"):
        kind_of(write_folder(tmp_path / "flux", "FluxPipeline"))
    (tmp_path / "xl" / "model_index.json").write_text("{")
    with pytest.raises(OMGError, match="cannot be read"):
        kind_of(tmp_path / "xl")


def test_a_broken_file(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(OMGError, match="not a readable"):
        kind_of(tmp_path / "a.safetensors")


def test_a_single_file_without_a_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "_PACKAGES", ("no_such_package",))
    file = write_file(tmp_path / "a.safetensors", SDXL.key)
    with pytest.raises(OMGError, match="no tokenizer") as raised:
        loading.load(file, torch.float32)
    assert raised.value.field == "checkpoint"
    (tmp_path / "config" / "tokenizer").mkdir(parents=True)
    (tmp_path / "config" / "tokenizer" / "vocab.json").write_text("{}")
    loading.check_tokenizer(kind_of(file), tmp_path / "config")
    loading.check_tokenizer(Kind(SDXL, False), None)


def test_a_folder_that_cannot_be_loaded(tmp_path):
    with pytest.raises(OMGError, match="xl cannot be loaded") as raised:
        loading.load(write_folder(tmp_path / "xl"), torch.float32)
    assert raised.value.field == "checkpoint"
    assert checkpoints.FIELD == "checkpoint"
