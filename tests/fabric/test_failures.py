"""What goes wrong beyond this side: as the right exception, soon, and on both ways to wait."""
# ruff: noqa: PT012

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest
from pairs import EVERYTHING, SIZE, SOON, VISIBILITY, Pair, line, pair, python

import rpma
from fabrics.fabric import Fabric
from rpma import CompletionFlags, Usage, WcStatus

pytestmark = pytest.mark.fabric

ALWAYS = CompletionFlags.ALWAYS
DESCRIPTOR = struct.Struct("<QQIB")


def forged(made: Pair, **changes: int) -> rpma.RemoteMemoryRegion:
    """The target's region, with something else in its descriptor."""
    fields = rpma.Descriptor.unpack(made.region.descriptor)._asdict() | changes
    return rpma.RemoteMemoryRegion(DESCRIPTOR.pack(*fields.values()))


def wrong_key(made: Pair) -> rpma.RemoteMemoryRegion:
    return forged(made, rkey=rpma.Descriptor.unpack(made.region.descriptor).rkey ^ 0x5A00)


def wrong_address(made: Pair) -> rpma.RemoteMemoryRegion:
    return forged(made, address=made.region.address + (1 << 30))


def wrong_size(made: Pair) -> rpma.RemoteMemoryRegion:
    return forged(made, address=made.region.address + SIZE - 4)


FORGERIES = pytest.mark.parametrize("forge", [wrong_key, wrong_address, wrong_size])


def check_dead(made: Pair, cause: WcStatus) -> None:
    """After a failure everything on the connection is flushed, and says why."""
    conn = made.initiator
    with pytest.raises(rpma.RpmaError) as caught:
        conn.write_wait(made.remote, 0, made.local, 0, 8, timeout=SOON)
    assert isinstance(caught.value, rpma.errors.RequestFlushedError)
    assert isinstance(caught.value, ConnectionAbortedError)
    assert caught.value.cause is not None
    assert caught.value.cause.status is cause
    assert str(cause) in str(caught.value)


@FORGERIES
@pytest.mark.parametrize("kind", ["write", "read", "atomic", "flush", "batch"])
def test_an_operation_where_the_target_does_not_allow_it(
    linked: Pair, forge: Callable[[Pair], rpma.RemoteMemoryRegion], kind: str
) -> None:
    conn, local = linked.initiator, linked.local
    with forge(linked) as remote:
        calls: dict[str, Callable[[], None]] = {
            "write": lambda: conn.write_wait(remote, 0, local, 0, 64, timeout=SOON),
            "read": lambda: conn.read_wait(local, 0, remote, 0, 64, timeout=SOON),
            "atomic": lambda: conn.atomic_write_wait(remote, 0, bytes(8), timeout=SOON),
            "flush": lambda: conn.flush_wait(remote, 0, 64, timeout=SOON),
            "batch": lambda: conn.write_batch(
                remote, local, [(0, 0, 64)] * 30, flush=VISIBILITY, timeout=SOON
            ),
        }
        began = time.monotonic()
        with pytest.raises(rpma.errors.RemoteAccessError) as caught:
            calls[kind]()
        assert time.monotonic() - began < 10
    error = caught.value
    assert isinstance(error, PermissionError)
    assert error.status is WcStatus.REM_ACCESS_ERR
    assert error.wc is not None
    assert error.request == 0
    assert "the other side does not allow it" in str(error)
    assert not any(linked.memory)
    check_dead(linked, WcStatus.REM_ACCESS_ERR)


