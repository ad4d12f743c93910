"""Beside the real sd-webui-controlnet, if it is there: its units act on concepts as on the picture, or are refused.

The yardstick is *everywhere is plain*: one concept everywhere, drawn with a unit, is the plain picture of the concept's
prompt with that unit. What does not reach the concept's rows shows in tens of grey levels.
"""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.webui.browser import (
    PLACES,
    PROMPTS,
    ask_for_a_small_picture,
    browsing,
    choose,
    fill_concepts,
    generate,
    load,
    open_accordion,
    picture,
)
from tests.webui.controls import image_prompt, write_controls
from tests.webui.host import (
    DEFAULTS,
    ApiError,
    Result,
    WebUI,
    distance,
    find_extension,
    install_extension,
    make_data_dir,
)
from tests.webui.networks import write_networks
from tests.webui.test_api import LEFT, PROMPT, RIGHT, assert_close, concept, request
from tests.webui.test_img2img import ONLY_MASKED, SQUARE

pytestmark = [pytest.mark.webui, pytest.mark.not_in_forge("its ControlNet is another one")]

EXTENSION = "sd-webui-controlnet"
# whose motion modules SparseCtrl has
FILMS = "sd-webui-animatediff"
WAYS = ("separate", "shared", "joint")
BACKGROUND = "a photo of a man and a woman"
# models by checkpoint, see controls.py
MODELS = [*(f"{name}-{kind}" for name in ("sd15", "sdxl") for kind in (
    "cn", "cn-diffusers", "t2i", "t2i-diffusers", "lllite")), "sd15-ip"]
# those that read no prompt, which is the main one in a joint row
PROMPTLESS = [model for model in MODELS if "-cn" not in model]
WITH_MODELS = ("sdxl-cn", "sdxl-t2i", "sdxl-lllite", "sd15-ip")
ONE_OF_EACH = (*WITH_MODELS, "sdxl-reference_only")
REFERENCES = ("sd15-reference_only", "sdxl-reference_adain", "sd15-reference_adain+attn")
STEPS = 4
HIRES: dict[str, Any] = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.7}


