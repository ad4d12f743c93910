"""Faces on a pipeline: the models that read and draw them, and each concept's face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

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
from ..faces.concepts import drawn_points
from ..faces.files import checked
from ..faces.keypoints import draw
from ..faces.reference import embedding_of
from ..request import Concept
from ..unet.identity import IdentityControl
from ..unet.regions import Regions
from .controls import check_model
from .residuals import CONTEXT, POOLED, asked

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
class PipelineFaces:
    """A pipeline's models of faces: see :class:`omg_ext.faces.concepts.Source`."""

    pipe: DiffusionPipeline
    models: FaceModels

    @property
    def without_identitynet(self) -> str:
        return "give FaceModels an identitynet" if self.models.identitynet is None else ""

    @property
    def doubt(self) -> str:
        return getattr(self.models.analysis, "doubt", "")

    def adapter(self, field: str) -> FaceAdapter:
        adapter = self.models.read_adapter()
        adapter.check(self.pipe.unet, "faces.adapter")
        return adapter

    def check_identitynet(self, field: str) -> None:
        self.models.read_identitynet(self.pipe)
        self._analysis("finds the face that IdentityNet draws")

    def tokens(self, concept: Concept, field: str) -> Tensor:
        embedding = embedding_of(concept, field, self._analysis("reads whose face it is"))
        return self.models.read_adapter().tokens(torch.from_numpy(embedding), f"{field}.face")

    def find(self, pictures: Sequence[Picture]) -> list[Sequence[Face]]:
        """All faces in each of some pictures [H, W, 3]."""
        analysis = self._analysis("finds faces")
        return [analysis.faces(picture) for picture in pictures]

    def control(self, faces: Sequence[ConceptFace | None], places: Places, size: tuple[int, int],
                regions: Regions | None) -> IdentityControl:
        """What IdentityNet adds, in a pass of this size.

        Args:
            faces: of each concept.
            places: with key points.
            size: height and width in pixels.
            regions: see :class:`IdentityControl`.
        """
        model: Any = self.models.read_identitynet(self.pipe)
        shown = drawn_points(places.points, size, self.models.draw_points)
        pictures = {key: picture.to(self.pipe._execution_device, model.dtype) for key, picture in shown.items()}
        return IdentityControl(partial(asked, model), CONTEXT, POOLED, faces, pictures, regions)

    def _analysis(self, what: str) -> Analysis:
        return self.models.read_analysis(self.pipe._execution_device, what)


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
