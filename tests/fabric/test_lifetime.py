"""Objects are released in the right order, whatever order the program or the collector takes."""
# ruff: noqa: PT017

from __future__ import annotations

import array
import contextlib
import errno
import gc
import itertools
import mmap
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
from pairs import (
    EVERYTHING,
    SOON,
    VISIBILITY,
    accepted,
    connections,
    fork,
    open_files,
    pair,
    pattern,
)

import rpma
from fabrics.fabric import Fabric
from rpma import ConnectionConfig

pytestmark = pytest.mark.fabric


@contextlib.contextmanager
def nothing_is_left(fabric: Fabric) -> Iterator[None]:
    """All that is made inside is gone at the end, in the device as well."""
    gc.collect()
    before = fabric.resources()
    yield
    gc.collect()
    assert fabric.resources() == before


@contextlib.contextmanager
def recorded() -> Iterator[list[str]]:
    """The ResourceWarnings, as text: catch_warnings(record=True) would keep their objects alive."""
    messages: list[str] = []

    def note(message: Warning | str, category: type[Warning], *_: object) -> None:
        assert category is ResourceWarning
        messages.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        yield messages


class World:
    """One of everything, each in an attribute of its own."""

    def __init__(self, fabric: Fabric) -> None:
        self.peer = rpma.Peer.for_address(fabric.address)
        self.region = self.peer.register(bytearray(64), EVERYTHING)
        self.srq = self.peer.create_srq()
        self.config = ConnectionConfig(srq=self.srq)
        port = fabric.next_port()
        self.endpoint = self.peer.listen(fabric.address, port)
        self.client = self.peer.request(fabric.address, port).connect()
        self.server = accepted(self.endpoint, self.client, config=self.config)
        self.cq = self.client.cq
        self.request = self.peer.request(fabric.address, port)
        self.srq.recv(self.region, 0, 8)


WARN = ["peer", "region", "srq", "endpoint", "client", "server", "request"]


# ---- the garbage collector ---------------------------------------------------------------------


@pytest.mark.parametrize("first", ["peer", "region", "srq", "endpoint", "server", "client"])
def test_dropped_in_any_order(fabric: Fabric, first: str) -> None:
    rest = [name for name in ("peer", "region", "srq", "server", "client") if name != first]
    orders = list(itertools.permutations(rest))[:: max(1, len(rest))]
    with nothing_is_left(fabric):
        for order in orders[:6]:
            world = World(fabric)
            with recorded() as caught:
                for name in (first, *order):
                    if hasattr(world, name):
                        delattr(world, name)
                del world
                gc.collect()
            assert len(caught) == len(WARN), caught


def test_a_cycle_that_holds_everything_is_collected(fabric: Fabric) -> None:
    with nothing_is_left(fabric):
        for _ in range(5):
            world: Any = World(fabric)
            world.again = [world, {"world": world}]
            world.view = world.region.view
            reference = weakref.ref(world.peer)
            with recorded() as caught:
                del world
                gc.collect()
            assert reference() is None
            assert len(caught) == len(WARN)


@pytest.mark.parametrize("name", WARN)
def test_each_kind_left_open_warns_and_is_released(fabric: Fabric, name: str) -> None:
    with nothing_is_left(fabric):
        world = World(fabric)
        for other in ("request", "client", "server", "endpoint", "srq", "region", "peer"):
            if other != name:
                with contextlib.suppress(rpma.InUseError):
                    getattr(world, other).close()
        left = [type(getattr(world, other)).__name__ for other in WARN]
        left = [
            kind for kind, other in zip(left, WARN, strict=True) if not getattr(world, other).closed
        ]
        assert type(getattr(world, name)).__name__ in left
        with recorded() as caught:
            world.__dict__.clear()
            gc.collect()
        assert sorted(re.findall(r"unclosed <rpma\.(\w+)", " ".join(caught))) == sorted(left)


def test_a_warning_that_is_an_error_does_not_keep_it_open(fabric: Fabric) -> None:
    raised: list[object] = []
    with nothing_is_left(fabric):
        world = World(fabric)
        before, sys.unraisablehook = sys.unraisablehook, lambda info: raised.append(info.exc_type)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                del world
                gc.collect()
        finally:
            sys.unraisablehook = before
    assert raised == [ResourceWarning] * len(WARN)