@FORGERIES
def test_a_posted_write_where_the_target_does_not_allow_it(
    linked: Pair, forge: Callable[[Pair], rpma.RemoteMemoryRegion]
) -> None:
    conn = linked.initiator
    conn.write(linked.remote, 0, linked.local, 0, 8, flags=ALWAYS, wr_id=1)
    with forge(linked) as remote:
        conn.write(remote, 0, linked.local, 0, 8, wr_id=2)  # completes although not asked to
        conn.write(linked.remote, 0, linked.local, 0, 8, wr_id=3)
        conn.read(linked.local, 0, linked.remote, 0, 8, flags=ALWAYS, wr_id=4)
        wcs = [conn.cq.next_wc(SOON) for _ in range(4)]
    assert [wc.wr_id for wc in wcs] == [1, 2, 3, 4]
    statuses = [WcStatus.SUCCESS, WcStatus.REM_ACCESS_ERR] + [WcStatus.WR_FLUSH_ERR] * 2
    assert [wc.status for wc in wcs] == statuses
    with pytest.raises(rpma.errors.RemoteAccessError, match="request 2 failed"):
        wcs[1].raise_for_status()
    with pytest.raises(rpma.errors.RequestFlushedError):
        wcs[2].raise_for_status()
    check_dead(linked, WcStatus.REM_ACCESS_ERR)


def test_a_batch_names_the_request_that_failed(linked: Pair) -> None:
    with forged(linked, size=4 * SIZE) as remote:
        segments = [(i * 4096, 0, 4096) for i in range(30)]  # the 17th is outside
        with pytest.raises(rpma.errors.RemoteAccessError) as caught:
            linked.initiator.write_batch(remote, linked.local, segments, timeout=SOON)
    assert caught.value.request == SIZE // 4096


def test_a_batch_behind_a_failed_request_of_the_program(linked: Pair) -> None:
    conn = linked.initiator
    with wrong_key(linked) as remote:
        conn.write(remote, 0, linked.local, 0, 8, wr_id=1)
        with pytest.raises(rpma.errors.RequestFlushedError) as caught:
            conn.write_batch(linked.remote, linked.local, [(0, 0, 8)] * 40, timeout=SOON)
    assert caught.value.cause is not None
    assert caught.value.cause.wr_id == 1
    wc = conn.cq.next_wc(SOON)  # the program's own is still there
    assert (wc.wr_id, wc.status) == (1, WcStatus.REM_ACCESS_ERR)


def test_a_region_that_the_target_has_closed(peer: rpma.Peer, linked: Pair) -> None:
    with peer.register(bytearray(64), EVERYTHING) as region:
        remote = rpma.RemoteMemoryRegion(region.descriptor)
    with pytest.raises(rpma.errors.RemoteAccessError):
        linked.initiator.write_wait(remote, 0, linked.local, 0, 8, timeout=SOON)


@pytest.mark.parametrize(
    ("usage", "claimed"),
    [(Usage.READ_SRC, Usage.WRITE_DST), (Usage.WRITE_DST, Usage.READ_SRC)],
)
def test_a_use_that_the_target_has_not_registered(
    peer: rpma.Peer, linked: Pair, usage: Usage, claimed: Usage
) -> None:
    with peer.register(bytearray(64), usage) as region:
        raw = bytearray(region.descriptor)
        raw[-1] = claimed
        remote = rpma.RemoteMemoryRegion(raw)
        with pytest.raises(rpma.errors.RemoteAccessError):
            if claimed is Usage.WRITE_DST:
                linked.initiator.write_wait(remote, 0, linked.local, 0, 8, timeout=SOON)
            else:
                linked.initiator.read_wait(linked.local, 0, remote, 0, 8, timeout=SOON)


def test_every_byte_of_a_descriptor_corrupted_on_the_wire(peer: rpma.Peer, fabric: Fabric) -> None:
    """Whatever the bytes, a write either fails with an exception or lands in the region."""
    with peer.register(bytearray(64), EVERYTHING) as region:
        descriptor = region.descriptor
        for at in range(len(descriptor)):
            raw = bytearray(descriptor)
            raw[at] ^= 0xA5
            with pair(peer, fabric) as made:
                try:
                    with rpma.RemoteMemoryRegion(raw) as remote:
                        made.initiator.write_wait(remote, 0, made.local, 0, 8, timeout=SOON)
                except (rpma.InvalidArgumentError, rpma.errors.RemoteAccessError):
                    pass


