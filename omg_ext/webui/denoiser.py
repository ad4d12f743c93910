"""The web UI's samplers as they call a tap: its CFG denoiser is a denoiser call, its inner model the UNet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from modules import prompt_parser
from modules.sd_samplers_timesteps import CFGDenoiserTimesteps
from torch import Tensor

from ..errors import OMGError
from ..host import Guided, PromptParts, Tap
from ..unet.calls import Row
from .neighbours import Watch, maker_of
from .refiner import Refiner
from .replacing import replaced


@contextmanager
def tapped(denoiser: Any, tap: Tap, refiner: Refiner) -> Iterator[None]:
    """Sampling within the block goes through the tap.

    Predictions are blended where the web UI combines them, so that inpainting masks, callbacks of other extensions,
    previews and the step counter come after it, as for any picture. Where a refiner takes over the tap is taken off.

    Raises:
        OMGError: within the block, another extension does what cannot reach the concepts.
    """
    model = denoiser.inner_model
    forward, evaluate, combine = denoiser.forward, model.forward, denoiser.combine_denoised
    left: list[Row] = []  # the rows of the running denoiser call that the UNet has not been asked for yet
    watch, combined = Watch(), [0]
    noised: list[Tensor] = []  # what the running denoiser call was given, and its sigma

    def denoise(x: Tensor, sigma: Tensor, uncond: Any, cond: Any, *args: Any, **kwargs: Any) -> Tensor:
        noised[:] = x, sigma
        tap.begin(progress_of(denoiser, sigma), denoiser.step)
        left[:], combined[:] = global_rows(cond), [0]
        denoised: Tensor = forward(x, sigma, uncond, cond, *args, **kwargs)
        # who puts a function there while sampling does it past the blend, or on top of it
        is_past = not combined[0] or vars(denoiser).get("combine_denoised") is not combine_denoised
        if is_past and refiner.since is None:
            watch.blame("guides the picture by a way of its own", maker_of(denoiser.combine_denoised))
        watch.check()
        return denoised

    def evaluate_rows(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return evaluate(x, t, cond=cond)

    def unet(x: Tensor, t: Tensor, cond: Any) -> Tensor:
        if watch.is_calling_back:
            watch.blame("evaluates the model for guidance of its own")
            return evaluate_rows(x, t, cond)
        if len(x) > len(left):
            raise OMGError("other extensions", "another extension evaluates the model for guidance of its own, which "
                                               "does not reach the concepts; turn it off for pictures with OMG")
        rows, left[:] = left[:len(x)], left[len(x):]
        return tap.unet(evaluate_rows, x, t, cond, rows)

    def combine_denoised(x_out: Tensor, conds_list: Any, uncond: Any, cond_scale: float) -> Tensor:
        combined[0] += 1
        plain = Guided(combine(x_out, conds_list, uncond, cond_scale), x_out[-uncond.shape[0]:])
        # rows that nobody asked for are unconditional ones, which the web UI skips at some steps (NGMS)
        guidance = WebUIGuidance(denoiser, combine, uncond, None if left else cond_scale, noised[0], noised[1])
        guided = tap.guided(plain, guidance)
        if denoiser.need_last_noise_uncond and guided is not plain:
            denoiser.last_noise_uncond = guided.uncond  # DDIM CFG++ steps along the unconditional noise
        return guided.prediction

    with ExitStack() as stack:
        for owner, name, value in ((denoiser, "forward", denoise), (model, "forward", unet),
                                   (denoiser, "combine_denoised", combine_denoised)):
            stack.enter_context(replaced(owner, name, value))
        stack.enter_context(watch.watching())
        with refiner.watched(lambda: progress_of(denoiser, noised[1]), stack.close):
            yield


@dataclass(frozen=True, eq=False)
class WebUIGuidance:
    """Guides concepts by the function that guides the picture, whatever other extensions have made of it.

    Attributes:
        denoiser: the web UI's.
        combine: its ``combine_denoised``.
        uncond: the picture's unconditional conditioning.
        cond_scale: the picture's guidance scale; None in a step without unconditional rows.
        x, sigma: the noised latents and how far they are (a timestep, for the timestep samplers).
    """

    denoiser: Any
    combine: Any
    uncond: Any
    cond_scale: float | None
    x: Tensor
    sigma: Tensor

    def scale(self, own: float | None) -> float | None:
        if self.cond_scale is None:
            return None
        return self.cond_scale if own is None else own * self.denoiser.cond_scale_miltiplier

    def guide(self, cond: Tensor, parts: PromptParts, uncond: Tensor, scale: float, pictures: Sequence[int]) -> Tensor:
        guided: Tensor = self.combine(torch.cat([cond, uncond]), [list(rows) for rows in parts],
                                      _first_rows(self.uncond, len(uncond)), scale)
        return guided

    def finished(self, prediction: Tensor) -> Tensor:
        finished: Tensor = self.denoiser.get_pred_x0(self.x, prediction, self.sigma)
        return finished


def global_rows(cond: Any) -> list[Row]:
    """The rows of one denoiser call: conditional ones first, several per picture if its prompt uses ``AND``."""
    rows = [Row(picture, part=part) for picture, parts in enumerate(cond.batch) for part in range(len(parts))]
    return rows + [Row(picture, part=None) for picture in range(len(cond.batch))]


def progress_of(denoiser: Any, sigma: Tensor) -> float:
    """Fraction of the trajectory that lies behind at a sigma (or at a timestep, for the timestep samplers)."""
    total = len(denoiser.inner_model.inner_model.alphas_cumprod)
    highest = sigma.max()
    timestep = highest if isinstance(denoiser, CFGDenoiserTimesteps) else denoiser.inner_model.sigma_to_t(highest)
    return (total - 1 - float(timestep)) / total


def _first_rows(cond: Any, count: int) -> Any:
    """So many rows of the web UI's conditioning: it is asked for its shape."""
    if isinstance(cond, dict):
        return prompt_parser.DictWithShape({name: tensor[:count] for name, tensor in cond.items()})
    return cond[:count]
