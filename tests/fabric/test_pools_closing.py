"""close() of a client and of its pools in some threads, anything else in others.

Which lock sees to it: who closes goes one at a time, in a line of the client's own
(`Client._closings`), and lets go of things when it is its turn in the line of the calls
(`Driver.line`). A close() that has no time for that lets go at once: then calls under way fail.
"""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from pairs import threads
from targets import MIB, check_serves, connect, serving, wait_left

import rpma
from fabrics.fabric import Fabric
from rpma.pool import Client, Pool, Target, TargetLost

pytestmark = [
    pytest.mark.fabric,
    pytest.mark.soft_only("who closes first is decided above the device"),
]


ROUNDS = 4
NUMBERS = itertools.count()
Call = Callable[[], object]


@pytest.fixture(scope="module")
def target(fabric: Fabric, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("pools")
    with serving(fabric, folder, dram="16MiB") as started:
        with connect(started) as client:
            client.create_pool("pool", 4 * MIB).close()
            client.create_pool("other", MIB).close()
        yield started


def calls(client: Client, pool: Pool) -> list[Call]:
    """What threads do meanwhile."""
    data = bytes(2 * MIB)

    def whole_life() -> None:
        name = f"temporary{next(NUMBERS)}"
        created = client.create_pool(name, 4096, volatile=True)
        created.write(0, b"data")
        created.close()
        client.remove_pool(name)

    def in_an_array() -> None:
        array = pool.array("u8", 64, offset=512)
        array.write()
        array.persist()
        array.read()
        array.close()

    def from_a_file() -> None:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            pool.write_from(MIB, file, len(data))

    return [
        lambda: pool.read(0, 64),
        lambda: pool.write(64, b"12345678"),
        lambda: pool.write_persist(128, b"12345678"),
        lambda: pool.persist(0, 4096),
        lambda: pool.flush(),
        lambda: pool.write(MIB, data),
        lambda: pool.read(MIB, len(data)),
        lambda: pool.read_to(MIB, io.BytesIO(), MIB),
        lambda: pool.compare_and_swap(256, 0, 0),
        lambda: (pool.atomic_store(264, 1), pool.atomic_load(264)),
        in_an_array,
        from_a_file,
        whole_life,
        client.list_pools,
        lambda: client.describe_pool("pool"),
        lambda: client.open_pool("other", access="shared").close(),
        lambda: (repr(client), repr(pool), pool.size, pool.info, client.closed, pool.closed),
    ]


def against(
    client: Client, pool: Pool, closers: list[Call], allowed: tuple[type[Exception], ...]
) -> None:
    """The closers at once with all calls; nobody meets anything but ClosedError and `allowed`."""

    def use(call: Call) -> Call:
        def uses() -> None:
            while not client.closed:
                try:
                    call()
                except rpma.ClosedError:
                    if pool.closed:
                        return
                except allowed:
                    return

        return uses

    threads(*(use(call) for call in calls(client, pool)), *closers)
    assert client.closed
    assert pool.closed
    for call in (client.list_pools, lambda: pool.read(0, 8), lambda: pool.write(0, b"a")):
        with pytest.raises(rpma.ClosedError):
            call()


@pytest.mark.parametrize("who", ["clients", "pools", "both", "owner"])
def test_threads_that_close_at_once(target: Target, who: str) -> None:
    for _ in range(ROUNDS):
        if who == "owner":
            pool = rpma.open_pool(
                target.address, "pool", access="shared", token="the token of the tests"
            )
            client = pool.client
        else:
            client = connect(target)
            pool = client.open_pool("pool", access="shared")
        other = client.open_pool("other", access="shared")
        closers: dict[str, list[Call]] = {
            "clients": [client.close] * 4,
            "pools": [pool.close, pool.close, other.close, other.close],
            "both": [client.close, pool.close, client.close, other.close],
            "owner": [pool.close, pool.close, client.close],
        }
        threads(*closers[who])
        assert pool.closed
        if who == "pools":
            client.close()
        assert client.closed
        wait_left(target)
    check_serves(target)


@pytest.mark.parametrize("who", ["clients", "both"])
def test_anything_against_close(target: Target, who: str) -> None:
    for _ in range(ROUNDS):
        client = connect(target)
        pool = client.open_pool("pool", access="shared")
        second: Call = client.close if who == "clients" else pool.close
        against(client, pool, [client.close, second, client.close], ())
        wait_left(target)
    check_serves(target)


def test_anything_against_close_of_a_pool_leaves_the_client_alone(target: Target) -> None:
    with connect(target) as client:
        for _ in range(ROUNDS):
            pool = client.open_pool("pool", access="shared")
            other = client.open_pool("other", access="shared")

            def use(call: Call, pool: Pool = pool) -> Call:
                def uses() -> None:
                    while not pool.closed:
                        try:
                            call()
                        except rpma.ClosedError:
                            assert pool.closed

                return uses

            def until_closed(pool: Pool = pool, other: Pool = other) -> None:
                while not pool.closed:
                    other.write_persist(0, b"data")

            threads(
                *(use(call) for call in calls(client, pool)[:12]),
                until_closed,
                pool.close,
                pool.close,
            )
            other.write_persist(0, b"data")
            other.close()


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_anything_against_close_that_has_no_time(target: Target, timeout: float) -> None:
    def close(client: Client) -> Call:
        def closes() -> None:
            with suppress(rpma.WaitTimeoutError, TargetLost):
                client.close(timeout=timeout)
            assert client.closed

        return closes

    for _ in range(ROUNDS):
        client = connect(target)
        pool = client.open_pool("pool", access="shared")
        against(client, pool, [close(client), close(client)], (TargetLost,))
        wait_left(target)
    check_serves(target)


def test_a_callback_may_close_while_another_thread_closes(target: Target) -> None:
    """It is inside a call, for whose end the other one waits: it does not wait for that one."""
    for _ in range(ROUNDS):
        client = connect(target)
        pool = client.open_pool("pool", access="shared")
        data = bytes(4 * MIB)

        def progress(_done: int, _of: int, client: Client = client) -> None:
            client.close()

        def write(
            pool: Pool = pool, data: bytes = data, progress: Callable[[int, int], None] = progress
        ) -> None:
            with suppress(rpma.ClosedError, TargetLost):
                pool.write(0, data, progress=progress)

        threads(write, client.close, client.close)
        assert client.closed
        wait_left(target)
