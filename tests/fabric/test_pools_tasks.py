"""Pools used by many tasks and threads: order, closing, timeouts, cancellation, signals."""

from __future__ import annotations

import asyncio
import linecache
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pairs import A_MOMENT, SOON, pattern
from targets import MIB, TOKEN, connect, process, serving, stored

import rpma
from fabrics.fabric import Fabric
from rpma import aio
from rpma.pool import Target, TargetLost

pytestmark = pytest.mark.fabric

SEGMENT = 256 << 10


@pytest.fixture
def target(fabric: Fabric, tmp_path: Path) -> Iterator[Target]:
    with serving(fabric, tmp_path, dram="4MiB") as started:
        yield started


def must_stand_still(fabric: Fabric) -> None:
    """Skip where reads are answered while the target's process is stopped."""
    if fabric.name != "soft":
        pytest.skip("a kernel's device answers for a target that stands still")


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 6 * SOON))


def a_client(target: Target) -> aio.Opening[aio.Client]:
    """A client with 3 large slots."""
    return aio.connect(target.address, token=TOKEN, bounce_size=MIB)


def test_a_pool_is_closed_after_the_writes_that_wait_for_room(
    target: Target, tmp_path: Path
) -> None:
    async def test() -> None:
        data = pattern(2 * SEGMENT, 1)
        async with a_client(target) as client:
            other = await client.create_pool("other", 4096)
            pool = await client.create_pool("pool", 20 * len(data))
            for _ in range(8):
                calls = [pool.write(n * len(data), data) for n in range(20)]
                tasks = [asyncio.ensure_future(call) for call in calls]
                await asyncio.sleep(0)
                await pool.close()
                assert all(task.done() for task in tasks)
                await asyncio.gather(*tasks)
                assert stored(tmp_path)[: 20 * len(data)] == 20 * data
                await other.write_persist(0, b"goes on")
                pool = await client.open_pool("pool")

    run(test())


def test_all_who_close_a_pool_wait_until_it_is_closed(target: Target, tmp_path: Path) -> None:
    async def test() -> None:
        data = pattern(4 * MIB, 1)
        client = await a_client(target)
        pool = await client.create_pool("pool", len(data))
        writing = asyncio.ensure_future(pool.write(0, data))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(pool.close())
        await asyncio.sleep(0)
        await asyncio.gather(closing, pool.close(), client.close())
        assert (writing.done(), client.closed) == (True, True)
        await writing
        assert stored(tmp_path)[: len(data)] == data

    run(test())


def test_a_pool_that_there_is_no_time_to_close_leaves_the_others_alone(
    fabric: Fabric, tmp_path: Path
) -> None:
    async def test() -> None:
        with process(fabric, tmp_path) as target:
            async with a_client(target) as client:
                other = await client.create_pool("other", 4096)
                pool = await client.create_pool("pool", 4 * MIB)
                array, written = pool.array(), pool.array()
                target.stop()
                calls = [pool.write(n * 4096, bytes(4096)) for n in range(20)]
                calls += [array.read(), written.write(), pool.write(0, bytes(4 * MIB))]
                tasks = [asyncio.ensure_future(call) for call in calls]
                await asyncio.sleep(0)
                with pytest.raises(rpma.WaitTimeoutError):
                    await pool.close(timeout=0.1)
                with pytest.raises(rpma.ClosedError):
                    await array.read()
                target.resume()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
                assert {type(one) for one in ended} <= {type(None), rpma.ClosedError}
                assert ended[:20] == 20 * [None]
                await other.write_persist(0, b"goes on", timeout=SOON)

    run(test())


def test_an_array_that_is_closed_while_it_is_read_leaves_the_client_alone(
    fabric: Fabric, tmp_path: Path
) -> None:
    async def test() -> None:
        with process(fabric, tmp_path) as target:
            async with aio.create_pool(target.address, "pool", MIB, token=TOKEN) as pool:
                array = pool.array()
                target.stop()
                reading = asyncio.ensure_future(array.read())
                await asyncio.sleep(0)
                array.close()
                with pytest.raises(rpma.ClosedError):
                    await array.write()
                target.resume()
                await reading
                await pool.write_persist(0, b"goes on", timeout=SOON)

    run(test())


def test_an_idle_pool_is_closed_while_others_are_used_without_pause(target: Target) -> None:
    async def test() -> None:
        async with a_client(target) as client:
            used = await client.create_pool("used", MIB)
            ends = False

            async def use(number: int) -> None:
                while not ends:
                    await used.write_persist(number * 4096, bytes(4096))

            tasks = [asyncio.ensure_future(use(number)) for number in range(32)]
            for number in range(8):
                pool = await client.create_pool(f"pool{number}", 4096)
                await pool.close(timeout=3)
            ends = True
            await asyncio.gather(*tasks)

    run(test())


