# SPDX-License-Identifier: BSD-3-Clause
"""The small calls of a pool that blocks, each in one crossing into C.

They do what the logic does, when there is nothing to wait for but the call's own completion: then
its generators would cost as much as the network. All that is out of the ordinary goes its way.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from rpma._native import ffi, lib
from rpma.constants import CompletionFlags
from rpma.pool.client.datapath import NOTHING, PLAIN, SEGMENT_SIZE
from rpma.pool.client.transfers import give_back_when_done
from rpma.pool.client.waiting import Waiter, again
from rpma.pool.protocol.persistency import Persistency
from rpma.pool.protocol.wire import REQUEST

if TYPE_CHECKING:
    from typing import Any

    from rpma.pool.client.driver import Driver
    from rpma.pool.client.memory import Slot
    from rpma.pool.client.pool_logic import PoolLogic

# The data path looks these up once.
_getpid = os.getpid
_write_next = lib.rpmapy_write_next
_read_next = lib.rpmapy_read_next
_write_send_next = lib.rpmapy_write_send_next

_ALWAYS, _ON_ERROR = int(CompletionFlags.ALWAYS), int(CompletionFlags.ON_ERROR)
_ASKED = frozenset((Persistency.MSYNC, Persistency.PMEM))


class Quick:
    """The small calls of one pool.

    Each returns whether it was done. If it was not, for an argument or for want of room, nothing
    has happened: the logic can do it, or says why not.
    """

    __slots__ = (
        "_asks",
        "_bounce",
        "_connection",
        "_line",
        "_lock",
        "_logic",
        "_messages",
        "_number",
        "_path",
        "_pid",
        "_places",
        "_posted",
        "_remote",
        "_size",
        "_writes",
    )

    def __init__(self, driver: Driver, logic: PoolLogic) -> None:
        """For the calls of the pool that `driver` runs the logic of."""
        path = logic.path
        self._line, self._places = driver.line, driver.line.places
        self._lock = driver.line.lock
        self._logic = logic
        self._path = path
        self._pid = os.getpid()
        self._size = logic.size
        self._writes = logic.access != "read"
        self._asks = logic.persistency in _ASKED
        self._number = logic.number
        self._connection = path.connection._h
        self._bounce, self._messages = path.bounce._h, path.messages._h
        self._remote = logic.remote._h
        self._posted = ffi.new("int *")

    def write(self, offset: int, data: Any) -> bool:
        """Write; done when the target's memory has it."""
        if not self._writes or type(data) not in PLAIN:
            return False
        length = len(data)
        if not self._fits(offset, length):
            return False
        if (self._places or self._path.torn) and not self._line.is_inside():
            return self._line.do(partial(self.write, offset, data), None)
        with self._lock:
            slot = self._begin(length, 1, data)
            if slot is None:
                return False
            path = self._path
            try:
                ret = _write_next(
                    self._connection,
                    self._remote,
                    offset,
                    self._bounce,
                    slot.offset,
                    length,
                    path.posted,
                    self._posted,
                    path.one,
                )
            except BaseException:
                give_back_when_done(path, slot, self._left())
                raise
            return self._ended(ret, slot, None)

    def read_into(self, offset: int, data: memoryview | bytearray) -> bool:
        """Fill `data`, which is of bytes, from `offset` on."""
        length = len(data)
        if not self._fits(offset, length):
            return False
        if (self._places or self._path.torn) and not self._line.is_inside():
            return self._line.do(partial(self.read_into, offset, data), None)
        with self._lock:
            slot = self._begin(length, 1, None)
            if slot is None:
                return False
            path = self._path
            try:
                ret = _read_next(
                    self._connection,
                    self._bounce,
                    slot.offset,
                    self._remote,
                    offset,
                    length,
                    path.posted,
                    self._posted,
                    path.one,
                )
            except BaseException:
                give_back_when_done(path, slot, self._left())
                raise
            return self._ended(ret, slot, data)

    def write_persist(self, offset: int, data: Any) -> bool:
        """Write; done when the target says that it is durable."""
        if not self._asks or not self._writes or type(data) not in PLAIN:
            return False
        length = len(data)
        if not self._fits(offset, length):
            return False
        if (self._places or self._path.torn) and not self._line.is_inside():
            return self._line.do(partial(self.write_persist, offset, data), None)
        with self._lock:
            path = self._path
            slot = self._begin(length, 2, data) if path.has_request_room() else None
            if slot is None:
                return False
            durable = Waiter()
            at, sent = path.ask(durable, REQUEST, offset, length, self._number, 0)
            spares = path.spares_completion(length)
            try:
                _write_send_next(
                    self._connection,
                    self._remote,
                    offset,
                    self._bounce,
                    slot.offset,
                    length,
                    self._messages,
                    at,
                    REQUEST.size,
                    _ON_ERROR if spares else _ALWAYS,
                    path.posted,
                    self._posted,
                    path.one,
                )
            finally:
                left = self._left(sent, spares)
                give_back_when_done(path, slot, left)
                if left is not sent:
                    path.ask_no_more()
            if left is not sent:
                return False
            while not durable.done:
                path.progress(None)
            if durable.error is not None:
                raise again(durable.error)
            return True

    # ---- what they share -------------------------------------------------------------------------

    def _fits(self, offset: int, length: int) -> bool:
        """Whether it is a small part of the pool, and that is of this process."""
        return (
            type(offset) is int
            and 0 < length <= SEGMENT_SIZE
            and 0 <= offset <= self._size - length
            and _getpid() == self._pid
        )

    def _begin(self, length: int, requests: int, data: Any) -> Slot | None:
        """A slot that has the data, and room for so many requests, posted next; None: not now."""
        path = self._path
        if (
            path.torn
            or path.broken is not None
            or self._logic.closed  # asked when it is this thread's turn: others may close it
            or path.one.wr_id != NOTHING
            or not path.has_room(requests)
        ):
            return None
        path.torn = True
        slot = path.slot(length)
        if slot is not None and data is not None:
            try:
                slot.view[:length] = data
            except ValueError:  # another thread has made it longer or shorter
                slot.give_back()
                slot = None
        if slot is None:
            path.torn = False
            return None
        self._posted[0] = 0
        return slot

    def _ended(self, ret: int, slot: Slot, into: memoryview | bytearray | None) -> bool:
        """A request was posted and waited for, as far as `ret` says."""
        path = self._path
        number, one = path.posted, path.one
        if not ret and one.wr_id == number and not one.status:  # as ever
            if path.retired != number:
                path.retire(number - 1)
            path.posted = path.retired = number + 1
            path.unsignalled = 0
            one.wr_id = NOTHING
            if into is not None:
                into[:] = slot.view[: len(into)]
            slot.give_back()
            path.torn = False
            return True
        was_posted, waiter = self._posted[0], self._left()
        try:
            while not waiter.done:
                path.progress(None)
            if waiter.error is not None:
                raise again(waiter.error)
            if was_posted and into is not None:
                into[:] = slot.view[: len(into)]
        finally:
            give_back_when_done(path, slot, waiter)
        return bool(was_posted)

    def _left(self, last: Waiter | None = None, spares: bool = False) -> Waiter:
        """Leave what was posted to the connection; returns what is done when all of it is.

        Args:
            last: for the second of two requests, should both have been posted.
            spares: whether that leaves no completion.
        """
        path, count = self._path, self._posted[0]
        is_whole = last is None or count == 2
        waiter = last if last is not None and is_whole else Waiter()
        if count:
            path.posted += count
            path.under_way.append((path.posted - 1, waiter))
            path.unsignalled = path.unsignalled + count if spares or not is_whole else 0
        else:
            waiter.done = True
        path.torn = False
        return waiter
