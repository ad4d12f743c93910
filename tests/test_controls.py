"""ControlNets on the diffusers host: against diffusers' own ControlNet pipelines, and in every kind of row."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, MultiControlNetModel
from PIL import Image
from torch import Tensor

from omg_ext.diffusers import Control, OMGOutput
from omg_ext.diffusers.host import DiffusersHost
from omg_ext.diffusers.prompts import encode, time_ids
from omg_ext.errors import OMGError
from tests.diffusers_host import (
    LATENT,
    PROMPT,
    ROUNDING,
    SIZE,
    assert_untouched,
    difference,
    everywhere,
    generate,
    left_and_right,
    merged,
    pipeline,
    plain,
    small_loras,
    snapshot,
    two_concepts,
    with_scheduler,
    write_lora,
)
from tests.test_invariants import unet_rows

# of diffusers' own schedulers with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

VISIBLE = 1e-2


def controlnet(kind: str = "sdxl", seed: int = 0) -> Any:
    """A tiny ControlNet for the tiny pipeline, one of each seed for all tests."""
    return _controlnet(kind, seed)


@functools.cache
def _controlnet(kind: str, seed: int) -> Any:
    return acting(ControlNetModel.from_unet(pipeline(kind).unet, conditioning_embedding_out_channels=(8, 8, 16, 16)),
                  seed)


@torch.no_grad()
def acting(model: Any, seed: int = 0) -> Any:
    """A ControlNet that acts, and sees its picture: as initialised it gives zeros, and its biases outshine pictures."""
    generator = torch.Generator().manual_seed(seed)
    seeing: list[Any] = [layer for layer in model.controlnet_cond_embedding.modules()
                         if isinstance(layer, torch.nn.Conv2d)]
    saying = [*model.controlnet_down_blocks, model.controlnet_mid_block]
    for layers, gain in ((seeing, 1.7), (saying, 0.7)):
        for layer in layers:
            noise = torch.randn(layer.weight.shape, generator=generator)
            layer.weight.copy_(gain * noise / layer.weight[0].numel() ** 0.5)
            layer.bias.zero_()
    return model.eval()


@functools.cache
def picture(seed: int = 0) -> Image.Image:
    """White lines, in another size and shape than what is drawn."""
    pixels = np.random.default_rng(seed).integers(0, 2, (10, 14, 3), dtype=np.uint8) * 255
    return Image.fromarray(pixels).resize((140, 100), Image.Resampling.NEAREST)


def control(kind: str = "sdxl", seed: int = 0, **options: Any) -> Control:
    return Control(controlnet(kind, seed), picture(seed), **options)


def reference(pipe: Any, controls: list[Control], prompt: str = PROMPT, *, steps: int = 3, cfg_scale: float = 7.5,
              batch_size: int = 1, seed: int = 0, negative_prompt: str | None = None) -> Tensor:
    """The latents of diffusers' own ControlNet pipeline."""
    is_xl = hasattr(pipe, "text_encoder_2")
    several = len(controls) > 1
    models, pictures, scales, starts, ends = (
        [getattr(each, name) for each in controls] for name in ("model", "picture", "scale", "start", "end"))
    one_or_all: Any = (lambda values: values) if several else (lambda values: values[0])
    kind = "StableDiffusionXLControlNetPipeline" if is_xl else "StableDiffusionControlNetPipeline"
    own = getattr(diffusers, kind)(**pipe.components, controlnet=one_or_all(models), **(
        {"add_watermarker": False} if is_xl else {"requires_safety_checker": False}))
    own.set_progress_bar_config(disable=True)
    negatives = None if negative_prompt is None else [negative_prompt] * batch_size
    return own([prompt] * batch_size, negative_prompt=negatives, image=one_or_all(pictures),
               controlnet_conditioning_scale=one_or_all(scales),
               control_guidance_start=starts, control_guidance_end=ends, guess_mode=controls[0].guess_mode,
               height=SIZE, width=SIZE, num_inference_steps=steps, guidance_scale=cfg_scale,
               generator=[torch.Generator().manual_seed(seed + index) for index in range(batch_size)],
               output_type="latent").images


