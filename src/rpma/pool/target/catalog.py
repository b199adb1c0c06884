# SPDX-License-Identifier: BSD-3-Clause
"""What pools a directory has: found once, and looked at again where their files have changed.

The target that has the directory tells what it does there. Others may put files there and take them
away all the same: a listing sees the directory as it is when the listing begins.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from rpma.pool.protocol.errors import PoolError, PoolNotFoundError
from rpma.pool.target.folder import Folder, pool_errors
from rpma.pool.target.name_table import NameTable
from rpma.pool.target.poolfile import examine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rpma.pool.target.header import Header

__all__ = ["Catalog", "Listed", "Totals"]

_LISTING: Final = 1.0
"""How old the names may be of which a further page of a listing is made, in seconds."""

_SETTLED: Final = 2 * 10**9
"""A change may have the time of the one before it, which the coarsest clock of a file system counts
in steps of so many nanoseconds: what is younger is looked at again."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A pool as it was found.

    Attributes:
        name: the pool's name.
        header: its header; None where it cannot be read.
        problem: why the pool cannot be opened; "" where it can.
        allocated: bytes of storage that the file takes.
    """

    name: str
    header: Header | None
    problem: str
    allocated: int


class Totals(NamedTuple):
    """All pools of a kind.

    Attributes:
        pools: how many there are.
        size: of all of them together, in bytes.
    """

    pools: int
    size: int


class _Seen(NamedTuple):
    """What was found in a file, for as long as the file is the same."""

    file: tuple[int, int]
    state: tuple[int, int, int]
    header: Header | None
    problem: str
    is_settled: bool

    @property
    def size(self) -> int:
        return self.header.size if self.header is not None else 0


def _file(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Catalog:
    """The pools of a directory. Threads may share it."""

    def __init__(self, folder: Folder) -> None:
        """It looks at nothing before it is asked."""
        self._folder = folder
        self._scanning = threading.Lock()
        self._lock = threading.Lock()  # for all that follows; nobody waits for storage with it
        self._table: NameTable[_Seen | None] = NameTable()
        self._unseen: set[str] = set()
        self._size = 0
        self._scanned = -math.inf
        self._stamp = -1  # when the directory was last changed, as far as that is in the table
        self._is_stale = False
        self._meanwhile: dict[str, bool] | None = None  # what was made and removed during a scan

    # ---- what the target does --------------------------------------------------------------------

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """While the target itself changes the directory: this is no sign that others do."""
        with self._lock:
            self._is_stale |= self._changed() != self._stamp
        try:
            yield
        finally:
            with self._lock:
                self._stamp = self._changed()

    def made(self, name: str, fd: int, header: Header) -> None:
        """A pool's file is there, and open as `fd`."""
        status = os.fstat(fd)
        with self._lock:
            self._put(name, _Seen(_file(status), _state(status), header, "", False))
            if self._meanwhile is not None:
                self._meanwhile[name] = True

    def changed(self, name: str, fd: int, header: Header) -> None:
        """A header was written to the file that is open as `fd`, if it still is that pool's."""
        status = os.fstat(fd)
        with self._lock:
            seen = self._table.get(name)
            if seen is not None and seen.file == _file(status):
                self._put(name, _Seen(_file(status), _state(status), header, "", False))

    def gone(self, name: str) -> None:
        """A pool's file is there no longer."""
        with self._lock:
            self._drop(name)
            if self._meanwhile is not None:
                self._meanwhile[name] = False

    # ---- what there is ---------------------------------------------------------------------------

    def after(self, name: str, count: int) -> list[str]:
        """The names of the next `count` pools after `name`, in order.

        After "" they are those of the directory as it is; after another name, they may be those of
        the directory as it was when that began, less than a second ago.
        """
        if not name or time.monotonic() - self._scanned > _LISTING:
            self._scan()
        with self._lock:
            return self._table.after(name, count)

    def find(self, name: str) -> Listed | None:
        """A pool, as its file is; None where there is none."""
        with self._lock:
            was_known, seen = name in self._table, self._table.get(name)
        allocated = 0
        try:
            with pool_errors(f"open the pool {name!r}"):
                status = self._folder.status(name)
                allocated = status.st_blocks * 512
                if (
                    seen is None
                    or not seen.is_settled
                    or (seen.file, seen.state) != (_file(status), _state(status))
                ):
                    seen = self._look_at(name, status)
                    with self._lock:
                        if name in self._table or not was_known:  # it was not removed meanwhile
                            self._put(name, seen)
        except PoolNotFoundError:
            with self._lock:
                self._drop(name)
            return None
        except PoolError as error:
            return Listed(name=name, header=None, problem=str(error), allocated=allocated)
        return Listed(name=name, header=seen.header, problem=seen.problem, allocated=allocated)

    def totals(self) -> Totals:
        """How many pools there are, and their size. What there is to look at is looked at once."""
        if self._is_stale or self._changed() != self._stamp:
            self._scan()
        with self._lock:
            unseen = tuple(self._unseen)
        for name in unseen:
            self.find(name)
        with self._lock:
            return Totals(len(self._table), self._size)

    # ---- how that is found out -------------------------------------------------------------------

    def _look_at(self, name: str, status: os.stat_result) -> _Seen:
        header, problem = None, ""
        now = time.time_ns()
        try:
            fd = self._folder.open(name, os.O_RDONLY)
            try:
                status = os.fstat(fd)
                header, problem = examine(fd)
            finally:
                os.close(fd)
            if problem:
                problem = str(self._folder.damaged(name, problem))
        except PoolNotFoundError:
            raise
        except PoolError as error:
            problem = str(error)
        is_settled = status.st_ctime_ns < now - _SETTLED
        return _Seen(_file(status), _state(status), header, problem, is_settled)

    def _scan(self) -> None:
        with self._scanning:
            with self._lock:
                self._meanwhile, self._is_stale = {}, False
                stamp, began = self._changed(), time.monotonic()
            try:
                with pool_errors("list the pools", self._folder.path):
                    names = self._folder.names()
                with self._lock:
                    for name, is_there in self._meanwhile.items():
                        (names.add if is_there else names.discard)(name)
                    self._table.have(names, None)
                    self._unseen = {name for name in names if self._table.get(name) is None}
                    self._size = sum(seen.size for seen in self._table.values() if seen is not None)
                    self._stamp, self._scanned = stamp, began
            finally:
                self._meanwhile = None

    def _changed(self) -> int:
        return os.fstat(self._folder.fd).st_mtime_ns

    def _put(self, name: str, seen: _Seen) -> None:
        before = self._table.get(name)
        self._size += seen.size - (before.size if before is not None else 0)
        self._table[name] = seen
        self._unseen.discard(name)

    def _drop(self, name: str) -> None:
        seen = self._table.pop(name)
        self._size -= seen.size if seen is not None else 0
        self._unseen.discard(name)
