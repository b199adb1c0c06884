"""Which access each message to a target needs, on both of a client's connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from pairs import SOON
from targets import connect, serving

import rpma
from fabrics.fabric import Fabric
from rpma.errors import RemoteAccessError
from rpma.pool import (
    Client,
    Pool,
    PoolAccessError,
    PoolBusyError,
    PoolExistsError,
    Target,
    TargetError,
)
from rpma.pool.client import needs, pool_logic, transfers
from rpma.pool.client.order import Call
from rpma.pool.protocol import messages
from rpma.pool.target import session

pytestmark = pytest.mark.fabric

SIZE = 4096
CONTENT = 7

#: How the client that sends the message has the pool: `closed` it had it open, `another's` it has
#: the number and the key of another client.
ACCESSES = ("read", "shared", "write", "closed", "another's")

Done, Listing, Opened = messages.Done, messages.Listing, messages.Opened


def by_access(*outcomes: type) -> dict[str, type]:
    return dict(zip(ACCESSES, outcomes, strict=True))


#: What comes of each request for that pool.
REQUESTS: dict[type, tuple[Callable[[int], messages.Request], dict[str, type]]] = {
    messages.Create: (
        lambda _: messages.Create(
            "pool", SIZE, rpma.pool.Attributes(), None, False, False, replaces=False
        ),
        by_access(*[PoolExistsError] * 5),
    ),
    messages.Open: (
        lambda _: messages.Open("pool", "write"),
        by_access(PoolBusyError, PoolBusyError, PoolBusyError, Opened, PoolBusyError),
    ),
    messages.Close: (
        messages.Close,
        by_access(Done, Done, Done, TargetError, TargetError),
    ),
    messages.SetContent: (
        lambda number: messages.SetContent(number, CONTENT),
        by_access(PoolAccessError, Done, Done, TargetError, TargetError),
    ),
    messages.Commit: (
        lambda number: messages.Commit(number, CONTENT),
        by_access(PoolAccessError, Done, Done, TargetError, TargetError),
    ),
    messages.List: (lambda _: messages.List(""), by_access(*[Listing] * 5)),
    messages.Describe: (lambda _: messages.Describe("pool"), by_access(*[Listing] * 5)),
    messages.Resize: (
        lambda _: messages.Resize("pool", SIZE),
        by_access(PoolBusyError, PoolBusyError, PoolBusyError, Done, PoolBusyError),
    ),
    messages.Remove: (
        lambda _: messages.Remove("pool"),
        by_access(PoolBusyError, PoolBusyError, PoolBusyError, Done, PoolBusyError),
    ),
}


@pytest.fixture
def target(fabric: Fabric, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Target]:
    if fabric.name != "soft":
        parameters = request.node.callspec.params
        if "operation" not in parameters:
            pytest.skip("these messages never meet the device")
        if parameters["access"] != "read":
            pytest.skip("test_pool_faults.py has the other keys on every device")
    with serving(fabric, tmp_path) as started:
        with connect(started) as client:
            client.create_pool("pool", SIZE).close()
        yield started


@contextmanager
def reckless(target: Target) -> Iterator[Client]:
    """A client that obeys no rules, which may have ended its connection at the end."""
    client = connect(target)
    try:
        yield client
    finally:
        with suppress(rpma.RpmaError):
            client.close()


def opened(client: Client, other: Client, access: str) -> Pool:
    """The pool with this access of `client`, or of `other`."""
    if access == "another's":
        for number in range(3):  # its number is none of the client's
            other.create_pool(f"before-{number}", SIZE)
        return other.open_pool("pool", access="shared")
    if access == "closed":
        pool = client.open_pool("pool", access="write")
        client._driver.run(needs.ask(messages.Close(pool._logic.number), Done), SOON)
        return pool
    return client.open_pool("pool", access=access)  # type: ignore[arg-type]


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("kind", REQUESTS, ids=lambda kind: kind.__name__)
def test_a_request_needs_its_access(target: Target, kind: type, access: str) -> None:
    make, outcomes = REQUESTS[kind]
    wanted = outcomes[access]
    with connect(target) as other, reckless(target) as client:
        request = make(opened(client, other, access)._logic.number)
        if issubclass(wanted, Exception):
            with pytest.raises(wanted):
                client._driver.run(needs.ask(request, messages.Reply), SOON)
        else:
            assert isinstance(ask(client, request), wanted)
        if kind in (messages.SetContent, messages.Commit):
            length = CONTENT if wanted is Done else None
            assert other.describe_pool("pool").content_length == length


@pytest.mark.parametrize("access", ACCESSES)
def test_replacing_a_pool_excludes_those_who_write(target: Target, access: str) -> None:
    request = messages.Create("pool", SIZE, rpma.pool.Attributes(), None, False, False, True)
    with connect(target) as other, reckless(target) as client:
        opened(client, other, access)
        if access in ("read", "closed"):
            assert isinstance(ask(client, request), Opened)
        else:
            with pytest.raises(PoolBusyError):
                client._driver.run(needs.ask(request, messages.Reply), SOON)


def ask(client: Client, request: messages.Request) -> Any:
    def steps() -> Any:
        return (yield needs.Exchange(messages.encode(request)))

    return messages.decode(client._driver.run(steps(), SOON), messages.Reply)


def test_every_request_has_its_rule() -> None:
    kinds = set(get_args(messages.Request))
    assert set(REQUESTS) == kinds
    assert set(session._RULES) == kinds


# ---- the data connection -------------------------------------------------------------------------


def for_everything(descriptor: bytes) -> rpma.RemoteMemoryRegion:
    """A key that claims more than it was given for."""
    return rpma.RemoteMemoryRegion(descriptor[:-1] + b"\xff")


def flush_request(client: Client, pool: Pool) -> None:
    path, number = client._path, pool._logic.number
    with Call(path.order, pool, 0, 8, writes=False) as call:
        steps = transfers.durable(
            path, call, 8, lambda waiter: path.request_flush(number, 0, 8, waiter)
        )
        client._driver.run(steps, SOON)


def swap(client: Client, pool: Pool) -> None:
    path, number = client._path, pool._logic.number
    with Call(path.order, pool, 0, 8, writes=True, asks=True) as call:
        steps = transfers.compare_and_swap(path, call, number, 0, 0, 1)
        client._driver.run(steps, SOON)


def write(client: Client, pool: Pool) -> None:
    path = client._path
    path.connection.write_wait(pool._logic.remote, 0, path.bounce, 0, 8, timeout=SOON)


def atomic_write(client: Client, pool: Pool) -> None:
    path = client._path
    path.connection.atomic_write_wait(pool._logic.remote, 0, bytes(8), timeout=SOON)


def read(client: Client, pool: Pool) -> None:
    path = client._path
    path.connection.read_wait(path.bounce, 0, pool._logic.remote, 0, 8, timeout=SOON)


#: What each operation by a client that obeys no rules comes to, by access; None: it is done.
OPERATIONS: dict[Callable[[Client, Pool], None], list[type[Exception] | None]] = {
    flush_request: [PoolAccessError, None, None, PoolAccessError, PoolAccessError],
    swap: [PoolAccessError, None, None, PoolAccessError, PoolAccessError],
    write: [RemoteAccessError, None, None, RemoteAccessError, RemoteAccessError],
    atomic_write: [RemoteAccessError, None, None, RemoteAccessError, RemoteAccessError],
    read: [None, None, None, RemoteAccessError, RemoteAccessError],
}


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_the_data_connection_needs_its_access(
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    operation: Callable[[Client, Pool], None],
    access: str,
) -> None:
    monkeypatch.setattr(pool_logic, "RemoteMemoryRegion", for_everything)
    wanted = OPERATIONS[operation][ACCESSES.index(access)]
    with connect(target) as other, reckless(target) as client:
        pool = opened(client, other, access)
        client._path.bounce.view[:8] = b"intruder"
        if wanted is None:
            operation(client, pool)
        else:
            with pytest.raises(wanted):
                operation(client, pool)
