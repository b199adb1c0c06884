# SPDX-License-Identifier: BSD-3-Clause
"""Where a target waits for storage: one pool's work in its order, that of others beside it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

log = logging.getLogger("rpma.target")


class Lanes:
    """Threads for work on pools, asked for by the tasks of one event loop.

    Work on a pool has its lane: it is done one piece after the other, in the order in which it was
    asked for. What waits for its turn takes no thread; so `threads` callers, each with one piece at
    a time, never wait for one another but for a pool's sake.
    """

    def __init__(self, name: str, threads: int) -> None:
        """At most so many pieces of work are under way; a thread is started when it is needed."""
        self._threads = ThreadPoolExecutor(threads, name)
        self._lanes: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def run(self, work: Callable[[], T], *names: str) -> T:
        """Do it in a thread, when nothing else is done with the pools of these names.

        A task that is cancelled before its turn has come has nothing done; one that is cancelled
        later waits for the end of it, which nothing can hasten: what the work has got belongs to
        somebody by then, and the lane is free.
        """
        async with contextlib.AsyncExitStack() as held:
            for name in sorted(set(names)):  # in one order, lest two wait for each other
                lane = self._lanes.setdefault(name, asyncio.Lock())
                await held.enter_async_context(lane)
            doing = asyncio.get_running_loop().run_in_executor(self._threads, work)
            try:
                return await asyncio.shield(doing)
            except asyncio.CancelledError:
                while not doing.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait((doing,))
                if (error := doing.exception()) is not None:
                    log.warning("work for somebody who has gone failed: %s", error)
                raise

    def close(self) -> None:
        """Wait for all work to end, and end the threads."""
        self._threads.shutdown()
