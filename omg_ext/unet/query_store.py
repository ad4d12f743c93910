"""Where the first pass's attention queries and keys wait for the second pass."""

from __future__ import annotations

import weakref
from contextlib import suppress
from dataclasses import dataclass
from mmap import PAGESIZE

import torch
from torch import Tensor, cuda

Tensors = dict[str, Tensor]
_Pinned = tuple[Tensor, torch.device]
"""A pinned block, and the device that it was filled from"""


def size_of(tensors: Tensors) -> int:
    """Bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@dataclass(frozen=True, eq=False)
class Entry:
    """A handle on what one UNet call left in a :class:`QueryStore`.

    Attributes:
        place: the memory that it was put in, "device" or "host".
    """

    place: str


class QueryStore:
    """Keeps entries on the device while they fit its budget, then in host memory, then not at all.

    What is not kept, or is dropped later, the second pass recomputes.

    On CUDA an entry in host memory is one block of pinned memory, copied to and from without waiting and fetched one
    call ahead. Torch's own pinned memory is not used: its sizes are rounded up to powers of two, and the process never
    gives it back. No block is used twice, so nothing is written to while a copy from it runs.

    Args:
        device_budget: bytes on the device that the UNet runs on.
        host_budget: bytes in host memory.

    Attributes:
        used: bytes of the tensors in each memory.
    """

    def __init__(self, device_budget: int, host_budget: int):
        self.device_budget, self.host_budget = device_budget, host_budget
        self.used = {"device": 0, "host": 0}
        self._kept: dict[Entry, Tensors] = {}
        self._pinned: list[_Pinned] = []
        self._ahead: tuple[Entry, Tensors] | None = None
        self._stream: cuda.Stream | None = None
        # the end of the process frees everything by itself, and CUDA may be gone before
        weakref.finalize(self, _unpin, self._pinned).atexit = False

    def place_for(self, size: int) -> str | None:
        """The memory with room for ``size`` bytes more: "device", "host" or None."""
        budgets = {"device": self.device_budget, "host": self.host_budget}
        return next((place for place, budget in budgets.items() if self.used[place] + size <= budget), None)

    def put(self, tensors: Tensors) -> Entry | None:
        """Keep ``tensors``, which are of one device and any shapes; None if there is no room, or nothing to keep."""
        size = size_of(tensors)
        place = self.place_for(size)
        if place is None or not tensors:
            return None
        entry = Entry(place)
        self._kept[entry] = self._to_host(tensors) if place == "host" else tensors
        self.used[place] += size
        return entry

    def get(self, entry: Entry, device: torch.device, following: Entry | None = None) -> Tensors | None:
        """The entry's tensors on ``device``, ready for its current stream; None if the entry was dropped.

        Args:
            following: the entry that is asked for next; starts to fetch it if it is in host memory.
        """
        tensors = self._kept.get(entry)
        if tensors is not None and entry.place == "host":
            tensors = self._fetched(entry, device)
        self._ahead = None
        if following is not None and following in self._kept and following.place == "host" and _is_cuda(device):
            self._ahead = (following, self._fetch(following, device))
        return tensors

    def drop_device(self) -> bool:
        """Graphics memory ran out: forget the entries on the device, and take no more there.

        Returns:
            Whether there were any.
        """
        held = self.used["device"] > 0 or self._ahead is not None
        self._ahead = None
        self._kept = {entry: tensors for entry, tensors in self._kept.items() if entry.place != "device"}
        self.device_budget = self.used["device"] = 0
        return held

    def clear(self) -> None:
        """Forget all entries and free their memory."""
        self._ahead = None
        self._kept.clear()
        self.used = {"device": 0, "host": 0}
        _unpin(self._pinned)
        self._stream = None

    def _to_host(self, tensors: Tensors) -> Tensors:
        device = next(iter(tensors.values())).device
        if not _is_cuda(device):
            return {name: tensor.to("cpu") for name, tensor in tensors.items()}
        block = _block(size_of(tensors))
        if _pin(block, device):
            self._pinned.append((block, device))
        packed = _places(block, tensors)
        for name, tensor in tensors.items():
            packed[name].copy_(tensor, non_blocking=True)
        return packed

    def _fetch(self, entry: Entry, device: torch.device) -> Tensors:
        """Queues copies to a CUDA device, beside its current stream."""
        self._stream = stream = self._stream or cuda.Stream(device)
        # the copies to the host were queued on the current stream; they come first
        stream.wait_stream(cuda.current_stream(device))
        with cuda.stream(stream):
            return {name: tensor.to(device, non_blocking=True, copy=True)
                    for name, tensor in self._kept[entry].items()}

    def _fetched(self, entry: Entry, device: torch.device) -> Tensors:
        if not _is_cuda(device):
            return {name: tensor.to(device) for name, tensor in self._kept[entry].items()}
        ahead = self._ahead
        tensors = ahead[1] if ahead is not None and ahead[0] is entry else self._fetch(entry, device)
        current = cuda.current_stream(device)
        if self._stream is not None:
            current.wait_stream(self._stream)
        for tensor in tensors.values():
            tensor.record_stream(current)  # its memory must outlive the work queued on the current stream
        return tensors


def _is_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


def _block(size: int) -> Tensor:
    """uint8 ``[>= size]`` of whole pages: it is pages that are pinned, and none may be pinned twice."""
    pages = size // PAGESIZE + 1
    memory = torch.empty((pages + 1) * PAGESIZE, dtype=torch.uint8)
    return memory[-memory.data_ptr() % PAGESIZE:][:pages * PAGESIZE]


def _places(block: Tensor, tensors: Tensors) -> Tensors:
    """Room for ``tensors`` in ``block``, one behind the other; the widest numbers first, so that all are aligned."""
    places, start = {}, 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        stop = start + tensor.numel() * tensor.element_size()
        places[name] = block[start:stop].view(tensor.dtype).view(tensor.shape)
        start = stop
    return places


def _pin(block: Tensor, device: torch.device) -> bool:
    """Whether copies between ``block`` and the device run by themselves from now on; they work without, but slowly."""
    with cuda.device(device):
        pinned = int(cuda.cudart().cudaHostRegister(block.data_ptr(), block.numel(), 0)) == 0
        if not pinned:
            # CUDA reports a refusal once more when the next kernel starts: let that be this one
            with suppress(RuntimeError):
                torch.ones(1, device=device)
    return pinned


def _unpin(pinned: list[_Pinned]) -> None:
    """Empties the list, once the copies to and from its blocks have ended."""
    for device in {device for _, device in pinned}:
        cuda.synchronize(device)
    for block, _ in pinned:
        cuda.cudart().cudaHostUnregister(block.data_ptr())
    pinned.clear()
