"""What the tests on the diffusers host share: tiny pipelines, LoRA files, literal merging, and what is left behind."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import Tensor, nn

from omg_ext.comprehension.masks import encode_mask
from omg_ext.diffusers import FaceModels, OMGOutput, OMGPipeline
from omg_ext.diffusers.concepts import Loader
from omg_ext.diffusers.host import DiffusersHost
from omg_ext.diffusers.loras import LoraFiles
from omg_ext.diffusers.prompts import encode, time_ids
from omg_ext.faces.concepts import ConceptFaces
from omg_ext.request import parse_request
from omg_ext.unet.regions import Regions
from tests.models.tiny import tiny_sd15, tiny_sdxl
from tests.webui.networks import RANK, State, make_network, save

# on models of this size threads only get in each other's way
torch.set_num_threads(1)

SIZE = 96
LATENT = SIZE // 8
ROUNDING = 2e-4
PROMPT = "a man and a woman in the park"
TEXT_ENCODERS = {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2"}
KEY_FORMATS = ("kohya", "diffusers", "peft")
_SGM_PARTS = (("downsamplers.0.conv", "op"), ("upsamplers.0.conv", "conv"), ("conv1", "in_layers.2"),
              ("conv2", "out_layers.3"), ("time_emb_proj", "emb_layers.1"), ("conv_shortcut", "skip_connection"))


@functools.cache
def pipeline(kind: str = "sdxl", prediction_type: str = "epsilon") -> Any:
    """A tiny pipeline, one for all tests, whose attention is peaked and counts: as initialised it is flat and weak."""
    pipe = (tiny_sdxl(depth=(1, 1, 1), prediction_type=prediction_type) if kind == "sdxl"
            else tiny_sd15(prediction_type=prediction_type))
    with torch.no_grad():
        for name, layer in pipe.unet.named_modules():
            if name.endswith(("to_q", "to_k", "attn2.to_v", "to_out.0")):
                layer.weight.mul_(3 if kind == "sdxl" else 1.5)  # beyond, the small model amplifies rounding
    pipe.set_progress_bar_config(disable=True)
    # transformers puts hooks of its own on the text encoders when they are first used
    pipe.encode_prompt(PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    return pipe


def with_scheduler(pipe: Any, scheduler: Any, **options: Any) -> Any:
    """The same models with another scheduler."""
    other = type(pipe)(**{**pipe.components, "scheduler": scheduler.from_config(pipe.scheduler.config, **options)},
                       **({"add_watermarker": False} if hasattr(pipe, "text_encoder_2")
                          else {"requires_safety_checker": False}))
    other.set_progress_bar_config(disable=True)
    return other


def generate(pipe: Any, request: dict[str, Any], prompt: str | None = PROMPT, *, loras: Any = None,
             budgets: tuple[int, int] = (2 << 30, 8 << 30), rows_per_call: int = 0, faces: FaceModels | None = None,
             **options: Any) -> OMGOutput:
    """Both passes, small and short unless ``options`` say otherwise, to latents; in the paper's way, too."""
    omg = OMGPipeline(pipe, loras, device_budget=budgets[0], host_budget=budgets[1], rows_per_call=rows_per_call,
                      faces=faces)
    return omg(as_in_paper(request), prompt,
               **{"height": SIZE, "width": SIZE, "steps": 3, "output_type": "latent", **options})


def as_in_paper(request: Any) -> Any:
    """The request with the paper's way to predict the concepts, if it names none."""
    return {"predict": "separate", **request} if isinstance(request, dict) else request


def host_of(pipe: Any, request: dict[str, Any], *, loras: Any = None, batch_size: int = 1, steps: int = 3,
            cfg_scale: float = 7.5, seed: int = 0) -> DiffusersHost:
    """What :func:`generate` makes of the pipeline for the two passes."""
    with torch.no_grad():
        embeds = encode(pipe, PROMPT, None, {})
    size = (SIZE, SIZE)
    generators = [torch.Generator().manual_seed(seed + index) for index in range(batch_size)]
    noise = torch.cat([torch.randn(1, 4, LATENT, LATENT, generator=generator) for generator in generators])
    parsed = parse_request(as_in_paper(request))
    faces = ConceptFaces(None, pipe.unet, parsed.concepts, {}, steps)
    loader = Loader(pipe, LoraFiles(loras), parsed, size, None, {}, (), {}, faces)
    return DiffusersHost(pipe, loader, PROMPT, embeds.conditioning(batch_size, time_ids(*size, embeds)), {}, steps, 0.0,
                         cfg_scale, generators, noise, size)


