"""Faces on the diffusers host: against a literal loop with diffusers' IP-Adapter and ControlNet, in every way."""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel
from safetensors.torch import save_file
from torch import Tensor

from omg_ext.comprehension.places import Places
from omg_ext.diffusers import Control, FaceModels, OMGOutput
from omg_ext.diffusers.prompts import encode, time_ids
from omg_ext.errors import OMGError
from omg_ext.faces import places as places_of_faces
from omg_ext.faces.analysis import FaceAnalyser
from omg_ext.faces.base import ConceptFace
from omg_ext.faces.places import find_faces
from omg_ext.faces.reference import mean_embedding, reference
from omg_ext.faces.resampler import Resampler
from omg_ext.unet.identity import IdentityControl
from tests.diffusers_host import (
    LATENT,
    PROMPT,
    ROUNDING,
    SIZE,
    assert_untouched,
    difference,
    everywhere,
    generate,
    given_regions,
    left_and_right,
    merged,
    pipeline,
    small_loras,
    snapshot,
)
from tests.models.tiny_faces import blank, paint, write_pack
from tests.models.tiny_instantid import (
    EMBEDDING,
    Face,
    KnownFaces,
    adapter_state,
    draw_points,
    embedding,
    face,
    flat,
    photo,
    picture_text,
)
from tests.test_controls import acting, control, control_rows
from tests.test_image_prompts import with_ip_adapter
from tests.test_invariants import unet_rows

VISIBLE = 1e-2
WAYS = ("separate", "shared", "joint")
LEFT, RIGHT = (20, 48), (76, 44)
SIDES = face(*LEFT, size=12), face(*RIGHT, size=12)


# of all objects there are, some warn when they are looked at
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _small_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pictures this small, faces are."""
    monkeypatch.setattr(places_of_faces, "LEAST_SIDE", 4.0)


@functools.cache
def state() -> Any:
    return adapter_state(pipeline().unet)


@functools.cache
def identitynet() -> Any:
    return acting(ControlNetModel.from_unet(pipeline().unet, conditioning_embedding_out_channels=(8, 8, 16, 16)), 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRAs, and the adapter by its usual name."""
    made = small_loras(tmp_path_factory.mktemp("models"))
    torch.save(state(), made / "ip-adapter.bin")
    return made


@pytest.fixture
def models(folder: Path) -> FaceModels:
    """A face in the middle of each first picture, and smaller ones at its sides."""
    return FaceModels(folder, identitynet(), KnownFaces([[face(), *SIDES]]), draw_points)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """*nothing remains*, whatever happens in a test."""
    before, weights = snapshot(pipeline()), {name: value.clone() for name, value in identitynet().state_dict().items()}
    yield
    assert_untouched(pipeline(), before)
    assert all(torch.equal(weights[name], value) for name, value in identitynet().state_dict().items())


def two_faces(**options: Any) -> dict[str, Any]:
    first, second = left_and_right()
    return {"concepts": [{**first, "face": photo(1)}, {**second, "face": photo(2)}], "blend_start": 0, **options}


def at_both_sides() -> KnownFaces:
    return KnownFaces([SIDES[::-1]])


# --- a concept that is everywhere ---

