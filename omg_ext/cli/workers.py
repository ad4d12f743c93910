"""Who draws: this machine's model, a Ray cluster's, or web UIs that run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OMGError
from ..jobs.artist import Artist
from ..jobs.draw import Engine, WorkerDiedError
from ..jobs.job import Job
from ..jobs.schedule import Pool
from ..jobs.store import Store
from ..jobs.threads import Threads

if TYPE_CHECKING:
    from ..remote.webui import WebUIEngine

_ADAPTER, _NET, _READER = "--face-adapter", "--identitynet", "--face-reader"
_OF_RAY = ("--workers", "--shared")
_OF_READERS = ("--detectors", _READER, "--device")
_OF_MODELS = ("--checkpoint", "--checkpoints", "--config", "--loras", _ADAPTER, _NET, "--dtype", "--offload",
              *_OF_READERS)
_NOT_GIVEN: tuple[Any, ...] = (None, False, [], "none")


class Workers:
    """As the command line names them.

    Args:
        arguments: those of :meth:`add`.
        measures: the command itself reads pictures, so that what reads faces and finds things is not for drawing alone.
        engine: makes what draws where no web UI does, in whichever process; by default the options say it.

    Raises:
        OMGError: naming an option that does nothing beside the others.
    """

    def __init__(self, arguments: argparse.Namespace, measures: bool = False,
                 engine: Callable[[], Engine] | None = None):
        self._given = arguments
        self._measures = measures
        self._given_engine = engine
        self._refuse_idle()

    @classmethod
    def add(cls, parser: argparse.ArgumentParser) -> None:
        """Adds the options."""
        cls.add_places(parser)
        cls._add_models(parser)

    @staticmethod
    def add_places(parser: argparse.ArgumentParser) -> None:
        """Adds the options that say where pictures are drawn."""
        where = parser.add_argument_group("who draws", "Without these, this machine.").add_mutually_exclusive_group()
        where.add_argument("--webui", nargs="+", metavar="URL", default=[],
                           help="web UIs with this extension, started with --api; user:password for --api-auth stand "
                                "in the environment, as OMG_WEBUI_AUTH")
        where.add_argument("--ray", nargs="?", const="", metavar="ADDRESS",
                           help="a worker for each GPU that Ray knows: of this machine, or of the cluster at "
                                "HOST:PORT or auto. Models lie at the same paths on all machines, this one too")
        cluster = parser.add_argument_group("with --ray")
        cluster.add_argument("--workers", type=int, metavar="N", help="at most so many")
        cluster.add_argument("--shared", action="store_true",
                             help="all machines see FOLDER at this path: workers write into it themselves. An address "
                                  "such as s3://... is shared anyway")

    @staticmethod
    def _add_models(parser: argparse.ArgumentParser) -> None:
        models = parser.add_argument_group("models, unless web UIs draw")
        models.add_argument("--checkpoint", metavar="PATH",
                            help="for jobs that name none: a folder in diffusers' form, or a .safetensors file as the "
                                 "web UI has it")
        models.add_argument("--checkpoints", metavar="FOLDER", help="where jobs' checkpoints are, by their names")
        models.add_argument("--config", metavar="FOLDER", help="any SDXL or SD 1.5 model in diffusers' form, whose "
                                                               "tokenizer single files take")
        models.add_argument("--loras", metavar="FOLDER", help="where the <lora:...> files are, the working folder "
                                                              "otherwise")
        models.add_argument("--detectors", nargs="+", default=[], metavar="FOLDER", help="with detectors' models")
        models.add_argument(_ADAPTER, metavar="FILE", help="InstantID's ip-adapter, for concepts with a photo")
        models.add_argument(_NET, metavar="PATH", help="InstantID's ControlNet")
        models.add_argument(_READER, metavar="FOLDER", help="antelopev2, which reads photos")
        models.add_argument("--dtype", choices=("float16", "bfloat16", "float32"),
                            help="float16 on a GPU otherwise, float32 without")
        models.add_argument("--device", help="such as cuda:1; a GPU otherwise, if there is one")
        models.add_argument("--offload", choices=("none", "model", "sequential"), default="none",
                            help="what waits in ordinary memory until it is needed: nothing, each model, or each layer")

    def check(self, job: Job) -> None:
        """Refuses a job that not all of them can draw.

        Raises:
            OMGError: naming the job's field.
        """
        if not self._given.webui:
            self._engine.check(job)
            return
        for engine in self._web_uis:
            _check(engine, job)

    @contextmanager
    def pool(self, store: Store) -> Iterator[Pool]:
        """The workers, as long as they are needed.

        Raises:
            OMGError: they cannot be had.
        """
        if self._given.ray is None:
            engines: dict[str, Engine] = ({engine.name: engine for engine in self._web_uis} if self._given.webui else
                                          {"here": self._engine})
            yield Threads({name: Artist(engine, name=name) for name, engine in engines.items()})
            return
        from ..remote.cluster import connect
        from ..remote.ray import RayPool
        is_shared = self._given.shared or not store.is_local
        with connect(self._given.ray or None), RayPool(self._make, store if is_shared else None,
                                                       self._given.workers) as pool:
            yield pool

    def _refuse_idle(self) -> None:
        # not every command has all of them
        given = {f"--{name.replace('_', '-')}" for name, value in vars(self._given).items() if value not in _NOT_GIVEN}
        for name in _OF_RAY:
            if name in given and self._given.ray is None:
                raise OMGError(name.lstrip("-"), f"{name} does nothing without --ray; leave it out")
        for name in _OF_MODELS if self._given.webui else ():
            if name in given and not (self._measures and name in _OF_READERS):
                raise OMGError(name.lstrip("-"), f"{name} does nothing with --webui: web UIs draw with models and "
                                                 "settings of their own; leave it out")

    @property
    def _make(self) -> Callable[[], Engine]:
        return self._given_engine or partial(_diffusers, self._options)

    @cached_property
    def _engine(self) -> Engine:
        return self._make()

    @cached_property
    def _web_uis(self) -> list[WebUIEngine]:
        try:
            from ..remote.connection import auth_from
            from ..remote.webui import WebUIEngine
        except ImportError as error:
            raise OMGError("webui", f"{error.name} is not installed; pip install omg-webui[client]") from None
        return [WebUIEngine(url, auth_from(os.environ)) for url in dict.fromkeys(self._given.webui)]

    @property
    def _options(self) -> dict[str, Any]:
        """Of :class:`omg_ext.diffusers.engine.DiffusersEngine`; nothing that another process could not be sent."""
        given = self._given
        faces = {"adapter": given.face_adapter, "identitynet": given.identitynet, "analysis": given.face_reader}
        idle = [given.identitynet, None if self._measures else given.face_reader]
        if given.face_adapter is None and any(idle):
            raise OMGError(_ADAPTER.lstrip("-"), f"{_NET} and {_READER} do nothing without {_ADAPTER}; give it too")
        return {"checkpoint": given.checkpoint, "checkpoints": given.checkpoints, "config": given.config,
                "loras": given.loras, "detectors": [Path(folder) for folder in given.detectors],
                "dtype": given.dtype or "", "device": given.device or "", "offload": given.offload,
                "keep_detectors": True, "faces": faces if given.face_adapter else None}


def _check(engine: WebUIEngine, job: Job) -> None:
    try:
        engine.check(job)
    except OMGError as error:
        raise OMGError(error.field, f"{error.message} (says {engine.name})") from None
    except WorkerDiedError as error:
        raise OMGError("webui", str(error)) from None


def _diffusers(options: dict[str, Any]) -> Engine:
    try:
        from ..diffusers import FaceModels
        from ..diffusers.engine import DiffusersEngine
    except ImportError as error:
        raise OMGError("engine", f"{error.name} is not installed; pip install omg-webui[diffusers]") from None
    faces = options["faces"]
    return DiffusersEngine(**{**options, "faces": FaceModels(**faces) if faces else None})
