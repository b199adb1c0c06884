"""close() in one thread, anything in others: the value or an error of rpma's, and then it is gone.

Which lock sees to it: the count of calls inside, in each handle (native/binding/handle.c). Whoever
closes shuts the door, waits for those inside, and deletes; who comes later finds the flag.
"""
# ruff: noqa: PT017

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from pairs import EVERYTHING, SOON, accepted, connections, pair, threads

import rpma
from fabrics.fabric import Fabric
from rpma import ConnectionConfig, Usage, allocation

pytestmark = pytest.mark.fabric

ROUNDS = 6
#: Who makes children of a peer without end might keep others from closing it.
MOST_USES = 500
#: How long a wait of the tests may take, in seconds: short, as others close meanwhile.
SHORT = 0.01


def at_once(*functions: Callable[[], object]) -> list[object]:
    """What the functions return, which begin at once."""
    returned: list[object] = [None] * len(functions)

    def run(number: int) -> Callable[[], None]:
        def call() -> None:
            returned[number] = functions[number]()

        return call

    threads(*(run(number) for number in range(len(functions))))
    return returned


# ---- gone for all who close ---------------------------------------------------------------------


def test_whoever_closes_a_region_finds_it_deregistered(peer: rpma.Peer, fabric: Fabric) -> None:
    with pair(peer, fabric) as made:
        for _ in range(ROUNDS):
            left = fabric.resources()["mr"]
            own = bytearray(64)
            region = peer.register(own, EVERYTHING)
            segments = [(0, 0, 8)] * 20_000

            def operate(region: rpma.MemoryRegion = region, segments: Any = segments) -> None:
                with suppress(rpma.ClosedError):
                    made.initiator.write_batch(made.remote, region, segments, timeout=SOON)

            def close(region: rpma.MemoryRegion = region, own: bytearray = own) -> int:
                region.close()
                own.append(0)  # BufferError while the region holds it
                return fabric.resources()["mr"]

            counts = at_once(operate, close, close, close)[1:]
            assert counts == [left] * 3
            assert len(own) == 64 + 3


def test_whoever_closes_a_connection_finds_it_gone(peer: rpma.Peer, fabric: Fabric) -> None:
    for _ in range(ROUNDS):
        left = fabric.resources()["qp"]
        server, client = connections(peer, fabric)
        inside = threading.Event()

        def wait(client: rpma.Connection = client, inside: threading.Event = inside) -> None:
            inside.set()
            with pytest.raises(rpma.ClosedError):
                client.next_event(SOON)

        def close(client: rpma.Connection = client, inside: threading.Event = inside) -> int:
            assert inside.wait(SOON)
            client.close()
            return fabric.resources()["qp"]

        # The server's is left.
        assert at_once(wait, close, close, close)[1:] == [left + 1] * 3
        server.close()


def test_what_has_children_stays_open_to_others_while_close_is_refused(fabric: Fabric) -> None:
    done = threading.Event()
    with rpma.Peer.for_address(fabric.address) as peer, peer.register(bytearray(8), EVERYTHING):

        def close() -> None:
            while not done.is_set():
                with pytest.raises(rpma.InUseError):
                    peer.close()

        def use() -> None:
            try:
                for _ in range(300):
                    assert not peer.closed
                    peer.listen(fabric.address, 0).close()  # which takes longer than most calls
                    peer.register(bytearray(8), EVERYTHING).close()
            finally:
                done.set()

        threads(close, close, use)


# ---- anything against close ---------------------------------------------------------------------


class Thing:
    """What is closed, and what can be done with it."""

    def __init__(self, closes: Any, uses: list[Callable[[], object]]) -> None:
        self.closes = closes
        self.uses = uses


def a_peer(_peer: rpma.Peer, fabric: Fabric, _stack: ExitStack) -> Thing:
    own = rpma.Peer.for_address(fabric.address)

    def ask() -> None:
        with own.request(fabric.address, 1):
            pass

    return Thing(
        own,
        [
            lambda: own.register(bytearray(8), EVERYTHING).close(),
            lambda: own.create_srq().close(),
            lambda: own.listen(fabric.address, fabric.next_port()).close(),
            ask,
            lambda: (repr(own), own.device.name, own.closed),
        ],
    )


