# SPDX-License-Identifier: BSD-3-Clause
"""Sizes as people write them: ``64MiB``, ``1.5GiB``, ``4k``."""

from __future__ import annotations

import re
from typing import Final

from rpma._huge_pages import an_integer
from rpma.pool.protocol.errors import PoolSizeError

__all__ = ["format_size", "parse_size"]

# Small letters: the case of a suffix says nothing, since nobody counts a pool in bits.
_UNITS: Final[dict[str, int]] = {"": 1, "b": 1} | {
    letter + suffix: int(base**power)
    for power, letter in enumerate("kmgt", 1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
# No more digits than a size can need: Python's conversion of long numbers takes quadratic time.
_SIZE: Final = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))? ?([A-Za-z]{0,3})")
_RIGHT: Final = (
    "use bytes, or a number with KiB, MiB, GiB, TiB (or K, M, G, T: powers of 1024) or kB, MB, GB, "
    "TB (powers of 1000), as in 4096, 64MiB or 1.5GiB"
)


def parse_size(text: str | int, name: str = "size") -> int:
    """The bytes that `text` means; an int is bytes already. 0 is a size, too.

    ``KiB MiB GiB TiB`` and ``K M G T`` are powers of 1024, ``kB MB GB TB`` are powers of 1000,
    ``B`` and nothing are bytes; capital or small letters, with or without a space before. A
    fraction must give whole bytes.

    Raises PoolSizeError that calls the argument `name`, and TypeError for what is neither a str nor
    an int.
    """
    if not isinstance(text, str):
        size = an_integer(name, text)
        if size < 0:
            raise PoolSizeError(f"{name}: {size} is negative; {_RIGHT}")
        return size
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[3].lower()) if match else None
    if match is None or unit is None:
        raise PoolSizeError(f"{name}: {_shown(text)} is not a size; {_RIGHT}")
    fraction = match[2] or ""
    scale: int = 10 ** len(fraction)
    size, rest = divmod(int(match[1] + fraction) * unit, scale)
    if rest:
        raise PoolSizeError(f"{name}: {_shown(text)} is not a whole number of bytes; {_RIGHT}")
    return size


def format_size(n: int) -> str:
    """`n` bytes for people to read: ``512 B``, ``64 MiB``, ``1.37 GiB``.

    Powers of 1024, rounded to two decimals: where bytes matter, say them as well.
    """
    if n < 0:
        return "-" + format_size(-n)
    if n < 1024:
        return f"{n} B"
    for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), 1):
        one = 1 << 10 * power
        whole, rest = divmod((n * 100 + one // 2) // one, 100)
        text = (f"{whole}.{rest:02}".rstrip("0") if rest else str(whole)) + f" {unit}"
        if whole < 1024:  # once it is rounded: a byte less than 1 MiB is no 1024 KiB
            break
    return text


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
