# SPDX-License-Identifier: BSD-3-Clause
"""Reading and writing all that is asked for: a short read or write is never the end.

A pipe, a socket or a terminal may be non-blocking, by whoever had it before: then a read that finds
nothing yet returns None, as does a write for which there is no room, or it raises BlockingIOError.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


MOST = 1 << 20
"""How much is read at a time, in bytes."""


def read_fully(source: Any, view: memoryview, deadline: float | None = None) -> int:
    """Fill `view` from a file that is open for reading in binary mode.

    Args:
        source: the file; buffered or not, blocking or not.
        view: of bytes.
        deadline: of the monotonic clock, until which a non-blocking file is waited for.

    Returns:
        How many bytes were read: fewer than there is room for at the end of the file only.

    Raises:
        OSError: it cannot be read.
        WaitTimeoutError: nothing came in time.
    """
    into = _way(source, "readinto")
    done = 0
    while done < len(view):
        # Files of /proc/sys refuse to be read by more than the kernel can allocate at once.
        count = _count(source, into, view[done : done + MOST], deadline)
        if count == 0:
            break
        done += count
    return done


def read_some(source: Any, view: memoryview, deadline: float | None = None) -> int:
    """As `read_fully`, but what there is by now is enough: 0 at the end of the file only."""
    return _count(source, _way(source, "readinto1", "readinto"), view, deadline)


def write_fully(sink: Any, view: memoryview, deadline: float | None = None) -> None:
    """Write all of `view` to a file that is open for writing in binary mode.

    Args:
        sink: the file; buffered or not, blocking or not.
        view: of bytes.
        deadline: of the monotonic clock, until which a non-blocking file is waited for.

    Raises:
        OSError: it cannot be written.
        WaitTimeoutError: nobody made room for it in time.
    """
    done = 0
    while done < len(view):
        try:
            count = sink.write(view[done:])
        except BlockingIOError as error:
            done += error.characters_written  # a buffer has these
            count = None
        if count is None:
            _wait(sink, select.POLLOUT, deadline)
        else:
            done += count


def flush_fully(sink: Any, deadline: float | None = None) -> None:
    """Have a buffered file write what it has; otherwise as `write_fully`."""
    while True:
        try:
            sink.flush()
        except BlockingIOError:
            _wait(sink, select.POLLOUT, deadline)
        else:
            return


def _way(source: Any, *names: str) -> Callable[[memoryview], int | None]:
    """How to read from a file, one that has `read` only included."""
    for name in names:
        if (found := getattr(source, name, None)) is not None:
            return found  # type: ignore[no-any-return]

    def into(view: memoryview) -> int | None:
        data = source.read(len(view))
        if data is None:
            return None
        view[: len(data)] = data
        return len(data)

    return into


def _count(
    source: Any,
    into: Callable[[memoryview], int | None],
    view: memoryview,
    deadline: float | None,
) -> int:
    """How many bytes were read; 0 at the end of the file only."""
    while True:
        try:
            count = into(view)
        except BlockingIOError:
            count = None
        if count is not None:
            return count
        _wait(source, select.POLLIN, deadline)


def _wait(file: Any, event: int, deadline: float | None) -> None:
    """Wait until a non-blocking file is ready, or has failed, which the next call tells."""
    poll = select.poll()
    poll.register(file.fileno(), event)
    left = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
    if not poll.poll(left):
        from rpma.errors import WaitTimeoutError  # here: the command reads and writes without rpma

        doing = "nothing came from" if event == select.POLLIN else "nobody made room in"
        raise WaitTimeoutError(f"{doing} the file in time")
