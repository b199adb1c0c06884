"""Work on pools: one pool's in its order, others' beside it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from rpma.pool.target.lanes import Lanes

#: Longer than anything takes that comes at all, in seconds.
SOON = 30.0


@contextmanager
def lanes(threads: int = 4) -> Iterator[Lanes]:
    made = Lanes("test", threads)
    try:
        yield made
    finally:
        made.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, SOON))


def waits_for(event: threading.Event) -> Callable[[], bool]:
    return lambda: event.wait(SOON)


async def started(event: threading.Event) -> None:
    """Return when the thread that is to set it has."""
    assert await asyncio.to_thread(event.wait, SOON)


def test_work_on_one_pool_is_done_in_its_order() -> None:
    done: list[int] = []
    inside = threading.Lock()

    def work(number: int) -> None:
        assert inside.acquire(blocking=False)
        done.append(number)
        inside.release()

    async def test() -> None:
        with lanes() as some:
            await asyncio.gather(*(some.run(lambda n=n: work(n), "pool") for n in range(100)))

    run(test())
    assert done == list(range(100))


def test_work_on_other_pools_is_done_beside_it() -> None:
    together = threading.Barrier(4)

    async def test() -> None:
        with lanes() as some:
            work = (some.run(lambda: together.wait(SOON), *names) for names in ("a", "b", "c", ()))
            assert sorted(await asyncio.gather(*work)) == [0, 1, 2, 3]

    run(test())


def test_what_waits_for_its_turn_takes_no_thread() -> None:
    first, go = threading.Event(), threading.Event()

    def block() -> None:
        first.set()
        assert go.wait(SOON)

    async def test() -> None:
        with lanes(threads=2) as some:
            blocked = asyncio.create_task(some.run(block, "slow"))
            await started(first)
            waiting = [asyncio.create_task(some.run(lambda: None, "slow")) for _ in range(10)]
            await some.run(go.set, "other")
            await asyncio.gather(blocked, *waiting)

    run(test())


def test_two_that_need_the_same_pools_do_not_wait_for_each_other() -> None:
    async def test() -> None:
        with lanes() as some:
            pairs = [("a", "b"), ("b", "a"), ("a", "a")] * 20
            await asyncio.gather(*(some.run(lambda: None, *names) for names in pairs))

    run(test())


def test_what_is_cancelled_before_its_turn_is_not_done() -> None:
    first, go = threading.Event(), threading.Event()
    done: list[str] = []

    def block() -> None:
        first.set()
        assert go.wait(SOON)

    async def test() -> None:
        with lanes() as some:
            blocked = asyncio.create_task(some.run(block, "pool"))
            await started(first)
            cancelled = asyncio.create_task(some.run(lambda: done.append("cancelled"), "pool"))
            last = asyncio.create_task(some.run(lambda: done.append("last"), "pool"))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            go.set()
            await asyncio.gather(blocked, last)

    run(test())
    assert done == ["last"]


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_cancelled_later_keeps_the_pool_to_its_end(fails: bool) -> None:
    first, go = threading.Event(), threading.Event()
    done: list[str] = []

    def block() -> None:
        first.set()
        assert go.wait(SOON)
        done.append("cancelled")
        if fails:
            raise OSError("nobody hears of it")

    async def test() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: complaints.append(what))
        with lanes() as some:
            blocked = asyncio.create_task(some.run(block, "pool"))
            await started(first)
            last = asyncio.create_task(some.run(lambda: done.append("last"), "pool"))
            for _ in range(3):  # however often
                blocked.cancel()
                await asyncio.sleep(0)
            assert not blocked.done()
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await blocked
            assert done[0] == "cancelled"
            await last
        assert not complaints

    run(test())
    assert done == ["cancelled", "last"]


def test_an_error_is_the_callers_and_the_lane_is_free() -> None:
    def fail() -> None:
        raise OSError("it failed")

    async def test() -> None:
        with lanes() as some:
            with pytest.raises(OSError, match="it failed"):
                await some.run(fail, "pool")
            assert await some.run(lambda: 7, "pool") == 7

    run(test())


def test_closing_waits_for_what_is_under_way() -> None:
    first, go = threading.Event(), threading.Event()
    done: list[str] = []

    def block() -> None:
        first.set()
        assert go.wait(SOON)
        done.append("work")

    async def test() -> None:
        with lanes() as some:
            task = asyncio.create_task(some.run(block, "pool"))
            await started(first)
            closing = asyncio.create_task(asyncio.to_thread(some.close))
            await asyncio.sleep(0)
            assert not closing.done()
            go.set()
            await closing
            done.append("closed")
            await task

    run(test())
    assert done == ["work", "closed"]
