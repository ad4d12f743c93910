"""What Forge, reForge and Forge Neo alone have: their own extensions, and what is refused there. The other files' tests
run in them, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.webui.host import (
    CHECKPOINTS,
    REPOSITORY,
    ApiError,
    WebUI,
    clean_environment,
    distance,
    forge_is_tested,
    neo_is_tested,
    python_of,
    reforge_is_tested,
    run,
)
from tests.webui.networks import sd15_unet
from tests.webui.test_api import (
    LEFT,
    PROMPT,
    RIGHT,
    SAMPLERS,
    assert_close,
    assert_is_plain,
    concept,
    omg,
    png,
    request,
)
from tests.webui.test_ways import HIRES, UNGUIDED

pytestmark = [pytest.mark.webui, pytest.mark.host, pytest.mark.usefixtures("nothing_left"),
              pytest.mark.skipif(not forge_is_tested(), reason="no Forge: set OMG_FORGE to its folder")]

WAYS = ("separate", "shared", "joint")
FREEU, THRESHOLD, SHRINK, SAG, PAG, ALIGN, TILES = (
    "FreeU Integrated (SD 1.x, SD 2.x, SDXL)", "DynamicThresholding (CFG-Fix) Integrated", "Kohya HRFix Integrated",
    "SelfAttentionGuidance Integrated (SD 1.x, SD 2.x, SDXL)", "PerturbedAttentionGuidance Integrated",
    "StyleAlign Integrated", "MultiDiffusion Integrated")
ACTIVE: dict[str, list[Any]] = {
    FREEU: [True, 1.3, 1.4, 0.9, 0.2, 0, 1], THRESHOLD: [True, 3, 0.9, "Constant", 0, "Constant", 0, 1, "enable",
                                                         "MEAN", "AD", 1],
    SHRINK: [True, 3, 2, 0, 0.5, True, "bicubic", "bicubic"], SAG: [True, 0.5, 2, 1], PAG: [True, 3, 0, 0, 1],
    ALIGN: [True, 1], TILES: [True, "MultiDiffusion", 64, 64, 32, 4]}
IN_REFORGE: dict[str, list[Any]] = {
    **ACTIVE, FREEU: ACTIVE[FREEU][:5], THRESHOLD: [True, False, *ACTIVE[THRESHOLD][1:]], SAG: ACTIVE[SAG][:3],
    TILES: [*ACTIVE[TILES], "random"]}
MORE_SAMPLERS = ("Euler CFG++", "Euler a CFG++", "DPM++ 2M CFG++", "DPM++ 2s a RF", "ER SDE", "Kohaku LoNyu Yog",
                 "Res Multistep")
"""Of Forge Neo"""
REFINER = {"refiner_checkpoint": "tiny-sdxl-v", "refiner_switch_at": 0.5}
REFORGES_OWN = pytest.mark.skipif(not reforge_is_tested(), reason="reForge's own")
NEOS_OWN = pytest.mark.skipif(not neo_is_tested(), reason="Forge Neo's own")
FORGES_OWN = pytest.mark.skipif(reforge_is_tested() or neo_is_tested(), reason="Forge's own")
NOT_IN_FORGE = pytest.mark.skipif(not (reforge_is_tested() or neo_is_tested()), reason="not in Forge")
NOT_IN_REFORGE = pytest.mark.skipif(reforge_is_tested(), reason="not in reForge")
NOT_IN_NEO = pytest.mark.skipif(neo_is_tested(), reason="Forge Neo has no such script")


def with_scripts(webui: WebUI, data: Any, scripts: dict[str, Any], **payload: Any) -> Any:
    """A picture beside other scripts of Forge; without OMG if ``data`` is None."""
    own = {} if data is None else {"OMG": {"args": [data]}}
    # reForge's titles do not say for which models they are
    others = {name.partition(" (SD ")[0] if webui.is_reforge else name: {"args": args}
              for name, args in scripts.items()}
    return webui.txt2img(alwayson_scripts={**own, **others}, **payload)


def active(webui: WebUI, script: str) -> list[Any]:
    """What such a script takes to be on."""
    return (IN_REFORGE if webui.is_reforge else ACTIVE)[script]


@NOT_IN_NEO
@pytest.mark.parametrize("script", [FREEU, THRESHOLD, SHRINK])
@pytest.mark.parametrize("way", WAYS)
def test_its_extensions_act_on_concepts_as_on_the_picture(webui: WebUI, script: str, way: str) -> None:
    """*everywhere is plain*, in a batch of which one picture has no concept."""
    acting, payload = {script: active(webui, script)}, {"steps": 5, "batch_size": 2}
    plain = with_scripts(webui, None, acting, prompt=PROMPT, **payload)
    made = with_scripts(webui, request(concept(PROMPT, cfg_scale=5), predict=way), acting, **payload)
    for ours, theirs in zip(made.images, plain.images, strict=True):
        assert_close(ours, theirs)
    assert distance(plain.image, webui.txt2img(prompt=PROMPT, **payload).image) > 1


@NOT_IN_NEO
@pytest.mark.parametrize(("script", "reason"), [
    (SAG, "self-attention"), pytest.param(PAG, "guidance of its own", marks=FORGES_OWN),
    pytest.param(ALIGN, "self-attention", marks=FORGES_OWN), (TILES, "tiles")])
def test_what_does_not_reach_the_concepts_is_refused(webui: WebUI, script: str, reason: str) -> None:
    with pytest.raises(ApiError, match=reason) as caught:
        with_scripts(webui, request(concept(PROMPT)), {script: active(webui, script)}, steps=3, batch_size=2)
    assert caught.value.status == 422


@pytest.mark.parametrize(("fields", "payload", "named"), [
    ({"prompt": f"{PROMPT} <lora:sdxl-lora:1:1:2>"}, {}, r"concepts\[0\].prompt: .*rank of 2 \(dyn\)"),
    pytest.param({"prompt": f"{PROMPT} <lora:sdxl-oft:1>"}, {},
                 r"concepts\[0\].prompt: .*sdxl-oft has key names .* no OFT", marks=FORGES_OWN),
    pytest.param({"prompt": f"{PROMPT} <lora:sdxl-lokr-cp:1>"}, {}, r"concepts\[0\].prompt: Forge.* cannot merge",
                 marks=NOT_IN_REFORGE),
    ({"prompt": f"{PROMPT} <lora:sdxl-lora:1:lbw=OUTALL>"}, {}, r"concepts\[0\].prompt: .*lbw"),
    pytest.param({"face": png(np.full((64, 64, 3), 99, np.uint8))}, {}, r"concepts\[0\].face: .*not drawn in reForge",
                 marks=REFORGES_OWN),
    pytest.param({}, REFINER, "refiner: .* model that a refiner takes over from", marks=NOT_IN_FORGE)])
def test_wishes_that_forge_cannot_have_are_refused(webui: WebUI, fields: dict[str, Any], payload: dict[str, Any],
                                                   named: str) -> None:
    with pytest.raises(ApiError, match=named) as caught:
        omg(webui, request({**concept(PROMPT), **fields}), steps=2, **payload)
    assert caught.value.status == 422


@NEOS_OWN
@pytest.mark.parametrize("sampler", MORE_SAMPLERS)
@pytest.mark.parametrize("way", WAYS)
def test_more_samplers(webui: WebUI, sampler: str, way: str) -> None:
    """*everywhere is plain*, also with those that step along what guidance starts from (CFG++)."""
    plain = webui.txt2img(prompt=PROMPT, sampler_name=sampler).image
    assert_close(omg(webui, request(concept(PROMPT, cfg_scale=5), predict=way), sampler_name=sampler).image, plain)


@NEOS_OWN
def test_all_its_samplers_are_tested(webui: WebUI) -> None:
    names = {sampler["name"] for sampler in webui.get("/sdapi/v1/samplers")}
    assert names - {*SAMPLERS} == {*MORE_SAMPLERS}


@NEOS_OWN
@pytest.mark.parametrize("way", WAYS)
def test_its_scaling_of_predicted_noise_acts_on_concepts(webui: WebUI, way: str) -> None:
    payload: dict[str, Any] = {"override_settings": {"scaling_factor": 1.05}, "steps": 5}
    plain = webui.txt2img(prompt=PROMPT, **payload).image
    assert_close(omg(webui, request(concept(PROMPT, cfg_scale=5), predict=way), **payload).image, plain)
    assert distance(plain, webui.txt2img(prompt=PROMPT, steps=5).image) > 1


@NEOS_OWN
def test_a_unet_that_it_compiles_is_refused(webui: WebUI) -> None:
    script = next(name for name in webui.get("/sdapi/v1/scripts")["txt2img"] if "torch" in name)
    try:
        for preset in ("dynamic", "reduce-overhead"):  # going from one to the next it forgets to say so
            with pytest.raises(ApiError, match=r"checkpoint: .*compiled") as caught:
                with_scripts(webui, request(concept(PROMPT)), {script: [preset]}, steps=2)
            assert caught.value.status == 422
    finally:
        webui.set_checkpoint(CHECKPOINTS[1])  # the other stays compiled
    webui.set_checkpoint(CHECKPOINTS[0])
    omg(webui, request(concept(PROMPT)), steps=2)


def test_files_with_diffusers_keys(webui: WebUI) -> None:
    """They are read there, unlike in the web UI: *everywhere is plain*."""
    webui.set_checkpoint(CHECKPOINTS[2])
    folder = webui.data_dir / "models" / "Lora"
    kohyas, layers = load_file(folder / "sd15-lora.safetensors"), {name.replace(".", "_"): name for name in sd15_unet()}
    state: dict[str, Any] = {}
    for key, value in kohyas.items():
        layer, _, weight = key.removeprefix("lora_unet_").partition(".")
        if layer in layers and weight != "alpha":  # as its processors were saved before PEFT
            name = layers[layer].replace(".to_", ".processor.to_").removesuffix(".0" if "to_out" in layer else " ")
            state[f"unet.{name}_{weight.replace('_', '.')}"] = value
    file = folder / "of-diffusers.safetensors"
    save_file(state, file)
    try:
        webui.post("/sdapi/v1/refresh-loras")
        assert_is_plain(webui, f"{PROMPT} <lora:{file.stem}:1>", ways=WAYS, **UNGUIDED)
    finally:
        file.unlink()
        webui.post("/sdapi/v1/refresh-loras")


@pytest.mark.parametrize("family", ["another family", "compiled", pytest.param("flow", marks=NOT_IN_REFORGE)])
def test_models_without_a_unet_that_is_known_are_refused(webui: WebUI, family: str) -> None:
    webui.doubles(family)
    with pytest.raises(ApiError, match="checkpoint: ") as caught:
        omg(webui, request(concept(PROMPT)), steps=2)
    assert caught.value.status == 422


@pytest.mark.parametrize("payload", [
    {"s_min_uncond": 4}, {"s_min_uncond": 4, "override_settings": {"s_min_uncond_all": True}},
    {"override_settings": {"skip_early_cond": 0.4}}], ids=str)
@pytest.mark.parametrize("sampler", ["Euler a", pytest.param("Euler a CFG++", marks=NEOS_OWN)])
def test_steps_without_guidance(webui: WebUI, sampler: str, payload: dict[str, Any]) -> None:
    payload = {**payload, "sampler_name": sampler, "steps": 4}
    plain = webui.txt2img(prompt=PROMPT, **payload).image
    for way in WAYS:
        assert_close(omg(webui, request(concept(PROMPT, cfg_scale=5), predict=way), **payload).image, plain)


@pytest.mark.parametrize("way", WAYS)
def test_what_guidance_was_made_of_is_the_concepts_too(webui: WebUI, way: str) -> None:
    """*everywhere is plain*, with what reads it afterwards."""
    plain = webui.txt2img(prompt=PROMPT, steps=4).image
    webui.doubles("weighs")
    weighed = webui.txt2img(prompt=PROMPT, steps=4).image
    assert_close(omg(webui, request(concept(PROMPT, cfg_scale=5), predict=way), steps=4).image, weighed)
    assert distance(plain, weighed) > 1


def test_what_changes_prompts_is_refused(webui: WebUI) -> None:
    webui.doubles("other texts")
    with pytest.raises(ApiError, match="changes what the prompts say") as caught:
        omg(webui, request(concept(PROMPT)), steps=2)
    assert caught.value.status == 422


@NOT_IN_REFORGE
def test_keys_that_are_not_read_are_told(webui: WebUI) -> None:
    folder = webui.data_dir / "models" / "Lora"
    state = load_file(folder / "sdxl-lora.safetensors")
    file = folder / "more.safetensors"
    save_file({**state, "lora_unet_something_else.lora_up.weight": torch.zeros(2, 2)}, file)
    try:
        webui.post("/sdapi/v1/refresh-loras")
        made = omg(webui, request(concept(f"{PROMPT} <lora:more:1>")), steps=3)
        assert any("1 keys are not read, such as 'lora_unet_something_else" in each for each in made.comments)
        assert_close(made.image, omg(webui, request(concept(f"{PROMPT} <lora:sdxl-lora:1>")), steps=3).image)
    finally:
        file.unlink()
        webui.post("/sdapi/v1/refresh-loras")


@pytest.mark.parametrize("way", WAYS)
def test_a_concept_is_guided_where_the_picture_is_not(webui: WebUI, way: str) -> None:
    """At a scale of 1 Forge evaluates no unconditional rows."""
    plain = webui.txt2img(prompt=PROMPT, steps=4, cfg_scale=5).image
    assert_close(omg(webui, request(concept(PROMPT, cfg_scale=5), predict=way), steps=4, cfg_scale=1).image, plain)


# --- one model at a time ---

@pytest.mark.parametrize(("data", "payload"), [
    ({"preview": True}, {}), ({"predict": "joint", "layout": {"cross": 1, "self": 0.5}}, {"n_iter": 2}), ({}, HIRES),
    pytest.param({"show": ["first_pass"]}, REFINER, marks=FORGES_OWN)], ids=str)
def test_no_model_remains_that_forge_has_let_go(webui: WebUI, data: dict[str, Any], payload: dict[str, Any]) -> None:
    """*nothing remains*: what is kept for the next press does not hold the model."""
    networks = "<lora:sdxl-lora:1>", "<lora:sdxl-full:1>"

    def others() -> int:
        webui.set_checkpoint(CHECKPOINTS[2])
        webui.txt2img(steps=1)
        tensors: int = webui.tensors()["bytes"]
        return tensors

    webui.txt2img(prompt=" ".join(networks), steps=1)  # Forge keeps the last files
    before = others()
    webui.set_checkpoint(CHECKPOINTS[0])
    omg(webui, request(concept(f"a man {networks[0]}", LEFT), concept(f"a dog {networks[1]}", RIGHT),
                       **{"blend_start": 0.3, **data}), steps=4, **payload)
    assert others() < 1.05 * before


# --- weights in few bits ---

@pytest.fixture
def few_bits(webui: WebUI, request: pytest.FixtureRequest) -> Iterator[str]:
    """The UNet's weights are kept so, and computed with in float32. Forge asks for it as it loads a checkpoint."""
    def load(kind: str) -> None:
        webui.options(forge_unet_storage_dtype=kind)
        for name in CHECKPOINTS[1], CHECKPOINTS[0]:
            webui.set_checkpoint(name)

    load(request.param)
    yield request.param
    load("Automatic")


