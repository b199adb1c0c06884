# SPDX-License-Identifier: BSD-3-Clause
"""Small writes of many tasks, posted together.

One by one, each would cost a crossing into C, a system call and a completion. Those that tasks make
in one turn of the event loop travel together; one that finds nothing under way goes at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpma.pool.client.datapath import PLAIN, SMALL_SIZE

if TYPE_CHECKING:
    import asyncio

    from rpma._types import Buffer
    from rpma.pool.client.pool_logic import PoolLogic

TOGETHER = 16
"""So many do not wait for more: the target has something to do meanwhile."""


class Outbox:
    """The small writes of one pool."""

    __slots__ = ("_is_called", "_logic", "_loop", "_path", "_remote", "_size", "_writes")

    def __init__(self, logic: PoolLogic, loop: asyncio.AbstractEventLoop) -> None:
        """For tasks of `loop` that write to the pool."""
        self._logic, self._loop = logic, loop
        self._path, self._remote, self._size = logic.path, logic.remote, logic.size
        self._writes = logic.access != "read"
        self._is_called = False

    def write(self, offset: int, data: Buffer) -> asyncio.Future[None] | None:
        """Write a copy of `data`, soon.

        Returns:
            What is done when the target's memory has it; None, for an argument or for want of
            room: nothing has happened. The steps of `PoolLogic.write` do it, or say why not.
        """
        path = self._path
        if (
            type(data) not in PLAIN
            or type(offset) is not int
            or not self._writes
            or self._logic.closed
            or path.broken is not None
            or path.torn
            or not path.small
            or not path.has_room(1)
        ):
            return None
        length = len(data)  # type: ignore[arg-type]
        if not 0 < length <= SMALL_SIZE or not 0 <= offset <= self._size - length:
            return None
        order = path.order
        if order.unposted and not order.lets_pass(self._logic, offset, length, writes=True):
            return None
        try:  # a signal handler may raise at any moment
            slot = path.small.pop()
            try:
                slot.view[:length] = data
            except ValueError:  # another thread has made it longer or shorter
                slot.give_back()
                return None
            batch = path.held
            if batch is None or batch.dst is not self._remote:
                batch = path.hold(self._remote)
            future = self._loop.create_future()
            batch.segments += (offset, slot.offset, length)
            batch.slots.append(slot)
            batch.futures.append(future)
            if len(batch.slots) == TOGETHER or path.posted == path.retired:
                path.post_held()
            elif not self._is_called:
                self._is_called = True
                self._loop.call_soon(self._turn_is_over)
        except BaseException:
            path.interrupted()
            raise
        return future

    def _turn_is_over(self) -> None:
        try:
            self._is_called = False
            self._path.post_held()
        except BaseException:
            self._path.interrupted()
            raise
