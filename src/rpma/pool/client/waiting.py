# SPDX-License-Identifier: BSD-3-Clause
"""Who waits for something that is under way, and learns when it is done."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from rpma.pool.protocol.errors import TargetLost

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from rpma.memory import RemoteMemoryRegion
    from rpma.pool.client.memory import Slot


class Waiter:
    """Something that is not done yet, and that any number may wait for.

    Attributes:
        done: whether it is.
        error: why it failed, once it is done, or None.
    """

    __slots__ = ("_callbacks", "done", "error")

    def __init__(self) -> None:
        self.done = False
        self.error: Exception | None = None
        self._callbacks: list[Callable[[], object]] | None = None

    def finish(self, error: Exception | None = None) -> None:
        """It is done, or has failed.

        Where a signal handler has raised in the middle of this, it may be called again: nobody who
        waits is forgotten then.
        """
        if not self.done:
            self.done, self.error = True, error
        if self._callbacks is not None:
            for callback in self._callbacks:
                callback()
            self._callbacks = None

    def also(self, callback: Callable[[], object]) -> None:
        """Call this when it becomes done; at once if it is."""
        if self.done:
            callback()
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def cease(self, callback: Callable[[], object]) -> None:
        """Do not call that any more."""
        if self._callbacks is not None and callback in self._callbacks:
            self._callbacks.remove(callback)


class SwapWaiter(Waiter):
    """A compare-and-swap that is not done yet.

    Attributes:
        found: what was there, once it is done.
    """

    __slots__ = ("found",)

    def __init__(self) -> None:
        super().__init__()
        self.found = 0


class Batch(Waiter):
    """Small writes of many tasks that are posted together, and done together.

    Attributes:
        dst: the memory that they write to.
        number: of the pool, where they are done when they are durable; else None.
        sent: done when the memory of what was posted is free again, of those that become durable.
        segments: three numbers of each: offset there, offset in the bounce buffers, length.
        slots: theirs, which are small, and given back when the memory is free.
        futures: who waits for each.
    """

    __slots__ = ("_home", "dst", "futures", "number", "segments", "sent", "slots")

    def __init__(self, dst: RemoteMemoryRegion, home: list[Slot], number: int | None) -> None:
        """For writes to `dst`, from slots of `home`."""
        super().__init__()
        self._home = home
        self.dst, self.number = dst, number
        self.sent = Waiter()
        if number is not None:
            self.sent.also(self._give_back)
        self.segments: list[int] = []
        self.slots: list[Slot] = []
        self.futures: list[asyncio.Future[None]] = []

    def finish(self, error: Exception | None = None) -> None:
        """All of them are done, or have failed."""
        super().finish(error)
        if self.number is None:
            self._give_back()
        for future in self.futures:
            if future.done():  # its task was cancelled
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(again(error))

    def _give_back(self) -> None:
        slots, self.slots = self.slots, []
        self._home += slots


def given_up(error: BaseException) -> TargetLost:
    """What whoever asks the target next is told, after asking it has ended in this error."""
    if isinstance(error, TargetLost):
        return error
    why = str(error) or type(error).__name__
    return TargetLost(f"the control channel was given up ({why}): connect again")


def again(error: Exception) -> Exception:
    """The error, to be raised once more: it must not gather the tracebacks of all who meet it."""
    return copy.copy(error)