def a_region(peer: rpma.Peer, fabric: Fabric, stack: ExitStack) -> Thing:
    made = stack.enter_context(pair(peer, fabric))
    region = peer.register(bytearray(64), EVERYTHING)
    initiator, remote = made.initiator, made.remote
    return Thing(
        region,
        [
            lambda: bytes(region.view),
            lambda: (region.descriptor, region.address, region.size, len(region), repr(region)),
            lambda: region.advise(0, 8),
            lambda: initiator.write_wait(remote, 0, region, 0, 8, timeout=SOON),
            lambda: initiator.read_batch(region, remote, [(0, 0, 8)] * 50, timeout=SOON),
            lambda: initiator.recv(region),
        ],
    )


def a_remote_region(peer: rpma.Peer, fabric: Fabric, stack: ExitStack) -> Thing:
    made = stack.enter_context(pair(peer, fabric))
    remote = rpma.RemoteMemoryRegion(made.region.descriptor)
    return Thing(
        remote,
        [
            lambda: (remote.flush_types, remote.size, len(remote), repr(remote)),
            lambda: made.initiator.write_wait(remote, 0, made.local, 0, 8, timeout=SOON),
            lambda: made.initiator.flush(remote, 0, 8),
        ],
    )


def a_connection(peer: rpma.Peer, fabric: Fabric, stack: ExitStack) -> Thing:
    shared = stack.enter_context(ConnectionConfig(rcq_size=8, shared_channel=True))
    region = stack.enter_context(peer.register(bytearray(64), EVERYTHING))
    remote = rpma.RemoteMemoryRegion(region.descriptor)
    server, client = connections(peer, fabric, initiator=shared)
    stack.enter_context(server)
    config = stack.enter_context(rpma.PeerConfig())
    return Thing(
        client,
        [
            lambda: repr(client),
            lambda: (client.private_data, client.qp_num, client.event_fd, client.ended),
            lambda: (client.compl_fd, client.cq, client.rcq, client.peer),
            lambda: client.next_event(SHORT),
            lambda: client.wait(SHORT),
            lambda: client.wait_closed(SHORT),
            lambda: client.cq.next_wc(SHORT),
            lambda: client.cq.get_wcs(),
            lambda: client.apply_remote_peer_config(config),
            lambda: client.write(remote, 0, region, 0, 8),
            lambda: client.write_wait(remote, 0, region, 0, 8, timeout=SOON),
            lambda: client.write_batch(remote, region, [(0, 0, 8)] * 50, timeout=SOON),
            lambda: client.recv(region, 0, 8),
            lambda: client.flush(remote, 0, 8),
            client.disconnect,
        ],
    )


def a_queue(peer: rpma.Peer, fabric: Fabric, stack: ExitStack) -> Thing:
    server, client = connections(peer, fabric)
    stack.enter_context(server)
    queue = client.cq
    return Thing(
        client,
        [
            lambda: repr(queue),
            lambda: (queue.fd, queue.fileno()),
            queue.get_wc,
            queue.get_wcs,
            lambda: queue.wait(SHORT),
            lambda: queue.next_wc(SHORT),
        ],
    )


def an_endpoint(peer: rpma.Peer, fabric: Fabric, _stack: ExitStack) -> Thing:
    port = fabric.next_port()
    endpoint = peer.listen(fabric.address, port)

    def ask() -> None:
        with peer.request(fabric.address, port) as request, request.connect():
            pass

    def take() -> None:
        with endpoint.next_conn_req(timeout=SHORT):
            pass

    return Thing(
        endpoint,
        [
            ask,
            take,
            lambda: endpoint.accept(b"data", timeout=SHORT).close(),
            lambda: (repr(endpoint), endpoint.fd, endpoint.fileno(), endpoint.peer),
        ],
    )


def a_request(peer: rpma.Peer, fabric: Fabric, stack: ExitStack) -> Thing:
    port = fabric.next_port()
    endpoint = stack.enter_context(peer.listen(fabric.address, port))
    region = stack.enter_context(peer.register(bytearray(64), Usage.RECV))
    stack.enter_context(peer.request(fabric.address, port).connect())
    request = endpoint.next_conn_req(timeout=SOON)
    return Thing(
        request,
        [
            lambda: request.private_data,
            lambda: request.recv(region, 0, 8),
            lambda: repr(request),
            lambda: request.connect(b"data").close(),
        ],
    )


def a_shared_receive_queue(peer: rpma.Peer, fabric: Fabric, stack: ExitStack) -> Thing:
    region = stack.enter_context(peer.register(bytearray(64), Usage.RECV))
    srq = peer.create_srq()

    def configure() -> None:
        with ConnectionConfig(srq=srq) as config, peer.request(fabric.address, 1, config):
            pass

    def look() -> None:
        queue = srq.rcq
        assert queue is not None
        queue.get_wcs()
        queue.next_wc(SHORT)

    return Thing(srq, [lambda: srq.recv(region, 0, 8), look, configure, lambda: repr(srq)])


