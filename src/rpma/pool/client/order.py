# SPDX-License-Identifier: BSD-3-Clause
"""In which order the calls of many tasks are posted, and which of them are not done yet.

A call of one piece is posted at its place: nobody overtakes a call that waits for room. Longer
ones take turns, piece by piece, so that nobody is shut out; but whoever touches bytes that an
earlier call has not posted yet waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpma.pool.client.waiting import Waiter

if TYPE_CHECKING:
    from types import TracebackType


class Order:
    """The calls of one data connection that are under way.

    Attributes:
        unposted: those that have something to post yet, in the order in which they were made.
    """

    __slots__ = ("_calls", "_made", "_queue", "unposted")

    def __init__(self) -> None:
        self._made = 0
        self.unposted: dict[Call, None] = {}
        self._queue: dict[Call, None] = {}  # who waits for room, the first one first
        self._calls: dict[object, dict[Call, None]] = {}  # of each pool

    def lets_pass(self, pool: object, at: int, length: int, writes: bool) -> bool:
        """Whether a call that is made now, and posted as a whole, overtakes none."""
        return not self._queue and not any(
            call.excludes(pool, at, at + length, writes, asks=False) for call in self.unposted
        )

    def before(self, call: Call) -> list[Call]:
        """The calls of the same pool that were made before it and are under way."""
        return [other for other in self._calls[call.pool] if other.number < call.number]

    def wake(self) -> None:
        """There may be room: the next one looks for it."""
        first = None
        for call in self._queue:
            first = first or call
            if call is first or call.number < first.number:
                call.wake()
            if not first.is_blocked:
                return  # else those that it waits for go on

    def fail(self, error: Exception) -> None:
        """There will be no room any more."""
        for call in tuple(self._queue):
            call.wake(error)
        for calls in tuple(self._calls.values()):
            for call in tuple(calls):  # one that was interrupted may never say so
                call.ended.finish()

    # ---- for `Call` ------------------------------------------------------------------------------

    def enter(self, call: Call) -> int:
        """A call is made; its number."""
        self._calls.setdefault(call.pool, {})[call] = None
        self.unposted[call] = None
        self._made += 1
        return self._made

    def leave(self, call: Call) -> None:
        """A call has ended."""
        calls = self._calls[call.pool]
        del calls[call]
        if not calls:
            del self._calls[call.pool]

    def may_post(self, call: Call, length: int) -> bool:
        """Whether it is the call's turn, with so many bytes."""
        first = next(iter(self._queue), call)
        if first is not call and not (first.is_blocked and call.number < first.number):
            return False
        end = call.at + length
        for earlier in self.unposted:
            if earlier is call:
                break
            if earlier.excludes(call.pool, call.at, end, call.writes, call.asks):
                call.is_blocked = True
                return False
        call.is_blocked = False
        return True

    def queue(self, call: Call) -> None:
        """The call waits for room."""
        self._queue[call] = None

    def unqueue(self, call: Call, *, is_posted: bool) -> None:
        """The call does not wait any more; nor does it hold up others, if all is posted."""
        if is_posted:
            self.unposted.pop(call, None)
        self._queue.pop(call, None)
        if self._queue:
            self.wake()


class Call:
    """A call of a pool while it is under way, for a ``with`` block.

    Attributes:
        pool: whose call it is.
        at: where what it has not posted yet begins, in bytes.
        writes: whether it changes what is there.
        asks: whether it asks the target to do something.
        number: which of the calls that were made it is.
        ended: done when it is not under way any more.
        is_blocked: whether it waits for an earlier one that touches the same bytes.
    """

    __slots__ = (
        "_answer",
        "_end",
        "_order",
        "_waiter",
        "asks",
        "at",
        "ended",
        "is_blocked",
        "number",
        "pool",
        "writes",
    )

    def __init__(
        self, order: Order, pool: object, at: int, length: int, *, writes: bool, asks: bool = False
    ) -> None:
        """A call that touches `length` bytes from `at` on."""
        self._order = order
        self.pool, self.at, self._end = pool, at, at + length
        self.writes, self.asks = writes, asks
        self.number = 0
        self.is_blocked = False
        self.ended = Waiter()
        self._waiter: Waiter | None = None
        self._answer: Waiter | None = None

    def __enter__(self) -> Call:
        self.number = self._order.enter(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._order.leave(self)
        if self._answer is None:
            self.withdraw()
        self.ended.finish()

    def excludes(self, pool: object, begin: int, end: int, writes: bool, asks: bool) -> bool:
        """Whether a later call of `pool` that touches these bytes must wait for this one."""
        return (
            self.pool is pool
            and begin < self._end
            and self.at < end
            and (writes or self.writes)
            and not (asks and self._answer is not None)  # the target answers in order
        )

    def may_post(self, length: int) -> bool:
        """Whether it is its turn, with the next so many bytes, if there is room."""
        return self._order.may_post(self, length)

    def turn(self) -> Waiter:
        """Take a place in the queue; done when it may be its turn, and there may be room."""
        self._order.queue(self)
        if self._waiter is None:
            self._waiter = Waiter()
        return self._waiter

    def wake(self, error: Exception | None = None) -> None:
        """Finish what `turn` has returned."""
        if self._waiter is not None:
            self._waiter.finish(error)  # before it is forgotten: a signal handler may raise
            self._waiter = None

    def posted(self, length: int) -> None:
        """It has posted what moves the next so many bytes."""
        self.at += length
        self._order.unqueue(self, is_posted=self.at >= self._end)

    def asked(self, answer: Waiter) -> None:
        """It has asked the target to change its bytes, which is done when the answer is here."""
        self._answer = answer
        self._order.unqueue(self, is_posted=False)
        answer.also(self.withdraw)

    def withdraw(self) -> None:
        """It posts nothing more."""
        self._order.unqueue(self, is_posted=True)