def test_children_keep_their_parents(fabric: Fabric) -> None:
    peer = rpma.Peer.for_address(fabric.address)
    buffer = bytearray(64)
    region = peer.register(buffer, EVERYTHING)
    remote = rpma.RemoteMemoryRegion(region.descriptor)
    server, client = connections(peer, fabric)
    queue = client.cq
    references = [weakref.ref(peer), weakref.ref(client)]
    del peer, buffer
    gc.collect()
    client.write(remote, 0, region, 32, 8, flags=rpma.CompletionFlags.ALWAYS, wr_id=5)
    own = client
    del client
    gc.collect()
    assert queue.next_wc(SOON).wr_id == 5
    assert all(reference() is not None for reference in references)
    peer = own.peer
    for thing in (own, server, region, peer):
        thing.close()


def test_a_queue_keeps_its_connection(peer: rpma.Peer, fabric: Fabric) -> None:
    server, client = connections(peer, fabric)
    queue = client.cq
    reference = weakref.ref(client)
    del client
    gc.collect()
    assert reference() is not None
    assert queue.get_wc() is None
    with recorded() as caught:
        del queue
        gc.collect()
    assert reference() is None
    assert len(caught) == 1
    server.close()


def test_a_configuration_may_go_before_what_was_made_with_it(
    peer: rpma.Peer, fabric: Fabric
) -> None:
    srq = peer.create_srq()
    config = ConnectionConfig(srq=srq)
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        client = peer.request(fabric.address, port).connect()
        with endpoint.next_conn_req(config, timeout=SOON) as request:
            config.close()
            del config
            reference = weakref.ref(srq)
            del srq
            gc.collect()
            assert reference() is not None  # the request needs it
            server = request.connect()
        client.wait_established(SOON)
        server.wait_established(SOON)
        gc.collect()
        assert reference() is not None
        client.close()
        server.close()
        with recorded():
            del server, client, request
            gc.collect()
        assert reference() is None


# ---- close() -----------------------------------------------------------------------------------


def test_a_parent_is_closed_after_its_children(fabric: Fabric) -> None:
    with nothing_is_left(fabric):
        world = World(fabric)
        for name in ("region", "endpoint", "client", "server", "request", "srq"):
            with pytest.raises(rpma.InUseError, match=r"cannot close the peer: \d object\(s\)"):
                world.peer.close()
            assert not world.peer.closed
            getattr(world, name).close()
        world.peer.close()
        assert world.peer.closed


def test_what_is_closed_says_so(fabric: Fabric) -> None:
    world = World(fabric)
    kept: dict[str, Any] = {name: getattr(world, name) for name in WARN}
    for name in reversed(WARN):
        if name in ("peer", "srq"):
            continue
        kept[name].close()
        kept[name].close()
    for name in ("srq", "peer"):
        kept[name].close()
        kept[name].close()
    calls: list[Callable[[], object]] = [
        lambda: world.peer.register(bytearray(8), EVERYTHING),
        lambda: world.peer.listen(fabric.address, 1),
        lambda: world.peer.request(fabric.address, 1),
        lambda: world.peer.connect(fabric.address, 1),
        lambda: world.peer.create_srq(),
        lambda: world.region.view,
        lambda: world.region.descriptor,
        lambda: world.region.address,
        lambda: world.region.size,
        lambda: world.region.advise(0, 8),
        lambda: world.endpoint.fd,
        lambda: world.endpoint.next_conn_req(timeout=1),
        lambda: world.endpoint.accept(timeout=1),
        lambda: world.request.private_data,
        lambda: world.request.recv(world.region, 0, 8),
        lambda: world.request.connect(),
        lambda: world.srq.recv(None),
        lambda: world.srq.rcq.get_wc(),
        lambda: world.srq.rcq.next_wc(1),
        lambda: world.cq.get_wc(),
    ]
    for call in calls:
        with pytest.raises(rpma.ClosedError, match="closed"):
            call()
    for thing in kept.values():
        assert thing.closed
        assert "closed" in repr(thing)
        with pytest.raises(rpma.ClosedError), thing:
            pass
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(thing)