@contextmanager
def control_rows(model: Any) -> Iterator[list[int]]:
    """Yields a list that grows by the number of rows of each call of a ControlNet."""
    rows: list[int] = []
    handle = model.register_forward_pre_hook(lambda model, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def loras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_loras(tmp_path_factory.mktemp("loras"))


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """*nothing remains*: whatever happens in a test, pipelines and ControlNets are as they were."""
    models = [(pipeline(), controlnet()), (pipeline("sdxl"), controlnet(seed=1)),
              (pipeline("sd15"), controlnet("sd15"))]
    before = [(snapshot(pipe), {name: value.clone() for name, value in model.state_dict().items()},
               [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()])
              for pipe, model in models]
    yield
    for (pipe, model), (state, weights, hooks) in zip(models, before, strict=True):
        assert_untouched(pipe, state)
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
        assert [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()] == hooks


# --- the ordinary picture is that of diffusers' own pipelines ---

CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    # name: (options of each control, of the call)
    "one": ([{}], {}),
    "span": ([{"start": 0.2, "end": 0.7}], {"steps": 5}),
    "several": ([{"scale": 0.4, "end": 0.7}, {"scale": 1.2, "start": 0.2}], {"steps": 5}),
    "several that guess": ([{"guess_mode": True, "scale": 0.8}, {"guess_mode": True, "start": 0.3}], {}),
    "batch": ([{}, {"start": 0.4}], {"batch_size": 2}),
    "batch with pictures of their own": ([{"picture": [picture(3), picture(4)]}], {"batch_size": 2}),
    "batch that guesses": ([{"guess_mode": True}], {"batch_size": 2}),
    "no guidance, guess": ([{"guess_mode": True}], {"cfg_scale": 1.0}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_the_ordinary_picture_is_that_of_diffusers(kind, case):
    each, options = CASES[case]
    pipe = pipeline(kind)
    controls = [Control(controlnet(kind, number), **{"picture": picture(number), **own})
                for number, own in enumerate(each)]
    result = generate(pipe, {"concepts": left_and_right(), "blend_start": 1}, controls=controls, seed=4, **options)
    expected = reference(pipe, controls, seed=4, **options)
    assert difference(result.first_pass_latents, expected) < ROUNDING
    assert torch.equal(result.latents, result.first_pass_latents)


@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_everything_in_it_matters(kind):
    """What is compared would show each of: the ControlNet, its picture, scale and span, guessing, and its prompt."""
    pipe, usual = pipeline(kind), control(kind)
    expected = reference(pipe, [usual])
    others = {"none": plain(pipe), "weak": reference(pipe, [control(kind, scale=0.8)]),
              "picture": reference(pipe, [Control(usual.model, picture(1))]),
              "late": reference(pipe, [control(kind, start=0.3)]), "early": reference(pipe, [control(kind, end=0.4)]),
              "guess": reference(pipe, [control(kind, guess_mode=True)]),
              "two": reference(pipe, [usual, control(kind, 1)]), "prompt": reference(pipe, [usual], "old dog")}
    effects = {name: difference(other, expected) for name, other in others.items()}
    assert min(effects.values()) > VISIBLE, effects


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "EulerAncestralDiscreteScheduler", "PNDMScheduler"])
def test_a_span_counts_the_timesteps_of_any_scheduler(name):
    """Heun's asks the model nine times in five steps; Euler's timesteps are no whole numbers."""
    pipe = with_scheduler(pipeline(), getattr(diffusers, name))
    controls = [control(start=0.15, end=0.75)]
    result = generate(pipe, {"concepts": left_and_right(), "blend_start": 1}, controls=controls, steps=5)
    assert difference(result.latents, reference(pipe, controls, steps=5)) < ROUNDING


def test_a_model_that_pools_what_it_sees():
    """It guesses, asked or not, as in diffusers; its residuals have no extent and add to those of another."""
    model = copy.deepcopy(controlnet(seed=5))
    model.register_to_config(global_pool_conditions=True)
    pooling = Control(model, picture())
    for controls in ([pooling], [control(guess_mode=True), pooling]):
        result = generate(pipeline(), {"concepts": left_and_right(), "blend_start": 1}, controls=controls)
        assert difference(result.latents, reference(pipeline(), controls)) < ROUNDING


