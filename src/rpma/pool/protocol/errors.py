# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong with pools, as exceptions.

Every one is an `RpmaError` and also the builtin that Python programmers catch::

    RpmaError
     +-- PoolError
          +-- PoolExistsError        FileExistsError
          +-- PoolNotFoundError      FileNotFoundError
          +-- PoolBusyError          BlockingIOError: somebody has it open
          +-- PoolNameError          ValueError
          +-- PoolSizeError          ValueError
          +-- PoolSpaceError         OSError (ENOSPC): the target's storage is full
          +-- PoolDamagedError       OSError (EIO): its file is not what it was
          +-- PoolAccessError        PermissionError: it is open for less than that
          +-- StorageError           OSError (EIO): the target's storage failed
          +-- NotDurableError        io.UnsupportedOperation: nothing can make it durable
          +-- TargetError            OSError: the target cannot do it now
          +-- AuthenticationError    PermissionError
          +-- ProtocolError          ConnectionError: what came is not the protocol
     +-- ConnectionLost
          +-- TargetLost            the target died, or the network between: `acknowledged`

A target sends such an error by its `code`; the client raises the same class.
"""

from __future__ import annotations

import contextlib
import errno
import io
from typing import TYPE_CHECKING, Any, cast

from rpma.errors import ConnectionLost, RpmaError

if TYPE_CHECKING:
    from collections.abc import Iterator


class PoolError(RpmaError):
    """The base of all errors of pools.

    Attributes:
        wire_code: what a target sends for it.
        where: what of the target's files it is about, for the target's log; no client is told.
    """

    wire_code = "error"
    number: int | None = None

    def __init__(self, explanation: str = "", message: str = "", *, where: str = "") -> None:
        super().__init__(explanation, message)
        self.where = where
        if self.number is not None:  # an OSError's: its own constructor wants it in front
            cast(Any, self).errno = self.number

    @property
    def in_full(self) -> str:
        """What the target's log says."""
        return f"{self} ({self.where})" if self.where else str(self)


class PoolExistsError(PoolError, FileExistsError):
    """There is a pool of that name."""

    wire_code = "exists"
    number = errno.EEXIST


class PoolNotFoundError(PoolError, FileNotFoundError):
    """There is no pool of that name."""

    wire_code = "not found"
    number = errno.ENOENT


class PoolBusyError(PoolError, BlockingIOError):
    """Somebody has the pool open in a way that excludes what is asked for."""

    wire_code = "busy"
    number = errno.EBUSY


class PoolNameError(PoolError, ValueError):
    """That cannot be the name of a pool."""

    wire_code = "name"


class PoolSizeError(PoolError, ValueError):
    """That cannot be the size of a pool."""

    wire_code = "size"


class PoolSpaceError(PoolError, OSError):
    """The target has no room for it."""

    wire_code = "space"
    number = errno.ENOSPC


class PoolDamagedError(PoolError, OSError):
    """The pool's file is not what the target made of it."""

    wire_code = "damaged"
    number = errno.EIO


class PoolAccessError(PoolError, PermissionError):
    """The pool is open for less than that."""

    wire_code = "access"
    number = errno.EACCES


class StorageError(PoolError, OSError):
    """The target's storage failed: what was written since the last persist may be lost."""

    wire_code = "storage"
    number = errno.EIO


class NotDurableError(PoolError, io.UnsupportedOperation):
    """The pool is in DRAM: nothing can make it durable."""

    wire_code = "not durable"
    number = errno.EOPNOTSUPP


class TargetError(PoolError, OSError):
    """The target cannot do it now; its words say why."""

    wire_code = "target"
    number = errno.EAGAIN


class AuthenticationError(PoolError, PermissionError):
    """The two sides do not have the same token."""

    wire_code = "authentication"
    number = errno.EACCES


class ProtocolError(PoolError, ConnectionError):
    """What came from the other side is not the protocol."""

    wire_code = "protocol"
    number = errno.EPROTO


class TargetLost(ConnectionLost):
    """The connection to the target ended. What persist() returned for is durable all the same.

    Attributes:
        acknowledged: how many bytes, from the first on, of the transfer that met this the target
            has: for a write, that its RNIC has placed; for a put, that are durable.
    """

    acknowledged = 0


def _classes(base: type[PoolError]) -> list[type[PoolError]]:
    return [base, *(cls for child in base.__subclasses__() for cls in _classes(child))]


BY_WIRE_CODE = {cls.wire_code: cls for cls in _classes(PoolError)}
"""The class for each code that a target sends."""


@contextlib.contextmanager
def undoing(error: BaseException) -> Iterator[None]:
    """While what failed with `error` is undone: where that fails as well, both are said."""
    try:
        yield
    except RpmaError as why:
        first: object = error
        if isinstance(error, OSError) and not isinstance(error, RpmaError):
            first = error.strerror  # without the path: clients are told
        kind = type(error) if isinstance(error, PoolError) else TargetError
        raise kind(
            f"{first}; and what had been done could not be undone: {why}",
            where=getattr(why, "where", ""),
        ) from error
