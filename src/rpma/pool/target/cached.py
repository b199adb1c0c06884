# SPDX-License-Identifier: BSD-3-Clause
"""Whether what the kernel has cached of pools' files is on their storage.

When a write-back fails, the kernel says so once, to one call, and counts the pages as clean: they
hold what the storage never got, whoever reads them sees it, and a later flush finds nothing to do
and succeeds. They outlive the mapping, the descriptor and the process. So the cache is believed
only of files that this target has closed itself after all had been written; of any other it is
dropped, and what cannot be dropped is written again.

(This is what databases learnt in 2018: https://wiki.postgresql.org/wiki/Fsync_Errors.)
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from rpma._native import ffi, lib
from rpma.allocation import is_in_memory

if TYPE_CHECKING:
    from uuid import UUID

__all__ = ["Belief", "renew"]

log = logging.getLogger("rpma.target")


def renew(fd: int, path: str) -> None:
    """See to it that whatever is read from a file from now on is on its storage.

    Its pages leave the cache; those that cannot, since another process has them mapped, say, are
    written again. There is nothing to do for a file in memory, and no page to drop on a DAX.

    Raises:
        OSError: the storage fails.
    """
    if is_in_memory(fd):
        return
    before, written = ffi.new("int *"), ffi.new("uint64_t *")
    number = lib.rpmapy_cache_renew(fd, os.fstat(fd).st_size, before, written)
    if before[0]:
        log.warning("%s: the storage failed to take what was written to it before", path)
    if written[0]:
        log.info("%s: %d bytes that could not be dropped were written again", path, written[0])
    if number:
        raise OSError(number, os.strerror(number))


class Belief:
    """Of which files the cache is believed, and which pools they are. Threads may share it."""

    def __init__(self) -> None:
        """Of none."""
        self._lock = threading.Lock()
        self._pools: dict[tuple[int, int], UUID] = {}
        self._doubts: dict[tuple[int, int], int] = {}

    def take(self, fd: int) -> UUID | None:
        """The pool whose file this is, if its cache is believed; it is not until `confirm`."""
        with self._lock:
            return self._pools.pop(_file(fd), None)

    def doubts(self, fd: int) -> int:
        """How often a file was doubted: what `confirm` wants."""
        with self._lock:
            return self._doubts.get(_file(fd), 0)

    def doubt(self, fd: int) -> None:
        """The storage has failed: the cache is not believed until it has been renewed."""
        file = _file(fd)
        with self._lock:
            self._pools.pop(file, None)
            self._doubts[file] = self._doubts.get(file, 0) + 1

    def confirm(self, fd: int, pool: UUID, doubts: int) -> None:
        """All that was written to a file is on its storage, unless it was doubted meanwhile."""
        file = _file(fd)
        with self._lock:
            if self._doubts.get(file, 0) == doubts:
                self._pools[file] = pool


def _file(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino
