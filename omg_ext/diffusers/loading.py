"""Loads a checkpoint as a pipeline, without a network: also from the single files of web UIs.

Such a file has the weights alone. What the architecture is, is written here; the text encoders' vocabulary is a file of
CLIP's, which packages of it bring and every folder of diffusers' has.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from transformers import CLIPTokenizer

from ..errors import OMGError
from .checkpoints import FIELD, SD15, SDXL, Family, Kind, kind_of

_MERGES = "bpe_simple_vocab_16e6.txt.gz"
_PACKAGES = ("open_clip", "clip")
_WORDS, _BYTES = 49408, 256
_START, _END = "<|startoftext|>", "<|endoftext|>"
_UNNEEDED = ("safety_checker", "feature_extractor", "image_encoder")
_NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
          "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False, "prediction_type": "epsilon"}
_CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
_PLAIN = ("DownBlock2D", "UpBlock2D")


def load(path: Path, dtype: torch.dtype, config: Path | None = None) -> DiffusionPipeline:
    """The pipeline of a checkpoint, in host memory.

    Args:
        path: a folder of diffusers', or a single file.
        config: for single files: a folder of diffusers' of the same architecture, of which configuration and tokenizers
            are taken; of another, or a tokenizer's folder or CLIP's vocabulary file, that has the tokenizer.

    Raises:
        OMGError: it cannot be read, or there is no tokenizer for a single file.
    """
    kind = kind_of(path)
    try:
        return _from_file(path, kind, dtype, config) if kind.is_file else _from_folder(path, kind, dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        raise OMGError(FIELD, f"{path.name} cannot be loaded ({type(error).__name__}): {error}") from error


def check_tokenizer(kind: Kind, config: Path | None) -> None:
    """
    Raises:
        OMGError: naming ``checkpoint``: it is a single file, and nothing has a tokenizer for it.
    """
    if kind.is_file and _tokenizer_folder(config) is None and _merges(config) is None:
        raise OMGError(FIELD, "a single file has no tokenizer, and none was found; give the configuration of a folder "
                              f"in diffusers' form (of any SDXL or SD 1.5 model), or the file {_MERGES} that the web "
                              "UI's packages open_clip and clip have")


def _from_folder(path: Path, kind: Kind, dtype: torch.dtype) -> DiffusionPipeline:
    index = json.loads((path / "model_index.json").read_text(encoding="utf8"))
    options: dict[str, Any] = {name: None for name in _UNNEEDED if name in index}
    if kind.family is SD15:
        options["requires_safety_checker"] = False
    weights = [file.name for file in (path / "unet").glob("*.safetensors")]
    if weights and all(".fp16." in name for name in weights):
        options["variant"] = "fp16"
    return _class(kind.family).from_pretrained(str(path), dtype=dtype, local_files_only=True, **options)


def _from_file(path: Path, kind: Kind, dtype: torch.dtype, config: Path | None) -> DiffusionPipeline:
    check_tokenizer(kind, config)
    names = ("tokenizer", "tokenizer_2") if kind.family is SDXL else ("tokenizer",)
    without = {} if kind.family is SDXL else {**dict.fromkeys(_UNNEEDED), "requires_safety_checker": False}
    with _configuration(kind.family, config) as folder:
        pipe = _class(kind.family).from_single_file(
            str(path), config=str(folder), dtype=dtype, local_files_only=True,
            **{name: _tokenizer(name, config) for name in names}, **without)
    said = {"prediction_type": "v_prediction" if kind.predicts_v else None, "rescale_betas_zero_snr": kind.is_zero_snr}
    pipe.scheduler = type(pipe.scheduler).from_config(
        pipe.scheduler.config, **{name: value for name, value in said.items() if value is not None})
    return pipe


def _class(family: Family) -> Any:
    return getattr(diffusers, family.pipeline)


@contextmanager
def _configuration(family: Family, config: Path | None) -> Iterator[Path]:
    """A folder with the architecture of each part of a pipeline."""
    if config is not None and (config / "model_index.json").is_file() and kind_of(config).family is family:
        yield config
        return
    with tempfile.TemporaryDirectory() as name:
        for part, content in _parts(family).items():
            file = Path(name, part)
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(content))
        yield Path(name)


def _parts(family: Family) -> dict[str, Mapping[str, Any]]:
    """The files of a pipeline's folder, without weights."""
    is_sdxl = family is SDXL
    components = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
                  "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
                  "tokenizer": ["transformers", "CLIPTokenizer"]}
    if is_sdxl:
        components |= {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                       "tokenizer_2": ["transformers", "CLIPTokenizer"]}
    files: dict[str, Mapping[str, Any]] = {
        "model_index.json": {"_class_name": family.pipeline, "_diffusers_version": diffusers.__version__, **components,
                             **({} if is_sdxl else {name: [None, None] for name in _UNNEEDED})},
        "unet/config.json": _unet_xl() if is_sdxl else _unet_15(),
        "vae/config.json": _vae(0.13025, 1024) if is_sdxl else _vae(0.18215, 512),
        "scheduler/scheduler_config.json": {"_class_name": "DDIMScheduler", **_NOISE},
        "text_encoder/config.json": _text("CLIPTextModel", 768, 12, "quick_gelu")}
    if is_sdxl:
        files["text_encoder_2/config.json"] = _text("CLIPTextModelWithProjection", 1280, 32, "gelu")
    return files


