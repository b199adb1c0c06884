# SPDX-License-Identifier: BSD-3-Clause
"""The names of pools: what they can be."""

from __future__ import annotations

import re
from typing import Final

from rpma.pool.protocol.errors import PoolNameError
from rpma.pool.protocol.words import quoted

__all__ = ["NAME", "check_name"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(name: str) -> str:
    """`name`, if a pool can have it: a letter or a digit, then at most 127 of letters, digits, ".",
    "_" and "-", all ASCII. No such name leads out of a directory, and none is hidden in it.

    PoolNameError otherwise, TypeError for what is no str.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: a str is needed, not {type(name).__name__}")
    if not NAME.fullmatch(name):
        raise PoolNameError(
            f"name: {quoted(name)} cannot be the name of a pool; use 1 to 128 ASCII letters, "
            "digits, '.', '_' and '-', the first of them a letter or a digit"
        )
    return name
