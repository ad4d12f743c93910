"""The detector that takes a second look at the finished picture; what it goes by stands in :mod:`.contrast`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .base import AtHand, FirstPicture, Instance, Query
from .contrast import PLAN, combined, comparisons, instances
from .phrases import find, words_in


class ContrastDetector(AtHand):
    """The detector that needs no download and sees shapes: it takes a second look at the finished picture.

    For each noise of :data:`.contrast.PLAN` it evaluates a row for the prompt, one for the prompt without each phrase,
    and one more for a phrase that is counted. It tells as many instances apart as the prompt counts or concepts want.

    Heat maps would add 0.01 to the overlap with the figures of the small world; without them a preview stays good when
    phrases change.
    """

    name = "contrast"
    goes_by_prompt = True
    needs_attention = False

    def find(self, picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        """Per query at most as many instances as it asks for; none if the prompt does not name it."""
        compared = [comparisons(_wording(picture, query.phrase), query.phrase) for query in queries]
        pairs = [pair for of_query in compared for pair in of_query]
        if not pairs:
            return [[] for _ in queries]
        seen = iter(picture.contrasts(pairs, PLAN.times, PLAN.noises))
        maps = [combined([next(seen).astype(np.float64) for _ in of_query]) for of_query in compared]
        return instances(maps, [query.count for query in queries], picture.picture())


def _wording(picture: FirstPicture, phrase: str) -> str:
    """The prompt as it reads last where it names a phrase: the model knows it in the picture all the same."""
    return next((text for text in picture.wordings if find(phrase, words_in(text))), picture.prompt)
