"""A refiner: another model takes over in the middle of a sampling, and the concepts' networks are not that model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from modules import sd_models, sd_samplers_common, shared

from ..host import Tap
from ..passes.first import FirstTap
from .replacing import replaced


class Refiner:
    """The refiner of one batch, in its pass at hand.

    The first pass is drawn without it: comprehension and the second pass need the model that the concepts are drawn on,
    and it would be loaded twice as often.

    Args:
        p: the web UI's processing object.

    Attributes:
        since: the fraction of the trajectory at which it took over; None if it has not.
    """

    def __init__(self, p: Any):
        self._p, self._base = p, shared.sd_model.sd_checkpoint_info
        self.since: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether it will take over in the pass at hand; by the rules of the web UI's ``apply_refiner``."""
        p = self._p
        if p.refiner_checkpoint_info in (None, self._base) or (p.refiner_switch_at or 0) >= 1:
            return False
        left_to = shared.opts.hires_fix_refiner_pass
        return not getattr(p, "enable_hr", False) or left_to not in ("first pass", "second pass") \
            or (left_to == "second pass") == p.is_hr_pass

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        return [] if self.since is None else [
            f"the refiner takes over at {self.since:.2g} of the trajectory; from there on the concepts are not drawn"]

    @contextmanager
    def sampling(self, tap: Tap) -> Iterator[None]:
        """While the host samples for this tap. If that fails the model is loaded that it began with."""
        with replaced(self._p, "refiner_checkpoint_info", None) if isinstance(tap, FirstTap) else nullcontext():
            try:
                yield
            except Exception:
                self.undo()
                raise

    @contextmanager
    def watched(self, progress: Callable[[], float], take_off: Callable[[], None]) -> Iterator[None]:
        """While the sampler runs within the block.

        Args:
            progress: tells what the denoiser has behind itself in its running call.
            take_off: what is to be done before the other model is asked.
        """
        apply_refiner, self.since = sd_samplers_common.apply_refiner, None

        def apply(*args: Any, **kwargs: Any) -> bool:
            since = progress() if self.since is None else self.since  # by the model that is there
            takes_over: bool = apply_refiner(*args, **kwargs)
            if takes_over:
                self.since = since
                take_off()
            return takes_over

        with replaced(sd_samplers_common, "apply_refiner", apply):
            yield

    @contextmanager
    def put_aside(self) -> Iterator[None]:
        """Within the block the model is loaded that came before it: latents of the first pass are that one's."""
        loaded = shared.sd_model.sd_checkpoint_info
        _load(self._base)
        try:
            yield
        finally:
            _load(loaded)

    def undo(self) -> None:
        """The model that came before it is loaded, and the sampler goes on with that."""
        if shared.sd_model.sd_checkpoint_info == self._base:
            return
        p = self._p
        _load(self._base)
        sd_models.apply_alpha_schedule_override(shared.sd_model, p)
        sd_models.apply_token_merging(shared.sd_model, p.get_token_merging_ratio(for_hr=p.is_hr_pass))
        p.setup_conds()
        p.sampler.model_wrap_cfg.update_inner_model()


def _load(info: Any) -> None:
    if shared.sd_model.sd_checkpoint_info != info:
        with sd_models.SkipWritingToConfig():
            sd_models.reload_model_weights(info=info)
