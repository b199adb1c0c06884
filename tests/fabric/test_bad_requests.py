"""Requests that cannot be right are refused before they reach the device, and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pairs import EVERYTHING, SIZE, SOON, VISIBILITY, Pair, pair

import rpma
from fabrics.fabric import Fabric
from rpma import InvalidArgumentError, Usage

pytestmark = pytest.mark.fabric

#: One below which a wr_id must be.
WR_ID_END = 1 << 63


@pytest.fixture(scope="module")
def linked(peer: rpma.Peer, fabric: Fabric) -> Iterator[Pair]:
    """One pair for all: nothing here may do it any harm."""
    with pair(peer, fabric) as made:
        yield made
        made.initiator.write_wait(made.remote, 0, made.local, 0, 8, timeout=SOON)


@pytest.fixture(autouse=True)
def _still_works(linked: Pair) -> Iterator[None]:
    """The next correct call works, and nothing of the bad ones is left."""
    yield
    conn = linked.initiator
    conn.write_wait(linked.remote, 0, linked.local, 0, 8, flush=VISIBILITY, timeout=SOON)
    conn.read(linked.local, 0, linked.remote, 0, 8, flags=rpma.CompletionFlags.ALWAYS, wr_id=1)
    assert conn.cq.next_wc(SOON).wr_id == 1
    assert conn.cq.get_wc() is None
    assert linked.target.cq.get_wc() is None


@dataclass
class Request:
    """A method, with arguments that are right, by name."""

    method: str
    arguments: dict[str, Any]

    def __call__(self, conn: rpma.Connection, **changed: Any) -> None:
        getattr(conn, self.method)(**{**self.arguments, **changed})


@pytest.fixture(scope="module")
def requests(linked: Pair) -> dict[str, Request]:
    """All methods that move data."""
    write = {"dst": linked.remote, "dst_offset": 0, "src": linked.local, "src_offset": 0}
    read = {"dst": linked.local, "dst_offset": 0, "src": linked.remote, "src_offset": 0}
    flush = {"dst": linked.remote, "dst_offset": 0, "length": 8}
    send = {"src": linked.local, "offset": 0, "length": 8}
    found = [
        Request("write", {**write, "length": 8}),
        Request("write_wait", {**write, "length": 8, "timeout": SOON}),
        Request("write_with_imm", {**write, "length": 8, "imm": 1}),
        Request("read", {**read, "length": 8}),
        Request("read_wait", {**read, "length": 8, "timeout": SOON}),
        Request("atomic_write", {"dst": linked.remote, "dst_offset": 0, "value": bytes(8)}),
        Request("atomic_write_wait", {"dst": linked.remote, "dst_offset": 0, "value": bytes(8)}),
        Request("flush", flush),
        Request("flush_wait", {**flush, "timeout": SOON}),
        Request("send", send),
        Request("send_wait", {**send, "timeout": SOON}),
        Request("send_with_imm", {**send, "imm": 1}),
        Request("recv", {"dst": linked.local, "offset": 0, "length": 8}),
    ]
    return {request.method: request for request in found}


WRITES = ["write", "write_wait", "write_with_imm"]
READS = ["read", "read_wait"]
ATOMIC = ["atomic_write", "atomic_write_wait"]
FLUSHES = ["flush", "flush_wait"]
SENDS = ["send", "send_wait", "send_with_imm"]
ALL = WRITES + READS + ATOMIC + FLUSHES + SENDS + ["recv"]
POSTS = ["write", "write_with_imm", "read", "atomic_write", "flush", "send", "send_with_imm"]

#: Which arguments are offsets, by method.
OFFSETS = [
    *[(name, which) for name in WRITES + READS for which in ("dst_offset", "src_offset")],
    *[(name, "dst_offset") for name in ATOMIC + FLUSHES],
    *[(name, "offset") for name in [*SENDS, "recv"]],
]
LENGTHS = [(name, "length") for name in WRITES + READS + FLUSHES + SENDS + ["recv"]]
#: Which arguments are regions, by method, and of which kind.
REGIONS = [
    *[(name, which) for name in WRITES + READS for which in ("dst", "src")],
    *[(name, "dst") for name in ATOMIC + FLUSHES],
]

Requests = dict[str, Request]


@pytest.mark.parametrize(("method", "name"), OFFSETS + LENGTHS)
@pytest.mark.parametrize("bad", [-1, -(1 << 70), 1 << 64, 1 << 90])
def test_numbers_that_c_does_not_have(
    linked: Pair, requests: Requests, method: str, name: str, bad: int
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name}={bad} must be from 0 to"):
        requests[method](linked.initiator, **{name: bad})


@pytest.mark.parametrize(("method", "name"), OFFSETS + LENGTHS)
@pytest.mark.parametrize("bad", ["8", 8.0, None, b"8", [8]])
def test_numbers_that_are_none(
    linked: Pair, requests: Requests, method: str, name: str, bad: object
) -> None:
    if bad is None and name == "length" and method in ("send", "send_wait", "recv"):
        return  # up to the end
    with pytest.raises(TypeError, match=f"{name} must be an integer of bytes, not"):
        requests[method](linked.initiator, **{name: bad})


@pytest.mark.parametrize(("method", "name"), OFFSETS)
@pytest.mark.parametrize("bad", [SIZE, SIZE - 7, SIZE + 8, (1 << 64) - 8, (1 << 64) - 1, 1 << 63])
def test_ranges_that_leave_the_region(
    linked: Pair, requests: Requests, method: str, name: str, bad: int
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name}={bad} and length=8 reach to byte"):
        requests[method](linked.initiator, **{name: bad})


@pytest.mark.parametrize(("method", "name"), LENGTHS)
@pytest.mark.parametrize("bad", [SIZE + 1, 1 << 32, (1 << 64) - 1])
def test_lengths_that_leave_the_region(
    linked: Pair, requests: Requests, method: str, name: str, bad: int
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{name}={bad} reach to byte"):
        requests[method](linked.initiator, **{name: bad})


@pytest.mark.parametrize(("method", "name"), REGIONS)
def test_regions_of_the_wrong_side(
    linked: Pair, requests: Requests, method: str, name: str
) -> None:
    right = requests[method].arguments[name]
    wrong = linked.local if right is linked.remote else linked.remote
    expected = type(right).__name__
    with pytest.raises(TypeError, match=rf"{name} must be a rpma\.{expected}, not"):
        requests[method](linked.initiator, **{name: wrong})


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("bad", ["x", 5, bytearray(8), object()])
def test_what_is_no_region(linked: Pair, requests: Requests, method: str, bad: object) -> None:
    name = "src" if method in SENDS else "dst"
    with pytest.raises(TypeError, match=rf"{name} must be a rpma\.\w*MemoryRegion, not"):
        requests[method](linked.initiator, **{name: bad})


@pytest.mark.parametrize(("method", "name"), REGIONS)
def test_one_region_that_is_none(linked: Pair, requests: Requests, method: str, name: str) -> None:
    with pytest.raises((InvalidArgumentError, TypeError), match=f"^{name} (is None|must be a)"):
        requests[method](linked.initiator, **{name: None})


@pytest.mark.parametrize("method", ["write_wait", "read_wait"])
def test_operations_move_data(linked: Pair, requests: Requests, method: str) -> None:
    with pytest.raises(TypeError, match=r"dst must be a rpma\.\w+, not NoneType"):
        requests[method](linked.initiator, dst=None, src=None, length=0)


@pytest.mark.parametrize("method", ["write", "read", "write_with_imm", "send", "recv"])
@pytest.mark.parametrize("which", [0, 1])
def test_no_regions_but_numbers(linked: Pair, requests: Requests, method: str, which: int) -> None:
    request = requests[method]
    without = {name: None for name in ("dst", "src") if name in request.arguments}
    names = [name for name in request.arguments if "offset" in name or name == "length"]
    numbers = dict.fromkeys(names, 0)
    name = names[-which]
    with pytest.raises(InvalidArgumentError, match=f"{name}=5 must be 0 where"):
        request(linked.initiator, **{**without, **numbers, name: 5})


@pytest.mark.parametrize("method", POSTS)
@pytest.mark.parametrize("bad", [0, 2, 4, 7, -1, 1 << 40])
def test_flags_that_there_are_not(linked: Pair, requests: Requests, method: str, bad: int) -> None:
    with pytest.raises(InvalidArgumentError, match="flags="):
        requests[method](linked.initiator, flags=bad)
    with pytest.raises(TypeError, match="flags must be an integer"):
        requests[method](linked.initiator, flags="ALWAYS")


@pytest.mark.parametrize("method", [*POSTS, "recv"])
@pytest.mark.parametrize("bad", [-1, WR_ID_END, (1 << 64) - 1, 1 << 64])
def test_numbers_of_requests_that_are_reserved(
    linked: Pair, requests: Requests, method: str, bad: int
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"wr_id={bad} must be from 0"):
        requests[method](linked.initiator, wr_id=bad)
    with pytest.raises(TypeError, match="wr_id must be an integer"):
        requests[method](linked.initiator, wr_id="7")


@pytest.mark.parametrize("method", ["write_with_imm", "send_with_imm"])
@pytest.mark.parametrize("bad", [-1, 1 << 32])
def test_immediate_data_of_more_than_32_bits(
    linked: Pair, requests: Requests, method: str, bad: int
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"imm={bad} must be from 0"):
        requests[method](linked.initiator, imm=bad)
    with pytest.raises(TypeError, match="imm must be an integer"):
        requests[method](linked.initiator, imm=b"1")


@pytest.mark.parametrize("method", ATOMIC)
@pytest.mark.parametrize("bad", [1, 4, 7, 9, SIZE - 12])
def test_atomic_writes_that_are_not_aligned(
    linked: Pair, requests: Requests, method: str, bad: int
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"dst_offset={bad} must be a multiple of 8"):
        requests[method](linked.initiator, dst_offset=bad)


@pytest.mark.parametrize("method", ATOMIC)
def test_atomic_writes_of_something_else_than_8_bytes(
    linked: Pair, requests: Requests, method: str
) -> None:
    for length in (0, 7, 9):
        with pytest.raises(InvalidArgumentError, match=f"value has {length} bytes"):
            requests[method](linked.initiator, value=bytes(length))
    for bad in (8, "8 bytes!", None):
        with pytest.raises(TypeError, match="value must be 8 bytes, not"):
            requests[method](linked.initiator, value=bad)


@pytest.mark.parametrize("method", FLUSHES)
@pytest.mark.parametrize("bad", [-1, 2, 7, 1 << 31, 1 << 40])
def test_flushes_that_there_are_not(
    linked: Pair, requests: Requests, method: str, bad: int
) -> None:
    with pytest.raises(InvalidArgumentError, match=f"type={bad}"):
        requests[method](linked.initiator, type=bad)
    with pytest.raises(TypeError, match="type must be an integer"):
        requests[method](linked.initiator, type="VISIBILITY")


@pytest.mark.parametrize("bad", [-1, 2, 7, 1 << 31])
def test_flushes_behind_a_write_that_there_are_not(linked: Pair, bad: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"type={bad}"):
        linked.initiator.write_wait(
            linked.remote,
            0,
            linked.local,
            0,
            8,
            flush=bad,  # type: ignore[arg-type]
            timeout=SOON,
        )
    with pytest.raises(InvalidArgumentError, match=f"type={bad}"):
        linked.initiator.write_batch(
            linked.remote,
            linked.local,
            [(0, 0, 8)],
            flush=bad,  # type: ignore[arg-type]
            timeout=SOON,
        )


NEEDED = [
    ("write", "src", Usage.WRITE_SRC),
    ("write", "dst", Usage.WRITE_DST),
    ("write_wait", "src", Usage.WRITE_SRC),
    ("write_wait", "dst", Usage.WRITE_DST),
    ("write_with_imm", "src", Usage.WRITE_SRC),
    ("write_with_imm", "dst", Usage.WRITE_DST),
    ("read", "dst", Usage.READ_DST),
    ("read", "src", Usage.READ_SRC),
    ("read_wait", "dst", Usage.READ_DST),
    ("read_wait", "src", Usage.READ_SRC),
    ("atomic_write", "dst", Usage.WRITE_DST),
    ("atomic_write_wait", "dst", Usage.WRITE_DST),
    ("send", "src", Usage.SEND),
    ("send_wait", "src", Usage.SEND),
    ("send_with_imm", "src", Usage.SEND),
    ("recv", "dst", Usage.RECV),
]


@pytest.mark.parametrize(("method", "name", "needed"), NEEDED)
def test_regions_registered_for_other_uses(
    peer: rpma.Peer, linked: Pair, requests: Requests, method: str, name: str, needed: Usage
) -> None:
    request = requests[method]
    with peer.register(bytearray(64), EVERYTHING & ~needed) as region:
        wrong: Any = region
        if isinstance(request.arguments[name], rpma.RemoteMemoryRegion):
            wrong = rpma.RemoteMemoryRegion(region.descriptor)
        with pytest.raises(InvalidArgumentError, match=f"{name} is registered for.*needs.*"):
            request(linked.initiator, **{name: wrong})


@pytest.mark.parametrize(("method", "name"), [(m, n) for m, n, _ in NEEDED])
def test_regions_that_are_closed(
    peer: rpma.Peer, linked: Pair, requests: Requests, method: str, name: str
) -> None:
    request = requests[method]
    region: Any = peer.register(bytearray(64), EVERYTHING)
    closed: Any = region
    if isinstance(request.arguments[name], rpma.RemoteMemoryRegion):
        closed = rpma.RemoteMemoryRegion(region.descriptor)
        closed.close()
    region.close()
    with pytest.raises(rpma.ClosedError, match="closed"):
        request(linked.initiator, **{name: closed})


@pytest.mark.parametrize(
    ("method", "name"),
    [(m, n) for m, n, u in NEEDED if u not in (Usage.WRITE_DST, Usage.READ_SRC)],
)
def test_regions_of_another_peer(
    peer: rpma.Peer, linked: Pair, requests: Requests, method: str, name: str
) -> None:
    with (
        rpma.Peer(peer.device) as stranger,
        stranger.register(bytearray(64), EVERYTHING) as foreign,
        pytest.raises(InvalidArgumentError, match=f"{name} is registered with another peer"),
    ):
        requests[method](linked.initiator, **{name: foreign})


@pytest.mark.parametrize("method", ALL)
def test_a_connection_that_is_closed(
    peer: rpma.Peer, fabric: Fabric, requests: Requests, method: str
) -> None:
    with pair(peer, fabric) as made:
        made.initiator.close()
        with pytest.raises(rpma.ClosedError, match="closed"):
            requests[method](made.initiator)


def test_all_else_of_a_connection_that_is_closed(peer: rpma.Peer, fabric: Fabric) -> None:
    with pair(peer, fabric) as made, rpma.PeerConfig() as config:
        conn = made.initiator
        cq = conn.cq
        conn.close()
        calls: list[Callable[[], object]] = [
            lambda: conn.write_batch(made.remote, made.local, [(0, 0, 8)]),
            lambda: conn.write_batch(made.remote, made.local, []),
            lambda: conn.read_batch(made.local, made.remote, [(0, 0, 8)]),
            lambda: conn.read_batch(made.local, made.remote, []),
            lambda: conn.next_event(),
            lambda: conn.wait_established(),
            lambda: conn.wait_closed(),
            lambda: conn.wait(),
            lambda: conn.disconnect(),
            lambda: conn.private_data,
            lambda: conn.qp_num,
            lambda: conn.event_fd,
            lambda: conn.compl_fd,
            lambda: conn.apply_remote_peer_config(config),
            lambda: conn.cq.fd,
            lambda: cq.fd,
            lambda: cq.fileno(),
            lambda: cq.wait(),
            lambda: cq.get_wc(),
            lambda: cq.get_wcs(),
            lambda: cq.next_wc(),
            lambda: conn.__enter__(),
        ]
        for call in calls:
            with pytest.raises(rpma.ClosedError, match="closed"):
                call()
        conn.close()
        assert repr(conn) == "<rpma.Connection closed>"
        assert "closed" in repr(cq)


# ---- batches -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ((0, 0, SIZE + 1), "dst_offset=0 and length=65537 reach"),
        ((SIZE, 0, 1), "dst_offset=65536 and length=1 reach"),
        ((0, SIZE, 1), "src_offset=65536 and length=1 reach"),
        (((1 << 64) - 8, 0, 16), "dst_offset="),
        ((0, 0, (1 << 64) - 1), "dst_offset=0 and length=18446744073709551615 reach"),
    ],
)
@pytest.mark.parametrize("method", ["write_batch", "read_batch"])
def test_a_segment_that_leaves_its_region(
    linked: Pair, method: str, bad: tuple[int, int, int], complaint: str
) -> None:
    regions = [linked.remote, linked.local]
    if method == "read_batch":
        regions.reverse()
    linked.own[:8] = b"new data"
    linked.memory[:8] = b"old data"
    with pytest.raises(InvalidArgumentError, match=f"segment 2: {complaint}"):
        getattr(linked.initiator, method)(*regions, [(0, 0, 8), (8, 8, 8), bad, (16, 16, 8)])
    linked.initiator.flush_wait(linked.remote, 0, 8, timeout=SOON)
    assert (linked.own[:8], linked.memory[:8]) == (b"new data", b"old data")


@pytest.mark.parametrize("method", ["write_batch", "read_batch"])
@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (5, TypeError),
        (None, TypeError),
        ("text", TypeError),
        (b"bytes123" * 3, TypeError),
        ([(1, 2)], TypeError),
        ([(1, 2, 3, 4)], TypeError),
        ([1, 2, 3], TypeError),
        ([(1.0, 2, 3)], TypeError),
        ([("1", 2, 3)], TypeError),
        ([(-1, 2, 3)], InvalidArgumentError),
        ([(1 << 64, 2, 3)], InvalidArgumentError),
    ],
)
def test_what_is_no_list_of_segments(
    linked: Pair, method: str, bad: object, error: type[Exception]
) -> None:
    regions = [linked.remote, linked.local]
    if method == "read_batch":
        regions.reverse()
    with pytest.raises(error, match="segments"):
        getattr(linked.initiator, method)(*regions, bad)


def test_arrays_that_are_no_segments(linked: Pair) -> None:
    import array

    import numpy

    for bad in (
        array.array("q", [0, 0, 8]),
        array.array("I", [0, 0, 8]),
        numpy.zeros(3, dtype=numpy.float64),
        numpy.zeros(3, dtype=">u8"),
        numpy.zeros((4, 6), dtype=numpy.uint64)[:, ::2],
        memoryview(b"12345678" * 3),
    ):
        with pytest.raises(TypeError, match="segments as a buffer must be contiguous unsigned"):
            linked.initiator.write_batch(linked.remote, linked.local, bad)
    with pytest.raises(InvalidArgumentError, match="segments has 4 numbers"):
        linked.initiator.write_batch(linked.remote, linked.local, array.array("Q", [0, 0, 8, 0]))


@pytest.mark.parametrize("segments", [[], [(0, 0, 8)]])
def test_batches_of_wrong_regions(linked: Pair, segments: list[tuple[int, int, int]]) -> None:
    conn = linked.initiator
    for bad in (None, "x", linked.local):
        with pytest.raises(TypeError, match=r"dst must be a rpma\.RemoteMemoryRegion, not"):
            conn.write_batch(bad, linked.local, segments)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"src must be a rpma\.RemoteMemoryRegion, not"):
            conn.read_batch(linked.local, bad, segments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"src must be a rpma\.MemoryRegion, not"):
        conn.write_batch(linked.remote, linked.remote, segments)  # type: ignore[arg-type]


def test_a_region_too_small_to_be_flushed(peer: rpma.Peer, linked: Pair) -> None:
    with (
        peer.register(bytearray(7), EVERYTHING) as small,
        rpma.RemoteMemoryRegion(small.descriptor) as remote,
    ):
        for call in (linked.initiator.flush, linked.initiator.flush_wait):
            with pytest.raises(InvalidArgumentError, match="dst has 7 bytes"):
                call(remote, 0, 7)


# ---- what is registered ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "error", "complaint"),
    [
        (b"read-only", InvalidArgumentError, "buffer is read-only"),
        (memoryview(b"read-only"), InvalidArgumentError, "buffer is read-only"),
        (bytearray(), InvalidArgumentError, "buffer is empty"),
        (memoryview(bytearray(8))[::2], InvalidArgumentError, "buffer is not contiguous"),
        ("text", TypeError, "buffer must be an object with a writable buffer"),
        (5, TypeError, "buffer must be"),
        (None, TypeError, "buffer must be"),
        ([1, 2], TypeError, "buffer must be"),
    ],
)
def test_what_cannot_be_registered(
    peer: rpma.Peer, bad: object, error: type[Exception], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        peer.register(bad, EVERYTHING)  # type: ignore[arg-type]


def test_arrays_that_cannot_be_registered(peer: rpma.Peer) -> None:
    import numpy

    whole = numpy.zeros((8, 8))
    for bad in (whole[:, 1], whole[::2], whole.T[1:], whole[:0]):
        with pytest.raises(InvalidArgumentError, match="buffer is"):
            peer.register(bad, EVERYTHING)
    whole.flags.writeable = False
    with pytest.raises(InvalidArgumentError, match="buffer is read-only"):
        peer.register(whole, EVERYTHING)


@pytest.mark.parametrize("bad", [0, 1 << 8, -1, 1 << 40])
def test_usages_that_there_are_not(peer: rpma.Peer, bad: int) -> None:
    buffer = bytearray(8)
    with pytest.raises(InvalidArgumentError, match="usage="):
        peer.register(buffer, bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="usage must be an integer"):
        peer.register(buffer, "SEND")  # type: ignore[arg-type]
    buffer.append(0)  # not held


# ---- configurations ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [5, "x", rpma.SharedReceiveQueueConfig])
def test_what_is_no_connection_configuration(peer: rpma.Peer, fabric: Fabric, bad: object) -> None:
    port = fabric.next_port()
    match = r"config must be a rpma\.ConnectionConfig"
    with peer.listen(fabric.address, port) as endpoint:
        with pytest.raises(TypeError, match=match):
            peer.connect(fabric.address, port, config=bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=match):
            peer.request(fabric.address, port, bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=match):
            endpoint.accept(config=bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=match):
            endpoint.next_conn_req(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sizes",
    [{"cq_size": 1 << 30}, {"sq_size": 1 << 30}, {"rq_size": 1 << 30}, {"rcq_size": 1 << 30}],
)
def test_sizes_that_no_device_has(peer: rpma.Peer, fabric: Fabric, sizes: dict[str, int]) -> None:
    with rpma.ConnectionConfig(**sizes) as config:
        with pytest.raises(rpma.RpmaError) as caught:
            peer.request(fabric.address, fabric.next_port(), config)
        assert isinstance(caught.value, rpma.ProviderError | rpma.InvalidArgumentError)
        assert fabric.address in str(caught.value)


def test_a_configuration_that_is_closed(peer: rpma.Peer, fabric: Fabric) -> None:
    config, port = rpma.ConnectionConfig(), fabric.next_port()
    config.close()
    with peer.listen(fabric.address, port) as endpoint:
        with pytest.raises(rpma.ClosedError):
            peer.connect(fabric.address, port, config=config)
        with pytest.raises(rpma.ClosedError):
            endpoint.accept(config=config)
