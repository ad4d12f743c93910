"""A tiny CLIP with random weights, in the folder that the real one comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.models.tiny_detectors import write_clip_tokens


def write_clip_model(folder: Path, seed: int = 0) -> Path:
    """A folder of a ``CLIPModel`` and its processor: pictures of 32 x 32 pixels in patches of 8, texts of 16 tokens."""
    import transformers

    folder.mkdir(parents=True)
    write_clip_tokens(folder)
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
                             "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 16,
                     "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
                     "pad_token_id": tokenizer.pad_token_id},
        vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=24)
    torch.manual_seed(seed)
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size)
    transformers.CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder
