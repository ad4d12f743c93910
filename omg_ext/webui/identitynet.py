"""InstantID's IdentityNet of the parts of a web UI's SDXL UNet: a ControlNet is a UNet's first half, and more."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import OMGError
from ..faces.adapter import what_is
from ..unet.identity import Ask, IdentityControl
from ..unet.patches import Patches

CONTEXT, POOLED = "context", "y"
"""What both web UIs' UNets call their inputs"""
WANTED = "take InstantID's ControlNet for SDXL, control_instant_id_sdxl.safetensors"
_CONTROLNETS = ("controlnet_", "control_model.", "zero_convs.")
_ORIGINAL, _DIFFUSERS = "control_model.", "controlnet_mid_block.weight"
_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
_EMBEDDINGS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
               "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
               "conv_in": "input_blocks.0.0", "controlnet_mid_block": "middle_block_out.0"}

UntrainedUNet = Callable[[int], Any]
"""``(channels of the latents) -> the loaded checkpoint's UNet for these, without weights``"""
EmbedTimesteps = Callable[[Tensor, int], Tensor]
"""``(timesteps [n], width) -> [n, width]``, as the UNet does it"""


class IdentityNets(Protocol):
    """IdentityNets in the web UI that runs: how one is read, and where it is while it works.

    Attributes:
        unet: the loaded checkpoint's.
        kind: of what checkpoint an IdentityNet is read for.
    """

    @property
    def unet(self) -> nn.Module: ...

    @property
    def kind(self) -> Hashable: ...

    def read(self, path: Path, field: str) -> IdentityNet:
        """One for the loaded checkpoint, in host memory; arguments and errors as :func:`read`."""
        ...

    def at_work(self, net: IdentityNet) -> Ask:
        """What asks it in the pass that begins."""
        ...

    def act(self, patches: Patches, control: IdentityControl) -> None:
        """Let it act on the UNet while the hooks live."""
        ...

    def rest(self, net: IdentityNet, is_kept: bool) -> None:
        """A pass is over.

        Args:
            is_kept: whether it is kept for later presses of Generate.
        """
        ...


class IdentityNet(nn.Module):
    """A ControlNet (Zhang et al. 2023, arXiv 2302.05543) beside an SDXL UNet of the original layout.

    Args:
        unet: one of the same sizes, of which the first half is taken.
        shapes: of all weights, by their names.
        embed: its timesteps.
        dtype: that it calculates in.
    """

    def __init__(self, unet: Any, shapes: Mapping[str, torch.Size], embed: EmbedTimesteps, dtype: torch.dtype):
        super().__init__()
        self.width, self.channels, self.embed, self.dtype = unet.model_channels, unet.in_channels, embed, dtype
        self.time_embed, self.label_emb = unet.time_embed, unet.label_emb
        self.input_blocks, self.middle_block = unet.input_blocks, unet.middle_block
        last = sum(name.startswith("input_hint_block.") for name in shapes) // 2 - 1
        hint: list[nn.Module] = []
        for number in range(last + 1):
            after, before = shapes[f"input_hint_block.{2 * number}.weight"][:2]
            # every other one between the first and the last halves the size
            stride = 2 if number % 2 == 0 and 0 < number < last else 1
            hint += [nn.Conv2d(before, after, 3, stride, padding=1), nn.SiLU()]
        self.input_hint_block = nn.Sequential(*hint[:-1])
        self.zero_convs = nn.ModuleList([
            nn.Sequential(_pointwise(shapes[f"zero_convs.{number}.0.weight"]))
            for number in range(len(self.input_blocks))])
        self.middle_block_out = nn.Sequential(_pointwise(shapes["middle_block_out.0.weight"]))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, y: Tensor, shown: Tensor) -> list[Tensor]:
        """What it adds to each skip connection and, at last, to the middle block.

        Args:
            x, timesteps, context, y: as the UNet's.
            shown: [n, 3, 8 h, 8 w] in 0..1.
        """
        emb = self.time_embed(self.embed(timesteps, self.width).to(x.dtype)) + self.label_emb(y)
        residuals = []
        h = x
        for number, (block, zero) in enumerate(zip(self.input_blocks, self.zero_convs, strict=True)):
            h = block(h, emb, context)
            if number == 0:
                h = h + self.input_hint_block(shown)
            residuals.append(zero(h))
        return [*residuals, self.middle_block_out(self.middle_block(h, emb, context))]

    def ask(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], pictures: Tensor, scale: float) -> list[Tensor]:
        """See :class:`omg_ext.unet.identity.Ask`. What an inpainting UNet is given besides is left out."""
        own, context, y, shown = (each.to(x.device, self.dtype) for each in (
            x[:, :self.channels], cond[CONTEXT], cond[POOLED], pictures))
        residuals = self(own, t, context, y, shown)
        return [scale * residual.to(x.dtype) for residual in residuals]