def test_half_precision():
    """In what is drawn with concepts, too."""
    pipe = copy.deepcopy(pipeline()).to(torch.float16)
    controls = [Control(copy.deepcopy(controlnet()).to(torch.float16), picture())]
    result = generate(pipe, everywhere("old dog"), controls=controls)
    assert result.latents.dtype == torch.float16
    assert result.warnings == []
    assert difference(result.first_pass_latents, reference(pipe, controls)) < 0.02  # half precision's rounding
    assert difference(result.latents, reference(pipe, controls, "old dog")) < 0.02


def test_a_controlnet_of_another_precision():
    """It is asked in its own, which diffusers would fail at."""
    wide = Control(copy.deepcopy(controlnet()).double(), picture())
    request = {"concepts": left_and_right(), "blend_start": 0}
    result = generate(pipeline(), request, controls=[wide])
    assert result.latents.dtype == torch.float32
    assert result.warnings == []
    assert difference(result.latents, generate(pipeline(), request, controls=[control()]).latents) < ROUNDING


@pytest.mark.parametrize("made", [
    lambda pixels: pixels, lambda pixels: pixels.astype(np.float32) / 255, lambda pixels: [Image.fromarray(pixels)]],
    ids=["uint8", "floats", "list of one"])
def test_kinds_of_pictures(made):
    pixels = np.asarray(picture().resize((SIZE, SIZE)))
    request = {"concepts": left_and_right(), "blend_start": 1}
    result, expected = (generate(pipeline(), request, controls=[Control(controlnet(), each)], steps=1).latents
                        for each in (made(pixels), Image.fromarray(pixels)))
    assert difference(result, expected) < ROUNDING


def test_grey_pictures():
    grey = np.asarray(picture().convert("L").resize((SIZE, SIZE)))
    request = {"concepts": left_and_right(), "blend_start": 1}
    results = [generate(pipeline(), request, controls=[Control(controlnet(), each)], steps=1).latents
               for each in (grey, grey[..., None], grey.astype(np.float64) / 255, Image.fromarray(grey))]
    for result in results[:-1]:
        assert difference(result, results[-1]) < ROUNDING


# --- concept rows are controlled ---

@pytest.mark.parametrize("options", [{"start": 0.3, "scale": 0.7}, {"guess_mode": True}], ids=str)
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_one_concept_everywhere_is_an_ordinary_picture(tmp_path, kind, options):
    """*everywhere is plain*, with ControlNets."""
    pipe = pipeline(kind)
    path = write_lora(pipe, tmp_path / "one.safetensors")
    controls = [control(kind, **options), control(kind, 1, **options)]
    request = everywhere("sks man<lora:one>", negative_prompt="blue dog")
    result = generate(pipe, request, loras=tmp_path, controls=controls)
    with merged(pipe, path):
        expected = reference(pipe, controls, "sks man", negative_prompt="blue dog")
    assert difference(result.latents, expected) < ROUNDING


class Literal:
    """Pictures of a concept that is everywhere, each row by the equations. The ControlNet is shown :func:`picture`.

    Attributes:
        acts_on_uncond: whether the ControlNet acts on the unconditional row.
    """

    def __init__(self, pipe: Any, one: Control, acts_on_uncond: bool):
        self.pipe, self.control, self.acts_on_uncond = pipe, one, acts_on_uncond
        pixels = np.asarray(picture().resize((SIZE, SIZE), Image.Resampling.LANCZOS))
        self.hint = torch.from_numpy(pixels / 255).permute(2, 0, 1)[None].float()
        self.embeds = {prompt: encode(pipe, prompt, "red cat", {}) for prompt in ("old dog", PROMPT)}

    def inputs(self, prompt: str | None) -> dict[str, Any]:
        """Those of a prompt, or with None of the negative one."""
        embeds = self.embeds[prompt or PROMPT]
        context, pooled = (embeds.cond, embeds.pooled) if prompt is not None else (embeds.uncond, embeds.pooled_uncond)
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": time_ids(SIZE, SIZE, embeds)}
        return {"encoder_hidden_states": context, "added_cond_kwargs": added}

    def row(self, x: Tensor, t: Tensor, prompt: str | None, controlled: str | None) -> Tensor:
        """The prediction for a prompt, where the ControlNet attends to another."""
        down, middle = self.control.model(x, t, controlnet_cond=self.hint, **self.inputs(controlled),
                                          guess_mode=self.control.guess_mode, return_dict=False)
        output: Tensor = self.pipe.unet(x, t, down_block_additional_residuals=down,
                                        mid_block_additional_residual=middle, **self.inputs(prompt))[0]
        return output

    def uncond_row(self, x: Tensor, t: Tensor) -> Tensor:
        if self.acts_on_uncond:
            return self.row(x, t, None, None)
        output: Tensor = self.pipe.unet(x, t, **self.inputs(None))[0]
        return output

    def latents(self, noise: Tensor, controlled: str) -> Tensor:
        """Of two DDIM steps with guidance, where the ControlNet attends to a prompt."""
        scheduler, x = self.pipe.scheduler, noise
        scheduler.set_timesteps(2)
        for t in scheduler.timesteps:
            uncond = self.uncond_row(x, t)
            x = scheduler.step(uncond + 5 * (self.row(x, t, "old dog", controlled) - uncond), t, x).prev_sample
        return x


