# SPDX-License-Identifier: BSD-3-Clause
"""How a target makes a pool's memory durable, and how it answers clients that ask for it.

A client writes into the pool, then sends a flush request over the same connection; the target makes
the range durable and sends an answer. It also answers compare-and-swaps. That is C's work, in a
thread of its own for each client and without the GIL: native/pool. This module holds the objects
behind it.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rpma._native import ffi, lib
from rpma._object import NativeObject, handle_out, integer, pointer_to, require
from rpma._packages import Packages, how_to_install
from rpma.connection import Connection
from rpma.errors import InUseError, InvalidArgumentError, RpmaError, error_for
from rpma.memory import MemoryRegion
from rpma.pool.errors import NotDurableError, StorageError, TargetError
from rpma.pool.wire import ANSWER_ROOM, REQUEST_ROOM

if TYPE_CHECKING:
    from rpma._types import WritableBuffer

MAX_DEPTH: Final[int] = lib.RPMAPY_FLUSH_DEPTH_MAX
"""How many requests of a client can be under way, at most."""

_UINT32_MAX = (1 << 32) - 1
_LIBPMEM = Packages("libpmem1", "libpmem", "libpmem1")


class Persistency(enum.Enum):
    """What makes a pool durable.

    Attributes:
        NONE: nothing: it is in DRAM.
        MSYNC: a request to the target, which writes the pages to the file's storage.
        PMEM: a request to the target, which flushes its CPU caches to persistent memory.
        FLUSH: the client's own flush: what arrives at the target is in its persistence domain. A
            request is answered all the same, as with PMEM.
    """

    NONE = "none"
    MSYNC = "msync"
    PMEM = "pmem_persist"
    FLUSH = "rpma_flush"


_METHODS = {
    Persistency.NONE: lib.RPMAPY_DURABLE_NONE,
    Persistency.MSYNC: lib.RPMAPY_DURABLE_MSYNC,
    Persistency.PMEM: lib.RPMAPY_DURABLE_PMEM,
    Persistency.FLUSH: lib.RPMAPY_DURABLE_PMEM,
}


class FlushStatus(enum.IntEnum):
    """What an answer says.

    Attributes:
        OK: the range is durable.
        BAD_REQUEST: it is no request, or not for this pool.
        STORAGE_FAILED: what was written since the last flush may be lost; the pool stays so.
        NOT_DURABLE: nothing can make the pool durable.
    """

    OK = lib.RPMAPY_FLUSH_OK
    BAD_REQUEST = lib.RPMAPY_FLUSH_BAD_REQUEST
    STORAGE_FAILED = lib.RPMAPY_FLUSH_STORAGE_FAILED
    NOT_DURABLE = lib.RPMAPY_FLUSH_NOT_DURABLE


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
    DISCONNECTED = "the connection is over"
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


class Durable(NativeObject):
    """A pool's memory, and how it is made durable.

    It holds the buffers until it is closed. A failure of the storage stays with it: what was
    written before may be lost, and no later success proves otherwise.

    The first one makes the process survive a file that shrinks while it is mapped, or whose storage
    fails under the mapping (SIGBUS): memory takes the place of the page, and the pool has failed.
    """

    __slots__ = ("_mapping", "_memory", "_size", "persistency")
    _what = "durable memory"
    _warns = False

    def __init__(
        self,
        memory: WritableBuffer,
        mapping: WritableBuffer | None,
        persistency: Persistency,
        fd: int | None = None,
        file_offset: int = 0,
    ) -> None:
        """Describe it.

        Args:
            memory: the pool's bytes, as they are registered.
            mapping: the same bytes of the mapped file, where `memory` is a shadow of it in DRAM,
                out of which a flush copies them; None where `memory` is all there is.
            persistency: what makes them durable.
            fd: the mapped file, which is opened once more, where there is one. Without it many
                ranges are not made durable by one flush.
            file_offset: where in the file the mapping begins.

        Raises:
            InvalidArgumentError: the two are of different sizes, or empty.
            TargetError: libpmem is needed and not installed.
        """
        require(Persistency, "persistency", persistency)
        with contextlib.ExitStack() as stack:
            view = stack.enter_context(_bytes_of("memory", memory))
            file = view if mapping is None else stack.enter_context(_bytes_of("mapping", mapping))
            if file.nbytes != view.nbytes:
                raise InvalidArgumentError(
                    f"mapping has {file.nbytes} bytes, memory {view.nbytes}: they must be as many"
                )
            number = lib.rpmapy_durable_guard()
            if number:
                raise StorageError(f"cannot guard the mapping: {os.strerror(number)}")
            out = handle_out("rpmapy_durable")
            ret = lib.rpmapy_durable_new(
                pointer_to(view),
                pointer_to(file),
                view.nbytes,
                _METHODS[persistency],
                -1 if fd is None else fd,
                file_offset,
                out,
            )
            if ret:
                raise _error(ret, "describe the memory of a pool")
            self._adopt(out)
            stack.pop_all()
        self._memory, self._mapping = view, file
        self._size = view.nbytes
        self.persistency = persistency

    def flush(self, offset: int = 0, length: int | None = None) -> None:
        """Make a range durable, to the end with ``length=None``; other threads run meanwhile.

        Raises:
            InvalidArgumentError: the range is outside.
            NotDurableError: nothing can.
            StorageError: the storage has failed, now or before.
        """
        start = integer("offset", offset, self._size, "bytes")
        if length is None:
            length = self._size - start
        count = integer("length", length, self._size - start, "bytes")
        ret = lib.rpmapy_durable_flush(self._h, start, count)
        if ret:
            raise _error(ret, f"make {count} bytes at {start} durable")

    def write_back(self) -> None:
        """Copy what differs from the shadow into the file, and make it durable.

        For a pool that is closed: it brings what clients wrote and did not flush. Without a shadow
        there is nothing to do.

        Raises:
            StorageError: the storage has failed, now or before.
        """
        ret = lib.rpmapy_durable_write_back(self._h)
        if ret:
            raise _error(ret, "write the memory of the pool back")

    @property
    def failed(self) -> int:
        """The errno of the storage's first failure, or 0."""
        return int(lib.rpmapy_durable_failed(self._h))

    def close(self) -> None:
        """Let go of the memory. Flushes nothing.

        Raises:
            InUseError: clients have it open: `Answering.clear_pool` comes first.
        """
        ret = lib.rpmapy_close(self._h)
        if ret == lib.RPMAPY_E_CHILDREN:
            count = lib.rpmapy_children(self._h)
            raise InUseError(f"cannot close the memory of the pool: {count} client(s) have it open")
        if ret:
            raise error_for(ret, "close the memory of the pool")
        if self.closed:
            self._mapping.release()
            self._memory.release()

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<rpma.pool.Durable{state} of {self._size} bytes, {self.persistency.value}>"


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


