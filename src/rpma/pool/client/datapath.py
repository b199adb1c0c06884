# SPDX-License-Identifier: BSD-3-Clause
"""A client's data connection: what is under way on it, and who waits for what.

Nothing here waits. Requests are posted, each with a `Waiter`; work completions come in by
`DataPath.complete` and finish the waiters. Whoever drives it, blocking or asyncio, brings them.
"""

from __future__ import annotations

import threading
import weakref
from array import array
from collections import deque
from typing import TYPE_CHECKING

from rpma._native import ffi, lib
from rpma.completion import completion_of, fields_of, room_for_one
from rpma.constants import CompletionFlags, FlushType, WcStatus
from rpma.errors import (
    ClosedError,
    RequestFlushedError,
    RpmaError,
    completion_error,
    error_for,
)
from rpma.pool.client.memory import Slot
from rpma.pool.client.order import Order
from rpma.pool.client.waiting import Batch, SwapWaiter, Waiter, again
from rpma.pool.protocol.errors import (
    NotDurableError,
    PoolAccessError,
    PoolError,
    ProtocolError,
    StorageError,
    TargetLost,
)
from rpma.pool.protocol.wire import (
    ANSWER,
    ANSWER_ROOM,
    LIST_MOST,
    LISTS,
    REQUEST,
    REQUEST_ROOM,
    SWAP_ANSWER,
    SWAP_REQUEST,
)

if TYPE_CHECKING:
    import struct
    from collections.abc import Callable
    from typing import Any

    from rpma._types import WritableBuffer
    from rpma.completion import Fields
    from rpma.connection import Connection
    from rpma.constants import Usage
    from rpma.memory import MemoryRegion, RemoteMemoryRegion
    from rpma.peer import Peer
    from rpma.pool.client.ssh import SshTarget

SEGMENT_SIZE = 256 << 10
"""How much one request moves at most, in bytes."""

SMALL_SIZE = 4096
"""A transfer up to this size, in bytes, takes a small slot of the bounce buffers."""

PLAIN = frozenset((bytes, bytearray))
"""What is contiguous, and of bytes, by its kind."""

LEAST_BOUNCE_SIZE = 1 << 20
"""Fewer bounce buffers than this, in bytes, are not enough to go on with."""

SEND_QUEUE_SIZE = 128

TOGETHER = 16
"""How many small writes of tasks travel together at most."""

UNSIGNALLED_MOST = 14
"""Small requests leave a completion after so many that left none."""

UNSIGNALLED_BATCHES = 2 * TOGETHER
"""How many of those that travel together, and become durable, leave none before one does."""

NOTHING = (1 << 64) - 1
"""In the wr_id of a room for a completion that has none."""

RECEIVE = 1 << 62
"""In the wr_id of a receive, with the number of its buffer."""

_INTERRUPTED = "a signal handler raised in the middle of a request: close the client, connect again"
_ALWAYS = CompletionFlags.ALWAYS
_ON_ERROR = CompletionFlags.ON_ERROR
_SUCCESS = int(WcStatus.SUCCESS)
_SEGMENTS = "struct rpmapy_segment[]"
assert TOGETHER <= LIST_MOST

# The data path looks these up once.
_write_many = lib.rpmapy_write_many
_write_many_send = lib.rpmapy_write_many_send

_REFUSALS: dict[int, tuple[type[PoolError], str]] = {
    1: (
        PoolAccessError,
        "the target does not let this range be persisted: is it open for reading?",
    ),
    2: (
        StorageError,
        "the target's storage failed: what was written since the last persist may be lost; the "
        "target's log says why",
    ),
    3: (NotDurableError, "the pool is in DRAM: nothing can make it durable"),
}


