"""Web UIs are told apart in one place, and so are models of Forge that OMG cannot reach."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from torch import nn

from omg_ext.errors import OMGError
from omg_ext.webui.reach import refuse_unreachable

NAMES = ("modules_forge", "backend", "ldm_patched")


@pytest.fixture
def which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """As in a web UI whose modules lie in ``tmp_path``: none yet."""
    monkeypatch.setattr(metadata, "version", lambda name: "3.41.2")
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("omg_ext.webui.which", None)
    yield importlib.import_module("omg_ext.webui.which")
    for name in [*sys.modules]:
        if name.split(".")[0] in NAMES or name == "omg_ext.webui.which":
            del sys.modules[name]


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    importlib.invalidate_caches()


@pytest.mark.parametrize(("files", "kind"), [
    ({}, "WEBUI"),
    ({"modules_forge/forge_version.py": "version = '2.0.1'", "backend/args.py": ""}, "FORGE"),
    ({"modules_forge/forge_version.py": "version = 'neo'\nrelease = '2.22'", "backend/args.py": ""}, "NEO"),
    ({"modules_forge/forge_version.py": "", "ldm_patched/modules/weight_adapter/__init__.py": ""}, "REFORGE"),
    ({"modules_forge/forge_version.py": "version = 'classic'", "ldm_patched/modules/lora.py": ""}, "OTHER"),
    ({"modules_forge/forge_version.py": "version = 'classic'", "ldm_patched/modules/weight_adapter/__init__.py": ""},
     "OTHER"),
    ({"modules_forge/forge_version.py": ""}, "OTHER")])
def test_each_is_told_by_its_modules(which: Any, tmp_path: Path, files: dict[str, str], kind: str) -> None:
    write(tmp_path, files)
    assert which.look() == which.Kind[kind]


def test_those_that_omg_does_not_draw_in_are_refused_by_name(which: Any) -> None:
    assert [which.refusal(which.Kind[kind]) for kind in ("WEBUI", "FORGE", "REFORGE", "NEO")] == [""] * 4
    assert which.refusal(which.Kind.OTHER).startswith("OMG does not know how this version of Forge draws; use ")


class NunchakuUNet(nn.Module):
    """Named as Nunchaku's."""

    def __init__(self) -> None:
        super().__init__()
        self.attn2 = nn.Linear(2, 2)


def forge_model(unet: nn.Module, **families: bool) -> Any:
    patcher = SimpleNamespace(model=SimpleNamespace(diffusion_model=unet))
    return SimpleNamespace(sd_checkpoint_info=SimpleNamespace(name="a-model"),
                           forge_objects=SimpleNamespace(unet=patcher), **families)


def a_unet() -> nn.Module:
    return nn.ModuleDict({"attn2": nn.Linear(2, 2)})


def compiled() -> nn.Module:
    """In place, as ``Module.compile`` leaves it."""
    unet = a_unet()
    unet._compiled_call_impl = unet._call_impl
    return unet


@pytest.mark.parametrize("family", ["is_sd1", "is_sd2", "is_sdxl"])
def test_models_with_a_unet_are_let_through(family: str) -> None:
    refuse_unreachable(forge_model(a_unet(), **{family: True}))


@pytest.mark.parametrize(("model", "reason"), [
    (forge_model(a_unet(), is_sd3=True), "a-model has no UNet that OMG knows; load an SD 1.x, SD 2.x or SDXL "),
    (forge_model(a_unet(), is_sd1=False, is_sdxl=False), "a-model has no UNet that OMG knows"),  # Flux, Qwen, ...
    (forge_model(compiled(), is_sdxl=True), "a compiled UNet; turn off what compiles it"),
    (forge_model(NunchakuUNet(), is_sdxl=True), "a-model is a Nunchaku model"),
    (forge_model(nn.ModuleDict({"layer": NunchakuUNet()}), is_sdxl=True), "a-model is a Nunchaku model"),
    (forge_model(nn.Linear(2, 2), is_sdxl=True), "no cross-attention in the UNet of a-model")])
def test_others_are_refused_with_a_sentence(model: Any, reason: str) -> None:
    with pytest.raises(OMGError, match=f"^OMG: checkpoint: .*{reason}"):
        refuse_unreachable(model)


def test_compiled_models_are_refused() -> None:
    unet = nn.Module()
    unet._orig_mod = a_unet()  # as torch.compile wraps it
    with pytest.raises(OMGError, match="compiled"):
        refuse_unreachable(forge_model(unet, is_sdxl=True))