def plain(pipe: Any, prompt: str | None = PROMPT, *, steps: int = 3, seed: int = 0, cfg_scale: float = 7.5,
          **options: Any) -> Tensor:
    """The latents of an ordinary diffusers call."""
    return pipe(prompt, height=SIZE, width=SIZE, num_inference_steps=steps, guidance_scale=cfg_scale,
                generator=torch.Generator().manual_seed(seed), output_type="latent", **options).images


def left_and_right(**second: Any) -> list[dict[str, Any]]:
    """Two concepts without networks that share the picture with some background left."""
    return [{"prompt": "old man", "where": {"box": [0, 0, 0.45, 1]}},
            {"prompt": "young woman", "where": {"box": [0.55, 0.1, 1, 0.9]}, **second}]


def two_concepts(**options: Any) -> dict[str, Any]:
    """Two LoRA concepts from the first step on, with layout."""
    first, second = left_and_right()
    return {"concepts": [{**first, "prompt": "old man<lora:one>"}, {**second, "prompt": "young woman<lora:two:0.8>"}],
            "blend_start": 0, **options}


def everywhere(prompt: str, **options: Any) -> dict[str, Any]:
    """One concept, mask all ones, blend start 0, layout off: a plain picture of that prompt (invariant 3)."""
    return {"concepts": [{"prompt": prompt, "where": {"box": [0, 0, 1, 1]}, **options}], "blend_start": 0,
            "layout": {"cross": 0, "self": 0}, "mask": {"grow": 0, "feather": 0}}


def mask_text(mask: Tensor | np.ndarray) -> str:
    """A mask [H, W] as a request takes it."""
    return encode_mask(np.asarray(mask, dtype=np.float32))


def difference(result: Tensor, expected: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((result - expected).abs().max() / expected.abs().max())


# --- LoRA files ---

def write_lora(pipe: Any, path: Path, keys: str = "kohya", kind: str = "lora", seed: int = 0, only: str = "") -> Path:
    """A random LoRA for the UNet and all text encoders, made by LyCORIS, with the keys of one of :data:`KEY_FORMATS`.

    The weights depend on ``kind`` and ``seed`` alone; ``only`` is a pattern of the layers that are kept. Kohya names
    SDXL's blocks as its original code does.
    """
    state = {key: value for key, value in make_network(_models(pipe), kind, seed).items() if re.search(only, key)}
    is_xl = hasattr(pipe, "text_encoder_2")
    if keys == "kohya":
        save(state, path, "sdxl_base_v1-0" if is_xl else "sd_v1")
    else:
        _save_with_diffusers(pipe, state, path, keys)
    return path


def small_loras(folder: Path) -> Path:
    """LoRAs for the tiny SDXL pipeline: ``one``, ``two`` and ``style``; small, since each run reads them."""
    for seed, name in enumerate(("one", "two", "style")):
        write_lora(pipeline(), folder / f"{name}.safetensors", seed=seed, only="attn2|attn1_to_q|te._.*self_attn")
    return folder


def _models(pipe: Any) -> dict[str, dict[str, nn.Module]]:
    """The layers that networks train, by the prefixes and names of kohya's keys."""
    is_xl = hasattr(pipe, "text_encoder_2")
    kinds = (nn.Linear, nn.Conv2d)
    models: dict[str, dict[str, nn.Module]] = {"lora_unet": {_sgm_name(name) if is_xl else name: layer
                            for name, layer in pipe.unet.named_modules() if isinstance(layer, kinds)}}
    for part in ("te1", "te2") if is_xl else ("te",):
        # files name the layers as older versions of transformers did
        models[f"lora_{part}"] = {f"text_model.{name.removeprefix('text_model.')}": layer
                                  for name, layer in getattr(pipe, TEXT_ENCODERS[part]).named_modules()
                                  if isinstance(layer, kinds) and "encoder.layers" in name}
    return models


def _sgm_name(name: str) -> str:
    """SDXL's original name of a layer within the UNet's blocks."""
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.", name)
    if match:
        side, block, part, index = match[1], int(match[2]), match[3], int(match[4])
        index = {"downsamplers": 2, "upsamplers": 2}.get(part, index)
        number = 3 * block + index + (side == "down")
        place = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 2}[part]
        rest = part + ".0." + name[match.end():] if part.endswith("samplers") else name[match.end():]
        name = f"{'input' if side == 'down' else 'output'}_blocks.{number}.{place}.{rest}"
    name = name.replace("mid_block.resnets.0", "middle_block.0").replace("mid_block.resnets.1", "middle_block.2")
    name = name.replace("mid_block.attentions.0", "middle_block.1")
    for ours, theirs in _SGM_PARTS:
        name = name.replace(ours, theirs)
    return name


