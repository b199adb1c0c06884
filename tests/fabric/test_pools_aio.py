"""Remote pools for asyncio."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pairs import SOON, pattern
from targets import MIB, TOKEN, check_serves, process, serving, stored, wait_left

import rpma
from fabrics.fabric import Fabric
from rpma import aio
from rpma.pool import (
    AuthenticationError,
    NotDurableError,
    PoolBusyError,
    PoolNotFoundError,
    StorageError,
    Target,
    TargetLost,
)

TOGETHER = 16

pytestmark = pytest.mark.fabric

LONG = 3 * MIB + 12345


@pytest.fixture
def target(fabric: Fabric, tmp_path: Path) -> Iterator[Target]:
    with serving(fabric, tmp_path, dram="4MiB") as started:
        yield started


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 6 * SOON))


def a_pool(target: Target, size: int = MIB, **options: Any) -> aio.Opening[aio.Pool]:
    return aio.create_pool(target.address, "pool", size, token=TOKEN, **options)


def test_bytes_come_back(target: Target, tmp_path: Path) -> None:
    async def test() -> None:
        data = pattern(LONG, 3)
        async with a_pool(target, 2 * LONG) as pool:
            await pool.write(7, data)
            assert await pool.read(7, LONG) == data
            into = bytearray(LONG)
            await pool.read_into(7, into)
            assert into == data
            await pool.persist(7, LONG)
            await pool.write_persist(0, b"before")
            await pool.flush()
            assert len(pool) == pool.size == 2 * LONG
            assert (pool.name, pool.access, pool.closed) == ("pool", "write", False)
        assert pool.closed
        assert stored(tmp_path)[:7] == b"before" + bytes(1)
        assert stored(tmp_path)[7 : 7 + LONG] == data

    run(test())


def test_many_tasks_share_a_client(target: Target) -> None:
    async def test() -> None:
        async with a_pool(target, 64 * 8192) as pool:

            async def write(task: int) -> None:
                for number in range(20):
                    data = pattern(8192, 20 * task + number)
                    if number % 2:
                        await pool.write_persist(task * 8192, data)
                    else:
                        await pool.write(task * 8192, data)
                    assert await pool.read(task * 8192, 8192) == data

            await asyncio.gather(*(write(task) for task in range(64)))

    run(test())


def test_large_and_small_transfers_share_the_bounce_buffers(target: Target) -> None:
    async def test() -> None:
        data = [pattern(LONG, seed) for seed in range(4)]
        async with a_pool(target, 4 * LONG, bounce_size="1MiB") as pool:
            await asyncio.gather(
                *(pool.write(number * LONG, data[number]) for number in range(4)),
                *(pool.read(number, 100) for number in range(100)),
            )
            for number in range(4):
                assert await pool.read(number * LONG, LONG) == data[number]

    run(test())


def test_a_client_serves_many_pools(target: Target) -> None:
    async def test() -> None:
        async with aio.connect(target.address, token=TOKEN) as client:
            pools = [await client.create_pool(f"pool{number}", 4096) for number in range(10)]
            await asyncio.gather(*(pool.write(0, pool.name.encode()) for pool in pools))
            assert [info.name for info in await client.list_pools()] == [p.name for p in pools]
            assert (await client.describe_pool("pool3")).users == 1
            for pool in pools:
                assert await pool.read(0, 5) == pool.name.encode()
            await pools[0].close()
            await client.resize_pool("pool0", "8KiB")
            await client.remove_pool("pool0")
            with pytest.raises(PoolNotFoundError):
                await client.open_pool("pool0")

    run(test())


def test_functions_of_the_module(target: Target) -> None:
    async def test() -> None:
        async with a_pool(target) as pool:
            await pool.write(0, b"kept")
            await pool.set_content_length(4)
        opened = await aio.open_pool(target.address, "pool", token=TOKEN, access="read")
        assert await opened.read(0, 4) == b"kept"
        assert opened.info.content_length == 4
        await opened.close()
        assert [info.name for info in await aio.list_pools(target.address, token=TOKEN)] == ["pool"]
        await aio.remove_pool(target.address, "pool", token=TOKEN)
        assert await aio.list_pools(target.address, token=TOKEN) == []

    run(test())


def test_words_of_8_bytes(target: Target) -> None:
    async def test() -> None:
        async with a_pool(target) as pool:
            await pool.atomic_store(64, 2**63 + 5)
            assert await pool.atomic_load(64) == 2**63 + 5
            assert await pool.compare_and_swap(64, 2**63 + 5, 1) == 2**63 + 5
            assert await pool.compare_and_swap(64, 2**63 + 5, 2) == 1

    run(test())


def test_swaps_of_many_tasks_are_atomic(target: Target) -> None:
    tasks, each = 10, 5

    async def add(pool: aio.Pool) -> None:
        for _ in range(each):
            known = await pool.atomic_load(0)
            while (found := await pool.compare_and_swap(0, known, known + 1)) != known:
                known = found

    async def test() -> None:
        async with a_pool(target) as pool:
            await asyncio.gather(*(add(pool) for _ in range(tasks)))
            assert await pool.atomic_load(0) == tasks * each

    run(test())


def test_arrays(target: Target) -> None:
    async def test() -> None:
        async with a_pool(target) as pool:
            array = pool.array("<u4", (8, 16), offset=64)
            array.local[:] = np.arange(128).reshape(8, 16)
            await array.write()
            await array.persist(slice(2, 4))
            array.local[:] = 0
            await array.read(3)
            assert array.local[3].tolist() == list(range(48, 64))
            assert not array.local[2].any()

    run(test())


def test_errors_are_those_of_the_client_that_blocks(target: Target) -> None:
    async def test() -> None:
        with pytest.raises(AuthenticationError, match="token"):
            await aio.open_pool(target.address, "pool", token="another")
        with pytest.raises(PoolNotFoundError, match="'pool'"):
            await aio.open_pool(target.address, "pool", token=TOKEN)
        async with a_pool(target, volatile=True) as pool:
            with pytest.raises(NotDurableError, match="DRAM"):
                await pool.persist()
            with pytest.raises(rpma.InvalidArgumentError, match="outside"):
                await pool.write(MIB, b"x")
            with pytest.raises(PoolBusyError):
                await aio.open_pool(target.address, "pool", token=TOKEN)
        with pytest.raises(rpma.ClosedError):
            await pool.read()
        with pytest.raises(TargetLost, match="cannot connect"):
            await aio.open_pool("127.0.0.1:1", "pool", token=TOKEN)

    run(test())


@pytest.mark.parametrize("what", ["read_into", "write", "write_persist", "array"])
def test_a_cancelled_call_leaves_memory_alone(what: str, target: Target) -> None:
    async def test() -> None:
        async with a_pool(target, 8 * MIB, bounce_size="1MiB") as pool:
            await pool.write(0, b"\1" * (8 * MIB))
            memory = bytearray(8 * MIB)
            array = pool.array()
            calls: dict[str, Callable[[], Awaitable[Any]]] = {
                "read_into": lambda: pool.read_into(0, memory),
                "write": lambda: pool.write(0, memory),
                "write_persist": lambda: pool.write_persist(0, memory),
                "array": array.read,
            }
            for pause in (0.0, 0.0003, 0.001):
                task = asyncio.ensure_future(calls[what]())
                await asyncio.sleep(pause)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    pass
                else:
                    assert pause, "a call that has just begun is done"  # later it may have been
                before, local = bytes(memory), array.local.copy()
                await asyncio.sleep(0.02)
                assert bytes(memory) == before
                assert np.array_equal(array.local, local)
            await pool.write(0, b"\2" * (8 * MIB))  # all that was cancelled is out of the way
            assert await pool.read() == b"\2" * (8 * MIB)

    run(test())


def test_a_cancelled_opening_is_undone(target: Target) -> None:
    async def test() -> None:
        async with aio.connect(target.address, token=TOKEN) as client:
            await (await client.create_pool("pool", MIB)).close()
            for pause in (0.0, 0.0005, 0.002):

                async def open_it() -> None:
                    await (await client.open_pool("pool")).close()

                task = asyncio.ensure_future(open_it())
                await asyncio.sleep(pause)
                task.cancel()
                with suppress(asyncio.CancelledError):  # unless it was faster
                    await task
                deadline = asyncio.get_running_loop().time() + SOON
                while True:  # nobody has it open in the end
                    try:
                        pool = await client.open_pool("pool")
                        break
                    except PoolBusyError:
                        assert asyncio.get_running_loop().time() < deadline
                        await asyncio.sleep(0.01)
                await pool.close()

    run(test())


def test_a_timeout_passes(fabric: Fabric, tmp_path: Path) -> None:
    async def test() -> None:
        with process(fabric, tmp_path) as target:
            async with aio.create_pool(
                target.address, "pool", 8 * MIB, token=TOKEN, timeout=SOON
            ) as pool:
                target.stop()
                with pytest.raises(rpma.WaitTimeoutError):
                    await pool.persist(timeout=0.1)
                target.resume()
                await pool.persist(timeout=SOON)

    run(test())


def test_a_target_that_dies_is_lost_to_all_tasks(fabric: Fabric, tmp_path: Path) -> None:
    async def test() -> None:
        with process(fabric, tmp_path) as target:
            async with aio.connect(target.address, token=TOKEN, timeout=SOON) as client:
                pool = await client.create_pool("pool", 8 * MIB)

                async def write(number: int) -> None:
                    while True:
                        await pool.write_persist(number * MIB, bytes(MIB), timeout=SOON)

                tasks = [asyncio.ensure_future(write(number)) for number in range(8)]
                await asyncio.sleep(0.05)
                target.kill()
                for ended in await asyncio.gather(*tasks, return_exceptions=True):
                    assert isinstance(ended, TargetLost)
                    assert isinstance(ended, rpma.ConnectionLost)
                with pytest.raises(TargetLost):
                    await pool.read(0, 1)

    run(test())


def test_a_client_that_is_dropped_warns(target: Target) -> None:
    async def test() -> None:
        client = await aio.connect(target.address, token=TOKEN)
        pool = await client.create_pool("pool", MIB)
        del client, pool
        gc.collect()

    with pytest.warns(ResourceWarning, match=r"unclosed <rpma\.aio\.Client"):
        run(test())
    wait_left(target)
    check_serves(target)


def test_small_writes_that_are_given_up_arrive(target: Target) -> None:
    async def test() -> None:
        async with a_pool(target, 64 * 4096) as pool:
            for persists in (False, True):
                call = pool.write_persist if persists else pool.write
                data = bytearray(pattern(4096, int(persists)))
                tasks = [asyncio.create_task(call(n * 4096, data)) for n in range(64)]
                await asyncio.sleep(0)  # all are posted
                for task in tasks[::2]:
                    task.cancel()
                sent = bytes(data)
                data[:] = bytes(4096)  # the program's own again
                done = await asyncio.gather(*tasks, return_exceptions=True)
                assert [isinstance(one, asyncio.CancelledError) for one in done] == 32 * [
                    True,
                    False,
                ]
                assert await pool.read(0, 64 * 4096) == 64 * sent
            for _ in range(100):  # the bounce buffers are all there
                await asyncio.gather(*(pool.write(n * 4096, sent) for n in range(64)))

    run(test())


def test_calls_are_executed_in_their_order(target: Target) -> None:
    async def test() -> None:
        async with a_pool(target, 20 * 4096) as pool:
            for turn in range(20):  # some of the writes are posted by what comes after them
                data, ways = pattern(4096, turn), (pool.write, pool.write_persist)
                both = turn % 4 == 0
                calls = [ways[n % 2 if both else turn % 2](n * 4096, data) for n in range(20)]
                *_, found = await asyncio.gather(*calls, pool.read())
                assert found == 20 * data

    run(test())


def test_small_writes_to_many_pools_arrive_in_theirs(target: Target) -> None:
    async def test() -> None:
        async with aio.connect(target.address, token=TOKEN) as client:
            pools = [await client.create_pool(f"pool{n}", 64 * 4096) for n in range(3)]

            async def write(number: int) -> None:
                for at in range(64):
                    pool = pools[(number + at) % 3]
                    write = pool.write_persist if number % 4 == 0 else pool.write
                    await write(4096 * number, pattern(4096, number + at))

            await asyncio.gather(*(write(number) for number in range(64)))
            for number in range(64):
                for at in range(61, 64):
                    found = await pools[(number + at) % 3].read(4096 * number, 4096)
                    assert found == pattern(4096, number + at)

    run(test())


@pytest.mark.parametrize("way", ["write", "write_persist"])
def test_a_pool_that_is_closed_has_what_was_written_in_the_same_turn(
    way: str, target: Target, tmp_path: Path
) -> None:
    async def test() -> None:
        pool = await a_pool(target, 64 * 4096)
        write = getattr(pool, way)
        tasks = [asyncio.create_task(write(n * 4096, b"\1" * 4096)) for n in range(64)]
        await asyncio.sleep(0)
        await pool.close()
        await asyncio.gather(*tasks)
        assert stored(tmp_path)[: 64 * 4096] == b"\1" * (64 * 4096)

    run(test())


def test_tasks_that_persist_in_the_same_turn_share_a_request(
    target: Target, tmp_path: Path
) -> None:
    async def test() -> None:
        async with a_pool(target, 64 * 4096) as pool:
            path = pool.client._driver.path
            assert path is not None
            for turn in range(1, 9):
                before, data = path._next_id, pattern(4096, turn)
                await asyncio.gather(*(pool.write_persist(n * 4096, data) for n in range(64)))
                assert path._next_id - before == 64 // TOGETHER
                assert stored(tmp_path)[: 64 * 4096] == 64 * data

    run(test())


def test_a_task_that_persists_alone_does_not_wait_for_others(target: Target) -> None:
    async def test() -> None:
        async with a_pool(target, 64 * 4096) as pool:
            path = pool.client._driver.path
            assert path is not None
            await pool.write_persist(0, b"first")  # others may come with it
            for _ in range(5):
                task = asyncio.create_task(pool.write_persist(0, b"next"))
                await asyncio.sleep(0)
                assert path.held is None, "it has been posted"
                await task

    run(test())


@pytest.mark.parametrize("others", [1, 3, 40])
def test_a_failure_of_the_storage_is_for_all_who_share_a_request(
    others: int, target: Target, tmp_path: Path
) -> None:
    async def test() -> None:
        async with aio.connect(target.address, token=TOKEN) as client:
            bad = await client.create_pool("pool", 64 * 4096)
            good = await client.create_pool("good", 64 * 4096)
            os.truncate(tmp_path / "pool.pool", 4096)
            calls = [bad.write_persist(n * 4096, bytes(4096)) for n in range(others + 1)]
            *failed, done = await asyncio.gather(
                *calls, good.write_persist(0, b"1"), return_exceptions=True
            )
            assert {type(error) for error in failed} == {StorageError}
            assert done is None, "the other pool is well"
            await good.write_persist(0, b"2")

    run(test())


def test_tasks_cannot_persist_what_nothing_makes_durable(target: Target) -> None:
    async def test() -> None:
        async with a_pool(target, 64 * 4096, volatile=True) as pool:
            calls = [pool.write_persist(n * 4096, bytes(4096)) for n in range(20)]
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, NotDurableError)

    run(test())


@pytest.mark.parametrize("way", ["write", "write_persist"])
def test_small_writes_fail_with_the_target(way: str, fabric: Fabric, tmp_path: Path) -> None:
    async def test() -> None:
        with process(fabric, tmp_path) as target:
            pool = await aio.create_pool(target.address, "pool", MIB, token=TOKEN, timeout=SOON)

            async def write(number: int) -> None:
                while True:
                    await getattr(pool, way)(number * 4096, bytes(4096))

            tasks = [asyncio.ensure_future(write(number)) for number in range(64)]
            await asyncio.sleep(0.05)
            target.kill()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(error) for error in ended} == {TargetLost}
            await pool.close()

    run(test())
