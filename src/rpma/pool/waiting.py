# SPDX-License-Identifier: BSD-3-Clause
"""Who waits for something that is under way, and learns when it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Waiter:
    """Something that is not done yet.

    Attributes:
        done: whether it is.
        error: why it failed, once it is done, or None.
        callback: called when it becomes done, or None.
    """

    __slots__ = ("callback", "done", "error")

    def __init__(self) -> None:
        self.done = False
        self.error: Exception | None = None
        self.callback: Callable[[], object] | None = None

    def finish(self, error: Exception | None = None) -> None:
        """It is done, or has failed."""
        if not self.done:
            self.done, self.error = True, error
            if self.callback is not None:
                self.callback()

    def also(self, callback: Callable[[], object]) -> None:
        """Call this, too, when it becomes done; at once if it is."""
        if self.done:
            callback()
            return
        before = self.callback

        def both() -> None:
            if before is not None:
                before()
            callback()

        self.callback = both


class SwapWaiter(Waiter):
    """A compare-and-swap that is not done yet.

    Attributes:
        found: what was there, once it is done.
    """

    __slots__ = ("found",)

    def __init__(self) -> None:
        super().__init__()
        self.found = 0