def assert_networks_are_plain(webui: WebUI) -> None:
    """*everywhere is plain*, in the UNet, of one network of each kind and in every way to draw it."""
    without = webui.txt2img(prompt=PROMPT, **UNGUIDED).image
    for kind in ("lora", "locon", "loha", "dora", "full", "norm"):
        prompt = f"{PROMPT} <lora:sdxl-{kind}:0:1>"
        plain = webui.txt2img(prompt=prompt, **UNGUIDED).image
        assert distance(plain, without) > 1
        for way in WAYS:
            assert_close(omg(webui, request(concept(prompt), predict=way), **UNGUIDED).image, plain)


@NOT_IN_REFORGE
@pytest.mark.parametrize("few_bits", ["float8-e4m3fn (fp16 LoRA)", "float8-e5m2 (fp16 LoRA)"], indirect=True)
def test_concepts_on_weights_in_few_bits(webui: WebUI, few_bits: str) -> None:
    """*everywhere is plain*: Forge adds networks of the main prompt to weights as it computes with them, and so do
    concepts', in every way to draw them."""
    assert_networks_are_plain(webui)


@NOT_IN_REFORGE
@pytest.mark.parametrize("few_bits", ["float8-e4m3fn"], indirect=True)
def test_concepts_beside_networks_that_are_rounded_to_few_bits(webui: WebUI, few_bits: str) -> None:
    """Forge rounds what it merges into weights (Neo at random), but not what concepts add to them: the same but for
    that."""
    prompt = f"{PROMPT} <lora:sdxl-lora:1>"
    plain, without = (webui.txt2img(prompt=text, steps=4).image for text in (prompt, PROMPT))
    made = omg(webui, request(concept(prompt)), steps=4)
    assert distance(made.image, plain) < (0.5 if webui.is_neo else 0.3) * distance(without, plain)


