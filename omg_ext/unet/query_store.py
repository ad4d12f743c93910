"""Where the first pass's attention queries and keys wait for the second pass."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

Tensors = dict[str, Tensor]


def size_of(tensors: Tensors) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@dataclass
class Entry:
    """The queries (and keys) of one UNet call, by layer; ``place`` says in which memory they are."""

    tensors: Tensors
    place: str


@dataclass
class QueryStore:
    """Keeps entries on the device while they fit its budget, then in host memory, then not at all.

    An entry that is not kept is recomputed in the second pass (see :mod:`omg_ext.passes.taps`).

    Attributes:
        device_budget: bytes on the device that the UNet runs on.
        host_budget: bytes in host memory; pinned on CUDA, fetched one call ahead.
    """

    device_budget: int
    host_budget: int
    used: dict[str, int] = field(default_factory=lambda: {"device": 0, "host": 0})
    _ahead: tuple[Entry, Tensors] | None = None
    _stream: torch.cuda.Stream | None = None

    def place_for(self, size: int) -> str | None:
        """The memory with room for ``size`` bytes more: "device", "host" or None."""
        budgets = {"device": self.device_budget, "host": self.host_budget}
        return next((place for place, budget in budgets.items() if self.used[place] + size <= budget), None)

    def put(self, tensors: Tensors) -> Entry | None:
        """Keep ``tensors``, or nothing if there is no room."""
        size = size_of(tensors)
        place = self.place_for(size)
        if place is None or not tensors:
            return None
        self.used[place] += size
        if place == "host":
            tensors = {name: _to_host(tensor) for name, tensor in tensors.items()}
        return Entry(tensors, place)

    def get(self, entry: Entry, device: torch.device, following: Entry | None) -> Tensors:
        """The entry's tensors on ``device``; starts to fetch the ``following`` one."""
        tensors = entry.tensors
        if entry.place == "host" and device.type == "cuda":
            tensors = self._fetched(entry, device)
            self._ahead = None
            if following is not None and following.place == "host":
                self._ahead = (following, self._fetch(following, device))
        return tensors

    def clear(self) -> None:
        """Forget what was fetched ahead and the stream it came by."""
        self._ahead = self._stream = None

    def _fetch(self, entry: Entry, device: torch.device) -> Tensors:
        self._stream = stream = self._stream or torch.cuda.Stream(device)
        # the copies to the host were queued on the current stream; they come first
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            return {name: tensor.to(device, non_blocking=True) for name, tensor in entry.tensors.items()}

    def _fetched(self, entry: Entry, device: torch.device) -> Tensors:
        ahead = self._ahead
        tensors = ahead[1] if ahead is not None and ahead[0] is entry else self._fetch(entry, device)
        current = torch.cuda.current_stream(device)
        if self._stream is not None:
            current.wait_stream(self._stream)
        for tensor in tensors.values():
            tensor.record_stream(current)  # its memory must outlive the work queued on the current stream
        return tensors


def _to_host(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor.to("cpu")
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return pinned.copy_(tensor, non_blocking=True)
