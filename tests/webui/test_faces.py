"""Concepts with a photo of a face in the real web UI, with random weights in InstantID's files.

The yardstick is *everywhere is plain*: one concept everywhere is the plain picture of its prompt that the long way
draws (``knowing.py``), whose IdentityNet is compared to diffusers'.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from playwright.sync_api import Page, expect
from safetensors.torch import load_file, save_file

from tests.models import tiny_instantid
from tests.models.tiny_instantid import photo
from tests.webui.browser import (
    SECONDS,
    ask_for_a_small_picture,
    browsing,
    choose,
    fill,
    generate,
    load,
    open_accordion,
    part,
    picture,
)
from tests.webui.controls import write_controls
from tests.webui.host import (
    CHECKPOINTS,
    DEFAULTS,
    ApiError,
    Result,
    WebUI,
    distance,
    find_extension,
    install_extension,
    is_forge,
    is_neo,
    make_data_dir,
)
from tests.webui.instantid import ADAPTER, IDENTITYNET, SHAPE, write_instantid
from tests.webui.networks import write_networks
from tests.webui.test_api import LEFT, PROMPT, RIGHT, assert_close, concept, omg, request
from tests.webui.test_controlnet import EXTENSION, add_controlnet, unit
from tests.webui.test_forge import ACTIVE, FREEU, SHRINK, THRESHOLD
from tests.webui.test_forge import unit as forge_unit
from tests.webui.test_img2img import ONLY_MASKED, SQUARE

pytestmark = pytest.mark.webui

WAYS = ("separate", "shared", "joint")
BACKGROUND = "a photo of a man and a woman"
STEPS = 4
PLACE = (64, 64, 24)
SIDES = [(30, 60, 24), (98, 60, 24)]
HALF = ("--opt-sdp-no-mem-attention", "--medvram-sdxl")
FORGE_HALF, NEO_HALF = ("--unet-in-bf16", "--unet-in-fp8-e4m3fn"), ("--bf16-unet", "--fp8_e4m3fn-unet")
HIRES: dict[str, Any] = {"enable_hr": True, "hr_upscaler": "Latent", "hr_scale": 1.5, "denoising_strength": 0.7}


def start(installation: Path, checkpoints: Path, folder: Path, flags: tuple[str, ...] = (),
          half: bool = False) -> WebUI:
    """A web UI that has InstantID's files, and knows faces."""
    make_data_dir(folder, checkpoints)
    write_networks(checkpoints, folder / "models" / "Lora", ("lora",))
    write_instantid(checkpoints, folder / "models" / "ControlNet")
    install_extension(installation, folder)
    extension = find_extension(EXTENSION)
    if is_forge(installation):
        write_controls(checkpoints, folder / "models" / "ControlNet")
    elif extension is not None:
        add_controlnet(extension, checkpoints, folder)
    support = folder / "extensions" / "omg-test-support"
    (support / "scripts" / "knowing.py").symlink_to(Path(__file__).with_name("knowing.py"))
    (support / "tiny_instantid.py").symlink_to(tiny_instantid.__file__)
    return WebUI(installation, folder, flags, half=half)


