"""Workers that are Ray's actors: one for each GPU of this machine or of a cluster.

``ray.util.ActorPool`` does not serve: when an actor dies it raises Ray's error and forgets the actor, without saying
which one that was or what it drew.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from ..errors import OMGError
from ..jobs.artist import Artist, Died, Failure, Made, Outcome
from ..jobs.draw import Engine
from ..jobs.job import Job
from ..jobs.schedule import Ended, Event, Gone, Ready
from ..jobs.store import Store
from .cluster import Place, installed, places_of, shares_of

LIVES = 8
"""After how many deaths in a row, without a job done, a place gets no worker any more. A bad job costs two."""
PATIENCE = 300.0
"""Seconds to wait for the first worker, or for another one when all are gone, while no node has room for it."""
# seconds between two looks at which nodes there are
_LOOK = 1.0
# seconds in which a worker that is there answers
_ANSWER = 10.0


class _Drawer:
    """What runs in the actor."""

    def __init__(self, make_engine: Callable[[], Engine], store: Store | None, name: str):
        self._make_engine, self._store, self._name = make_engine, store, name

    def placed(self) -> None:
        """The actor has its node."""

    def load(self) -> str:
        """Makes the engine. Returns why it cannot be made on this node, or nothing."""
        try:
            self._artist = Artist(self._make_engine(), self._store, self._name)
        except OMGError as error:
            return str(error)
        return ""

    def draw(self, job: Job) -> Outcome:
        return self._artist(job)


@dataclass(eq=False)
class _Worker:
    """An actor, from its request to its death.

    Attributes:
        job: that it draws.
        placed: whether it has its node's resources.
    """

    name: str
    place: Place
    actor: Any
    job: Job | None = None
    placed: bool = False


# what a worker's answer to a call means
Reading = Callable[[_Worker, Any], list[Event]]


class RayPool:
    """A pool of actors, each bound to a place on a node: one that cannot work there is not tried there for ever.

    Use it within :func:`~omg_ext.remote.cluster.connect`, and as a context manager, which lets the actors go. A worker
    is ready when it has made its engine. One that dies has a successor in its place; one whose engine refuses with an
    OMGError has none. Workers' names are the node's and a number that is never used again.

    Args:
        make_engine: makes what draws, once in each actor; picklable.
        store: into which actors write; None brings the pictures' bytes back here, one result for each worker at most.
        workers: how many at most; None is as many as there is room for, on nodes that join later too.
        gpus: that a worker takes, 0.5 being two on one GPU; None is 1, or 0 if the cluster has none when this is made.
        cpus: that a worker takes; None is 1, and without GPU 2, or 1 if no node has 2.
        env: environment variables of the actors. Ray itself sets ``CUDA_VISIBLE_DEVICES``, and ``OMP_NUM_THREADS`` to
            ``cpus``.
        patience: seconds to wait, while there is no worker, for a node that has room for one.
    """

    def __init__(self, make_engine: Callable[[], Engine], store: Store | None = None, workers: int | None = None, *,
                 gpus: float | None = None, cpus: float | None = None, env: Mapping[str, str] | None = None,
                 patience: float = PATIENCE):
        self._ray = installed()
        self._arguments = (make_engine, store)
        self._most = workers
        self._shares = shares_of(self._nodes(), gpus, cpus)
        self._env = dict(env or {})
        self._patience = patience
        self._workers: dict[str, _Worker] = {}
        # by Ray's reference to the answer
        self._calls: dict[Any, tuple[_Worker, Reading]] = {}
        self._deaths: Counter[Place] = Counter()
        self._hired = 0
        self._next_look = 0.0
        self._last_placed = time.monotonic()
        self._given_up = False

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all actors, whatever they draw."""
        for worker in self._workers.values():
            self._ray.kill(worker.actor)
        self._workers.clear()
        self._calls.clear()

    def start(self, worker: str, job: Job) -> None:
        """See :class:`~omg_ext.jobs.schedule.Pool`."""
        chosen = self._workers[worker]
        chosen.job = job
        self._calls[chosen.actor.draw.remote(job)] = chosen, self._drawn

    def wait(self) -> list[Event]:
        """See :class:`~omg_ext.jobs.schedule.Pool`."""
        while self._calls or not (self._workers or self._given_up):
            self._hire()
            events = [event for call in self._answered() for event in self._read(call)]
            if any(isinstance(event, Ended) and isinstance(event.outcome, Died) for event in events):
                events += self._idle_that_died()
            events += self._out_of_patience()
            if events:
                return events
        return []

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _hire(self) -> None:
        """Starts a worker in each place that should have one, looking now and then."""
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK
        places = places_of(self._nodes(), self._shares)
        usable = [place for place in places if self._deaths[place] < LIVES]
        self._given_up = bool(places) and not usable
        taken = {worker.place for worker in self._workers.values()}
        room = len(places) if self._most is None else max(0, self._most - len(taken))
        for place in [place for place in usable if place not in taken][:room]:
            self._hired += 1
            name = f"{place.host}-{self._hired}"
            actor = self._actor_class(place).remote(*self._arguments, name)
            self._workers[name] = _Worker(name, place, actor)
            self._calls[actor.placed.remote()] = self._workers[name], self._placed

    def _actor_class(self, place: Place) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        gpus, cpus = self._shares
        return self._ray.remote(_Drawer).options(
            num_gpus=gpus, num_cpus=cpus, runtime_env={"env_vars": self._env} if self._env else None,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False))

    def _answered(self) -> list[Any]:
        """The calls that have an answer, after waiting for the first one until it is time to look for nodes again."""
        calls = list(self._calls)
        if not calls:
            time.sleep(_LOOK)
            return []
        ready, _ = self._ray.wait(calls, timeout=_LOOK)
        return self._ray.wait(calls, num_returns=len(calls), timeout=0)[0] if ready else []

    def _read(self, call: Any) -> list[Event]:
        worker, reading = self._calls.pop(call)
        try:
            answer = self._ray.get(call, timeout=_ANSWER)
        except self._ray.exceptions.RayError as error:
            return [self._failed(worker, error)]
        return reading(worker, answer)

    def _placed(self, worker: _Worker, _: None) -> list[Event]:
        worker.placed = True
        self._calls[worker.actor.load.remote()] = worker, self._loaded
        return []

    def _loaded(self, worker: _Worker, refusal: str) -> list[Event]:
        return [self._dismiss(worker, refusal, LIVES) if refusal else Ready(worker.name)]

    def _drawn(self, worker: _Worker, outcome: Outcome) -> list[Event]:
        return [self._dismiss(worker, outcome.reason) if isinstance(outcome, Died) else self._ended(worker, outcome)]

    def _ended(self, worker: _Worker, outcome: Made | Failure) -> Event:
        self._deaths[worker.place] = 0
        job, worker.job = worker.job, None
        assert job is not None
        return Ended(worker.name, job, outcome)

    def _failed(self, worker: _Worker, error: Exception) -> Event:
        raised = isinstance(error, self._ray.exceptions.RayTaskError)
        if raised and worker.job is not None:
            return self._ended(worker, Failure(_reason(error)))
        # what cannot even begin, say for want of this package on the node, never will
        never = not worker.placed and (raised or getattr(error, "actor_init_failed", False))
        return self._dismiss(worker, _reason(error), LIVES if never else 1)

    def _dismiss(self, worker: _Worker, reason: str, deaths: int = 1) -> Event:
        self._ray.kill(worker.actor)  # one that merely cannot be reached would go on drawing
        del self._workers[worker.name]
        self._deaths[worker.place] += deaths
        return Gone(worker.name, reason) if worker.job is None else Ended(worker.name, worker.job, Died(reason))

    def _idle_that_died(self) -> list[Event]:
        """Of a node's workers those that nobody waits for: the job whose worker died shall not be given to them."""
        busy = {worker.name for worker, _ in self._calls.values()}
        calls = {worker.actor.placed.remote(): worker for worker in self._workers.values() if worker.name not in busy}
        self._calls.update({call: (worker, lambda *_: []) for call, worker in calls.items()})
        return [event for call in calls for event in self._read(call)]

    def _out_of_patience(self) -> list[Event]:
        """Gives up waiting for places, after long enough without anybody who has one."""
        if any(worker.placed for worker in self._workers.values()):
            self._last_placed = time.monotonic()
        if time.monotonic() - self._last_placed < self._patience:
            return []
        self._given_up = True
        self._calls.clear()
        gpus, cpus = self._shares
        reason = f"no node had {gpus:g} GPU and {cpus:g} CPU free within {self._patience:g} seconds (see ray status)"
        return [self._dismiss(worker, reason) for worker in list(self._workers.values())] or [Gone("ray", reason)]


def _reason(error: Exception) -> str:
    """What Ray's error says, without the details that are set off by tabs; of a traceback the last line."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("\t")]
    if any(line.startswith(("Traceback", "  File")) for line in lines):
        return lines[-1].strip()
    return shorten(" ".join(lines[1:] or lines), 400, placeholder=" ...")
