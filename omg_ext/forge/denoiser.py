"""Forge's samplers as they call a tap: all through the options of the model's patcher, in x_0 space.

Forge puts the rows of UNet calls together as memory and prompts' lengths allow, unconditional ones first. So each row
of conditioning carries what it is, see :class:`Named`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import OMGError
from ..host import Evaluate, Guided, PromptParts, Tap
from ..unet.calls import Row
from ..unet.patches import Patches
from ..webui.neighbours import Watch
from ..webui.refiner import Refiner
from ..webui.replacing import replaced
from .backend import backend
from .control import Control

NAMES = "omg_rows"
"""What a row's conditioning calls that which says what the row is"""
MODIFIERS, WRAPPER, AFTER_CFG, CFG = ("conditioning_modifiers", "model_function_wrapper", "sampler_post_cfg_function",
                                      "sampler_cfg_function")
"""Options of Forge's patcher"""
TEXTS = ("c_crossattn", "y")


@dataclass(frozen=True)
class Named:
    """Says what some rows are, as a part of their conditioning: Forge joins it as it joins the rows.

    Attributes:
        rows: one for each picture.
    """

    rows: tuple[Row, ...]

    def process_cond(self, **_: Any) -> Named:
        return self

    def can_concat(self, other: Named) -> bool:
        return True

    def size(self) -> list[int]:
        """None of it lies on the device; reForge asks when it guesses memory."""
        return [1]

    def concat(self, others: Sequence[Named]) -> tuple[Row, ...]:
        return tuple(row for each in (self, *others) for row in each.rows)


@dataclass
class _Call:
    """One denoiser call.

    Attributes:
        left, asked: global rows that the UNet has not been asked for yet, and those that it has.
        control: what ControlNets say of each row.
        scale: the picture's guidance scale.
        progress: what the denoiser has behind itself, as a refiner is asked whether it takes over.
        texts: see :func:`_texts`.
    """

    left: set[Row] = field(default_factory=set)
    asked: set[Row] = field(default_factory=set)
    control: Control = field(default_factory=Control)
    scale: float = 1.0
    progress: float = 0.0
    texts: Sequence[Any] = ()


@dataclass(frozen=True)
class _Trajectory:
    """What a model's sampling has behind itself, in 0..1.

    Attributes:
        log_sigmas: by timestep.
    """

    log_sigmas: npt.NDArray[np.float64]

    @classmethod
    def of(cls, sigmas: Tensor) -> _Trajectory:
        return cls(sigmas.log().double().cpu().numpy())

    def at_timestep(self, t: float) -> float:
        return (len(self.log_sigmas) - 1 - t) / len(self.log_sigmas)

    def at_sigma(self, sigma: float) -> float:
        return self.at_timestep(float(np.interp(math.log(sigma), self.log_sigmas, np.arange(len(self.log_sigmas)))))


@contextmanager
def tapped(patcher: Any, denoiser: Any, tap: Tap, refiner: Refiner, controls_concepts: bool) -> Iterator[None]:
    """Sampling within the block goes through the tap.

    Predictions are blended right after Forge's own guidance: functions of other extensions that change what guidance
    gives, inpainting masks, callbacks and previews come after it, as for any picture. Where a refiner takes over, the
    tap is taken off.

    Args:
        patcher: of the model's UNet. Its options are put back as they were.
        denoiser: the sampler's.
        controls_concepts: whether ControlNets act on concepts' rows.

    Raises:
        OMGError: within the block, another extension does what cannot reach the concepts.
    """
    before: Mapping[str, Any] = patcher.model_options
    wrap = before.get(WRAPPER)
    trajectory, forward = _Trajectory.of(backend.sigmas(patcher.model)), denoiser.forward
    now, watch = _Call(), Watch()

    def remember(model: Any, x: Tensor, sigma: Tensor, uncond: Any, cond: Any, *others: Any) -> Any:
        now.texts = _texts([*cond, *(uncond or ())])
        return model, x, sigma, uncond, cond, *others

    def denoise(x: Tensor, sigma: Tensor, *others: Any, **named: Any) -> Tensor:
        # DDIM, PLMS and others count the model's timesteps
        at = trajectory.at_timestep if denoiser.classic_ddim_eps_estimation else trajectory.at_sigma
        now.progress = at(float(sigma.max()))
        denoised: Tensor = forward(x, sigma, *others, **named)
        return denoised

    def begin(model: Any, x: Tensor, sigma: Tensor, uncond: Any, cond: Any, scale: float, *others: Any) -> Any:
        watch.check()
        _refuse_others(now.texts, _texts([*cond, *(uncond or ())]))
        tap.begin(trajectory.at_sigma(float(sigma.max())), denoiser.step)
        named = [(each, tuple(Row(picture, part=part) for picture in range(len(x)))) for part, each in enumerate(cond)]
        named += [(each, tuple(Row(picture, part=None) for picture in range(len(x)))) for each in uncond or ()]
        for each, rows in named:
            each["model_conds"][NAMES] = Named(rows)
        now.left, now.asked, now.scale = {row for _, rows in named for row in rows}, set(), scale
        now.control = Control.taken_from([each for each, _ in named], controls_concepts)
        return model, x, sigma, uncond, cond, scale, *others

    def unet(apply: Callable[..., Tensor], given: Mapping[str, Any]) -> Tensor:
        inputs = dict(given["c"])
        rows = inputs.pop(NAMES, None)
        if rows is None or not now.left.issuperset(rows):
            raise OMGError("other extensions", "another extension evaluates the model for guidance of its own (as SAG "
                                               "and PAG do), which does not reach the concepts; turn it off for "
                                               "pictures with OMG")
        now.left.difference_update(rows)
        now.asked.update(rows)
        cond = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        others = {name: value for name, value in inputs.items() if name not in cond}
        evaluate = _evaluate_with(apply, wrap, others, tap.patches, now.control)
        return tap.unet(evaluate, given["input"], given["timestep"], cond, rows)

    def guided(given: Mapping[str, Any]) -> Tensor:
        has_uncond = any(row.part is None for row in now.asked)
        plain = Guided(given["denoised"], given["uncond_denoised" if has_uncond else "cond_denoised"])
        p = denoiser.p
        is_bare = not has_uncond or math.isclose(now.scale, 1.0)  # reForge keeps the scale, CFG++ the rows
        is_skipped = is_bare and not math.isclose(p.hr_cfg if p.is_hr_pass else p.cfg_scale, 1.0)
        guidance = ForgeGuidance(given, now.scale if has_uncond else None, is_skipped)
        blended = tap.guided(plain, guidance)
        if has_uncond and blended is not plain:
            _hand_on(given, blended, now.scale)
        return blended.prediction

    options = {**before, WRAPPER: unet, MODIFIERS: [remember, *before.get(MODIFIERS, ()), begin],
               AFTER_CFG: [guided, *before.get(AFTER_CFG, ())]}
    with ExitStack() as stack:
        for owner, name, value in ((patcher, "model_options", options), (denoiser, "forward", denoise)):
            stack.enter_context(replaced(owner, name, value))
        stack.enter_context(watch.watching())
        with refiner.watched(lambda: now.progress, stack.close):
            yield


