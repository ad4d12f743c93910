"""A first pass that was shown to the user is not drawn again: kept until something that it depends on changes."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from modules import sd_vae, shared
from PIL import Image
from torch import Tensor

from ..passes.first import FirstResult
from ..request import Request
from .controlnet import Units
from .engine import engine
from .neighbours import scripts_of
from .network_files import active_files

# of the processing object: who asked, what becomes of the picture later, what the sampler is not told; subseeds, which
# are random where they do not count, show in the noise
_NOT_OF_THE_FIRST_PASS = ("hr_", "all_", "script_args", "subseeds", "cached_", "enable_hr", "denoising_strength",
                          "do_not_", "outpath_", "n_iter", "force_task_id", "is_api", "user", "comments",
                          "extra_generation_params", "omg_")
# -1 where they are random; `seeds` has what was drawn
_ASKED_FOR = ("seed", "subseed")


@dataclass
class Preview:
    """The first pass that the user has seen last.

    Attributes:
        key: what it depends on, see :func:`key_of`; None is nothing kept.
        first: itself.
        picture: its first picture, uint8 [H, W, 3].
        overlay: the same with what was found in it.
    """

    key: bytes | None = None
    first: FirstResult | None = None
    picture: npt.NDArray[np.uint8] | None = None
    overlay: Image.Image | None = None

    def keep(self, key: bytes | None, first: FirstResult | None, picture: npt.NDArray[np.uint8],
             overlay: Image.Image) -> None:
        """Keep a first pass, if there is one to go on from, and its pictures, in place of the one before."""
        self.drop()
        self.key, self.first, self.picture, self.overlay = key, first, picture, overlay

    def result(self, key: bytes | None, phrases: Sequence[str]) -> FirstResult | None:
        """The first pass, if it is the one that would be drawn; another one is given up, with its memory.

        Args:
            key: of the one that would be drawn.
            phrases: of which it needs heat maps.
        """
        if key is None or key != self.key or self.first is None or not self.first.has_heat_of(phrases):
            self.drop()
        return self.first

    def drop(self) -> None:
        """Forget the first pass; the picture of it stays to be looked at."""
        if self.first is not None:
            self.first.layout.store.clear()
        self.key = self.first = None


def key_of(p: Any, request: Request, noise: Tensor) -> bytes | None:
    """A digest of all that the first pass of a batch depends on; None if something cannot be compared.

    Args:
        p: the web UI's processing object.
        noise: what the sampler starts from, [B, C, h, w].
    """
    if Units(scripts_of(p)).draw_noise:
        return None  # which is not kept
    digest = hashlib.sha256()
    try:
        for part in _parts(p, request, noise):
            digest.update(json.dumps(part, sort_keys=True, default=_digest_of).encode())
    except (pickle.PicklingError, TypeError, AttributeError, ValueError):
        return None  # an argument of some script
    return digest.digest()


def _parts(p: Any, request: Request, noise: Tensor) -> Iterator[Any]:
    yield noise.cpu().numpy()
    yield request.blend_start, request.layout.cross, request.layout.self_, request.detector
    yield sorted((name, value) for name, value in vars(p).items()
                 if _is_simple(value) and name not in _ASKED_FOR and not name.startswith(_NOT_OF_THE_FIRST_PASS))
    yield sorted((name, value) for name, value in shared.opts.data.items() if _is_simple(value))
    model = shared.sd_model.sd_checkpoint_info
    yield [_stamp(file) for file in (model.filename, sd_vae.loaded_vae_file, *sorted(active_files()))]
    yield engine().embeddings()
    for script in (*p.scripts.alwayson_scripts, *p.scripts.selectable_scripts):
        # the page's seeds, sampler and refiner only set what the processing object has
        if script.title() != "OMG" and not script.setup_for_ui_only:
            yield script.title(), p.script_args[script.args_from:script.args_to]


def _digest_of(value: Any) -> str:
    return hashlib.sha256(pickle.dumps(value)).hexdigest()


def _is_simple(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_simple, value))
    if isinstance(value, dict):
        return all(map(_is_simple, value.values()))
    return value is None or isinstance(value, (str, int, float, bool))


def _stamp(file: Any) -> tuple[str, float]:
    """A file and when it was changed."""
    path = Path(str(file)) if file else None
    return (str(file), path.stat().st_mtime if path is not None and path.is_file() else 0)
