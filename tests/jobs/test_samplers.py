"""The web UI's samplers on diffusers: their names, and that they compute what they do in the web UI."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from omg_ext.diffusers import samplers
from omg_ext.diffusers.levels import LEVELS, Model
from omg_ext.diffusers.samplers import AUTOMATIC, SAMPLERS, SCHEDULERS, sampling
from omg_ext.errors import OMGError
from tests.jobs.kdiffusion import WebUISamplers, web_ui_samplers

# of a checkpoint, with what some say and samplers must not take over
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "epsilon",
          "steps_offset": 1, "clip_sample": True, "timestep_spacing": "leading", "use_karras_sigmas": True,
          "set_alpha_to_one": True}
ON_LEVELS = [name for name, sampler in SAMPLERS.items() if not sampler.has_own_timesteps]
ADDS_NOISE = ("DPM++ SDE", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE", "Euler a", "DPM2 a")
# how near samplers come to the solution in 120 steps, where not to 0.0025: most of them are of first order
NEAR = {"Euler": 0.02, "Euler a": 0.1, "DDIM": 0.02, "DPM2 a": 0.1, "UniPC": 5e-3}
# standard deviation of the data that the model of these tests knows
DATA = 0.7


@pytest.fixture
def silent(monkeypatch):
    """What samplers add of noise is zero."""
    def nothing(shape: Any, *unused: Any, **options: Any) -> Tensor:
        return torch.zeros(shape)

    for module in ("dpmsolver_multistep", "euler_ancestral_discrete", "k_dpm_2_ancestral_discrete", "lcm"):
        monkeypatch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", nothing)
    monkeypatch.setattr("diffusers.schedulers.scheduling_dpmsolver_sde.BrownianTreeNoiseSampler",
                        lambda x, *unused: lambda *levels: torch.zeros_like(x))


@pytest.fixture(scope="module")
def web_ui(installation: Path) -> Iterator[WebUISamplers]:
    with web_ui_samplers(installation) as modules:
        yield modules


def alphas() -> Tensor:
    return DDIMScheduler.from_config({name: CONFIG[name] for name in ("beta_start", "beta_end", "beta_schedule")}
                                     ).alphas_cumprod


def scheduler_of(sampler: str, scheduler: str = AUTOMATIC, seed: int = 0, **config: Any) -> Any:
    return samplers.scheduler(sampling(sampler, scheduler), {**CONFIG, **config}, is_sdxl=True, seed=seed)


def predict(x: Tensor, t: Tensor) -> Tensor:
    """A smooth prediction of noise that depends on everything."""
    weights = torch.sin(torch.arange(16.0)).view(4, 4)
    mixed = torch.einsum("ij,bjhw->bihw", weights, x) * (1 + 0.3 * torch.cos(t.view(-1, 1, 1, 1).to(x) / 150))
    return torch.tanh(mixed) + 0.2 * x


def sampled(scheduler: Any, steps: int, noise: Tensor, prediction: Any = predict) -> Tensor:
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(prediction(scheduler.scale_model_input(x, t), t.expand(1)), t, x).prev_sample
    return x


def noise_of(seed: int = 0) -> Tensor:
    return torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(seed))


@pytest.mark.webui
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("sampler", ON_LEVELS)
def test_a_sampling_is_the_web_uis(web_ui, silent, sampler, scheduler):
    for steps in (7, 20):
        wanted = web_ui.sample(sampling(sampler, scheduler), steps, predict, noise_of(), alphas())
        assert (sampled(scheduler_of(sampler, scheduler), steps, noise_of()) - wanted).abs().max() < 1e-4 * wanted.std()


@pytest.mark.webui
@pytest.mark.parametrize("steps", [3, 7, 20, 30])
@pytest.mark.parametrize("sampler", ["DDIM", "PLMS", "UniPC"])
def test_a_sampling_on_timesteps_of_its_own_is_the_web_uis(web_ui, sampler, steps):
    wanted = web_ui.sample(sampling(sampler), steps, predict, noise_of(), alphas())
    assert (sampled(scheduler_of(sampler), steps, noise_of()) - wanted).abs().max() < 1e-4 * wanted.std()


def known_prediction(power: int, x: Tensor, t: Tensor) -> Tensor:
    """The noise in latents of unit variance, of which 1 / (1 + (s / d)^power) is data: 2 is a normal distribution."""
    level = level_at(t)
    return x * (1 + level ** 2) ** 0.5 / level * (1 - 1 / (1 + (level / DATA) ** power))


def level_at(t: Tensor) -> float:
    kept = alphas().double().numpy()
    return float(np.exp(np.interp(float(t), np.arange(1000), np.log((1 - kept) / kept) / 2)))


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "LCM"])
def test_a_sampling_solves_its_equation(silent, sampler):
    """The probability flow dx/ds = predicted noise; with the noise that samplers add left out, twice that.

    The power is such that the data seen on the way is not the same everywhere, for which any order would do.
    """
    scheduler, noise = scheduler_of(sampler, "Exponential"), noise_of()
    power, speed = (1, 2) if sampler in ADDS_NOISE else (2, 1)
    found = sampled(scheduler, 120, noise, partial(known_prediction, power))
    if sampling(sampler).sampler.has_own_timesteps:
        first, last = level_at(scheduler.timesteps[0]), level_at(torch.tensor(0 if sampler == "UniPC" else 1))
        scale = (1 + first ** 2) ** 0.5 / (1 + last ** 2) ** 0.5  # these keep latents at unit variance
    else:
        first, last = float(scheduler.sigmas[0]), float(scheduler.sigmas[scheduler.sigmas > 0].min())
        scale = first / (1 + (last / DATA) ** power)  # at the end they take the data that is seen then
    wanted = noise * scale * ((DATA ** power + last ** power) / (DATA ** power + first ** power)) ** (speed / power)
    assert torch.allclose(found, wanted, rtol=NEAR.get(sampler, 2.5e-3))


@pytest.mark.parametrize("scheduler", LEVELS)
def test_levels_fall_from_the_models_noise(scheduler):
    kept = alphas().double().numpy()
    model = Model(np.sqrt((1 - kept) / kept), True)
    for count in (2, 11, 30):
        levels = LEVELS[scheduler](model, count)
        assert len(levels) == count or (scheduler == "DDIM" and len(levels) >= count)
        assert (np.diff(levels) < 0).all()
        assert levels[-1] > 0
        # Align Your Steps has numbers of its own
        assert levels[0] == pytest.approx(model.sigmas[-1], rel=1e-3) or scheduler == "DDIM"


def test_karras_levels_are_those_of_the_paper():
    model = Model(np.array([0.03, 1.0, 15.0]), True)
    wanted = [(15 ** (1 / 7) + index / 4 * (0.03 ** (1 / 7) - 15 ** (1 / 7))) ** 7 for index in range(5)]
    assert LEVELS["Karras"](model, 5) == pytest.approx(wanted)


@pytest.mark.parametrize(("given", "sampler", "scheduler"), [
    (("DPM++ 2M", "Automatic"), "DPM++ 2M", "Karras"), (("DPM++ 2M Karras", "Automatic"), "DPM++ 2M", "Karras"),
    (("DPM++ 2M SDE Karras",), "DPM++ 2M SDE", "Karras"), (("dpm++ 3m sde karras",), "DPM++ 3M SDE", "Karras"),
    (("Euler a", "Automatic"), "Euler a", "Automatic"), (("k_euler_a", "SGMUniform"), "Euler a", "SGM Uniform"),
    (("DPM++ 2M SDE", "Automatic"), "DPM++ 2M SDE", "Exponential"), (("Euler", "beta"), "Euler", "Beta"),
    (("DPM++ 2M SDE Heun",), "DPM++ 2M SDE Heun", "Exponential"), (("DPM2 a",), "DPM2 a", "Karras"),
    (("Heun", ""), "Heun", "Automatic"), (("DDIM", "Karras"), "DDIM", "Karras"), (("LCM",), "LCM", "Automatic")])
def test_names(given, sampler, scheduler):
    found = sampling(*given)
    assert (found.sampler.name, found.scheduler) == (sampler, scheduler)


@pytest.mark.parametrize(("given", "field", "words"), [
    (("Euler B",), "sampler", ("Euler B", "did you mean Euler", "DPM++ 2M")), (("zzzz",), "sampler", ("known: ",)),
    (("Euler", "Karas"), "scheduler", ("Karas", "did you mean Karras", "SGM Uniform")),
    (("DPM fast",), "sampler", ("DPM fast",)), (("Euler", "KL Optimal"), "scheduler", ("KL Optimal", "Karras"))])
def test_unknown_names(given, field, words):
    with pytest.raises(OMGError) as raised:
        sampling(*given)
    assert raised.value.field == field
    assert all(word in raised.value.message for word in words)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 50, 1000])
def test_any_number_of_steps(sampler, steps):
    scheduler = scheduler_of(sampler)
    scheduler.set_timesteps(steps)
    assert 1 <= len(scheduler.timesteps) <= 2 * steps + 1
    assert ((scheduler.timesteps >= 0) & (scheduler.timesteps <= 999)).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_a_model_predicts_stays_its_own(sampler):
    assert scheduler_of(sampler, prediction_type="v_prediction").config.prediction_type == "v_prediction"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_copy_is_the_same(sampler):
    """A pipeline makes a new scheduler of its own for each pass."""
    scheduler = scheduler_of(sampler, "Beta", seed=5)
    copy = type(scheduler).from_config(scheduler.config)
    for each in (scheduler, copy):
        each.set_timesteps(9)
    assert torch.equal(scheduler.timesteps, copy.timesteps)
    assert torch.equal(getattr(scheduler, "sigmas", torch.ones(1)), getattr(copy, "sigmas", torch.ones(1)))


def test_noise_by_a_seed():
    first, again, other = (sampled(scheduler_of("DPM++ SDE", seed=seed), 5, noise_of()) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
