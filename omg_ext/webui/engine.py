"""What draws behind the page. Page, requests and jobs are the same in all web UIs; what draws is asked for here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from .. import request
from ..errors import OMGError
from ..host import Prompts
from .batch import Kept, OpenHost, Sample
from .which import KIND, Kind, refusal


class Engine(Protocol):
    """The module of a web UI's kind that knows how it draws."""

    def kept(self) -> Kept:
        """What is read once for a press of Generate, on one checkpoint; nothing yet."""
        ...

    def open_host(self, p: Any, sample: Sample, kept: Kept, concept_prompts: Sequence[Prompts],
                  asked: request.Request) -> OpenHost:
        """The host of one batch; arguments as :class:`.Batch`.

        Args:
            kept: see :meth:`kept`.

        Raises:
            OMGError: the model or a setting is out of OMG's reach.
        """
        ...

    def embeddings(self) -> list[Any]:
        """The textual inversions that prompts may name, as far as it takes to tell whether they changed."""
        ...


def engine() -> Engine:
    """That of the web UI that runs this.

    Raises:
        OMGError: there is none for it.
    """
    if refusal(KIND):
        raise OMGError("web UI", refusal(KIND))
    if KIND is not Kind.WEBUI:
        from .. import forge
        return forge
    from . import host
    return host