def read(path: Path, field: str, untrained: UntrainedUNet, embed: EmbedTimesteps, dtype: torch.dtype) -> IdentityNet:
    """An IdentityNet from a file, in host memory.

    Args:
        path: with diffusers' keys, as it is published, or in the layout of ControlNet's authors.
        field: what errors name.
        dtype: of its weights, and that it calculates in.

    Raises:
        OMGError: it cannot be read, is something else, or was made for another kind of model.
    """
    try:
        state = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise OMGError(field, f"{path} is not a readable safetensors file ({error}); get it again") from None
    if not any(name.startswith(_CONTROLNETS) for name in state):
        raise OMGError(field, f"{path} is {what_is(state)}; {WANTED}")
    try:
        state = _in_original_layout(state)
        with torch.device("meta"):
            net = IdentityNet(untrained(state["input_blocks.0.0.weight"].shape[1]),
                              {name: tensor.shape for name, tensor in state.items()}, embed, dtype)
        net.load_state_dict({name: tensor.to(dtype) for name, tensor in state.items()}, assign=True)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip()[:200]
        raise OMGError(field, f"{path} is no ControlNet for the loaded checkpoint ({reason}); {WANTED}, and an "
                              "SDXL checkpoint") from None
    return net.eval().requires_grad_(False)


def _pointwise(shape: torch.Size) -> nn.Conv2d:
    return nn.Conv2d(shape[1], shape[0], 1)


def _in_original_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights by the names that the layout of ControlNet's authors gives them."""
    if _DIFFUSERS not in state:
        return {name.removeprefix(_ORIGINAL): tensor for name, tensor in state.items()}
    prefixes = sorted(_renamed(state), key=lambda pair: -len(pair[0]))
    renamed = {}
    for name, tensor in state.items():
        old, new = next(((old, new) for old, new in prefixes if name.startswith(f"{old}.")), (None, None))
        if old is None or new is None:
            raise KeyError(f"it has {name} besides")
        renamed[new + name.removeprefix(old)] = tensor
    return renamed


def _renamed(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """How diffusers calls parts of a ControlNet, and how its authors do."""
    def has(prefix: str) -> bool:
        return any(name.startswith(f"{prefix}.") for name in state)

    yield from _EMBEDDINGS.items()
    number = 1
    for level in count():
        block = f"down_blocks.{level}"
        if not has(block):
            break
        for layer in count():
            if not has(f"{block}.resnets.{layer}"):
                break
            yield from _resnet(f"{block}.resnets.{layer}", f"input_blocks.{number}.0")
            yield f"{block}.attentions.{layer}", f"input_blocks.{number}.1"
            number += 1
        if has(f"{block}.downsamplers"):
            yield f"{block}.downsamplers.0.conv", f"input_blocks.{number}.0.op"
            number += 1
    yield from _resnet("mid_block.resnets.0", "middle_block.0")
    yield "mid_block.attentions.0", "middle_block.1"
    yield from _resnet("mid_block.resnets.1", "middle_block.2")
    yield from ((f"controlnet_down_blocks.{zero}", f"zero_convs.{zero}.0") for zero in range(number))
    hints = ["conv_in", *(f"blocks.{block}" for block in range(len(state))
                          if has(f"controlnet_cond_embedding.blocks.{block}")), "conv_out"]
    yield from ((f"controlnet_cond_embedding.{hint}", f"input_hint_block.{2 * place}")
                for place, hint in enumerate(hints))


def _resnet(old: str, new: str) -> Iterator[tuple[str, str]]:
    return ((f"{old}.{part}", f"{new}.{name}") for part, name in _RESNET.items())
