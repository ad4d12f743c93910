"""Beside the real other extensions, where they are there: they act on concepts as on any picture, or are refused."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import expect

from tests.webui.browser import (
    SECONDS,
    ask_for_a_small_picture,
    browsing,
    fill_concepts,
    generate,
    load,
    open_accordion,
)
from tests.webui.host import (
    DEFAULTS,
    SETTINGS,
    ApiError,
    Result,
    WebUI,
    decode,
    distance,
    find_extension,
    install_extension,
    make_data_dir,
)
from tests.webui.networks import write_networks
from tests.webui.test_api import LEFT, PROMPT, RIGHT, assert_close, concept, omg, request

pytestmark = [pytest.mark.webui, pytest.mark.not_in_forge("these extensions are made for the web UI")]

EXTENSIONS = ("sd-dynamic-thresholding", "sd-webui-kohya-hiresfix", "sd-webui-freeu", "sd_webui_SAG",
              "sd-webui-incantations", "sd-webui-negpip", "multidiffusion-upscaler-for-automatic1111",
              "sd-webui-controlnet", "sd-dynamic-prompts", "sd-webui-regional-prompter", "adetailer",
              "a1111-sd-webui-tagcomplete")
# Dynamic Prompts registers its settings with its script, too late for a first start: they stand in a user's file
PROMPT_SETTINGS = {f"dp_{name}": value for name, value in {
    "auto_purge_cache": False, "ignore_whitespace": False, "limit_jinja_prompts": False, "magicprompt_batch_size": 1,
    "magicprompt_default_model": "", "parser_variant_start": "{", "parser_variant_end": "}",
    "parser_wildcard_wrap": "__", "wildcard_manager_no_dedupe": False, "wildcard_manager_no_sort": False,
    "wildcard_manager_shuffle": False, "write_prompts_to_file": False, "write_raw_template": False}.items()}
DYNAMIC = {"Dynamic Thresholding (CFG Scale Fix)": {"args": [
    True, 7.0, 100, "Constant", 0, "Constant", 0, 4.0, True, "MEAN", "AD", 1.0]}}
# whose blocks are still in the UNet when a pass of few steps ends
LATE_KOHYA = {"Kohya Hires.fix": {"args": [True, True, 3, 4, 0.6, 0.9, "bicubic", 0.5, 2.0, True, False]}}
KOHYA = {"Kohya Hires.fix": {"args": [True, True, 3, 4, 0.15, 0.3, "bicubic", 0.5, 2.0, True, False]}}
TILED = {"Tiled Diffusion": {"args": [True, "MultiDiffusion", False, True, 1024, 1024, 16, 16, 4, 2]}}
SAG = {"Self Attention Guidance": {"args": [True, 0.75, 1.0]}}
NEGPIP = {"NegPiP": {"args": [True]}}
# what ADetailer prints with, which the web UI's environment lacks: pure Python, as the tests' own environment has it
PRINTING = ("rich", "pygments", "markdown_it", "mdurl")
# what boxes.py has it see
FACES = ([76.0, 40.0, 108.0, 96.0], [16.0, 24.0, 48.0, 72.0])


@pytest.fixture(scope="module")
def beside(installation: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A web UI with copies of all that are there: some write into their own folder."""
    found = [path for path in map(find_extension, EXTENSIONS) if path is not None]
    if not found:
        pytest.skip("no third-party extension: put them into OMG_EXTENSIONS")
    folder = tmp_path_factory.mktemp("beside")
    make_data_dir(folder, checkpoints)
    write_networks(checkpoints, folder / "models" / "Lora")
    install_extension(installation, folder)
    (folder / "config.json").write_text(json.dumps({**SETTINGS, **PROMPT_SETTINGS}))
    (folder / "ui-config.json").write_text("{}")  # NegPiP asks for it at the first start already
    for path in found:
        shutil.copytree(path, folder / "extensions" / path.name, ignore=shutil.ignore_patterns(".git"))
        if path.name == "adetailer":
            add_packages(folder / "extensions" / path.name, PRINTING)
    script = "boxes.py"
    (folder / "extensions" / "omg-test-support" / "scripts" / script).symlink_to(Path(__file__).with_name(script))
    with WebUI(installation, folder) as started:
        yield started
    shutil.rmtree(folder / "models")


