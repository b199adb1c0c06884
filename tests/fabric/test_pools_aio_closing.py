"""Clients for asyncio that are closed, and cancelled, by some tasks while others use them."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pairs import SOON
from targets import MIB, TOKEN, check_serves, serving, wait_left

import rpma
from fabrics.fabric import Fabric
from rpma import aio
from rpma.pool import Target, TargetLost
from rpma.pool.client import data_connection

pytestmark = [
    pytest.mark.fabric,
    pytest.mark.soft_only("who closes first is decided above the device"),
]


ROUNDS = 4


@pytest.fixture
def target(fabric: Fabric, tmp_path: Path) -> Iterator[Target]:
    with serving(fabric, tmp_path, dram="4MiB") as started:
        yield started


# ---- anything against close ---------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 0])
@pytest.mark.parametrize("who", ["clients", "both", "pools"])
def test_anything_against_close(target: Target, who: str, timeout: float | None) -> None:
    data = bytes(MIB)
    # A pool that there is no time to close: what is under way for it meets the end of the memory.
    allowed = (rpma.ClosedError,) if timeout is None else (rpma.ClosedError, TargetLost)

    async def a_round(number: int) -> None:
        client = await aio.connect(target.address, token=TOKEN)
        pool = await client.create_pool(f"pool{number}", 4 * MIB)
        other = await client.open_pool("other", access="shared")

        async def in_an_array() -> None:
            array = pool.array("u8", 64, offset=512)
            await array.write()
            await array.read()
            array.close()

        async def open_and_close() -> None:
            await (await client.open_pool("third", access="shared")).close()

        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: pool.read(0, 64),
            lambda: pool.write(64, b"12345678"),
            lambda: pool.write_persist(128, b"12345678"),
            lambda: pool.persist(0, 4096),
            lambda: pool.flush(),
            lambda: pool.write(MIB, data),
            lambda: pool.read(MIB, len(data)),
            lambda: pool.compare_and_swap(256, 0, 0),
            lambda: pool.atomic_store(264, 1),
            in_an_array,
            client.list_pools,
            lambda: client.describe_pool("other"),
            open_and_close,
        ]

        async def use(call: Callable[[], Awaitable[object]]) -> None:
            while not pool.closed:
                with suppress(*allowed):
                    await call()
            with suppress(*allowed):
                await call()

        async def close(what: aio.Client | aio.Pool) -> None:
            with suppress(rpma.WaitTimeoutError, TargetLost):
                await what.close(timeout=timeout)
            assert what.closed

        closers = {
            "clients": [client, client, client],
            "both": [client, pool, other, client],
            "pools": [pool, pool, other, other],
        }[who]
        running = [asyncio.ensure_future(use(call)) for call in calls]
        await asyncio.sleep(0.01)
        running += [asyncio.ensure_future(close(what)) for what in closers]
        await asyncio.gather(*running)
        await client.close()
        assert client.closed
        assert pool.closed

    async def test() -> None:
        async with aio.connect(target.address, token=TOKEN) as client:
            await (await client.create_pool("other", MIB)).close()
            await (await client.create_pool("third", MIB)).close()
        for number in range(ROUNDS):
            await a_round(number)

    asyncio.run(asyncio.wait_for(test(), 6 * SOON))
    wait_left(target)
    check_serves(target)


def test_another_threads_event_loop_is_refused(target: Target) -> None:
    async def elsewhere(client: aio.Client, pool: aio.Pool) -> None:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: pool.read(0, 8),
            lambda: pool.persist(),
            lambda: pool.write(0, bytes(MIB)),
            client.list_pools,
            lambda: client.open_pool("pool", access="shared"),
            pool.close,
            client.close,
        ]
        for call in calls:
            with pytest.raises(rpma.InUseError, match="run_coroutine_threadsafe"):
                await call()

    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with aio.create_pool(target.address, "pool", MIB, token=TOKEN) as pool:
            await asyncio.to_thread(lambda: asyncio.run(elsewhere(pool.client, pool)))
            assert not pool.closed
            reading = await asyncio.to_thread(
                lambda: asyncio.run_coroutine_threadsafe(pool.read(0, 8), loop).result
            )
            assert await asyncio.to_thread(reading, SOON) == bytes(8)

    asyncio.run(asyncio.wait_for(test(), 6 * SOON))


# ---- cancelled while it comes in --------------------------------------------------------------


def open_descriptors() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
    return found


async def settles(before: object, now: Callable[[], object]) -> None:
    deadline = asyncio.get_running_loop().time() + SOON
    while now() != before:
        assert asyncio.get_running_loop().time() < deadline, (now(), before)
        await asyncio.sleep(0.005)


def test_a_cancelled_connect_leaves_nothing(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far it had come; the garbage collector has no part in that."""
    make = data_connection.connect
    may_go_on = threading.Event()
    begun = threading.Event()

    def slowly(*arguments: Any) -> Any:
        begun.set()
        made = make(*arguments)
        assert may_go_on.wait(SOON)
        return made

    async def test(target: Target) -> None:
        def now() -> object:
            return len(open_descriptors()), fabric.resources(), len(target._sessions)

        async def cancelled(task: asyncio.Future[aio.Client]) -> None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await (await task).close()

        before = now()
        for steps in range(1, 30):  # of the event loop: by then it is in
            opening = asyncio.ensure_future(waits(target))
            for _ in range(steps):
                await asyncio.sleep(0)
            await cancelled(opening)
            del opening
            await settles(before, now)

        monkeypatch.setattr(data_connection, "connect", slowly)
        for when in ("before", "after"):
            begun.clear()
            may_go_on.clear()
            opening = asyncio.ensure_future(waits(target))
            while not begun.is_set():
                await asyncio.sleep(0.005)
            if when == "before":  # the data connection is made, and nobody is there to have it
                await cancelled(opening)
                may_go_on.set()
            else:  # it is just being handed over
                may_go_on.set()
                time.sleep(0.05)
                await cancelled(opening)
            del opening
            await settles(before, now)

    async def waits(target: Target) -> aio.Client:
        return await aio.connect(target.address, token=TOKEN)

    with serving(fabric, tmp_path) as target:
        asyncio.run(aio_list(target))  # what is made once is there from now on
        gc.collect()
        gc.disable()
        try:
            asyncio.run(asyncio.wait_for(test(target), 6 * SOON))
        finally:
            gc.enable()


async def aio_list(target: Target) -> None:
    await aio.list_pools(target.address, token=TOKEN)
