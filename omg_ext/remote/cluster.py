"""A Ray cluster, and where on it workers fit."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import ERROR
from typing import Any, NamedTuple

from ..errors import OMGError

# of the store in which results and pictures for requests pass through: there are few at a time
_STORE_BYTES = 512 * 2**20
# in which a cluster's head accepts a connection
_SECONDS = 10.0
_ADVICE = {
    True: "Is the cluster running (ray status), is this its head's address (with port 6379 unless told otherwise), "
          "and is this machine one of its nodes (ray start --address=...), with the same versions of Ray and Python?",
    False: "Its logs are in /tmp/ray/session_latest/logs.",
}


class Place(NamedTuple):
    """Where one worker fits; in order of the numbers, so that few workers are on many nodes.

    Attributes:
        number: among those of its node.
        host: the node's name.
        node: its id.
    """

    number: int
    host: str
    node: str


def installed() -> Any:
    """The package, which is optional.

    Raises:
        OMGError: naming ``ray``.
    """
    try:
        import ray
    except ImportError:
        raise OMGError("ray", "Ray is not installed: pip install 'omg-webui[diffusers,ray]', in an environment that is "
                              "not the web UI's") from None
    return ray


@contextmanager
def connect(address: str | None = None, **options: Any) -> Iterator[None]:
    """Joins a Ray cluster, or starts Ray on this machine, for as long as the block lasts.

    Args:
        address: ``host:port`` of the cluster's head, or ``auto`` for the one that this machine is a node of; None
            starts Ray here, without its dashboard.
        options: further ones for ``ray.init``.

    Raises:
        OMGError: naming ``ray``: it is not installed, or does not answer.
    """
    ray = installed()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = {} if address else {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    try:
        _knock(address)
        ray.init(**{"address": address or "local", "log_to_driver": False, "logging_level": ERROR, **here, **options})
    except (OSError, RuntimeError, ValueError) as error:
        where = f"no connection to {address}" if address else "it does not start here"
        raise OMGError("ray", f"{where}: {' '.join(str(error).split())}. {_ADVICE[bool(address)]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Ray itself tries for minutes to reach a head that is not there, and then ends the process."""
    if address and "://" not in address and address not in ("auto", "local"):
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError("an address is host:port")
        socket.create_connection((host, int(port)), timeout=_SECONDS).close()


def shares_of(nodes: list[dict[str, Any]], gpus: float | None, cpus: float | None) -> tuple[float, float]:
    """The GPUs and CPUs that a worker takes; what is not given is told from the nodes, which are as Ray lists them."""
    def most(resource: str) -> float:
        return max((node["Resources"].get(resource, 0.0) for node in nodes), default=0.0)

    if gpus is None:
        gpus = 1.0 if most("GPU") >= 1 else 0.0
    if cpus is None:
        cpus = 1.0 if gpus else max(1.0, min(2.0, most("CPU")))
    return gpus, cpus


def places_of(nodes: list[dict[str, Any]], shares: tuple[float, float]) -> list[Place]:
    """Where workers fit, if nobody else uses the nodes."""
    wanted = {name: share for name, share in zip(("GPU", "CPU"), shares, strict=True) if share}

    def room(resources: Mapping[str, float]) -> int:
        return min(int(resources.get(name, 0.0) / share + 1e-6) for name, share in wanted.items())

    return sorted(Place(number, node["NodeManagerHostname"], node["NodeID"])
                  for node in nodes for number in range(room(node["Resources"])))
