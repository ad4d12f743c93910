"""Prompts and their embeddings for SDXL and SD 1.5 pipelines, with LoRAs in the text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from torch import Tensor

from ..comprehension.phrases import Word, words_of
from ..errors import OMGError
from ..host import ConceptConditioning
from ..unet.calls import Row, UNetCall, every_row
from ..unet.deltas import Sources
from ..unet.networks import RowNetworks
from ..unet.patches import Patches


@dataclass
class PromptEmbeds:
    """An encoded prompt and negative prompt, as diffusers pipelines take them.

    Attributes:
        cond, uncond: [1, tokens, width]; ``uncond`` may be None if no guidance is used.
        pooled, pooled_uncond: [1, pooled width], SDXL only.
    """

    cond: Tensor
    uncond: Tensor | None = None
    pooled: Tensor | None = None
    pooled_uncond: Tensor | None = None

    def to(self, device: torch.device, dtype: torch.dtype) -> PromptEmbeds:
        """The same on another device, in another dtype."""
        def moved(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.to(device, dtype)

        return PromptEmbeds(self.cond.to(device, dtype), *map(moved, (self.uncond, self.pooled, self.pooled_uncond)))

    def conditioning(self, batch: int, time_ids: Tensor | None) -> ConceptConditioning:
        """For ``batch`` pictures: one conditional row for all, one unconditional row each."""
        # without guidance nobody asks for these rows
        uncond = torch.zeros_like(self.cond) if self.uncond is None else self.uncond
        pooled_uncond = self.pooled if self.pooled_uncond is None else self.pooled_uncond
        return ConceptConditioning(
            _rows(self.cond, self.pooled, time_ids, 1), [[(0, 1.0)]] * batch,
            _rows(uncond, pooled_uncond, time_ids, batch))


def _rows(states: Tensor, pooled: Tensor | None, time_ids: Tensor | None, count: int) -> dict[str, Tensor]:
    rows = {"encoder_hidden_states": states.expand(count, -1, -1)}
    if pooled is not None and time_ids is not None:
        rows |= {"text_embeds": pooled.expand(count, -1), "time_ids": time_ids.expand(count, -1)}
    return rows


def encode(pipe: DiffusionPipeline, prompt: str, negative_prompt: str | None, networks: Sources) -> PromptEmbeds:
    """Encode a prompt with networks in the text encoders."""
    with Patches(pipe.text_encoder) as patches:
        RowNetworks(patches, [(every_row, networks)])
        # a text encoder's batch is one prompt, or one negative prompt
        with patches.running(UNetCall((Row(0),), 0.0, (0, 0))):
            encoded: Sequence[Any] = pipe.encode_prompt(
                prompt=prompt, device=pipe._execution_device, num_images_per_prompt=1,
                do_classifier_free_guidance=True, negative_prompt=negative_prompt)
    return PromptEmbeds(*encoded)


def words(pipe: DiffusionPipeline, prompt: str) -> list[Word]:
    """The words of a prompt, at their positions in its conditioning (both SDXL tokenizers split text alike)."""
    tokenizer = pipe.tokenizer
    if isinstance(pipe, TextualInversionLoaderMixin):
        prompt = pipe.maybe_convert_prompt(prompt, tokenizer)  # embeddings of several vectors
    ids = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids
    silent, embeddings = set(tokenizer.all_special_tokens), tokenizer.get_added_vocab()
    pieces: list[str] = tokenizer.convert_ids_to_tokens(ids)
    return words_of(["" if piece in silent else f"{piece}</w>" if piece in embeddings else piece for piece in pieces])


def check_embeds(pipe: DiffusionPipeline, embeds: PromptEmbeds, field: str, guided: bool) -> None:
    """Refuse embeddings that lack a part.

    Raises:
        OMGError: no pooled embeddings for SDXL, or no negative prompt's embeddings although guidance asks for them.
    """
    if embeds.pooled is None and pipe.unet.config.addition_embed_type == "text_time":
        raise OMGError(field, "an SDXL pipeline needs pooled embeddings too")
    if guided and embeds.uncond is None:
        raise OMGError(field, "give the negative prompt's embeddings (uncond) too, or a guidance scale of 1")


def time_ids(height: int, width: int, like: PromptEmbeds) -> Tensor | None:
    """SDXL's size conditioning, [1, 6]: the picture was never cropped or scaled. None for SD 1.5."""
    if like.pooled is None:
        return None
    ids = [height, width, 0, 0, height, width]
    return torch.tensor([ids], dtype=like.cond.dtype, device=like.cond.device)
