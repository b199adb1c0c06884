# SPDX-License-Identifier: BSD-3-Clause
"""What others send, in log lines and messages: so much of it, escaped; and so many lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rpma.errors import RpmaError

if TYPE_CHECKING:
    import asyncio
    import logging
    from collections.abc import Callable

SHOWN: Final = 64
"""How much is shown of what a stranger sent, in characters."""

EXPLAINED: Final = 1000
"""How long an explanation of the other side may be, in characters."""

LINES: Final = 10
"""How many lines of a kind are written in a `PERIOD`."""

PERIOD: Final = 10.0
"""In seconds."""


def plain(text: str) -> str:
    """What a stranger sent, or words that quote it: a little of it, in printable ASCII.

    So that it ends no line, starts no command of a terminal and turns no letters around.
    """
    return _one_line(text, SHOWN, lambda c: c.isascii() and c.isprintable())


def explained(text: str) -> str:
    """What the other side says of a failure: one line, in any script."""
    return _one_line(text, EXPLAINED, str.isprintable)


def _one_line(text: str, most: int, is_harmless: Callable[[str], bool]) -> str:
    shown = text[:most]
    if not is_harmless(shown):
        shown = "".join(c if is_harmless(c) else ascii(c)[1:-1] for c in shown)
    return f"{shown[:most]}..." if len(text) > most or len(shown) > most else shown


def quoted(text: str, most: int = SHOWN) -> str:
    """The same in quotes, as the value that it is."""
    shown = ascii(text[:most])
    is_cut = len(text) > most or len(shown) > most + 2
    return f"{shown[: most + 1]}{shown[-1]}..." if is_cut else shown


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
