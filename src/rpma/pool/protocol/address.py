# SPDX-License-Identifier: BSD-3-Clause
"""Target node addresses: where a target is."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Any

from rpma.errors import InvalidArgumentError

DEFAULT_PORT = 7204
"""The port on which a target listens, where none is given."""

_HOST = re.compile(
    r"(?:(?P<user>[^@\[\]/:]+)@)?"
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[\w.-]+)?)\]|(?P<host>[^@\[\]/:\s]+))"
    r"(?::(?P<port>[0-9]{1,9}))?"
)
_SHOULD_BE = (
    "is no target: HOST:PORT or USER@HOST:PORT, an IPv6 address in brackets, as in "
    "db1.example:7204; or ssh://USER@HOST:PORT/DIRECTORY"
)


@dataclass(frozen=True)
class TargetAddress:
    """Where a target is.

    Attributes:
        host: its name or address.
        port: of the target itself; with ssh that of the SSH server, None being ssh's default.
        user: whose token it is; with ssh the user there. None: the default.
        directory: with ssh, the directory of pools to serve; None: a target that is running.
    """

    host: str
    port: int | None = DEFAULT_PORT
    user: str | None = None
    directory: str | None = None

    @classmethod
    def parse(cls, text: str) -> TargetAddress:
        """The address that `text` says.

        Raises:
            TypeError: it is not a string.
            InvalidArgumentError: it is no address.
        """
        if not isinstance(text, str):
            raise TypeError(f"target must be a string, not {type(text).__name__}")
        if text.startswith("ssh://"):
            place, slash, directory = text[len("ssh://") :].partition("/")
            if not slash:
                raise InvalidArgumentError(
                    f"target={text!r} names no directory: ssh://[user@]host[:port]/directory"
                )
            return cls._parse(text, place, None, "/" + directory)
        return cls._parse(text, text, DEFAULT_PORT, None)

    @classmethod
    def _parse(
        cls, text: str, place: str, default: int | None, directory: str | None
    ) -> TargetAddress:
        match = _HOST.fullmatch(place)
        # A name that begins like an option must not become one of ssh's.
        if not match or place.startswith("-") or "@-" in place:
            raise InvalidArgumentError(f"target={text!r} {_SHOULD_BE}")
        host = match["ipv6"] or match["host"]
        if not _can_be_looked_up(host):
            raise InvalidArgumentError(f"target={text!r}: {host!r} cannot be a host's name")
        port = default if match["port"] is None else int(match["port"])
        if port is not None and not 0 < port < 1 << 16:
            raise InvalidArgumentError(f"target={text!r}: port {port} must be from 1 to 65535")
        return cls(host, port, match["user"], directory)

    def __str__(self) -> str:
        """As `parse` takes it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        place = f"{self.user}@{host}" if self.user else host
        if self.directory is not None:
            port = f":{self.port}" if self.port is not None else ""
            return f"ssh://{place}{port}{self.directory}"
        return f"{place}:{self.port}"


def _can_be_looked_up(host: str) -> bool:
    """Whether it can be encoded as who looks for its address does, with labels of a length."""
    if host.isascii():
        return all(0 < len(label) < 64 for label in host.removesuffix(".").split("."))
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def parse_pool(text: str) -> tuple[TargetAddress, str]:
    """What TARGET/POOL says: `host:7204/journal`, `ssh://host/dir/journal`.

    Raises:
        InvalidArgumentError: it is no address, or names no pool.
    """
    target, slash, name = text.rpartition("/")
    if not slash or not name or target.endswith(":/"):
        raise InvalidArgumentError(f"{text!r} should be TARGET/POOL: host:7204/journal, say")
    return TargetAddress.parse(target), name


def numeric_host(place: Any) -> str:
    """The address in a socket address, in numbers, as everything here takes one.

    A link-local one has its interface with it (fe80::1%eth0); an IPv4 one that came to a socket for
    both families is as IPv4 writes it.
    """
    host = socket.getnameinfo(place, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]
    if ":" in host:
        mapped = ipaddress.IPv6Address(host).ipv4_mapped
        if mapped is not None:
            return str(mapped)
    return host


def is_link_local(host: str) -> bool:
    """Whether an address leads somewhere on one link only, and must name the interface for that."""
    try:
        return ":" in host and ipaddress.IPv6Address(host).is_link_local
    except ValueError:  # whatever a target says
        return False
