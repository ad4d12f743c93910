"""The two passes inside the web UI's samplers: its CFG denoiser is a denoiser call, its inner model the UNet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from modules import sd_samplers_common
from modules.sd_samplers_timesteps import CFGDenoiserTimesteps
from torch import Tensor

from ..passes.taps import FirstPass, Pass, SecondPass
from ..unet.networks import ConceptPrediction, ConceptPredictor
from .conditioning import EncodedPrompts, as_host_conditioning


@contextmanager
def taken_over(owner: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """``owner``'s forward method is ``forward`` within the block, on this one object."""
    owner.forward = forward
    try:
        yield
    finally:
        del owner.forward


def progress_of(denoiser: Any, sigma: Tensor) -> float:
    """Fraction of the trajectory that lies behind at a sigma (or at a timestep, for the timestep samplers)."""
    total = len(denoiser.inner_model.inner_model.alphas_cumprod)
    highest = sigma.max()
    timestep = highest if isinstance(denoiser, CFGDenoiserTimesteps) else denoiser.inner_model.sigma_to_t(highest)
    return (total - 1 - float(timestep)) / total


@contextmanager
def first_pass(denoiser: Any, stage: FirstPass) -> Iterator[None]:
    """Sampling within the block is stage 1."""
    evaluate = denoiser.forward

    def forward(x: Tensor, sigma: Tensor, uncond: Any, cond: Any, *args: Any, **kwargs: Any) -> Tensor:
        stage.begin_denoiser_call(progress_of(denoiser, sigma), _cond_rows(cond))
        return evaluate(x, sigma, uncond, cond, *args, **kwargs)

    with taken_over(denoiser, forward), _unet_calls(denoiser, stage):
        yield


@dataclass
class Concepts:
    """What the second pass asks the concepts' models with.

    Attributes:
        predictor: with the concepts' networks.
        prompts: encoded prompts.
        scales: guidance scales; None takes the sampler's.
    """

    predictor: ConceptPredictor
    prompts: Sequence[EncodedPrompts]
    scales: Sequence[float | None]


@contextmanager
def second_pass(denoiser: Any, stage: SecondPass, concepts: Concepts) -> Iterator[None]:
    """Sampling within the block is stage 2."""
    evaluate_global = denoiser.forward
    evaluate_rows = denoiser.inner_model.forward

    def predict(x: Tensor, sigma: Tensor, step: int, cond_scale: float, image_cond: Tensor) -> ConceptPrediction:
        def evaluate(x: Tensor, t: Tensor, cond: dict[str, Tensor], pictures: Sequence[int]) -> Tensor:
            return evaluate_rows(x, t, cond=as_host_conditioning(cond, image_cond[pictures]))

        scales: list[float | None] = [None] * len(concepts.scales)
        if stage.has_uncond:
            scales = [(cond_scale if scale is None else scale) * denoiser.cond_scale_miltiplier
                      for scale in concepts.scales]
        conditionings = [prompts.at(step, denoiser) for prompts in concepts.prompts]
        return concepts.predictor(evaluate, x, sigma, conditionings, scales)

    def forward(x: Tensor, sigma: Tensor, uncond: Any, cond: Any, cond_scale: float, s_min_uncond: float,
                image_cond: Tensor) -> Tensor:
        step = denoiser.step  # the host's own forward goes on to the next
        stage.begin_denoiser_call(progress_of(denoiser, sigma), _cond_rows(cond))
        prediction = evaluate_global(x, sigma, uncond, cond, cond_scale, s_min_uncond, image_cond)
        if not stage.blends:
            return prediction
        predictions = predict(x, sigma, step, cond_scale, image_cond)
        if denoiser.need_last_noise_uncond:  # DDIM CFG++ steps along the unconditional noise
            denoiser.last_noise_uncond = stage.blend(denoiser.last_noise_uncond, predictions.uncond)
        blended = stage.blend(prediction, predictions.guided)
        _show(denoiser, x, blended, sigma)
        return blended

    with taken_over(denoiser, forward), _unet_calls(denoiser, stage):
        yield


@contextmanager
def _unet_calls(denoiser: Any, stage: Pass) -> Iterator[None]:
    model = denoiser.inner_model
    original = model.forward

    def evaluate(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return original(x, t, cond=cond)

    def forward(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return stage.unet_call(evaluate, x, t, cond)

    with taken_over(model, forward):
        yield


def _cond_rows(cond: Any) -> int:
    """Conditional rows in one denoiser call: several per picture if its prompt uses ``AND``."""
    return sum(len(parts) for parts in cond.batch)


def _show(denoiser: Any, x: Tensor, prediction: Tensor, sigma: Tensor) -> None:
    """The live preview, and what an interrupted run returns."""
    picture = denoiser.get_pred_x0(x, prediction, sigma)
    denoiser.sampler.last_latent = picture
    sd_samplers_common.store_latent(picture)

