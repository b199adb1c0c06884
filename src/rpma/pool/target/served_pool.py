# SPDX-License-Identifier: BSD-3-Clause
"""A pool that a target serves: its memory, and how that becomes durable."""

from __future__ import annotations

import enum
import errno
import logging
import os
from typing import TYPE_CHECKING

from rpma import allocation
from rpma.constants import Usage
from rpma.errors import ProviderError
from rpma.pool.durable import Durable, is_pmem
from rpma.pool.protocol.errors import PoolSpaceError, StorageError
from rpma.pool.protocol.messages import WRITING
from rpma.pool.protocol.persistency import Persistency
from rpma.pool.protocol.sizes import format_size
from rpma.pool.target.header import DATA_OFFSET, Header

if TYPE_CHECKING:
    from rpma.memory import MemoryRegion
    from rpma.peer import Peer
    from rpma.pool.protocol.messages import Access
    from rpma.pool.target.poolfile import PoolFile
    from rpma.pool.target.shadows import ShadowMemory

log = logging.getLogger("rpma.target")

# Kernel devices do not pin pages of every file: see allocation.map_file.
_NOT_PINNED = (errno.EFAULT, errno.EOPNOTSUPP)

# What a device with native flush says of memory that is to be flushed to persistence.
_NOT_PERSISTENT = (errno.EINVAL,)

_READ_AT_ONCE = 64 << 20
"""Of a file into its shadow, in bytes."""

_READ = Usage.READ_SRC | Usage.FLUSH_TYPE_VISIBILITY
_WRITE = _READ | Usage.WRITE_DST
_WRITE_DURABLY = _WRITE | Usage.FLUSH_TYPE_PERSISTENT


class Place(enum.Enum):
    """Where a pool is.

    Attributes:
        NAMED: its name leads to it.
        BESIDE: it is to replace the pool of its name, if there is one.
        REPLACED: another one has its name; those who have it open keep it.
    """

    NAMED = enum.auto()
    BESIDE = enum.auto()
    REPLACED = enum.auto()