def _unet_xl() -> dict[str, Any]:
    return {"_class_name": "UNet2DConditionModel", "sample_size": 128, "in_channels": 4, "out_channels": 4,
            "block_out_channels": [320, 640, 1280], "layers_per_block": 2,
            "down_block_types": [_PLAIN[0], *[_CROSS[0]] * 2], "up_block_types": [*[_CROSS[1]] * 2, _PLAIN[1]],
            "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True, "cross_attention_dim": 2048, "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}


def _unet_15() -> dict[str, Any]:
    return {"_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4, "out_channels": 4,
            "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
            "down_block_types": [*[_CROSS[0]] * 3, _PLAIN[0]], "up_block_types": [_PLAIN[1], *[_CROSS[1]] * 3],
            "attention_head_dim": 8, "cross_attention_dim": 768}


def _vae(scaling: float, side: int) -> dict[str, Any]:
    return {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
            "latent_channels": 4, "sample_size": side, "scaling_factor": scaling, "force_upcast": side > 512,
            "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}


def _text(architecture: str, width: int, layers: int, activation: str) -> dict[str, Any]:
    return {"architectures": [architecture], "model_type": "clip_text_model", "vocab_size": _WORDS,
            "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
            "num_attention_heads": width // 64, "max_position_embeddings": 77, "hidden_act": activation,
            "projection_dim": width, "bos_token_id": _WORDS - 2, "eos_token_id": _WORDS - 1, "pad_token_id": 1}


def _tokenizer(name: str, config: Path | None) -> CLIPTokenizer:
    """CLIP's, which fills the second text encoder's prompts with other tokens than the first one's."""
    padding = {"pad_token": _END if name == "tokenizer" else "!"}
    folder = _tokenizer_folder(config)
    if folder is not None:
        return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True, **padding)
    merges = _merges(config)
    assert merges is not None  # see check_tokenizer
    pairs = gzip.decompress(merges.read_bytes()).decode("utf8").split("\n")[1:_WORDS - 2 * _BYTES - 1]
    words = [*_byte_tokens(), *("".join(pair.split()) for pair in pairs), _START, _END]
    with tempfile.TemporaryDirectory() as temporary:
        Path(temporary, "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
        Path(temporary, "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]), encoding="utf8")
        Path(temporary, "tokenizer_config.json").write_text(json.dumps({
            "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True, "bos_token": _START,
            "eos_token": _END, "unk_token": _END, **padding}))
        return CLIPTokenizer.from_pretrained(temporary)


def _tokenizer_folder(config: Path | None) -> Path | None:
    for folder in () if config is None else (config / "tokenizer", config):
        if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            return folder
    return None


def _merges(config: Path | None) -> Path | None:
    """CLIP's vocabulary, as its makers have published it."""
    places = [] if config is None else [config, config / _MERGES]
    for package in _PACKAGES:
        spec = importlib.util.find_spec(package)
        places += [Path(folder, _MERGES) for folder in (spec.submodule_search_locations or [])] if spec else []
    return next((place for place in places if place.name == _MERGES and place.is_file()), None)


def _byte_tokens() -> list[str]:
    """CLIP's first tokens: a printable character for each byte, as in GPT-2, then each as the end of a word."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [*map(chr, printable), *(chr(_BYTES + index) for index in range(_BYTES - len(printable)))]
    return [*letters, *(letter + "</w>" for letter in letters)]