class Literal:
    """A diffusers loop with IP-Adapter and ControlNet.

    Args:
        e: the face's embedding.
        face_scale, identity_scales: the latter by step.
        on_uncond: whether the unconditional rows have the empty face, too.
        size: of the picture.
    """

    def __init__(self, e: np.ndarray, face_scale: float = 0.8, identity_scales: tuple[float, ...] = (0.8,) * 3,
                 on_uncond: bool = True):
        self.pipe, self.scales, self.on_uncond = pipeline(), identity_scales, on_uncond
        self.unet = with_ip_adapter(self.pipe.unet, state(), face_scale)
        self.images = [torch.from_numpy(each)[None, None, None] for each in (e, np.zeros_like(e))]
        project = self.unet.encoder_hid_proj.image_projection_layers[0]
        self.tokens = [project(each[0]) for each in self.images]
        shown = torch.from_numpy(draw_points(face().points, (SIZE, SIZE)).copy())
        self.shown = shown.permute(2, 0, 1)[None].float() / 255

    @torch.no_grad()
    def latents(self, noise: Tensor, prompt: str, cfg_scale: float = 7.5) -> Tensor:
        embeds = encode(self.pipe, prompt, None, {})
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        scheduler.set_timesteps(len(self.scales))
        ids = time_ids(SIZE, SIZE, embeds)
        x = noise * scheduler.init_noise_sigma
        for step, t in enumerate(scheduler.timesteps):
            cond = self._row(x, t, embeds.cond, embeds.pooled, ids, 0, self.scales[step], has_face=True)
            base = encode(self.pipe, PROMPT, None, {}) if not self.on_uncond else embeds
            uncond = self._row(x, t, base.uncond, base.pooled_uncond, ids, 1, self.scales[step], self.on_uncond)
            x = scheduler.step(uncond + cfg_scale * (cond - uncond), t, x).prev_sample
        return x

    def _row(self, x: Tensor, t: Tensor, context: Any, pooled: Any, ids: Any, part: int, scale: float,
             has_face: bool) -> Tensor:
        added = {"text_embeds": pooled, "time_ids": ids}
        if not has_face:
            return self.pipe.unet(x, t, encoder_hidden_states=context, added_cond_kwargs=added)[0]
        down, middle = identitynet()(x, t, encoder_hidden_states=self.tokens[part], controlnet_cond=self.shown,
                                     conditioning_scale=scale, added_cond_kwargs=added, return_dict=False)
        return self.unet(x, t, encoder_hidden_states=context,
                         added_cond_kwargs={**added, "image_embeds": [self.images[part]]},
                         down_block_additional_residuals=down, mid_block_additional_residual=middle)[0]


