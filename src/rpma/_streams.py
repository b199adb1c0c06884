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
    into = getattr(source, "readinto", None) or _read_into(source)
    done = 0
    while done < len(view):
        try:
            count = into(view[done:])
        except BlockingIOError:
            count = None
        if count is None:
            _wait(source, select.POLLIN, deadline)
        elif count == 0:
            break
        else:
            done += count
    return done


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


def _read_into(source: Any) -> Callable[[memoryview], int | None]:
    """For a file that has `read` only."""

    def into(view: memoryview) -> int | None:
        data = source.read(len(view))
        if data is None:
            return None
        view[: len(data)] = data
        return len(data)

    return into


def _wait(file: Any, event: int, deadline: float | None) -> None:
    """Wait until a non-blocking file is ready, or has failed, which the next call tells."""
    poll = select.poll()
    poll.register(file.fileno(), event)
    left = None if deadline is None else max(deadline - time.monotonic(), 0) * 1000
    if not poll.poll(left):
        from rpma.errors import WaitTimeoutError  # here: the command reads and writes without rpma

        doing = "nothing came from" if event == select.POLLIN else "nobody made room in"
        raise WaitTimeoutError(f"{doing} the file in time")