def is_pmem(buffer: WritableBuffer) -> bool:
    """Whether all of a mapping is persistent memory, in the opinion of libpmem.

    False where libpmem is not installed: msync is right for such memory, too.
    """
    with _bytes_of("buffer", buffer) as view:
        return int(lib.rpmapy_is_pmem(pointer_to(view), view.nbytes)) == 1


def _bytes_of(name: str, buffer: Any) -> memoryview:
    """The buffer as writable bytes; a view to be released."""
    try:
        view = memoryview(buffer)
    except TypeError:
        if not hasattr(buffer, "view"):  # rpma.allocation.Memory, before Python 3.12
            raise TypeError(
                f"{name} must be a writable buffer, not {type(buffer).__name__}"
            ) from None
        view = buffer.view
    with view:
        if view.readonly or not view.c_contiguous or not view.nbytes:
            raise InvalidArgumentError(f"{name} must be writable, contiguous and not empty")
        return view.cast("B")


def _error(ret: int, what: str) -> RpmaError:
    """The exception for an errno of the storage, or for a code."""
    if ret == lib.RPMAPY_E_NO_LIBPMEM:
        return TargetError(
            f"cannot {what}: libpmem.so.1 is not installed. Install it: {how_to_install(_LIBPMEM)}"
        )
    if ret < 0:
        return error_for(ret, what)
    if ret == errno.EOPNOTSUPP:
        return NotDurableError(f"cannot {what}: nothing can make this memory durable")
    error = StorageError(f"cannot {what}: the storage has failed: {os.strerror(ret)}")
    error.errno = ret
    return error
