# SPDX-License-Identifier: BSD-3-Clause
"""One pool's file: a header (see `rpma.pool.target.header`) and the data, in whole pages."""

from __future__ import annotations

import contextlib
import os
import stat
import warnings
from typing import TYPE_CHECKING, Final

from rpma.errors import ClosedError
from rpma.pool.protocol.errors import PoolDamagedError
from rpma.pool.target.header import DATA_OFFSET, SLOT_SIZE, Header, choose

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from rpma.pool.target.cached import Belief

__all__ = ["PoolFile", "examine", "file_length", "write_all", "zero"]

_PAGE: Final = 4096


class PoolFile:
    """The open file of a pool; made by `Store.create` and `Store.open`.

    It outlives the Store that made it. Dropped without `close`, it gives a ResourceWarning.

    Attributes:
        name: the pool's name.
        path: the file's path, for messages.
        header: what the header was when the file was opened, or last updated with this object.
        beside: what the file is called for as long as it is not in its place; "" once it is.
    """

    def __init__(
        self,
        name: str,
        path: str,
        fd: int,
        header: Header,
        belief: Belief,
        *,
        beside: str = "",
    ) -> None:
        """For `Store` only."""
        self.name = name
        self.path = path
        self.header = header
        self.beside = beside
        self._fd = fd
        self._belief = belief
        self._doubts = belief.doubts(fd)

    @property
    def fd(self) -> int:
        """The descriptor, open for reading and writing. ClosedError once closed."""
        if self._fd < 0:
            raise ClosedError(f"{self!r}: the pool's file has been closed")
        return self._fd

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._fd < 0

    def sync(self) -> None:
        """Make all that was written to the file durable.

        Raises:
            OSError: the storage failed. It stays failed: the next open does not believe the cache.
        """
        with self.doubting():
            os.fdatasync(self.fd)

    @contextlib.contextmanager
    def doubting(self) -> Iterator[None]:
        """While something is written: if that fails, what is cached may never be on the storage."""
        try:
            yield
        except BaseException:
            self.doubt()
            raise

    def doubt(self) -> None:
        """The storage has failed: the next open does not believe the cache."""
        self._belief.doubt(self.fd)

    @property
    def is_doubted(self) -> bool:
        """Whether the storage has failed since the file was opened."""
        return self._belief.doubts(self.fd) != self._doubts

    def close(self) -> None:
        """Close the file. Closing again does nothing. Makes no data durable: `sync` comes first
        where the file was mapped and written to.
        """
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._belief.confirm(fd, self.header.pool_id, self._doubts)
            os.close(fd)

    def __enter__(self) -> PoolFile:
        _ = self.fd
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __repr__(self) -> str:
        state = " (closed)" if self.closed else ""
        return f"<rpma.PoolFile {self.name!r}: {self.header.size} bytes{state}>"


def file_length(size: int) -> int:
    """The length of the file of a pool of `size` bytes."""
    return DATA_OFFSET + -(-size // _PAGE) * _PAGE


def examine(fd: int) -> tuple[Header | None, str]:
    """The header of a pool's file, where it has one, and what is wrong with the file, or ""."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        return None, "it is not a regular file"
    slots = os.pread(fd, DATA_OFFSET, 0)
    if len(slots) != DATA_OFFSET:
        return None, f"it has {info.st_size} bytes, and the header alone takes {DATA_OFFSET}"
    try:
        header = choose(slots[:SLOT_SIZE], slots[SLOT_SIZE:])
    except PoolDamagedError as error:
        return None, str(error)
    needed = DATA_OFFSET + header.size
    if info.st_size < needed:
        return header, f"it has {info.st_size} bytes, and its header asks for {needed}"
    return header, ""


def write_all(fd: int, data: bytes, offset: int) -> None:
    """All of `data`: the system may take less at a time."""
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def zero(fd: int, start: int, end: int) -> None:
    """Zeros from `start` to `end`."""
    zeros = bytes(min(1 << 20, max(end - start, 0)))
    while start < end:
        count = min(len(zeros), end - start)
        write_all(fd, zeros[:count], start)
        start += count
