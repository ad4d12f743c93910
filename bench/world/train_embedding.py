"""Textual inversion on the small SDXL: ``python -m bench.world.train_embedding [--identity NAME]``.

A word's vectors in both text encoders are all that is trained (arXiv 2208.01618). The word is the name of the file.
Five minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from bench.world import checkpoint, model, subjects, weights
from bench.world.attributes import IDENTITIES
from bench.world.captions import RARE_WORDS
from bench.world.diffusion import Conditioning, denoising_loss
from bench.world.pixels import latents
from bench.world.tokens import tokenizer
from tests.models.sgm_config import VOCABULARY as CLIP_WORDS

IDENTITY = "Azura"
VECTORS = 8
RECIPE = subjects.Recipe(steps=1200, rows=12, learning_rate=0.1)
KEYS = ("clip_l", "clip_g")
"""The first and the second text encoder's vectors, in files for SDXL."""
_PADDING = ("<|endoftext|>", "!")


def token_ids(captions: Sequence[str], word: str, padding: str) -> Tensor:
    """CLIP's ids [B, 77] of captions, with ids beyond its vocabulary, one per vector, where ``word`` stands."""
    known = tokenizer(padding)
    place = known.convert_tokens_to_ids(f"{word}</w>")
    rows = []
    for row in known(list(captions), padding="max_length", max_length=77, truncation=True).input_ids:
        at = row.index(place)
        rows.append([*row[:at], *range(CLIP_WORDS, CLIP_WORDS + VECTORS), *row[at + 1:]][:77])
    return torch.tensor(rows)


def _table(encoder: nn.Module) -> str:
    """The name of the parameter that holds the tokens' vectors."""
    return next(name for name, _ in encoder.named_parameters() if name.endswith("token_embedding.weight"))


def _encoded(encoder: nn.Module, ids: Tensor, vectors: Tensor) -> Any:
    """What the text encoder gives for ids of which those beyond its vocabulary stand for ``vectors`` [n, width]."""
    name = _table(encoder)
    table = torch.cat([encoder.get_parameter(name), vectors])
    return functional_call(encoder, {name: table}, (ids,), {"output_hidden_states": True})


def encode(networks: model.Parts, ids: Sequence[Tensor], vectors: Sequence[Tensor]) -> Conditioning:
    """As ``diffusion.encode``, with gradients.

    Args:
        ids: [B, 77] for each text encoder, see :func:`token_ids`.
        vectors: [VECTORS, TEXT_WIDTH] for each.
    """
    first, second = (_encoded(encoder, *given) for encoder, *given in zip(
        (networks.text_encoder, networks.text_encoder_2), ids, vectors, strict=True))
    return Conditioning(torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds)


def initial(networks: model.Parts, seed: int) -> list[nn.Parameter]:
    """For each text encoder the vectors [VECTORS, TEXT_WIDTH] of rare words: as a start, what says nothing."""
    words = [f"{word}</w>" for word in Random(seed).sample(RARE_WORDS, VECTORS)]
    ids = tokenizer().convert_tokens_to_ids(words)
    return [nn.Parameter(encoder.get_parameter(_table(encoder))[ids].detach().clone())
            for encoder in (networks.text_encoder, networks.text_encoder_2)]


def train(networks: model.Parts, name: str = IDENTITY, seed: int = 0,
          recipe: subjects.Recipe = RECIPE) -> tuple[dict[str, Tensor], list[float]]:
    """The vectors of a word for the identity, and the loss of each step. ``networks``, which are frozen, stay so."""
    identity = IDENTITIES[name]
    pictures = subjects.own_pictures(identity, seed)
    shown = latents(networks.vae, np.stack([picture.image for picture in pictures]))
    captions = [picture.caption for picture in pictures]
    ids = [token_ids(captions, identity.trigger, padding) for padding in _PADDING]
    vectors = initial(networks, seed)

    def loss() -> Tensor:
        drawn = torch.randint(len(shown), (recipe.rows,))
        conditioning = encode(networks, [each[drawn] for each in ids], vectors)
        return denoising_loss(networks.unet, shown[drawn], conditioning, caption_dropout=0)

    losses = subjects.fit(vectors, loss, recipe, seed)
    return {key: each.detach() for key, each in zip(KEYS, vectors, strict=True)}, losses


def attach(pipe: StableDiffusionXLPipeline, path: Path, word: str) -> None:
    """Lets prompts of a diffusers pipeline use an embedding file as ``word``."""
    state = load_file(path)
    pipe.load_textual_inversion(state[KEYS[0]], token=word, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
    pipe.load_textual_inversion(state[KEYS[1]], token=word, text_encoder=pipe.text_encoder_2,
                                tokenizer=pipe.tokenizer_2)


def save(state: dict[str, Tensor], path: Path) -> None:
    """Write an embedding file for SDXL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Textual inversion on the small SDXL.")
    parser.add_argument("--identity", choices=list(IDENTITIES), default=IDENTITY, metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    start = time.perf_counter()
    state, losses = train(checkpoint.load(weights.CHECKPOINT), chosen.identity, chosen.seed)
    path = weights.embedding(chosen.identity)
    save(state, path)
    print(subjects.report(path, losses, time.perf_counter() - start))


if __name__ == "__main__":
    main()
