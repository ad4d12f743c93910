"""The web UI's samplers and schedulers, from its own files, without the web UI."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from omg_ext.diffusers.samplers import AUTOMATIC, Sampling

_OPTS = SimpleNamespace(beta_dist_alpha=0.6, beta_dist_beta=0.6, uni_pc_variant="bh1", uni_pc_skip_type="time_uniform",
                        uni_pc_order=3, uni_pc_lower_order_final=True)
_MODULES = ("k_diffusion.sampling", "k_diffusion.external", "modules.sd_schedulers",
            "modules.sd_samplers_timesteps_impl")
_FUNCTIONS = {"DPM++ 2M": "dpmpp_2m", "DPM++ SDE": "dpmpp_sde", "DPM++ 2M SDE": "dpmpp_2m_sde",
              "DPM++ 2M SDE Heun": "dpmpp_2m_sde", "DPM++ 3M SDE": "dpmpp_3m_sde", "Euler a": "euler_ancestral",
              "Euler": "euler", "LMS": "lms", "Heun": "heun", "DPM2": "dpm_2", "DPM2 a": "dpm_2_ancestral"}


@dataclass(frozen=True)
class WebUISamplers:
    """The modules, with the web UI's default settings.

    Attributes:
        kdiffusion: k_diffusion.sampling.
        external: k_diffusion.external.
        schedulers: modules.sd_schedulers.
        own_timesteps: modules.sd_samplers_timesteps_impl.
    """

    kdiffusion: Any
    external: Any
    schedulers: Any
    own_timesteps: Any

    def levels(self, of: Sampling, steps: int, alphas_cumprod: Tensor) -> Tensor:
        """What the web UI's ``KDiffusionSampler.get_sigmas`` gives."""
        denoiser = self._denoiser(None, alphas_cumprod)
        count = steps + of.sampler.drops_penultimate
        scheduler = self.schedulers.schedulers_map["Uniform" if of.scheduler == AUTOMATIC else of.scheduler]
        options = {"inner_model": denoiser} if scheduler.need_inner_model else {}
        levels = scheduler.function(n=count, sigma_min=denoiser.sigmas[0].item(), sigma_max=denoiser.sigmas[-1].item(),
                                    device="cpu", **options)
        return torch.cat([levels[:-2], levels[-1:]]) if of.sampler.drops_penultimate else levels

    def sample(self, of: Sampling, steps: int, predict: Callable[[Tensor, Tensor], Tensor], noise: Tensor,
               alphas_cumprod: Tensor) -> Tensor:
        """The final latents. What a sampler adds of noise is zero.

        Args:
            predict: (latents of unit variance [B, C, h, w], timesteps [B]) -> noise.
        """
        if of.sampler.has_own_timesteps:
            return self._on_own_timesteps(of, steps, predict, noise, alphas_cumprod)
        function = getattr(self.kdiffusion, f"sample_{_FUNCTIONS[of.sampler.name]}")
        levels = self.levels(of, steps, alphas_cumprod)
        options: dict[str, Any] = {"solver_type": "heun"} if of.sampler.name.endswith("SDE Heun") else {}
        if "noise_sampler" in inspect.signature(function).parameters:
            options["noise_sampler"] = lambda *levels: torch.zeros_like(noise)
        return function(self._denoiser(predict, alphas_cumprod), noise * levels[0], levels, disable=True, **options)

    def _on_own_timesteps(self, of: Sampling, steps: int, predict: Any, noise: Tensor, alphas: Tensor) -> Tensor:
        timesteps = torch.clip(torch.asarray(list(range(0, 1000, 1000 // steps))) + 1, 0, 999)
        model: Any = torch.nn.Module()
        model.forward = lambda x, t, **unused: predict(x, t)
        model.inner_model = SimpleNamespace(inner_model=SimpleNamespace(alphas_cumprod=alphas))
        function = getattr(self.own_timesteps, of.sampler.name.lower())
        return function(model, noise, timesteps, disable=True, extra_args={}, callback=lambda state: None)

    def _denoiser(self, predict: Any, alphas_cumprod: Tensor) -> Any:
        return self.external.CompVisDenoiser(SimpleNamespace(
            alphas_cumprod=alphas_cumprod, apply_model=lambda x, t, **unused: predict(x, t)))


@contextmanager
def web_ui_samplers(installation: Path) -> Iterator[WebUISamplers]:
    """Within the block, with stand-ins for what else they import."""
    shared = SimpleNamespace(opts=_OPTS, sd_model=SimpleNamespace(is_sdxl=True))
    stubs: dict[str, Any] = {
        "torchdiffeq": _module("torchdiffeq", odeint=None), "torchvision": _module("torchvision"),
        "torchvision.transforms": _module("torchvision.transforms", functional=None),
        "k_diffusion": _module("k_diffusion", [installation / "repositories/k-diffusion/k_diffusion"]),
        "modules": _module("modules", [installation / "modules"], shared=shared, devices=None),
        "modules.shared": shared,
        "modules.torch_utils": _module("modules.torch_utils", float64=lambda x: torch.float64)}
    before = {name: sys.modules[name] for name in {*stubs, *_loaded()} if name in sys.modules}
    try:
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(stubs)
        yield WebUISamplers(*map(importlib.import_module, _MODULES))
    finally:
        for name in {*_loaded(), *stubs}:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def _loaded() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] in ("k_diffusion", "modules")]


def _module(name: str, folders: list[Path] | None = None, **contents: Any) -> ModuleType:
    """A module, or a package of these folders."""
    module = ModuleType(name)
    vars(module).update(contents)
    if folders is not None:
        module.__path__ = [str(folder) for folder in folders]
    return module