def add_packages(folder: Path, names: Sequence[str]) -> None:
    """Put packages into an extension's folder, from where its scripts can import them."""
    for name in names:
        found = find_spec(name)
        if found is not None and found.origin is not None:
            shutil.copytree(Path(found.origin).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture(autouse=True)
def on_sdxl(beside: WebUI) -> None:
    beside.set_checkpoint("tiny-sdxl")


def need(webui: WebUI, title: str) -> list[Any]:
    """The default arguments of an extension's script; without it the test is skipped."""
    for script in webui.get("/sdapi/v1/script-info"):
        if script["name"] == title.lower() and not script["is_img2img"]:
            return [(arg["label"], arg["value"]) for arg in script["args"]]
    pytest.skip(f"{title} is not there, or does not start in this web UI")


def draw(webui: WebUI, scripts: dict[str, Any], data: dict[str, Any], **payload: Any) -> Result:
    """A picture with OMG and these."""
    return webui.txt2img(alwayson_scripts={"OMG": {"args": [data]}, **scripts}, **payload)


def beside_omg(webui: WebUI, scripts: dict[str, Any], data: dict[str, Any], **payload: Any) -> np.ndarray:
    return draw(webui, scripts, data, **payload).image


@pytest.mark.parametrize(("scripts", "payload"), [
    (DYNAMIC, {"cfg_scale": 15}), (DYNAMIC, {"cfg_scale": 15, "sampler_name": "DPM++ 2M SDE"}),
    (KOHYA, {}), (KOHYA, {"sampler_name": "Euler a", "steps": 12}), (LATE_KOHYA, {}),
], ids=str)
def test_concept_everywhere_is_plain(beside: WebUI, scripts: dict[str, Any], payload: dict[str, Any]) -> None:
    """*everywhere is plain*, and with the layout kept the picture of the same prompt stays itself.

    A picture without extensions comes before each: Kohya Hires.fix registers its callback anew in every picture until
    one is made without it, and two of them draw another picture than one.
    """
    need(beside, next(iter(scripts)))
    prompt = f"{PROMPT} <lora:sdxl-lora:1>"
    without = beside.txt2img(prompt=prompt, **payload).image
    plain = beside.txt2img(prompt=prompt, alwayson_scripts=scripts, **payload).image
    assert distance(plain, without) > 1
    beside.txt2img(**payload)
    assert_close(beside_omg(beside, scripts, request(concept(prompt)), prompt="a street", **payload), plain)
    beside.txt2img(**payload)
    plain = beside.txt2img(prompt=PROMPT, alwayson_scripts=scripts, **payload).image
    beside.txt2img(**payload)
    kept = {"concepts": [concept(PROMPT)], "predict": "separate"}
    assert_close(beside_omg(beside, scripts, kept, prompt=PROMPT, **payload), plain)


def refused(webui: WebUI, scripts: dict[str, Any], *concepts: dict[str, Any], **payload: Any) -> str:
    with pytest.raises(ApiError) as caught:
        beside_omg(webui, scripts, request(*concepts), **payload)
    assert caught.value.status == 422
    return caught.value.detail


@pytest.mark.parametrize("payload", [{}, {"sampler_name": "DDIM"}], ids=str)
@pytest.mark.parametrize("predict", ["separate", "joint"])
def test_tiled_diffusion_is_refused(beside: WebUI, predict: str, payload: dict[str, Any]) -> None:
    """It once passed for working: one concept everywhere came out right. But two took each other's rows in a batch of
    tiles, a joint row had the whole picture's places in each tile, and the last tiles' layout was replayed in all."""
    need(beside, "Tiled Diffusion")
    size = {"width": 256, "height": 192, **payload}
    plain = beside.txt2img(**size).image
    with pytest.raises(ApiError) as caught:
        draw(beside, TILED, request(concept(PROMPT, LEFT), concept(PROMPT, RIGHT), predict=predict), **size)
    assert caught.value.status == 422
    assert "(Tiled Diffusion, say) shows the model tiles of the picture" in caught.value.detail
    np.testing.assert_array_equal(beside.txt2img(**size).image, plain)


def test_self_attention_guidance_is_refused(beside: WebUI) -> None:
    """It knows SD 1.x alone; with SDXL it stops the web UI's plain pictures, too."""
    need(beside, "Self Attention Guidance")
    beside.set_checkpoint("tiny-sd15")
    assert "sd_webui_SAG evaluates the model for guidance of its own" in refused(beside, SAG, concept("a red car"))


def test_perturbed_attention_guidance_is_refused(beside: WebUI) -> None:
    """After any error a callback of its stays until the end of the next picture, with or without OMG."""
    args = need(beside, "Incantations")
    scale = [label for label, _ in args].index("PAG Scale")
    values = [value for _, value in args]
    values[scale - 1], values[scale] = True, 3.0
    message = refused(beside, {"Incantations": {"args": values}}, concept("a red car"))
    assert re.search("sd-webui-incantations (evaluates the model|changes attention layers)", message)
    beside.txt2img()


@pytest.mark.parametrize("switch", [0, 21], ids=["Smoothed Energy Guidance", "Multi T2I-Zero"])
def test_hooks_on_attention_are_refused(beside: WebUI, switch: int) -> None:
    """They go by the order of rows in a call, or count calls."""
    values = [value for _, value in need(beside, "Incantations")]
    assert values[switch] is False
    values[switch] = True
    assert "sd-webui-incantations changes attention layers" in refused(
        beside, {"Incantations": {"args": values}}, concept("a red car"))
    beside.txt2img()


@pytest.mark.parametrize("payload", [{}, {"batch_size": 2}, {"n_iter": 2}], ids=str)
def test_dynamic_prompts(beside: WebUI, payload: dict[str, Any]) -> None:
    """*everywhere is plain*: what is drawn for a concept is what is drawn for a main prompt, picture by picture."""
    need(beside, "Dynamic Prompts v2.17.1")
    prompt = "a {red|green|blue|black} car <lora:sdxl-lora:1>"
    plain = beside.txt2img(prompt=prompt, **payload)
    assert all("{" not in drawn for drawn in plain.info["all_prompts"])
    made = omg(beside, request(concept(prompt)), prompt="a street", **payload)
    for ours, wanted in zip(made.images, plain.images, strict=True):
        assert_close(ours, wanted)
    for text, drawn in zip(made.info["infotexts"], plain.info["all_prompts"], strict=True):
        assert drawn.partition(" <")[0] in text


def test_negpip(beside: WebUI) -> None:
    need(beside, "NegPiP")
    assert "NegPiP" in refused(beside, NEGPIP, concept("a red car"), prompt="a street, (cars:-1)")
    assert "NegPiP" in refused(beside, NEGPIP, concept("a car, (red:-1)"), prompt="a street")
    plain = beside.txt2img(prompt=PROMPT, alwayson_scripts=NEGPIP).image
    assert_close(beside_omg(beside, NEGPIP, request(concept(PROMPT)), prompt="a street"), plain)


def test_idle_extensions_change_nothing(beside: WebUI) -> None:
    """*everywhere is plain* while all of them are there and off."""
    plain = beside.txt2img(prompt=f"{PROMPT} <lora:sdxl-lora:1>").image
    assert_close(omg(beside, request(concept(f"{PROMPT} <lora:sdxl-lora:1>"))).image, plain)


# Regional Prompter

REGIONS = "a red man BREAK a green woman"


def regional(calc: str = "Attention", tab: str = "Matrix") -> dict[str, Any]:
    """Two columns, or what stands where the last words of the second region are read."""
    return {"Regional Prompter": {"args": [
        True, False, tab, "Columns", "Mask", "Prompt", "1,1", "0.2", False, False, False, calc, [], "0", "0", "0.4",
        None, "0", "0", False]}}


@pytest.mark.parametrize(("calc", "tab", "prompt"), [
    ("Attention", "Matrix", REGIONS), ("Latent", "Matrix", REGIONS),
    ("Attention", "Prompt", "a man and a woman BREAK red hair, woman")])
def test_regional_prompter_is_refused(beside: WebUI, calc: str, tab: str, prompt: str) -> None:
    """Its regions are those of the main prompt's rows. It is as it was afterwards, and so are plain pictures: a second
    picture that ends without its last callback would leave the web UI in its latent mode."""
    need(beside, "Regional Prompter")
    scripts, network = regional(calc, tab), f"{PROMPT} <lora:sdxl-lora:1>"
    plain, patches = beside.txt2img(prompt=network).image, beside.patches()
    without = beside.txt2img(prompt=prompt).image
    regions = beside.txt2img(prompt=prompt, alwayson_scripts=scripts).image
    assert distance(regions, without) > 1
    off = {"enabled": False, "concepts": [concept("a dog", LEFT)]}
    np.testing.assert_array_equal(beside_omg(beside, scripts, off, prompt=prompt), regions)
    for _ in range(2):
        message = refused(beside, scripts, concept("a dog", LEFT), prompt=prompt)
        assert "Regional Prompter: its regions do not reach the concepts" in message
    np.testing.assert_array_equal(beside.txt2img(prompt=network).image, plain)
    np.testing.assert_array_equal(beside.txt2img(prompt=prompt).image, without)
    # latent mode has what networks of the last picture are still in the weights, hence the picture without before
    np.testing.assert_array_equal(beside.txt2img(prompt=prompt, alwayson_scripts=scripts).image, regions)
    beside.txt2img()
    assert beside.patches() == patches
    assert beside.options()["lora_functional"] is False


def test_regional_prompter_without_regions_is_let_be(beside: WebUI) -> None:
    """Its box may stay ticked: it does nothing where the main prompt names no regions."""
    need(beside, "Regional Prompter")
    data = request(concept(f"{PROMPT} <lora:sdxl-lora:1>", LEFT))
    np.testing.assert_array_equal(beside_omg(beside, regional(), data), omg(beside, data).image)


# ADetailer

def detailed(**fields: Any) -> dict[str, Any]:
    """ADetailer redraws the faces."""
    return {"ADetailer": {"args": [True, False, {"ad_model": "mediapipe_face_full", "ad_dilate_erode": 0, **fields}]}}


def redrawn(webui: WebUI, picture: np.ndarray, prompts: Sequence[str], seed: int) -> np.ndarray:
    """What ADetailer does to a picture, asked for through img2img."""
    for number, (box, prompt) in enumerate(zip(FACES, prompts, strict=True)):
        answer = webui.post("/sdapi/v1/img2img", {
            **DEFAULTS, "prompt": prompt, "seed": seed + number, "init_images": [png(picture)],
            "mask": white(tuple(box)), "mask_blur": 4, "inpainting_fill": 1, "inpaint_full_res": True,
            "inpaint_full_res_padding": 32, "denoising_strength": 0.4})
        picture = decode(answer["images"][0])
    return picture


@cache
def white(box: tuple[float, ...]) -> str:
    mask = Image.new("L", (DEFAULTS["width"], DEFAULTS["height"]))
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return png(np.asarray(mask))


def png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


TWO = {"concepts": [concept(f"{PROMPT} <lora:sdxl-lora:1>", LEFT), concept("a dog <lora:sdxl-loha:1>", RIGHT)],
       "blend_start": 0.3, "show": ["first_pass", "masks"]}


@pytest.mark.parametrize("prompts", [["", ""], ["a red car <lora:sdxl-lora:1>", "a dog <lora:sdxl-loha:1>"]], ids=str)
@pytest.mark.parametrize("payload", [{}, {"batch_size": 2}, {"prompt": "a street <lora:sdxl-style:0.7>"}], ids=str)
def test_adetailer_redraws_the_picture_with_its_concepts(beside: WebUI, prompts: list[str],
                                                        payload: dict[str, Any]) -> None:
    """With its own prompts, or the main one, and no concept's. The web UI takes some of the noise for img2img from
    where the last picture left it, so the picture without ADetailer is drawn right before."""
    need(beside, "ADetailer")
    scripts = detailed(ad_prompt=" [SEP] ".join(prompts) if any(prompts) else "")
    made = draw(beside, scripts, TWO, **payload)
    without = draw(beside, {}, TWO, **payload)
    main = payload.get("prompt", DEFAULTS["prompt"])
    count = payload.get("batch_size", 1)
    for number in range(count):
        wanted = redrawn(beside, without.images[number], [prompt or main for prompt in prompts],
                         DEFAULTS["seed"] + number)
        np.testing.assert_array_equal(made.images[number], wanted)
        assert distance(made.images[number], without.images[number]) > 1


@pytest.mark.parametrize("payload", [{"batch_size": 2}, {"n_iter": 2}], ids=str)
def test_adetailer_leaves_extra_pictures_alone(beside: WebUI, payload: dict[str, Any]) -> None:
    """It calls all scripts once more for each batch."""
    need(beside, "ADetailer")
    log = len(beside.log())
    made, without = draw(beside, detailed(), TWO, **payload), draw(beside, {}, TWO, **payload)
    assert len(made.images) == len(without.images) == 2 + 2 * 3
    assert len(made.info["infotexts"]) == len(made.images)
    for ours, wanted in zip(made.images[2:], without.images[2:], strict=True):
        np.testing.assert_array_equal(ours, wanted)
    assert "sd-webui-omg" not in beside.log()[log:]


@pytest.mark.parametrize("is_selective", [True, False])
@pytest.mark.parametrize("data", [
    {"concepts": [concept("a dog <lora:sdxl-lora:1>")], "blend_start": 1},
    {"enabled": False, "concepts": [concept("a dog <lora:sdxl-lora:1>")]}], ids=["empty second pass", "off"])
def test_adetailer_draws_no_concepts(beside: WebUI, data: dict[str, Any], is_selective: bool) -> None:
    """*empty second pass*, *off is off*: its pictures are as without OMG, also if it is to call all scripts."""
    need(beside, "ADetailer")
    beside.options(ad_only_selected_scripts=is_selective)
    plain, patches = beside.txt2img(alwayson_scripts=detailed()).image, beside.patches()
    np.testing.assert_array_equal(draw(beside, detailed(), data).image, plain)
    assert distance(plain, beside.txt2img().image) > 1
    assert beside.patches() == patches
    beside.options(ad_only_selected_scripts=True)


@pytest.mark.parametrize("is_selective", [True, False])
def test_adetailer_draws_no_concepts_in_img2img(beside: WebUI, is_selective: bool) -> None:
    """There its pictures of faces are of the tab's own kind; they are as without OMG, also if it is to call all
    scripts. So little denoising leaves the picture itself no step, so that its concepts change nothing."""
    need(beside, "ADetailer")
    picture = beside.txt2img(seed=3).image
    asked: dict[str, Any] = {"sampler_name": "DDIM", "denoising_strength": 0.1}
    data = request(concept(f"{PROMPT} <lora:sdxl-lora:1>"))
    beside.options(ad_only_selected_scripts=is_selective)
    made, without = (beside.img2img(picture, alwayson_scripts={**detailed(), **scripts}, **asked).image
                     for scripts in ({"OMG": {"args": [data]}}, {}))
    beside.options(ad_only_selected_scripts=True)
    np.testing.assert_array_equal(made, without)
    assert distance(made, beside.img2img(picture, **asked).image) > 1


def test_adetailer_after_a_preview(beside: WebUI) -> None:
    """What goes on from the first picture that was seen is the same to the bit, faces included."""
    need(beside, "ADetailer")
    wanted = draw(beside, detailed(), TWO)
    draw(beside, detailed(), {**TWO, "preview": True})
    made = draw(beside, detailed(), TWO)
    assert any("is that of the preview" in comment for comment in made.comments)
    np.testing.assert_array_equal(made.image, wanted.image)


def test_adetailer_beside_a_unit_of_controlnet(beside: WebUI) -> None:
    """*everywhere is plain*, away from the faces: ADetailer takes the unit off for its own pictures, and the next batch
    has another hook than the first."""
    need(beside, "ADetailer")
    need(beside, "ControlNet")
    stripes = np.tile(np.arange(128, dtype=np.uint8)[:, None, None] * 2, (1, 128, 3))
    unit = {"enabled": True, "module": "reference_only", "model": "None", "image": png(stripes)}
    scripts = {"ControlNet": {"args": [unit]}, **detailed()}
    prompt = f"{PROMPT} <lora:sdxl-lora:1>"
    plain = beside.txt2img(prompt=prompt, alwayson_scripts=scripts, n_iter=2)
    made = draw(beside, scripts, request(concept(prompt)), prompt="a street", n_iter=2)
    without = beside.txt2img(prompt=prompt, alwayson_scripts=detailed(), n_iter=2)
    for ours, wanted, other in zip(made.images[:2], plain.images[:2], without.images[:2], strict=True):
        assert_close(ours[108:], wanted[108:])
        assert distance(wanted[108:], other[108:]) > 1


# tag autocomplete

PROMPTS = {"concept 1": "#script_omg_concept1_prompt", "main prompt": "#txt2img_prompt"}
FIELDS = (*PROMPTS.values(), "#script_omg_concept2_prompt", "#script_omg_concept4_prompt", "#txt2img_neg_prompt",
          "#script_omg_concept1_negative_prompt")


@pytest.mark.browser
def test_tags_are_completed_in_all_prompts(beside: WebUI) -> None:
    """In the main prompts and in concepts', and what was completed is what the web UI gets. Nothing of a phrase is a
    tag."""
    if "a1111-sd-webui-tagcomplete" not in {path.name for path in (beside.data_dir / "extensions").iterdir()}:
        pytest.skip("tag autocomplete is not there")
    with browsing(beside) as page:
        load(beside, page)
        ask_for_a_small_picture(page)
        open_accordion(page)
        for field in FIELDS:
            expect(page.locator(f"{field} textarea.autocomplete")).to_have_count(1, timeout=60 * SECONDS)
        assert page.locator("#script_omg_concept1_phrase .autocomplete").count() == 0
        fill_concepts(page)
        for field in PROMPTS.values():
            box = page.locator(f"{field} textarea")
            box.fill("a knight, ")
            box.press("End")
            box.press_sequentially("blue_hai", delay=50)
            results = page.locator(f"{field} .autocompleteResults").first
            expect(results).to_contain_text("blue_hair")
            box.press("Tab")
            expect(box).to_have_value(re.compile(r"^a knight, blue hair,? *$"))
            box.blur()
        generate(page)
        info = page.locator("#html_info_txt2img .prose")
        expect(info).to_contain_text('"prompt\\":\\"a knight, blue hair')