def test_tasks_that_share_an_array_go_on_after_a_timeout(fabric: Fabric, tmp_path: Path) -> None:
    must_stand_still(fabric)

    async def test() -> None:
        with process(fabric, tmp_path) as target:
            async with aio.create_pool(target.address, "pool", MIB, token=TOKEN) as pool:
                array = pool.array()
                target.stop()
                tasks = [asyncio.ensure_future(array.read(timeout=t)) for t in (0.1, 0.2, SOON)]
                await asyncio.sleep(0.3)
                tasks += [asyncio.ensure_future(array.read()) for _ in range(3)]
                tasks.append(asyncio.ensure_future(array.read(timeout=0.1)))
                await asyncio.sleep(0.3)
                target.resume()
                _, pending = await asyncio.wait(tasks, timeout=SOON)
                assert not pending
                ended = [type(task.exception()) for task in tasks]
                late = rpma.WaitTimeoutError
                assert ended == [late, late] + 4 * [type(None)] + [late]

    run(test())


@pytest.mark.parametrize("earlier", [8192, SEGMENT, MIB + 12345])
def test_a_later_write_does_not_overtake_one_that_waits_for_room(
    earlier: int, target: Target
) -> None:
    async def test() -> None:
        async with a_client(target) as client:
            pool = await client.create_pool("pool", 8 * MIB)
            for turn in range(5):
                large = [pool.write(2 * MIB, bytes(6 * MIB)) for _ in range(2)]
                calls = [
                    *large,
                    pool.write(0, pattern(earlier, turn)),
                    pool.write(earlier - 100, b"\2" * 100),
                    pool.write(0, b"\1" * 100),
                ]
                *_, found = await asyncio.gather(*calls, pool.read(0, earlier))
                within = pattern(earlier, turn)[100:-100]
                assert found == b"\1" * 100 + within + b"\2" * 100

    run(test())


def test_a_cancelled_call_is_cancelled_even_if_its_timeout_passes_meanwhile(
    fabric: Fabric, tmp_path: Path
) -> None:
    must_stand_still(fabric)

    async def test() -> None:
        with process(fabric, tmp_path) as target:
            async with aio.create_pool(target.address, "pool", MIB, token=TOKEN) as pool:
                array = pool.array()
                target.stop()
                task = asyncio.ensure_future(array.read(timeout=0.2))
                await asyncio.sleep(0.05)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                target.resume()
                await array.read()

    run(test())


def test_waiting_for_those_who_ask_before_is_part_of_a_timeout(
    fabric: Fabric, tmp_path: Path
) -> None:
    async def test() -> None:
        with process(fabric, tmp_path) as target:
            async with a_client(target) as client:
                target.stop()
                asking = asyncio.ensure_future(client.list_pools())
                await asyncio.sleep(0.05)
                with pytest.raises(rpma.WaitTimeoutError):
                    await client.list_pools(timeout=0.1)
                target.resume()
                assert await asking == await client.list_pools(timeout=SOON) == []

    run(test())


def test_long_transfers_do_not_shut_out_others(target: Target) -> None:
    async def test() -> None:
        async with a_client(target) as client:
            pool = await client.create_pool("pool", 16 * MIB)
            ends, done = False, [0, 0, 0]

            async def use(number: int, at: int, size: int) -> None:
                while not ends:
                    await pool.write(at, bytes(size))
                    done[number] += 1

            sizes = [(0, 0, 8 * MIB), (0, 8 * MIB, 4 * MIB)]
            sizes += [(1, 12 * MIB + n * SEGMENT, SEGMENT) for n in range(8)]
            sizes += [(2, 15 * MIB + n * 4096, 4096) for n in range(8)]
            tasks = [asyncio.ensure_future(use(*each)) for each in sizes]
            while min(done) < 4:
                await asyncio.sleep(0.01)
            ends = True
            await asyncio.gather(*tasks)

    run(test())


def test_a_swap_is_done_before_what_is_asked_after_it(target: Target) -> None:
    async def test() -> None:
        async with a_client(target) as client:
            pool = await client.create_pool("pool", 4096)
            for turn in range(50):
                swap = pool.compare_and_swap(0, 2 * turn, 2 * turn + 1)
                after = 2 * turn + 2
                calls = [swap, pool.write(0, after.to_bytes(8, "little")), pool.atomic_load(0)]
                assert await asyncio.gather(*calls) == [2 * turn, None, after]

    run(test())


# ---- threads -------------------------------------------------------------------------------------


