# SPDX-License-Identifier: BSD-3-Clause
"""The pools that a target serves: which there are, and who has them open.

What is asked of them may block on storage, and comes from several threads: about one pool one call
after the other (`rpma.pool.target.lanes`), about different pools at the same time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Literal

from rpma.pool.protocol.errors import (
    PoolBusyError,
    PoolError,
    PoolExistsError,
    PoolNotFoundError,
    PoolSpaceError,
    StorageError,
    TargetError,
    undoing,
)
from rpma.pool.protocol.messages import LISTED_AT_ONCE, WRITING, PoolInfo
from rpma.pool.protocol.names import check_name
from rpma.pool.protocol.sizes import format_size
from rpma.pool.target.catalog import Totals
from rpma.pool.target.header import Header
from rpma.pool.target.name_table import NameTable
from rpma.pool.target.served_pool import Place, ServedPool
from rpma.pool.target.shadows import ShadowMemory

if TYPE_CHECKING:
    from rpma.peer import Peer
    from rpma.pool.protocol.messages import Access, Create
    from rpma.pool.target.catalog import Listed
    from rpma.pool.target.store import Store


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
        self._beside: dict[str, ServedPool] = {}
        self._dram: NameTable[ServedPool] = NameTable()  # one that is being created as well
        self._dram_size = 0

    # ---- what clients ask for --------------------------------------------------------------------

    def create(self, request: Create, user: object, peer: Peer) -> ServedPool:
        """Create a pool, and open it for writing; it stays if `is_told` is set before its release.

        Whatever this raises, there is no such pool, or the words say why it could not be removed.
        """
        name = check_name(request.name)
        self._require_settled(name)
        if request.replaces:
            self._require_unwritten(name)
            create = self._create_in_dram if request.volatile else self._create_beside
        else:
            if self._dram_pool(name) is not None:
                raise _exists(name)
            create = self._create_in_dram if request.volatile else self._create_file
        pool = create(request)
        pool.is_told = False
        try:
            return self._add_user(pool, user, "write", peer)
        except BaseException as error:
            with undoing(error):
                if pool.place is Place.BESIDE:
                    self._discard(pool)
                else:
                    self._remove(name)
            raise

    def _create_file(self, request: Create) -> ServedPool:
        file = self._files().create(
            request.name,
            request.size,
            request.attributes,
            request.content_length,
            incomplete=request.incomplete,
        )
        return ServedPool(request.name, file.header, file)

    def _create_beside(self, request: Create) -> ServedPool:
        file = self._files().create_beside(
            request.name, request.size, request.attributes, request.content_length
        )
        pool = ServedPool(request.name, file.header, file)
        pool.place = Place.BESIDE
        with self._lock:
            self._beside[pool.name] = pool
        return pool

    def _create_in_dram(self, request: Create) -> ServedPool:
        name, size, replaces = request.name, request.size, request.replaces
        if not replaces and self._store is not None and self._store.find(name) is not None:
            raise _exists(name)
        header = Header(
            pool_id=uuid.uuid4(),
            size=size,
            created=time.time_ns(),
            content_length=request.content_length,
            attributes=request.attributes,
            incomplete=request.incomplete or replaces,
        )
        pool = ServedPool(name, header, None)
        pool.place = Place.BESIDE if replaces else Place.NAMED
        with self._lock:  # it has its share from now on, though not its memory
            free = self._dram_limit - self._dram_size
            if size <= free:
                if replaces:
                    self._beside[name] = pool
                else:
                    self._dram[name] = pool
                self._dram_size += size
                return pool
        raise PoolSpaceError(
            f"{format_size(size)} of DRAM are asked for, {format_size(free)} of the "
            f"{format_size(self._dram_limit)} that this target gives are free; its --dram "
            "(Target's dram) gives more"
            + (
                "; the old pool stays until the new one is whole, so there must be room for both"
                if replaces
                else ""
            )
        )

    def _forget_dram(self, pool: ServedPool) -> None:
        with self._lock:
            if self._dram.get(pool.name) is pool:
                self._dram.pop(pool.name)
            self._dram_size -= pool.header.size

    def _discard(self, pool: ServedPool) -> None:
        """What was to replace another is not to be."""
        pool.drop()
        with self._lock:
            del self._beside[pool.name]
        if pool.file is not None:
            self._files().discard(pool.file)
        else:
            self._forget_dram(pool)

    def open(self, name: str, access: Access, user: object, peer: Peer) -> ServedPool:
        """Open a pool."""
        check_name(name)
        if access in WRITING:
            self._require_settled(name)
        with self._lock:
            pool = self._open.get(name) or self._dram.get(name)
            users = dict(pool.users) if pool is not None else {}
        if pool is None:
            file = self._files(name).open(name)
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
            pool.was_written |= access in WRITING
            if pool.place is Place.NAMED:
                self._open[pool.name] = pool
        return pool

    def release(self, pool: ServedPool, user: object) -> None:
        """`user` has it open no longer. One that was created for it and not told of goes, and one
        that was to replace another, and has not.

        Raises:
            StorageError: what was written, but not persisted, could not be kept.
            PoolError: it was to go, and could not be removed.
        """
        with self._lock:
            if pool.users.pop(user, None) is None or pool.users:
                return
            if pool.place is Place.NAMED:
                del self._open[pool.name]
        if pool.place is Place.BESIDE:
            self._discard(pool)
        elif pool.place is Place.REPLACED:
            self._forget(pool)
        elif not pool.is_told:
            pool.drop()
            self._remove(pool.name)
        elif pool.file is not None:
            pool.close()

    def _forget(self, pool: ServedPool) -> None:
        """Another one has its name, and nobody has it open."""
        pool.drop()
        if pool.file is None:
            self._forget_dram(pool)

    def set_content_length(self, pool: ServedPool, length: int | None) -> None:
        """Note how much of an open pool is a file's content."""
        if pool.file is not None:
            pool.header = self._files().update(pool.file, content_length=length)
        else:
            pool.header = dataclasses.replace(pool.header, content_length=length)

    def commit(self, pool: ServedPool, content_length: int | None) -> None:
        """An open pool is whole; one that is beside its name takes it. Readers of the one that has
        had it keep that; nobody can have it open for writing.

        Raises:
            PoolError: it is not so, unless the words say that it is not known whether durably.
        """
        if pool.file is not None:
            if pool.durable is not None and pool.durable.failed:
                pool.file.doubt()
            try:
                self._files().complete(pool.file, content_length)
            finally:
                pool.header = pool.file.header
        else:
            if content_length is None:
                content_length = pool.header.content_length
            pool.header = dataclasses.replace(
                pool.header, content_length=content_length, incomplete=False
            )
        if pool.place is not Place.BESIDE:
            return
        if pool.file is not None:
            try:
                self._files().put_in_place(pool.file)
            finally:
                if not pool.file.beside:
                    self._take_place(pool)
        else:
            try:
                if self._store is not None and self._store.find(pool.name) is not None:
                    self._store.remove(pool.name)
            finally:
                if self._store is None or self._store.find(pool.name) is None:
                    self._take_place(pool)

    def _take_place(self, pool: ServedPool) -> None:
        """Its name leads to it from now on."""
        with self._lock:
            old = self._open.get(pool.name) or self._dram.get(pool.name)
            del self._beside[pool.name]
            self._dram.pop(pool.name)
            if pool.file is None:
                self._dram[pool.name] = pool
            self._open[pool.name] = pool
            pool.place = Place.NAMED
            if old is not None:
                old.place = Place.REPLACED
            is_unused = old is not None and not old.users
        if old is not None and is_unused:
            self._forget(old)

    def resize(self, name: str, size: int) -> None:
        """Change the size of a pool that nobody has open."""
        self._require_unused(name)
        if self._dram_pool(name) is not None:
            raise TargetError(f"pool {name!r} is in DRAM: only pools in files change their size")
        self._files(name).resize(name, size)

    def remove(self, name: str) -> None:
        """Remove a pool that nobody has open."""
        self._require_unused(name)
        self._remove(name)

    def _remove(self, name: str) -> None:
        pool = self._dram_pool(name)
        if pool is not None:
            pool.drop()
            self._forget_dram(pool)
        else:
            self._files(name).remove(name)

    def _require_settled(self, name: str) -> None:
        """What is to be replaced must not change meanwhile: that would be lost."""
        with self._lock:
            is_settled = name not in self._beside
        if not is_settled:
            raise PoolBusyError(
                f"pool {name!r} is being replaced: until that has ended it can only be read"
            )

    def _require_unwritten(self, name: str) -> None:
        with self._lock:
            pool = self._open.get(name)
            held = set(pool.users.values()) & WRITING if pool is not None else set()
        if held:
            raise PoolBusyError(
                f"pool {name!r} is open for {', '.join(sorted(held))}: it cannot be replaced until "
                "it is closed"
            )

    def _require_unused(self, name: str) -> None:
        check_name(name)
        self._require_settled(name)
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

    def _files(self, name: str = "") -> Store:
        """The store; `name` is that of a pool which is to be there, if one is."""
        if self._store is None:
            if name:
                raise PoolNotFoundError(f"there is no pool {name!r}")
            raise TargetError(
                "this target has no directory: it serves pools in DRAM only, which --volatile "
                "(volatile=True) creates"
            )
        return self._store

    def close(self) -> None:
        """Let go of all pools, and of the directory."""
        for pool in tuple(self._beside.values()):
            with contextlib.suppress(PoolError):
                self._discard(pool)
        for pool in {*self._dram.values(), *self._open.values()}:
            with contextlib.suppress(StorageError):
                pool.close()
        if self._store is not None:
            self._store.close()


def _exists(name: str) -> PoolExistsError:
    return PoolExistsError(f"pool {name!r} exists: choose another name, or remove it")


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
        incomplete=header.incomplete if header else False,
        pool_id=header.pool_id if header else None,
        attributes=header.attributes if header else None,
        users=len(users),
        access=min(users, default=None),
        problem=problem,
    )
