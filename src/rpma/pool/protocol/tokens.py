# SPDX-License-Identifier: BSD-3-Clause
"""The tokens that clients show and targets ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpma._buffers import copied
from rpma.pool.protocol.errors import AuthenticationError

if TYPE_CHECKING:
    from rpma._types import Buffer


def check_token(token: Buffer | str | None) -> bytes:
    """The bytes of a token; of none for a target that asks for none.

    Text is what stands in the line of a token file: white space around it, such as the newline that
    reading a file brings, is not part of it. Bytes are taken as they are.
    """
    if token is None:
        return b""
    if isinstance(token, str):
        token = token.strip().encode("utf-8")
    raw = copied("token", token, "bytes, a str or None")
    if not raw.strip():
        raise AuthenticationError("token is empty: give the target's, or None if it has none")
    return raw