class ServedPool:
    """A pool that somebody has open, or one in DRAM.

    Attributes:
        name: its name.
        header: what is known of it.
        users: who has it open, and how.
        persistency: how it becomes durable.
        durable: by which the answers to flush requests make it so.
        is_shadowed: whether the RNIC works on a copy in DRAM, since the device cannot pin the file,
            or what it writes there could be lost.
        was_written: whether somebody who may write has had it open.
        is_told: whether who created it has been told that it is there; it goes if they never are.
        place: whether its name leads to it.
    """

    def __init__(self, name: str, header: Header, file: PoolFile | None) -> None:
        """Without memory yet; see `map`."""
        self.name = name
        self.header = header
        self.file = file
        self.users: dict[object, Access] = {}
        self.persistency = Persistency.NONE
        self.durable: Durable | None = None
        self.is_shadowed = False
        self.was_written = False
        self.is_told = True
        self.place = Place.NAMED
        self._mapping: allocation.Memory | None = None
        self._shadow: allocation.Memory | None = None
        self._shadows: ShadowMemory | None = None  # which the shadow is taken from
        self._stored: memoryview | None = None  # the mapping, behind the header
        self._data: memoryview | None = None  # what is registered

    def map(self, peer: Peer, direct_write_to_pmem: bool, shadows: ShadowMemory) -> None:
        """Bring its memory into being, as the device of `peer` can take it.

        Raises:
            StorageError: the file cannot be mapped, or read.
            PoolSpaceError: a copy is needed, and there is no memory for it, or not in `shadows`.
        """
        size = self.header.size
        if self.file is None:
            self._shadow = _memory(size, self.name)
            self._data = self._shadow.view
            self.durable = Durable(self._data, None, Persistency.NONE)
            return
        try:
            self._mapping = allocation.map_file(f"/proc/self/fd/{self.file.fd}", DATA_OFFSET + size)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not what it was"
            words = f"pool {self.name!r}: cannot map its file: {reason}"
            raise StorageError(words, where=f"{self.file.path}: {error}") from error
        self._stored = stored = self._mapping.view[DATA_OFFSET:]
        is_persistent = self._mapping.is_dax or is_pmem(stored)
        self.persistency = Persistency.PMEM if is_persistent else Persistency.MSYNC
        if self._mapping.keeps_rdma_writes and _can_register(peer, stored, _WRITE, _NOT_PINNED):
            self._data = stored
            if is_persistent and direct_write_to_pmem:
                if _can_register(peer, stored, _WRITE_DURABLY, _NOT_PERSISTENT):
                    self.persistency = Persistency.FLUSH
                else:
                    log.warning(
                        "pool %r: the device, which flushes by itself, does not take its memory "
                        "for persistent: the target flushes it",
                        self.name,
                    )
            self.durable = Durable(stored, None, self.persistency, self.file.fd, DATA_OFFSET)
            return
        shadows.take(size, self.name)
        self._shadows = shadows
        self.is_shadowed = True
        self._shadow = _memory(size, self.name)
        self._data = self._shadow.view
        _fill(self._data, self.file.fd, self.name)
        self.durable = Durable(self._data, stored, self.persistency, self.file.fd, DATA_OFFSET)
        log.info(
            "pool %r has a copy in DRAM: %s of the %s for such copies are taken",
            self.name,
            format_size(shadows.used),
            format_size(shadows.limit),
        )

    def register(self, peer: Peer, access: Access) -> MemoryRegion:
        """A region of it, in the protection domain of `peer`."""
        assert self._data is not None
        usage = _WRITE if access in WRITING else _READ
        if self.persistency is Persistency.FLUSH:
            usage |= Usage.FLUSH_TYPE_PERSISTENT
        return peer.register(self._data, usage)

    def close(self) -> None:
        """Let go of the memory and the file; what only the copy in DRAM has goes to the file.

        Raises:
            StorageError: it could not be written.
        """
        try:
            if self.is_shadowed and self.durable is not None:
                self.durable.write_back()
            if self.was_written and self.persistency is Persistency.MSYNC:
                self._sync()
        finally:
            self.drop()

    def _sync(self) -> None:
        """Leave nothing in the cache that could get lost when nobody is told any more."""
        assert self.file is not None
        try:
            self.file.sync()
        except OSError as error:
            raise StorageError(
                f"pool {self.name!r}: the storage has failed ({error.strerror}): what was written "
                "and not persisted may be lost"
            ) from error

    def drop(self) -> None:
        """Let go of the memory and the file, and of what only the copy in DRAM has."""
        if self.durable is not None:
            if self.durable.failed and self.file is not None and not self.file.closed:
                self.file.doubt()
            self.durable.close()
        for view in (self._data, self._stored):
            if view is not None:
                view.release()  # an error's traceback may hold it
        for memory in (self._shadow, self._mapping):
            if memory is not None:
                memory.close()
        if self._shadows is not None:
            self._shadows.give_back(self.header.size)
            self._shadows = None
        if self.file is not None:
            self.file.close()


def _can_register(peer: Peer, data: memoryview, usage: Usage, refusals: tuple[int, ...]) -> bool:
    try:
        peer.register(data, usage).close()
    except ProviderError as error:
        if error.errno in refusals:
            return False
        raise
    return True


def _fill(data: memoryview, fd: int, name: str) -> None:
    """Fill a shadow from the pool's file; other threads run meanwhile."""
    done = 0
    while done < len(data):
        try:
            count = os.preadv(fd, [data[done : done + _READ_AT_ONCE]], DATA_OFFSET + done)
        except OSError as error:
            raise StorageError(f"pool {name!r}: cannot read its file: {error.strerror}") from error
        if not count:
            raise StorageError(f"pool {name!r}: its file has become shorter")
        done += count


def _memory(size: int, name: str) -> allocation.Memory:
    try:
        return allocation.anonymous(size)
    except MemoryError as error:
        raise PoolSpaceError(
            f"pool {name!r}: the target has no {format_size(size)} of memory"
        ) from error
