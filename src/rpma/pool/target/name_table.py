# SPDX-License-Identifier: BSD-3-Clause
"""Tables that have names in order."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Set

T = TypeVar("T")


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