def test_a_request_is_used_up_by_connecting(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        request = peer.request(fabric.address, port)
        assert not request.is_incoming
        client = request.connect()
        assert request.closed
        with pytest.raises(rpma.ClosedError):
            request.connect()
        accepted(endpoint, client).close()
        client.close()


def test_an_outgoing_request_has_no_private_data(peer: rpma.Peer, fabric: Fabric) -> None:
    with peer.request(fabric.address, fabric.next_port()) as request:
        assert request.private_data == b""


def test_with_closes_after_an_exception(peer: rpma.Peer, fabric: Fabric) -> None:
    with nothing_is_left(fabric):
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), pair(peer, fabric):
                raise ZeroDivisionError


def test_threads_may_close_one_object_at_once(fabric: Fabric) -> None:
    with nothing_is_left(fabric):
        for _ in range(5):
            world = World(fabric)
            barrier = threading.Barrier(len(WARN))
            raised: list[BaseException] = []

            def close(
                name: str,
                world: World = world,
                barrier: threading.Barrier = barrier,
                raised: list[BaseException] = raised,
            ) -> None:
                barrier.wait()
                deadline = time.monotonic() + SOON
                while time.monotonic() < deadline:
                    try:
                        getattr(world, name).close()
                    except rpma.InUseError:
                        time.sleep(0.001)
                    except BaseException as error:
                        raised.append(error)
                        return
                    else:
                        return

            running = [threading.Thread(target=close, args=(name,)) for name in WARN]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join(SOON)
            assert not raised
            assert all(getattr(world, name).closed for name in WARN)


# ---- memory ------------------------------------------------------------------------------------


def test_a_bytearray_keeps_its_size_while_registered(peer: rpma.Peer) -> None:
    buffer = bytearray(64)
    region = peer.register(buffer, EVERYTHING)
    with pytest.raises(BufferError):
        buffer.append(1)
    view = region.view
    view[:3] = b"abc"
    assert buffer[:3] == b"abc"
    assert not view.readonly
    assert (view.nbytes, view.format) == (64, "B")
    region.close()
    with pytest.raises(BufferError):  # the view holds it still
        buffer.append(1)
    view.release()
    buffer.append(1)


def test_a_bytearray_is_free_after_a_region_was_dropped(peer: rpma.Peer) -> None:
    buffer = bytearray(64)
    with recorded() as caught:
        peer.register(buffer, EVERYTHING)
        gc.collect()
    assert "unclosed <rpma.MemoryRegion of 64 bytes" in caught[0]
    buffer.append(1)


def test_a_buffer_is_not_held_after_a_failure(fabric: Fabric) -> None:
    peer = rpma.Peer.for_address(fabric.address)
    peer.close()
    buffer = bytearray(64)
    with pytest.raises(rpma.ClosedError):
        peer.register(buffer, EVERYTHING)
    gc.collect()
    buffer.append(1)


def test_a_map_is_not_closed_while_registered(peer: rpma.Peer) -> None:
    memory = mmap.mmap(-1, 8192)
    with peer.register(memory, EVERYTHING), pytest.raises(BufferError):
        memory.close()
    memory.close()


def test_an_allocation_is_not_closed_while_registered(peer: rpma.Peer) -> None:
    memory = rpma.allocation.anonymous(8192)
    with peer.register(memory, EVERYTHING) as region:
        assert region.address % mmap.PAGESIZE == 0
        with pytest.raises(BufferError):
            memory.close()
    memory.close()


def test_a_buffer_lives_as_long_as_its_region(peer: rpma.Peer, fabric: Fabric) -> None:
    with pair(peer, fabric) as made:
        for buffer in (bytearray(4096), numpy.zeros(512), array.array("Q", [0] * 512)):
            region = peer.register(buffer, EVERYTHING)
            del buffer
            gc.collect()
            churn = [bytearray(4096) for _ in range(100)]
            with region, rpma.RemoteMemoryRegion(region.descriptor) as remote:
                made.own[:4096] = pattern(4096)
                made.initiator.write_wait(
                    remote, 0, made.local, 0, 4096, flush=VISIBILITY, timeout=SOON
                )
                assert bytes(region.view) == pattern(4096)
            assert not any(map(any, churn))


