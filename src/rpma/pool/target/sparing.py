# SPDX-License-Identifier: BSD-3-Clause
"""What a target says of what others cause: so many lines of a log, nothing of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rpma.errors import RpmaError

if TYPE_CHECKING:
    import asyncio
    import logging

LINES: Final = 10
"""How many lines of a kind are written in a `PERIOD`."""

PERIOD: Final = 10.0
"""In seconds."""


def told(error: Exception) -> str:
    """What a client is told of an error: nothing of where the target keeps its files."""
    if isinstance(error, OSError) and not isinstance(error, RpmaError):
        return f"the target failed: {error.strerror or type(error).__name__}"
    return str(error)


class Sparing:
    """Logs what others cause at whatever pace: some lines, then how many more there would be."""

    def __init__(self, log: logging.Logger, loop: asyncio.AbstractEventLoop) -> None:
        """It is called in this event loop only."""
        self._log, self._loop = log, loop
        self._seen: dict[tuple[int, str], int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __call__(
        self, level: int, kind: str, text: str, *values: object, with_trace: bool = False
    ) -> None:
        """Log ``text % values``; `kind` is what further lines are counted as."""
        if self._timer is None:
            self._timer = self._loop.call_later(PERIOD, self.sum_up)
        key = level, kind
        self._seen[key] = seen = self._seen.get(key, 0) + 1
        if seen <= LINES:
            self._log.log(level, text, *values, exc_info=with_trace)

    def sum_up(self) -> None:
        """Say how many lines were left out, and begin anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        seen, self._seen = self._seen, {}
        for (level, kind), count in seen.items():
            if count > LINES:
                self._log.log(level, "%d more lines left out: %s", count - LINES, kind)