@torch.no_grad()
@pytest.mark.parametrize(("predict", "guesses", "cfg_scale"), [
    ("separate", False, 7), ("shared", False, 7), ("joint", False, 7),
    # the picture has no unconditional row that the joint one could start from
    ("shared", True, 1), ("joint", True, 1)])
@pytest.mark.parametrize("kind", ["sdxl", "sd15"])
def test_what_a_controlnet_attends_to(kind, predict, guesses, cfg_scale):
    """In a concept's own row its prompt, in the joint row the global one. What guesses leaves unconditional rows be."""
    pipe, noise = pipeline(kind), torch.randn(1, 4, LATENT, LATENT, generator=torch.Generator().manual_seed(0))
    one = control(kind, guess_mode=guesses)
    literal = Literal(pipe, one, acts_on_uncond=not guesses)
    request = {**everywhere("old dog", cfg_scale=5), "predict": predict}
    result = generate(pipe, request, negative_prompt="red cat", controls=[one], steps=2, latents=noise,
                      cfg_scale=cfg_scale).latents
    right, wrong = PROMPT, "old dog"
    if predict != "joint":
        right, wrong = wrong, right
    assert difference(result, literal.latents(noise, right)) < ROUNDING
    assert difference(result, literal.latents(noise, wrong)) > 10 * ROUNDING


@pytest.mark.parametrize("predict", ["separate", "shared", "joint"])
def test_every_row_of_every_way_is_asked_for(loras, predict):
    """As many rows of the ControlNet as of the UNet; when it guesses, the conditional ones."""
    request = two_concepts(predict=predict)
    request["concepts"][1] |= {"negative_prompt": "dog", "lora_guidance": 1}
    for guesses, cfg_scale, rows in (
            (False, 7, {"separate": 5, "shared": 4, "joint": 3}), (True, 7, {"separate": 3, "shared": 3, "joint": 2}),
            (True, 1, {"separate": 3, "shared": 3, "joint": 2})):
        with control_rows(controlnet()) as asked, unet_rows(pipeline()) as all_rows:
            generate(pipeline(), request, loras=loras, controls=[control(guess_mode=guesses)], steps=2,
                     cfg_scale=cfg_scale)
        assert sum(asked) == (2 * 1 + 2 * (1 + rows[predict]) if guesses else 2 * 2 + 2 * (2 + rows[predict]))
        if not guesses:
            assert asked == all_rows


@pytest.mark.parametrize(("predict", "guesses"), [("separate", True), ("shared", False), ("joint", True)])
def test_rows_do_not_matter(loras, predict, guesses):
    """*rows do not matter*: a batch is its single pictures, and calls in parts give what whole ones give."""
    request = two_concepts(predict=predict)
    pictures = [picture(3), picture(4)]

    def drawn(shown: Any, **options: Any) -> Tensor:
        controls = [Control(controlnet(), shown, guess_mode=guesses), control(seed=1, scale=0.5)]
        return generate(pipeline(), request, loras=loras, controls=controls, steps=2, **options).latents

    batch = drawn(pictures, batch_size=2, seed=10)
    for number in (0, 1):
        assert difference(drawn(pictures[number], seed=10 + number)[0], batch[number]) < ROUNDING
    assert difference(drawn(pictures, batch_size=2, seed=10, rows_per_call=1), batch) < ROUNDING
    assert difference(drawn(pictures[0], seed=11)[0], batch[1]) > VISIBLE


