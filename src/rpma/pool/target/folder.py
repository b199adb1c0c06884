# SPDX-License-Identifier: BSD-3-Clause
"""A directory that has pools: which file is which pool's, and what the system says of it.

What the system refuses comes as a `PoolError`, with the system's words.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rpma.pool.protocol.errors import (
    PoolDamagedError,
    PoolError,
    PoolNotFoundError,
    PoolSpaceError,
    StorageError,
    TargetError,
)
from rpma.pool.protocol.names import NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NO_ROOM", "OPEN", "Folder", "file_of", "pool_errors", "reason_of"]

OPEN: Final = os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
"""How files of such a directory are opened, besides."""

NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""How the system says that there is no room."""

_SUFFIX: Final = ".pool"
_NOT_A_FILE: Final = (errno.ELOOP, errno.EISDIR, errno.ENXIO)
_BROKEN: Final = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EUCLEAN, errno.EBADMSG)


def file_of(name: str) -> str:
    """The name of a pool's file."""
    return name + _SUFFIX


@dataclass(frozen=True)
class Folder:
    """An open directory.

    Attributes:
        fd: its descriptor; whoever opened it closes it.
        path: where it is, for messages.
    """

    fd: int
    path: str

    def names(self) -> set[str]:
        """The names of all pools that it has."""
        names = (file[: -len(_SUFFIX)] for file in os.listdir(self.fd) if file.endswith(_SUFFIX))
        return {name for name in names if NAME.fullmatch(name)}

    def status(self, name: str) -> os.stat_result:
        """That of a pool's file. PoolNotFoundError where there is none."""
        try:
            return os.stat(file_of(name), dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            raise self.not_found(name) from None

    def has(self, name: str) -> bool:
        """Whether there is a file for a pool of that name, whatever it is."""
        try:
            self.status(name)
        except PoolNotFoundError:
            return False
        return True

    def open(self, name: str, mode: int) -> int:
        """A descriptor of a pool's file, in `pool_errors`.

        Raises PoolNotFoundError, and PoolDamagedError where it is no regular file.
        """
        try:
            # Opening alone does something to a device, and can wait for ever for a FIFO's other
            # end: hence the look before, and O_NONBLOCK for what takes the file's place after it.
            if not stat.S_ISREG(self.status(name).st_mode):
                raise self.damaged(name, "it is not a regular file")
            return os.open(file_of(name), mode | os.O_NONBLOCK | OPEN, dir_fd=self.fd)
        except FileNotFoundError:
            raise self.not_found(name) from None
        except OSError as error:
            if error.errno in _NOT_A_FILE and not isinstance(error, PoolError):
                raise self.damaged(name, "it is not a regular file") from None
            raise

    def sync(self) -> None:
        """Make durable which files it has."""
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that has no such thing
                raise

    def path_of(self, name: str) -> str:
        """Where a pool's file is, for messages."""
        return os.path.join(self.path, file_of(name))

    def damaged(self, name: str, problem: str) -> PoolDamagedError:
        """What to raise for a pool with this problem."""
        return PoolDamagedError(
            f"the pool {name!r} is damaged: {problem}", where=self.path_of(name)
        )

    def not_found(self, name: str) -> PoolNotFoundError:
        """What to raise for a pool that there is not."""
        return PoolNotFoundError(f"there is no pool {name!r}", where=self.path)


@contextlib.contextmanager
def pool_errors(what: str, where: str = "") -> Iterator[None]:
    """Turn what the system raises into a `PoolError`; `what` as in "cannot " + what."""
    try:
        yield
    except PoolError:
        raise
    except OSError as error:
        kind: type[PoolError] = TargetError
        if error.errno in NO_ROOM:
            kind = PoolSpaceError
        elif error.errno in _BROKEN:
            kind = StorageError
        raise kind(f"cannot {what}: {reason_of(error)}", where=where) from error


def reason_of(error: OSError) -> str:
    """The system's words, without the file's name."""
    return error.strerror or type(error).__name__
