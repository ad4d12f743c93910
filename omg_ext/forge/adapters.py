"""Networks as ComfyUI's patcher knows them, which reForge and Forge Neo have."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .backend import Patches


class Adapters(ABC):
    """What :class:`.backend.Backend` asks of networks, where each is an object that knows how to merge itself."""

    def parts(self, patch: Any) -> tuple[str, Sequence[Any]]:
        if not _is_adapter(patch):
            kind, values = patch
            return kind, values
        if patch.name == "lora" and patch.weights[5] is not None:  # a weight of another shape in its place
            return "reshaped", patch.weights
        return patch.name, patch.weights[:5] if patch.name == "lora" else patch.weights

    def on_meta(self, patch: Any) -> Any:
        if not _is_adapter(patch):
            kind, values = patch
            return kind, tuple(_meta(value) for value in values)
        moved = copy.copy(patch)
        moved.weights = tuple(_meta(value) for value in patch.weights)
        return moved

    def merged(self, patch: Any, strength: float, parameter: Tensor) -> Tensor:
        with torch.inference_mode(False), torch.no_grad():  # in inference mode tensors do not count their changes
            changed = parameter.clone()
            before = changed._version
            result = self._calculated([(strength, patch, 1.0, None, None)], changed)
            if result is changed and changed._version == before:  # what it cannot merge it only logs
                raise RuntimeError("its tensors do not fit the layer's")
        return result

    @abstractmethod
    def _calculated(self, patches: Sequence[Any], parameter: Tensor) -> Tensor:
        """ComfyUI's function: a parameter with all patches, merged into the very tensor where that can be."""

    def with_networks(self, clip: Any, networks: Sequence[tuple[str, Patches, float]]) -> Any:
        changed = clip.clone()
        added = [changed.add_patches(patches, strength) for _, patches, strength in networks if patches]
        return changed if any(added) else None


def _is_adapter(patch: Any) -> bool:
    return hasattr(patch, "calculate_weight")


def _meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value
