"""The web UI's samplers, by its names, as schedulers of diffusers.

What a sampler computes, and from which noise levels and timesteps, is what the web UI has with its default settings:
diffusers' own options come near, but round timesteps, begin from other noise or space the steps differently. The random
numbers of samplers that add noise are other ones.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSDEScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from ..errors import OMGError
from .levels import LEVELS, Array, Model

AUTOMATIC = "Automatic"
_UNIFORM = "Uniform"
# what a checkpoint's own configuration may say of the steps
_OPTIONS = {"use_karras_sigmas": False, "use_beta_sigmas": False, "use_lu_lambdas": False, "use_flow_sigmas": False,
            "use_exponential_sigmas": True, "timestep_spacing": "linspace", "final_sigmas_type": "zero",
            "lower_order_final": False, "clip_sample": False, "thresholding": False, "timestep_type": "discrete"}


# what a way stands before: one of diffusers' schedulers
_Scheduler: Any = object


class _OnLevels(_Scheduler):
    """The web UI's noise levels, where diffusers has those that are even in the logarithm."""

    levels = staticmethod(LEVELS[_UNIFORM])
    is_sdxl = True
    drops_penultimate = False
    alphas_cumprod: torch.Tensor

    def _model(self) -> Model:
        kept = self.alphas_cumprod.double().cpu().numpy()
        return Model(np.sqrt((1 - kept) / kept), self.is_sdxl)

    def _convert_to_exponential(self, in_sigmas: Any, num_inference_steps: int) -> Array:
        if not self.drops_penultimate:
            return self.levels(self._model(), num_inference_steps)
        return self.levels(self._model(), num_inference_steps + 1)[:-1]


class _Exact(_OnLevels):
    """The same for schedulers that have no such levels, or round their timesteps."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        levels = self._convert_to_exponential(None, num_inference_steps)
        self.sigmas = torch.from_numpy(np.append(levels, 0.0).astype(np.float32))
        self.timesteps = torch.from_numpy(self._model().timesteps(levels).astype(np.float32)).to(device)
        self.num_inference_steps = len(levels)


class _VariancePreserving(_Exact):
    """The same for those that scale latents to unit variance: the web UI begins with noise of the first level alone."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        first = float(self.sigmas[0])
        self.init_noise_sigma = first / (first ** 2 + 1) ** 0.5


class _ThirdOrder(_VariancePreserving):
    """DPM-Solver++(3M) SDE. In diffusers its last term has a wrong sign: it does not vanish with the step's length."""

    def multistep_dpm_solver_third_order_update(self, model_output_list: Any, **options: Any) -> Any:
        index, outputs = self.step_index, model_output_list
        sigmas = self.sigmas[index - 2:index + 2].double()
        older, old, step = (-sigmas.log()).diff().tolist()
        slopes = ((outputs[-1] - outputs[-2]) * step / old, (outputs[-2] - outputs[-3]) * step / older)
        curvature = (slopes[0] - slopes[1]) * step / (old + older)
        alpha = float((sigmas[-1] ** 2 + 1) ** -0.5)
        update: Any = super().multistep_dpm_solver_third_order_update
        return update(model_output_list, **options) + alpha * curvature


