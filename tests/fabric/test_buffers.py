"""What has a buffer works, whatever its type and shape; what has none is told in a sentence."""

from __future__ import annotations

import array
import ctypes
import mmap
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy
import pytest
from pairs import EVERYTHING, SOON, connections
from targets import a_pool, serving

import rpma
from fabrics.fabric import Fabric
from rpma import InvalidArgumentError, Usage, allocation
from rpma.pool import Pool

pytestmark = pytest.mark.fabric

SIZE = 4096

#: Types that the buffer protocol has no format for, among others: 8 bytes each in the end.
DTYPES = {
    "bfloat16": (ml_dtypes.bfloat16, 4),
    "float8": (ml_dtypes.float8_e4m3fn, 8),
    "datetime64": ("datetime64[ns]", 1),
    "timedelta64": ("timedelta64[s]", 1),
    "float16": ("float16", 4),
    "complex64": ("complex64", 1),
    "big endian": (">i4", 2),
    "bool": ("bool", 8),
    "text": ("U1", 2),
    "void": ("V8", 1),
    "structure": ([("Order", "u4"), ("O", "f4")], 1),
    "structure with a date": ([("when", "datetime64[s]")], 1),
}
ARRAYS: dict[str, Callable[[], Any]] = {
    name: (lambda dtype=dtype, count=count: numpy.zeros(count, dtype))  # type: ignore[misc]
    for name, (dtype, count) in DTYPES.items()
}
OTHERS: dict[str, Callable[[], Any]] = {
    "two dimensions": lambda: numpy.zeros((2, 2), "u2"),
    "two dimensions of dates": lambda: numpy.zeros((1, 1), "datetime64[s]"),
    "no dimension": lambda: numpy.zeros((), "u8"),
    "no dimension, a date": lambda: numpy.zeros((), "datetime64[s]"),
    "array": lambda: array.array("d", [0]),
    "ctypes": lambda: (ctypes.c_int * 2)(),
    "bytearray": lambda: bytearray(8),
    "memoryview": lambda: memoryview(bytearray(8)).cast("Q"),
}
FULL = ARRAYS | OTHERS
EMPTY: dict[str, Callable[[], Any]] = {
    "no rows": lambda: numpy.zeros((0, 4)),
    "no columns": lambda: numpy.zeros((4, 0)),
    "no rows of dates": lambda: numpy.zeros((0, 4), "datetime64[s]"),
    "no rows of bfloat16": lambda: numpy.zeros((0, 4), ml_dtypes.bfloat16),
    "nothing": lambda: numpy.zeros(0),
    "bytearray": bytearray,
    "array": lambda: array.array("d"),
}
OF_OBJECTS: dict[str, Callable[[], Any]] = {
    "objects": lambda: numpy.zeros(1, object),
    "a structure with an object": lambda: numpy.zeros(1, [("a", "i4"), ("b", object)]),
    "a structure with an object and a date": lambda: numpy.zeros(1, [("a", "M8[s]"), ("b", "O")]),
    "strings of any length": lambda: numpy.zeros(1, numpy.dtypes.StringDType()),
}
STRIDED: dict[str, Callable[[], Any]] = {
    "numbers": lambda: numpy.zeros(8, "u8")[::2],
    "dates": lambda: numpy.zeros(8, "datetime64[s]")[::2],
    "bfloat16": lambda: numpy.zeros((4, 4), ml_dtypes.bfloat16)[:, :2],
    "memoryview": lambda: memoryview(bytearray(8))[::2],
    "Fortran's order": lambda: numpy.zeros((2, 2), order="F"),
}


def each(kinds: dict[str, Callable[[], Any]]) -> Any:
    return pytest.mark.parametrize("make", kinds.values(), ids=kinds.keys())


def raw(buffer: Any) -> bytes:
    return buffer.tobytes() if hasattr(buffer, "tobytes") else bytes(buffer)


