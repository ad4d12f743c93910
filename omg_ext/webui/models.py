"""Where the web UI keeps the models for finding things and faces, and which of them stay loaded."""

from __future__ import annotations

from pathlib import Path

import torch
from modules import devices, paths, shared

from ..comprehension import Models
from . import settings

# of other extensions, whose users have the files already; OMG's own comes first, and takes what is downloaded
_FOLDERS = ("omg", "adetailer", "sam", "grounding-dino")

_MODELS = Models(remedy="Settings, page OMG, has a button that gets what is missing")


def models() -> Models:
    """The models of this process, as the settings have them now. What these do not keep any more is freed."""
    device = torch.device("cpu") if settings.is_detecting_on_cpu() else devices.device
    if (device, settings.is_keeping_detectors()) != (_MODELS.device, _MODELS.is_keeping):
        _MODELS.drop()
    _MODELS.device, _MODELS.is_keeping = device, settings.is_keeping_detectors()
    _MODELS.folders = [*(Path(paths.models_path) / name for name in _FOLDERS),
                       Path(paths.extensions_dir) / "sd-webui-segment-anything" / "models"]
    _MODELS.face_folders = [folder / "insightface" / "models" for folder in (
        Path(paths.models_path), _annotators(), _preprocessors())]
    _MODELS.control_folders = [Path(folder) for folder in (
        Path(paths.models_path) / "ControlNet", Path(paths.models_path) / "InstantID",
        Path(paths.extensions_dir) / "sd-webui-controlnet" / "models",
        getattr(shared.cmd_opts, "controlnet_dir", None), shared.opts.data.get("control_net_models_path")) if folder]
    return _MODELS


def _annotators() -> Path:
    """Where sd-webui-controlnet keeps the models of its preprocessors."""
    chosen = shared.opts.data.get("control_net_modules_path") or getattr(
        shared.cmd_opts, "controlnet_annotator_models_path", None)
    usual = Path(paths.extensions_dir) / "sd-webui-controlnet" / "annotator" / "downloads"
    return Path(paths.data_path) / chosen if chosen else usual


def _preprocessors() -> Path:
    """Where Forge does."""
    chosen = getattr(shared.cmd_opts, "controlnet_preprocessor_models_dir", None)
    return Path(chosen) if chosen else Path(paths.models_path) / "ControlNetPreprocessor"
