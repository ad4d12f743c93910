"""The noise levels that the web UI's schedulers give a sampling, as standard deviations.

Each function of :data:`LEVELS` is one of ``modules/sd_schedulers.py``, with the web UI's default settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_RHO = 7.0
# both parameters of the beta distribution
_BETA = 0.6
# Align Your Steps' published levels
_ALIGNED = {True: (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
            False: (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)}


@dataclass(frozen=True, eq=False)
class Model:
    """What a schedule goes by.

    Attributes:
        sigmas: of the timesteps that the model was trained on, rising, [T].
        is_sdxl: rather than SD 1.x.
    """

    sigmas: Array
    is_sdxl: bool

    @property
    def last(self) -> int:
        """The noisiest timestep."""
        return len(self.sigmas) - 1

    def at(self, timesteps: Array) -> Array:
        """Levels at timesteps, which may lie between the model's."""
        return np.exp(np.interp(timesteps, np.arange(len(self.sigmas)), np.log(self.sigmas)))

    def timesteps(self, sigmas: Array) -> Array:
        """The opposite of :meth:`at`."""
        return np.interp(np.log(sigmas), np.log(self.sigmas), np.arange(len(self.sigmas)))


def uniform(model: Model, count: int) -> Array:
    """Even steps in time, the last one is the least noisy."""
    return model.at(np.linspace(model.last, 0, count))


def sgm_uniform(model: Model, count: int) -> Array:
    """Even steps in time, one step above the least noisy at the last."""
    return model.at(np.linspace(model.last, 0, count + 1)[:-1])


def karras(model: Model, count: int) -> Array:
    """Karras et al. (2022), Eq. 5."""
    low, high = model.sigmas[0] ** (1 / _RHO), model.sigmas[-1] ** (1 / _RHO)
    levels: Array = (high + np.linspace(0, 1, count) * (low - high)) ** _RHO
    return levels


def exponential(model: Model, count: int) -> Array:
    """Even steps of the logarithm."""
    return np.exp(np.linspace(np.log(model.sigmas[-1]), np.log(model.sigmas[0]), count))


def aligned(model: Model, count: int) -> Array:
    """Align Your Steps (arXiv 2404.14507)."""
    known = np.log(_ALIGNED[model.is_sdxl])
    return np.exp(np.interp(np.linspace(0, 1, count), np.linspace(0, 1, len(known)), known))


def simple(model: Model, count: int) -> Array:
    """Timesteps of the model's at even steps from the noisiest."""
    return model.sigmas[model.last - (np.arange(count) * (len(model.sigmas) / count)).astype(int)]


def ddim(model: Model, count: int) -> Array:
    """Timesteps at whole steps from the second; where the count does not divide the model's, there are some more."""
    return model.sigmas[1::max(len(model.sigmas) // count, 1)][::-1]


def beta(model: Model, count: int) -> Array:
    """Beta sampling (arXiv 2407.12173)."""
    from scipy import stats

    low, high = model.sigmas[0], model.sigmas[-1]
    levels: Array = low + stats.beta.ppf(1 - np.linspace(0, 1, count), _BETA, _BETA) * (high - low)
    return levels


LEVELS: dict[str, Callable[[Model, int], Array]] = {
    "Uniform": uniform, "Karras": karras, "Exponential": exponential,
    # with the web UI's rho, which is 1, the two are one
    "Polyexponential": exponential, "SGM Uniform": sgm_uniform, "Align Your Steps": aligned, "Simple": simple,
    "Normal": uniform, "DDIM": ddim, "Beta": beta}
"""By the web UI's names: falling levels, without the zero at the end."""
