# SPDX-License-Identifier: BSD-3-Clause
"""Small writes of many tasks, posted together.

One by one, each would cost a crossing into C, a system call and a completion. Those that tasks make
in one turn of the event loop travel together; one that finds nothing under way goes at once.

Those that are to be durable are also flushed together, by one request. A flush takes so long that
one goes at once only where the one before was alone as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpma.pool.client.datapath import PLAIN, SMALL_SIZE, TOGETHER
from rpma.pool.protocol.persistency import Persistency

if TYPE_CHECKING:
    import asyncio

    from rpma._types import Buffer
    from rpma.pool.client.pool_logic import PoolLogic

_ASKED = frozenset((Persistency.MSYNC, Persistency.PMEM))


class Outbox:
    """The small writes of one pool."""

    __slots__ = (
        "_asks",
        "_is_alone",
        "_is_called",
        "_logic",
        "_loop",
        "_number",
        "_path",
        "_remote",
        "_size",
        "_writes",
    )

    def __init__(self, logic: PoolLogic, loop: asyncio.AbstractEventLoop) -> None:
        """For tasks of `loop` that write to the pool."""
        self._logic, self._loop = logic, loop
        self._path, self._remote, self._size = logic.path, logic.remote, logic.size
        self._number = logic.number
        self._writes = logic.access != "read"
        self._asks = logic.persistency in _ASKED
        self._is_called = False
        self._is_alone = False

    def write(self, offset: int, data: Buffer) -> asyncio.Future[None] | None:
        """Write a copy of `data`, soon.

        Returns:
            What is done when the target's memory has it; None, for an argument or for want of
            room: nothing has happened. The steps of `PoolLogic.write` do it, or say why not.
        """
        return self._add(offset, data, None)

    def write_persist(self, offset: int, data: Buffer) -> asyncio.Future[None] | None:
        """Write a copy of `data`, soon, and have it made durable.

        Returns:
            What is done when the data is durable; None as for `write`.
        """
        if not self._asks or not self._path.has_request_room():
            return None
        return self._add(offset, data, self._number)

    def _add(self, offset: int, data: Buffer, number: int | None) -> asyncio.Future[None] | None:
        """With a write that is to become durable, in the pool of this number, or is not."""
        path = self._path
        if (
            type(data) not in PLAIN
            or type(offset) is not int
            or not self._writes
            or self._logic.closed
            or path.broken is not None
            or path.torn
            or not path.small
            or not path.has_room(2)  # and, perhaps, a request behind them
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
            if batch is None or batch.dst is not self._remote or batch.number != number:
                batch = path.hold(self._remote, number)
            future = self._loop.create_future()
            batch.segments += (offset, slot.offset, length)
            batch.slots.append(slot)
            batch.futures.append(future)
            # So many do not wait for more: the target has something to do meanwhile.
            if len(batch.slots) == TOGETHER or (
                path.is_idle() if number is None else self._is_alone and path.is_unasked()
            ):
                self._post()
            elif not self._is_called:
                self._is_called = True
                self._loop.call_soon(self._turn_is_over)
        except BaseException:
            path.interrupted()
            raise
        return future

    def _post(self) -> None:
        batch = self._path.held
        if batch is not None and batch.number is not None:
            self._is_alone = len(batch.slots) == 1
        self._path.post_held()

    def _turn_is_over(self) -> None:
        try:
            self._is_called = False
            self._post()
        except BaseException:
            self._path.interrupted()
            raise
