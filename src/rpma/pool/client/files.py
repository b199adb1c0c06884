# SPDX-License-Identifier: BSD-3-Clause
"""Files that are written into a pool from the page cache, past the bounce buffers.

The soft RNIC pins no memory: what it sends of a mapped file goes from the page cache into a socket.
With a card the pages would have to be pinned for that, as many as the file has.
"""

from __future__ import annotations

import mmap
import os
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

from rpma._native import fabric
from rpma.constants import Usage
from rpma.errors import RpmaError
from rpma.pool.client.memory import InPlace
from rpma.pool.durable import Durable
from rpma.pool.protocol.persistency import Persistency

if TYPE_CHECKING:
    from types import TracebackType

    from rpma.pool.client.datapath import DataPath

LEAST_SIZE = 1 << 20
"""Less than this is not worth a mapping, in bytes."""


class MappedFile:
    """A part of a file, mapped and registered, for a ``with`` block.

    It is let go of when the network is done with it, which may be later than the block.

    Attributes:
        memory: the registered memory.
        at: where the part begins in it.
        end: where it ends in the file.
    """

    def __init__(self, path: DataPath, fd: int, position: int, length: int) -> None:
        """For `mapped`: the file must have so many bytes from there on."""
        self._fd = fd
        self.end = position + length
        self.at = position % mmap.ALLOCATIONGRANULARITY
        with ExitStack() as undo:
            mapping = mmap.mmap(  # private, as what is registered must be writable
                fd, self.at + length, flags=mmap.MAP_PRIVATE, offset=position - self.at
            )
            undo.callback(mapping.close)
            # Else a file that shrinks meanwhile may end the process.
            self._guarded = Durable(mapping, None, Persistency.NONE)
            undo.callback(self._guarded.close)
            region = undo.enter_context(path.register(mapping, Usage.WRITE_SRC))
            self._things = undo.pop_all()
        self.memory = InPlace(region)

    def __enter__(self) -> MappedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        has_shrunk = self._guarded.failed or os.fstat(self._fd).st_size < self.end
        self.memory.when_free(self._things.close)
        if has_shrunk and (error is None or isinstance(error, RpmaError)):
            raise OSError("the file became shorter while it was written into the pool") from error


def mapped(path: DataPath, source: BinaryIO, length: int) -> MappedFile | None:
    """The next `length` bytes of a file; None where they are not to be had so."""
    if fabric.name != "soft" or length < LEAST_SIZE:
        return None
    try:
        fd, position = source.fileno(), source.tell()
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size < position + length:
            return None
        return MappedFile(path, fd, position, length)
    except (OSError, ValueError):  # no file of the system, or no mapping of it
        return None