def test_an_idle_pool_is_closed_while_threads_use_another_without_pause(target: Target) -> None:
    with connect(target) as client, client.create_pool("used", MIB) as used:
        ends = threading.Event()

        def use(number: int) -> None:
            while not ends.is_set():
                used.write(number * 4096, bytes(4096))
                used.persist(number * 4096, 4096)

        with ThreadPoolExecutor(4) as pool:
            using = [pool.submit(use, number) for number in range(4)]
            try:
                for number in range(8):
                    client.create_pool(f"pool{number}", 4096, timeout=3).close(timeout=3)
            finally:
                ends.set()
            for one in using:
                one.result(SOON)


def test_a_pool_is_closed_after_what_threads_have_issued_before(
    fabric: Fabric, tmp_path: Path
) -> None:
    with (
        process(fabric, tmp_path) as target,
        connect(target.address) as client,
        ThreadPoolExecutor(12) as pool,
    ):
        opened = client.create_pool("pool", MIB)
        target.stop()
        began = [pool.submit(opened.persist)]
        time.sleep(A_MOMENT)
        began += [pool.submit(opened.write, n * 4096, b"\1" * 4096) for n in range(8)]
        time.sleep(A_MOMENT)
        began += [pool.submit(opened.close, timeout=SOON), pool.submit(client.close)]
        time.sleep(A_MOMENT)
        with pytest.raises(rpma.WaitTimeoutError, match="another thread"):
            opened.read(0, 1, timeout=0.1)
        target.resume()
        for one in began:
            one.result(SOON)
        with pytest.raises(rpma.ClosedError):
            opened.write(0, b"x")
    assert stored(tmp_path)[: 8 * 4096] == b"\1" * (8 * 4096)


def test_a_call_that_is_told_the_progress_of_another_may_touch_the_same_bytes(
    target: Target,
) -> None:
    with connect(target, bounce_size=MIB) as client, client.create_pool("pool", 4 * MIB) as pool:

        def progress(done: int, _of: int) -> None:
            pool.write(4 * MIB - 100, b"\1" * 100, timeout=SOON)
            assert len(pool.read(done - 10, 100, timeout=SOON) if done < 4 * MIB else b"") in (
                0,
                100,
            )

        pool.write(0, bytes(4 * MIB), progress=progress, timeout=SOON)
        assert pool.read(4 * MIB - 100, 100) == b"\1" * 100


# ---- signals -------------------------------------------------------------------------------------


class Alarm(BaseException):
    """What a signal handler raises. An event loop takes it for a task's error."""


@contextmanager
def alarm(after: int, *modules: str) -> Iterator[list[bool]]:
    """A signal arrives before so many lines of these modules are executed."""
    left, arrived = after, [False]

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if frame.f_globals.get("__name__") not in modules:
            return None
        # Nothing is executed there, and no signal seen to.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if event == "line" and line not in ("try:", "while True:"):
            left -= 1
            if not left:
                arrived[0] = True
                raise Alarm
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield arrived
    finally:
        sys.settrace(before)


@pytest.mark.parametrize(
    "module", ["datapath", "write_batch", "waiting", "order", "transfers", "aio_driver"]
)
def test_a_signal_at_any_line_forgets_no_task(module: str, fabric: Fabric, tmp_path: Path) -> None:
    if fabric.name != "soft":
        pytest.skip("too many connections for a guest")

    async def into_an_array(pool: aio.Pool) -> None:
        await pool.array().read(slice(0, 9))

    async def calls(pool: aio.Pool) -> None:
        small = [pool.write(n * 4096, bytes(4096)) for n in range(20)]
        large = [pool.write(MIB, bytes(MIB)), pool.write_persist(0, bytes(MIB)), pool.read()]
        word = [pool.compare_and_swap(0, 0, 0), pool.persist(0, 8), into_an_array(pool)]
        tasks = [asyncio.ensure_future(call) for call in (*small, *large, *word)]
        _, pending = await asyncio.wait(tasks, timeout=SOON)
        assert not pending
        for task in tasks:
            assert isinstance(task.exception(), (type(None), Alarm, TargetLost)), task

    async def test() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it is told of alarms
        with serving(fabric, tmp_path) as target:
            client = pool = None
            after, lost = 1, 0
            while True:
                if client is None:
                    client = await a_client(target)
                    pool = await client.create_pool(f"pool{lost}", 2 * MIB)
                assert pool is not None
                with alarm(after, f"rpma.pool.client.{module}") as arrived:
                    await calls(pool)
                if not arrived[0]:
                    break
                try:
                    await pool.write_persist(0, b"goes on", timeout=SOON)
                except TargetLost:
                    lost += 1
                    with suppress(TargetLost):
                        await client.close(timeout=SOON)
                    client = None
                after = after * 11 // 10 + 1
            assert client is not None
            await client.close(timeout=SOON)

    run(test())
