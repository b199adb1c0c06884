"""Shared receive queues: many connections take from one."""
# ruff: noqa: PT012

from __future__ import annotations

from contextlib import ExitStack

import pytest
from pairs import EVERYTHING, SOON, completions, connections, pattern

import rpma
from fabrics.fabric import Fabric
from rpma import ConnectionConfig, SharedReceiveQueueConfig

pytestmark = pytest.mark.fabric


def test_the_defaults_make_a_receive_queue_of_its_own(peer: rpma.Peer) -> None:
    with peer.create_srq() as srq:
        assert srq.peer is peer
        assert srq.rcq is not None
        queue = srq.rcq
        assert srq.rcq is queue
        assert srq.rcq.get_wc() is None
        with pytest.raises(rpma.WaitTimeoutError):
            srq.rcq.next_wc(0)


def test_many_connections_take_from_one_queue(peer: rpma.Peer, fabric: Fabric) -> None:
    with ExitStack() as stack:
        sizes = stack.enter_context(SharedReceiveQueueConfig(rq_size=32, rcq_size=32))
        srq = stack.enter_context(peer.create_srq(sizes))
        config = stack.enter_context(ConnectionConfig(srq=srq))
        assert config.srq is srq
        memory, own = bytearray(1024), bytearray(pattern(1024))
        region = stack.enter_context(peer.register(memory, EVERYTHING))
        local = stack.enter_context(peer.register(own, EVERYTHING))
        for number in range(24):
            srq.recv(region, 32 * number, 32, wr_id=number)
        clients, by_qp = [], {}
        for number in range(4):
            server, client = connections(peer, fabric, target=config)
            stack.enter_context(server)
            clients.append(stack.enter_context(client))
            by_qp[server.qp_num] = number
            assert server.rcq is None
        for round_ in range(6):
            for number, client in enumerate(clients):
                client.send_wait(local, 100 * number + round_, 10 + round_, timeout=SOON)
        assert srq.rcq is not None
        wcs = completions(srq.rcq, 24)
        assert sorted(wc.wr_id for wc in wcs) == list(range(24))
        seen = [0] * 4
        for wc in wcs:
            number = by_qp[wc.qp_num]
            at, begin = 32 * wc.wr_id, 100 * number + seen[number]
            assert wc.byte_len == 10 + seen[number]
            assert memory[at : at + wc.byte_len] == own[begin : begin + wc.byte_len]
            seen[number] += 1
        assert seen == [6] * 4


def test_without_a_receive_cq_the_connections_queues_are_used(
    peer: rpma.Peer, fabric: Fabric
) -> None:
    with (
        SharedReceiveQueueConfig(rcq_size=0) as sizes,
        peer.create_srq(sizes) as srq,
        ConnectionConfig(srq=srq, rcq_size=10) as config,
        ConnectionConfig(srq=srq) as without,
        peer.register(bytearray(64), EVERYTHING) as region,
    ):
        assert srq.rcq is None
        for number in range(2):
            srq.recv(region, 8 * number, 8, wr_id=number)
        one, other = connections(peer, fabric, target=config)
        two, another = connections(peer, fabric, target=without)
        with one, other, two, another:
            assert one.rcq is not None
            assert two.rcq is None
            other.send_wait(region, 32, 8, timeout=SOON)
            assert one.rcq.next_wc(SOON).wr_id == 0
            another.send_wait(region, 32, 8, timeout=SOON)
            assert two.cq.next_wc(SOON).wr_id == 1


def test_one_that_is_full_says_so(peer: rpma.Peer) -> None:
    with (
        SharedReceiveQueueConfig(rq_size=4) as sizes,
        peer.register(bytearray(64), EVERYTHING) as region,
        peer.create_srq(sizes) as srq,
    ):
        posted = 0
        with pytest.raises(rpma.QueueFullError, match="rq_size"):
            while posted < 1000:
                srq.recv(region, 0, 8, wr_id=posted)
                posted += 1
        assert 4 <= posted < 1000


def test_a_receive_without_memory_takes_a_message_without_bytes(
    peer: rpma.Peer, fabric: Fabric
) -> None:
    with peer.create_srq() as srq, ConnectionConfig(srq=srq) as config:
        srq.recv(None, wr_id=11)
        server, client = connections(peer, fabric, target=config)
        with server, client:
            client.send_with_imm(None, 0, 0, 12)
            assert srq.rcq is not None
            wc = srq.rcq.next_wc(SOON)
            assert (wc.wr_id, wc.imm, wc.byte_len) == (11, 12, 0)


def test_bad_receives_are_refused(peer: rpma.Peer) -> None:
    with (
        peer.create_srq() as srq,
        peer.register(bytearray(64), EVERYTHING) as region,
        peer.register(bytearray(64), rpma.Usage.SEND) as other,
        rpma.Peer(peer.device) as stranger,
        stranger.register(bytearray(64), EVERYTHING) as foreign,
    ):
        for bad, offset, length, complaint in (
            (region, 60, 5, "offset=60 and length=5"),
            (region, -1, 5, "offset=-1"),
            (region, 0, 1 << 64, f"length={1 << 64}"),
            (other, 0, 8, "dst is registered for"),
            (foreign, 0, 8, "dst is registered with another peer"),
            (None, 0, 8, "length=8 must be 0"),
        ):
            with pytest.raises(rpma.InvalidArgumentError, match=complaint):
                srq.recv(bad, offset, length)
        with pytest.raises(rpma.InvalidArgumentError, match="wr_id"):
            srq.recv(region, 0, 8, wr_id=1 << 63)
        with pytest.raises(TypeError, match=r"dst must be a rpma\.MemoryRegion"):
            srq.recv("x", 0, 8)  # type: ignore[arg-type]
        srq.recv(region, 0, 8)


@pytest.mark.parametrize("bad", [5, "x", ConnectionConfig])
def test_its_configuration_is_of_its_kind(peer: rpma.Peer, bad: object) -> None:
    with pytest.raises(TypeError, match=r"config must be a rpma\.SharedReceiveQueueConfig"):
        peer.create_srq(bad)  # type: ignore[arg-type]


def test_sizes_that_no_device_has_are_refused(peer: rpma.Peer) -> None:
    for sizes in ({"rq_size": 1 << 30}, {"rcq_size": 1 << 30}):
        with SharedReceiveQueueConfig(**sizes) as config, pytest.raises(rpma.RpmaError) as caught:
            peer.create_srq(config)
        assert "create a shared receive queue" in str(caught.value)
    with peer.create_srq():
        pass


def test_it_is_closed_after_its_connections(peer: rpma.Peer, fabric: Fabric) -> None:
    srq = peer.create_srq()
    with ConnectionConfig(srq=srq) as config:
        server, client = connections(peer, fabric, target=config)
        with pytest.raises(rpma.InUseError, match="cannot close the shared receive queue"):
            srq.close()
        assert not srq.closed
        server.close()
        client.close()
        srq.close()
        for call in (peer.request, lambda *args: peer.connect(*args[:2], config=args[2])):
            with pytest.raises(rpma.ClosedError, match="shared receive queue"):
                call(fabric.address, fabric.next_port(), config)
        with pytest.raises(rpma.ClosedError):
            srq.recv(None)


def test_one_of_another_peer_is_refused(peer: rpma.Peer, fabric: Fabric) -> None:
    with (
        rpma.Peer(peer.device) as stranger,
        stranger.create_srq() as srq,
        ConnectionConfig(srq=srq) as config,
        pytest.raises(rpma.InvalidArgumentError, match=r"srq.*peer"),
    ):
        peer.request(fabric.address, fabric.next_port(), config)