# --- the passes ---

@pytest.mark.parametrize("guesses", [False, True])
def test_queries_that_are_made_again_are_the_first_passs(guesses):
    """*replay*: rows that repeat the first pass are controlled too, or their attention would be another."""
    request = {"concepts": left_and_right(), "blend_start": 0, "layout": {"cross": 1, "self": 1}}
    kept, again = (generate(pipeline(), request, controls=[control(guess_mode=guesses)], budgets=budgets, batch_size=2)
                   for budgets in ((2**40, 0), (0, 0)))
    assert difference(again.latents, kept.latents) < ROUNDING


def test_an_empty_second_pass():
    """The model is really run in the second pass: it meets the same latents, noise, timesteps and control."""
    nothing = [{"prompt": "dog", "where": {"box": [0, 0, 1, 1]}, "strength": 0}]
    result = generate(pipeline(), {"concepts": nothing, "blend_start": 0.4, "layout": {"cross": 0, "self": 0}}, steps=5,
                      controls=[control(end=0.7)])
    assert difference(result.latents, result.first_pass_latents) < 1e-3


@pytest.mark.parametrize("predict", ["separate", "joint"])
def test_a_control_that_ends_in_the_prefix(predict):
    """The first pass's memory answers, so it is asked in that pass alone; after it the rows are those without it."""
    request = {"concepts": left_and_right(), "blend_start": 0.45, "predict": predict}
    with control_rows(controlnet()) as rows, unet_rows(pipeline()) as all_rows:
        result = generate(pipeline(), request, controls=[control(end=0.4)], steps=5)
    assert rows == [2, 2]
    with unet_rows(pipeline()) as uncontrolled:
        without = generate(pipeline(), request, steps=5)
    assert all_rows == uncontrolled
    assert difference(result.latents, without.latents) > VISIBLE
    assert torch.equal(result.first_pass_latents, generate(
        pipeline(), {**request, "blend_start": 1}, controls=[control(end=0.4)], steps=5).latents)


@pytest.mark.parametrize("predict", ["separate", "shared", "joint"])
def test_both_passes_in_one(loras, predict):
    """Without the layout's replay it is the second pass of two."""
    request = two_concepts(predict=predict, layout={"cross": 0, "self": 0}, blend_start=0.35)
    whole, prefix = (generate(pipeline(), {**request, "first_pass": first}, loras=loras, controls=[control(end=0.8)],
                              steps=5) for first in ("whole", "prefix"))
    assert difference(prefix.latents, whole.latents) < ROUNDING


def test_a_request_that_is_switched_off():
    result = generate(pipeline(), {**everywhere("dog<lora:nobody>"), "enabled": False}, controls=[control()])
    assert difference(result.latents, reference(pipeline(), [control()])) < ROUNDING
    assert torch.equal(result.latents, result.first_pass_latents)


@pytest.mark.parametrize("options", [{"scale": 0}, {"start": 0.4, "end": 0.5}], ids=str)
def test_what_does_not_act_changes_nothing(loras, options):
    """Bit for bit. One that no step falls to is told of."""
    with control_rows(controlnet()) as rows:
        result = generate(pipeline(), two_concepts(), loras=loras, controls=[control(**options)])
    assert rows == []
    assert torch.equal(result.latents, generate(pipeline(), two_concepts(), loras=loras).latents)
    assert [warning[:12] for warning in result.warnings] == ["controls[0]:"] * ("start" in options)


def test_comprehension_looks_without_control(monkeypatch):
    """The contrast of words is asked of the model alone, while the pictures are controlled."""
    looked: list[bool] = []
    look = DiffusersHost.look

    def keep(host: DiffusersHost, *args: Any) -> Tensor:
        before = len(asked)
        output = look(host, *args)
        looked.append(len(asked) == before)
        return output

    monkeypatch.setattr(DiffusersHost, "look", keep)
    request = {"concepts": [{"prompt": "old man", "phrase": "man"}], "detector": "contrast", "blend_start": 0}
    with control_rows(controlnet()) as asked:
        generate(pipeline(), request, controls=[control()])
    assert looked
    assert all(looked)
    assert len(asked) >= 3