@pytest.fixture
def quantised(webui: WebUI, installation: Path) -> Iterator[str]:
    """The checkpoint of a UNet in GGUF."""
    models = webui.data_dir / "models" / "Stable-diffusion"
    file = models / "tiny-sdxl-q8.gguf"
    run([python_of(installation), "-m", "tests.webui.gguf_unet", installation, models / f"{CHECKPOINTS[0]}.safetensors",
         file], clean_environment(), cwd=REPOSITORY)
    webui.post("/sdapi/v1/refresh-checkpoints")
    webui.set_checkpoint(file.stem)
    yield file.stem
    webui.set_checkpoint(CHECKPOINTS[0])
    file.unlink()
    webui.post("/sdapi/v1/refresh-checkpoints")


@NEOS_OWN
def test_concepts_on_gguf(webui: WebUI, quantised: str) -> None:
    """*everywhere is plain*: of layers that are not torch's, whose weights have another shape than they say. (Forge
    itself fails on a UNet of SDXL in GGUF.)"""
    assert_networks_are_plain(webui)


# --- its ControlNet ---

def unit(webui: WebUI, model: str, **fields: Any) -> dict[str, Any]:
    """A unit with a map that shows, and one of the control models by the beginning of its name."""
    hint = np.zeros((128, 128, 3), np.uint8)
    hint[32:96, 32:96] = 255
    known = webui.get("/controlnet/model_list")["model_list"]
    name = next(each for each in known if each.partition(" ")[0] == model)
    return {"enabled": True, "model": name, "module": "None", "image": png(hint), "weight": 1.0, **fields}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("model", "fields"), [
    ("sdxl-cn", {}), ("sdxl-cn", {"control_mode": "ControlNet is more important"}), ("sdxl-t2i", {})])