#: A message longer than its receive: an invalid request and a local length error, says
#: InfiniBand; Soft-RoCE says that the one side could not carry it out and the other neither.
TOO_LONG = (rpma.errors.RemoteInvalidRequestError, rpma.errors.RemoteOperationError)
TOO_SHORT = {
    WcStatus.LOC_LEN_ERR: rpma.errors.LocalLengthError,
    WcStatus.LOC_QP_OP_ERR: rpma.errors.LocalQpOperationError,
}


def test_a_receive_that_is_too_short(linked: Pair) -> None:
    linked.target.recv(linked.region, 0, 4, wr_id=7)
    linked.target.recv(linked.region, 8, 4, wr_id=8)
    with pytest.raises(TOO_LONG) as caught:
        linked.initiator.send_wait(linked.local, 0, 5, timeout=SOON)
    wc = linked.target.cq.next_wc(SOON)
    assert wc.wr_id == 7
    with pytest.raises(TOO_SHORT[wc.status]):
        wc.raise_for_status()
    wc = linked.target.cq.next_wc(SOON)
    assert (wc.wr_id, wc.status) == (8, WcStatus.WR_FLUSH_ERR)
    check_dead(linked, caught.value.status)


def test_a_disconnect_flushes_what_is_posted_on_both_sides(linked: Pair) -> None:
    linked.initiator.recv(linked.local, 0, 8, wr_id=1)
    linked.target.recv(linked.region, 0, 8, wr_id=2)
    linked.target.recv(linked.region, 0, 8, wr_id=3)
    linked.initiator.disconnect()
    # The target first: InfiniBand's connection manager reports the end to the side that began it
    # when the other has disconnected too.
    for conn, expected in ((linked.target, [2, 3]), (linked.initiator, [1])):
        wcs = [conn.cq.next_wc(SOON) for _ in expected]
        assert [wc.wr_id for wc in wcs] == expected
        assert {wc.status for wc in wcs} == {WcStatus.WR_FLUSH_ERR}
        with pytest.raises(rpma.ConnectionClosed, match="nothing is left to complete"):
            conn.cq.next_wc(SOON)
        assert conn.ended is rpma.ConnectionEvent.CLOSED
        assert conn.next_event(0) is rpma.ConnectionEvent.CLOSED  # kept for the program
        conn.disconnect()


def test_operations_after_the_end_fail_at_once(linked: Pair) -> None:
    linked.end()
    for conn, remote, local in (
        (linked.initiator, linked.remote, linked.local),
        (linked.target, rpma.RemoteMemoryRegion(linked.local.descriptor), linked.region),
    ):
        began = time.monotonic()
        with pytest.raises((rpma.CompletionError, rpma.ConnectionEventError)):
            conn.write_wait(remote, 0, local, 0, 8, timeout=SOON)
        with pytest.raises((rpma.CompletionError, rpma.ConnectionEventError)):
            conn.write_batch(remote, local, [(0, 0, 8)] * 40, timeout=SOON)
        with pytest.raises(rpma.ConnectionEventError):
            conn.cq.next_wc(SOON)
        assert time.monotonic() - began < 5


def test_a_send_that_waits_for_its_receive_sees_the_end(linked: Pair) -> None:
    linked.initiator.send(linked.local, 0, 8, wr_id=3)
    linked.target.close()
    began = time.monotonic()
    with pytest.raises((rpma.CompletionError, rpma.ConnectionEventError)):
        linked.initiator.write_wait(linked.remote, 0, linked.local, 0, 8, timeout=60)
    assert time.monotonic() - began < 30
    wc = linked.initiator.cq.next_wc(SOON)
    assert (wc.wr_id, wc.status) == (3, WcStatus.WR_FLUSH_ERR)


def test_requests_before_the_connection_is_established_are_refused(
    peer: rpma.Peer, fabric: Fabric
) -> None:
    port = fabric.next_port()
    with (
        peer.listen(fabric.address, port),
        peer.register(bytearray(64), EVERYTHING) as region,
        peer.request(fabric.address, port) as request,
        request.connect() as conn,
    ):
        remote = rpma.RemoteMemoryRegion(region.descriptor)
        with pytest.raises(rpma.RpmaError):
            conn.write_wait(remote, 0, region, 0, 8, timeout=1)
        with pytest.raises(rpma.RpmaError):
            conn.write(remote, 0, region, 0, 8)
            conn.cq.next_wc(1)


