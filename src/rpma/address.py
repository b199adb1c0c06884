# SPDX-License-Identifier: BSD-3-Clause
"""Addresses and ports, as librpma takes them."""

from __future__ import annotations

import errno
import os
from typing import Final

from rpma._object import integer
from rpma.errors import InvalidArgumentError

_WHY_NOT_LISTEN: Final = {
    errno.EADDRINUSE: "the port is in use, by another target or another program",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "this user may not take a port below 1024",
}


def why_not_listen(error: OSError) -> str:
    """Why nothing can listen at an address, in words."""
    number = error.errno or 0
    if number in _WHY_NOT_LISTEN:
        return _WHY_NOT_LISTEN[number]
    # asyncio and socket put the address in front of it; a name that is not found has words only.
    return os.strerror(number) if number > 0 else error.strerror or str(error)


def encode_address(address: object) -> bytes:
    """An address for librpma, or the exception that says what is wrong with it."""
    if not isinstance(address, str):
        raise TypeError(f"address must be a str, not {type(address).__name__}")
    if not address or "\0" in address:
        raise InvalidArgumentError(f"address={address!r} must be a host name or an IP address")
    try:
        return address.encode("ascii" if address.isascii() else "idna")
    except UnicodeError as error:
        raise InvalidArgumentError(f"address={address!r} cannot be a host name: {error}") from None


def encode_port(port: object) -> bytes:
    """A port for librpma, or the exception that says what is wrong with it."""
    if isinstance(port, str):
        if not port or "\0" in port:
            raise InvalidArgumentError(f"port={port!r} must be a port number or a service name")
        if not (port.isascii() and port.isdigit()):
            try:
                return port.encode("utf-8")
            except UnicodeError:
                raise InvalidArgumentError(f"port={port!r} cannot be a service name") from None
        # Not more digits than a port can have: int() refuses thousands of them.
        port = int(port.lstrip("0")[:6] or "0")
    elif not hasattr(port, "__index__"):
        raise TypeError(f"port must be an int or a str, not {type(port).__name__}")
    return str(integer("port", port, 65535)).encode()
