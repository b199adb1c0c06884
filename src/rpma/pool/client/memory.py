# SPDX-License-Identifier: BSD-3-Clause
"""The memory that a client's requests work on: its bounce buffers, and the program's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpma.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpma.memory import MemoryRegion
    from rpma.pool.client.waiting import Waiter


class Slot:
    """A piece of the bounce buffers.

    Attributes:
        offset: where it is in their region, in bytes.
        view: its memory.
    """

    __slots__ = ("_home", "offset", "view")

    def __init__(self, home: list[Slot], offset: int, view: memoryview) -> None:
        self._home, self.offset, self.view = home, offset, view

    def give_back(self) -> None:
        """It is free again."""
        self._home.append(self)


class InPlace:
    """Registered memory of the program.

    Attributes:
        abandoned: the last request of a call that timed out, which may still touch the memory.
        last: the last request that was posted for it; all before it are done when it is.
    """

    __slots__ = ("_is_closed", "_region", "abandoned", "last")

    def __init__(self, region: MemoryRegion) -> None:
        self._region = region
        self._is_closed = False
        self.abandoned: Waiter | None = None
        self.last: Waiter | None = None

    @property
    def region(self) -> MemoryRegion:
        """The memory, to be used by one more request.

        Raises:
            ClosedError: it is let go of.
        """
        if self._is_closed:
            raise ClosedError("the array is closed, or its pool")
        return self._region

    def when_free(self, callback: Callable[[], object]) -> None:
        """Call this, perhaps twice, when no request can touch the memory any more."""
        if self.last is None:
            callback()
        else:
            self.last.also(callback)
            if self.last.done:  # another thread may have come between
                callback()

    def close(self) -> None:
        """Nothing more is posted for it; it is deregistered when the network is done with it."""
        if not self._is_closed:
            self._is_closed = True
            self.when_free(self._region.close)