class DataPath:
    """The data connection of a client.

    Attributes:
        connection: librpma's.
        bounce: the region of the bounce buffers.
        messages: the region of what the target is asked, and answers.
        broken: why nothing can be posted any more, or None.
        started: a target that lives as long as this connection, or None.
        posted: how many requests were; the next one has this wr_id.
        retired: how many of them are done.
        under_way: who waits for which of the others, in their order.
        small: slots for up to SMALL_SIZE bytes that are free.
        one: room for the completion that is next.
        unsignalled: how many of the last ones leave no completion: they wait for another's.
        torn: whether something is done that must not be interrupted, or was.
        held: writes that wait for others, to be posted with them, or None.
        order: the calls that are under way, and whose turn it is to post.
    """

    def __init__(
        self,
        peer: Peer,
        connection: Connection,
        bounce: MemoryRegion,
        messages: MemoryRegion,
        depth: int,
        target: str,
    ) -> None:
        """Made by `rpma.pool.client.data_connection`."""
        self.peer = peer
        self.connection = connection
        self.bounce = bounce
        self.broken: Exception | None = None
        self.started: SshTarget | None = None
        self.messages = messages
        self._message_view = messages.view
        self._target = target
        self.torn = False
        self.held: Batch | None = None
        self._many_posted = ffi.new("int *")
        self.one = room_for_one()
        self.one.wr_id = NOTHING
        self.posted = 0
        self.retired = 0
        self.unsignalled = 0
        self._signal_each = SEND_QUEUE_SIZE // 4
        self.under_way: deque[tuple[int, Waiter]] = deque()
        self._next_id = 0
        self._answers: dict[int, tuple[Waiter, int, Waiter, int]] = {}
        self._requests_free = list(range(depth))
        self._answers_at = depth * REQUEST_ROOM
        self.order = Order()
        self._is_closed = False
        self._registering = threading.Lock()
        self._regions: weakref.WeakSet[MemoryRegion] = weakref.WeakSet()
        self._view = bounce.view
        self.small: list[Slot] = []
        self._large: list[Slot] = []
        border = len(bounce) // 8 // SEGMENT_SIZE * SEGMENT_SIZE or SEGMENT_SIZE
        for home, size, begin, end in (
            (self.small, SMALL_SIZE, 0, border),
            (self._large, SEGMENT_SIZE, border, len(bounce)),
        ):
            for offset in range(begin, end - size + 1, size):
                home.append(Slot(home, offset, self._view[offset : offset + size]))

    def register(self, memory: WritableBuffer, usage: Usage) -> MemoryRegion:
        """Register more memory for this connection, with which it is deregistered at the latest.

        Raises:
            ClosedError: the connection is closed, by another thread perhaps.
        """
        with self._registering:
            if self._is_closed:
                raise ClosedError("the client is closed")
            region = self.peer.register(memory, usage)
            self._regions.add(region)
            return region

    # ---- room ------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what broke it, if it is broken."""
        if self.torn:
            self.interrupted()
        if self.broken is not None:
            raise again(self.broken)

    def tear(self) -> None:
        """Something was interrupted in the middle: nobody knows what is under way."""
        self.torn = True

    def slot(self, length: int) -> Slot | None:
        """A slot for up to `length` bytes, perhaps for fewer; None: none is free."""
        if length <= SMALL_SIZE and self.small:
            return self.small.pop()
        return self._large.pop() if self._large else None

    def has_room(self, requests: int) -> bool:
        """Whether so many requests can be posted."""
        if self.held is not None:
            requests += len(self.held.slots) + 1
        return self.posted - self.retired + requests <= SEND_QUEUE_SIZE

    def has_request_room(self) -> bool:
        """Whether a flush request can be sent."""
        free = len(self._requests_free)
        if self.held is not None and self.held.number is not None:
            free -= 1
        return free > 0 and self.has_room(1)

    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self.posted == self.retired

    def is_unasked(self) -> bool:
        """Whether the target has answered all that it was asked."""
        return not self._answers

    def make_room(self) -> None:
        """Somebody gave something back."""
        if self.order.unposted:
            self.order.wake()

    def spares_completion(self, length: int) -> bool:
        """Whether a small write and a flush request may go without one: for a while.

        An acknowledgement of its own costs the target as much as the answer does. What they hold,
        few of many, is free when a later request has completed.
        """
        return (
            length <= SMALL_SIZE
            and self.unsignalled < UNSIGNALLED_MOST
            and len(self._requests_free) > UNSIGNALLED_MOST
        )

    def unanswered(self, number: int) -> list[Waiter]:
        """What is done when the target has answered all that it was asked about a pool."""
        return [waiter for waiter, _, _, of in self._answers.values() if of == number]

    # ---- posting: after a look for room ----------------------------------------------------------

    def hold(self, dst: RemoteMemoryRegion, number: int | None) -> Batch:
        """Begin with a batch: what is held for another memory, or otherwise, is posted.

        Where its writes are to become durable there has been a look for room of one more request.
        """
        self.post_held()
        self.held = batch = Batch(dst, self.small, number)
        return batch

    def post_held(self) -> None:
        """Post the writes that are held back, if there are any."""
        batch = self.held
        if batch is None:
            return
        if self.torn:
            self.interrupted()
            return
        self.torn = True
        posted = self._many_posted
        posted[0] = 0
        try:
            if batch.number is None:
                done: Waiter = batch
                ret = _write_many(
                    self.connection._h,
                    batch.dst._h,
                    self.bounce._h,
                    ffi.from_buffer(_SEGMENTS, array("Q", batch.segments)),
                    len(batch.slots),
                    self.posted,
                    posted,
                )
                self.unsignalled = 0
            else:
                done = batch.sent
                ret = self._post_durable(batch, batch.number, posted)
            self.posted += posted[0]
            self.under_way.append((self.posted - 1, done))
            self.held = None  # by now: whatever happens, one of them has it
        except BaseException:
            self.interrupted()
            raise
        self.torn = False
        if ret:
            self.lose(error_for(ret, "post writes"))

    def _post_durable(self, batch: Batch, number: int, posted: Any) -> int:
        """Post writes, and one request to have them made durable, whose answer is for all."""
        count, segments = len(batch.slots), batch.segments
        if count == 1:
            form = REQUEST
            ranges: tuple[int, ...] = segments[0], segments[2], number, 0
        else:
            form = LISTS[count]
            flat = [number, count, *segments]
            del flat[3::3]  # where they are in the bounce buffers
            ranges = tuple(flat)
        self.unsignalled += count
        spares = (
            self.unsignalled <= UNSIGNALLED_BATCHES
            and len(self.small) > UNSIGNALLED_BATCHES
            and len(self._requests_free) > UNSIGNALLED_MOST
        )
        at = self._write_down(batch, form, batch.sent, number, ranges)
        ret: int = _write_many_send(
            self.connection._h,
            batch.dst._h,
            self.bounce._h,
            ffi.from_buffer(_SEGMENTS, array("Q", segments)),
            count,
            self.messages._h,
            at,
            form.size,
            _ON_ERROR if spares else _ALWAYS,
            self.posted,
            posted,
        )
        self.unsignalled = self.unsignalled + 1 if spares else 0
        return ret

    def write(
        self,
        dst: RemoteMemoryRegion,
        dst_offset: int,
        src: MemoryRegion,
        src_offset: int,
        length: int,
        waiter: Waiter | None,
    ) -> None:
        """Post a write; `waiter` is None where a later request tells that it is done."""
        post, flags = self.connection.write, self._flags(waiter)
        self._post(waiter, flags, post, dst, dst_offset, src, src_offset, length)

    def read(
        self,
        dst: MemoryRegion,
        dst_offset: int,
        src: RemoteMemoryRegion,
        src_offset: int,
        length: int,
        waiter: Waiter,
    ) -> None:
        """Post a read."""
        post = self.connection.read
        self._post(waiter, _ALWAYS, post, dst, dst_offset, src, src_offset, length)

    def atomic_write(
        self, dst: RemoteMemoryRegion, dst_offset: int, value: bytes, waiter: Waiter
    ) -> None:
        """Post an atomic write of 8 bytes."""
        self._post(waiter, _ALWAYS, self.connection.atomic_write, dst, dst_offset, value)

    def flush(
        self,
        dst: RemoteMemoryRegion,
        dst_offset: int,
        length: int,
        kind: FlushType,
        waiter: Waiter,
    ) -> Waiter:
        """Post a flush. What it returns is as for `request_flush`."""
        self._post(waiter, _ALWAYS, self.connection.flush, dst, dst_offset, length, kind)
        return waiter

    def request_flush(self, number: int, offset: int, length: int, waiter: Waiter) -> Waiter:
        """Send the target a flush request; done when its answer is here.

        Returns:
            What is done when the memory of all that was posted so far is free again: by the rules
            of verbs, an answer does not tell that.
        """
        return self._request(waiter, REQUEST, offset, length, number, 0)

    def request_swap(
        self, number: int, offset: int, expected: int, desired: int, waiter: SwapWaiter
    ) -> Waiter:
        """Ask the target for a compare-and-swap. What it returns is as for `request_flush`."""
        return self._request(waiter, SWAP_REQUEST, offset, 8, number, 0, expected, desired)

    def _request(
        self,
        waiter: Waiter,
        form: struct.Struct,
        offset: int,
        length: int,
        number: int,
        *fields: int,
    ) -> Waiter:
        self._post_held_first()
        self.torn = True
        flags = _ON_ERROR if self.spares_completion(length) else _ALWAYS
        at, sent = self.ask(waiter, form, offset, length, number, *fields)
        try:
            self._post(sent, flags, self.connection.send, self.messages, at, form.size)
        except RpmaError:
            self.ask_no_more()
            raise
        return sent

    def ask(
        self,
        waiter: Waiter,
        form: struct.Struct,
        offset: int,
        length: int,
        number: int,
        *fields: int,
    ) -> tuple[int, Waiter]:
        """Write down a message that the target answers, which is to be sent next.

        Returns:
            Where it is in `messages`, and what is to be done when it has been sent.
        """
        sent = Waiter()
        at = self._write_down(waiter, form, sent, number, (offset, length, number, *fields))
        return at, sent

    def _write_down(
        self,
        waiter: Waiter,
        form: struct.Struct,
        sent: Waiter,
        number: int,
        fields: tuple[int, ...],
    ) -> int:
        place, identity = self._requests_free.pop(), self._next_id
        at = place * REQUEST_ROOM
        form.pack_into(self._message_view, at, identity, *fields)
        self._next_id += 1
        self._answers[identity] = waiter, place, sent, number
        return at

    def ask_no_more(self) -> None:
        """What was written down last could not be sent."""
        self._next_id -= 1
        _, place, _, _ = self._answers.pop(self._next_id)
        self._requests_free.append(place)

    def nothing(self, waiter: Waiter) -> None:
        """Post a write of nothing: done when all before it is."""
        self._post(waiter, _ALWAYS, self.connection.write, None, 0, None, 0, 0)

    def _flags(self, waiter: Waiter | None) -> CompletionFlags:
        # A request that nobody waits for is retired by a later one: there must be one soon.
        if waiter is None and (self.posted + 1) % self._signal_each:
            return _ON_ERROR
        return _ALWAYS

    def _post(
        self,
        waiter: Waiter | None,
        flags: CompletionFlags,
        post: Callable[..., None],
        *arguments: object,
    ) -> None:
        self._post_held_first()
        # A signal handler may raise at any moment: then nobody knows how far this came.
        self.torn = True
        try:
            post(*arguments, flags=flags, wr_id=self.posted)
            self.unsignalled = 0 if flags is _ALWAYS else self.unsignalled + 1
            if waiter is not None:
                self.under_way.append((self.posted, waiter))
            self.posted += 1
        except RpmaError:
            self.torn = False
            raise
        except BaseException:
            self.interrupted()
            raise
        self.torn = False

    def _post_held_first(self) -> None:
        # Requests are executed in the order of the calls: a flush is for all writes before it.
        if self.held is not None:
            self.post_held()
            self.check()

    # ---- completions -----------------------------------------------------------------------------

    def progress(self, timeout: float | None) -> None:
        """Wait for a work completion, and see to it.

        Raises:
            WaitTimeoutError: there was none in time.
        """
        if self.torn:
            self.interrupted()
            return
        one = self.one
        if one.wr_id == NOTHING:  # else there was one when a signal handler raised
            try:
                self.connection.cq.next_into(one, timeout)
            except ConnectionError as error:  # it ended, and nothing is left to complete
                self.lose(error)
                return
            except ClosedError:
                raise ClosedError("the client is closed") from None
        self.torn = True
        fields = fields_of(one)
        one.wr_id = NOTHING
        self.complete(fields)
        self.torn = False

    def complete(self, fields: Fields) -> None:
        """See to a work completion."""
        wr_id, status, _, _, byte_len, _, _, _ = fields
        if status != _SUCCESS:
            self._fail(fields)
        elif wr_id & RECEIVE:
            self._answered(wr_id, byte_len)
        else:
            self.retire(wr_id)
        self.make_room()

    def retire(self, number: int) -> None:
        """A request is done, and, since a send queue completes in order, all before it."""
        under_way = self.under_way
        self.retired = max(self.retired, number + 1)
        while under_way and under_way[0][0] <= number:
            under_way[0][1].finish()
            under_way.popleft()

    def _answered(self, wr_id: int, byte_len: int) -> None:
        at = self._answers_at + (wr_id & ~RECEIVE) * ANSWER_ROOM
        identity, status, reserved = ANSWER.unpack_from(self._message_view, at)
        waiter, place, sent, _ = self._answers.get(identity, (None, -1, None, -1))
        size = SWAP_ANSWER.size if isinstance(waiter, SwapWaiter) else ANSWER.size
        if byte_len != size or reserved or waiter is None or sent is None:
            self._break(ProtocolError("an answer came that is not the protocol's"))
            return
        if isinstance(waiter, SwapWaiter):
            waiter.found = SWAP_ANSWER.unpack_from(self._message_view, at)[-1]
        sent.also(lambda: self._requests_free.append(place))
        if status == 0:
            waiter.finish()
        else:
            cls, words = _REFUSALS.get(status, (ProtocolError, f"the answer has status {status}"))
            waiter.finish(cls(words))
        del self._answers[identity]
        try:
            self.connection.recv(self.messages, at, ANSWER_ROOM, wr_id=wr_id)
        except RpmaError as error:  # this answer is here, and what else has completed comes too
            self.lose(error)

    def _fail(self, fields: Fields) -> None:
        # Whatever the status, the connection is over. A target that dies may take its memory away
        # before the connection: then the first thing to fail is the access to that.
        wc = completion_of(fields)
        error = self._lost(completion_error(wc, "a request to the target"))
        if not wc.wr_id & RECEIVE and self.broken is None:
            self.retire(wc.wr_id - 1)
        self._break(error)

    def lose(self, cause: Exception) -> None:
        """The connection has ended."""
        self._break(self._lost(cause))

    def _lost(self, cause: Exception) -> TargetLost:
        # Of a request that was not executed any more that is all there is to say.
        is_flushed = isinstance(cause, RequestFlushedError)
        why = "the target has ended, or the network to it has" if is_flushed else cause
        error = TargetLost(f"the connection to {self._target} is lost: {why}")
        error.__cause__ = cause
        return error

    def interrupted(self) -> None:
        """A signal handler has raised in the middle of something."""
        self._break(TargetLost(_INTERRUPTED))

    def _break(self, error: Exception) -> None:
        if self.broken is None:
            self.broken = error
        # They are finished before they are forgotten: another signal may come.
        for _, waiter in tuple(self.under_way):
            waiter.finish(self.broken)
        for waiter, _, _, _ in tuple(self._answers.values()):
            waiter.finish(self.broken)
        if self.held is not None:
            self.held.finish(self.broken)
            self.held.sent.finish(self.broken)
        self.order.fail(self.broken)
        self.under_way.clear()
        self._answers.clear()
        self.held = None

    # ---- the end ---------------------------------------------------------------------------------

    def close(self, is_in_call: bool = False) -> None:
        """Disconnect, and let go of all memory.

        Args:
            is_in_call: a call is under way, which may yet touch the bounce buffers: their memory
                goes when that has ended.
        """
        with self._registering:
            self._is_closed = True
        if self.broken is None:
            self.broken = ClosedError("the client is closed")
        self.connection.close()
        self._break(self.broken)  # nothing more completes: who waits for that may go on
        if not is_in_call:
            for slot in (*self.small, *self._large):
                slot.view.release()
            self._view.release()
            self._message_view.release()
        for region in (self.bounce, self.messages, *self._regions):
            region.close()
        self.peer.close()
        if self.started is not None:
            self.started.close()
