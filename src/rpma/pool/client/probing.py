# SPDX-License-Identifier: BSD-3-Clause
"""What listens at an address that takes a connection, and then says nothing as a target would."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from rpma.pool.protocol.foreign import words_for

PATIENCE: Final = 2.0
"""How long a target may take to say hello before one asks what it is, in seconds."""

PROBE_TIMEOUT: Final = 1.0
"""How long an answer may take, in seconds."""


def what_listens(host: str, port: int) -> str:
    """What answers there to HTTP or TLS, in a sentence; "" where nothing does.

    Over connections of its own: the one that is waiting for a target may still be answered.
    """
    for first in (b"GET / HTTP/1.0\r\n\r\n", _tls_hello()):
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host, port), PROBE_TIMEOUT) as connection,
        ):
            connection.settimeout(PROBE_TIMEOUT)
            connection.sendall(first)
            data = connection.recv(64)
            if len(data) >= 4 and (words := words_for(data)):
                return words
    return ""


def _tls_hello() -> bytes:
    """The first bytes of a TLS client."""
    import ssl  # takes its time, and is needed here only

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()
