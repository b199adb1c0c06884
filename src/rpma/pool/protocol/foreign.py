# SPDX-License-Identifier: BSD-3-Clause
"""What speaks another protocol where a pool's is expected: a browser, a TLS port, an SSH server."""

from __future__ import annotations

import re
from typing import Final

from rpma.pool.protocol.words import quoted

_HTTP_METHODS: Final = rb"GET |HEAD |POST |PUT |DELETE |OPTIONS |PATCH |CONNECT |TRACE |PRI "

_KINDS: Final = (
    (
        re.compile(_HTTP_METHODS),
        "an HTTP request came, but this port speaks rpma's pool protocol; metrics are at the port "
        "that --metrics names",
    ),
    (re.compile(rb"HTTP/"), "an HTTP server answered, where a target of pools was expected"),
    (
        re.compile(rb"\x16\x03...\x01", re.DOTALL),
        "a TLS handshake came, but this port speaks rpma's pool protocol, which is without TLS",
    ),
    (
        re.compile(rb"[\x15\x16]\x03", re.DOTALL),
        "a TLS server answered, where a target of pools was expected",
    ),
    (
        re.compile(rb"SSH-"),
        "an SSH server answered, where a target of pools was expected; ssh://HOST/DIRECTORY starts "
        "one by ssh",
    ),
)

_TEXT: Final = re.compile(rb"[\t\r\n -~]{4,}")


def words_for(data: bytes) -> str:
    """What speaks so, in a sentence; "" where that is not known.

    Args:
        data: the first bytes that came, four at least.
    """
    for pattern, words in _KINDS:
        if pattern.match(data):
            return words
    text = _TEXT.match(data)
    if text is None:
        return ""
    line = text[0].decode("ascii").strip().partition("\n")[0].rstrip()
    return f"{quoted(line)} came, where rpma's pool protocol was expected"