def test_one_buffer_may_be_registered_twice(peer: rpma.Peer) -> None:
    buffer = bytearray(64)
    with peer.register(buffer, EVERYTHING) as one, peer.register(buffer, EVERYTHING) as two:
        assert one.address == two.address
        assert one.descriptor != two.descriptor
        one.close()
        with pytest.raises(BufferError):
            buffer.append(1)
    buffer.append(1)


# ---- leaks -------------------------------------------------------------------------------------


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def does_not_grow(run: Callable[[int], None], times: int, limit: int = 1 << 20) -> None:
    """Fail if files are left open, or memory grows each time: once it may, by a huge page, say."""
    files = open_files()
    grown = []
    while not grown or (grown[-1] >= limit and len(grown) < 3):
        memory = resident()
        run(times)
        assert open_files() == files
        grown.append(resident() - memory)
    assert grown[-1] < limit, grown


def test_regions_do_not_leak(peer: rpma.Peer, fabric: Fabric) -> None:
    def run(times: int) -> None:
        for _ in range(times):
            with peer.register(bytearray(4096), EVERYTHING) as region:
                rpma.RemoteMemoryRegion(region.descriptor).close()

    run(50)
    with nothing_is_left(fabric):
        does_not_grow(run, 200)


def test_peers_do_not_leak(fabric: Fabric) -> None:
    def run(times: int) -> None:
        for _ in range(times):
            rpma.Peer.for_address(fabric.address).close()
            rpma.Peer.for_address(fabric.address, remote=True).close()

    run(20)
    with nothing_is_left(fabric):
        does_not_grow(run, 100)


def test_connections_do_not_leak(peer: rpma.Peer, fabric: Fabric) -> None:
    with (
        peer.create_srq() as srq,
        ConnectionConfig(srq=srq) as target,
        ConnectionConfig(rcq_size=10, shared_channel=True) as initiator,
    ):

        def run(times: int) -> None:
            for number in range(times):
                with pair(peer, fabric, target=target, initiator=initiator) as made:
                    made.initiator.write(
                        made.remote, 0, made.local, 0, 8, flags=rpma.CompletionFlags.ALWAYS
                    )
                    made.initiator.write_wait(made.remote, 0, made.local, 0, 8, timeout=SOON)
                    if number % 3 == 0:
                        made.end()

        run(10)
        with nothing_is_left(fabric):
            does_not_grow(run, 100, 2 << 20)


def test_failures_do_not_leak(peer: rpma.Peer, fabric: Fabric) -> None:
    nobody, unrouted = fabric.next_port(), fabric.unrouted
    too_much = bytes(fabric.to_target + 1)

    def run(times: int) -> None:
        for _ in range(times):
            with pytest.raises(rpma.ConnectionRejected):
                peer.connect(fabric.address, nobody, timeout=SOON)
            with pytest.raises((rpma.ProviderError, rpma.InvalidArgumentError)):
                peer.connect(fabric.address, nobody, private_data=too_much)
            with pytest.raises(rpma.ProviderError):
                peer.listen("192.0.2.1", nobody)
            if unrouted is not None:
                with pytest.raises(rpma.ProviderError):
                    peer.request(unrouted, nobody)
            with pytest.raises(rpma.ProviderError):
                rpma.Device("192.0.2.1")
            with pytest.raises(rpma.InvalidArgumentError):
                peer.register(b"read-only", EVERYTHING)
            peer.request(fabric.address, nobody).close()

    run(5)
    with nothing_is_left(fabric):
        does_not_grow(run, 30)


# ---- forks -------------------------------------------------------------------------------------


