"""Which addresses a client tries, and what it says of those that did not answer."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from rpma import WaitTimeoutError
from rpma.pool import TargetAddress, TargetLost
from rpma.pool.client.dialing import candidates, failure
from rpma.pool.protocol.address import is_link_local, numeric_host
from rpma.pool.target.listening import listen

ADDRESS = TargetAddress("host", 7204)


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_each_address_has_its_share_of_the_time() -> None:
    places = [("10.0.0.1", 1), ("10.0.0.2", 1), ("10.0.0.3", 1)]
    found = candidates([(socket.AF_INET, 1, 6, "", place) for place in places])
    assert [candidate.place for candidate in found] == places
    left, shares = 30.0, []
    for candidate in found:
        share = candidate.share(left)
        assert share is not None
        shares.append(share)
        left -= share
    assert shares == [10.0, 10.0, 10.0]
    assert [candidate.share(None) for candidate in found] == [None] * 3


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([errno.ECONNREFUSED], "Connection refused"),
        ([errno.ECONNREFUSED, errno.ENETUNREACH], "Connection refused"),
        ([errno.EADDRNOTAVAIL, errno.ECONNREFUSED], "Connection refused"),
        ([errno.ENETUNREACH], "Network is unreachable"),
    ],
)
def test_what_is_said_is_of_the_address_that_can_be_reached(numbers: list[int], words: str) -> None:
    found = failure(ADDRESS, [error(number) for number in numbers])
    assert isinstance(found, TargetLost)
    assert str(found) == f"cannot connect to host:7204: {words}"


def test_an_address_that_does_not_answer() -> None:
    found = failure(ADDRESS, [error(errno.ECONNREFUSED), TimeoutError()])
    assert isinstance(found, WaitTimeoutError)
    assert str(found) == "host:7204 did not answer in time"


@pytest.mark.parametrize(
    ("place", "host"),
    [
        (("127.0.0.1", 1), "127.0.0.1"),
        (("::1", 1, 0, 0), "::1"),
        (("::ffff:10.1.2.3", 1, 0, 0), "10.1.2.3"),
        (("fe80::1", 1, 0, socket.if_nametoindex("lo")), "fe80::1%lo"),
    ],
)
def test_addresses_in_numbers(place: tuple[str, int], host: str) -> None:
    assert numeric_host(place) == host


def test_link_local_addresses() -> None:
    assert is_link_local("fe80::1")
    assert is_link_local("fe80::1%eth0")
    for other in ("10.0.0.1", "::1", "2001:db8::1", "host", "what:ever"):
        assert not is_link_local(other)


def test_a_port_that_is_free_is_the_same_on_all_addresses() -> None:
    sockets = listen("localhost", 0)
    try:
        assert len({one.getsockname()[1] for one in sockets}) == 1
        port = sockets[0].getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            listen("127.0.0.1", port)
    finally:
        for one in sockets:
            one.close()
    for one in listen("127.0.0.1", port):  # at once again
        one.close()


def test_where_nobody_can_listen() -> None:
    with pytest.raises(OSError, match="assign"):
        listen("192.0.2.1", 0)
    with pytest.raises(OSError, match="not known"):
        listen("no-such-host.invalid", 0)