@pytest.mark.parametrize("first_pass", ["whole", "prefix"])
def test_a_failed_second_pass_leaves_the_ordinary_picture(loras, first_pass):
    """*nothing remains*, of an error within the ControlNet too; the ordinary picture is controlled."""
    calls = iter(range(100))

    def fail(model: Any, args: Any) -> None:
        if next(calls) == 4:
            raise RuntimeError("torn cable")

    handle = controlnet().controlnet_mid_block.register_forward_pre_hook(fail)
    try:
        result = generate(pipeline(), two_concepts(first_pass=first_pass), loras=loras, controls=[control()])
    finally:
        handle.remove()
    assert "torn cable" in result.warnings[0]
    ordinary = generate(pipeline(), {"concepts": left_and_right(), "blend_start": 1}, controls=[control()])
    assert torch.equal(result.latents, ordinary.latents)


# --- what is refused ---

def refusal(kind: str = "sdxl", **options: Any) -> OMGError:
    """The error, after making sure that the UNet was not asked once."""
    with unet_rows(pipeline(kind)) as rows, pytest.raises(OMGError) as caught:
        generate(pipeline(kind), {"concepts": left_and_right()}, **options)
    assert not rows
    return caught.value


@pytest.mark.parametrize(("options", "field", "words"), [
    ({"scale": float("nan")}, "controls[0].scale", "a number"),
    ({"scale": "1"}, "controls[0].scale", "a number"),
    ({"scale": True}, "controls[0].scale", "a number"),
    ({"start": -0.1}, "controls[0].start", "from 0 to 1"),
    ({"end": 1.5}, "controls[0].end", "from 0 to 1"),
    ({"start": 0.6, "end": 0.4}, "controls[0].start", "less than the end (0.4)"),
    ({"start": 0.5, "end": 0.5}, "controls[0].start", "less than the end"),
    ({"picture": "edges.png"}, "controls[0].picture", "got str"),
    ({"picture": None}, "controls[0].picture", "PIL picture"),
    ({"picture": torch.zeros(3, 8, 8)}, "controls[0].picture", "got Tensor of shape (3, 8, 8)"),
    ({"picture": np.zeros((1, 8, 8, 3))}, "controls[0].picture", "of shape (1, 8, 8, 3)"),
    ({"picture": np.zeros((0, 8, 3))}, "controls[0].picture", "of shape (0, 8, 3)"),
    ({"picture": np.full((8, 8, 3), 255.0)}, "controls[0].picture", "floats from 0 to 1"),
    ({"picture": np.full((8, 8, 3), np.nan)}, "controls[0].picture", "floats from 0 to 1"),
    ({"picture": np.zeros((8, 8, 3), dtype=np.int64)}, "controls[0].picture", "int64"),
    ({"picture": np.zeros((8, 8, 2), dtype=np.uint8)}, "controls[0].picture", "2 channels"),
    ({"picture": np.zeros((8, 8, 4), dtype=np.float32)}, "controls[0].picture", "4 channels, the ControlNet reads 3"),
    ({"picture": []}, "controls[0].picture", "got 0 pictures for a batch of 1"),
    ({"picture": [picture(), picture()]}, "controls[0].picture", "one for each"),
    ({"picture": [4]}, "controls[0].picture[0]", "got int"),
    ({"model": "canny"}, "controls[0].model", "ControlNetModel.from_pretrained"),
])
def test_bad_controls(options, field, words):
    error = refusal(controls=[Control(**{"model": controlnet(), "picture": picture(), **options})])
    assert error.field == field
    assert words in error.message


def test_bad_controls_among_good_ones():
    assert refusal(controls=[control(), control(start=2)]).field == "controls[1].start"
    assert refusal(controls=[control(), controlnet()]).field == "controls[1]"
    assert refusal(controls=control()).field == "controls"
    error = refusal(controls=[Control(controlnet(), [picture()] * 3)], batch_size=2)
    assert "3 pictures for a batch of 2" in error.message
    mixed = [np.zeros((8, 8, 3), dtype=np.float32), np.zeros((8, 8, 5), dtype=np.float32)]
    assert "channels" in refusal(controls=[Control(controlnet(), mixed)], batch_size=2).message


