"""ControlNets on rows of Forge: what they say is asked for each UNet call's own rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import OMGError
from ..unet.calls import Row
from .backend import backend

CONTROL = "control"


@dataclass(frozen=True)
class Control:
    """
    Attributes:
        first: Forge's chain of them; None if there are none.
        controls_concepts: whether they act on concepts' rows.
    """

    first: Any = None
    controls_concepts: bool = True

    @classmethod
    def taken_from(cls, conds: Sequence[dict[str, Any]], controls_concepts: bool) -> Control:
        """Take them out of the conditions of one denoiser call: Forge asks them for rows that may not be evaluated.

        Raises:
            OMGError: they do not act on all rows alike.
        """
        found = [cond.pop(CONTROL, None) for cond in conds]
        if any(each is not found[0] for each in found):
            raise OMGError("ControlNet", "another extension has it act on parts of the prompt, which concepts' prompts "
                                         "do not have; turn it off for pictures with OMG")
        return cls(found[0] if found else None, controls_concepts)

    def of(self, rows: Sequence[Row], x: Tensor, sigma: Tensor, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the model takes of them for rows of a UNet call; nothing if they do not act.

        Args:
            x, sigma: the rows' latents [n, C, h, w] and how far they are [n].
            inputs: what else the model takes.
        """
        if self.first is None or not (self.controls_concepts or all(row.concept is None for row in rows)):
            return {}
        for each in chain(self.first):
            each.transformer_options = inputs["transformer_options"]
        # as if each row were a batch of its own
        return backend.control(self.first, x, sigma, dict(inputs), len(rows))


def chain(control: Any) -> Iterator[Any]:
    """All of Forge's chain."""
    while control is not None:
        yield control
        control = control.previous_controlnet


def refuse(control: Any) -> None:
    """Refuse ControlNets that tell rows by their number in the batch.

    Raises:
        OMGError: with what they do.
    """
    for each in chain(control):
        hint = getattr(each, "cond_hint_original", None)
        if isinstance(hint, torch.Tensor) and len(hint) > 1:
            raise OMGError("ControlNet", "a unit has several pictures, one for each of the batch, and concepts' rows "
                                         "shift their numbers; give it one picture")
        if getattr(each, "advanced_frame_weighting", None) is not None:
            raise OMGError("ControlNet", "a unit has weights for each picture of the batch, and concepts' rows shift "
                                         "their numbers; turn this unit off for pictures with OMG")
