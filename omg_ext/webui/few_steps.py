"""What can be said before drawing of settings that leave the concepts few steps. No Gradio in here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..passes.given import too_little
from ..passes.second import too_late

GUIDED = ("CFG scale: the picture's is 1, as Turbo, Lightning and LCM want it, but {concepts} guidance of {own} own, "
          "which may burn colours there; set CFG scale and LoRA guidance of {these} to 0, or raise the picture's CFG "
          "scale if yours is an ordinary model")


def few_steps(blend_start: float, steps: int, run: int | None = None, strength: float = 1.0) -> list[str]:
    """What the warnings after drawing would say, if all steps were equally long.

    Args:
        blend_start: as in the request.
        steps: of the whole trajectory.
        run: how many of them run, the last ones; None is all.
        strength: of denoising, where a picture is given.
    """
    run = steps if run is None else run
    blended = min(run, steps - math.ceil(round(blend_start * steps, 6)))
    late = too_late(blend_start, run, blended) or (too_little(strength, run) if blend_start < 1 else [])
    names = {"blend_start": "Blend start", "denoising_strength": "Denoising strength"}
    return [f"{names[name]}: {reason}" for name, _, reason in (each.partition(": ") for each in late)]


def steps_over(steps: int, strength: float, is_fixed: bool) -> tuple[int, int]:
    """The steps of the whole trajectory, and how many of them img2img runs.

    Args:
        steps: as the user sets them.
        strength: of denoising.
        is_fixed: whether the web UI runs as many as are set, whatever the strength.
    """
    if is_fixed:
        return (max(steps, int(steps / min(strength, 0.999))) if strength > 0 else 0), steps if strength > 0 else 0
    return steps, min(steps, int(min(strength, 0.999) * steps) + 1)


def guided_at_one(cfg_scale: float, concepts: Sequence[Sequence[float]]) -> list[str]:
    """A sentence if the picture is drawn without guidance, and concepts are not.

    Args:
        cfg_scale: the picture's.
        concepts: of each its CFG scale at the start and at the end, and its LoRA guidance; 0 is automatic, or off.
    """
    numbers = [number for number, (start, end, lora) in enumerate(concepts, 1) if max(start, end) > 1 or lora > 0]
    if cfg_scale != 1 or not numbers:
        return []
    one = len(numbers) == 1
    listed = " and ".join(filter(None, [", ".join(map(str, numbers[:-1])), str(numbers[-1])]))
    return [GUIDED.format(concepts=f"concept {listed} has" if one else f"concepts {listed} have",
                          own="its" if one else "their", these="this concept" if one else "these concepts")]
