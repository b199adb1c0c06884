# SPDX-License-Identifier: BSD-3-Clause
"""A pool that is open, for programs that block."""

from __future__ import annotations

import contextlib
import operator
import time
from functools import partial
from typing import TYPE_CHECKING

from rpma._buffers import bytes_of
from rpma._streams import read_fully, write_fully
from rpma.errors import ClosedError, RpmaError, WaitTimeoutError
from rpma.pool.client.arrays import Index, RegisteredArray
from rpma.pool.client.datapath import SEGMENT_SIZE
from rpma.pool.client.driver import seconds
from rpma.pool.client.fastpath import Quick
from rpma.pool.client.files import MappedFile, mapped
from rpma.pool.client.opened import OpenedPool

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import BinaryIO

    import numpy.typing as npt

    from rpma._types import Buffer, WritableBuffer
    from rpma.pool.client.client import Client
    from rpma.pool.client.pool_logic import PoolLogic

    Progress = Callable[[int, int], object]


LEAVE_TIMEOUT = 5.0
"""How long an exception that leaves a ``with`` block waits for the target, in seconds."""


class Pool(OpenedPool):
    """A pool that is open. Made by `create_pool` and `open_pool`, here and of `Client`.

    Attributes:
        name: its name.
        size: in bytes; also `len()`.
        access: how it was opened: "read", "write" or "shared".
        persistency: how the target makes it durable.
        info: all that the target said of it.
    """

    def __init__(self, client: Client, pool: PoolLogic) -> None:
        """Made by `Client`."""
        super().__init__(pool)
        self._client = client
        self._run = client._driver.run
        self._quick = Quick(client._driver, pool)
        self._owns_client = False
        self._arrays: list[PoolArray] = []
        self._is_let_go = False

    @property
    def client(self) -> Client:
        """The client that opened it."""
        return self._client

    # ---- bytes -----------------------------------------------------------------------------------

    def read(
        self,
        offset: int = 0,
        length: int | None = None,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """Read.

        Args:
            offset: from there on, in bytes.
            length: so many bytes; None reads to the end.
            timeout: in seconds; None waits for ever.
            progress: called with how many bytes are done, and of how many.

        Raises:
            InvalidArgumentError: the range is outside of the pool.
            TargetLost: the connection ended; `acknowledged` says how far it came.
            WaitTimeoutError: the timeout has passed.
        """
        if timeout is None and progress is None and type(length) is int and length <= SEGMENT_SIZE:
            small = bytearray(max(length, 0))
            if self._quick.read_into(offset, small):
                return bytes(small)
        data: bytes = self._run(self._logic.read(offset, length, progress), timeout)
        return data

    def read_into(
        self,
        offset: int,
        buffer: WritableBuffer,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Fill a buffer with what is at `offset`; the rest is as for `read`."""
        is_quick = timeout is None and progress is None
        if is_quick and isinstance(buffer, bytearray) and self._quick.read_into(offset, buffer):
            return
        self._run(self._logic.read_into(offset, buffer, progress), timeout)

    def write(
        self,
        offset: int,
        data: Buffer,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write; it returns when the target's memory has the data, which is not yet durable.

        Args:
            offset: where to, in bytes.
            data: any contiguous buffer.
            timeout: in seconds; None waits for ever. What is under way then still arrives.
            progress: called with how many bytes are done, and of how many.

        Raises:
            InvalidArgumentError: the range is outside of the pool.
            PoolAccessError: it is open for reading.
            TargetLost: the connection ended; `acknowledged` says how far it came.
            WaitTimeoutError: the timeout has passed.
        """
        if timeout is None and progress is None and self._quick.write(offset, data):
            return
        self._run(self._logic.write(offset, data, progress), timeout)

    def write_persist(
        self,
        offset: int,
        data: Buffer,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write, and return when the data is durable: one round trip up to 256 KiB.

        The arguments are `write`'s.

        Raises:
            NotDurableError: the pool is in DRAM.
            StorageError: the target's storage failed.
        """
        if timeout is None and progress is None and self._quick.write_persist(offset, data):
            return
        self._run(self._logic.write_persist(offset, data, progress), timeout)

    def persist(
        self, offset: int = 0, length: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Make a range durable.

        When it returns, all that this object wrote into the range before is.

        Args:
            offset: from there on, in bytes.
            length: so many bytes; None goes to the end.
            timeout: in seconds; None waits for ever.

        Raises:
            NotDurableError: the pool is in DRAM.
            StorageError: the target's storage failed: what was written since the last persist may
                be lost.
            TargetLost: the connection ended before the target answered.
        """
        self._run(self._logic.persist(offset, length), timeout)

    def flush(
        self, offset: int = 0, length: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Make what was written visible to whoever reads the target's memory (rpma_flush)."""
        self._run(self._logic.flush(offset, length), timeout)

    def write_from(
        self,
        offset: int,
        source: BinaryIO,
        length: int,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write what comes from a file, without copies beyond what the device needs.

        On the soft RNIC a regular file goes from the page cache to the network; otherwise it is
        read straight into the bounce buffers.

        Args:
            offset: where to, in bytes.
            source: a file, open for reading in binary mode; it is read from where it is. One that
                does not block is waited for.
            length: how many bytes of it.
            timeout: as for `write`; a file that blocks is waited for beyond it.
            progress: as for `write`.

        Raises:
            EOFError: the file has ended before; what came of it may have been written.
            OSError: the file became shorter meanwhile; the connection may be lost with that.
        """
        file = self._mapped(source, length)
        if file is not None:
            with file:
                steps = self._logic.write_long(offset, file.memory, file.at, length, progress)
                self._run(steps, timeout)
            source.seek(file.end)
            return

        deadline = _deadline(timeout)

        def fill(at: int, view: memoryview) -> None:
            done = read_fully(source, view, deadline)
            if done < len(view):
                raise EOFError(f"the file ended after {at + done} of {length} bytes")

        self._run(self._logic.write_from(offset, length, fill, progress), timeout)

    def _mapped(self, source: BinaryIO, length: int) -> MappedFile | None:
        """The file's bytes in registered memory, where that can be, and nothing is wrong."""
        if type(length) is not int or self._client._driver.is_lost or self._client.closed:
            return None
        return mapped(self._logic.path, source, length)

    def read_to(
        self,
        offset: int,
        sink: BinaryIO,
        length: int,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Read into a file, which is written straight from the bounce buffers.

        Args:
            offset: from there on, in bytes.
            sink: a file, open for writing in binary mode; it is written to where it is. One that
                does not block is waited for.
            length: how many bytes.
            timeout: as for `read`; a file that blocks is waited for beyond it.
            progress: as for `read`.
        """
        deadline = _deadline(timeout)

        def landed(_at: int, view: memoryview) -> None:
            write_fully(sink, view, deadline)

        self._run(self._logic.read_to(offset, length, landed, progress), timeout)

    def __getitem__(self, index: slice | int) -> bytes | int:
        start, stop = self._range(index)
        data = self.read(start, stop - start)
        return data if isinstance(index, slice) else data[0]

    def __setitem__(self, index: slice | int, data: Buffer | int) -> None:
        start, stop = self._range(index)
        view = bytes_of("data", bytes([data]) if isinstance(data, int) else data)
        if len(view) != stop - start:
            raise ValueError(f"{len(view)} bytes do not fit into {stop - start}")
        self.write(start, view)

    def _range(self, index: slice | int) -> tuple[int, int]:
        if isinstance(index, slice):
            start, stop, step = index.indices(self.size)
            if step != 1:
                raise ValueError("a pool has slices with a step of 1 only")
            return start, max(start, stop)
        at = operator.index(index)
        if not -self.size <= at < self.size:
            raise IndexError(f"{at} is outside of the pool's {self.size} bytes")
        return at % self.size, at % self.size + 1

    # ---- 8 bytes as a whole ----------------------------------------------------------------------

    def atomic_store(self, offset: int, value: int, *, timeout: float | None = None) -> None:
        """Write 8 bytes so that whoever reads sees the old or the new ones (rpma_atomic_write).

        Args:
            offset: a multiple of 8.
            value: from 0 to 2**64 - 1; it is stored little endian.
            timeout: in seconds; None waits for ever.
        """
        self._run(self._logic.atomic_store(offset, value), timeout)

    def atomic_load(self, offset: int, *, timeout: float | None = None) -> int:
        """Read what `atomic_store` wrote.

        Args:
            offset: a multiple of 8.
            timeout: in seconds; None waits for ever.
        """
        value: int = self._run(self._logic.atomic_load(offset), timeout)
        return value

    def compare_and_swap(
        self, offset: int, expected: int, desired: int, *, timeout: float | None = None
    ) -> int:
        """Write 8 bytes as a whole if they are what is expected, and tell what they were.

        It is atomic for all who swap or store at this target. librpma has no request of the RNIC's
        for it, so the target's processor does it, on every fabric alike, after the writes that this
        object issued before. It is not durable before `persist`.

        Args:
            offset: a multiple of 8.
            expected: from 0 to 2**64 - 1, as `atomic_store` stores it.
            desired: what to write in its place, likewise.
            timeout: in seconds; None waits for ever. After a timeout it may still happen.

        Returns:
            What was there: `expected`, if it was replaced.

        Raises:
            InvalidArgumentError: a number is out of range, or the offset no multiple of 8.
            PoolAccessError: it is open for reading.
            TargetLost: the connection ended; whether it happened is not known.
        """
        found: int = self._run(self._logic.compare_and_swap(offset, expected, desired), timeout)
        return found

    # ---- arrays ----------------------------------------------------------------------------------

    def array(
        self,
        dtype: npt.DTypeLike = "uint8",
        shape: int | tuple[int, ...] | None = None,
        offset: int = 0,
    ) -> PoolArray:
        """A numpy array in registered memory, for a part of the pool: moved without copies.

        Args:
            dtype: of its items, which have no Python objects.
            shape: None: one dimension, to the end of the pool.
            offset: where it begins in the pool, in bytes.

        Raises:
            ImportError: numpy is missing.
            InvalidArgumentError: it does not fit into the pool.
        """
        self._logic.check_open()
        array = PoolArray(self, RegisteredArray(self._logic, dtype, shape, offset))
        self._arrays.append(array)
        if self._logic.closed:  # by another thread, since then
            array.close()
        self._logic.check_open()
        return array

    # ---- the end ---------------------------------------------------------------------------------

    def set_content_length(self, length: int | None, *, timeout: float | None = None) -> None:
        """Note, durably, how many of its bytes are a file's content; None: it is not known."""
        self._run(self._logic.set_content_length(length), timeout)

    def commit(
        self,
        content_length: int | None = None,
        *,
        persist: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Note, durably, that it is whole, when all that was issued is done.

        One that was created to replace another takes its place, in one step: whoever opens that
        name, also after a crash at any moment, gets the old one or the new one. Those who read the
        old one keep it until they close it.

        Args:
            content_length: how many of its bytes are a file's content; None: as was noted.
            persist: whether to persist all of it first; False where that has been done.
            timeout: in seconds; None waits for ever. Whether it is done is not known after that.

        Raises:
            PoolAccessError: it is open for reading.
            StorageError: the target's storage failed. Unless the words say that it has been
                replaced, the old one is there as it was.
            TargetLost: the connection ended; whether it is done is not known: the old one is there
                or the new one, whole.
        """
        self._run(self._logic.commit(content_length, persist), timeout)

    def close(self, *, timeout: float | None = None) -> None:
        """Close it, after what was issued is done. Does nothing if it is closed already.

        It persists nothing: what was not persisted may be lost with the target's power.

        Args:
            timeout: in seconds; None waits for ever. It is closed all the same when that has
                passed, but the target may have it open until the client is closed. What other
                threads have issued before comes first.

        Raises:
            TargetLost: the connection ended, and with it what was not persisted may be lost.
            WaitTimeoutError: the timeout has passed.
        """
        deadline = None if timeout is None else time.monotonic() + seconds(timeout)
        try:
            self._client._one_closes(partial(self._close, deadline), deadline)
        except WaitTimeoutError:
            self._let_go()  # where another thread closes something else, and has more time
            raise

    def _close(self, deadline: float | None) -> None:
        if self._is_let_go:
            return
        try:
            if not (self._client._driver.is_lost or self._client.closed):
                with contextlib.suppress(ClosedError):  # another thread has closed the client
                    self._run(self._logic.close(), _left(deadline))
        finally:
            self._let_go()
            if self._owns_client:
                self._client.close(timeout=_left(deadline))

    def _let_go(self) -> None:
        """The end of it here, whatever the target says; other threads may be at it, too."""
        self._logic.closed = self._is_let_go = True
        self._logic.let_go([array._array for array in self._arrays])
        with contextlib.suppress(ValueError):
            self._client._pools.remove(self)

    def __enter__(self) -> Pool:
        self._logic.check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave(self, kind)

    def __repr__(self) -> str:
        return f"<rpma.pool.Pool {self.name!r}{self._state()}, at {self._client.address}>"


class PoolArray:
    """A part of a pool as a numpy array in registered memory. Made by `Pool.array`.

    An index is a row, a slice of rows, or None for all. What a call that timed out has under way
    may still touch `local`; the next call waits for that first.

    Attributes:
        local: the numpy array: read into, and written from, without a copy.
    """

    def __init__(self, pool: Pool, array: RegisteredArray) -> None:
        """Made by `Pool.array`."""
        self._pool = pool
        self._array = array
        self.local = array.local

    def read(self, index: Index = None, *, timeout: float | None = None) -> None:
        """Read rows of the pool into `local`."""
        self._pool._run(self._array.read(index), timeout)

    def write(self, index: Index = None, *, timeout: float | None = None) -> None:
        """Write rows of `local` into the pool."""
        self._pool._run(self._array.write(index), timeout)

    def persist(self, index: Index = None, *, timeout: float | None = None) -> None:
        """Make rows durable that were written."""
        at, length = self._array.range(index)
        self._pool.persist(self._array.offset + at, length, timeout=timeout)

    def close(self) -> None:
        """Deregister its memory; `local` lives on as an ordinary array."""
        self._array.close()
        with contextlib.suppress(ValueError):  # as others may have removed it
            self._pool._arrays.remove(self)


def _deadline(timeout: float | None) -> float | None:
    """Until when a file is waited for, of the monotonic clock."""
    return None if timeout is None else time.monotonic() + seconds(timeout)


def leave(entered: Client | Pool, kind: type[BaseException] | None) -> None:
    """The end of a ``with`` block. An exception that passes goes on, whatever close() meets."""
    if kind is None:
        entered.close()
        return
    with contextlib.suppress(RpmaError, OSError):  # that exception goes on
        entered.close(timeout=LEAVE_TIMEOUT)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0)
