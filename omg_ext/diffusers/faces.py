"""Faces on a pipeline: the models that read and draw them, and each concept's face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor

from ..comprehension import Models
from ..comprehension.places import Places
from ..errors import OMGError
from ..faces.adapter import FaceAdapter
from ..faces.analysis import FaceAnalyser
from ..faces.base import Analysis, ConceptFace, DrawPoints, Face, Picture
from ..faces.files import checked
from ..faces.keypoints import draw
from ..faces.reference import embedding_of
from ..request import Concept, IdentityNet, Request
from ..unet.regions import Regions
from .controls import check_model, steps_between
from .residuals import IdentityControl

_ADAPTERS = ("ip-adapter.bin", "ip-adapter.safetensors", "ip-adapter_instant_id_sdxl.bin",
             "ip-adapter_instant_id_sdxl.safetensors")
_IDENTITYNETS = ("ControlNetModel", "control_instant_id_sdxl.safetensors")


@dataclass(eq=False)
class FaceModels:
    """What draws faces. What is read stays in memory with this object.

    Attributes:
        adapter: InstantID's image prompt adapter: a file, or a folder that has it by one of its usual names. Its
            weights stay in host memory.
        identitynet: InstantID's ControlNet: a model, a folder in diffusers' form, or one file; None does without.
        analysis: finds faces and reads whose they are: insightface with the models of a folder, antelopev2's, or
            something else. None if embeddings are given, and no IdentityNet.
        draw_points: makes the picture that the IdentityNet is shown: InstantID's five points by default.
    """

    adapter: str | Path | FaceAdapter
    identitynet: str | Path | ControlNetModel | None = None
    analysis: str | Path | Analysis | None = None
    draw_points: DrawPoints = draw

    def read_adapter(self) -> FaceAdapter:
        """
        Raises:
            OMGError: it is not there, or is something else.
        """
        if not isinstance(self.adapter, FaceAdapter):
            self.adapter = FaceAdapter.read(_in_folder(self.adapter, _ADAPTERS, "faces.adapter"), "faces.adapter")
        return self.adapter

    def read_analysis(self, device: torch.device, what: str) -> Analysis:
        """
        Args:
            what: it does, for the message that there is none.

        Raises:
            OMGError: there is none, packages or files are missing, or a file is another one.
        """
        if self.analysis is None:
            raise OMGError("faces.analysis", f"there is nothing that {what}; give the folder of antelopev2")
        if isinstance(self.analysis, (str, Path)):
            files = checked(Models(folders=[Path(self.analysis)]), "faces.analysis")
            self.analysis = FaceAnalyser.open(*files, device, "faces.analysis")
        return self.analysis

    def read_identitynet(self, pipe: DiffusionPipeline) -> ControlNetModel:
        """For a pipeline; one that this reads is put into its type and onto its device.

        Raises:
            OMGError: as :meth:`read_adapter`; or it was made for another kind of model.
        """
        model = self.identitynet
        if isinstance(model, (str, Path)):
            path = Path(model)
            if path.is_dir() and not (path / "config.json").is_file():
                path = _in_folder(path, _IDENTITYNETS, "faces.identitynet")
            model = _controlnet(pipe, path).to(pipe._execution_device, pipe.unet.dtype)
        check_model(pipe, model, "faces.identitynet")
        self.identitynet = model
        return model


@dataclass(frozen=True, eq=False)
class ConceptFaces:
    """Loads the concepts' faces for one call of the pipeline.

    Attributes:
        models: None if the pipeline has none.
        request: what the concepts ask for.
        embeds: embeddings by concept's index, [E], which stand for its pictures.
        steps: at how many timesteps the UNet is asked.
    """

    pipe: DiffusionPipeline
    models: FaceModels | None
    request: Request
    embeds: Mapping[int, Tensor]
    steps: int

    def load(self, index: int) -> ConceptFace | None:
        """One concept's; None if it has none, or all of it is off.

        Raises:
            OMGError: models are missing or unfit, or a picture has no face.
        """
        concept, field = self.request.concepts[index], f"concepts[{index}]"
        scales = self._scales(concept.identitynet)
        if not self._has_face(index) or not (concept.face_scale or any(scales)):
            return None
        wished = concept.identitynet
        if self.models is not None and self.models.identitynet is None and wished.scale and wished != IdentityNet():
            raise OMGError(f"{field}.identitynet", "there is no model for it; give FaceModels an identitynet, or leave "
                                                   "this out")
        if self.models is None:
            raise OMGError(f"{field}.face", "there is no model that draws it; give OMGPipeline faces=FaceModels(...)")
        adapter = self.models.read_adapter()
        adapter.check(self.pipe.unet, "faces.adapter")
        if any(scales):
            self.models.read_identitynet(self.pipe)
            self._analysis("finds the face that IdentityNet draws")
        tokens = self._tokens(concept, index, adapter)
        return ConceptFace(tokens, adapter.prompt(self.pipe.unet, tokens, concept.face_scale)
                           if concept.face_scale else None, scales)

    def find(self, picture: Picture) -> Sequence[Face]:
        """All faces in a picture [H, W, 3]."""
        return self._analysis("finds faces").faces(picture)

    def control(self, faces: Sequence[ConceptFace | None], places: Places, size: tuple[int, int],
                regions: Regions | None) -> IdentityControl:
        """What IdentityNet adds, in a pass of this size.

        Args:
            faces: of each concept.
            places: with key points.
            size: height and width in pixels.
            regions: see :class:`IdentityControl`.
        """
        assert self.models is not None
        model: Any = self.models.read_identitynet(self.pipe)
        height, width = size
        shown: dict[tuple[int, int], Tensor] = {}
        for picture, of_picture in enumerate(places.points):
            for concept, points in enumerate(of_picture):
                if points is not None:
                    drawn = self.models.draw_points(points * np.array([width, height], np.float32), size)
                    pixels = torch.from_numpy(np.ascontiguousarray(drawn)).permute(2, 0, 1).float() / 255
                    shown[picture, concept] = pixels.to(self.pipe._execution_device, model.dtype)
        return IdentityControl(model, faces, shown, regions)

    def warnings(self, index: int) -> list[str]:
        """What the user should know of a concept's face."""
        concept, told = self.request.concepts[index], []
        doubt = getattr(self.models and self.models.analysis, "doubt", "")
        if doubt and concept.faces and index not in self.embeds:
            told.append(f"concepts[{index}].face: {doubt}")
        scales = self._scales(concept.identitynet)
        if self._has_face(index) and concept.identitynet.scale and scales and not any(scales):
            told.append(f"concepts[{index}].identitynet: none of the {self.steps} steps lies wholly between its start "
                        "and its end, so it did nothing; widen the span, or take more steps")
        return told

    def _has_face(self, index: int) -> bool:
        return bool(self.request.concepts[index].faces) or index in self.embeds

    def _scales(self, wished: IdentityNet) -> list[float]:
        has_one = self.models is not None and self.models.identitynet is not None
        return steps_between(self.steps, wished.start, wished.end, wished.scale) if has_one else []

    def _analysis(self, what: str) -> Analysis:
        assert self.models is not None
        return self.models.read_analysis(self.pipe._execution_device, what)

    def _tokens(self, concept: Concept, index: int, adapter: FaceAdapter) -> Tensor:
        if index in self.embeds:
            return adapter.tokens(self.embeds[index], f"face_embeds[{index}]")
        analysis = self._analysis("reads whose face it is")
        embedding = embedding_of(concept, f"concepts[{index}]", analysis)
        return adapter.tokens(torch.from_numpy(embedding), f"concepts[{index}].face")


