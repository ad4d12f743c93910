"""Extra pictures as files of their own beside the picture, where the web UI saves that."""

from __future__ import annotations

from typing import Any

from modules import images, shared
from PIL import Image

from .replacing import replaced


def save(p: Any, number: int, image: Image.Image, text: str, title: str, seed: int, prompt: str) -> None:
    """Save an extra picture as the web UI saves pictures, with its title at the end of its name.

    Args:
        number: of the result it belongs to, of all batches: parts of names go by it.
        text: its infotext.
    """
    iteration, index = divmod(number, p.batch_size)
    with replaced(p, "iteration", iteration), replaced(p, "batch_index", index):
        images.save_image(image, p.outpath_samples, "", seed, prompt, shared.opts.samples_format, info=text, p=p,
                          suffix=f"-omg-{title.replace(' ', '-')}")
