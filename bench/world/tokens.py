"""CLIP's tokenizer, with the part of its vocabulary that captions of the world need.

The ids are CLIP's own, so that a prompt means the same in a web UI, which has the whole vocabulary.
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

from transformers import CLIPTokenizer

CLIP_WORDS = 49408
"""Tokens of CLIP's vocabulary."""
MERGES = Path(__file__).with_name("clip_merges.txt")
"""Lines of rank, left, right: those of CLIP's merges that make the words of captions, in CLIP's order."""
_BYTES = 256
_START, _END = "<|startoftext|>", "<|endoftext|>"


def _letters() -> list[str]:
    """A printable character for each byte, in the order of their ids, as in GPT-2."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, printable), *(chr(_BYTES + index) for index in range(_BYTES - len(printable)))]


def vocabulary() -> dict[str, int]:
    """Token -> CLIP's id: the single bytes, what the merges make, and a name for each of the others.

    These fill the places of words that no caption has: diffusers takes the number of tokens for the next free id.
    """
    letters = _letters()
    ids = {token: index for index, token in enumerate([*letters, *(letter + "</w>" for letter in letters)])}
    for line in MERGES.read_text().splitlines():
        rank, left, right = line.split()
        ids[left + right] = 2 * _BYTES + int(rank)
    ids |= {_START: CLIP_WORDS - 2, _END: CLIP_WORDS - 1}
    unused = set(range(CLIP_WORDS)).difference(ids.values())
    return {**ids, **{f"<|{index}|>": index for index in unused}}


@cache
def tokenizer(padding: str = _END) -> CLIPTokenizer:
    """Text to CLIP's ids; a word that no caption has falls into smaller tokens.

    Args:
        padding: what fills up to 77 tokens: SDXL's second text encoder has ``"!"`` there.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary()))
        merges = (" ".join(line.split()[1:]) for line in MERGES.read_text().splitlines())
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        Path(folder, "tokenizer_config.json").write_text(json.dumps({
            "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": _START, "eos_token": _END,
            "unk_token": _END, "pad_token": padding}))
        return CLIPTokenizer.from_pretrained(folder)