def _evaluate_with(apply: Callable[..., Tensor], wrap: Any, others: Mapping[str, Any], patches: Patches,
                   control: Control) -> Evaluate:
    """The UNet for rows of the running call, as Forge's ``calc_cond_uncond_batch`` asks it for its own.

    Args:
        apply: the model.
        wrap: what another extension has put around it, or None.
        others: what the model takes besides tensors of conditioning.
    """
    def evaluate(x: Tensor, sigma: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        call = patches.call
        assert call is not None
        unconds = [int(row.part is None) for row in call.rows]
        options = {**others["transformer_options"], "cond_or_uncond": unconds, "sigmas": sigma[:1],
                   "cond_mark": torch.tensor(unconds).to(sigma), "cond_indices": _where(unconds, 0),
                   "uncond_indices": _where(unconds, 1)}
        inputs = {**others, **cond, "transformer_options": options}
        inputs |= control.of(call.rows, x, sigma, inputs)
        if wrap is None:
            return apply(x, sigma, **inputs)
        output: Tensor = wrap(apply, {"input": x, "timestep": sigma, "c": inputs, "cond_or_uncond": unconds})
        return output

    return evaluate


def _texts(conds: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What the prompts say in each part of conditioning."""
    parts = [each["model_conds"].get(name) for each in conds for name in TEXTS]
    return [None if part is None else part.cond for part in parts]


def _refuse_others(before: Sequence[Any], after: Sequence[Any]) -> None:
    """
    Raises:
        OMGError: these are not the very tensors.
    """
    if len(before) != len(after) or not all(map(operator.is_, before, after)):
        raise OMGError("other extensions", "one changes what the prompts say as they are drawn (Revision or "
                                           "PhotoMaker, say), which does not reach the concepts; turn it off for "
                                           "pictures with OMG")


def _hand_on(given: Mapping[str, Any], blended: Guided, scale: float) -> None:
    """What guidance is made of, for those who read it afterwards: samplers of CFG++ step along the unconditional noise,
    MaHiRo weighs both.

    Args:
        given: what Forge hands on after guidance, changed in place.
        scale: the picture's.
    """
    given["uncond_denoised"].copy_(blended.uncond)
    if scale:
        given["cond_denoised"].copy_(blended.uncond + (blended.prediction - blended.uncond) / scale)


def _where(marks: Sequence[int], mark: int) -> list[int]:
    return [number for number, each in enumerate(marks) if each == mark]


@dataclass(frozen=True, eq=False)
class ForgeGuidance:
    """Guides concepts as Forge's ``sampling_function_inner`` guides the picture.

    Attributes:
        given: what Forge hands on after guidance.
        of_picture: its guidance scale; None in a step without unconditional rows.
        is_skipped: whether Forge leaves guidance out of this step alone (NGMS).
    """

    given: Mapping[str, Any]
    of_picture: float | None
    is_skipped: bool = False

    def scale(self, own: float | None) -> float | None:
        if own is None:
            return self.of_picture
        return None if self.is_skipped or math.isclose(own, 1.0) else own

    def guide(self, cond: Tensor, parts: PromptParts, uncond: Tensor, scale: float, pictures: Sequence[int]) -> Tensor:
        weights = [sum(weight for _, weight in of_picture) for of_picture in parts]
        mixed = torch.stack([sum(((cond[row] - base) * weight for row, weight in of_picture), torch.zeros_like(base))
                             for of_picture, base in zip(parts, uncond, strict=True)])
        replacing = self.given["model_options"].get(CFG)
        if replacing is None:
            return uncond + mixed * scale
        x, sigma = self.given["input"][list(pictures)], self.given["sigma"][list(pictures)]
        mean = uncond + mixed / torch.tensor(weights).to(mixed)[:, None, None, None]
        guided: Tensor = x - replacing({
            "cond": x - mean, "uncond": x - uncond, "cond_scale": scale, "timestep": sigma, "input": x, "sigma": sigma,
            "cond_denoised": mean, "uncond_denoised": uncond, "model": self.given["model"],
            "model_options": self.given["model_options"]})
        return guided

    def finished(self, prediction: Tensor) -> Tensor:
        return prediction