def test_other_classes_of_controlnets():
    error = refusal(controls=[Control(MultiControlNetModel([controlnet()]), picture())])
    assert error.field == "controls[0].model"
    assert "got MultiControlNetModel; give each of its nets as a control of its own" in error.message


@pytest.mark.parametrize(("loaded", "other", "words"), [
    ("sdxl", "sd15", "cross-attention width is 32, the pipeline's 64; take a ControlNet for SDXL"),
    ("sd15", "sdxl", "cross-attention width is 64, the pipeline's 32; take a ControlNet for SD 1.5")])
def test_a_controlnet_for_another_kind_of_model(loaded, other, words):
    error = refusal(loaded, controls=[control(other)])
    assert error.field == "controls[0].model"
    assert words in error.message


def _plain(model: Any) -> dict[str, Any]:
    """A model's options, from which one that differs in some can be made."""
    return {name: value for name, value in model.config.items() if name != "_use_default_values"}


def test_a_controlnet_of_another_size():
    """One of equal widths that would fail within the UNet, and one that asks for what SD 1.5 does not have."""
    config = _plain(pipeline("sd15").unet)
    smaller = {**config, "layers_per_block": 1}
    model = ControlNetModel.from_unet(diffusers.UNet2DConditionModel.from_config(smaller))
    error = refusal("sd15", controls=[Control(model, picture())])
    assert "its list of channels is 32, 32, 32, 32, 32, 64, 64, 64, the pipeline's 32, 32, 32," in error.message
    sized = diffusers.UNet2DConditionModel.from_config({
        **config, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80})
    error = refusal("sd15", controls=[Control(ControlNetModel.from_unet(sized), picture())])
    assert "size and pooled prompt width is 80, the pipeline's none; take a ControlNet for SD 1.5" in error.message


def test_a_controlnet_without_attention():
    """The small ones for SDXL have none, nor an embedding of sizes, and need neither."""
    config = {**_plain(controlnet()), "down_block_types": ("DownBlock2D",) * 3, "mid_block_type": "UNetMidBlock2D",
              "addition_embed_type": None}
    torch.manual_seed(0)
    controls = [Control(acting(ControlNetModel.from_config(config)), picture())]
    result: OMGOutput = generate(pipeline(), {"concepts": left_and_right(), "blend_start": 1}, controls=controls)
    assert difference(result.latents, reference(pipeline(), controls)) < ROUNDING


def test_a_controlnet_on_another_device():
    model = copy.deepcopy(controlnet()).to("meta")
    error = refusal(controls=[Control(model, picture())])
    assert error.field == "controls[0].model"
    assert 'on "meta", the pipeline on "cpu"' in error.message


# --- concepts that are kept free of it ---

FREE = {"control_concepts": False}


@pytest.mark.parametrize("guess_mode", [False, True])
def test_a_concept_everywhere_that_is_kept_free_is_plain(loras, guess_mode):
    """*everywhere is plain*, with nothing of the control but in the first picture."""
    pipe = pipeline()
    result = generate(pipe, {**everywhere("old man<lora:one>"), **FREE}, loras=loras,
                      controls=[control(guess_mode=guess_mode)])
    with merged(pipe, loras / "one.safetensors", 1.0, 1.0):
        expected = plain(pipe, "old man")
    assert difference(result.latents, expected) < ROUNDING
    assert difference(result.first_pass_latents, plain(pipe)) > VISIBLE


@pytest.mark.parametrize("predict", ["shared", "joint"])
def test_concepts_that_are_kept_free_are_not_guided_away_from_it(loras, predict):
    """The picture's unconditional prediction has the control, so it is none for them: they have one of their own."""
    places = {**two_concepts(), "concepts": [{**each, "where": {"box": [0, 0, 1, 1]}} for each in
                                             two_concepts()["concepts"]],
              "layout": {"cross": 0, "self": 0}, "mask": {"grow": 0, "feather": 0}, "predict": predict}
    own = {**places, "concepts": [{**each, "negative_prompt": "dog"} for each in places["concepts"]]}
    without = generate(pipeline(), own, loras=loras, negative_prompt="dog")
    with_it = generate(pipeline(), {**places, **FREE}, loras=loras, negative_prompt="dog", controls=[control()])
    assert difference(with_it.latents, without.latents) < ROUNDING
