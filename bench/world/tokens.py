"""CLIP's tokenizer, with the part of its vocabulary that captions of the world need.

The ids are CLIP's own, so that a prompt means the same in a web UI, which has the whole vocabulary.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from transformers import CLIPTokenizer

from tests.models.sgm_config import BYTES, END, START, byte_tokens, write_tokenizer
from tests.models.sgm_config import VOCABULARY as CLIP_WORDS

MERGES = Path(__file__).with_name("clip_merges.txt")
"""Lines of rank, left, right: those of CLIP's merges that make the words of captions, in CLIP's order."""


def _merges() -> list[tuple[int, str, str]]:
    lines = (line.split() for line in MERGES.read_text().splitlines())
    return [(int(rank), left, right) for rank, left, right in lines]


def vocabulary() -> dict[str, int]:
    """Token -> CLIP's id: the single bytes, what the merges make, and a name for each of the others.

    These fill the places of words that no caption has: diffusers takes the number of tokens for the next free id.
    """
    ids = {token: index for index, token in enumerate(byte_tokens())}
    ids |= {left + right: 2 * BYTES + rank for rank, left, right in _merges()}
    ids |= {START: CLIP_WORDS - 2, END: CLIP_WORDS - 1}
    unused = set(range(CLIP_WORDS)).difference(ids.values())
    return {**ids, **{f"<|{index}|>": index for index in unused}}


@cache
def tokenizer(padding: str = END) -> CLIPTokenizer:
    """Text to CLIP's ids; a word that no caption has falls into smaller tokens.

    Args:
        padding: what fills up to 77 tokens: SDXL's second text encoder has ``"!"`` there.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder), vocabulary(), [f"{left} {right}" for _, left, right in _merges()], padding)
        return CLIPTokenizer.from_pretrained(folder)