class _WholeSteps(_Scheduler):
    """The web UI's samplers with timesteps of their own: steps of a whole number from 1, where the last one ends.

    Where the number of steps divides 1000, it is therefore one less.
    """

    config: Any
    timesteps: torch.Tensor
    alphas_cumprod: torch.Tensor
    _stride = 1

    def _whole(self, count: int) -> Array:
        total = self.config.num_train_timesteps
        self._stride = max(total // count, 1)
        return np.clip(np.arange(0, total, self._stride) + 1, 0, total - 1)[::-1]

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> Any:
        """The first timestep may be one less than whole steps make of it: there is none beyond. The others follow."""
        wanted = -(-(int(timestep) - 1) // self._stride) * self._stride + 1
        return super().step(model_output, wanted, sample)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        super().set_timesteps(num_inference_steps, device)
        if len(self.alphas_cumprod) == self.config.num_train_timesteps:
            self.alphas_cumprod = torch.cat([self.alphas_cumprod, self.alphas_cumprod[-1:]])
        whole = self._whole(num_inference_steps)
        self.timesteps = torch.from_numpy(self._asked(whole[:-1] if len(whole) > 1 else whole)).to(device)

    def _asked(self, timesteps: Array) -> Array:
        """Those at which the UNet is asked."""
        return timesteps.copy()


class _Twice(_WholeSteps):
    """The same for PLMS, which takes its first step twice."""

    def _asked(self, timesteps: Array) -> Array:
        following = timesteps[1:2] if len(timesteps) > 1 else np.array([1])
        return np.concatenate([timesteps[:1], following, timesteps[1:]])


class _UniPC(_Scheduler):
    """UniPC: even steps in time down to the model's least noise, as many as whole steps would make of it."""

    config: Any
    alphas_cumprod: torch.Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        total = self.config.num_train_timesteps
        count = len(range(0, total, max(total // num_inference_steps, 1)))
        super().set_timesteps(count, device)
        kept = self.alphas_cumprod.double().cpu().numpy()
        times = np.linspace(len(kept) - 1, 0, count + 1)
        # the web UI's levels lie between the model's as the logarithm of the signal does
        signal = np.exp(np.interp(times, np.arange(len(kept)), np.log(kept)))
        self.sigmas = torch.from_numpy(np.sqrt((1 - signal) / signal).astype(np.float32))
        self.timesteps = torch.from_numpy(times[:-1].astype(np.float32)).to(device)


class _Consistency(_Scheduler):
    """LCM: even steps in time, on the timesteps that such models are made for."""

    config: Any

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        grid = self.config.num_train_timesteps // self.config.original_inference_steps
        times = np.linspace(self.config.num_train_timesteps - 1, grid - 1, num_inference_steps)
        near = np.unique(np.round((times - grid + 1) / grid).astype(int))[::-1]
        super().set_timesteps(timesteps=list(near * grid + grid - 1), device=device)


@dataclass(frozen=True, eq=False)
class Sampler:
    """One of the web UI's samplers.

    Attributes:
        name: in the web UI.
        base: diffusers' class.
        ways: what is changed in it.
        options: of the class.
        scheduler: the sampler's own, by its name.
        drops_penultimate: whether its last but one level is left out.
        aliases: other names that the web UI knows it by.
    """

    name: str
    base: type
    ways: type = _OnLevels
    options: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str = AUTOMATIC
    drops_penultimate: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def has_own_timesteps(self) -> bool:
        """No scheduler has an effect on it."""
        return not issubclass(self.ways, _OnLevels)

    @property
    def knows_zero_snr(self) -> bool:
        """It can begin from noise alone, as some models are trained to."""
        return "rescale_betas_zero_snr" in inspect.signature(self.base).parameters

    @property
    def is_seeded(self) -> bool:
        """It draws its noise by a seed of its own, not from the generators that it is given."""
        return issubclass(self.base, DPMSolverSDEScheduler)


_SDE = {"algorithm_type": "sde-dpmsolver++"}
_ALL = (
    Sampler("DPM++ 2M", DPMSolverMultistepScheduler, _VariancePreserving, {"algorithm_type": "dpmsolver++"},
            "Karras", aliases=("k_dpmpp_2m",)),
    Sampler("DPM++ SDE", DPMSolverSDEScheduler, scheduler="Karras", aliases=("k_dpmpp_sde",)),
    Sampler("DPM++ 2M SDE", DPMSolverMultistepScheduler, _VariancePreserving, _SDE, "Exponential",
            aliases=("k_dpmpp_2m_sde",)),
    Sampler("DPM++ 2M SDE Heun", DPMSolverMultistepScheduler, _VariancePreserving, {**_SDE, "solver_type": "heun"},
            "Exponential", aliases=("k_dpmpp_2m_sde_heun",)),
    Sampler("DPM++ 3M SDE", DPMSolverMultistepScheduler, _ThirdOrder,
            {**_SDE, "solver_type": "heun", "solver_order": 3}, "Exponential", True, ("k_dpmpp_3m_sde",)),
    Sampler("Euler a", EulerAncestralDiscreteScheduler, _Exact, aliases=("k_euler_a", "k_euler_ancestral")),
    Sampler("Euler", EulerDiscreteScheduler, aliases=("k_euler",)),
    Sampler("LMS", LMSDiscreteScheduler, aliases=("k_lms",)),
    Sampler("Heun", HeunDiscreteScheduler, aliases=("k_heun",)),
    Sampler("DPM2", KDPM2DiscreteScheduler, scheduler="Karras", drops_penultimate=True, aliases=("k_dpm_2",)),
    Sampler("DPM2 a", KDPM2AncestralDiscreteScheduler, scheduler="Karras", drops_penultimate=True,
            aliases=("k_dpm_2_a",)),
    Sampler("DDIM", DDIMScheduler, _WholeSteps, {"set_alpha_to_one": False}),
    Sampler("PLMS", PNDMScheduler, _Twice, {"set_alpha_to_one": False, "skip_prk_steps": True}),
    Sampler("UniPC", UniPCMultistepScheduler, _UniPC,
            {"solver_order": 3, "solver_type": "bh1", "lower_order_final": True, "final_sigmas_type": "sigma_min",
             "use_exponential_sigmas": False, "predict_x0": True, "disable_corrector": []}),
    Sampler("LCM", LCMScheduler, _Consistency, {"original_inference_steps": 50}, aliases=("k_lcm",)))
SAMPLERS: dict[str, Sampler] = {sampler.name: sampler for sampler in _ALL}
"""By the web UI's names."""
SCHEDULERS: tuple[str, ...] = (AUTOMATIC, *LEVELS)
"""The web UI's names."""
_SHORT = {"SGMUniform": "SGM Uniform", "sgm_uniform": "SGM Uniform", "align_your_steps": "Align Your Steps"}


class Sampling(NamedTuple):
    """A sampler with a scheduler.

    Attributes:
        sampler: one of :data:`SAMPLERS`.
        scheduler: one of :data:`SCHEDULERS`; ``Automatic`` where the sampler's steps are even in time, or its own.
    """

    sampler: Sampler
    scheduler: str


@cache
def sampling(sampler: str, scheduler: str = AUTOMATIC) -> Sampling:
    """The sampler and scheduler of these names, whatever their capitals; ``DPM++ 2M Karras`` names both.

    Raises:
        OMGError: naming ``sampler`` or ``scheduler``: it is not known.
    """
    known = {each.casefold(): name for name, found in SAMPLERS.items() for each in (name, *found.aliases)}
    schedules = {name.casefold(): name for name in SCHEDULERS} | {
        short.casefold(): name for short, name in _SHORT.items()}
    wanted = sampler.strip().casefold()
    if wanted not in known:
        ending = next((each for each in schedules if wanted.endswith(f" {each}")), None)
        if ending is not None:
            wanted, scheduler = wanted.removesuffix(f" {ending}"), schedules[ending]
    if wanted not in known:
        raise _unknown("sampler", sampler, known, SAMPLERS)
    named = schedules.get((scheduler or AUTOMATIC).strip().casefold())
    if named is None:
        raise _unknown("scheduler", scheduler, schedules, SCHEDULERS)
    found = SAMPLERS[known[wanted]]
    return Sampling(found, found.scheduler if named == AUTOMATIC else named)


def _unknown(field_name: str, name: str, known: Mapping[str, str], shown: Collection[str]) -> OMGError:
    near = difflib.get_close_matches(name.casefold(), known, 1)
    meant = f"; did you mean {known[near[0]]}" if near else ""
    return OMGError(field_name, f"{name!r} is not known here{meant}; known: {', '.join(shown)}")


def scheduler(of: Sampling, config: Mapping[str, Any], *, is_sdxl: bool, seed: int) -> Any:
    """A scheduler of diffusers for a model.

    Args:
        config: that of a scheduler of the model's own, which says what it was trained on.
        is_sdxl: whether it is SDXL rather than SD 1.x.
        seed: of the noise that a sampler of its own kind adds.
    """
    options = {**_OPTIONS, **of.sampler.options}
    if of.sampler.is_seeded:
        options["noise_sampler_seed"] = seed
    made = _class(of, is_sdxl)
    return made.from_config({name: value for name, value in config.items() if not name.startswith("_")},
                            **{name: value for name, value in options.items() if name in made._get_init_keys(made)})


@cache
def _class(of: Sampling, is_sdxl: bool) -> Any:
    """The class, made once: schedulers are copied by their class and configuration."""
    levels = LEVELS[_UNIFORM if of.scheduler == AUTOMATIC else of.scheduler]
    return type(of.sampler.base.__name__, (of.sampler.ways, of.sampler.base), {
        "levels": staticmethod(levels), "is_sdxl": is_sdxl, "drops_penultimate": of.sampler.drops_penultimate})
