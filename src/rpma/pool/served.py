# SPDX-License-Identifier: BSD-3-Clause
"""The pools that a target serves: their memory, who has them open, and how they become durable.

What is asked of them may block on storage, and comes from several threads: about one pool one call
after the other (`rpma.pool.lanes`), about different pools at the same time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Literal

from rpma import allocation
from rpma.constants import Usage
from rpma.errors import ProviderError
from rpma.pool.catalog import Totals
from rpma.pool.durability import Durable, Persistency, is_pmem
from rpma.pool.errors import (
    PoolBusyError,
    PoolExistsError,
    PoolNotFoundError,
    PoolSpaceError,
    StorageError,
    TargetError,
    undoing,
)
from rpma.pool.header import DATA_OFFSET, Attributes, Header
from rpma.pool.messages import LISTED_AT_ONCE, WRITING, PoolInfo
from rpma.pool.names import NameTable, check_name
from rpma.pool.shadows import ShadowMemory
from rpma.pool.sizes import format_size

if TYPE_CHECKING:
    from rpma.memory import MemoryRegion
    from rpma.peer import Peer
    from rpma.pool.catalog import Listed
    from rpma.pool.messages import Access
    from rpma.pool.poolfile import PoolFile
    from rpma.pool.store import Store

log = logging.getLogger("rpma.target")

# Kernel devices do not pin pages of every file: see allocation.map_file.
_NOT_PINNED = (errno.EFAULT, errno.EOPNOTSUPP)

_READ_AT_ONCE = 64 << 20
"""Of a file into its shadow, in bytes."""

_READ = Usage.READ_SRC | Usage.FLUSH_TYPE_VISIBILITY
_WRITE = _READ | Usage.WRITE_DST


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
        is_told: whether who created it has been told that it is there; it goes if they never are.
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
        self.is_told = True
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
        if self._mapping.keeps_rdma_writes and _can_register(peer, stored):
            self._data = stored
            if is_persistent and direct_write_to_pmem:
                self.persistency = Persistency.FLUSH
            self.durable = Durable(stored, None, self.persistency)
            return
        shadows.take(size, self.name)
        self._shadows = shadows
        self.is_shadowed = True
        self._shadow = _memory(size, self.name)
        self._data = self._shadow.view
        _fill(self._data, self.file.fd, self.name)
        self.durable = Durable(self._data, stored, self.persistency)
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
        finally:
            self.drop()

    def drop(self) -> None:
        """Let go of the memory and the file, and of what only the copy in DRAM has."""
        if self.durable is not None:
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


def _can_register(peer: Peer, data: memoryview) -> bool:
    try:
        peer.register(data, _WRITE).close()
    except ProviderError as error:
        if error.errno in _NOT_PINNED:
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


class ServedPools:
    """All pools of a target.

    What is true of all of them, and which are open by whom, is read and changed under a lock that
    nobody holds while waiting for anything.

    Attributes:
        shadows: how much memory shadows take, and may take.
    """

    def __init__(
        self,
        store: Store | None,
        *,
        dram_limit: int,
        shadow_limit: int,
        direct_write_to_pmem: bool,
    ) -> None:
        """Serve the pools of `store`, whose shadows may take up to `shadow_limit` bytes, and up to
        `dram_limit` bytes of pools in DRAM.
        """
        self.shadows = ShadowMemory(shadow_limit)
        self._store = store
        self._dram_limit = dram_limit
        self._direct_write_to_pmem = direct_write_to_pmem
        self._lock = threading.Lock()
        self._open: dict[str, ServedPool] = {}
        self._dram: NameTable[ServedPool] = NameTable()  # one that is being created as well
        self._dram_size = 0

    # ---- what clients ask for --------------------------------------------------------------------

    def create(
        self,
        name: str,
        size: int,
        attributes: Attributes,
        content_length: int | None,
        volatile: bool,
        user: object,
        peer: Peer,
    ) -> ServedPool:
        """Create a pool, and open it for writing; it stays if `is_told` is set before its release.

        Whatever this raises, there is no such pool, or the words say why it could not be removed.
        """
        check_name(name)
        if self._dram_pool(name) is not None:
            raise PoolExistsError(f"pool {name!r} exists: choose another name, or remove it")
        if volatile:
            pool = self._create_in_dram(name, size, attributes, content_length)
        else:
            file = self._files().create(name, size, attributes, content_length)
            pool = ServedPool(name, file.header, file)
        pool.is_told = False
        try:
            return self._add_user(pool, user, "write", peer)
        except BaseException as error:
            with undoing(error):
                self._remove(name)
            raise

    def _create_in_dram(
        self, name: str, size: int, attributes: Attributes, content_length: int | None
    ) -> ServedPool:
        if self._store is not None and self._store.find(name) is not None:
            raise PoolExistsError(f"pool {name!r} exists: choose another name, or remove it")
        header = Header(
            pool_id=uuid.uuid4(),
            size=size,
            created=time.time_ns(),
            content_length=content_length,
            attributes=attributes,
        )
        pool = ServedPool(name, header, None)
        with self._lock:  # it has its share from now on, though not its memory
            free = self._dram_limit - self._dram_size
            if size <= free:
                self._dram[name] = pool
                self._dram_size += size
                return pool
        raise PoolSpaceError(
            f"{format_size(size)} of DRAM are asked for, {format_size(free)} of the "
            f"{format_size(self._dram_limit)} that this target gives are free"
        )

    def open(self, name: str, access: Access, user: object, peer: Peer) -> ServedPool:
        """Open a pool."""
        check_name(name)
        with self._lock:
            pool = self._open.get(name) or self._dram.get(name)
            users = dict(pool.users) if pool is not None else {}
        if pool is None:
            file = self._files().open(name)
            pool = ServedPool(name, file.header, file)
        held = set(users.values())
        if held and (held != {access} or access == "write"):
            raise PoolBusyError(
                f"pool {name!r} is open by {len(users)} for {', '.join(sorted(held))}: "
                f"it cannot be opened for {access} until they close it"
            )
        if user in users:
            raise PoolBusyError(f"pool {name!r} is open by this client already")
        return self._add_user(pool, user, access, peer)

    def _add_user(self, pool: ServedPool, user: object, access: Access, peer: Peer) -> ServedPool:
        if pool.durable is None:
            try:
                pool.map(peer, self._direct_write_to_pmem, self.shadows)
            except BaseException:
                pool.drop()
                raise
        with self._lock:
            pool.users[user] = access
            self._open[pool.name] = pool
        return pool

    def release(self, pool: ServedPool, user: object) -> None:
        """`user` has it open no longer. One that was created for it and not told of goes.

        Raises:
            StorageError: what was written, but not persisted, could not be kept.
            PoolError: it was to go, and could not be removed.
        """
        with self._lock:
            if pool.users.pop(user, None) is None or pool.users:
                return
            del self._open[pool.name]
        if not pool.is_told:
            pool.drop()
            self._remove(pool.name)
        elif pool.file is not None:
            pool.close()

    def set_content_length(self, pool: ServedPool, length: int | None) -> None:
        """Note how much of an open pool is a file's content."""
        if pool.file is not None:
            pool.header = self._files().update(pool.file, content_length=length)
        else:
            pool.header = dataclasses.replace(pool.header, content_length=length)

    def resize(self, name: str, size: int) -> None:
        """Change the size of a pool that nobody has open."""
        self._require_unused(name)
        if self._dram_pool(name) is not None:
            raise TargetError(f"pool {name!r} is in DRAM: only pools in files change their size")
        self._files().resize(name, size)

    def remove(self, name: str) -> None:
        """Remove a pool that nobody has open."""
        self._require_unused(name)
        self._remove(name)

    def _remove(self, name: str) -> None:
        with self._lock:
            pool = self._dram.pop(name)
            self._dram_size -= pool.header.size if pool is not None else 0
        if pool is not None:
            pool.drop()
        else:
            self._files().remove(name)

    def _require_unused(self, name: str) -> None:
        check_name(name)
        with self._lock:
            pool = self._open.get(name)
            users = len(pool.users) if pool is not None else 0
        if users:
            raise PoolBusyError(f"pool {name!r} is open by {users}: it must be closed")

    # ---- what there is ---------------------------------------------------------------------------

    def list(self, after: str) -> tuple[list[PoolInfo], bool]:
        """The pools whose names come after `after`, a message full, and whether there are more."""
        while True:
            # One more than is told of says whether there are more.
            with self._lock:
                names = self._dram.after(after, LISTED_AT_ONCE + 1)
            if self._store is not None:
                names = sorted({*names, *self._store.after(after, LISTED_AT_ONCE + 1)})
            page = names[:LISTED_AT_ONCE]
            infos = [info for name in page if (info := self._find(name)) is not None]
            has_more = len(names) > len(page)
            if infos or not has_more:
                return infos, has_more
            after = page[-1]  # all of them have gone meanwhile

    def totals(self) -> dict[str, Totals]:
        """How many pools there are of each kind, and their size."""
        files = Totals(0, 0) if self._store is None else self._store.totals()
        with self._lock:
            return {"file": files, "dram": Totals(len(self._dram), self._dram_size)}

    @property
    def open_pools(self) -> int:
        """How many pools somebody has open."""
        return len(self._open)

    def describe(self, name: str) -> PoolInfo:
        """What there is to know of one pool."""
        check_name(name)
        info = self._find(name)
        if info is not None:
            return info
        self._files()
        raise PoolNotFoundError(f"there is no pool {name!r}")

    def _find(self, name: str) -> PoolInfo | None:
        pool = self._dram_pool(name)
        if pool is not None:
            return self.info(pool)
        found = None if self._store is None else self._store.find(name)
        return None if found is None else self._file_info(found)

    def info(self, pool: ServedPool) -> PoolInfo:
        """What there is to know of a pool that is open, or in DRAM."""
        with self._lock:
            users = tuple(pool.users.values())
        if pool.file is None:
            return _info(pool.name, "dram", pool.header, pool.header.size, "", users)
        allocated = os.fstat(pool.file.fd).st_blocks * 512
        return _info(pool.name, "file", pool.header, allocated, "", users)

    def _file_info(self, file: Listed) -> PoolInfo:
        with self._lock:
            pool = self._open.get(file.name)
            users = tuple(pool.users.values()) if pool is not None else ()
        return _info(file.name, "file", file.header, file.allocated, file.problem, users)

    def _dram_pool(self, name: str) -> ServedPool | None:
        with self._lock:
            return self._dram.get(name)

    def _files(self) -> Store:
        if self._store is None:
            raise TargetError("this target has no directory: it serves pools in DRAM only")
        return self._store

    def close(self) -> None:
        """Let go of all pools, and of the directory."""
        for pool in {*self._dram.values(), *self._open.values()}:
            with contextlib.suppress(StorageError):
                pool.close()
        if self._store is not None:
            self._store.close()


def _info(
    name: str,
    kind: Literal["file", "dram"],
    header: Header | None,
    allocated: int,
    problem: str,
    users: tuple[Access, ...],
) -> PoolInfo:
    return PoolInfo(
        name=name,
        kind=kind,
        size=header.size if header else 0,
        allocated=allocated,
        created=header.created if header else 0,
        content_length=header.content_length if header else None,
        pool_id=header.pool_id if header else None,
        attributes=header.attributes if header else None,
        users=len(users),
        access=min(users, default=None),
        problem=problem,
    )
