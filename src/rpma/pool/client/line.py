# SPDX-License-Identifier: BSD-3-Clause
"""Threads that share a client: one at a time is inside, in the order in which they came."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from rpma.errors import WaitTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_SLICE = 0.1
"""Nobody waits longer than this for being woken: a signal handler may raise in who is to do it."""


class _Place:
    __slots__ = ("is_next", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.is_next = threading.Event()


class Line:
    """A lock that nobody is kept from by others who come again and again.

    Attributes:
        lock: who has it is inside. Whoever finds nobody in the line may take it at once.
        places: who is inside, and who waits, the first one first.
    """

    __slots__ = ("lock", "places")

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.places: deque[_Place] = deque()

    def is_inside(self) -> bool:
        """Whether this thread is, by `do`."""
        try:
            first = self.places[0]
        except IndexError:
            return False
        return first.thread == threading.get_ident()

    def do(self, function: Callable[[], T], deadline: float | None) -> T:
        """Call a function when it is this thread's turn; at once if it is inside already.

        Args:
            function: what to call.
            deadline: until when to wait for the turn, by time.monotonic(); where there is nobody,
                there is nothing to wait for, also if it has passed.

        Raises:
            WaitTimeoutError: others were inside for so long.
        """
        if self.is_inside():
            return function()
        place = _Place()
        try:
            self.places.append(place)
            while self.places[0] is not place:
                place.is_next.wait(min(_left(deadline), _SLICE))
            # A wait by `with` has no end in time; but only what it has taken is given back at any
            # rate, whenever a signal handler raises.
            if not (
                self.lock.acquire(blocking=False) or self.lock.acquire(timeout=_left(deadline))
            ):
                raise WaitTimeoutError("the timeout has passed while another thread was in a call")
            with self.lock:
                self.lock.release()
                return function()
        except BaseException:
            with suppress(RuntimeError):  # this thread does not have it
                self.lock.release()
            raise
        finally:
            self.places.remove(place)
            self._wake()

    def _wake(self) -> None:
        with suppress(IndexError):
            self.places[0].is_next.set()


def _left(deadline: float | None) -> float:
    if deadline is None:
        return threading.TIMEOUT_MAX
    left = deadline - time.monotonic()
    if left <= 0:
        raise WaitTimeoutError("the timeout has passed while another thread was in a call")
    return min(left, threading.TIMEOUT_MAX)
