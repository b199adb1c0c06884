# SPDX-License-Identifier: BSD-3-Clause
"""The names of pools: what they can be, and tables that have them in order."""

from __future__ import annotations

import bisect
import re
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from rpma.pool.errors import PoolNameError
from rpma.pool.words import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Set

__all__ = ["NAME", "NameTable", "check_name"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

T = TypeVar("T")


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


class NameTable(Generic[T]):
    """Something for each of some names. What comes after a name is found without a look at all of
    them. For one thread at a time.
    """

    def __init__(self) -> None:
        """An empty one."""
        self._values: dict[str, T] = {}
        self._order: list[str] = []

    def after(self, name: str, count: int) -> list[str]:
        """The next `count` names after `name`, which need not be there itself, in order."""
        start = bisect.bisect_right(self._order, name)
        return self._order[start : start + count]

    def get(self, name: str) -> T | None:
        """What there is for a name, or None."""
        return self._values.get(name)

    def pop(self, name: str) -> T | None:
        """Take out a name, and what there was for it, if it is there."""
        if name not in self._values:
            return None
        del self._order[bisect.bisect_left(self._order, name)]
        return self._values.pop(name)

    def have(self, names: Set[str], new: T) -> None:
        """Have these names and no others; those that were not there get `new`."""
        self._values = {name: self._values.get(name, new) for name in names}
        self._order = sorted(names)

    def values(self) -> Iterator[T]:
        """What there is for the names, in no order."""
        return iter(self._values.values())

    def __setitem__(self, name: str, value: T) -> None:
        if name not in self._values:
            bisect.insort(self._order, name)
        self._values[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __len__(self) -> int:
        return len(self._values)
