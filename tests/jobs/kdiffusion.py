"""The web UI's samplers and schedulers, from its own files, without the web UI."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

_OPTS = SimpleNamespace(beta_dist_alpha=0.6, beta_dist_beta=0.6, uni_pc_variant="bh1", uni_pc_skip_type="time_uniform",
                        uni_pc_order=3, uni_pc_lower_order_final=True)


@dataclass(frozen=True)
class Samplers:
    """The modules.

    Attributes:
        kdiffusion: k_diffusion.sampling.
        external: k_diffusion.external.
        schedulers: modules.sd_schedulers.
        timesteps: modules.sd_samplers_timesteps_impl.
        lcm: modules.sd_samplers_lcm.
        shared: what they take for modules.shared.
    """

    kdiffusion: Any
    external: Any
    schedulers: Any
    timesteps: Any
    lcm: Any
    shared: Any


@contextmanager
def web_ui_samplers(installation: Path) -> Iterator[Samplers]:
    """Within the block, with stand-ins for what else they import."""
    shared = SimpleNamespace(opts=_OPTS, sd_model=SimpleNamespace(is_sdxl=True, device="cpu"))
    stubs: dict[str, Any] = {
        "torchdiffeq": _module("torchdiffeq", odeint=None), "torchvision": _module("torchvision"),
        "torchvision.transforms": _module("torchvision.transforms", functional=None),
        "k_diffusion": _package("k_diffusion", installation / "repositories/k-diffusion/k_diffusion"),
        "modules": _package("modules", installation / "modules", shared=shared, devices=None, sd_samplers_cfg_denoiser=SimpleNamespace(
            CFGDenoiser=object), sd_samplers_kdiffusion=SimpleNamespace(KDiffusionSampler=object),
            sd_samplers_common=SimpleNamespace(SamplerData=lambda *args: args)),
        "modules.shared": shared, "modules.torch_utils": _module("modules.torch_utils", float64=lambda x: torch.float64)}
    before = {name: sys.modules.get(name) for name in (*stubs, *_loaded())}
    try:
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(stubs)
        names = ("k_diffusion.sampling", "k_diffusion.external", "modules.sd_schedulers",
                 "modules.sd_samplers_timesteps_impl", "modules.sd_samplers_lcm")
        yield Samplers(*map(importlib.import_module, names), shared)
    finally:
        for name in {*_loaded(), *stubs}:
            sys.modules.pop(name, None)
        sys.modules.update({name: module for name, module in before.items() if module is not None})


def _loaded() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] in ("k_diffusion", "modules")]


def _module(name: str, **contents: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module


def _package(name: str, folder: Path, **contents: Any) -> ModuleType:
    return _module(name, __path__=[str(folder)], **contents)


class Knows:
    """A model as the web UI's samplers see one, that predicts noise by a function of latents and timestep.

    Attributes:
        predict: (latents of unit variance [B, C, h, w], timesteps [B]) -> noise.
    """

    def __init__(self, predict: Callable[[Tensor, Tensor], Tensor], alphas_cumprod: Tensor):
        self.predict, self.alphas_cumprod, self.device = predict, alphas_cumprod, torch.device("cpu")

    def apply_model(self, x: Tensor, t: Tensor, **unused: Any) -> Tensor:
        return self.predict(x, t)