def test_controlnet_acts_on_concepts(webui: WebUI, model: str, fields: dict[str, Any], way: str) -> None:
    acting = {"ControlNet": [unit(webui, model, **fields)]}
    # what a ControlNet reads of the prompt is, in a joint row, the main prompt
    background = PROMPT if way == "joint" else "a photo of a man and a woman"
    plain = with_scripts(webui, None, acting, prompt=PROMPT, steps=5).image
    data = request(concept(PROMPT, cfg_scale=5), predict=way)
    assert_close(with_scripts(webui, data, acting, prompt=background, steps=5).image, plain)
    assert distance(plain, webui.txt2img(prompt=PROMPT, steps=5).image) > 2


def test_concepts_may_be_free_of_controlnet(webui: WebUI) -> None:
    acting = {"ControlNet": [unit(webui, "sdxl-cn")]}
    free = with_scripts(webui, request(concept(PROMPT, cfg_scale=5), control_concepts=False), acting, steps=5)
    assert_close(free.image, webui.txt2img(prompt=PROMPT, steps=5).image)


def test_both_passes_with_controlnet_and_hires(webui: WebUI) -> None:
    acting = {"ControlNet": [unit(webui, "sdxl-cn")]}
    empty = {"concepts": [concept("a red car")], "blend_start": 1}
    plain = with_scripts(webui, None, acting, steps=4, **HIRES)
    np.testing.assert_array_equal(with_scripts(webui, empty, acting, steps=4, **HIRES).image, plain.image)
    data = request(concept("a man <lora:sdxl-lora:1>", LEFT), concept("a dog <lora:sdxl-locon:1>", RIGHT),
                   blend_start=0.3, layout={"cross": 1, "self": 0.4}, predict="joint")
    assert distance(with_scripts(webui, data, acting, steps=6, **HIRES).image, plain.image) > 2
