# SPDX-License-Identifier: BSD-3-Clause
"""Memory that is made durable, or only kept from ending the process: native/pool/durable.c."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

from rpma._buffers import bytes_of
from rpma._native import lib
from rpma._object import NativeObject, handle_out, integer, pointer_to, require
from rpma._packages import Packages, how_to_install
from rpma.errors import InUseError, InvalidArgumentError, RpmaError, error_for
from rpma.pool.protocol.errors import NotDurableError, StorageError, TargetError
from rpma.pool.protocol.persistency import Persistency

if TYPE_CHECKING:
    from rpma._types import WritableBuffer

_LIBPMEM = Packages("libpmem1", "libpmem", "libpmem1")

_METHODS = {
    Persistency.NONE: lib.RPMAPY_DURABLE_NONE,
    Persistency.MSYNC: lib.RPMAPY_DURABLE_MSYNC,
    Persistency.PMEM: lib.RPMAPY_DURABLE_PMEM,
    Persistency.FLUSH: lib.RPMAPY_DURABLE_PMEM,
}


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
                raise storage_error(ret, "describe the memory of a pool")
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
            raise storage_error(ret, f"make {count} bytes at {start} durable")

    def write_back(self) -> None:
        """Copy what differs from the shadow into the file, and make it durable.

        For a pool that is closed: it brings what clients wrote and did not flush. Without a shadow
        there is nothing to do.

        Raises:
            StorageError: the storage has failed, now or before.
        """
        ret = lib.rpmapy_durable_write_back(self._h)
        if ret:
            raise storage_error(ret, "write the memory of the pool back")

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


def is_pmem(buffer: WritableBuffer) -> bool:
    """Whether all of a mapping is persistent memory, in the opinion of libpmem.

    False where libpmem is not installed: msync is right for such memory, too.
    """
    with _bytes_of("buffer", buffer) as view:
        return int(lib.rpmapy_is_pmem(pointer_to(view), view.nbytes)) == 1


def _bytes_of(name: str, buffer: Any) -> memoryview:
    """The buffer as writable bytes; a view to be released."""
    view = bytes_of(name, buffer, "a writable buffer")
    if view.readonly or not view.nbytes:
        view.release()
        raise InvalidArgumentError(f"{name} must be writable and not empty")
    return view


def storage_error(ret: int, what: str) -> RpmaError:
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
