"""Where queries wait: budgets, what is packed where, and, with a stand-in for CUDA, who waits for which copy."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from mmap import PAGESIZE
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from omg_ext.unet import query_store
from omg_ext.unet.query_store import Entry, QueryStore, Tensors, size_of

ROOM = 2**20
CPU = torch.device("cpu")


def tensors(count: int) -> Tensors:
    """``count`` floats in two tensors."""
    return {"a": torch.ones(count - 1), "b": torch.ones(1)}


def numbers(seed: int) -> Tensors:
    """Odd sizes of three dtypes, the narrow ones first."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"half": (3, 5), "none": (0, 4), "single": (7,), "brain": (1, 3, 1), "scalar": (), "wide": (2, 1)}
    dtypes = {"half": torch.float16, "brain": torch.bfloat16}
    return {name: torch.randn(shape, generator=generator).to(dtypes.get(name, torch.float32))
            for name, shape in shapes.items()}


def assert_same(got: Tensors | None, expected: Tensors) -> None:
    assert got is not None
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=0, atol=0)


def put(store: QueryStore, kept: Tensors) -> Entry:
    entry = store.put(kept)
    assert entry is not None
    return entry


# --- budgets ---

def test_size():
    assert size_of(tensors(10)) == 40
    assert size_of({"half": torch.zeros(3, 5, dtype=torch.float16)}) == 30
    assert size_of({}) == 0


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize(("device", "host", "places"), [
    (1000, 0, ["device"] * 4), (0, 1000, ["host"] * 4), (0, 0, [None] * 4),
    (80, 40, ["device", "device", "host", None]),
    (79, 80, ["device", "host", "host", None]), (39, 0, [None] * 4)])
def test_tiers_fill_up_in_order(device, host, places, pinned, request):
    if pinned:
        request.getfixturevalue("gpu")
    store = QueryStore(device, host)
    entries = [store.put(tensors(10)) for _ in range(4)]
    assert [entry.place if entry else None for entry in entries] == places
    assert store.used == {"device": 40 * places.count("device"), "host": 40 * places.count("host")}
    for entry in entries:
        if entry is not None:
            assert_same(store.get(entry, CPU), tensors(10))


@given(st.integers(0, 300), st.integers(0, 300), st.lists(st.integers(2, 40), max_size=12))
def test_budgets_hold(device, host, counts):
    store = QueryStore(device, host)
    for count in counts:
        place = store.place_for(4 * count)
        entry = store.put(tensors(count))
        assert (entry.place if entry else None) == place
    assert store.used["device"] <= device
    assert store.used["host"] <= host


def test_a_smaller_call_still_fits():
    store = QueryStore(50, 0)
    assert store.put(tensors(10)) is not None
    assert store.put(tensors(10)) is None
    assert store.put(tensors(2)) is not None
    assert store.used["device"] == 48


def test_nothing_is_no_entry():
    assert QueryStore(ROOM, ROOM).put({}) is None


def test_without_cuda_nothing_is_copied():
    store = QueryStore(40, 40)
    for place in ("device", "host"):
        mine = tensors(10)
        entry = put(store, mine)
        assert entry.place == place
        kept = store.get(entry, CPU, entry)
        assert kept is not None
        assert all(kept[name] is tensor for name, tensor in mine.items())


def test_drop_device():
    store = QueryStore(80, 40)
    first, second, third = (put(store, tensors(10)) for _ in range(3))
    assert store.drop_device()
    assert store.used == {"device": 0, "host": 40}
    assert store.get(first, CPU, second) is None
    assert store.get(second, CPU, third) is None
    assert_same(store.get(third, CPU), tensors(10))
    assert store.place_for(1) is None
    assert not store.drop_device()
    assert store.put(tensors(10)) is None


def test_clear():
    store = QueryStore(40, 40)
    entries = [put(store, tensors(10)) for _ in range(2)]
    for _ in range(2):
        store.clear()
        assert store.used == {"device": 0, "host": 0}
        assert [store.get(entry, CPU, entry) for entry in entries] == [None, None]
    assert put(store, tensors(10)).place == "device"


# --- CUDA ---

