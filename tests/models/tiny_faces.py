"""Tiny models in insightface's input and output shapes, and drawn faces that they see.

A face is a red square, :func:`paint`. Its green says how large the face around it is, so that boxes and points are
known. The detector sees squares of about 30 to 60 pixels at the size it looks at, and looks past larger ones, as the
real one does past faces that fill the picture. The recogniser reads the colours of the aligned face.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

GREY = 120
STRIDES = (8, 16, 32)
POINTS = np.array([[-0.4, -0.3], [0.4, -0.3], [0.0, 0.1], [-0.3, 0.5], [0.3, 0.5]])
"""Of a face, in half sides of its box from its middle."""
# of the windows that have to be red and not red, in pixels
_INNER, _OUTER = 24, 48
_BOX = (1, 1, 1, 1)

Picture = npt.NDArray[np.uint8]


def blank(height: int = 640, width: int = 640) -> Picture:
    """A grey picture, uint8 RGB."""
    return np.full((height, width, 3), GREY, np.uint8)


def paint(picture: Picture, x: int, y: int, half: int = 40, side: int = 50, mark: tuple[int, int] = (0, 0),
          blue: bool = False) -> None:
    """Paint a face into a picture.

    Args:
        x: of its middle in pixels, as ``y``.
        half: of the side of its box, up to 127 pixels at the size at which the detector looks.
        side: of the painted square.
        mark: from its middle, where a dark spot is: it makes somebody of the face.
        blue: what the square is in the eyes of who mistakes RGB for BGR.
    """
    start_x, start_y = x - side // 2, y - side // 2
    colour = (0, 2 * half, 255) if blue else (255, 2 * half, 0)
    picture[max(start_y, 0):start_y + side + 1, max(start_x, 0):start_x + side + 1] = colour
    if mark != (0, 0):
        spot_x, spot_y = x + mark[0], y + mark[1]
        picture[spot_y - 5:spot_y + 6, spot_x - 5:spot_x + 6] = 0


def box(x: float, y: float, half: float) -> list[float]:
    """What the detector says of a face: its box."""
    return [x - half, y - half, x + half, y + half]


def points(x: float, y: float, half: float) -> npt.NDArray[np.float64]:
    """Its points, ``[5, 2]``."""
    return np.array([x, y]) + half * POINTS


def write_pack(folder: Path) -> tuple[Path, Path]:
    """Write ``scrfd_10g_bnkps.onnx`` and ``glintr100.onnx`` into a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    detector, recogniser = folder / "scrfd_10g_bnkps.onnx", folder / "glintr100.onnx"
    write_detector(detector)
    write_recogniser(recogniser)
    return detector, recogniser


def write_detector(path: Path, has_points: bool = True) -> None:
    """SCRFD's shapes: for each stride scores ``[N, 1]``, then boxes ``[N, 4]``, then points ``[N, 10]``."""
    weights: dict[str, npt.NDArray] = {"redness": np.array([0.5, 0, -0.5], np.float32).reshape(1, 3, 1, 1)}
    nodes = [helper.make_node("Conv", ["image", "redness"], ["difference"]),
             helper.make_node("Relu", ["difference"], ["red"])]
    outputs = []
    for name, width in (("score", 1), ("box", 4), ("points", 10)):
        if name == "points" and not has_points:
            continue
        weights[f"rows_{name}"] = np.array([-1, width], np.int64)
        for stride in STRIDES:
            source, kernel = ("red", f"score_{stride}") if name == "score" else ("image", f"{name}_{stride}")
            factors = POINTS.ravel() if name == "points" else _BOX
            # at the lowest stride alone there is anything to be seen
            seen = float(stride == STRIDES[0])
            weights[kernel], weights[f"{kernel}_bias"] = (
                (_scores() * seen, np.zeros(2, np.float32)) if name == "score" else _half(stride, factors))
            size = weights[kernel].shape[2]
            out = f"{name}{stride}"
            nodes += [
                helper.make_node("Conv", [source, kernel, f"{kernel}_bias"], [f"{out}_map"], strides=[stride, stride],
                                 pads=[size // 2] * 4),
                helper.make_node("Transpose", [f"{out}_map"], [f"{out}_last"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{out}_last", f"rows_{name}"], [out])]
            outputs.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, ["n" + out, width]))
    _save(path, nodes, [1, 3, "height", "width"], outputs, weights)


def write_recogniser(path: Path, side: int = 112, width: int = 512) -> None:
    """ArcFace's shapes: an aligned face ``[N, 3, 112, 112]`` to an embedding ``[N, 512]``."""
    cell = side // 8
    rng = np.random.default_rng(0)
    weights = {"mix": rng.normal(size=(3 * 8 * 8, width)).astype(np.float32),
               "bias": rng.normal(size=width).astype(np.float32)}
    nodes = [helper.make_node("AveragePool", ["image"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]),
             helper.make_node("Flatten", ["cells"], ["flat"]),
             helper.make_node("Gemm", ["flat", "mix", "bias"], ["embedding"])]
    _save(path, nodes, ["N", 3, side, side],
          [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", width])], weights)


def _scores() -> npt.NDArray[np.float32]:
    """A window that is highest where it is red around the middle, and not red further out; for two anchors."""
    along = np.arange(-_OUTER, _OUTER + 1)
    peak = np.clip(1 - np.abs(along) / (_INNER + 1), 0, None)
    inner = np.outer(peak, peak)
    ring = (np.maximum.outer(np.abs(along), np.abs(along)) > _INNER).astype(float)
    window = inner / inner.sum() - 2 * ring / ring.sum()
    return np.stack([window, window / 2])[:, None].astype(np.float32)


def _half(stride: int, factors: Any) -> tuple[npt.NDArray, npt.NDArray]:
    """Half the side of the face's box, times some factors, in strides; for two anchors: weights and bias.

    Green is half of it in pixels; pictures come with a mean of 127.5 and a deviation of 128.
    """
    each = np.tile(np.asarray(factors, np.float32), 2) / stride / 2
    kernel = np.zeros((len(each), 3, 5, 5), np.float32)
    kernel[:, 1] = (each * 128 / 25)[:, None, None]
    return kernel, each * np.float32(127.5)


def _save(path: Path, nodes: list[Any], shape: list[Any], outputs: list[Any], weights: Mapping[str, Any]) -> None:
    constants = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in weights.items()]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "tiny", [image], outputs, constants)
    # what the oldest onnxruntime reads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
