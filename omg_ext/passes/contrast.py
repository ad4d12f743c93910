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
    _encoded: dict[str, ConceptConditioning] = field(default_factory=dict)

    def __call__(self, picture: int, pairs: Sequence[tuple[str, str]], times: Sequence[float],
                 noises: int) -> npt.NDArray[np.float32]:
        """How much the prediction for a picture differs between two prompts.

        Args:
            picture: of the batch.
            pairs: prompts to compare. A prompt that stands in several is evaluated once.
            times: to which shares of the model's timesteps the picture is noised (0 is the picture, 1 is noise).
            noises: how many at each; every second one is the negative of that before. All prompts share them.

        Returns:
            Mean square differences, float32 [pairs, h, w].
        """
        prompts = list(dict.fromkeys(prompt for pair in pairs for prompt in pair))
        generator = torch.Generator("cpu").manual_seed(_SEED)
        looks = [(time, noise) for time in times for noise in self._noises(noises, generator)]
        total = torch.zeros(len(pairs), *self.latents.shape[2:], device=self.latents.device)
        for time, noise in looks:
            predictions = dict(zip(prompts, self._predictions(picture, prompts, 1 - time, noise), strict=True))
            for number, (one, other) in enumerate(pairs):
                total[number] += (predictions[one] - predictions[other]).square().mean(0)
        return np.asarray((total / max(len(looks), 1)).cpu().numpy(), dtype=np.float32)

    def _encode(self, prompt: str) -> ConceptConditioning:
        if prompt not in self._encoded:
            self._encoded[prompt] = self.host.reworded([prompt])
        return self._encoded[prompt]

    def _noises(self, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        for number in range(count):
            if number % 2 == 0:
                noise = torch.randn(self.latents.shape[1:], generator=generator)
            yield (noise if number % 2 == 0 else -noise).to(self.latents)

    def _predictions(self, picture: int, prompts: Sequence[str], at: float, noise: Tensor) -> Tensor:
        """float32 [prompts, C, h, w]; parts of ``AND`` count by their weights."""
        encoded = [self._encode(prompt) for prompt in prompts]
        parts = [(number, row, weight) for number, each in enumerate(encoded) for row, weight in each.parts[0]]
        rows = [{name: tensor[row] for name, tensor in encoded[number].cond.items()} for number, row, _ in parts]
        predicted = torch.zeros(len(prompts), *noise.shape, device=noise.device)
        for indices in _of_equal_length(rows):
            output = self._evaluate([rows[index] for index in indices], picture, at, noise)
            for index, prediction in zip(indices, output, strict=True):
                number, _, weight = parts[index]
                predicted[number] += weight * prediction.float()
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