class Factors(NamedTuple):
    """One layer of a LoRA: ``dW = scale * up @ down``."""

    layer: Any
    down: Tensor
    up: Tensor
    scale: float


def factors(pipe: Any, state: State) -> dict[str, dict[str, Factors]]:
    """Kohya's weights by part of the pipeline and by the layer's name there."""
    found: dict[str, dict[str, Factors]] = {}
    for prefix, layers in _models(pipe).items():
        part = "unet" if prefix == "lora_unet" else TEXT_ENCODERS[prefix.removeprefix("lora_")]
        names = {id(layer): name for name, layer in getattr(pipe, part).named_modules()}
        for name, layer in layers.items():
            key = f"{prefix}_{name}".replace(".", "_")
            if f"{key}.alpha" in state:
                down, up = state[f"{key}.lora_down.weight"], state[f"{key}.lora_up.weight"]
                found.setdefault(part, {})[names[id(layer)]] = Factors(layer, down, up,
                                                                        float(state[f"{key}.alpha"]) / len(down))
    return found


@contextmanager
def merged(pipe: Any, path: Path, te: float = 1.0, unet: float = 1.0, dyn: int | None = None) -> Iterator[None]:
    """Within the block a kohya file is merged the plain way: W + multiplier * alpha / r * up @ down."""
    changes = []
    for part, layers in factors(pipe, load_file(path)).items():
        multiplier = unet if part == "unet" else te
        for layer, down, up, scale in layers.values():
            change = up[:, :dyn].flatten(1) @ down[:dyn].flatten(1)
            changes.append((layer.weight, multiplier * scale * change.reshape(layer.weight.shape)))
    before = [weight.detach().clone() for weight, _ in changes]
    with torch.no_grad():
        for weight, change in changes:
            weight += change
        try:
            yield
        finally:
            for (weight, _), value in zip(changes, before, strict=True):
                weight.copy_(value)


@torch.no_grad()
def _save_with_diffusers(pipe: Any, state: State, path: Path, keys: str) -> None:
    """The same network as PEFT adapters, saved by diffusers in its older or in PEFT's naming."""
    weights, metadata = {}, {}
    for part, layers in factors(pipe, state).items():
        model = getattr(pipe, part)
        alpha = next(iter(layers.values())).scale * RANK
        config = LoraConfig(r=RANK, lora_alpha=alpha, target_modules=list(layers))
        model.add_adapter(config, "saved")
        for name, layer in layers.items():
            adapter = model.get_submodule(name)
            adapter.lora_A["saved"].weight.copy_(layer.down)
            adapter.lora_B["saved"].weight.copy_(layer.up)
        saved = {name: value.clone() for name, value in get_peft_model_state_dict(model, adapter_name="saved").items()}
        if keys == "diffusers":  # this naming has no place for alpha
            saved = {name: value * (alpha / RANK if "lora_B" in name else 1) for name, value in saved.items()}
            saved = convert_state_dict_to_diffusers(saved)
        else:
            metadata[f"{part}_lora_adapter_metadata"] = config.to_dict()
        weights[f"{part}_lora_layers"] = saved
    pipe.unload_lora_weights()
    pipe.save_lora_weights(str(path.parent), weight_name=path.name, **weights, **metadata)


# --- what is left behind ---

def models_of(pipe: Any) -> list[nn.Module]:
    """The UNet and the text encoders."""
    return [getattr(pipe, part) for part in ("unet", "text_encoder", "text_encoder_2") if hasattr(pipe, part)]


def snapshot(pipe: Any) -> list[tuple[nn.Module, int, int, int]]:
    """Every submodule and how many hooks it has."""
    return [(module, len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks))
            for model in models_of(pipe) for module in model.modules()]


def assert_untouched(pipe: Any, before: Sequence[Any]) -> None:
    """The models are as they were when ``before`` was taken, and no method of theirs is replaced."""
    assert snapshot(pipe) == list(before)
    for module, *_ in before:
        assert not isinstance(module, LoraLayer)
        assert "forward" not in vars(module)
        assert "peft_config" not in vars(module)


def given_regions(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """A list to which the weights are added that regions are made of."""
    given: list[Tensor] = []
    make = Regions.__init__

    def keep(regions: Regions, weights: Tensor) -> None:
        given.append(weights)
        make(regions, weights)

    monkeypatch.setattr(Regions, "__init__", keep)
    return given
