"""InstantID's adapter with random weights and the real key names, and a face analysis that knows the answers."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

EMBEDDING = 512
State = dict[str, dict[str, Tensor]]


def image_proj(width: int, *, embedding: int = EMBEDDING, dim: int = 32, inner: int = 128, depth: int = 4,
               tokens: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """The part ``image_proj``: a resampler."""
    random = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random) / shape[-1] ** 0.5

    def norm(name: str, size: int) -> dict[str, Tensor]:
        return {f"{name}.weight": 1 + 0.3 * weight(size), f"{name}.bias": 0.3 * weight(size)}

    state = {"latents": weight(1, tokens, dim), "proj_in.weight": weight(dim, embedding), "proj_in.bias": weight(dim),
             "proj_out.weight": weight(width, dim), "proj_out.bias": weight(width), **norm("norm_out", width)}
    for layer in range(depth):
        name = f"layers.{layer}"
        state |= {**norm(f"{name}.0.norm1", dim), **norm(f"{name}.0.norm2", dim),
                  f"{name}.0.to_q.weight": 3 * weight(inner, dim), f"{name}.0.to_kv.weight": 2 * weight(2 * inner, dim),
                  f"{name}.0.to_out.weight": weight(dim, inner), **norm(f"{name}.1.0", dim),
                  f"{name}.1.1.weight": weight(4 * dim, dim), f"{name}.1.3.weight": weight(dim, 4 * dim)}
    return state


def adapter_state(unet: Any, *, seed: int = 0, **sizes: Any) -> State:
    """Both parts for a diffusers UNet, the layers in the order of its own attention processors."""
    random = torch.Generator().manual_seed(seed + 100)
    width = unet.config.cross_attention_dim
    layers: dict[str, Tensor] = {}
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for number, name in enumerate(names):
        inner = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
        for part, gain in (("k", 3.0), ("v", 1.0)):
            layers[f"{2 * number + 1}.to_{part}_ip.weight"] = gain * torch.randn(
                inner, width, generator=random) / width ** 0.5
    return {"image_proj": image_proj(width, seed=seed, **sizes), "ip_adapter": layers}


def flat(state: State) -> dict[str, Tensor]:
    """As safetensors files have it."""
    return {f"{part}.{name}": tensor for part, own in state.items() for name, tensor in own.items()}


@dataclass(frozen=True, eq=False)
class Face:
    """See :class:`omg_ext.faces.base.Face`."""

    embedding: np.ndarray
    points: np.ndarray
    box: np.ndarray


def embedding(seed: int, size: int = EMBEDDING) -> np.ndarray:
    """As long as real ones are, which are not normalised."""
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def face(x: float = 48, y: float = 48, size: float = 16, seed: int = 0) -> Face:
    """One around a place in pixels."""
    offsets = np.array([(-1, -1), (1, -1), (0, 0), (-0.7, 1), (0.7, 1)], np.float32) * size / 4
    return Face(embedding(seed), np.array([x, y], np.float32) + offsets,
                np.array([x - size / 2, y - size / 2, x + size / 2, y + size / 2], np.float32))


@dataclass
class KnownFaces:
    """An analysis that looks at no pixel but the first: in a reference picture it is the face's seed.

    Attributes:
        placed: faces in each drawn picture in turn; the last of them counts for all further ones.
        looked: at how many drawn pictures.
    """

    placed: Sequence[Sequence[Face]] = ((),)
    looked: int = field(default=0, init=False)

    def faces(self, picture: np.ndarray) -> Sequence[Face]:
        assert picture.dtype == np.uint8
        if picture.shape == (8, 8, 3):
            return [face(2 + 4 * number, 4, 2 + number, int(seed)) for number, seed in enumerate(picture[0, :, 0])
                    if seed]
        number, self.looked = min(self.looked, len(self.placed) - 1), self.looked + 1
        return self.placed[number]

    def embedding(self, picture: np.ndarray, face: Face) -> np.ndarray:
        return face.embedding


def photo(*seeds: int) -> str:
    """A reference picture with a face of each of these seeds, from the left, the right ones larger."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, :len(seeds), 0] = seeds
    return picture_text(pixels)


def picture_text(pixels: np.ndarray) -> str:
    """A picture as requests carry it, base64 PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def draw_points(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """White blocks at the points, on black."""
    picture = np.zeros((*size, 3), np.uint8)
    for number, (x, y) in enumerate(np.floor(points).astype(int)):
        picture[max(y - 3, 0):y + 3, max(x - 3, 0):x + 3, number % 3] = 255
    return picture
