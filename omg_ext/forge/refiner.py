"""Refiners in Forges, which keep one model and read every other one from its file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modules import sd_models, shared

from ..webui.refiner import Refiner
from ..webui.which import KIND, Kind
from .backend import backend


class ForgeRefiner(Refiner):
    """See :class:`omg_ext.webui.refiner.Refiner`.

    The model that it takes over from is not read again: hooks and networks hold it as long as the batch is drawn, so it
    is put back as it was, with what other extensions have put into it.
    """

    def __init__(self, p: Any):
        super().__init__(p)
        self._loaded = _Loaded()

    @contextmanager
    def put_aside(self) -> Iterator[None]:
        others = _Loaded()
        self._loaded.put_back()
        try:
            yield
        finally:
            others.put_back()

    def undo(self) -> None:
        if shared.sd_model is self._loaded.model:
            return
        self._loaded.put_back()
        self._p.setup_conds()
        self._p.sampler.model_wrap_cfg.update_inner_model()


class NeoRefiner(Refiner):
    """See :class:`omg_ext.webui.refiner.Refiner`. Neo's rules are others, and it does not keep the model before."""

    @property
    def is_due(self) -> bool:
        p = self._p
        has_other = p.refiner_checkpoint_info not in (None, self._base)
        # from a sigma on, or from a part of the steps on; with Hires. fix not at all
        return has_other and bool(p.refiner_switch_at) and not getattr(p, "enable_hr", False)


def refiner_of(p: Any) -> Refiner:
    """A batch's, by the rules of the Forge that runs."""
    if KIND is Kind.NEO:
        return NeoRefiner(p)
    return ForgeRefiner(p) if backend.LEAVES_MODELS_WHOLE else Refiner(p)


class _Loaded:
    """The loaded model, and what Forge knows it by.

    Attributes:
        model: Forge's, in host memory while another one is loaded.
    """

    def __init__(self) -> None:
        self.model, self._hash = sd_models.model_data.get_sd_model(), sd_models.model_data.forge_hash

    def put_back(self) -> None:
        """Have it loaded in the other one's place."""
        data = sd_models.model_data
        if data.get_sd_model() is not self.model:
            backend.unload_models()
            data.set_sd_model(self.model)
            data.forge_hash = self._hash
