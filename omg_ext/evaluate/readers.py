"""Who reads an evaluation's pictures: models in folders."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .figures import CLIP, FACES
from .measure import Judges
from .regions import FindRegions
from .spec import Regions


class Readers(Protocol):
    """What reads pictures, before it is loaded."""

    @property
    def given(self) -> Collection[str]:
        """What there is of :data:`.CLIP` and :data:`.FACES`."""
        ...

    def loaded(self, regions: Regions | None) -> AbstractContextManager[Judges]:
        """For use within the block.

        Args:
            regions: how concepts are found in pictures; None finds none.

        Raises:
            OMGError: a model cannot be had.
        """
        ...


@dataclass(frozen=True)
class Models:
    """
    Attributes:
        clip: see :meth:`.Clip.read`; None is none.
        faces: a folder with insightface's models; None is none.
        detectors: folders with detectors' models.
        device: as torch names it; empty takes a GPU if there is one.
    """

    clip: Path | None = None
    faces: Path | None = None
    detectors: Sequence[Path] = ()
    device: str = ""

    @property
    def given(self) -> Collection[str]:
        """See :class:`Readers`."""
        return [name for name, folder in ((CLIP, self.clip), (FACES, self.faces)) if folder is not None]

    @contextmanager
    def loaded(self, regions: Regions | None) -> Iterator[Judges]:
        """See :class:`Readers`."""
        if (self.clip, self.faces, regions) == (None, None, None):
            yield Judges()
            return
        import torch

        from ..comprehension import models as comprehension
        from ..faces.analysis import loaded
        from .clip import Clip

        device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        models = comprehension.Models(device, self.detectors)
        with ExitStack() as stack:
            yield Judges(None if self.clip is None else Clip.read(self.clip, str(device)),
                         None if self.faces is None else stack.enter_context(
                             loaded(comprehension.Models(device, (self.faces,)), "face-reader")),
                         None if regions is None else stack.enter_context(FindRegions.loaded(regions, models)))
