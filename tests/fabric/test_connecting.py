"""Listening, connecting, private data, and every way in which that fails."""

from __future__ import annotations

import errno
import selectors
import time

import pytest
from pairs import A_MOMENT, SOON, accepted, connections, pattern, python, threads

import rpma
from fabrics.fabric import Fabric
from rpma import ConnectionEvent

pytestmark = pytest.mark.fabric

#: Lengths of private data, of which each fabric takes some: RoCE 56 bytes to the target and 196 to
#: the initiator, iWARP all that librpma does.
LENGTHS = [1, 55, 56, 57, 195, 196, 197, 255]


def works(peer: rpma.Peer, fabric: Fabric) -> None:
    """The next connection is none the worse."""
    server, client = connections(peer, fabric)
    with server, client:
        pass


def test_the_peer_is_on_the_device(peer: rpma.Peer, fabric: Fabric) -> None:
    assert fabric.device in rpma.devices()
    assert peer.device.name == fabric.device
    assert fabric.device in repr(peer)
    attributes = peer.device.attributes
    assert attributes.is_active
    assert attributes.link_layer in ("Ethernet", "InfiniBand")
    assert attributes.max_queue_size > 0
    assert isinstance(peer.device.is_odp_capable, bool)


def test_the_device_is_found_from_either_side(fabric: Fabric) -> None:
    here, there = rpma.Device(fabric.address), rpma.Device(fabric.address, remote=True)
    assert here == there
    assert hash(here) == hash(there)
    with rpma.Peer(here), rpma.Peer.for_address(fabric.address, remote=True):
        pass