@pytest.fixture(scope="module")
def pool(fabric: Fabric, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with serving(fabric, tmp_path_factory.mktemp("pools")) as target, a_pool(target, SIZE) as pool:
        yield pool


# ---- full -----------------------------------------------------------------------------------


@each(FULL)
def test_a_region_takes_it(peer: rpma.Peer, make: Callable[[], Any]) -> None:
    buffer = make()
    with peer.register(buffer, EVERYTHING) as region:
        assert len(region) == len(region.view) == 8
        region.view[:] = b"12345678"
        assert raw(buffer) == b"12345678"


@each(FULL)
def test_a_pool_is_written_from_it_and_read_into_it(pool: Pool, make: Callable[[], Any]) -> None:
    buffer = make()
    pool.write(64, b"abcdefgh")
    pool.read_into(64, buffer)
    assert raw(buffer) == b"abcdefgh"
    pool.write(64, bytes(8))
    pool.write(64, buffer)
    assert pool[64:72] == b"abcdefgh"
    pool[128:136] = buffer
    assert pool[128:136] == b"abcdefgh"


@each(FULL)
def test_it_is_private_data_and_the_value_of_an_atomic_write(
    peer: rpma.Peer, fabric: Fabric, make: Callable[[], Any]
) -> None:
    buffer = make()
    with peer.register(buffer, EVERYTHING) as region:
        region.view[:] = b"hgfedcba"
    seen: list[bytes] = []
    memory = bytearray(8)
    with peer.register(memory, Usage.WRITE_DST | Usage.FLUSH_TYPE_VISIBILITY) as region:
        port = fabric.next_port()
        with peer.listen(fabric.address, port) as endpoint:
            client = peer.request(fabric.address, port).connect(buffer)
            with endpoint.next_conn_req(timeout=SOON) as request:
                seen.append(request.private_data[:8])
                server = request.connect(region.descriptor)
            with server, client:
                client.wait_established(SOON)
                server.wait_established(SOON)
                remote = rpma.RemoteMemoryRegion(client.private_data)
                client.atomic_write_wait(remote, 0, buffer, timeout=SOON)
                client.flush_wait(remote, 0, 8, timeout=SOON)
    assert seen == [b"hgfedcba"]
    assert memory == b"hgfedcba"


@pytest.mark.parametrize("name", DTYPES)
def test_an_array_of_that_type_is_in_a_pool_and_in_memory(pool: Pool, name: str) -> None:
    dtype, count = DTYPES[name]
    array = pool.array(dtype, count, offset=256)
    array.local.view("u1")[:] = range(8)
    array.write()
    array.local.view("u1")[:] = 0
    array.read()
    assert array.local.tobytes() == pool[256:264] == bytes(range(8))
    assert array.local.dtype == numpy.dtype(dtype)
    array.close()
    with allocation.anonymous(8) as memory:
        assert memory.array(dtype).shape == (count,)


# ---- empty ----------------------------------------------------------------------------------


@each(EMPTY)
def test_a_region_of_nothing_is_refused_in_words(peer: rpma.Peer, make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="buffer is empty: a memory region has at least"):
        peer.register(make(), EVERYTHING)


@each(EMPTY)
def test_nothing_is_written_and_read(pool: Pool, make: Callable[[], Any]) -> None:
    before = pool.read()
    pool.write(8, make())
    pool.read_into(8, make())
    pool.write(SIZE, make())
    pool[8:8] = make()
    assert pool.read() == before


@each(EMPTY)
def test_what_must_not_be_empty_says_so(
    peer: rpma.Peer, fabric: Fabric, make: Callable[[], Any]
) -> None:
    with pytest.raises(InvalidArgumentError, match="private_data is empty"):
        peer.connect(fabric.address, fabric.next_port(), private_data=make())
    for take in (rpma.RemoteMemoryRegion, rpma.Descriptor.unpack, rpma.PeerConfig.from_descriptor):
        with pytest.raises(InvalidArgumentError, match="0 bytes"):
            take(make())
    server, client = connections(peer, fabric)
    with server, client, peer.register(bytearray(8), EVERYTHING) as region:
        remote = rpma.RemoteMemoryRegion(region.descriptor)
        with pytest.raises(InvalidArgumentError, match="value has 0 bytes"):
            client.atomic_write(remote, 0, make())


# ---- what cannot be -------------------------------------------------------------------------


@each(OF_OBJECTS)
def test_python_objects_are_refused(peer: rpma.Peer, pool: Pool, make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="buffer holds Python objects"):
        peer.register(make(), EVERYTHING)
    with pytest.raises(InvalidArgumentError, match="data holds Python objects"):
        pool.write(0, make())
    with pytest.raises(InvalidArgumentError, match="buffer holds Python objects"):
        pool.read_into(0, make())
    with pytest.raises(InvalidArgumentError, match="descriptor holds Python objects"):
        rpma.RemoteMemoryRegion(make())


@each(STRIDED)
def test_what_is_not_contiguous_is_refused(
    peer: rpma.Peer, pool: Pool, make: Callable[[], Any]
) -> None:
    with pytest.raises(InvalidArgumentError, match="buffer is not contiguous"):
        peer.register(make(), EVERYTHING)
    with pytest.raises(InvalidArgumentError, match="data is not contiguous"):
        pool.write(0, make())
    with pytest.raises(InvalidArgumentError, match="buffer is not contiguous"):
        pool.read_into(0, make())


def test_what_is_read_only_is_refused(peer: rpma.Peer, pool: Pool) -> None:
    dates = numpy.zeros(2, "datetime64[s]")
    dates.flags.writeable = False
    for buffer in (dates, bytes(16), numpy.float64(1), numpy.datetime64("2020-01-01")):
        with pytest.raises(InvalidArgumentError, match="buffer is read-only"):
            peer.register(buffer, EVERYTHING)
        with pytest.raises(InvalidArgumentError, match="buffer must be writable"):
            pool.read_into(0, buffer)


def test_a_buffer_that_was_let_go_of_is_refused(peer: rpma.Peer, pool: Pool) -> None:
    view = memoryview(bytearray(8))
    view.release()
    closed = mmap.mmap(-1, 4096)
    closed.close()
    for buffer in (view, closed):
        with pytest.raises(InvalidArgumentError, match="cannot be used"):
            peer.register(buffer, EVERYTHING)
        with pytest.raises(InvalidArgumentError, match="cannot be used"):
            pool.write(0, buffer)


class Tensor:
    """What a torch tensor is like: memory, but no buffer."""

    def numpy(self) -> object:
        raise AssertionError


@pytest.mark.parametrize(
    "bad", [None, 3, 1.5, "text", [1, 2], object(), Tensor()], ids=lambda bad: type(bad).__name__
)
def test_what_has_no_buffer_is_told(peer: rpma.Peer, pool: Pool, bad: Any) -> None:
    with pytest.raises(TypeError, match=r"buffer must be an object with a writable buffer .*, not"):
        peer.register(bad, EVERYTHING)
    with pytest.raises(TypeError, match="data must be an object with a buffer"):
        pool.write(0, bad)
    with pytest.raises(TypeError, match="descriptor must be bytes, not"):
        rpma.RemoteMemoryRegion(bad)
    if isinstance(bad, Tensor):
        with pytest.raises(TypeError, match=r"take \.numpy\(\)"):
            peer.register(bad, EVERYTHING)


@pytest.mark.parametrize("dtype", ["datetime64[s]", ml_dtypes.bfloat16], ids=str)
def test_segments_are_of_numbers(peer: rpma.Peer, fabric: Fabric, dtype: Any) -> None:
    server, client = connections(peer, fabric)
    with server, client, peer.register(bytearray(8), EVERYTHING) as region:
        remote = rpma.RemoteMemoryRegion(region.descriptor)
        client.write_batch(remote, region, numpy.zeros((0, 3), "u8"))
        with pytest.raises(TypeError, match="unsigned 64-bit numbers, not of"):
            client.write_batch(remote, region, numpy.zeros(3, dtype))
