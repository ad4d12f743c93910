"""Jobs drawn by a running web UI that has this extension, over its API."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from msgspec import Struct

from ..errors import OMGError
from ..jobs.draw import Drawn, WorkerDiedError
from ..jobs.job import Job
from ..request import dump_request
from .answer import Answer, Info, read
from .connection import FIELD, Auth, Connection, WebUIError
from .stock import Checkpoint, Stock, look


class _State(Struct):
    job_timestamp: str
    interrupted: bool
    skipped: bool
    stopping_generation: bool = False


class _Progress(Struct):
    state: _State


class WebUIEngine:
    """Draws jobs at one web UI, an :class:`~omg_ext.jobs.draw.Engine`; for one thread.

    What its owner has set there (clip skip, VAE, the noise's source, token merging, ...) acts on these pictures as on
    his own; so do always-on scripts, as the API starts them. He may use his page meanwhile: one waits for the other.

    Args:
        url: of the web UI, as the browser has it; may hold ``user:password@``.
        auth: user and password for ``--api-auth``; see :func:`~omg_ext.remote.connection.auth_from`.
        timeout: of one picture in seconds; None waits for as long as the web UI is there.

    Raises:
        OMGError: this is no URL of a web UI.
    """

    def __init__(self, url: str, auth: Auth | None = None, timeout: float | None = None):
        self._web = Connection(url, auth, timeout)

    @property
    def name(self) -> str:
        """The URL without user and password."""
        return self._web.name

    @cached_property
    def stock(self) -> Stock:
        """What it has to draw with, asked for once.

        Raises:
            OMGError: it is no web UI with an API, wants another password, or would answer with pictures that have
                lost something.
            WorkerDiedError: it does not answer.
        """
        return look(self._web)

    def check(self, job: Job) -> None:
        """Refuse what this web UI does not have, as it would draw something else without a word.

        Raises:
            OMGError: naming the job's field, or ``webui``; see :attr:`stock`.
            WorkerDiedError: it does not answer.
        """
        self.stock.check(job)

    def draw(self, job: Job) -> Drawn:
        """
        Raises:
            OMGError: naming the job's field, or ``webui`` if this job failed there.
            WorkerDiedError: it is gone, or no job can be drawn there.
        """
        try:
            self.check(job)
            checkpoint = self.stock.checkpoint(job)
            answer = self._web.post("/sdapi/v1/txt2img", _payload(job, checkpoint), Answer)
            drawn, info = read(answer, self.name)
            self._check_drawn(info, checkpoint)
        except WebUIError as error:
            raise WorkerDiedError(str(error)) from error
        return drawn

    def _check_drawn(self, info: Info, checkpoint: Checkpoint | None) -> None:
        """Refuse a picture that is not the one that was asked for, of which the answer itself says nothing."""
        if checkpoint is not None and info.sd_model_name != checkpoint.stem:
            raise OMGError("checkpoint", f"{self.name} drew with {info.sd_model_name!r} instead of {checkpoint.name!r}")
        state = self._web.get("/sdapi/v1/progress?skip_current_image=true", _Progress).state
        is_of_this = state.job_timestamp == info.job_timestamp  # by now another may have begun
        if is_of_this and (state.interrupted or state.skipped or state.stopping_generation):
            raise OMGError(FIELD, f"{self.name}: somebody there broke the picture off")


def _payload(job: Job, checkpoint: Checkpoint | None) -> dict[str, Any]:
    """The body of a txt2img call.

    The setting of the checkpoint goes back to the owner's afterwards, while the model stays loaded until another is
    asked for. Other settings are not overridden: those that his settings file does not have would stay.
    """
    scripts = {"OMG": {"args": [dump_request(job.request)]}} if job.request is not None and job.asks_for_omg else {}
    return {
        "prompt": job.prompt, "negative_prompt": job.negative_prompt, "seed": job.seed, "steps": job.steps,
        "cfg_scale": job.cfg_scale, "width": job.width, "height": job.height, "sampler_name": job.sampler,
        "scheduler": job.scheduler, "send_images": True, "save_images": False,  # grids neither, then
        "override_settings": {} if checkpoint is None else {"sd_model_checkpoint": checkpoint.name},
        "override_settings_restore_afterwards": True, "alwayson_scripts": scripts,
    }