def test_accept_and_connect_meet(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    made: list[rpma.Connection] = []
    with peer.listen(fabric.address, int(port)) as endpoint:
        threads(
            lambda: made.append(endpoint.accept(b"to initiator", timeout=SOON)),
            lambda: made.append(
                peer.connect(fabric.address, port, private_data=b"to target", timeout=SOON)
            ),
        )
    datas = {connection.private_data.rstrip(b"\0") for connection in made}
    assert datas == {b"to initiator", b"to target"}
    assert made[0].qp_num != made[1].qp_num
    for connection in made:
        assert connection.ended is ConnectionEvent.UNDEFINED
        assert connection.peer is peer
        connection.close()


@pytest.mark.parametrize("length", LENGTHS)
def test_private_data_reaches_the_target(peer: rpma.Peer, fabric: Fabric, length: int) -> None:
    if length > fabric.to_target:
        pytest.skip("more than this network takes")
    port, data = fabric.next_port(), pattern(length)
    with peer.listen(fabric.address, port) as endpoint:
        client = peer.request(fabric.address, port).connect(data)
        with endpoint.next_conn_req(timeout=SOON) as request:
            assert request.is_incoming
            assert request.private_data == fabric.at_target(data)
            server = request.connect()
        client.wait_established(SOON)
        server.wait_established(SOON)
        assert server.private_data == fabric.at_target(data)
        server.close()
        client.close()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_private_data_reaches_the_initiator(
    peer: rpma.Peer, fabric: Fabric, length: int, kind: type
) -> None:
    if length > fabric.to_initiator:
        pytest.skip("more than this network takes")
    port, data = fabric.next_port(), pattern(length, 5)
    with peer.listen(fabric.address, port) as endpoint:
        client = peer.request(fabric.address, port).connect()
        with endpoint.next_conn_req(timeout=SOON) as request:
            server = request.connect(kind(data))
        client.wait_established(SOON)
        assert client.private_data == fabric.at_initiator(data)
        server.close()
        client.close()


@pytest.mark.parametrize("length", [57, 196, 255])
def test_more_private_data_than_the_network_takes_is_refused_by_the_initiator(
    peer: rpma.Peer, fabric: Fabric, length: int
) -> None:
    if length <= fabric.to_target:
        pytest.skip("this network takes it")
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        with pytest.raises(rpma.ProviderError) as caught:
            peer.connect(fabric.address, port, private_data=bytes(length), timeout=SOON)
        assert caught.value.errno == errno.EINVAL
        assert f"private_data has {length} bytes" in str(caught.value)
        assert f"take {fabric.to_target}" in str(caught.value)
        with pytest.raises(rpma.WaitTimeoutError):
            endpoint.next_conn_req(timeout=A_MOMENT)
    works(peer, fabric)


@pytest.mark.parametrize("length", [197, 255])
def test_more_private_data_than_the_network_takes_is_refused_by_the_target(
    peer: rpma.Peer, fabric: Fabric, length: int
) -> None:
    if length <= fabric.to_initiator:
        pytest.skip("this network takes it")
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        client = peer.request(fabric.address, port).connect()
        with pytest.raises(
            rpma.ProviderError, match=f"{length} bytes.* take {fabric.to_initiator}"
        ):
            endpoint.accept(bytes(length), timeout=SOON)
        with pytest.raises((rpma.ConnectionRejected, rpma.ConnectionUnreachable)):
            client.wait_established(60)
        client.close()
    works(peer, fabric)


@pytest.mark.parametrize("length", [256, 1000])
def test_private_data_over_255_bytes_is_an_invalid_argument(
    peer: rpma.Peer, fabric: Fabric, length: int
) -> None:
    port, data = fabric.next_port(), bytes(length)
    too_long = f"private_data has {length} bytes"
    with peer.listen(fabric.address, port) as endpoint:
        with pytest.raises(rpma.InvalidArgumentError, match=too_long):
            peer.connect(fabric.address, port, private_data=data)
        with pytest.raises(rpma.InvalidArgumentError, match=too_long):
            endpoint.accept(data)  # before it waits for anybody
        with peer.request(fabric.address, port) as request:
            with pytest.raises(rpma.InvalidArgumentError, match=too_long):
                request.connect(data)
            assert not request.closed
            client = request.connect(b"fits")
        server = accepted(endpoint, client)
        server.close()
        client.close()


def test_empty_private_data_is_an_invalid_argument(peer: rpma.Peer, fabric: Fabric) -> None:
    """As librpma has it: rpma_conn_req_connect(3). None sends none."""
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        for empty in (b"", bytearray(), memoryview(b"")):
            with pytest.raises(rpma.InvalidArgumentError, match="private_data is empty"):
                peer.connect(fabric.address, port, private_data=empty)
            with pytest.raises(rpma.InvalidArgumentError, match="private_data is empty"):
                endpoint.accept(empty)
        with peer.request(fabric.address, port) as request:
            with pytest.raises(rpma.InvalidArgumentError, match="private_data is empty"):
                request.connect(b"")
            assert not request.closed
            client = request.connect(None)
        with accepted(endpoint, client) as server, client:
            assert not server.private_data.rstrip(b"\0")


@pytest.mark.parametrize("bad", ["text", 5, [1]])
def test_private_data_is_bytes(peer: rpma.Peer, fabric: Fabric, bad: object) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        for call in (peer.connect, lambda *_, **options: endpoint.accept(**options)):
            with pytest.raises(TypeError, match="private_data must be bytes or None, not"):
                call(fabric.address, port, private_data=bad, timeout=SOON)
    works(peer, fabric)


def test_nobody_listening_is_a_rejection(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with pytest.raises(rpma.ConnectionRejected) as caught:
        peer.connect(fabric.address, port, timeout=SOON)
    assert isinstance(caught.value, ConnectionRefusedError)
    assert f"{fabric.address}:{port}" in str(caught.value)
    works(peer, fabric)


def test_closing_an_incoming_request_rejects_it(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        client = peer.request(fabric.address, port).connect()
        endpoint.next_conn_req(timeout=SOON).close()
        assert client.next_event(SOON) is ConnectionEvent.REJECTED
        assert client.ended is ConnectionEvent.REJECTED
        with pytest.raises(rpma.ConnectionRejected):
            client.cq.next_wc(SOON)
        client.close()
        second = peer.request(fabric.address, port).connect()
        server = accepted(endpoint, second)
        server.close()
        second.close()


def test_a_port_in_use_is_said_to_be(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port):
        with pytest.raises(rpma.ProviderError) as caught:
            peer.listen(fabric.address, port)
        assert caught.value.errno == errno.EADDRINUSE
        assert "the port is in use: choose another" in str(caught.value)
        assert port in str(caught.value)
    with peer.listen(fabric.address, port):  # free again
        pass


@pytest.mark.parametrize("address", ["10.9.9.77", "192.0.2.1"])
def test_listening_on_an_address_of_nobody_is_a_provider_error(
    peer: rpma.Peer, fabric: Fabric, address: str
) -> None:
    with pytest.raises(rpma.ProviderError, match=address):
        peer.listen(address, fabric.next_port())


@pytest.mark.parametrize("kind", ["address", "name"])
def test_an_address_that_no_route_leads_to_is_a_provider_error(
    peer: rpma.Peer, fabric: Fabric, kind: str
) -> None:
    address = fabric.unrouted if kind == "address" else "no-such-host.invalid"
    if address is None:
        pytest.skip("this machine has a route to every address")
    began = time.monotonic()
    with pytest.raises(rpma.ProviderError, match=address):
        peer.connect(address, fabric.next_port(), timeout=SOON)
    assert time.monotonic() - began < SOON
    works(peer, fabric)


def test_an_address_that_nobody_has_fails_within_the_configured_time(
    peer: rpma.Peer, fabric: Fabric
) -> None:
    nobody = fabric.address.rpartition(".")[0] + ".199"
    began = time.monotonic()
    with rpma.ConnectionConfig(timeout_ms=200) as config, pytest.raises(rpma.RpmaError) as caught:
        peer.connect(nobody, fabric.next_port(), config=config, timeout=2)
    assert isinstance(caught.value, rpma.ProviderError | rpma.ConnectionEventError | TimeoutError)
    assert time.monotonic() - began < 15
    works(peer, fabric)


@pytest.mark.parametrize("bad", [-1, 65536, "65536", "no-such-service"])
def test_a_port_that_can_be_none_is_refused(
    peer: rpma.Peer, fabric: Fabric, bad: int | str
) -> None:
    for call in (peer.listen, peer.connect, peer.request):
        with pytest.raises((rpma.InvalidArgumentError, rpma.ProviderError), match=str(bad)):
            call(fabric.address, bad)


def test_accept_gives_up_at_its_timeout(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        for timeout in (0, A_MOMENT):
            began = time.monotonic()
            with pytest.raises(rpma.WaitTimeoutError, match=port):
                endpoint.accept(timeout=timeout)
            with pytest.raises(TimeoutError, match=port):
                endpoint.next_conn_req(timeout=timeout)
            assert 2 * timeout <= time.monotonic() - began < 2 * timeout + 5
        client = peer.request(fabric.address, port).connect()
        accepted(endpoint, client).close()
        client.close()


def test_accept_rejects_at_its_timeout_if_the_other_side_does_not_finish(
    peer: rpma.Peer, fabric: Fabric
) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        client = peer.request(fabric.address, port).connect()
        client.close()  # gives up, while the target is accepting
        with pytest.raises((rpma.ConnectionEventError, rpma.ProviderError, TimeoutError)):
            endpoint.accept(timeout=3)
    works(peer, fabric)


def test_connect_gives_up_at_its_timeout(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        began = time.monotonic()
        with pytest.raises(rpma.WaitTimeoutError, match=f"{fabric.address}:{port}"):
            peer.connect(fabric.address, port, timeout=A_MOMENT)
        assert A_MOMENT <= time.monotonic() - began < 5
        # RoCE tells when the request is fetched, iWARP when it is answered.
        with (
            pytest.raises((rpma.ProviderError, rpma.ConnectionEventError)) as caught,
            endpoint.next_conn_req(timeout=SOON) as request,
            request.connect() as server,
        ):
            server.wait_established(SOON)
        if isinstance(caught.value, rpma.ProviderError):
            assert "may have given up meanwhile" in str(caught.value)
        client = peer.request(fabric.address, port).connect()
        accepted(endpoint, client).close()
        client.close()


def test_one_who_gives_up_before_the_request_is_accepted(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        client = peer.request(fabric.address, port).connect()
        with endpoint.next_conn_req(timeout=SOON) as request:
            client.close()
            time.sleep(A_MOMENT)
            with (
                pytest.raises((rpma.ProviderError, rpma.ConnectionEventError)) as caught,
                request.connect() as server,
            ):
                server.wait_established(SOON)
        if isinstance(caught.value, rpma.ProviderError):
            assert "may have given up meanwhile" in str(caught.value)
    works(peer, fabric)


def test_closing_the_endpoint_rejects_those_who_wait(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    endpoint = peer.listen(fabric.address, port)
    client = peer.request(fabric.address, port).connect()
    endpoint.close()
    assert client.next_event(60) in (ConnectionEvent.REJECTED, ConnectionEvent.UNREACHABLE)
    client.close()
    works(peer, fabric)


def test_one_endpoint_takes_many_connections(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        clients = [
            peer.request(fabric.address, port).connect(bytes([number])) for number in range(6)
        ]
        seen = set()
        servers = []
        for _ in clients:
            with endpoint.next_conn_req(timeout=SOON) as request:
                seen.add(request.private_data[0])
                servers.append(request.connect())
        assert seen == set(range(6))
        for connection in clients + servers:
            connection.wait_established(SOON)
        for connection in clients + servers:
            connection.close()


def test_ipv6(peer: rpma.Peer, fabric: Fabric) -> None:
    if fabric.address6 is None:
        pytest.skip("the device's interface has no IPv6 address")
    assert rpma.Device(fabric.address6) == peer.device
    server, client = connections(peer, fabric, address=fabric.address6)
    with server, client:
        client.disconnect()
        server.wait_closed(SOON)


def test_the_endpoint_tells_where_it_listens(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint:
        assert (endpoint.address, endpoint.port, endpoint.peer) == (fabric.address, port, peer)
        assert f"on {fabric.address}:{port}" in repr(endpoint)


def test_selectors_take_an_endpoint_and_event_descriptors(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    with peer.listen(fabric.address, port) as endpoint, selectors.DefaultSelector() as selector:
        selector.register(endpoint, selectors.EVENT_READ)
        assert not selector.select(A_MOMENT)
        client = peer.request(fabric.address, port).connect()
        assert selector.select(SOON)
        server = endpoint.next_conn_req(timeout=0).connect()
        selector.unregister(endpoint)
        selector.register(client.event_fd, selectors.EVENT_READ)
        assert selector.select(SOON)
        assert client.next_event(0) is ConnectionEvent.ESTABLISHED
        assert not selector.select(A_MOMENT)
        with pytest.raises(rpma.WaitTimeoutError):
            client.next_event(0)
        server.wait_established(SOON)
        server.disconnect()
        assert selector.select(SOON)
        assert client.next_event(0) is ConnectionEvent.CLOSED
        server.close()
        client.close()


def test_a_disconnect_reaches_both_sides(peer: rpma.Peer, fabric: Fabric) -> None:
    server, client = connections(peer, fabric)
    with server, client:
        with pytest.raises(rpma.WaitTimeoutError):
            server.wait_closed(0)
        client.disconnect()
        server.wait_closed(SOON)
        server.disconnect()  # the answer, without which the client would wait for long
        for connection in (server, client):
            connection.wait_closed(SOON)
            assert connection.ended is ConnectionEvent.CLOSED
            assert "Connection closed" in repr(connection)
            connection.wait_closed(0)


def test_a_close_reaches_the_other_side(peer: rpma.Peer, fabric: Fabric) -> None:
    server, client = connections(peer, fabric)
    with server:
        client.close()
        assert server.next_event(SOON) is ConnectionEvent.CLOSED
        with pytest.raises(rpma.ConnectionClosed):
            server.cq.wait(SOON)
        with pytest.raises(ConnectionResetError):
            server.cq.next_wc(SOON)


def test_a_process_that_is_killed_is_a_closed_connection(peer: rpma.Peer, fabric: Fabric) -> None:
    port = fabric.next_port()
    code = f"""
import rpma, time
peer = rpma.Peer.for_address({fabric.address!r}, remote=True)
connection = peer.connect({fabric.address!r}, {port})
time.sleep(60)
"""
    with (
        peer.listen(fabric.address, port) as endpoint,
        python(code) as child,
        endpoint.accept(timeout=60) as server,
    ):
        child.kill()
        server.wait_closed(60)
        assert server.ended is ConnectionEvent.CLOSED