@pytest.fixture(scope="module")
def controlled(installation: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A web UI with a copy of the extension, which writes into its own folder."""
    extension = find_extension(EXTENSION)
    if extension is None:
        pytest.skip(f"no {EXTENSION}: put it into OMG_EXTENSIONS")
    folder = tmp_path_factory.mktemp("controlled")
    make_data_dir(folder, checkpoints)
    write_networks(checkpoints, folder / "models" / "Lora", ("lora", "loha"))
    install_extension(installation, folder)
    add_controlnet(extension, checkpoints, folder)
    films = find_extension(FILMS)
    if films is not None:
        shutil.copy(films / "motion_module.py", folder / "extensions" / "omg-test-support")
    with WebUI(installation, folder) as started:
        started.options(control_net_no_detectmap=True)
        for name in started.checkpoints():
            started.set_checkpoint(name)
        yield started
    shutil.rmtree(folder / "models")


def add_controlnet(extension: Path, checkpoints: Path, folder: Path) -> None:
    """Put a copy of the extension, and tiny models for it, into a data folder."""
    write_controls(checkpoints, folder / "models" / "ControlNet")
    narrow = "narrow.py"
    (folder / "extensions" / "omg-test-support" / "scripts" / narrow).symlink_to(Path(__file__).with_name(narrow))
    shutil.copytree(extension, folder / "extensions" / EXTENSION, ignore=shutil.ignore_patterns(".git"))


@cache
def drawn_map(seed: int = 0) -> str:
    """A picture to draw after, PNG in base64."""
    y, x = np.mgrid[:128, :128]
    pixels = np.stack([x // 16 % 2 * 255, y // 32 % 2 * 255, x + y], axis=2) if seed == 0 else np.random.default_rng(
        seed).integers(0, 255, (8, 8, 3)).repeat(16, 0).repeat(16, 1)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def unit(model: str, **fields: Any) -> dict[str, Any]:
    """A unit with a model of :mod:`tests.webui.controls`; fields of the extension's API may be given."""
    if model.endswith("-ip"):
        return {"enabled": True, "module": "ip-adapter_clip_h", "model": model, "ipadapter_input": [image_prompt(1)],
                **fields}
    module = model.partition("-")[2] if "reference" in model else "none"
    return {"enabled": True, "module": module, "model": "None" if "reference" in model else model,
            "image": drawn_map(), **fields}


def draw(webui: WebUI, units: Sequence[dict[str, Any]], data: Any = None, *, over: np.ndarray | None = None,
         **payload: Any) -> Result:
    """A picture with units, and with OMG if there is a request; perhaps drawn over one that is given."""
    scripts: dict[str, Any] = {"ControlNet": {"args": list(units)}}
    if data is not None:
        scripts["OMG"] = {"args": [data]}
    payload = {"steps": STEPS, "alwayson_scripts": scripts, **payload}
    return webui.txt2img(**payload) if over is None else webui.img2img(over, **payload)


def set_checkpoint_of(webui: WebUI, model: str) -> None:
    webui.set_checkpoint(f"tiny-{model.partition('-')[0]}")


def assert_is_plain(webui: WebUI, units: Sequence[dict[str, Any]], *, prompt: str = PROMPT,
                    background: str = BACKGROUND, ways: Sequence[str] = ("separate",), **payload: Any) -> None:
    """*everywhere is plain* with these units, which act on the picture."""
    plain = draw(webui, units, prompt=prompt, **payload)
    for way in ways:
        # the picture's scale throughout: some ways begin with more
        data = request(concept(prompt, cfg_scale=DEFAULTS["cfg_scale"]), predict=way)
        made = draw(webui, units, data, prompt=background, **payload)
        assert len(made.images) == len(plain.images)
        for ours, wanted in zip(made.images, plain.images, strict=True):
            assert_close(ours, wanted)
        assert made.comments == []
    without = draw(webui, [], prompt=prompt, **payload).image if "over" in payload else webui.other(
        **{"steps": STEPS, "prompt": prompt, **payload})
    assert distance(plain.image, without) > 0.5


# *everywhere is plain*

@pytest.mark.parametrize("model", [*MODELS, *REFERENCES])
def test_concept_everywhere_is_plain(controlled: WebUI, model: str) -> None:
    set_checkpoint_of(controlled, model)
    assert_is_plain(controlled, [unit(model)], ways=("separate", "shared"))


@pytest.mark.parametrize("payload", [{}, ONLY_MASKED], ids=["whole", "only masked"])
@pytest.mark.parametrize("model", ["sdxl-cn", "sdxl-t2i", "sd15-ip", "sdxl-reference_only"])
def test_concept_everywhere_is_plain_over_a_given_picture(controlled: WebUI, model: str,
                                                          payload: dict[str, Any]) -> None:
    set_checkpoint_of(controlled, model)
    # a unit's model draws random numbers as it is loaded, and then the autoencoder others
    draw(controlled, [unit(model)], over=SQUARE, steps=1)
    assert_is_plain(controlled, [unit(model)], over=SQUARE, **payload)


@pytest.mark.parametrize(("model", "network"), [
    *((model, "lora") for model in ONE_OF_EACH), ("sdxl-lllite", "loha"), ("sd15-lllite", "lora")])
def test_concept_everywhere_is_plain_with_its_network(controlled: WebUI, model: str, network: str) -> None:
    """A network acts on what its layer gets, and LLLite adds to that."""
    set_checkpoint_of(controlled, model)
    assert_is_plain(controlled, [unit(model)], prompt=f"{PROMPT} <lora:{model.partition('-')[0]}-{network}:1>")


@pytest.mark.parametrize("model", PROMPTLESS)
def test_concept_everywhere_is_plain_in_a_joint_row(controlled: WebUI, model: str) -> None:
    set_checkpoint_of(controlled, model)
    assert_is_plain(controlled, [unit(model)], ways=["joint"])


@pytest.mark.parametrize("model", [model for model in MODELS if model not in PROMPTLESS])
def test_controlnets_read_the_main_prompt_in_a_joint_row(controlled: WebUI, model: str) -> None:
    """So with the concept's prompt for the main one the picture is the plain one."""
    set_checkpoint_of(controlled, model)
    assert_is_plain(controlled, [unit(model)], background=PROMPT, ways=["joint"])


@pytest.mark.parametrize(("model", "network"), [
    ("sdxl-t2i", "lora"), ("sdxl-lllite", "lora"), ("sdxl-lllite", "loha"), ("sd15-ip", "lora")])
def test_joint_everywhere_is_shared(controlled: WebUI, model: str, network: str) -> None:
    """*joint everywhere is separate*: the same row with the same network."""
    set_checkpoint_of(controlled, model)
    prompt = f"{PROMPT} <lora:{model.partition('-')[0]}-{network}:1>"
    made = [draw(controlled, [unit(model)], request(concept(prompt), predict=way)).image for way in ("shared", "joint")]
    assert_close(*made)


SCHEDULE = {"weight": 0.6, "guidance_start": 0.3, "guidance_end": 0.7}
MODES = [{"control_mode": "My prompt is more important"}, {"control_mode": "ControlNet is more important"}]


@pytest.mark.parametrize(("model", "fields"), [
    *((model, SCHEDULE) for model in ONE_OF_EACH),
    *((model, mode) for model in ("sdxl-cn", "sd15-t2i") for mode in MODES),
    ("sdxl-cn", {"resize_mode": "Resize and Fill", "pixel_perfect": True})], ids=str)
def test_fields_of_a_unit_hold_for_concepts(controlled: WebUI, model: str, fields: dict[str, Any]) -> None:
    set_checkpoint_of(controlled, model)
    prompt = f"{PROMPT} <lora:{model.partition('-')[0]}-lora:1>"
    assert_is_plain(controlled, [unit(model, **fields)], prompt=prompt, steps=8)


ASKED: list[dict[str, Any]] = [{"batch_size": 2, "sampler_name": "DDIM"}, {"n_iter": 2, "sampler_name": "Euler a"}]
# in an unconditional call of its own the extension's IP-Adapter has the conditional image prompt: plain is wrong there
APART: list[dict[str, Any]] = [{"override_settings": {"batch_cond_uncond": False}},
                               {"width": 192, "negative_prompt": "blurry, " * 40}]


@pytest.mark.parametrize(("model", "payload"), [
    *((model, payload) for model in ONE_OF_EACH for payload in ASKED),
    *((model, payload) for model in ONE_OF_EACH if model != "sd15-ip" for payload in APART)], ids=str)
def test_concept_everywhere_is_plain_however_it_is_asked_for(controlled: WebUI, model: str,
                                                             payload: dict[str, Any]) -> None:
    set_checkpoint_of(controlled, model)
    prompt = f"{PROMPT} <lora:{model.partition('-')[0]}-lora:1>"
    assert_is_plain(controlled, [unit(model)], prompt=prompt, **payload)


@pytest.mark.parametrize(("model", "hr_option"), [
    *((model, "Both") for model in ONE_OF_EACH), ("sdxl-cn", "Low res only"), ("sdxl-cn", "High res only")])
def test_concept_everywhere_is_the_plain_hires_picture(controlled: WebUI, model: str, hr_option: str) -> None:
    set_checkpoint_of(controlled, model)
    prompt = f"{PROMPT} <lora:{model.partition('-')[0]}-lora:1>"
    assert_is_plain(controlled, [unit(model, hr_option=hr_option)], prompt=prompt, **HIRES)


@pytest.mark.parametrize("units", [
    [unit("sdxl-cn", weight=0.5), unit("sdxl-t2i", image=drawn_map(1), control_mode="ControlNet is more important")],
    [unit("sdxl-lllite", weight=0.5), unit("sdxl-lllite", weight=0.4, image=drawn_map(1), guidance_end=0.5)],
    [unit("sdxl-cn", weight=0.5), unit("sdxl-lllite", weight=0.5), unit("sdxl-t2i", weight=0.5)],
    [unit("sd15-ip", weight=0.5), unit("sd15-ip", weight=0.5, ipadapter_input=[image_prompt(2)]),
     unit("sd15-lllite", weight=0.5)],
], ids=lambda units: " ".join(each["model"] for each in units))
def test_several_units(controlled: WebUI, units: list[dict[str, Any]]) -> None:
    set_checkpoint_of(controlled, units[0]["model"])
    name = units[0]["model"].partition("-")[0]
    assert_is_plain(controlled, units, prompt=f"{PROMPT} <lora:{name}-lora:1>")
    assert_is_plain(controlled, units, ways=WAYS, background=PROMPT)


@pytest.mark.parametrize("module", ["tile_colorfix", "tile_colorfix+sharp", "inpaint_only"])
def test_preprocessors_that_act_on_the_prediction(controlled: WebUI, module: str) -> None:
    """They keep a picture for each row, too."""
    controlled.set_checkpoint("tiny-sd15")
    painted = {"image": {"image": drawn_map(), "mask": drawn_map(1)}} if module == "inpaint_only" else {}
    made = unit("sd15-cn", module=module, **painted)
    assert_is_plain(controlled, [made], ways=("separate", "shared"))
    data = {"concepts": [concept(PROMPT, LEFT), concept("a dog", RIGHT)], "blend_start": 0, "predict": "separate"}
    usual = draw(controlled, [made], data).image
    assert_close(draw(controlled, [made], data, override_settings={"omg_rows_per_call": 1}).image, usual)


@pytest.mark.parametrize("first_pass", ["whole", "prefix"])
def test_concepts_that_differ_beside_a_reference(controlled: WebUI, first_pass: str) -> None:
    """With more rows than the picture has, and fewer; *rows do not matter*."""
    controlled.set_checkpoint("tiny-sdxl")
    units = [unit("sdxl-reference_only")]
    data = {"concepts": [concept(f"{PROMPT} <lora:sdxl-lora:1>", LEFT), concept("a dog, " * 30, RIGHT)],
            "first_pass": first_pass, "predict": "separate", "blend_start": 0.2}
    usual = draw(controlled, units, data, steps=8)
    assert usual.comments == []
    again = draw(controlled, units, data, steps=8, override_settings={"omg_rows_per_call": 1})
    assert_close(again.image, usual.image)
    assert distance(usual.image, draw(controlled, [], data, steps=8).image) > 1


# concepts free of it

@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", [*ONE_OF_EACH, "sd15-cn"])
def test_concepts_that_are_free_of_it(controlled: WebUI, model: str, way: str) -> None:
    """The picture has it, and a concept everywhere is the plain picture without."""
    set_checkpoint_of(controlled, model)
    units = [unit(model, module="tile_colorfix") if model == "sd15-cn" else unit(model)]
    free = {**request(concept(PROMPT, cfg_scale=DEFAULTS["cfg_scale"])), "predict": way, "control_concepts": False}
    assert_close(draw(controlled, units, free).image, draw(controlled, [], prompt=PROMPT).image)
    beside = {**request(concept(PROMPT, {"box": [0, 0, 0.1, 0.1]})), "control_concepts": False}
    plain, made = draw(controlled, units).image, draw(controlled, units, beside).image
    assert distance(plain[64:, 64:], made[64:, 64:]) < distance(plain, draw(controlled, []).image) / 2


# a unit of weight 0, and none

@pytest.mark.parametrize("way", ["separate", "joint"])
@pytest.mark.parametrize("model", WITH_MODELS)
def test_unit_of_weight_zero_changes_nothing(controlled: WebUI, model: str, way: str) -> None:
    set_checkpoint_of(controlled, model)
    data = {"concepts": [concept(f"{PROMPT} <lora:{model.partition('-')[0]}-lora:1>", LEFT), concept("a dog", RIGHT)],
            "predict": way}
    without = draw(controlled, [], data).image
    made = draw(controlled, [unit(model, weight=0.0)], data).image
    if model == "sd15-ip":
        assert_close(made, without)  # the extension computes attention in another way than the web UI
    else:
        np.testing.assert_array_equal(made, without)


@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_omg_that_is_off_changes_nothing(controlled: WebUI, model: str) -> None:
    """*off is off*, before and after a run; *nothing remains*."""
    set_checkpoint_of(controlled, model)
    draw(controlled, [unit(model)])
    plain, patches = draw(controlled, [unit(model)]).image, controlled.patches()
    off = {"enabled": False, "concepts": [concept("a dog", LEFT)]}
    np.testing.assert_array_equal(draw(controlled, [unit(model)], off).image, plain)
    made = draw(controlled, [unit(model)], {"concepts": [concept("a dog", LEFT)], "blend_start": 0,
                                            "predict": "shared"})
    assert distance(made.image, plain) > 1
    np.testing.assert_array_equal(draw(controlled, [unit(model)]).image, plain)
    assert controlled.patches() == patches


# *empty second pass*, and what is kept of the first

@pytest.mark.parametrize("payload", [{}, {"batch_size": 2, "sampler_name": "Euler a"}, HIRES], ids=str)
@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_empty_second_pass_is_the_first(controlled: WebUI, model: str, payload: dict[str, Any]) -> None:
    set_checkpoint_of(controlled, model)
    units = [unit(model, guidance_end=0.4)]
    plain = draw(controlled, units, **payload)
    made = draw(controlled, units, {"concepts": [concept("a dog")], "blend_start": 1, "predict": "shared"},
                **payload)
    for ours, wanted in zip(made.images, plain.images, strict=True):
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize(("first_pass", "blend_start", "budget"), [
    ("whole", 0, None), ("whole", 0, 0), ("whole", 0.3, None), ("prefix", 0.3, None)])
@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_layout_of_a_picture_with_a_unit(controlled: WebUI, model: str, first_pass: str, blend_start: float,
                                         budget: int | None) -> None:
    """A concept that is drawn like the picture leaves it as it is, with the attention beside it kept or computed
    again."""
    set_checkpoint_of(controlled, model)
    units = [unit(model, guidance_end=0.6)]
    plain = draw(controlled, units, prompt=PROMPT).image
    data = {"concepts": [concept(PROMPT, LEFT)], "predict": "separate", "first_pass": first_pass,
            "blend_start": blend_start}
    settings = {} if budget is None else {"omg_device_budget_mb": budget, "omg_host_budget_mb": budget}
    assert_close(draw(controlled, units, data, prompt=PROMPT, override_settings=settings).image, plain)


@pytest.mark.parametrize(("model", "is_kept"), [("sdxl-cn", True), ("sd15-ip", True), ("sdxl-reference_only", False)])
def test_picture_after_its_preview(controlled: WebUI, model: str, is_kept: bool) -> None:
    """The noise of a reference is drawn anew in each pass, so with one the first pass is, too."""
    set_checkpoint_of(controlled, model)
    data = {"concepts": [concept(PROMPT, LEFT)], "blend_start": 0.3, "predict": "shared"}
    wanted = draw(controlled, [unit(model)], data)
    draw(controlled, [unit(model)], {**data, "preview": True})
    made = draw(controlled, [unit(model)], data)
    assert any("is that of the preview" in comment for comment in made.comments) == is_kept
    np.testing.assert_array_equal(made.image, wanted.image)
    draw(controlled, [unit(model)], {**data, "preview": True})
    other = draw(controlled, [unit(model, weight=0.5)], data)
    assert not any("is that of the preview" in comment for comment in other.comments)


# several concepts

@pytest.mark.parametrize("way", ["separate", "joint"])
@pytest.mark.parametrize("model", WITH_MODELS)
def test_batch_equals_singles_and_rows_do_not_matter(controlled: WebUI, model: str, way: str) -> None:
    """*rows do not matter*, with concepts whose prompts differ in length and a negative prompt."""
    set_checkpoint_of(controlled, model)
    name = model.partition("-")[0]
    data = {"concepts": [concept(f"{PROMPT} <lora:{name}-lora:1>", LEFT, negative_prompt="sad"),
                         concept("a dog, " * 30, RIGHT)], "predict": way, "blend_start": 0.2}
    batch = draw(controlled, [unit(model)], data, batch_size=2).images
    for number, made in enumerate(batch):
        single = draw(controlled, [unit(model)], data, seed=DEFAULTS["seed"] + number).image
        assert_close(made, single)
    one_by_one = draw(controlled, [unit(model)], data, batch_size=2,
                      override_settings={"omg_rows_per_call": 1}).images
    for ours, wanted in zip(one_by_one, batch, strict=True):
        assert_close(ours, wanted)
    assert distance(batch[0], draw(controlled, [], data).image) > 1


@pytest.mark.parametrize("first_pass", ["whole", "prefix"])
@pytest.mark.parametrize("model", ONE_OF_EACH)
def test_concepts_are_found_in_a_picture_with_a_unit(controlled: WebUI, model: str, first_pass: str) -> None:
    """They are looked for without it, in calls of other rows than the picture's."""
    set_checkpoint_of(controlled, model)
    data = {"concepts": [{"phrase": "man", "prompt": PROMPT}], "first_pass": first_pass, "predict": "shared"}
    made = draw(controlled, [unit(model)], data, batch_size=2, steps=8)
    assert "OMG found" in made.info["infotexts"][0]
    assert made.comments == []


# what is refused

def refused(webui: WebUI, units: Sequence[dict[str, Any]], data: Any, **payload: Any) -> str:
    with pytest.raises(ApiError) as caught:
        draw(webui, units, data, **payload)
    assert caught.value.status == 422
    return caught.value.detail


@pytest.mark.parametrize("model", REFERENCES)
def test_reference_in_a_joint_row(controlled: WebUI, model: str) -> None:
    set_checkpoint_of(controlled, model)
    message = refused(controlled, [unit(model)], request(concept(PROMPT, LEFT), predict="joint"))
    assert "predict: joint has the places of all concepts in one row" in message
    assert model.partition("-")[2] in message
    assert "choose shared" in message


def test_region_of_an_ip_adapter(controlled: WebUI) -> None:
    """It is a mask over all tokens of a row."""
    controlled.set_checkpoint("tiny-sd15")
    masked = unit("sd15-ip", effective_region_mask=drawn_map(1))
    message = refused(controlled, [masked], request(concept(PROMPT, LEFT), predict="joint"))
    assert "predict: joint looks at each concept's place for itself, and ControlNet's IP-Adapter" in message
    assert_is_plain(controlled, [masked], ways=("separate", "shared"))


@pytest.mark.parametrize("fields", [{"predict": "joint"}, {"blend_start": 2}],
                         ids=["the unit", "something else"])
def test_picture_without_a_unit_after_a_refusal(controlled: WebUI, fields: dict[str, Any]) -> None:
    """Which is what it tells to do. The extension has marked the prompts that the web UI keeps for the next picture."""
    controlled.set_checkpoint("tiny-sdxl")
    data = request(concept(PROMPT, LEFT), predict="separate")
    plain, usual = draw(controlled, []).image, draw(controlled, [], data).image
    for wanted, after in ((plain, None), (usual, data)):
        refused(controlled, [unit("sdxl-reference_only")], {**data, **fields})
        np.testing.assert_array_equal(draw(controlled, [], after).image, wanted)


def test_picture_without_a_unit_after_one_that_never_asks_the_model(controlled: WebUI) -> None:
    """The first picture was seen, and no step draws concepts: the marks would stay in the kept prompts likewise."""
    controlled.set_checkpoint("tiny-sdxl")
    units, data = [unit("sdxl-cn")], request(concept(PROMPT, LEFT), blend_start=1)
    usual = draw(controlled, []).image
    first = draw(controlled, units, {**data, "preview": True})
    again = draw(controlled, units, data)
    np.testing.assert_array_equal(again.image, first.images[0])
    assert any("that of the preview" in comment for comment in again.comments)
    np.testing.assert_array_equal(draw(controlled, []).image, usual)


@pytest.mark.parametrize("payload", [
    {}, {"override_settings": {"batch_cond_uncond": False}}, {"batch_size": 2}], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_sparsectrl(controlled: WebUI, way: str, payload: dict[str, Any]) -> None:
    """It looks from row to row, as if they were pictures of one film."""
    if find_extension(FILMS) is None:
        pytest.skip(f"no {FILMS}: put it into OMG_EXTENSIONS")
    controlled.set_checkpoint("tiny-sd15")
    units = [unit("sd15-sparse")]
    if "batch_size" not in payload:  # it needs as many pictures as the film has
        plain = draw(controlled, units, **payload).image
        assert distance(plain, draw(controlled, [], **payload).image) > 0.5
    message = refused(controlled, units, request(concept(PROMPT, LEFT), predict=way), **payload)
    assert "ControlNet: a unit with SparseCtrl does not act on concepts as on the picture" in message


@pytest.fixture
def batch_options(controlled: WebUI) -> Iterator[Callable[[str, bool], None]]:
    """Chooses them as the page does, for which the API has no fields: a word of the option, and whether to align."""
    config = controlled.get("/config")
    radio = next(each for each in config["components"]
                 if each["props"].get("elem_id") == "txt2img_controlnet_controlnet_batch_option_radio")
    number = next(number for number, each in enumerate(config["dependencies"]) if radio["id"] in each["targets"])

    def select(word: str, is_aligned: bool) -> None:
        choice = next(text for text in map(_label, radio["props"]["choices"]) if word in text)
        controlled.post("/run/predict", {"fn_index": number, "data": [choice, is_aligned]})

    yield select
    select("All", False)


def _label(choice: Any) -> str:
    return str(choice if isinstance(choice, str) else choice[0])


@pytest.mark.parametrize(("models", "word", "is_aligned"), [
    ([], "All", True), (["sdxl-cn"], "All", True), (["sdxl-cn", "sdxl-cn-diffusers"], "Each", False)], ids=str)
def test_options_for_batches(controlled: WebUI, batch_options: Callable[[str, bool], None], models: list[str],
                             word: str, is_aligned: bool) -> None:
    """They align the pictures of a batch, or give each a unit of its own; all is well again without."""
    controlled.set_checkpoint("tiny-sdxl")
    units = [unit(model) for model in models]
    data = request(concept(PROMPT, LEFT))
    plain, usual = draw(controlled, units, batch_size=2).images, draw(controlled, units, data, batch_size=2).images
    batch_options(word, is_aligned)
    assert distance(draw(controlled, units, batch_size=2).images[0], plain[0]) > 0.5
    for way in WAYS:
        message = refused(controlled, units, {**data, "predict": way}, batch_size=2)
        assert "ControlNet: its batch options tell pictures apart by their number" in message
    batch_options("All", False)
    for ours, wanted in zip(draw(controlled, units, data, batch_size=2).images, usual, strict=True):
        np.testing.assert_array_equal(ours, wanted)


# in the browser

@pytest.mark.browser
def test_unit_and_concepts_of_the_page(controlled: WebUI, tmp_path: Path) -> None:
    """The picture is the one that the API makes of the same request."""
    controlled.set_checkpoint("tiny-sdxl")
    (tmp_path / "map.png").write_bytes(base64.b64decode(drawn_map()))
    group = "#txt2img_controlnet_ControlNet-0"
    with browsing(controlled) as page:
        load(controlled, page)
        ask_for_a_small_picture(page)
        open_accordion(page)
        fill_concepts(page)
        page.locator("#txt2img_controlnet #controlnet > .label-wrap").click()
        page.locator(f"{group}_input_image input[type=file]").set_input_files(tmp_path / "map.png")
        enabled = page.locator(f"{group}_controlnet_enable_checkbox input")
        enabled.check()
        choose(page.locator(f"{group}_controlnet_model_dropdown"), "sdxl-t2i [")
        generate(page)
        made = picture(page, tmp_path / "made.png")
    concepts = [concept(prompt, {"box": [float(number) for number in place.split(", ")]})
                for prompt, place in zip(PROMPTS, PLACES, strict=True)]
    wanted = draw(controlled, [unit("sdxl-t2i")], {"concepts": concepts}, steps=6, sampler_name="DPM++ 2M").image
    np.testing.assert_array_equal(made, wanted)
    assert distance(wanted, draw(controlled, [], {"concepts": concepts}, steps=6, sampler_name="DPM++ 2M").image) > 1
