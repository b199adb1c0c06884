"""A client of many tasks against a model: whatever they do, time out, cancel, close and lose.

The model executes the calls one after the other. What was given up may have happened or not, byte
by byte; all else has, at its place. Nothing that is given back is forgotten, and every task ends.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pairs import SOON
from targets import MIB, TOKEN, serving

import rpma
from fabrics.fabric import Fabric
from rpma import aio
from rpma.pool import PoolBusyError, Target, TargetLost

pytestmark = pytest.mark.fabric

SEGMENT = 256 << 10
SIZE = 6 * SEGMENT

POOLS = st.sampled_from(["one", "another"])
PLACES = st.sampled_from([0, 8, 4096, SEGMENT - 8, SEGMENT, 2 * SEGMENT + 96])
LENGTHS = st.sampled_from([8, 100, 4096, 5000, SEGMENT, SEGMENT + 8, 3 * SEGMENT])
#: The same examples every time.
BUDGET = settings(
    max_examples=50,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # to shrink what hangs takes for ever
    suppress_health_check=list(HealthCheck),
)

TIMEOUTS = st.sampled_from([None, None, None, 0, 0.002])


@dataclass(eq=False)
class Call:
    """A call of a task, in the order in which they were made."""

    kind: str
    at: int
    length: int
    value: int
    expected: int
    timeout: float | None
    pool: Opened
    number: int
    task: asyncio.Task[Any]
    #: How many calls had been made when it was done.
    known: int = 0
    is_cancelled: bool = False
    #: Whether the pool was being closed, or closed, when it was made.
    is_late: bool = False

    @property
    def writes(self) -> bool:
        return self.kind not in ("read", "persist", "array read")

    def outcome(self) -> BaseException | None:
        return asyncio.CancelledError() if self.task.cancelled() else self.task.exception()

    def covers(self, at: int, end: int) -> bool:
        return self.at <= at and end <= self.at + self.length


@dataclass(eq=False)
class Opened:
    """A pool while it is open."""

    name: str
    pool: aio.Pool
    array: aio.PoolArray
    closing: asyncio.Task[None] | None = None
    close_timeout: float | None = None


@dataclass
class Counts:
    """What the data path has to give, and what is under way."""

    small: int
    large: int
    requests: int
    under_way: int = 0
    waiting: int = 0

    @classmethod
    def of(cls, client: aio.Client) -> Counts:
        path = client._driver.path
        assert path is not None
        return cls(
            len(path.small),
            len(path._large),
            len(path._requests_free),
            path.posted - path.retired + len(path.under_way) + len(path._answers),
            len(path.order.unposted) + len(path.order._queue) + len(path.order._calls),
        )


class Tasks(RuleBasedStateMachine):
    """Many tasks of one client."""

    target: Target
    names = 0

    @initialize()
    def connect(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.calls: list[Call] = []
        self.opened: dict[str, Opened] = {}
        self.all_opened: list[Opened] = []
        self.value = 0
        self.is_lost = self.is_slow = False
        Tasks.names += 1
        self.number = Tasks.names
        self.client = self.run(self.come_in())
        self.counts = Counts.of(self.client)
        for name in ("one", "another"):
            self.run(self.create(name))

    async def come_in(self) -> aio.Client:
        return await aio.connect(self.target.address, token=TOKEN, bounce_size=MIB, timeout=SOON)

    async def create(self, name: str) -> None:
        pool = await self.client.create_pool(f"{name}{self.number}", SIZE)
        self.note(name, pool)

    def note(self, name: str, pool: aio.Pool) -> None:
        self.opened[name] = opened = Opened(name, pool, pool.array("u1", SIZE - 8, 8))
        self.all_opened.append(opened)

    def run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(what, 2 * SOON))

    # ---- calls ----

    def call(
        self,
        name: str,
        kind: str,
        at: int,
        length: int,
        timeout: float | None = None,
        expected: int = 0,
    ) -> None:
        opened, pool = self.opened[name], self.opened[name].pool
        self.value = value = self.value % 255 + 1
        word = int.from_bytes(bytes([value]) * 8, "little")
        made: Coroutine[Any, Any, Any]
        if kind == "write":
            made = pool.write(at, bytes([value]) * length, timeout=timeout)
        elif kind == "write_persist":
            made = pool.write_persist(at, bytes([value]) * length, timeout=timeout)
        elif kind == "read":
            made = pool.read(at, length, timeout=timeout)
        elif kind == "persist":
            made = pool.persist(at, length, timeout=timeout)
        elif kind == "array read":
            made = opened.array.read(timeout=timeout)
        elif kind == "store":
            length, made = 8, pool.atomic_store(at, word, timeout=timeout)
        else:
            before = int.from_bytes(bytes([expected]) * 8, "little")
            length, made = 8, pool.compare_and_swap(at, before, word, timeout=timeout)
        number, task = len(self.calls), self.loop.create_task(made)
        call = Call(kind, at, length, value, expected, timeout, opened, number, task)
        call.is_late = opened.closing is not None
        call.task.add_done_callback(lambda _: setattr(call, "known", len(self.calls)))
        self.calls.append(call)

    @rule(name=POOLS, at=PLACES, length=LENGTHS, timeout=TIMEOUTS, persists=st.booleans())
    def write(self, name: str, at: int, length: int, timeout: float | None, persists: bool) -> None:
        self.call(name, "write_persist" if persists else "write", at, length, timeout)

    @rule(name=POOLS, at=PLACES, length=LENGTHS, timeout=TIMEOUTS)
    def write_many(self, name: str, at: int, length: int, timeout: float | None) -> None:
        """More than there is room for."""
        for number in range(12):
            self.call(name, "write", at + 8 * number if length < SEGMENT else at, length, timeout)

    @rule(
        name=POOLS,
        at=PLACES,
        length=LENGTHS,
        timeout=TIMEOUTS,
        kind=st.sampled_from(["read", "persist"]),
    )
    def look(self, name: str, at: int, length: int, timeout: float | None, kind: str) -> None:
        self.call(name, kind, at, length, timeout)

    @rule(name=POOLS, at=PLACES, timeout=TIMEOUTS, stores=st.booleans(), back=st.integers(0, 3))
    def word(self, name: str, at: int, timeout: float | None, stores: bool, back: int) -> None:
        expected = max(self.value - back, 0)
        self.call(name, "store" if stores else "swap", at, 8, timeout, expected)

    @rule(name=POOLS, timeouts=st.lists(TIMEOUTS, min_size=1, max_size=4))
    def read_array(self, name: str, timeouts: list[float | None]) -> None:
        for timeout in timeouts:
            self.call(name, "array read", 8, SIZE - 8, timeout)

    @rule(which=st.integers(0, 100))
    def cancel(self, which: int) -> None:
        pending = [call for call in self.calls if not call.task.done()]
        if pending:
            call = pending[which % len(pending)]
            call.is_cancelled = call.task.cancel()

    # ---- time ----

    @rule(count=st.integers(1, 6))
    def turns(self, count: int) -> None:
        for _ in range(count):
            self.run(asyncio.sleep(0))

    @rule()
    def pause(self) -> None:
        self.run(asyncio.sleep(0.003))

    @precondition(lambda self: not self.is_lost)
    @rule()
    def slow_down(self) -> None:
        """Completions come later; or they come again."""
        self.is_slow = not self.is_slow
        driver = self.client._driver
        if self.is_slow:
            self.loop.remove_reader(driver._watched[0])
        else:
            self.loop.add_reader(driver._watched[0], driver._completed)

    # ---- the end of things ----

    @rule(name=POOLS, timeout=st.sampled_from([None, None, None, 0.001]))
    def close(self, name: str, timeout: float | None) -> None:
        opened = self.opened[name]
        if opened.closing is None:
            opened.close_timeout = timeout
            opened.closing = self.loop.create_task(opened.pool.close(timeout=timeout))
            self.turns(3)  # whatever is called from now on comes after it

    @precondition(lambda self: not self.is_lost and not self.is_slow)
    @rule(name=POOLS)
    def open_again(self, name: str) -> None:
        closing = self.opened[name].closing
        if closing is not None and closing.done() and closing.exception() is None:
            try:
                self.run(self.open(name))
            except TargetLost:
                assert self.may_be_out_of_step()

    def may_be_out_of_step(self) -> bool:
        """Whether a timeout may have passed while the target was asked."""
        return any(opened.close_timeout is not None for opened in self.all_opened)

    async def open(self, name: str) -> None:
        while True:
            try:
                pool = await self.client.open_pool(f"{name}{self.number}", timeout=SOON)
                break
            except PoolBusyError:  # the target has not seen yet that a connection is lost
                await asyncio.sleep(0.01)
        self.note(name, pool)

    @precondition(lambda self: not self.is_lost and len(self.calls) > 8)
    @rule(sure=st.integers(0, 5))
    def lose(self, sure: int) -> None:
        if not sure:
            self.is_lost = True
            path = self.client._driver.path
            assert path is not None
            path.connection.disconnect()

    def teardown(self) -> None:
        if not hasattr(self, "client"):
            return
        try:
            self.run(self.check())
        finally:
            self.loop.run_until_complete(self.client.close(timeout=SOON))
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    # ---- against the model ----

    async def check(self) -> None:
        if self.is_slow:
            driver = self.client._driver
            if driver._watched:
                self.loop.add_reader(driver._watched[0], driver._completed)
        tasks: set[asyncio.Task[Any]] = {call.task for call in self.calls}
        tasks |= {opened.closing for opened in self.opened.values() if opened.closing is not None}
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=SOON)
            assert not pending, pending
        self.check_ends()
        if not self.client._driver.is_lost:  # so it is, too, when there was no time to close
            async with self.client.create_pool(f"probe{self.number}", 8) as probe:
                await probe.read()  # completes after all that may still hold something
                assert Counts.of(self.client) == self.counts
        with suppress(rpma.WaitTimeoutError, TargetLost):
            await self.client.close(timeout=SOON)
        self.client = await self.come_in()
        for name in ("one", "another"):
            self.check_content(name, await self.content(name))

    async def content(self, name: str) -> bytes:
        await self.open(name)
        return await self.opened[name].pool.read(timeout=SOON)

    def check_ends(self) -> None:
        """What each call may raise."""
        for call in self.calls:
            outcome = call.outcome()
            may: list[type[BaseException]] = [type(None)]
            if call.timeout is not None:
                may.append(rpma.WaitTimeoutError)
            if call.pool.close_timeout is not None:
                may.append(rpma.ClosedError)
            if self.is_lost:
                may.append(TargetLost)
            if call.is_late:
                may = [rpma.ClosedError]
            if call.is_cancelled:
                may = [asyncio.CancelledError]
            assert type(outcome) in may, (call, outcome)
        for opened in self.all_opened:
            if opened.closing is not None:
                may = [type(None)]
                if opened.close_timeout is not None:
                    may.append(rpma.WaitTimeoutError)
                if self.is_lost or self.may_be_out_of_step():
                    may.append(TargetLost)
                assert type(opened.closing.exception()) in may, opened

    def check_content(self, name: str, content: bytes) -> None:
        """What was found, and what is there now."""
        calls = [call for call in self.calls if call.pool.name == name]
        cuts = {0, SIZE} | {call.at for call in calls} | {call.at + call.length for call in calls}
        places = list(itertools.pairwise(sorted(cuts)))
        may: dict[tuple[int, int], set[int]] = {place: {0} for place in places}
        for number, call in enumerate(calls):
            covered = [place for place in places if call.covers(*place)]
            is_done = call.outcome() is None
            if call.kind == "read" and is_done:
                for begin, end in covered:
                    later = {
                        other.value
                        for other in calls[number + 1 :]
                        if other.writes and other.number < call.known and other.covers(begin, end)
                    }
                    found = call.task.result()[begin - call.at : end - call.at]
                    self.check_bytes(found, may[begin, end] | later, call, begin)
            if call.kind == "swap" and is_done:
                found = call.task.result().to_bytes(8, "little")
                for begin, end in covered:
                    part = found[begin - call.at : end - call.at]
                    self.check_bytes(part, may[begin, end], call, begin)
                if found != bytes([call.expected]) * 8:
                    continue
            if call.writes and not call.is_late:
                for place in covered:
                    may[place] = {call.value} if is_done else may[place] | {call.value}
        for begin, end in places:
            self.check_bytes(content[begin:end], may[begin, end], name, begin)

    def check_bytes(self, found: bytes, may: set[int], what: object, at: int) -> None:
        others = found.translate(None, bytes(may))
        assert not others, (what, at, set(others), may, self.calls)


def test_tasks_do_what_a_model_says(fabric: Fabric, tmp_path: Path) -> None:
    if fabric.name != "soft":
        pytest.skip("too many calls for a guest")
    with serving(fabric, tmp_path) as target:

        class OfTarget(Tasks):
            pass

        OfTarget.target = target
        run_state_machine_as_test(OfTarget, settings=BUDGET)
