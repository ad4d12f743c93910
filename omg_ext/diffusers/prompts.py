"""Prompts and their embeddings for SDXL and SD 1.5 pipelines, with LoRAs in the text encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..comprehension import token_positions
from ..errors import OMGError
from ..unet.deltas import Delta
from ..unet.networks import ConceptConditioning, RowNetworks


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


def encode(pipe: DiffusionPipeline, prompt: str, negative_prompt: str | None,
           networks: Sequence[Mapping[nn.Module, Delta]]) -> PromptEmbeds:
    """Encode a prompt with LoRAs in the text encoders, all of which act on every row."""
    with ExitStack() as stack:
        for network in networks:
            rows = stack.enter_context(RowNetworks([network]))
            stack.enter_context(rows.acting([(0, slice(0, 1))], 1))
        encoded: Sequence[Any] = pipe.encode_prompt(
            prompt=prompt, device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=True,
            negative_prompt=negative_prompt)
    return PromptEmbeds(*encoded)


def phrase_positions(pipe: DiffusionPipeline, prompt: str, phrases: Sequence[str]) -> list[list[int]]:
    """The positions of each phrase's tokens in the encoded prompt (both SDXL tokenizers split text alike)."""
    tokenizer = pipe.tokenizer
    tokens = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length).input_ids
    return [token_positions(tokens, tokenizer(phrase, add_special_tokens=False).input_ids) for phrase in phrases]


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