def test_a_forked_child_is_refused_everything(fabric: Fabric) -> None:
    world = World(fabric)
    remote = rpma.RemoteMemoryRegion(world.region.descriptor)
    assert world.srq.rcq is not None
    rcq = world.srq.rcq
    incoming = world.endpoint  # nothing waits there
    calls: dict[str, Callable[[], object]] = {
        "Device": lambda: rpma.Device(fabric.address),
        "Peer": lambda: rpma.Peer(world.peer.device),
        "is_odp_capable": lambda: world.peer.device.is_odp_capable,
        "register": lambda: world.peer.register(bytearray(8), EVERYTHING),
        "listen": lambda: world.peer.listen(fabric.address, fabric.next_port()),
        "request": lambda: world.peer.request(fabric.address, fabric.next_port()),
        "connect": lambda: world.peer.connect(fabric.address, fabric.next_port()),
        "create_srq": lambda: world.peer.create_srq(),
        "view": lambda: world.region.view,
        "descriptor": lambda: world.region.descriptor,
        "address": lambda: world.region.address,
        "next_conn_req": lambda: incoming.next_conn_req(timeout=1),
        "accept": lambda: incoming.accept(timeout=1),
        "fd": lambda: incoming.fd,
        "request.connect": lambda: world.request.connect(),
        "request.recv": lambda: world.request.recv(world.region, 0, 8),
        "private_data": lambda: world.client.private_data,
        "next_event": lambda: world.client.next_event(1),
        "wait_closed": lambda: world.client.wait_closed(1),
        "disconnect": lambda: world.client.disconnect(),
        "qp_num": lambda: world.client.qp_num,
        "write": lambda: world.client.write(remote, 0, world.region, 0, 8),
        "read": lambda: world.client.read(world.region, 0, remote, 0, 8),
        "flush": lambda: world.client.flush(remote, 0, 8),
        "send": lambda: world.client.send(world.region, 0, 8),
        "recv": lambda: world.client.recv(world.region, 0, 8),
        "atomic_write": lambda: world.client.atomic_write(remote, 0, bytes(8)),
        "write_wait": lambda: world.client.write_wait(remote, 0, world.region, 0, 8, timeout=1),
        "read_wait": lambda: world.client.read_wait(world.region, 0, remote, 0, 8, timeout=1),
        "write_batch": lambda: world.client.write_batch(remote, world.region, [(0, 0, 8)]),
        "cq.get_wc": lambda: world.cq.get_wc(),
        "cq.wait": lambda: world.cq.wait(1),
        "cq.next_wc": lambda: world.cq.next_wc(1),
        "cq.fd": lambda: world.cq.fd,
        "srq.recv": lambda: world.srq.recv(world.region, 0, 8),
        "srq.rcq": lambda: rcq.get_wc(),
        "config": lambda: world.config.sq_size,
        "remote": lambda: remote.flush_types,
        "with": lambda: world.client.__enter__(),
    }

    def child() -> None:
        for name, call in calls.items():
            try:
                call()
            except rpma.ForkedError as error:
                assert "fork" in str(error), name
            except BaseException as error:
                raise AssertionError(f"{name}: {error!r}") from None
            else:
                raise AssertionError(f"{name} works")
        for name in WARN:
            assert getattr(world, name).closed
            getattr(world, name).close()
        with recorded() as caught:
            world.__dict__.clear()
            gc.collect()
        assert not caught

    for _ in range(2):
        fork(child)
        assert not world.client.closed
        world.client.write_wait(remote, 0, world.region, 8, 8, flush=VISIBILITY, timeout=SOON)
        world.client.send_wait(world.region, 0, 8, timeout=SOON)
        assert rcq.next_wc(SOON).byte_len == 8
        world.srq.recv(world.region, 0, 8)
    for name in ("request", "client", "server", "endpoint", "srq", "region", "peer"):
        getattr(world, name).close()


def test_a_child_forked_while_a_thread_waits_does_not_hang(peer: rpma.Peer, fabric: Fabric) -> None:
    with pair(peer, fabric) as made:
        stop = threading.Event()

        def run() -> None:
            while not stop.is_set():
                made.initiator.write_wait(made.remote, 0, made.local, 0, 8, timeout=SOON)

        thread = threading.Thread(target=run)
        thread.start()

        def child() -> None:
            for call in (
                lambda: made.initiator.write_wait(made.remote, 0, made.local, 0, 8),
                lambda: made.initiator.write_batch(made.remote, made.local, []),
                lambda: made.initiator.cq.next_wc(),
            ):
                with contextlib.suppress(rpma.ForkedError):
                    call()
                    raise AssertionError("it works")

        try:
            for _ in range(8):
                fork(child)
        finally:
            stop.set()
            thread.join()


