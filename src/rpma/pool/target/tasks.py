# SPDX-License-Identifier: BSD-3-Clause
"""What the sessions of a target are made of, in its event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING, Any

from rpma.pool.protocol.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Coroutine

REQUESTS_PER_SECOND = 500.0
BURST = 100.0
"""A client that asks for more is read no faster than this."""

PORT_ATTEMPTS = 20
"""How many ports are proposed at a time."""


class Pace:
    """Lets so many requests through a second, after a burst."""

    def __init__(self) -> None:
        self._credit, self._when = BURST, time.monotonic()

    async def step(self) -> None:
        """Another request: wait until its time has come."""
        now = time.monotonic()
        self._credit = min(BURST, self._credit + (now - self._when) * REQUESTS_PER_SECOND)
        self._when = now
        self._credit -= 1
        if self._credit < 0:
            await asyncio.sleep(-self._credit / REQUESTS_PER_SECOND)


def free_ports(address: str) -> list[int]:
    """Port numbers that nothing on this machine listens on, at this moment."""
    # Not bind() itself, which forgets the interface of a link-local address.
    family, kind, _, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
    ports = []
    with contextlib.ExitStack() as opened:
        for _ in range(PORT_ATTEMPTS):
            probe = opened.enter_context(socket.socket(family, kind))
            probe.bind(place)
            ports.append(int(probe.getsockname()[1]))
    return ports


async def to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do it, even if this task is cancelled meanwhile."""
    doing = asyncio.ensure_future(work)
    while not doing.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(doing)
    doing.result()


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancel them, and wait until they have ended, even if this task is cancelled meanwhile."""
    for task in tasks:
        task.cancel()
    interrupted = None
    while not all(task.done() for task in tasks):
        try:
            await asyncio.wait(tasks)
        except asyncio.CancelledError as error:
            interrupted = error
    for task in tasks:
        if not task.cancelled():
            task.exception()  # nobody is to complain that it was not looked at
    if interrupted is not None:
        raise interrupted


async def readable(fd: int, deadline: float | None, what: str) -> None:
    """Wait until a file descriptor is readable.

    Raises:
        asyncio.TimeoutError: it was not in time.
    """
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    copy = os.dup(fd)  # asyncio knows a descriptor by its number
    loop.add_reader(copy, _done, ready)
    try:
        timeout = None if deadline is None else deadline - time.monotonic()
        await asyncio.wait_for(ready, timeout)
    except asyncio.TimeoutError:
        raise TargetError(f"the client took too long to {what}") from None
    finally:
        loop.remove_reader(copy)
        os.close(copy)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
