"""Mask algebra: reading and writing masks, growing and softening them, and their way to the latent grid.

A mask is float32 ``[height, width]`` with values in 0..1, row 0 at the top. Resizing treats a mask as areas, never as
samples: shrinking averages exactly, so a mask keeps its share of the picture whatever the sizes.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage
from scipy.sparse import csr_matrix
from torch import Tensor

from ..errors import OMGError
from ..request.pictures import decode_picture

FloatArray = npt.NDArray[np.float32]

# darker than this nothing counts as painted
_BLACK = 1 / 16


def decode_mask(text: str, field: str) -> FloatArray:
    """A mask from a base64 PNG, JPEG or WebP, with or without a ``data:`` prefix.

    The brightest channel times alpha counts, so that any colour is paint. If all of the paint is about as bright
    (:func:`_is_flat`), it counts fully. If all is black, but only some of it opaque, alpha is the mask.

    Args:
        field: the request field that errors name.

    Returns:
        float32 ``[H, W]`` in 0..1, in the picture's own size.

    Raises:
        OMGError: see :func:`..request.pictures.decode_picture`; or it shows nothing but black.
    """
    brightness, alpha = _read(decode_picture(text, field))
    mask = brightness * alpha
    if mask.max() < _BLACK and alpha.min() < alpha.max():
        mask = alpha  # black strokes on a transparent ground
    if mask.max() < _BLACK:
        raise OMGError(field, "the mask is all black or fully transparent; paint the concept's place white")
    return mask / mask.max() if _is_flat(mask) else mask


def encode_mask(mask: npt.NDArray[np.floating]) -> str:
    """A mask ``[H, W]`` in 0..1 as a base64 PNG: one bit per pixel if it holds only 0 and 1, else eight."""
    picture = Image.fromarray(np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8))
    if _is_binary(mask):
        picture = picture.convert("1")
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def shrink_mask_text(text: str, limit: int = 4000) -> str:
    """The same mask, halved in size until its base64 PNG has at most ``limit`` characters; for infotext.

    A mask of only 0 and 1 stays one. The smallest text there is has about a hundred characters.

    Raises:
        OMGError: the text is not a mask, see :func:`decode_mask`.
    """
    if len(text) <= limit:
        return text
    mask = decode_mask(text, "mask")
    binary = _is_binary(mask)
    text = encode_mask(mask)
    while len(text) > limit and mask.size > 1:
        height, width = mask.shape
        mask = resize(mask, math.ceil(height / 2), math.ceil(width / 2))
        if binary:
            # thin lines are under a half everywhere: the fullest pixels stay, so that the mask does not go black
            mask = (mask >= min(0.5, mask.max())).astype(np.float32)
        text = encode_mask(mask)
    return text


def box_mask(box: Sequence[float], height: int, width: int) -> FloatArray:
    """The rectangle ``[x0, y0, x1, y1]`` (fractions) as float32 ``[height, width]``: the share of a pixel it covers."""
    x0, y0, x1, y1 = box
    return np.outer(_coverage(y0, y1, height), _coverage(x0, x1, width)).astype(np.float32)


def resize(mask: npt.NDArray[np.floating], height: int, width: int) -> FloatArray:
    """Resize ``[H, W]`` to float32 ``[height, width]``: exact area average where it shrinks, linear where it grows."""
    if mask.shape == (height, width):
        return mask.astype(np.float32)
    rows, columns = (_area_weights(old, new) if new <= old else _linear_weights(old, new)
                     for old, new in zip(mask.shape, (height, width), strict=True))
    return _resample(mask, rows, columns)


def refine(mask: FloatArray, grow: float, feather: float) -> FloatArray:
    """Widen and soften a mask ``[H, W]``; both distances are fractions of its width.

    Args:
        grow: radius of the disc that the mask is dilated by (grey dilation: no threshold).
        feather: standard deviation of the Gaussian that follows. Beyond the border the edge pixels repeat, so a mask
            of all ones stays exactly that.
    """
    width = mask.shape[1]
    grown = _dilate(mask.astype(np.float32), grow * width)
    return np.clip(_blur(grown, feather * width), 0, 1)


def left_over(masks: Iterable[FloatArray], height: int, width: int) -> FloatArray:
    """What masks ``[height, width]`` leave of the picture, ``1 - sum_i M_i`` and never negative; none leave all of it.

    By area it goes to any grid as they do, so that with it their weights (:func:`blend_weights`) add up to 1 there.
    """
    rest = np.ones((height, width), np.float32)
    for mask in masks:
        rest -= mask
    return np.clip(rest, 0, 1)


def to_latent_grid(mask: npt.NDArray[np.floating], height: int, width: int) -> Tensor:
    """The mask ``[H, W]`` on the latent grid by area: float32 ``[height, width]``; H and W may be any sizes."""
    old_height, old_width = mask.shape
    return torch.from_numpy(_resample(mask, _area_weights(old_height, height), _area_weights(old_width, width)))


def blend_weights(masks: Tensor, strengths: Sequence[float]) -> Tensor:
    """The concepts' weights of Eq. 6 from masks ``[K, h, w]`` in 0..1, as ``[K, h, w]``.

    Where masks overlap to a sum over 1 they share the position in proportion. The global prediction has the weight
    ``1 - weights.sum(0)``, never negative: together they are a partition of unity at every position.

    Args:
        strengths: K shares, 0..1, of a concept's prediction inside its mask.
    """
    shares = masks / masks.sum(0).clamp(min=1)
    return shares * torch.as_tensor(strengths, dtype=masks.dtype, device=masks.device)[:, None, None]


def spread(shares: Tensor) -> Tensor:
    """Shares ``[K, h, w]`` in which nothing is left over: what no mask has goes to the concept that is nearest.

    What is equally near to several they share alike, so that their order does not matter. A concept without any share
    gets none; if none has, nothing is given.
    """
    owned = [index for index in range(len(shares)) if bool(shares[index].any())]
    if not owned:
        return shares
    # to where a mask has most of what it has anywhere: a faint one has a place, too
    distances = np.stack([ndimage.distance_transform_edt((shares[index] < shares[index].max() / 2).cpu())
                          for index in owned])
    nearest = torch.from_numpy(distances == distances.min(axis=0)).to(shares)
    whole = shares.clone()
    whole[owned] += (1 - shares.sum(0)) * nearest / nearest.sum(0)
    return whole


def is_vanished(mask: Tensor) -> bool:
    """Whether a mask ``[h, w]`` on the latent grid weighs less than half a cell in all: nothing would be blended."""
    return mask.sum().item() < 0.5


def _read(picture: Image.Image) -> tuple[FloatArray, FloatArray]:
    """The brightest channel and alpha, each float32 ``[H, W]`` in 0..1."""
    if picture.mode.startswith("I"):
        # 16-bit grey, which Pillow would clip to 255
        grey = np.asarray(picture, dtype=np.float32) / np.float32(65535)
        return grey, np.ones_like(grey)
    channels = np.asarray(picture.convert("RGBA"), dtype=np.float32) / np.float32(255)
    return channels[:, :, :3].max(2), channels[:, :, 3]


def _is_flat(mask: FloatArray) -> bool:
    """Whether a mask is paint of one brightness, with edges, and no soft picture.

    That is, of all that is a quarter as bright as its brightest place three quarters are nearly as bright as that.
    """
    brightest = mask.max()
    return bool(3 * (mask >= brightest / 4).sum() < 4 * (mask >= 0.9 * brightest).sum())


def _is_binary(mask: npt.NDArray[np.floating]) -> bool:
    return bool(np.isin(mask, (0, 1)).all())


def _coverage(start: float, stop: float, size: int) -> npt.NDArray[np.float64]:
    """The share of each of ``size`` pixels that lies between two fractions of the whole."""
    edges = np.clip(np.arange(size + 1.0), start * size, stop * size)
    return edges[1:] - edges[:-1]


def _area_weights(old: int, new: int) -> npt.NDArray[np.float64]:
    """``[new, old]``: the share of each old pixel in each new one; rows sum to 1."""
    edges = np.arange(new + 1.0) * old / new
    cuts = np.clip(np.arange(old + 1.0), edges[:-1, None], edges[1:, None])
    return (cuts[:, 1:] - cuts[:, :-1]) * (new / old)


def _linear_weights(old: int, new: int) -> npt.NDArray[np.float64]:
    """``[new, old]``: linear interpolation between pixel centres, edge pixels repeated; rows sum to 1."""
    centres = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    return np.maximum(0, 1 - np.abs(centres[:, None] - np.arange(old)))


def _resample(mask: npt.NDArray[np.floating], rows: npt.NDArray[np.float64],
              columns: npt.NDArray[np.float64]) -> FloatArray:
    """``rows @ mask @ columns.T``; the weights are nearly all zero."""
    shrunk = csr_matrix(rows) @ mask
    resampled = (csr_matrix(columns) @ shrunk.T).T
    return np.ascontiguousarray(np.clip(resampled, 0, 1), dtype=np.float32)


def _blur(mask: FloatArray, sigma: float) -> FloatArray:
    """Gaussian of ``[H, W]``, edge pixels repeated; a wide one as a product with its weights, a tenth of the work."""
    if sigma < 24:
        return ndimage.gaussian_filter(mask, sigma, mode="nearest")
    rows, columns = (_gaussian_weights(size, sigma) for size in mask.shape)
    return np.asarray(rows @ mask @ columns.T, dtype=np.float32)


def _gaussian_weights(size: int, sigma: float) -> npt.NDArray[np.float64]:
    """``[size, size]``: the share of each pixel in each blurred one; rows sum to 1. As SciPy, cut at 4 sigma."""
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    below = np.concatenate([[0], np.cumsum(kernel / kernel.sum())])  # the kernel's share before each of its offsets
    edges = np.arange(size + 1) - np.arange(size)[:, None] + reach
    edges[:, 0], edges[:, -1] = 0, 2 * reach + 1  # what lies beyond the border is the edge pixel's
    return np.diff(below[np.clip(edges, 0, 2 * reach + 1)], axis=1)


def _dilate(mask: FloatArray, radius: float) -> FloatArray:
    """Grey dilation of ``[H, W]`` by the disc of all offsets with ``dx^2 + dy^2 <= radius^2``.

    A disc is a stack of horizontal runs. From its top to its middle they get longer, and any of them is two overlapping
    runs whose length is a power of two: three maxima per row of the disc, whatever its radius and the mask's levels.
    """
    height, width = mask.shape
    square = int(radius * radius)
    reach = min(math.isqrt(square), width - 1)
    # maxima over ``length`` pixels to the right; the narrower the type, the faster
    runs = np.pad(mask.astype(np.uint8) if _is_binary(mask) else mask, ((0, 0), (reach, reach)))
    length = 1
    run = np.empty((height, width), runs.dtype)
    grown = np.zeros_like(run)
    for dy in range(min(math.isqrt(square), height - 1), -1, -1):
        half = min(math.isqrt(square - dy * dy), width - 1)
        while 2 * length <= 2 * half + 1:
            runs = np.maximum(runs[:, :-length], runs[:, length:])
            length *= 2
        first, last = reach - half, reach + half + 1 - length
        np.maximum(runs[:, first:first + width], runs[:, last:last + width], out=run)
        np.maximum(grown[dy:], run[:height - dy], out=grown[dy:])
        np.maximum(grown[:height - dy], run[dy:], out=grown[:height - dy])
    return grown.astype(np.float32)
