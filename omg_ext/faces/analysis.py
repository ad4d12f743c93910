"""Faces in a picture, with the models of insightface: boxes and key points by SCRFD, embeddings by ArcFace."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..comprehension.boxes import Picture
from ..comprehension.files import reading
from ..comprehension.masks import FloatArray
from ..comprehension.models import Models
from ..comprehension.quiet import unprinted
from ..errors import OMGError
from .files import checked, doubt

# sides that the picture is fitted into, in pixels: in the first a face that fills the picture is missed
SIZES = tuple(range(640, 256, -64))
_HINT = "delete it and get it again, it was made for something else or is damaged"


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture.

    Attributes:
        box: float32 ``[4]``, left, top, right and bottom in pixels; it may reach over the picture's edge.
        points: float32 ``[5, 2]``, x and y in pixels: the eyes, the nose, the corners of the mouth; what is on the
            left in the picture before what is on the right.
        score: of the detector, 0.5 to 1.
    """

    box: FloatArray
    points: FloatArray
    score: float


@dataclass(frozen=True)
class FaceAnalyser:
    """Finds and embeds faces.

    Attributes:
        detector: an ``SCRFD`` of insightface, with key points.
        recogniser: an ``ArcFaceONNX``.
        doubt: what to tell people of the recogniser; empty if it is the right one.
    """

    detector: Any
    recogniser: Any
    doubt: str = ""

    @classmethod
    def open(cls, detector: Path, recogniser: Path, device: torch.device, field: str) -> FaceAnalyser:
        """The two models of two ONNX files.

        Args:
            device: on a CUDA device they run if the installed onnxruntime can, else on the CPU.
            field: of the request, for the error.

        Raises:
            OMGError: a file is damaged or another kind of model, or insightface cannot be imported.
        """
        zoo = _zoo(field)
        return cls(_open(zoo, detector, "detection", device, field),
                   _open(zoo, recogniser, "recognition", device, field), doubt(recogniser))

    def faces(self, picture: Picture) -> list[Face]:
        """All faces of a picture, from left to right.

        They are sought at the sizes of :data:`SIZES`, up to the first at which there is one, as InstantID's nodes for
        ComfyUI do.

        Args:
            picture: uint8 RGB ``[H, W, 3]``.
        """
        image = _bgr(picture)
        longest, shortest = max(image.shape[:2]), min(image.shape[:2])
        for size in SIZES:
            if size * shortest < longest:
                break  # a strip that would be scaled to nothing
            boxes, points = self.detector.detect(image, input_size=(size, size))
            if len(boxes):
                found = [Face(box[:4], np.asarray(five, np.float32), float(box[4]))
                         for box, five in zip(boxes, points, strict=True)]
                return sorted(found, key=lambda face: float(face.box[0] + face.box[2]))
        return []

    def embedding(self, picture: Picture, face: Face) -> FloatArray:
        """Whose face it is: float32 ``[512]``, not normalised, as InstantID takes it.

        Args:
            picture: uint8 RGB ``[H, W, 3]``, in which the face was found.
        """
        from insightface.app.common import Face as Carrier

        with warnings.catch_warnings():
            # it calls a function that newer versions of scikit-image call outdated
            warnings.simplefilter("ignore", FutureWarning)
            return np.asarray(self.recogniser.get(_bgr(picture), Carrier(kps=face.points)), np.float32)


@contextmanager
def loaded(models: Models, field: str) -> Iterator[FaceAnalyser]:
    """The analyser for use within the block; afterwards it is freed, unless models are kept.

    Args:
        field: of the request, such as ``concepts[0].face``, for errors.

    Raises:
        OMGError: packages or files are missing, a file is another one than it should be, or damaged.
    """
    detector, recogniser = checked(models, field)
    with models.model(("face", detector, recogniser, models.device),
                      lambda: FaceAnalyser.open(detector, recogniser, models.device, field)) as analyser:
        yield analyser


def _bgr(picture: Picture) -> Picture:
    """As insightface reads pictures."""
    return np.ascontiguousarray(picture[:, :, ::-1])


def _zoo(field: str) -> Any:
    """insightface's module that opens models."""
    try:
        zoo = importlib.import_module("insightface.model_zoo.model_zoo")
        importlib.import_module("onnxruntime").set_default_logger_severity(3)  # errors only, as insightface sets it
    except Exception as error:  # whatever its parts raise that do not fit together
        raise OMGError(field, f"the package insightface cannot be imported ({type(error).__name__}: {error}); install "
                              "it and onnxruntime again") from error
    return zoo


def _open(zoo: Any, path: Path, task: str, device: torch.device, field: str) -> Any:
    with unprinted(zoo), reading(path, _HINT, field):
        model = zoo.get_model(str(path), providers=_providers(device))
    kind = getattr(model, "taskname", "nothing that insightface knows")
    if kind != task:
        raise OMGError(field, f"{path} is a model for {kind}, and should be one for {task}; {_HINT}")
    if task == "detection" and not model.use_kps:
        raise OMGError(field, f"{path} finds no key points of faces; {_HINT}")
    return model


def _providers(device: torch.device) -> list[str]:
    import onnxruntime

    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    there = onnxruntime.get_available_providers()
    return [*(name for name in wanted if name in there), "CPUExecutionProvider"]