@pytest.fixture(scope="module")
def started(installation: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    folder = tmp_path_factory.mktemp("faces")
    with start(installation, checkpoints, folder) as webui:
        yield webui
    shutil.rmtree(folder / "models")


@pytest.fixture(scope="module")
def before(started: WebUI) -> tuple[np.ndarray, dict[str, int]]:
    """A plain picture before any test, and what is hooked."""
    for name in started.checkpoints():
        started.set_checkpoint(name)
    started.set_checkpoint(CHECKPOINTS[0])
    return started.txt2img(steps=2).image, started.patches()


@pytest.fixture
def webui(started: WebUI, before: tuple[np.ndarray, dict[str, int]]) -> Iterator[WebUI]:
    """With one face in the middle of each first picture; afterwards *nothing remains*, bit for bit."""
    placed(started, [PLACE])
    yield started
    started.post("/omg-tests/literal", {})
    started.set_checkpoint(CHECKPOINTS[0])
    np.testing.assert_array_equal(started.txt2img(steps=2).image, before[0])
    # `forward`s that sd-webui-controlnet has put back stay on the layers as they were
    assert started.patches()["hooks"] == before[1]["hooks"]


def placed(webui: WebUI, *pictures: list[tuple[int, int, int]]) -> None:
    webui.post("/omg-tests/faces", pictures)


def literal(webui: WebUI, seed: int, **how: Any) -> None:
    folder = webui.data_dir / "models" / "ControlNet"
    webui.post("/omg-tests/literal", {"seed": seed, "place": PLACE, "side": 128, "adapter": str(folder / ADAPTER),
                                      "identitynet": str(folder / IDENTITYNET), **how})


def draw(webui: WebUI, *concepts: dict[str, Any], predict: str = "separate", **payload: Any) -> Result:
    return omg(webui, request(*concepts, predict=predict), **{"prompt": BACKGROUND, "steps": STEPS, **payload})


def two(**fields: Any) -> list[dict[str, Any]]:
    return [concept(prompt, place, face=photo(seed), **fields)
            for prompt, place, seed in (("an old man", LEFT, 1), ("a young woman", RIGHT, 2))]


@pytest.mark.parametrize("layout", ["diffusers", "authors"])
def test_identitynet_says_what_diffusers_says(webui: WebUI, tmp_path: Path, layout: str) -> None:
    """The same file, in both layouts, by the parts of the web UI's UNet: parity to 1e-4."""
    state = load_file(webui.data_dir / "models" / "ControlNet" / IDENTITYNET)
    model: Any = ControlNetModel(**SHAPE)
    model.load_state_dict(state)
    random = torch.Generator().manual_seed(5)
    given = {"x": torch.randn(2, 4, 16, 24, generator=random), "t": torch.tensor([901.0, 20.0]),
             "context": torch.randn(2, 4, 64, generator=random), "y": torch.randn(2, 1568, generator=random),
             "shown": torch.rand(2, 3, 128, 192, generator=random)}
    # diffusers makes the vector's last part of the sizes
    ids = torch.tensor([[64.0, 32, 0, 0, 64, 32], [128, 64, 4, 8, 128, 64]])
    given["y"][:, 32:] = model.add_time_proj(ids.flatten()).reshape(2, -1)
    with torch.no_grad():
        down, middle = model(given["x"], given["t"], encoder_hidden_states=given["context"],
                             controlnet_cond=given["shown"], return_dict=False,
                             added_cond_kwargs={"text_embeds": given["y"][:, :32], "time_ids": ids})
    file = tmp_path / "net.safetensors"
    save_file(state if layout == "diffusers" else in_authors_layout(state), file)
    save_file(given, tmp_path / "inputs.safetensors")
    webui.post("/omg-tests/identitynet", {"file": str(file), "inputs": str(tmp_path / "inputs.safetensors"),
                                          "answers": str(tmp_path / "answers.safetensors")})
    answers = load_file(tmp_path / "answers.safetensors")
    assert len(answers) == len(down) + 1
    for number, expected in enumerate([*down, middle]):
        assert float((answers[str(number)] - expected).norm() / expected.norm()) < 1e-4


def in_authors_layout(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the names of ControlNet's authors, for a model of two layers and a downsampler on each level."""
    parts = {"conv1": "in_layers.2", "norm1": "in_layers.0", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
             "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    hints = ["conv_in", *(f"blocks.{number}" for number in range(6)), "conv_out"]
    renamed = {}
    for name, value in state.items():
        kind, *rest = name.split(".")
        last = rest[-1]
        if kind == "down_blocks":
            number = 1 + 3 * int(rest[0]) + int(rest[2])
            new = {"resnets": f"input_blocks.{number}.0.{parts.get(rest[3], '')}",
                   "attentions": f"input_blocks.{number}.1.{'.'.join(rest[3:-1])}",
                   "downsamplers": f"input_blocks.{3 + 3 * int(rest[0])}.0.op"}[rest[1]]
        elif kind == "mid_block":
            new = (f"middle_block.1.{'.'.join(rest[2:-1])}" if rest[0] == "attentions"
                   else f"middle_block.{2 * int(rest[1])}.{parts[rest[2]]}")
        elif kind == "controlnet_cond_embedding":
            new = f"input_hint_block.{2 * hints.index('.'.join(rest[:-1]))}"
        elif kind == "controlnet_down_blocks":
            new = f"zero_convs.{rest[0]}.0"
        else:
            new = {"conv_in": "input_blocks.0.0", "controlnet_mid_block": "middle_block_out.0",
                   "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
                   "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}[
                ".".join([kind, *rest[:-1]])]
        renamed[f"control_model.{new}.{last}"] = value
    return renamed


@pytest.mark.parametrize(("options", "how"), [
    ({}, {}), ({"identitynet": {"scale": 0}}, {"identity_scales": [0]}), ({"face_scale": 0}, {"face_scale": 0}),
    ({"face_scale": 1.5, "identitynet": {"scale": 0.4, "start": 0.25, "end": 0.75}},
     {"face_scale": 1.5, "identity_scales": [0, 0.4, 0.4, 0]})], ids=["defaults", "no pose", "pose alone", "own"])
def test_a_face_everywhere_is_a_plain_picture_with_it(webui: WebUI, options: dict[str, Any],
                                                      how: dict[str, Any]) -> None:
    literal(webui, 1, **how)
    expected = webui.txt2img(prompt=PROMPT, steps=STEPS)
    literal(webui, 2, **how)
    other = webui.txt2img(prompt=PROMPT, steps=STEPS)
    webui.post("/omg-tests/literal", {})
    plain = webui.txt2img(prompt=PROMPT, steps=STEPS)
    drawn = draw(webui, concept(PROMPT, face=photo(1), **options))
    assert_close(drawn.image, expected.image)
    assert drawn.comments == []
    assert distance(drawn.image, plain.image) > 0.5
    if options.get("face_scale", 1):
        assert distance(drawn.image, other.image) > 0.5


@pytest.mark.parametrize("payload", [{"denoising_strength": 1}, ONLY_MASKED], ids=["whole", "only masked"])
def test_a_face_everywhere_over_a_given_picture(webui: WebUI, payload: dict[str, Any]) -> None:
    literal(webui, 1, identity_scales=[0])
    expected = webui.img2img(SQUARE, prompt=PROMPT, steps=STEPS, **payload)
    webui.post("/omg-tests/literal", {})
    plain = webui.img2img(SQUARE, prompt=PROMPT, steps=STEPS, **payload)
    own = request(concept(PROMPT, face=photo(1), identitynet={"scale": 0}, cfg_scale=DEFAULTS["cfg_scale"]))
    made = webui.img2img(SQUARE, prompt=BACKGROUND, steps=STEPS, alwayson_scripts={"OMG": {"args": [own]}}, **payload)
    for ours, wanted in zip(made.images, expected.images, strict=True):
        assert_close(ours, wanted)
    assert distance(made.image, plain.image) > 0.5


def test_joint_and_shared_agree(webui: WebUI) -> None:
    """A concept everywhere is its own row: the same rows, in places or by themselves."""
    own = concept("a photo of a man <lora:sdxl-lora>", face=photo(1), lora_guidance=2)
    shared, joint = (draw(webui, own, predict=way) for way in ("shared", "joint"))
    assert_close(shared.image, joint.image)


def test_a_face_beside_a_lora_and_a_style(webui: WebUI) -> None:
    """A LoRA on the concept, one on everything, and the face: as the plain picture with all three."""
    styled = f"{PROMPT} <lora:sdxl-lora:0.8>"
    literal(webui, 1)
    expected = webui.txt2img(prompt=styled, steps=STEPS)
    webui.post("/omg-tests/literal", {})
    for prompt, background in ((styled, BACKGROUND), (PROMPT, f"{BACKGROUND} <lora:sdxl-lora:0.8>")):
        assert_close(draw(webui, concept(prompt, face=photo(1)), prompt=background).image, expected.image)


@pytest.mark.parametrize("predict", WAYS)
def test_beside_a_unit_of_controlnet(webui: WebUI, predict: str) -> None:
    """What both say is summed, though sd-webui-controlnet has a UNet's ``forward`` of its own."""
    if not webui.is_forge and find_extension(EXTENSION) is None:
        pytest.skip(f"no {EXTENSION}: put it into OMG_EXTENSIONS")
    pose = {"identitynet": {"scale": 0}}

    def of(model: str, **fields: Any) -> dict[str, Any]:
        return forge_unit(webui, model, **fields) if webui.is_forge else unit(model, **fields)

    def drawn(units: list[dict[str, Any]], **fields: Any) -> np.ndarray:
        data = request(concept(PROMPT, face=photo(1), **fields), predict=predict)
        return webui.txt2img(prompt=BACKGROUND, steps=STEPS, alwayson_scripts={
            "ControlNet": {"args": units}, "OMG": {"args": [data]}}).image

    silent, speaking = of("sdxl-t2i", weight=0), of("sdxl-t2i")
    assert_close(drawn([silent]), drawn([]))
    assert distance(drawn([speaking]), drawn([])) > 0.5
    assert distance(drawn([speaking]), drawn([speaking], **pose)) > 0.5
    if predict != "joint" and not webui.is_forge:  # which refuse these
        looking = of("sdxl-reference_only")
        assert distance(drawn([looking]), drawn([looking], **pose)) > 0.5
    if predict != "separate":
        return
    # sd-webui-controlnet's ``forward`` stands in for the literal one, so there the adapter is literal alone
    how, fields = ({}, {}) if webui.is_forge else ({"identity_scales": [0]}, pose)
    for units in ([speaking], [of("sdxl-cn")], [speaking, of("sdxl-cn")]):
        literal(webui, 1, **how)
        expected = webui.txt2img(prompt=PROMPT, steps=STEPS, alwayson_scripts={"ControlNet": {"args": units}})
        webui.post("/omg-tests/literal", {})
        assert_close(drawn(units, **fields), expected.image)


def test_beside_forges_ip_adapter(webui: WebUI) -> None:
    """It stands in for cross-attention, in which faces act, too."""
    if not webui.is_forge:
        pytest.skip("not in the web UI: Forge's own IP-Adapter")
    webui.post("/omg-tests/ip-adapter", True)
    try:
        literal(webui, 1)
        expected = webui.txt2img(prompt=PROMPT, steps=STEPS)
        webui.post("/omg-tests/literal", {})
        plain = webui.txt2img(prompt=PROMPT, steps=STEPS)
        drawn = draw(webui, concept(PROMPT, face=photo(1)))
        shared = [draw(webui, concept(PROMPT, face=photo(1), face_scale=scale, identitynet={"scale": 0}),
                       predict="shared") for scale in (0.8, 0)]
        refused(webui, "predict: joint looks at", concept(PROMPT, face=photo(1)), predict="joint")
    finally:
        webui.post("/omg-tests/ip-adapter", False)
    assert_close(drawn.image, expected.image)
    assert distance(plain.image, expected.image) > 0.5
    assert distance(shared[0].image, shared[1].image) > 0.5
    assert distance(drawn.image, draw(webui, concept(PROMPT, face=photo(1))).image) > 0.5


@pytest.mark.parametrize("script", [FREEU, THRESHOLD])
def test_beside_what_forge_brings(webui: WebUI, script: str) -> None:
    """FreeU scales what IdentityNet says as what a ControlNet does."""
    if not webui.is_forge or webui.is_neo:
        pytest.skip("Forge's own extensions")
    acting = {script: {"args": ACTIVE[script]}}
    literal(webui, 1)
    expected = webui.txt2img(prompt=PROMPT, steps=STEPS, alwayson_scripts=acting)
    webui.post("/omg-tests/literal", {})
    own = {"OMG": {"args": [request(concept(PROMPT, face=photo(1)))]}}
    made = webui.txt2img(prompt=BACKGROUND, steps=STEPS, alwayson_scripts={**acting, **own})
    assert_close(made.image, expected.image)
    assert distance(made.image, draw(webui, concept(PROMPT, face=photo(1))).image) > 0.5


def test_where_blocks_are_shrunk(webui: WebUI) -> None:
    """Kohya HRFix has smaller maps in some blocks, for which IdentityNet's are made as small."""
    if not webui.is_forge or webui.is_neo:
        pytest.skip("Forge's own extensions")
    acting = {SHRINK: {"args": ACTIVE[SHRINK]}}
    made = [webui.txt2img(prompt=BACKGROUND, steps=STEPS, alwayson_scripts={**acting, "OMG": {"args": [
        request(concept(PROMPT, face=photo(1), identitynet={"scale": scale}))]}}) for scale in (0.8, 0)]
    assert made[0].comments == []
    assert distance(made[0].image, made[1].image) > 0.5
    assert "control could not be applied" not in webui.log()


def test_where_forge_has_no_room(webui: WebUI) -> None:
    """IdentityNet's weights stay in host memory, and go to the device one by one."""
    if not webui.is_forge:
        pytest.skip("not in the web UI: Forge's memory management")
    expected = draw(webui, concept(PROMPT, face=photo(1)))
    webui.post("/omg-tests/no-room", True)
    begin = len(webui.log())
    try:
        made = draw(webui, concept(PROMPT, face=photo(1)))
    finally:
        webui.post("/omg-tests/no-room", False)
    assert made.comments == []
    assert_close(made.image, expected.image)
    if not webui.is_neo:  # whose log does not say
        assert webui.log()[begin:].count("CPU Swap Loaded") == 1


@pytest.mark.parametrize("predict", WAYS)
def test_two_faces(webui: WebUI, predict: str) -> None:
    """Each counts; the same twice is the same; scale 0 is off, bit for bit."""
    placed(webui, SIDES)
    both = draw(webui, *two(), predict=predict)
    assert both.comments == []
    np.testing.assert_array_equal(draw(webui, *two(), predict=predict).image, both.image)
    for index in (0, 1):
        others = two()
        others[index]["face"] = photo(3)
        assert distance(draw(webui, *others, predict=predict).image, both.image) > 0.1
    off = draw(webui, *two(face_scale=0, identitynet={"scale": 0}), predict=predict)
    bare = [{name: value for name, value in each.items() if name != "face"} for each in two()]
    np.testing.assert_array_equal(off.image, draw(webui, *bare, predict=predict).image)
    assert distance(off.image, both.image) > 0.5


@pytest.mark.parametrize("predict", WAYS)
def test_a_batch_is_its_pictures(webui: WebUI, predict: str) -> None:
    """Of the second picture one is seen from behind."""
    placed(webui, SIDES, SIDES[:1])
    batch = draw(webui, *two(), predict=predict, batch_size=2, seed=10)
    assert [comment.partition(";")[0] for comment in batch.comments] == [
        "OMG: concepts[1], picture 2: no face was found in its place"]
    for number, faces in enumerate((SIDES, SIDES[:1])):
        placed(webui, faces)
        assert_close(draw(webui, *two(), predict=predict, seed=10 + number).image, batch.images[number])
    webui.options(omg_rows_per_call=1)
    try:
        assert_close(draw(webui, *two(), predict=predict, seed=11).image, batch.images[1])
    finally:
        webui.options(omg_rows_per_call=0)


@pytest.mark.parametrize("predict", ["separate", "joint"])
def test_hires_fix(webui: WebUI, predict: str) -> None:
    """The face stays in the larger pass, where it was in the first picture, and has its own scales there."""
    without = draw(webui, concept(PROMPT, face=photo(1), identitynet={"scale": 0}), predict=predict, **HIRES)
    made = draw(webui, concept(PROMPT, face=photo(1)), predict=predict, **HIRES)
    assert made.image.shape == (192, 192, 3)
    assert made.comments == []
    assert distance(made.image, without.image) > 0.5
    assert webui.get("/omg-tests/faces") == 1  # it is looked for in the first picture alone


def test_both_passes_in_one(webui: WebUI) -> None:
    own = {"blend_start": 0.5, "layout": {"cross": 0, "self": 0}}
    drawn = [omg(webui, {**request(concept(PROMPT, face=photo(1))), **own, "first_pass": first}, steps=STEPS,
                 prompt=BACKGROUND) for first in ("whole", "prefix")]
    assert_close(drawn[0].image, drawn[1].image)


def test_the_photo_stays_out_of_the_infotext(webui: WebUI) -> None:
    """A checksum stands for it. Drawn again after the infotext, the picture is refused until the photo is there."""
    made = draw(webui, concept(PROMPT, face=photo(1)))
    text = made.info["infotexts"][0]
    assert photo(1) not in text
    mark = json.loads(json.loads(text.partition("OMG: ")[2].partition('", Version')[0] + '"'))["concepts"][0]["face"]
    assert mark.startswith("sha256:")
    if not webui.is_forge:  # whose API fails on any infotext
        with pytest.raises(ApiError) as refused:
            webui.post("/sdapi/v1/txt2img", {"infotext": text})
        assert refused.value.status == 422
        assert f"infotexts keep its checksum alone, {mark}" in refused.value.detail
    with pytest.raises(ApiError, match="the picture is missing"):
        draw(webui, concept(PROMPT, face=mark))


@pytest.mark.parametrize(("fields", "words"), [
    ({"face": "no base64!"}, "concepts[0].face: this is not base64"),
    ({"face": photo()}, "concepts[0].face: no face was found in the picture"),
    ({"face": [photo(1), photo()]}, "concepts[0].face[1]: no face was found"),
    ({"face": photo(1, 2), "face_index": 2}, "concepts[0].face_index: there is no face 2: the picture shows 2 faces"),
    ({"face": ""}, "concepts[0].face: it is empty"),
], ids=["no base64", "no face", "no face in the second", "third of two", "empty"])
def test_bad_photos(webui: WebUI, fields: dict[str, Any], words: str) -> None:
    refused(webui, words, concept(PROMPT, **fields))


def refused(webui: WebUI, words: str, *concepts: dict[str, Any], predict: str = "separate") -> None:
    """Status 422 in these words, and nothing is drawn."""
    calls = webui.denoiser_calls()
    with pytest.raises(ApiError) as error:
        draw(webui, *concepts, predict=predict)
    assert error.value.status == 422
    assert words in error.value.detail
    assert webui.denoiser_calls() == calls


def test_which_face_of_a_photo(webui: WebUI) -> None:
    """The largest, or one from the left; of several photos the mean."""
    def of(*seeds: int, **fields: Any) -> np.ndarray:
        return draw(webui, concept(PROMPT, face=photo(*seeds), **fields)).image

    first, second = of(1), of(2)
    np.testing.assert_array_equal(of(1, 2), second)
    np.testing.assert_array_equal(of(1, 2, face_index=0), first)
    both = draw(webui, concept(PROMPT, face=[photo(1), photo(2)])).image
    assert min(distance(both, first), distance(both, second)) > 0.2


def test_without_a_face_in_its_place(webui: WebUI) -> None:
    """IdentityNet is left out, and it is told; the face is drawn all the same."""
    placed(webui, [])
    made = draw(webui, concept(PROMPT, face=photo(1)))
    comment, = made.comments
    assert comment.startswith("OMG: concepts[0]: no face was found in its place")
    off = draw(webui, concept(PROMPT, face=photo(1), identitynet={"scale": 0}))
    np.testing.assert_array_equal(made.image, off.image)


def test_missing_files(webui: WebUI) -> None:
    """Without adapter nothing is drawn. Without IdentityNet the face has no pose, which is told, and not if it was
    switched off; what it is to do is refused."""
    folder = webui.data_dir / "models" / "ControlNet"
    off = draw(webui, concept(PROMPT, face=photo(1), identitynet={"scale": 0}))
    with moved(folder / IDENTITYNET):
        made = draw(webui, concept(PROMPT, face=photo(1)))
        assert ["there is no IdentityNet" in comment for comment in made.comments] == [True]
        np.testing.assert_array_equal(made.image, off.image)
        assert draw(webui, concept(PROMPT, face=photo(1), identitynet={"scale": 0})).comments == []
        refused(webui, "concepts[0].identitynet: there is no model for it",
                concept(PROMPT, face=photo(1), identitynet={"end": 0.5}))
    with moved(folder / ADAPTER):
        refused(webui, "concepts[0].face: `face` needs the file InstantID/ip-adapter.bin (1691 MB), from ",
                concept(PROMPT, face=photo(1)))


@contextmanager
def moved(file: Path) -> Iterator[None]:
    """A file is not there within the block."""
    file.rename(file.with_suffix(".away"))
    try:
        yield
    finally:
        file.with_suffix(".away").rename(file)


@pytest.mark.parametrize(("name", "words"), [
    (IDENTITYNET, "is a LoRA, which a prompt names"), (ADAPTER, "is a LoRA, which a prompt names")])
def test_wrong_files(webui: WebUI, name: str, words: str) -> None:
    """It is said which file it is, and which is wanted."""
    file = webui.data_dir / "models" / "ControlNet" / name
    wrong = file.with_name("ip-adapter_instant_id_sdxl.safetensors" if name == ADAPTER else name)
    with moved(file):
        shutil.copy(webui.data_dir / "models" / "Lora" / "sdxl-lora.safetensors", wrong)
        try:
            refused(webui, words, concept(PROMPT, face=photo(1)))
        finally:
            wrong.unlink()


def test_a_controlnet_of_another_kind(webui: WebUI) -> None:
    """It has weights besides."""
    file = webui.data_dir / "models" / "ControlNet" / IDENTITYNET
    state = load_file(file)
    with moved(file):
        for other, words in ({**state, "task_embedding": torch.zeros(3)}, "it has task_embedding besides"), (
                {name: value for name, value in state.items() if "mid_block.res" not in name}, "Missing key(s)"):
            save_file(other, file)
            try:
                refused(webui, words, concept(PROMPT, face=photo(1)))
            finally:
                file.unlink()


def test_other_checkpoints(webui: WebUI) -> None:
    webui.set_checkpoint("tiny-sd15")
    refused(webui, "concepts[0].face: faces are drawn by InstantID, which is made for SDXL",
            concept(PROMPT, face=photo(1)))


def test_a_fault_within_identitynet_leaves_the_first_picture(webui: WebUI) -> None:
    """It is told, and nothing stays hooked."""
    webui.post("/omg-tests/fault", {})
    made = draw(webui, concept(PROMPT, face=photo(1)))
    assert "a stand-in for a fault" in made.comments[0]
    np.testing.assert_array_equal(made.image, webui.txt2img(prompt=BACKGROUND, steps=STEPS).image)


def test_no_tensor_remains(webui: WebUI) -> None:
    """The models go, too, with the picture that they were read for."""
    draw(webui, concept(PROMPT, face=photo(1)), predict="joint")
    webui.txt2img(steps=1)
    before = webui.tensors()
    draw(webui, concept(PROMPT, face=photo(1)), predict="joint")
    webui.txt2img(steps=1)
    after = webui.tensors()
    assert (after["number"], after["bytes"]) <= (before["number"], before["bytes"])
    webui.options(omg_keep_detectors=True)
    try:
        draw(webui, concept(PROMPT, face=photo(1)))
        webui.txt2img(steps=1)
        assert webui.tensors()["bytes"] > after["bytes"] + 1_000_000
    finally:
        webui.options(omg_keep_detectors=False)


@pytest.mark.parametrize("number", [0, 1])
def test_half_precision(installation: Path, checkpoints: Path, tmp_path: Path, number: int) -> None:
    """In bfloat16 under autocast, and where the web UI moves the models to and fro; in Forge weights in few bits, which
    it casts as it uses them."""
    flag = (NEO_HALF if is_neo(installation) else FORGE_HALF if is_forge(installation) else HALF)[number]
    with start(installation, checkpoints, tmp_path, (flag,), half=not is_forge(installation)) as webui:
        webui.options(live_previews_enable=False)  # the host's cannot be made of bfloat16
        webui.set_checkpoint(CHECKPOINTS[0])  # Forge has none loaded yet
        placed(webui, [PLACE])
        literal(webui, 1)
        expected = webui.txt2img(prompt=PROMPT, steps=STEPS)
        webui.post("/omg-tests/literal", {})
        without = distance(webui.txt2img(prompt=PROMPT, steps=STEPS).image, expected.image)
        for predict in WAYS:
            made = draw(webui, concept(PROMPT, face=photo(1)), predict=predict)
            assert made.comments == []
            if predict == "separate":
                assert distance(made.image, expected.image) < 0.2 * without


@pytest.fixture
def page(webui: WebUI, tmp_path: Path) -> Iterator[Page]:
    with browsing(webui) as page:
        load(webui, page)
        ask_for_a_small_picture(page)
        yield page
        page.screenshot(path=tmp_path / "page.png", full_page=True)


@pytest.mark.browser
def test_a_photo_on_the_page(webui: WebUI, page: Page, tmp_path: Path) -> None:
    """Its faces are marked, the chosen one is drawn, and what the arrow brings back says that the photo is missing."""
    file = tmp_path / "photo.png"
    file.write_bytes(base64.b64decode(photo(1, 2)))
    open_accordion(page)
    part(page, "concept2").get_by_text("Remove").click()
    fill(part(page, "concept1_prompt").locator("textarea"), PROMPT)
    choose(part(page, "concept1_where"), "In a box")
    fill(part(page, "concept1_where_text").locator("input, textarea"), "0, 0, 1, 1")
    part(page, "concept1").get_by_text("Face from a photo").click()
    expect(part(page, "concept1_face_mark")).to_be_hidden()
    part(page, "concept1_face").locator("input[type=file]").set_input_files(file)
    found = page.locator("#script_omg_concept1_face_found .prose")
    expect(found).to_contain_text("2 faces found; the green one counts.", timeout=30 * SECONDS)
    expect(found.locator("img")).to_be_visible()
    choose(part(page, "concept1_face_index"), "1st from the left")
    fill(part(page, "concept1_face_scale").locator("input[type=number]"), "1.2")
    fill(part(page, "concept1_identity_end").locator("input[type=number]"), "0.5")
    generate(page)
    made = picture(page, tmp_path / "made.png")
    own = concept(PROMPT, face=photo(1, 2), face_index=0, face_scale=1.2, identitynet={"end": 0.5})
    wanted = webui.txt2img(steps=6, sampler_name="DPM++ 2M",
                           alwayson_scripts={"OMG": {"args": [{"concepts": [own]}]}})
    np.testing.assert_array_equal(made, wanted.image)

    load(webui, page)
    page.locator("#txt2img_tools #paste").click()
    mark = part(page, "concept1_face_mark").locator("input, textarea")
    expect(mark).to_have_value(re.compile("sha256:[0-9a-f]{10}"), timeout=30 * SECONDS)
    expect(part(page, "api")).to_be_hidden()  # the fields show all of it
    generate(page)
    expect(page.locator("#html_log_txt2img .prose")).to_contain_text("concepts[0].face: the picture is missing")
    part(page, "concept1").get_by_text("Face from a photo").click()
    part(page, "concept1_face").locator("input[type=file]").set_input_files(file)
    expect(part(page, "concept1_face_mark")).to_be_hidden(timeout=30 * SECONDS)
    generate(page)
    np.testing.assert_array_equal(picture(page, tmp_path / "again.png"), made)
