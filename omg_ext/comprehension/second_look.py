"""The detector that takes a second look at the finished picture; what it goes by stands in :mod:`.contrast`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from ..request import Detect
from .base import Find, FirstPicture, Instance, Query
from .contrast import PLAN, combined, comparisons, instances
from .models import Models, Need


class ContrastDetector:
    """The detector that needs no download and sees shapes: it takes a second look at the finished picture.

    It evaluates ``PLAN.rows`` UNet rows a picture: for the prompt, for the prompt without each phrase, and for one of
    several where a phrase is counted. It tells as many instances apart as the prompt counts or concepts ask for.

    Heat maps would add 0.01 to the overlap with the figures of the small world; without them a preview stays good when
    phrases change.
    """

    name = "contrast"
    needs_attention = False

    def needs(self, options: Detect, models: Models) -> Sequence[Need]:
        """Nothing."""
        return ()

    @contextmanager
    def loaded(self, options: Detect, models: Models) -> Iterator[Find]:
        """See :meth:`find`."""
        yield self.find

    def find(self, picture: FirstPicture, queries: Sequence[Query]) -> list[list[Instance]]:
        """Per query at most as many instances as it asks for; none if the prompt does not name it."""
        compared = [comparisons(picture.prompt, query.phrase) for query in queries]
        pairs = [pair for of_query in compared for pair in of_query]
        if not pairs:
            return [[] for _ in queries]
        seen = iter(picture.contrasts(pairs, PLAN.times, PLAN.noises))
        maps = [combined([next(seen).astype(np.float64) for _ in of_query]) for of_query in compared]
        return instances(maps, [query.count for query in queries], picture.picture())
