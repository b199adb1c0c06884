# SPDX-License-Identifier: BSD-3-Clause
"""The driver for asyncio: sees to what the client's logic needs, for many tasks at a time."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

from rpma.constants import ConnectionEvent
from rpma.errors import ForkedError, RpmaError, WaitTimeoutError, event_error
from rpma.pool import logic
from rpma.pool.channel import Channel
from rpma.pool.datapath import DataPath
from rpma.pool.driver import seconds
from rpma.pool.errors import TargetLost
from rpma.pool.transfers import Cancelled
from rpma.pool.waiting import Waiter, again

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from rpma.pool.address import TargetAddress

_READ_SIZE = 64 << 10
_COMPLETIONS = 64


class AsyncDriver:
    """Runs the steps of the logic in the event loop that it was made in.

    Attributes:
        path: the data connection, once there is one.
        loop: the event loop.
    """

    def __init__(self) -> None:
        self.path: DataPath | None = None
        self.loop = asyncio.get_running_loop()
        self._channel = Channel()
        self._exchanging = asyncio.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._broken: Exception | None = None
        self._watched: list[int] = []
        self._later: set[asyncio.Task[None]] = set()
        self._pid = os.getpid()

    async def run(self, steps: Any, timeout: float | None) -> Any:
        """The result of `steps`; its needs are seen to as they come.

        A task that is cancelled meanwhile takes note of that when the network is done with the
        memory of the program: at once, but for arrays in registered memory.
        """
        deadline = None if timeout is None else self.loop.time() + seconds(timeout)
        cancelled: asyncio.CancelledError | None = None
        try:
            need = next(steps)
            while True:
                try:
                    got = await self._see_to(need, deadline)
                except asyncio.CancelledError as error:
                    cancelled = cancelled or error
                    need = steps.throw(Cancelled())
                except BaseException as error:
                    need = steps.throw(error)
                else:
                    need = steps.send(got)
        except StopIteration as stop:
            if cancelled is not None:
                raise cancelled from None
            return stop.value
        except Cancelled:
            assert cancelled is not None
            raise cancelled from None

    async def wait(self, waiter: Waiter) -> None:
        """Wait for something that goes on by itself, whether the task is cancelled or not."""
        future: asyncio.Future[None] = self.loop.create_future()
        waiter.also(lambda: _settle(future))
        await future
        if waiter.error is not None:
            raise again(waiter.error)

    async def whole(self, steps: Any, timeout: float | None, undo: Any = None) -> Any:
        """As `run`, but a cancelled task leaves the steps to end by themselves.

        So that the control channel stays in step. `undo` is called with what comes of them then.
        """
        task = self.loop.create_task(self.run(steps, timeout))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._undo(done, undo))
            raise

    def later(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Do it when there is time, whatever comes of it."""
        task = self.loop.create_task(coroutine)
        self._later.add(task)
        task.add_done_callback(self._done_later)

    def _done_later(self, task: asyncio.Task[None]) -> None:
        self._later.discard(task)
        if not task.cancelled():
            task.exception()

    def _undo(self, task: asyncio.Task[Any], undo: Any) -> None:
        if not task.cancelled() and task.exception() is None and undo is not None:
            undo(task.result())

    # ---- needs -----------------------------------------------------------------------------------

    async def _see_to(self, need: Any, deadline: float | None) -> Any:
        if isinstance(need, Waiter):
            await self._done(need, deadline)
            return None
        if isinstance(need, logic.Run):
            return await self.loop.run_in_executor(None, need.function)
        if isinstance(need, logic.Secure):
            self._channel.secure(key_in=need.keys.to_client, key_out=need.keys.to_target)
            return None
        if os.getpid() != self._pid:
            raise ForkedError("this client belongs to the parent process")
        async with self._exchanging:
            return await self._talk(need, deadline)

    async def _done(self, waiter: Waiter, deadline: float | None) -> None:
        if waiter.done:
            return
        future: asyncio.Future[None] = self.loop.create_future()
        timer = None
        if deadline is not None:
            timer = self.loop.call_at(deadline, _settle, future)
        waiter.callback = lambda: _settle(future)
        try:
            await future
        finally:
            waiter.callback = None
            if timer is not None:
                timer.cancel()
        if not waiter.done:
            raise WaitTimeoutError("the timeout has passed")

    async def _talk(self, need: Any, deadline: float | None) -> Any:
        try:
            timeout = None if deadline is None else deadline - self.loop.time()
            return await asyncio.wait_for(self._talk_on(need), timeout)
        except asyncio.TimeoutError:
            error: Exception = WaitTimeoutError("the target did not reply in time")
            self._break(error)
            raise error from None
        except BaseException as error:
            self._break(error)
            raise

    def _break(self, error: BaseException) -> None:
        # A reply that is not waited for would be taken for that of the next request.
        if self._broken is None:
            words = f"the control channel was given up: {error!r}; connect again"
            self._broken = error if isinstance(error, TargetLost) else TargetLost(words)

    async def _talk_on(self, need: Any) -> Any:
        if isinstance(need, logic.Dial):
            await self._dial(need.address)
            return None
        if self._broken is not None:
            raise again(self._broken)
        assert self._reader is not None
        assert self._writer is not None
        try:
            if isinstance(need, logic.Exchange):
                self._writer.write(self._channel.frame(need.payload))
                await self._writer.drain()
            while (payload := self._channel.next_payload()) is None:
                data = await self._reader.read(_READ_SIZE)
                if not data:
                    raise TargetLost("the target closed the connection")
                self._channel.feed(data)
        except OSError as error:
            if isinstance(error, RpmaError):
                raise
            raise TargetLost(f"the connection to the target is lost: {error}") from error
        return payload

    async def _dial(self, address: TargetAddress) -> None:
        try:
            self._reader, self._writer = await asyncio.open_connection(address.host, address.port)
        except OSError as error:
            failure = TargetLost(f"cannot connect to {address}: {error.strerror or error}")
            raise failure from error
        connection = self._writer.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    # ---- the data connection ---------------------------------------------------------------------

    def watch(self, path: DataPath) -> None:
        """Have the event loop see to the completions and events of the data connection."""
        self.path = path
        connection = path.connection
        for fd, ready in ((connection.cq.fd, self._completed), (connection.event_fd, self._event)):
            copy = os.dup(fd)  # asyncio knows a descriptor by its number
            self._watched.append(copy)
            self.loop.add_reader(copy, ready)

    def _completed(self) -> None:
        path = self.path
        assert path is not None
        queue = path.connection.cq
        try:
            queue.wait(0)  # takes the event, and asks for the next one
        except WaitTimeoutError:
            pass
        except RpmaError as error:
            self._lose(error)
            return
        while True:
            completed = queue.get_fields(_COMPLETIONS)
            for fields in completed:
                path.complete(fields)
            if len(completed) < _COMPLETIONS:
                return

    def _event(self) -> None:
        path = self.path
        assert path is not None
        try:
            event = path.connection.next_event(0)
        except WaitTimeoutError:
            return
        except RpmaError as error:
            self._lose(error)
            return
        if event is not ConnectionEvent.ESTABLISHED:
            self._lose(event_error(event, "the data connection"))

    def _lose(self, cause: Exception) -> None:
        self._unwatch()
        if self.path is not None:
            self.path.lose(cause)

    def _unwatch(self) -> None:
        for fd in self._watched:
            if not self.loop.is_closed():
                self.loop.remove_reader(fd)
            os.close(fd)
        self._watched.clear()

    @property
    def is_lost(self) -> bool:
        """Whether the target cannot be asked anything any more."""
        path = self.path
        return self._broken is not None or (path is not None and path.broken is not None)

    def close(self) -> None:
        """Let go of all; calls that are under way fail."""
        self._unwatch()
        if self._writer is not None and not self.loop.is_closed():
            self._writer.close()
        if self.path is not None and os.getpid() == self._pid:
            self.path.lose(RpmaError("the client was closed"))
            self.path.close()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