def a_configuration(peer: rpma.Peer, fabric: Fabric, stack: ExitStack) -> Thing:
    port = fabric.next_port()
    endpoint = stack.enter_context(peer.listen(fabric.address, port))
    config = ConnectionConfig()

    def change() -> None:
        config.sq_size = 12
        assert config.sq_size == 12

    def make() -> None:
        with peer.request(fabric.address, port, config) as request, request.connect() as client:
            accepted(endpoint, client).close()

    return Thing(config, [change, make, lambda: (config.srq, config.shared_channel, repr(config))])


def a_peer_configuration(peer: rpma.Peer, fabric: Fabric, stack: ExitStack) -> Thing:
    server, client = connections(peer, fabric)
    stack.enter_context(server)
    stack.enter_context(client)
    config = rpma.PeerConfig()

    def change() -> None:
        config.direct_write_to_pmem = not config.direct_write_to_pmem

    return Thing(
        config,
        [change, lambda: config.descriptor, lambda: client.apply_remote_peer_config(config)],
    )


THINGS = [
    a_peer,
    a_region,
    a_remote_region,
    a_connection,
    a_queue,
    an_endpoint,
    a_request,
    a_shared_receive_queue,
    a_configuration,
    a_peer_configuration,
]


@pytest.mark.parametrize("make", THINGS, ids=lambda make: make.__name__)
def test_anything_against_close(
    make: Callable[[rpma.Peer, Fabric, ExitStack], Thing], peer: rpma.Peer, fabric: Fabric
) -> None:
    for _ in range(ROUNDS):
        with ExitStack() as stack:
            thing = make(peer, fabric, stack)

            def use(call: Callable[[], object], thing: Thing = thing) -> Callable[[], None]:
                def uses() -> None:
                    for _ in range(MOST_USES):
                        if thing.closes.closed:
                            break
                        # Nothing but rpma's own errors: closed; busy, full, ended for the others.
                        with suppress(rpma.RpmaError):
                            call()
                    with suppress(rpma.RpmaError):  # and nothing else afterwards
                        call()

                return uses

            def close(thing: Thing = thing) -> None:
                while True:
                    try:
                        thing.closes.close()
                    except rpma.InUseError:  # the others make what needs it
                        continue
                    assert thing.closes.closed
                    return

            threads(*(use(call) for call in thing.uses), close, close)


def test_a_configuration_keeps_the_queue_that_it_names(peer: rpma.Peer, fabric: Fabric) -> None:
    """Of threads that set one each, one does; the others' queues may go."""
    for _ in range(ROUNDS):
        config = ConnectionConfig()
        queues = [peer.create_srq() for _ in range(4)]

        def name(srq: rpma.SharedReceiveQueue, config: ConnectionConfig = config) -> None:
            with suppress(rpma.RpmaError):
                config.srq = srq

        threads(*(lambda srq=srq: name(srq) for srq in queues))  # type: ignore[misc]
        named = config.srq
        assert named in queues
        for srq in queues:
            if srq is not named:
                srq.close()
        del srq, queues, named
        assert config.srq is not None
        with peer.request(fabric.address, 1, config):
            pass
        config.srq.close()


def test_anything_against_close_of_memory() -> None:
    """Python's own buffers keep it: close() is refused while a view is alive, and tried again."""
    for _ in range(ROUNDS):
        memory = allocation.anonymous(8192)
        calls: list[Callable[[], object]] = [
            lambda memory=memory: bytes(memory.view),  # type: ignore[misc]
            lambda memory=memory: memory.array("u8").sum(),  # type: ignore[misc]
            lambda memory=memory: memory.sync(),  # type: ignore[misc]
            lambda memory=memory: memory.populate(),  # type: ignore[misc]
            lambda memory=memory: (memory.address, repr(memory)),  # type: ignore[misc]
        ]

        def use(
            call: Callable[[], object], memory: allocation.Memory = memory
        ) -> Callable[[], None]:
            def uses() -> None:
                while not memory.closed:
                    try:
                        call()
                    except io.UnsupportedOperation:
                        continue
                    except ValueError as error:
                        assert "closed" in str(error)

            return uses

        def close(memory: allocation.Memory = memory) -> None:
            while not memory.closed:
                with suppress(BufferError):
                    memory.close()

        threads(*(use(call) for call in calls), close, close)