NOISE = torch.randn(1, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("predict", WAYS)
@pytest.mark.parametrize("options", [
    {"identitynet": {"scale": 0}}, {"face_scale": 0},
    {"face_scale": 1.5, "identitynet": {"scale": 0.4, "start": 0.3, "end": 0.7}}], ids=str)
def test_a_face_everywhere_is_a_plain_picture_with_it(models, predict, options):
    """*everywhere is plain*: IP-Adapter and IdentityNet at their scales, in the steps they act in."""
    request = {**everywhere("old dog", cfg_scale=7.5, face=photo(1), **options), "predict": predict}
    result = generate(pipeline(), request, faces=models, latents=NOISE)
    net = {"scale": 0.8, "start": 0, "end": 1, **options.get("identitynet", {})}
    scales = tuple(net["scale"] if net["start"] <= step / 3 and (step + 1) / 3 <= net["end"] else 0.0
                   for step in range(3))
    e, face_scale, on_uncond = embedding(1), options.get("face_scale", 0.8), predict == "separate"
    assert difference(result.latents, Literal(e, face_scale, scales, on_uncond).latents(NOISE, "old dog")) < ROUNDING
    others = [Literal(embedding(2), face_scale, scales, on_uncond), Literal(e, 0.3, (0.2, 0.3, 0.2), on_uncond)]
    for other in others:
        assert difference(result.latents, other.latents(NOISE, "old dog")) > VISIBLE
    assert result.warnings == []


@torch.no_grad()
def test_beside_a_lora(models, folder):
    """Face and LoRA on one concept: the face is attended to with the LoRA's queries."""
    request = everywhere("old man<lora:one>", face=photo(1))
    result = generate(pipeline(), request, faces=models, loras=folder, latents=NOISE)
    with merged(pipeline(), folder / "one.safetensors"):
        expected = Literal(embedding(1)).latents(NOISE, "old man")
    assert difference(result.latents, expected) < ROUNDING


@pytest.mark.parametrize("options", [{}, {"lora_guidance": 3}, {"negative_prompt": "blue dog"}], ids=str)
def test_joint_everywhere_is_its_own_row(models, folder, options):
    request = everywhere("sks man<lora:one>", face=photo(1), **options)
    joint, own = (generate(pipeline(), {**request, "predict": predict}, faces=models, loras=folder,
                           batch_size=2).latents for predict in ("joint", "shared"))
    assert difference(joint, own) < ROUNDING


# --- which rows ---

@contextmanager
def concept_rows(pipe: Any) -> Iterator[list[Tensor]]:
    """Yields what the UNet answers, call by call."""
    outputs: list[Tensor] = []
    handle = pipe.unet.register_forward_hook(lambda unet, args, output: outputs.append(output[0].clone()))
    try:
        yield outputs
    finally:
        handle.remove()


def test_a_face_changes_its_own_rows_alone(folder):
    """Bit for bit. In the paper's way: conditional row and unconditional row of each concept, one after the other."""
    models = FaceModels(folder, identitynet(), at_both_sides(), draw_points)
    answers = []
    for concepts in ((), (0,), (1,), (0, 1)):
        request = two_faces()
        for number, concept in enumerate(request["concepts"]):
            if number not in concepts:
                del concept["face"]
        with concept_rows(pipeline()) as outputs:
            generate(pipeline(), request, faces=models, steps=1, latents=NOISE)
        answers.append(outputs)
    none, first, second, both = answers
    for own in answers:
        assert torch.equal(own[0], none[0])  # the first pass
        assert torch.equal(own[1], none[1])  # global rows
        assert len(own[2]) == 4
    for row in range(4):  # not by rounding either
        assert torch.equal(first[2][row], both[2][row] if row < 2 else none[2][row])
        assert torch.equal(second[2][row], both[2][row] if row >= 2 else none[2][row])
        assert difference(both[2][row], none[2][row]) > VISIBLE


@pytest.mark.parametrize("predict", WAYS)
def test_scale_0_is_off(models, predict):
    """Bit for bit; nothing is read or looked for."""
    off = two_faces(predict=predict)
    for concept in off["concepts"]:
        concept |= {"face_scale": 0, "identitynet": {"scale": 0}, "lora_guidance": 2}
    bare = two_faces(predict=predict)
    for concept in bare["concepts"]:
        del concept["face"]
    with control_rows(identitynet()) as rows:
        result = generate(pipeline(), off, faces=models)
    assert rows == []
    assert models.analysis.looked == 0
    assert torch.equal(result.latents, generate(pipeline(), bare).latents)


@pytest.mark.parametrize("predict", WAYS)
def test_each_scale_is_off_by_itself(models, predict):
    """A face without IdentityNet is what a pipeline that has none draws, and one without image prompt has none."""
    request = two_faces(predict=predict)
    off = {**request, "concepts": [{**each, "identitynet": {"scale": 0}} for each in request["concepts"]]}
    without = FaceModels(models.adapter, None, models.analysis)
    result = generate(pipeline(), off, faces=models)
    assert torch.equal(result.latents, generate(pipeline(), request, faces=without).latents)
    assert difference(result.latents, generate(pipeline(), request, faces=models).latents) > VISIBLE


@pytest.mark.parametrize(("predict", "rows"), [("separate", 4), ("shared", 2), ("joint", 2)])
def test_identitynet_is_asked_for_concepts_rows_alone(folder, predict, rows):
    """In the second pass, at its steps; not for rows without networks, and no row of the UNet comes with it."""
    models = FaceModels(folder, identitynet(), at_both_sides(), draw_points)
    request = two_faces(predict=predict, blend_start=0.35)
    request["concepts"] = [{**each, "prompt": "old man<lora:one>", "identitynet": {"end": 0.8}, "lora_guidance": 1,
                            "negative_prompt": "blue dog"} for each in request["concepts"]]
    with control_rows(identitynet()) as asked, unet_rows(pipeline()) as all_rows:
        generate(pipeline(), request, faces=models, loras=folder, steps=5)
    assert sum(asked) == 3 * rows  # of four steps with concepts
    assert max(asked) <= max(all_rows)
    bare = {**request, "concepts": [{name: value for name, value in each.items() if name not in ("face", "identitynet")}
                                    for each in request["concepts"]]}
    with unet_rows(pipeline()) as plain_rows:
        generate(pipeline(), bare, loras=folder, steps=5)
    assert all_rows == plain_rows


@torch.no_grad()
def test_in_a_joint_row_each_residual_acts_in_its_place(folder, monkeypatch):
    """sum_i M_i r_i on every grid, r_i by the concept's own tokens, pooled prompt and key points."""
    models = FaceModels(folder, identitynet(), at_both_sides(), draw_points)
    asked: list[Any] = []
    sums: list[list[Tensor]] = []
    net_hook = identitynet().register_forward_hook(
        lambda net, args, kwargs, output: asked.append((kwargs, output)), with_kwargs=True)
    ask = IdentityControl.residuals

    def keep(*args: Any) -> list[Tensor]:
        sums.append(ask(*args))
        return sums[-1]

    monkeypatch.setattr(IdentityControl, "residuals", keep)
    regions = given_regions(monkeypatch)
    try:
        generate(pipeline(), two_faces(predict="joint"), faces=models, steps=1)
    finally:
        net_hook.remove()
    assert len(asked) == 2
    tokens = [models.read_adapter().tokens(torch.from_numpy(embedding(seed)), "") for seed in (1, 2)]
    pooled: list[Any] = [encode(pipeline(), text, None, {}).pooled for text in ("old man", "young woman")]
    for number, (own, _) in enumerate(asked):
        assert difference(own["encoder_hidden_states"], tokens[number][:1]) < ROUNDING
        assert difference(own["added_cond_kwargs"]["text_embeds"], pooled[number]) < ROUNDING
        shown = draw_points(SIDES[number].points, (SIZE, SIZE))
        assert torch.equal(own["controlnet_cond"][0], torch.from_numpy(shown.copy()).permute(2, 0, 1).float() / 255)
    weights = regions[0][:, 0]
    assert float((weights.sum(0) - 1).abs().max()) < 1e-5
    assert len(sums) == 1
    for index, total in enumerate(sums[0]):
        each = [[*down, middle][index] for _, (down, middle) in asked]
        maps = torch.nn.functional.adaptive_avg_pool2d(weights, (total.shape[2], total.shape[3]))
        assert difference(total, maps[0] * each[0] + maps[1] * each[1]) < ROUNDING


def test_beside_a_users_control(models):
    """What both say is summed, in whichever order they were added: in a pass of its own IdentityNet comes first."""
    request = {**everywhere("old dog", face=photo(1)), "blend_start": 0.35}
    bare = {**request, "concepts": [{**request["concepts"][0], "identitynet": {"scale": 0}}]}
    whole, prefix, halves, without, alone = (
        generate(pipeline(), {**own, "first_pass": first}, faces=models, controls=controls, steps=4).latents
        for own, first, controls in (
            (request, "whole", [control()]), (request, "prefix", [control()]),
            (request, "whole", [control(scale=0.5), control(scale=0.5)]), (bare, "whole", [control()]),
            (request, "whole", [])))
    assert difference(whole, prefix) < ROUNDING
    assert difference(whole, halves) < ROUNDING
    assert difference(whole, without) > VISIBLE
    assert difference(whole, alone) > VISIBLE
    free = {**everywhere("old dog", face=photo(1)), "control_concepts": False}
    kept = generate(pipeline(), free, faces=models, controls=[control()], latents=NOISE)
    assert difference(kept.latents, generate(pipeline(), free, faces=models, latents=NOISE).latents) < ROUNDING


# --- the passes ---

@pytest.mark.parametrize("predict", WAYS)
def test_rows_do_not_matter(folder, predict):
    """*rows do not matter*: a batch is its single pictures, and calls in parts give what whole ones give."""
    faces = [[face(*LEFT), face(*RIGHT)], [face(*LEFT)]]  # in the second picture one is seen from behind

    def drawn(placed: list[list[Face]], **options: Any) -> OMGOutput:
        models = FaceModels(folder, identitynet(), KnownFaces(placed), draw_points)
        return generate(pipeline(), two_faces(predict=predict), faces=models, steps=2, **options)

    batch = drawn(faces, batch_size=2, seed=10)
    assert ["concepts[1], picture 2: no face was found in its place" in each for each in batch.warnings] == [True]
    for number in (0, 1):
        assert difference(drawn([faces[number]], seed=10 + number).latents[0], batch.latents[number]) < ROUNDING
    assert difference(drawn(faces, batch_size=2, seed=10, rows_per_call=1).latents, batch.latents) < ROUNDING
    assert difference(drawn(faces[:1], batch_size=2, seed=10).latents[1], batch.latents[1]) > VISIBLE


@pytest.mark.parametrize("predict", WAYS)
def test_both_passes_in_one(folder, predict):
    """The face is looked for in what the picture is going to be; all else is the second pass of two."""
    request = two_faces(predict=predict, layout={"cross": 0, "self": 0}, blend_start=0.35)
    whole, prefix = (generate(pipeline(), {**request, "first_pass": first}, steps=5,
                              faces=FaceModels(folder, identitynet(), at_both_sides(), draw_points))
                     for first in ("whole", "prefix"))
    assert difference(prefix.latents, whole.latents) < ROUNDING


def test_the_face_is_looked_for_once_in_each_first_picture(models):
    generate(pipeline(), two_faces(), faces=models, batch_size=2, steps=1)
    assert models.analysis.looked == 2


def test_without_a_face_in_its_place_identitynet_is_left_out(folder):
    """Bit for bit, and it is told."""
    away = FaceModels(folder, identitynet(), KnownFaces([[face(90, 90)]]), draw_points)
    request = two_faces()
    request["concepts"][1]["where"] = {"box": [0.55, 0.1, 1, 0.8]}
    with control_rows(identitynet()) as rows:
        result = generate(pipeline(), request, faces=away)
    assert rows == []
    assert [warning.split(";")[0] for warning in result.warnings] == [
        f"concepts[{index}]: no face was found in its place" for index in (0, 1)]
    none = FaceModels(folder, None, KnownFaces())
    assert torch.equal(result.latents, generate(pipeline(), request, faces=none).latents)


@pytest.mark.parametrize("predict", WAYS)
def test_the_rest_may_have_a_face(folder, predict):
    """Everybody's but the others': it is posed by the largest face in what they leave, as in a box of that shape."""
    models = FaceModels(folder, identitynet(), KnownFaces([[face(), *SIDES]]), draw_points)
    own = {"prompt": "young woman", "face": photo(2)}
    first, options = {"prompt": "old man", "face": photo(1), "where": {"box": [0, 0, 0.65, 1]}}, {
        "blend_start": 0, "mask": {"grow": 0, "feather": 0}, "predict": predict}
    rest, box = (generate(pipeline(), {"concepts": [first, {**own, "where": where}], **options}, faces=models)
                 for where in ({"rest": True}, {"box": [0.65, 0, 1, 1]}))
    assert rest.warnings == box.warnings == []
    assert difference(rest.latents, box.latents) < ROUNDING
    none = {key: value for key, value in own.items() if key != "face"}
    without = generate(pipeline(), {"concepts": [first, {**none, "where": {"rest": True}}], **options}, faces=models)
    assert difference(rest.latents, without.latents) > VISIBLE


def test_tokens_are_made_once_in_a_run(models, monkeypatch):
    made: list[int] = []
    forward = Resampler.forward

    def counted(resampler: Resampler, embeddings: Tensor) -> Tensor:
        made.append(len(embeddings))
        return forward(resampler, embeddings)

    monkeypatch.setattr(Resampler, "forward", counted)
    generate(pipeline(), two_faces(predict="joint"), faces=models, batch_size=2, steps=4)
    assert made == [2, 2]


def test_one_face_in_two_concepts(folder):
    """It is the same as two photos of it; another one in the second concept shows."""
    models = FaceModels(folder, identitynet(), at_both_sides(), draw_points)
    same, other = two_faces(), two_faces()
    same["concepts"][1]["face"] = photo(1)
    results = [generate(pipeline(), each, faces=models).latents for each in (same, same, other)]
    assert torch.equal(results[0], results[1])
    assert difference(results[0], results[2]) > VISIBLE


def test_embeddings_instead_of_photos(folder):
    """Of any width that the adapter reads; nothing analyses them."""
    narrow = adapter_state(pipeline().unet, embedding=16)
    path = folder / "narrow.safetensors"
    save_file(flat(narrow), path)
    request = everywhere("old dog")
    result = generate(pipeline(), request, faces=FaceModels(path),
                      face_embeds={0: torch.from_numpy(embedding(1, 16))})
    assert difference(result.latents, generate(pipeline(), request).latents) > VISIBLE
    photos, embeds = ({**everywhere("old dog"), "concepts": [{**request["concepts"][0], **own}]}
                      for own in ({"face": photo(1)}, {}))
    models = FaceModels(folder, identitynet(), KnownFaces([[face()]]), draw_points)
    assert torch.equal(generate(pipeline(), photos, faces=models).latents,
                       generate(pipeline(), embeds, faces=models,
                                face_embeds={0: torch.from_numpy(embedding(1))}).latents)


def test_several_photos_and_several_faces(models):
    """Several are averaged by direction; of several faces the largest counts, or one from the left."""
    def drawn(**own: Any) -> Tensor:
        return generate(pipeline(), everywhere("old dog", **own), faces=models).latents

    def of(e: np.ndarray) -> Tensor:
        return generate(pipeline(), everywhere("old dog"), faces=models,
                        face_embeds={0: torch.from_numpy(e)}).latents

    assert torch.equal(drawn(face=[photo(1), photo(2)]), of(mean_embedding([embedding(1), embedding(2)])))
    assert torch.equal(drawn(face=[photo(1)]), of(embedding(1)))
    assert torch.equal(drawn(face=photo(3, 4)), of(embedding(4)))
    assert torch.equal(drawn(face=photo(3, 4), face_index=0), of(embedding(3)))
    assert torch.equal(drawn(face=photo(3, 4), face_index=1), of(embedding(4)))


def test_the_mean_of_embeddings():
    one, other = np.array([2, 0], np.float32), np.array([0, 40], np.float32)
    np.testing.assert_allclose(mean_embedding([one, other]), np.array([1, 1]) / 2 ** 0.5 * 21, rtol=1e-6)
    assert mean_embedding([other]) is other


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("predict", WAYS)
def test_half_precision(folder, dtype, predict):
    pipe = copy.deepcopy(pipeline()).to(dtype)
    models = FaceModels(folder, copy.deepcopy(identitynet()).to(dtype), at_both_sides(), draw_points)
    result = generate(pipe, two_faces(predict=predict), faces=models, steps=1)
    assert result.latents.dtype == dtype
    assert result.warnings == []
    assert bool(result.latents.isfinite().all())


def test_half_precision_is_close(folder):
    pipe = copy.deepcopy(pipeline()).to(torch.float16)
    halves = FaceModels(folder, copy.deepcopy(identitynet()).to(torch.float16), at_both_sides(), draw_points)
    whole = FaceModels(folder, identitynet(), at_both_sides(), draw_points)
    half, single = (generate(own, two_faces(), faces=models, steps=2, latents=NOISE).latents
                    for own, models in ((pipe, halves), (pipeline(), whole)))
    assert difference(half.float(), single) < 0.05


def test_a_failure_leaves_nothing(models):
    """*nothing remains*, of an error within IdentityNet too; the ordinary picture is drawn."""
    def fail(model: Any, args: Any) -> None:
        raise RuntimeError("torn cable")

    handle = identitynet().controlnet_mid_block.register_forward_pre_hook(fail)
    try:
        result = generate(pipeline(), two_faces(), faces=models)
    finally:
        handle.remove()
    assert "torn cable" in result.warnings[0]
    assert torch.equal(result.latents, result.first_pass_latents)


def test_no_tensor_remains(models):
    made: list[weakref.ref[Tensor]] = []
    tokens = models.read_adapter().tokens
    face_tokens = tokens(torch.from_numpy(embedding(1)), "")
    made.append(weakref.ref(face_tokens))
    del face_tokens
    generate(pipeline(), two_faces(predict="joint"), faces=models, steps=1)
    gc.collect()
    before = sum(isinstance(each, Tensor) for each in gc.get_objects())
    generate(pipeline(), two_faces(predict="joint"), faces=models, steps=1)
    gc.collect()
    assert sum(isinstance(each, Tensor) for each in gc.get_objects()) <= before
    assert made[0]() is None


# --- models in files ---

@pytest.mark.parametrize("kind", ["folder", "folder of both", "file"])
def test_identitynet_in_files(folder, tmp_path, kind):
    """As the publisher has it, and as the web UI's extension for ControlNet does."""
    if kind == "file":
        path = tmp_path / "control_instant_id_sdxl.safetensors"
        save_file(identitynet().state_dict(), path)
    else:
        identitynet().save_pretrained(tmp_path / "ControlNetModel")
        path = tmp_path / "ControlNetModel" if kind == "folder" else tmp_path
    results = [generate(pipeline(), two_faces(), faces=FaceModels(
        folder, model, at_both_sides(), draw_points)).latents for model in (path, identitynet())]
    assert torch.equal(*results)


# --- whose face it is ---

def box_mask(x0: int, x1: int) -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[:, x0:x1] = 1
    return mask


def test_points_are_fractions_of_the_picture():
    """So that a pass of another size can draw them, too."""
    masks: list[list[Any]] = [[np.ones((40, 80), np.float32)], [None]]
    places = Places(torch.zeros(1, 2, 1, 5, 10), masks)
    posed = ConceptFace(torch.zeros(2, 1, 1), None, [0.0, 1.0])
    blank = np.zeros((40, 80, 3), np.uint8)
    found = find_faces([posed], places, lambda number: blank, lambda pictures: [[face(40, 20)] for _ in pictures])
    points = found.points[0][0]
    assert points is not None
    np.testing.assert_allclose(points * (80, 40), face(40, 20).points, rtol=1e-6)
    assert found.points[1] == [None]
    assert found.warnings == []
    assert find_faces([None], places, lambda number: pytest.fail("looked"), lambda pictures: []) is places


def test_a_folder_of_antelopev2_reads_photos(folder, tmp_path):
    """Through insightface itself, on tiny models that see painted faces; a random picture shows none."""
    write_pack(tmp_path)
    photograph = blank()
    paint(photograph, 320, 320, mark=(-14, 12))
    request = everywhere("old dog", face=picture_text(photograph))
    result = generate(pipeline(), request, faces=FaceModels(folder, identitynet(), tmp_path))
    doubt, missing = result.warnings
    assert doubt.startswith(f"concepts[0].face: {tmp_path / 'glintr100.onnx'} has ")
    assert missing.startswith("concepts[0]: no face was found in its place;")
    analyser = FaceAnalyser.open(tmp_path / "scrfd_10g_bnkps.onnx", tmp_path / "glintr100.onnx", torch.device("cpu"),
                                 "face")
    e = torch.from_numpy(reference(analyser, [photograph], None, "face"))
    given = generate(pipeline(), everywhere("old dog"), faces=FaceModels(folder), face_embeds={0: e})
    assert torch.equal(result.latents, given.latents)


# --- what is refused ---

def refusal(request: dict[str, Any], models: FaceModels | None, **options: Any) -> OMGError:
    """The error, after making sure that nothing was drawn."""
    with unet_rows(pipeline()) as rows, pytest.raises(OMGError) as caught:
        generate(pipeline(), request, faces=models, **options)
    assert not rows
    return caught.value


@pytest.mark.parametrize(("own", "field", "words"), [
    ({"face": "no base64!"}, "concepts[0].face", "not base64"),
    ({"face": [photo(1), "AAAA"]}, "concepts[0].face[1]", "no PNG, JPEG or WebP"),
    ({"face": photo()}, "concepts[0].face", "no face was found in the picture"),
    ({"face": [photo(1), photo()]}, "concepts[0].face[1]", "no face was found"),
    ({"face": photo(1, 2), "face_index": 2}, "concepts[0].face_index", "the picture shows 2 faces"),
])
def test_bad_photos(models, own, field, words):
    error = refusal(everywhere("old dog", **own), models)
    assert error.field == field
    assert words in error.message


def test_missing_models(folder, tmp_path):
    request, e = everywhere("old dog", face=photo(1)), {0: torch.from_numpy(embedding(1))}
    analysis = KnownFaces([[face()]])
    for models, field, words in (
            (None, "concepts[0].face", "faces=FaceModels"),
            (FaceModels(tmp_path), "faces.adapter", "has none of ip-adapter.bin"),
            (FaceModels(tmp_path / "none.bin"), "faces.adapter", "there is no file"),
            (FaceModels(folder), "faces.analysis", "reads whose face it is"),
            (FaceModels(folder, identitynet()), "faces.analysis", "finds the face"),
            (FaceModels(folder, analysis=tmp_path), "faces.analysis", "scrfd_10g_bnkps.onnx"),
            (FaceModels(folder, tmp_path, analysis, draw_points), "faces.identitynet", "has none of ControlNetModel"),
            (FaceModels(folder, tmp_path / "none", analysis, draw_points), "faces.identitynet", "no file or folder"),
            (FaceModels(folder, folder / "one.safetensors", analysis, draw_points), "faces.identitynet",
             "is no ControlNet for this pipeline"),
            (FaceModels(folder, control("sd15").model, analysis, draw_points), "faces.identitynet",
             "cross-attention width is 32")):
        error = refusal(request, models)
        assert (error.field, words in error.message) == (field, True), error
    assert refusal(everywhere("old dog"), FaceModels(folder, identitynet()), face_embeds=e).field == "faces.analysis"
    assert refusal(everywhere("old dog"), FaceModels(folder), face_embeds={1: e[0]}).field == "face_embeds[1]"
    error = refusal(everywhere("old dog"), FaceModels(folder), face_embeds={0: torch.zeros(EMBEDDING + 1)})
    assert error.field == "face_embeds[0]"
    assert "which reads 512 numbers" in error.message


def test_what_an_identitynet_is_to_do_without_one_is_refused(folder):
    models, e = FaceModels(folder), {0: torch.from_numpy(embedding(1))}
    error = refusal(everywhere("old dog", identitynet={"end": 0.5}), models, face_embeds=e)
    assert error.field == "concepts[0].identitynet"
    assert generate(pipeline(), everywhere("old dog", identitynet={"scale": 0}), faces=models, face_embeds=e,
                    steps=1).warnings == []


def test_an_identitynet_that_no_step_falls_to_is_told_of(models):
    request = everywhere("old dog", face=photo(1), identitynet={"start": 0.4, "end": 0.5})
    result = generate(pipeline(), request, faces=models)
    assert [warning[:25] for warning in result.warnings] == ["concepts[0].identitynet: "]


def test_a_control_is_not_an_identitynet(models):
    assert isinstance(control(), Control)
    assert refusal(everywhere("old dog", face=photo(1)), FaceModels(models.adapter, control(), models.analysis,
                                                                   draw_points)).field == "faces.identitynet"
