# SPDX-License-Identifier: BSD-3-Clause
"""The messages of the data connection: what a client asks for, and the target's answers."""

from __future__ import annotations

import enum
import struct
from typing import Final

from rpma._native import lib

REQUEST: Final = struct.Struct("<QQQII")
"""A flush request: its id, the offset, the length, the number of the pool, 0."""
ANSWER: Final = struct.Struct("<QII")
"""The answer: the id of the request, a `FlushStatus`, 0."""

LIST_MOST: Final[int] = lib.RPMAPY_LIST_MOST
"""How many ranges a flush request may have."""
LISTS: Final = tuple(struct.Struct("<QII" + count * "QI") for count in range(LIST_MOST + 1))
"""A flush request for so many ranges, two at least: its id, the number of the pool, how many there
are, then the offset and the length of each."""

SWAP_REQUEST: Final = struct.Struct("<QQQIIQQ")
"""A compare-and-swap: as a flush request of length 8, then what is expected, and desired."""
SWAP_ANSWER: Final = struct.Struct("<QIIQ")
"""The answer: as to a flush request, then what was found."""

REQUEST_ROOM: Final[int] = lib.RPMAPY_REQUEST_ROOM
ANSWER_ROOM: Final[int] = lib.RPMAPY_ANSWER_ROOM
"""How many bytes of registered memory each has, of either kind."""

assert REQUEST.size == lib.RPMAPY_FLUSH_REQUEST_SIZE
assert ANSWER.size == lib.RPMAPY_FLUSH_ANSWER_SIZE
assert LISTS[LIST_MOST].size <= REQUEST_ROOM
assert SWAP_REQUEST.size == lib.RPMAPY_SWAP_REQUEST_SIZE <= REQUEST_ROOM
assert SWAP_ANSWER.size == lib.RPMAPY_SWAP_ANSWER_SIZE <= ANSWER_ROOM


class FlushStatus(enum.IntEnum):
    """What an answer says.

    Attributes:
        OK: the range is durable.
        BAD_REQUEST: it is no request, or not for this pool.
        STORAGE_FAILED: what was written since the last flush may be lost; the pool stays so.
        NOT_DURABLE: nothing can make the pool durable.
    """

    OK = lib.RPMAPY_FLUSH_OK
    BAD_REQUEST = lib.RPMAPY_FLUSH_BAD_REQUEST
    STORAGE_FAILED = lib.RPMAPY_FLUSH_STORAGE_FAILED
    NOT_DURABLE = lib.RPMAPY_FLUSH_NOT_DURABLE
