"""A second look at the finished first picture: which places change their mind when a word leaves the prompt.

DiffEdit (Couairon et al. 2022, arXiv 2210.11427): the picture's latent is noised again, and the model's predictions for
the prompt and for the prompt without a phrase are compared. Where the phrase's thing is, they differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..comprehension.without import without
from ..host import ConceptConditioning, Host
from ..unet.calls import Row, UNetCall
from ..unet.evaluator import Evaluator

# of the noise: the same at every look, so that a preview and a generation see the same
_SEED = 0


@dataclass(frozen=True, eq=False)
class Contrast:
    """Compares predictions for pictures of one batch.

    Attributes:
        host: encodes prompts and evaluates the UNet.
        evaluator: evaluates in parts what does not fit.
        latents: the finished pictures, [B, C, h, w].
    """

    host: Host
    evaluator: Evaluator
    latents: Tensor
    _encoded: dict[tuple[str, ...], ConceptConditioning] = field(default_factory=dict)

    def __call__(self, picture: int, phrases: Sequence[str], at: Sequence[float],
                 noises: int) -> npt.NDArray[np.float32]:
        """How much the prediction changes where a phrase leaves the prompt.

        Args:
            picture: of the batch.
            phrases: each leaves by itself.
            at: fractions of the trajectory (0 is all noise) to which the picture is noised.
            noises: how many at each; a second is the first's negative, and so on.

        Returns:
            Squared differences, summed over channels, float32 [phrases, at x noises, h, w].
        """
        prompts = self.host.prompts
        variants = [self._encode(prompts), *(self._encode([without(prompt, phrase) for prompt in prompts])
                                             for phrase in phrases)]
        generator = torch.Generator("cpu").manual_seed(_SEED)
        looks = [(fraction, noise) for fraction in at for noise in self._noises(noises, generator)]
        maps = [self._differences(picture, variants, fraction, noise) for fraction, noise in looks]
        return np.stack(maps, axis=1)

    def _encode(self, prompts: Sequence[str]) -> ConceptConditioning:
        key = tuple(prompts)
        if key not in self._encoded:
            self._encoded[key] = self.host.reworded(prompts)
        return self._encoded[key]

    def _noises(self, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        shape = self.latents.shape[1:]
        for number in range(count):
            if number % 2 == 0:
                noise = torch.randn(shape, generator=generator)
            yield (noise if number % 2 == 0 else -noise).to(self.latents)

    def _differences(self, picture: int, variants: Sequence[ConceptConditioning], at: float,
                     noise: Tensor) -> npt.NDArray[np.float32]:
        """[variants - 1, h, w]"""
        predictions = self._predictions(picture, variants, at, noise)
        changed = (predictions[1:] - predictions[:1]).float().square().sum(1)
        return np.asarray(changed.cpu().numpy(), dtype=np.float32)

    def _predictions(self, picture: int, variants: Sequence[ConceptConditioning], at: float, noise: Tensor) -> Tensor:
        """[variants, C, h, w]; parts of ``AND`` count by their weights."""
        parts = [(variant, number, weight) for variant, (_, pictures, _) in enumerate(variants)
                 for number, weight in pictures[picture]]
        rows = [{name: tensor[number] for name, tensor in variants[variant].cond.items()}
                for variant, number, _ in parts]
        predicted = torch.zeros(len(variants), *noise.shape, device=noise.device)
        for indices in _of_equal_length(rows):
            output = self._evaluate([rows[index] for index in indices], picture, at, noise)
            for index, prediction in zip(indices, output, strict=True):
                variant, _, weight = parts[index]
                predicted[variant] += weight * prediction.float()
        return predicted

    def _evaluate(self, conds: Sequence[Mapping[str, Tensor]], picture: int, at: float, noise: Tensor) -> Tensor:
        count, grid = len(conds), (noise.shape[-2], noise.shape[-1])
        cond = {name: torch.stack([each[name] for each in conds]) for name in conds[0]}
        call = UNetCall(tuple(Row(picture, part=number) for number in range(count)), at, grid)
        return self.evaluator(lambda latents, noises, given: self.host.look(latents, noises, at, given), call,
                              self.latents[picture].expand(count, -1, -1, -1), noise.expand(count, -1, -1, -1), cond)


def _of_equal_length(rows: Sequence[Mapping[str, Tensor]]) -> Iterator[list[int]]:
    """The numbers of rows whose prompts are of equal length, together."""
    def length(index: int) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(tensor.shape) for tensor in rows[index].values())

    for _, group in groupby(sorted(range(len(rows)), key=length), key=length):
        yield list(group)
