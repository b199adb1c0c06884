# SPDX-License-Identifier: BSD-3-Clause
"""How a target answers clients that ask it to make a range durable.

A client writes into the pool, then sends a flush request over the same connection; the target makes
the range durable and sends an answer. It also answers compare-and-swaps. That is C's work, in a
thread of its own for each client and without the GIL: native/pool/responder.c.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from rpma._native import ffi, lib
from rpma._object import NativeObject, handle_out, integer, require
from rpma.connection import Connection
from rpma.errors import InUseError, InvalidArgumentError, RpmaError, error_for
from rpma.memory import MemoryRegion
from rpma.pool.durable import Durable
from rpma.pool.protocol.wire import ANSWER_ROOM, REQUEST_ROOM

MAX_DEPTH: Final[int] = lib.RPMAPY_FLUSH_DEPTH_MAX
"""How many requests of a client can be under way, at most."""

_UINT32_MAX = (1 << 32) - 1


class Ended(enum.Enum):
    """Whether an `Answering` has ended, and why.

    Attributes:
        NOT: it runs, or has not been started.
        STOPPED: by `Answering.stop` or `Answering.close`.
        DISCONNECTED: the connection is over.
        FAILED: `Answering.failure` says why.
    """

    NOT = "it has not ended"
    STOPPED = "it was stopped"
    DISCONNECTED = "the client has closed it, or is gone"
    FAILED = "it has failed"

    def __str__(self) -> str:
        return self.value


_ENDED = {
    lib.RPMAPY_ANSWERING_RUNS: Ended.NOT,
    lib.RPMAPY_ANSWERING_STOPPED: Ended.STOPPED,
    lib.RPMAPY_ANSWERING_DISCONNECTED: Ended.DISCONNECTED,
}


class Counts(NamedTuple):
    """What an `Answering` has done so far.

    Attributes:
        requests: that came, the bad ones too.
        ranges: that were flushed; requests that came together and touch are one.
        bytes: in those ranges.
        failures: answers that the storage has failed.
        bad_requests: answers that the request is bad.
    """

    requests: int
    ranges: int
    bytes: int
    failures: int
    bad_requests: int


class Answering(NativeObject):
    """A thread that answers a client's flush requests.

    From `start` on the connection's completion queue is the thread's alone. Before the connection
    is made, its receives are posted::

        for number in range(depth):
            request.recv(messages, number * REQUEST_ROOM, REQUEST_ROOM, wr_id=number)
        connection = request.connect()
        with Answering(connection, messages, depth) as answering:
            answering.start()
            answering.set_pool(1, durable)

    It keeps the connection and the pools open as long as it is open itself. Without the messages it
    fails: close them later.
    """

    __slots__ = ("_connection", "_messages", "_pools", "_view")
    _what = "answering thread"

    @staticmethod
    def send_queue_size(depth: int) -> int:
        """The `sq_size` that is best for `depth`; `cq_size` is that and `depth`."""
        return depth

    @staticmethod
    def answers_size(depth: int) -> int:
        """How many bytes the messages have behind the `depth` requests."""
        return Answering.send_queue_size(depth) * ANSWER_ROOM

    def __init__(self, connection: Connection, messages: MemoryRegion, depth: int) -> None:
        """Prepare it.

        Args:
            connection: to the client; it has one completion queue, of `depth` receives and each
                answer under way.
            messages: registered with Usage.RECV | Usage.SEND, `depth` requests and `answers_size`.
            depth: how many requests can be under way; as many receives are posted.

        Raises:
            InvalidArgumentError: they do not fit together.
        """
        require(Connection, "connection", connection)
        require(MemoryRegion, "messages", messages)
        count = integer("depth", depth, MAX_DEPTH)
        out = handle_out("rpmapy_answering")
        view = messages.view  # the memory outlives the region, if need be
        ret = lib.rpmapy_answering_new(connection._h, messages._h, count, out)
        if ret == lib.RPMAPY_E_ARGUMENT:
            raise InvalidArgumentError(
                f"cannot answer {depth} requests at a time: depth must be 1 to {MAX_DEPTH}, the "
                "connection have a cq_size above depth and no second or shared queue, messages be "
                "registered with the same peer for RECV and SEND and have room for the requests "
                f"and an answer: best {count * REQUEST_ROOM + self.answers_size(count)} bytes"
            )
        if ret:
            raise error_for(ret, "prepare the answers to flush requests")
        self._adopt(out)
        self._connection, self._messages, self._view = connection, messages, view
        self._pools: dict[int, Durable] = {}

    def start(self) -> None:
        """Start the thread; once."""
        ret = lib.rpmapy_answering_start(self._h)
        if ret == lib.RPMAPY_E_BUSY:
            raise InUseError("the answering thread has been started or stopped before")
        if ret:
            raise error_for(ret, "start the answering thread")

    def set_pool(self, number: int, durable: Durable, may_write: bool = True) -> None:
        """Have requests for pool `number` answered.

        Args:
            number: by which the client's requests name it.
            durable: the pool's memory. It cannot be closed until `clear_pool`.
            may_write: whether the client has it open for writing; else its requests are bad.

        Raises:
            InvalidArgumentError: the number is taken.
        """
        require(Durable, "durable", durable)
        number = integer("number", number, _UINT32_MAX)
        ret = lib.rpmapy_answering_set_pool(self._h, number, durable._h, bool(may_write))
        if ret == lib.RPMAPY_E_ARGUMENT:
            raise InvalidArgumentError(f"number={number} is that of another open pool")
        if ret:
            raise error_for(ret, f"open pool {number} for flush requests")
        self._pools[number] = durable  # keeps its memory

    def clear_pool(self, number: int) -> None:
        """Have requests for pool `number` refused from now on; returns when no flush uses it."""
        number = integer("number", number, _UINT32_MAX)
        ret = lib.rpmapy_answering_clear_pool(self._h, number)
        if ret:
            raise error_for(ret, f"close pool {number} for flush requests")
        self._pools.pop(number, None)

    def stop(self) -> None:
        """End the thread, after the flush that it is at. Does nothing if it has ended."""
        ret = lib.rpmapy_answering_stop(self._h)
        if ret and ret != lib.RPMAPY_E_CLOSED:
            raise error_for(ret, "stop the answering thread")

    @property
    def fd(self) -> int:
        """A file descriptor that becomes readable when the thread has ended, and stays so.

        It lives as long as this object, beyond close().
        """
        return int(lib.rpmapy_answering_fd(self._h))

    @property
    def ended(self) -> Ended:
        """Whether the thread has ended, and why."""
        return _ENDED.get(lib.rpmapy_answering_ended(self._h), Ended.FAILED)

    @property
    def failure(self) -> RpmaError | None:
        """What went wrong, where `ended` is FAILED."""
        code = lib.rpmapy_answering_ended(self._h)
        return None if code in _ENDED else error_for(code, "answer flush requests")

    @property
    def counts(self) -> Counts:
        """What it has done so far."""
        counts = ffi.new("struct rpmapy_answering_counts *")
        lib.rpmapy_answering_counts(self._h, counts)
        return Counts(
            counts.requests, counts.ranges, counts.bytes, counts.failures, counts.bad_requests
        )

    def close(self) -> None:
        """Stop it, and let go of the pools, the connection and the messages."""
        super().close()
        if self.closed:
            self._pools.clear()
            self._view.release()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<rpma.pool.Answering{state} of {self._connection!r}>"
