# SPDX-License-Identifier: BSD-3-Clause
"""Listening on what an operator names: an address, all of them, or a name."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import ExitStack


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen for TCP connections on all addresses that a host has, and on one port.

    `::` is all addresses of this machine, those of IPv4 included; `0.0.0.0` is those of IPv4.

    Args:
        host: an address, or a name.
        port: 0 takes a free one.

    Raises:
        OSError: it cannot listen there.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    with ExitStack() as undo:
        listening: list[socket.socket] = []
        missing: OSError | None = None
        for family, place in dict.fromkeys((entry[0], entry[4]) for entry in found):
            at = (place[0], port, *place[2:])
            try:
                made = _server(family, at)
            except OSError as error:
                # Names have addresses of families that the machine does without.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
            else:
                listening.append(undo.enter_context(made))
                port = int(made.getsockname()[1])
        if missing is not None and not listening:
            raise missing
        undo.pop_all()
    return listening


def _server(family: int, place: tuple[str | int, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            is_any = ipaddress.IPv6Address(place[0]).is_unspecified
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_any)
        made.bind(place)
        made.listen()
    except BaseException:
        made.close()
        raise
    return made
