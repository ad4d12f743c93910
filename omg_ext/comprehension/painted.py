"""The detector that finds nothing: every concept's place is given by the request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..request import Detect
from .base import Find
from .models import Models, Need, require


class PaintedDetector:
    """For requests in which every concept has a place of its own or is the rest; one without is refused at once."""

    name = "painted"
    goes_by_prompt = needs_attention = False
    reads = ()

    def needs(self, options: Detect, models: Models) -> Sequence[Need]:
        """A place for each concept. It is asked only where one lacks it."""
        return (Need("place", "a box or a mask for every concept (where.box, where.outline, where.mask), or "
                              "where.rest for one of them: it finds nothing by itself", is_there=False),)

    @contextmanager
    def loaded(self, options: Detect, models: Models) -> Iterator[Find]:
        """Never: it is asked only where a concept's place is not given.

        Raises:
            OMGError: always.
        """
        require(self.name, self.needs(options, models), models.remedy)
        yield lambda picture, queries: [[] for _ in queries]