# ---- a process that dies -----------------------------------------------------------------------

#: The target: serves memory until it is killed.
SERVER = """
import sys, time, rpma
address, port = sys.argv[1:]
peer = rpma.Peer.for_address(address)
region = peer.register(bytearray(1 << 16), rpma.Usage(0xFF) ^ rpma.Usage.FLUSH_TYPE_PERSISTENT)
with peer.listen(address, port) as endpoint:
    print("listening", flush=True)
    connection = endpoint.accept(region.descriptor)
print("accepted", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    "way", ["write_wait", "read_wait", "write_batch", "send_wait", "next_wc", "next_event"]
)
def test_a_target_that_is_killed_in_the_middle(peer: rpma.Peer, fabric: Fabric, way: str) -> None:
    port = fabric.next_port()
    with (
        python(SERVER, fabric.address, port) as server,
        peer.register(bytearray(SIZE), EVERYTHING) as local,
    ):
        assert line(server) == "listening"
        with peer.connect(fabric.address, port, timeout=SOON) as conn:
            remote = rpma.RemoteMemoryRegion(conn.private_data)
            assert line(server) == "accepted"
            conn.write_wait(remote, 0, local, 0, SIZE, timeout=SOON)

            def run() -> None:
                if way == "write_wait":
                    conn.write_wait(remote, 0, local, 0, SIZE, timeout=60)
                elif way == "read_wait":
                    conn.read_wait(local, 0, remote, 0, SIZE, timeout=60)
                elif way == "write_batch":
                    segments = [(i * 64, i * 64, 64) for i in range(100)]
                    conn.write_batch(remote, local, segments, flush=VISIBILITY, timeout=60)
                elif way == "send_wait":
                    conn.send_wait(local, 0, 8, timeout=60)
                elif way == "next_wc":
                    conn.write(remote, 0, local, 0, SIZE, flags=ALWAYS)
                    conn.cq.next_wc(60).raise_for_status()
                else:
                    event = conn.next_event(60)
                    raise rpma.errors.event_error(event, "it ended")

            run_once = way in ("send_wait", "next_event")
            began = time.monotonic()
            server.kill()
            with pytest.raises((rpma.CompletionError, rpma.ConnectionEventError)):
                while True:
                    run()
                    assert not run_once
            assert time.monotonic() - began < 40
    with pair(peer, fabric) as made:  # the next connection is none the worse
        made.initiator.write_wait(made.remote, 0, made.local, 0, 8, timeout=SOON)


#: An initiator that sends for ever, until it is killed.
CLIENT = """
import sys, rpma
address, port = sys.argv[1:]
peer = rpma.Peer.for_address(address, remote=True)
region = peer.register(bytearray(1024), rpma.Usage.SEND)
connection = peer.connect(address, port)
while True:
    connection.send_wait(region, 0, 1024)
"""


def test_an_initiator_that_is_killed_in_the_middle(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with (
        peer.listen(fabric.address, port) as endpoint,
        peer.register(bytearray(8192), EVERYTHING) as region,
        python(CLIENT, fabric.address, port) as client,
        endpoint.next_conn_req(timeout=60) as request,
    ):
        for number in range(8):
            request.recv(region, 1024 * number, 1024, wr_id=number)
        with request.connect() as conn:
            conn.wait_established(SOON)
            received = 0
            began = time.monotonic()
            with pytest.raises((rpma.CompletionError, rpma.ConnectionClosed)):
                while True:
                    wc = conn.cq.next_wc(60)
                    wc.raise_for_status()
                    received += 1
                    conn.recv(region, 1024 * wc.wr_id, 1024, wr_id=wc.wr_id)
                    if received == 20:
                        client.kill()
                        began = time.monotonic()
            assert received >= 20
            assert time.monotonic() - began < 40
            with pytest.raises(rpma.ConnectionClosed):
                while conn.cq.next_wc(SOON).status is WcStatus.WR_FLUSH_ERR:
                    pass