def _in_folder(path: str | Path, names: Sequence[str], field: str) -> Path:
    """A file, or one that a folder has by one of its usual names."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = next((path / name for name in names if (path / name).exists()), None)
    if found is None:
        raise OMGError(field, f"the folder {path} has none of {', '.join(names)}; name the file itself")
    return found


def _controlnet(pipe: DiffusionPipeline, path: Path) -> Any:
    """A ControlNet from diffusers' folder, or from one file with diffusers' keys.

    Raises:
        OMGError: it is neither.
    """
    field, wanted = "faces.identitynet", "take InstantID's ControlNetModel, also known as control_instant_id_sdxl"
    if not path.exists():
        raise OMGError(field, f"there is no file or folder {path}; {wanted}")
    try:
        if path.is_dir():
            return ControlNetModel.from_pretrained(str(path), local_files_only=True)
        state = load_file(path)
        hint = "controlnet_cond_embedding.{}.weight"
        widths = [state[hint.format("conv_in")].shape[0], *(
            state[hint.format(f"blocks.{number}")].shape[0] for number in range(1, 100, 2)
            if hint.format(f"blocks.{number}") in state)]
        model = ControlNetModel.from_unet(pipe.unet, load_weights_from_unet=False,
                                          conditioning_embedding_out_channels=tuple(widths),
                                          conditioning_channels=state[hint.format("conv_in")].shape[1])
        model.load_state_dict(state)
    except OMGError:
        raise
    except Exception as error:  # of whatever a file may be instead
        raise OMGError(field, f"{path.name} is no ControlNet for this pipeline that diffusers reads "
                              f"({type(error).__name__}); {wanted}") from error
    return model.eval()