def test_a_child_of_a_process_that_uses_the_soft_rnic_without_rpma_is_told_why(
    fabric: Fabric,
) -> None:
    if fabric.name != "soft":
        pytest.skip("a kernel's device may be opened in a forked child")
    code = """
import ctypes, os, socket, struct, rpma
folder = os.path.dirname(rpma.fabric.ibverbs_path)
cm = ctypes.CDLL(os.path.join(folder, "librdmacm.so.1"))
listener, own = ctypes.c_void_p(), socket.inet_aton("127.0.0.1")
address = struct.pack("=HH4s8x", socket.AF_INET, 0, own)
assert cm.rdma_create_id(None, ctypes.byref(listener), None, 0x0106) == 0
assert cm.rdma_bind_addr(listener, address) == cm.rdma_listen(listener, 0) == 0
if pid := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
try:
    rpma.Device("127.0.0.1")
except rpma.ProviderError as error:
    print(error.errno, error, flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    number, _, message = done.stdout.partition(" ")
    assert int(number) == errno.EPERM
    assert "is this process a fork of one that uses the soft RNIC?" in message
    assert done.stderr.count("softrnic: this process is a fork of one that uses the device") == 1


def test_a_child_that_exits_as_usual_leaves_the_parent_alone(fabric: Fabric) -> None:
    code = f"""
import os, sys, rpma
peer = rpma.Peer.for_address({fabric.address!r})
memory = bytearray(64)
region = peer.register(memory, rpma.Usage(0xFF) ^ rpma.Usage.FLUSH_TYPE_PERSISTENT)
endpoint = peer.listen({fabric.address!r}, {fabric.next_port()})
client = peer.request(endpoint.address, endpoint.port).connect()
server = endpoint.next_conn_req(timeout=20).connect()
client.wait_established(20)
server.wait_established(20)
pid = os.fork()
if pid == 0:
    memory[:] = b"c" * 64
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
remote = rpma.RemoteMemoryRegion(region.descriptor)
memory[:8] = b"parent's"
client.write_wait(remote, 32, region, 0, 8, flush=rpma.FlushType.VISIBILITY, timeout=20)
assert memory == b"parent's" + bytes(24) + b"parent's" + bytes(24)
for thing in (client, server, endpoint, region, peer):
    thing.close()
print("good")
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "good\n", "")


def test_a_child_may_begin_before_its_parent_does(fabric: Fabric) -> None:
    code = f"""
import os, rpma
def use():
    with rpma.Peer.for_address({fabric.address!r}) as peer:
        with peer.register(bytearray(64), rpma.Usage.SEND):
            pass
assert {fabric.device!r} in rpma.devices()
pid = os.fork()
use()
if pid:
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_an_interpreter_may_exit_with_everything_open(fabric: Fabric) -> None:
    code = f"""
import rpma, threading
peer = rpma.Peer.for_address({fabric.address!r})
region = peer.register(bytearray(64), rpma.Usage(0xFF) ^ rpma.Usage.FLUSH_TYPE_PERSISTENT)
srq = peer.create_srq()
endpoint = peer.listen({fabric.address!r}, {fabric.next_port()})
client = peer.request(endpoint.address, endpoint.port).connect()
server = endpoint.next_conn_req(rpma.ConnectionConfig(srq=srq), timeout=20).connect()
client.wait_established(20)
server.wait_established(20)
threading.Thread(target=client.cq.next_wc, daemon=True).start()
threading.Thread(target=endpoint.accept, daemon=True).start()
class Holder: pass
holder = Holder()
holder.cycle = [holder, client, endpoint]
rpma.kept = holder
print("good", flush=True)
"""
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr
        assert os.strerror(0) not in done.stderr


def test_what_is_left_open_at_exit_warns_in_development_mode(fabric: Fabric) -> None:
    code = f"import rpma; peer = rpma.Peer.for_address({fabric.address!r})"
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert f"ResourceWarning: unclosed <rpma.Peer on {fabric.device}>" in done.stderr
