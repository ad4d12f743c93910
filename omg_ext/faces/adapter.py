"""InstantID's image prompt adapter, as files have it."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import OMGError
from ..request.architecture import is_network
from ..unet.image_prompts import ImagePrompt, file_order
from ..unet.patches import cross_attentions
from .resampler import Resampler

WANTED = "take InstantID's for SDXL, ip-adapter.bin, also known as ip-adapter_instant_id_sdxl"
PARTS = ("image_proj", "ip_adapter")
# what IP-Adapters for pictures read: CLIP's tokens
_CLIP_WIDTHS = (768, 1024, 1280, 1664)
_OTHERS = (
    (r"(ip_adapter\.\d+\.to_[qkv]_lora|image_proj\.perceiver_resampler)\.", "an IP-Adapter FaceID"),
    (r"image_proj\.(proj|norm)\.", "an IP-Adapter for pictures, not for faces"),
    (r"control_model\.|controlnet_|input_hint_block\.|lora_controlnet$",
     "a ControlNet; if it is InstantID's, it is the IdentityNet, and goes where that is named"),
    (r"model\.diffusion_model\.|conditioner\.|cond_stage_model\.|first_stage_model\.", "a whole checkpoint"),
)
_PROJECTION = re.compile(r"(\d+)\.to_([kv])_ip\.weight")


@dataclass(frozen=True, eq=False)
class FaceAdapter:
    """An adapter that was read, in host memory.

    Attributes:
        name: of its file.
        resampler: image_proj.
        projections: K_ip and V_ip of each cross-attention layer in the file's order, [inner, width] each.
    """

    name: str
    resampler: Resampler
    projections: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def read(cls, path: str | Path, field: str) -> FaceAdapter:
        """Read a file: safetensors, or torch's format, of which nothing but tensors is unpickled.

        Args:
            field: what errors name.

        Raises:
            OMGError: there is no such file, it cannot be read, or is something else.
        """
        path = Path(path)
        if not path.is_file():
            raise OMGError(field, f"there is no file {path}; {WANTED}")
        state = _read(path, field)
        image_proj, ip_adapter = ({key.removeprefix(f"{part}."): tensor for key, tensor in state.items()
                                   if key.startswith(f"{part}.")} for part in PARTS)
        if "latents" not in image_proj or not ip_adapter:
            raise OMGError(field, f"{path.name} is {what_is(state)}; {WANTED}")
        found = {(int(match[1]), match[2]): tensor for key, tensor in ip_adapter.items()
                 if (match := _PROJECTION.fullmatch(key))}
        try:
            projections = tuple((found[number, "k"], found[number, "v"])
                                for number in sorted({number for number, _ in found}))
            return cls(path.name, Resampler(image_proj), projections)
        except (KeyError, RuntimeError, ValueError) as error:
            raise OMGError(field, f"{path.name} is damaged, or an adapter of a kind that is not known here "
                                  f"({str(error).strip().splitlines()[-1].strip()}); {WANTED}") from None

    def check(self, unet: nn.Module, field: str) -> None:
        """Refuse a UNet that it was not made for.

        Raises:
            OMGError: naming ``field``.
        """
        attentions: list[Any] = cross_attentions(unet)
        if len(attentions) != len(self.projections):
            raise OMGError(field, f"{self.name} was made for another kind of model: it has {len(self.projections)} "
                                  f"cross-attention layers, the loaded model {len(attentions)}; {WANTED}, and an SDXL "
                                  "checkpoint")
        for number, (module, pair) in enumerate(zip(file_order(unet), self.projections, strict=True)):
            attention: Any = module
            # Forge's layers of few bits do not tell their sizes
            ours = getattr(attention.to_q, "out_features", None), getattr(attention.to_k, "in_features", None)
            if None in ours:
                continue
            theirs = next((tuple(weight.shape) for weight in pair if tuple(weight.shape) != ours), ours)
            if theirs != ours:
                raise OMGError(field, f"{self.name} was made for another kind of model: its cross-attention layer "
                                      f"{number} is {theirs[0]} x {theirs[1]}, the loaded model's {ours[0]} x "
                                      f"{ours[1]}; {WANTED}, and an SDXL checkpoint")
        width = self.resampler.proj_out.out_features
        if width != self.projections[0][0].shape[1]:
            raise OMGError(field, f"{self.name} is damaged: its tokens are {width} wide, its layers read "
                                  f"{self.projections[0][0].shape[1]}; get it again")

    @torch.no_grad()
    def tokens(self, embedding: Tensor, field: str) -> Tensor:
        """image_proj(e) and image_proj(0), float32 [2, tokens, width].

        Args:
            embedding: e, [E], not normalised.

        Raises:
            OMGError: the embedding is none that it reads.
        """
        width = self.resampler.embedding_width
        if tuple(embedding.shape) != (width,):
            hint = ", which is what IP-Adapters for pictures read" if width in _CLIP_WIDTHS else ""
            raise OMGError(field, f"a face's embedding of shape {list(embedding.shape)} does not fit {self.name}, "
                                  f"which reads {width} numbers{hint}; {WANTED}, and embeddings of antelopev2")
        own = embedding.detach().to("cpu", torch.float32)
        if not bool(own.isfinite().all()):
            raise OMGError(field, "the face's embedding has numbers that are not finite; compute it again")
        return self.resampler(torch.stack([own, torch.zeros_like(own)]))

    def prompt(self, unet: nn.Module, tokens: Tensor, scale: float) -> ImagePrompt:
        """What acts on a UNet that it fits.

        Args:
            tokens: see :meth:`tokens`.
            scale: w.
        """
        return ImagePrompt(tokens, dict(zip(file_order(unet), self.projections, strict=True)), scale)


def _read(path: Path, field: str) -> dict[str, Tensor]:
    """All tensors of a file, by their names in safetensors files."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise OMGError(field, f"{path.name} is not a readable safetensors file ({error}); get it again") from None
    is_zip = zipfile.is_zipfile(path)
    try:
        # older versions of torch take such a file for a program, and run it
        if is_zip and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
            raise pickle.UnpicklingError(path.name)
        # not as `torch.load`: the web UI puts a check of its own there, which gives nothing for files of newer torch.
        # Mapped, a file of gigabytes takes no memory of the process's own
        data = torch.serialization.load(str(path), map_location="cpu", weights_only=True,
                                        mmap=is_zip)
    except pickle.UnpicklingError:
        raise OMGError(field, f"{path.name} is damaged, or holds more than tensors, which is not read because it could "
                              "run code; get it again from its publisher, or take the .safetensors file") from None
    except Exception as error:  # whatever a damaged file makes torch stumble over
        raise OMGError(field, f"{path.name} is not a readable file of torch ({type(error).__name__}); get it "
                              "again") from error
    return _flat(data)


def _flat(data: Any, prefix: str = "") -> dict[str, Tensor]:
    if isinstance(data, Tensor):
        return {prefix: data}
    if not isinstance(data, Mapping):
        return {}
    return {key: tensor for name, item in data.items()
            for key, tensor in _flat(item, f"{prefix}.{name}" if prefix else str(name)).items()}


def what_is(state: Mapping[str, Tensor]) -> str:
    """What a file is that is no model for faces, in words."""
    for pattern, what in _OTHERS:
        if any(re.match(pattern, key) for key in state):
            return what
    if state and is_network({key: tuple(tensor.shape) for key, tensor in state.items()}):
        return "a LoRA, which a prompt names"
    return "nothing that is known here"
