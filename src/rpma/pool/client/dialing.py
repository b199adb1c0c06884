# SPDX-License-Identifier: BSD-3-Clause
"""Which of a target's addresses a client tries, for how long, and what it says if none answers."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, NamedTuple

from rpma.errors import RpmaError, WaitTimeoutError
from rpma.pool.protocol.errors import TargetLost

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rpma.pool.protocol.address import TargetAddress

#: What an address says that this machine has no way to: the answers of others tell more.
_NO_WAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)

SocketAddress = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


class Candidate(NamedTuple):
    """An address to try.

    Attributes:
        family: its family.
        place: it, for connect().
        others: how many come after it, which want time, too.
    """

    family: int
    place: SocketAddress
    others: int

    def share(self, left: float | None) -> float | None:
        """How long it may take where so much time is left for all, in seconds."""
        return None if left is None else left / (self.others + 1)


def candidates(found: Iterable[tuple[int, int, int, str, SocketAddress]]) -> list[Candidate]:
    """What getaddrinfo has found, in its order."""
    places = [(entry[0], entry[4]) for entry in found]
    return [Candidate(*place, len(places) - n) for n, place in enumerate(places, 1)]


def failure(address: TargetAddress, errors: list[OSError]) -> RpmaError:
    """What to raise when no address has answered, for what their errors were."""
    told = [error for error in errors if error.errno not in _NO_WAY] or errors
    error = told[-1]
    if isinstance(error, TimeoutError):
        return WaitTimeoutError(f"{address} did not answer in time")
    return TargetLost(f"cannot connect to {address}: {error.strerror or error}")


def ready(connection: socket.socket) -> None:
    """Set the options of a control channel."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