class FakeStream:
    def __init__(self, name: str, gpu: Gpu):
        self.name, self._gpu = name, gpu

    def wait_stream(self, other: FakeStream) -> None:
        self._gpu.log.append(f"{self.name} waits for {other.name}")


class Gpu:
    """Stands in for ``torch.cuda``, with the CPU as its device."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.pinned: dict[int, int] = {}  # sizes, by address
        self.status = 0
        self.main = self.current = FakeStream("main", self)

    def cudart(self) -> Gpu:
        return self

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        assert address % PAGESIZE == size % PAGESIZE == flags == 0
        assert size > 0
        assert all(address + size <= other or other + length <= address for other, length in self.pinned.items())
        if self.status == 0:
            self.pinned[address] = size
        return self.status

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        assert self.log[-1] == "synchronized"
        del self.pinned[address]
        return 0

    def synchronize(self, device: torch.device) -> None:
        self.log.append("synchronized")

    def device(self, device: torch.device) -> nullcontext[None]:
        return nullcontext()

    def Stream(self, device: torch.device) -> FakeStream:  # noqa: N802
        return FakeStream("side", self)

    def current_stream(self, device: torch.device) -> FakeStream:
        return self.current

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        self.current = stream
        yield
        self.current = self.main

    def is_pinned(self, tensor: Tensor) -> bool:
        start, stop = tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size()
        return any(address <= start and stop <= address + size for address, size in self.pinned.items())


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()

    def copy(tensor: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if non_blocking:
            gpu.log.append(f"{gpu.current.name} stores")
        return plain_copy(tensor, source)

    def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if kwargs.get("non_blocking"):
            gpu.log.append(f"{gpu.current.name} fetches")
        return plain_to(tensor, *args, **kwargs)

    plain_copy, plain_to = Tensor.copy_, Tensor.to
    monkeypatch.setattr(query_store, "cuda", gpu)
    monkeypatch.setattr(query_store, "_is_cuda", lambda device: True)
    monkeypatch.setattr(Tensor, "copy_", copy)
    monkeypatch.setattr(Tensor, "to", to)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: gpu.log.append(f"used by {stream.name}"))
    return gpu


def test_packing(gpu):
    """Without gaps, so that the budget is kept to the byte, and aligned to the numbers."""
    store = QueryStore(0, 10**6)
    entries = [put(store, numbers(seed)) for seed in range(20)]
    assert store.used["host"] == 20 * size_of(numbers(0))
    assert len(gpu.pinned) == 20
    for seed, entry in enumerate(entries):
        packed = store._kept[entry]
        assert_same(packed, numbers(seed))
        held = sorted((tensor.data_ptr(), tensor.numel() * tensor.element_size())
                      for tensor in packed.values() if tensor.numel())
        assert held[0][0] in gpu.pinned
        assert sum(size for _, size in held) == held[-1][0] + held[-1][1] - held[0][0] == size_of(packed)
        assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in packed.values())
        assert all(gpu.is_pinned(tensor) for tensor in packed.values() if tensor.numel())
        assert_same(store.get(entry, CPU), numbers(seed))
    assert sum(gpu.pinned.values()) <= store.used["host"] + 20 * PAGESIZE


@pytest.mark.parametrize("size", [0, 1, PAGESIZE - 1, PAGESIZE, PAGESIZE + 1, 10 * PAGESIZE])
def test_blocks_are_whole_pages(size):
    block = query_store._block(size)
    assert block.data_ptr() % PAGESIZE == block.numel() % PAGESIZE == 0
    assert size <= block.numel() <= size + PAGESIZE


def test_strided_tensors_are_kept(gpu):
    strided = {"a": torch.arange(12.0).reshape(3, 4).T, "b": torch.arange(3.0)[:, None].expand(3, 5)}
    store = QueryStore(0, ROOM)
    assert_same(store.get(put(store, strided), CPU), strided)


def test_streams(gpu):
    """Copies to the host are ordinary work; those back run beside it, one entry ahead."""
    store = QueryStore(0, ROOM)
    first, second, third = (put(store, {"a": torch.full((2,), float(number))}) for number in range(3))
    assert gpu.log == ["main stores"] * 3
    gpu.log.clear()
    fetch, use = ["side waits for main", "side fetches"], ["main waits for side", "used by main"]

    assert_same(store.get(first, CPU, second), {"a": torch.zeros(2)})
    assert gpu.log == [*fetch, *use, *fetch]
    gpu.log.clear()
    assert_same(store.get(second, CPU, third), {"a": torch.ones(2)})
    assert gpu.log == [*use, *fetch]
    gpu.log.clear()
    assert_same(store.get(first, CPU), {"a": torch.zeros(2)})  # not what was expected next
    assert gpu.log == [*fetch, *use]
    gpu.log.clear()
    assert_same(store.get(third, CPU), {"a": torch.full((2,), 2.0)})
    assert gpu.log == [*fetch, *use]


def test_entries_on_the_device_are_not_fetched(gpu):
    store = QueryStore(80, 80)
    entries = [put(store, tensors(10)) for _ in range(4)]
    gpu.log.clear()
    store.get(entries[0], CPU, entries[1])
    assert gpu.log == []
    store.get(entries[1], CPU, entries[2])  # the first one that has to be fetched is fetched ahead too
    assert gpu.log == ["side waits for main", *["side fetches"] * 2]
    gpu.log.clear()
    store.get(entries[2], CPU, None)
    assert gpu.log == ["main waits for side", *["used by main"] * 2]


def test_dropping_frees_what_was_fetched_ahead(gpu):
    store = QueryStore(40, 40)
    device, host = (put(store, tensors(10)) for _ in range(2))
    store.get(device, CPU, host)
    store.drop_device()
    assert store._ahead is None
    assert store.get(device, CPU, host) is None
    assert_same(store.get(host, CPU), tensors(10))


def test_clear_unpins_after_the_copies(gpu):
    store = QueryStore(0, ROOM)
    entries = [put(store, numbers(seed)) for seed in range(3)]
    store.get(entries[0], CPU, entries[1])
    gpu.log.clear()
    store.clear()
    store.clear()
    assert gpu.log == ["synchronized"]
    assert not gpu.pinned
    assert [store.get(entry, CPU, entry) for entry in entries] == [None] * 3
    assert_same(store.get(put(store, numbers(7)), CPU), numbers(7))
    assert len(gpu.pinned) == 1


def test_forgotten_store_unpins(gpu):
    store = QueryStore(0, ROOM)
    entry = put(store, numbers(0))
    fetched = store.get(entry, CPU, entry)
    del store
    gc.collect()
    assert not gpu.pinned
    assert_same(fetched, numbers(0))


def test_refused_pinning(gpu):
    """The entry is kept all the same, and there is nothing to be unpinned."""
    gpu.status = 2
    store = QueryStore(0, ROOM)
    entry = put(store, numbers(0))
    assert_same(store.get(entry, CPU, entry), numbers(0))
    gpu.status = 0
    put(store, numbers(1))
    assert len(gpu.pinned) == 1
    store.clear()
    assert not gpu.pinned


def test_refused_pinning_is_not_reported_later(gpu, monkeypatch):
    """CUDA lets the next kernel fail in its place: one is started for that."""
    kernels: list[Any] = []

    def failing(*args, **kwargs):
        kernels.append(kwargs["device"])
        raise RuntimeError("CUDA error: out of memory")

    store, mine = QueryStore(0, ROOM), tensors(10)
    monkeypatch.setattr(torch, "ones", failing)
    put(store, mine)
    assert kernels == []
    gpu.status = 2
    put(store, mine)
    assert kernels == [CPU]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_real_cuda():
    device = torch.device("cuda", 0)
    store = QueryStore(0, ROOM)
    mine = [{name: tensor.to(device) for name, tensor in numbers(seed).items()} for seed in range(3)]
    entries = [put(store, tensors) for tensors in mine]
    # torch 2.11 says is_pinned() of what it has pinned itself alone
    assert len(store._pinned) == 3
    for entry, following, expected in zip(entries, [*entries[1:], None], mine, strict=True):
        assert_same(store.get(entry, device, following), expected)
    store.clear()
    assert store._pinned == []
