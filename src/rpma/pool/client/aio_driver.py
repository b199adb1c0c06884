# SPDX-License-Identifier: BSD-3-Clause
"""The driver for asyncio: sees to what the client's logic needs, for many tasks at a time."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from rpma.completion import room_for
from rpma.constants import ConnectionEvent
from rpma.errors import (
    ClosedError,
    ForkedError,
    InUseError,
    RpmaError,
    WaitTimeoutError,
    event_error,
)
from rpma.pool.client import dialing, needs
from rpma.pool.client.datapath import DataPath
from rpma.pool.client.driver import seconds
from rpma.pool.client.transfers import Cancelled
from rpma.pool.client.waiting import Waiter, again, given_up
from rpma.pool.protocol.address import numeric_host
from rpma.pool.protocol.channel import Channel
from rpma.pool.protocol.errors import TargetLost

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from rpma.completion import CompletionQueue
    from rpma.pool.protocol.address import TargetAddress

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
        self._line: deque[Waiter] = deque()  # who talks to the target, and who wants to next
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._broken: Exception | None = None
        self._is_closed = False
        self._watched: list[int] = []
        self._queue: CompletionQueue
        self._room = room_for(_COMPLETIONS)
        self._begun: set[asyncio.Task[None]] = set()
        self._pid = os.getpid()

    def deadline(self, timeout: float | None) -> float | None:
        """When a timeout has passed, by the loop's clock."""
        return None if timeout is None else self.loop.time() + seconds(timeout)

    def left(self, deadline: float | None) -> float | None:
        """How long it is until then, in seconds."""
        return None if deadline is None else max(deadline - self.loop.time(), 0)

    def check_loop(self) -> None:
        """Raise InUseError in any other event loop, and so in any other thread."""
        if asyncio.get_running_loop() is not self.loop:
            raise InUseError(
                "this client belongs to another event loop: hand it what is to be done with "
                "asyncio.run_coroutine_threadsafe(), or connect once more"
            )

    async def run(self, steps: Any, timeout: float | None) -> Any:
        """The result of `steps`; its needs are seen to as they come.

        A task that is cancelled meanwhile takes note of that when the network is done with the
        memory of the program: at once, but for arrays in registered memory.
        """
        self.check_loop()
        deadline = self.deadline(timeout)
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
        except (Cancelled, Exception):  # whatever came of it, a task that was cancelled is
            if cancelled is not None:
                raise cancelled from None
            raise
        except BaseException as error:  # a signal handler's, in the middle of a step
            self._interrupted(error)
            raise

    def _interrupted(self, error: BaseException) -> None:
        """Nobody knows what is under way: all who wait learn that."""
        if self.path is not None:
            self.path.interrupted()
        if self._line:
            self._break(error)
            for turn in tuple(self._line):
                turn.finish()

    async def wait(self, waiter: Waiter) -> None:
        """Wait for something that goes on by itself, whether the task is cancelled or not."""
        await self._done(waiter, None)
        if waiter.error is not None:
            raise again(waiter.error)

    async def whole(self, steps: Any, timeout: float | None, undo: Any = None) -> Any:
        """As `run`, but a cancelled task leaves the steps to end by themselves.

        So that the control channel stays in step. `undo` is called with what comes of them then.
        """
        self.check_loop()
        task = self.loop.create_task(self.run(steps, timeout))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: self._undo(done, undo))
            raise

    async def ended(self, task: asyncio.Task[None], deadline: float | None) -> None:
        """Wait for the end of something that was begun, whatever comes of it."""
        if not task.done():
            _, pending = await asyncio.wait({task}, timeout=self.left(deadline))
            if pending:
                raise WaitTimeoutError("the timeout has passed")

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin with something that goes on by itself, whoever waits for it."""
        task = self.loop.create_task(coroutine)
        self._begun.add(task)
        task.add_done_callback(self._done_begun)
        return task

    def _done_begun(self, task: asyncio.Task[None]) -> None:
        self._begun.discard(task)
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
        if isinstance(need, needs.Run):
            job = _Job(need.function)
            try:
                return await self.loop.run_in_executor(None, job)
            except BaseException:
                job.abandon()
                raise
        if isinstance(need, needs.Secure):
            self._channel.secure(key_in=need.keys.to_client, key_out=need.keys.to_target)
            return None
        if os.getpid() != self._pid:
            raise ForkedError("this client belongs to the parent process")
        self._check_open()
        if self._broken is not None and not isinstance(need, needs.Dial):
            raise again(self._broken)
        turn, line = Waiter(), self._line
        line.append(turn)
        line[0].finish()
        try:
            await self._done(turn, deadline)
            self._check_open()
            return await self._talk(need, deadline)
        finally:
            line.remove(turn)
            if line:
                line[0].finish()

    async def _done(self, waiter: Waiter, deadline: float | None) -> None:
        if waiter.done:
            return
        future: asyncio.Future[None] = self.loop.create_future()
        timer = None
        if deadline is not None:
            timer = self.loop.call_at(deadline, _settle, future)
        settle = partial(_settle, future)
        waiter.also(settle)
        try:
            await future
        finally:
            waiter.cease(settle)
            if timer is not None:
                timer.cancel()
        if not waiter.done:
            raise WaitTimeoutError("the timeout has passed")

    async def _talk(self, need: Any, deadline: float | None) -> Any:
        try:
            timeout = None if deadline is None else deadline - self.loop.time()
            return await asyncio.wait_for(self._talk_on(need, deadline), timeout)
        except asyncio.TimeoutError:
            error: Exception = WaitTimeoutError("the target did not reply in time")
            self._break(error)
            raise error from None
        except BaseException as error:
            self._break(error)
            if isinstance(error, TargetLost):  # or it was this client that went
                self._check_open()
            raise

    def _check_open(self) -> None:
        if self._is_closed:
            raise ClosedError("the client is closed")

    def _break(self, error: BaseException) -> None:
        # A reply that is not waited for would be taken for that of the next request.
        if self._broken is None:
            self._broken = given_up(error)

    async def _talk_on(self, need: Any, deadline: float | None) -> Any:
        if isinstance(need, needs.Dial):
            return await self._dial(need.address, deadline)
        if self._broken is not None:
            raise again(self._broken)
        assert self._reader is not None
        assert self._writer is not None
        try:
            if isinstance(need, needs.Exchange):
                self._writer.write(self._channel.frame(need.payload))
                await self._writer.drain()
            while (payload := self._channel.next_payload()) is None:
                reading = self._reader.read(_READ_SIZE)
                if isinstance(need, needs.Receive) and need.patience is not None:
                    try:
                        data = await asyncio.wait_for(reading, need.patience)
                    except asyncio.TimeoutError:
                        return None
                else:
                    data = await reading
                if not data:
                    raise TargetLost("the target closed the connection")
                self._channel.feed(data)
        except OSError as error:
            if isinstance(error, RpmaError):
                raise
            raise TargetLost(
                f"the connection to the target is lost: {error.strerror or error}"
            ) from error
        return payload

    async def _dial(self, address: TargetAddress, deadline: float | None) -> str:
        try:
            found = await self.loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise dialing.failure(address, [error]) from error
        errors: list[OSError] = []
        for candidate in dialing.candidates(found):
            connecting = asyncio.open_connection(numeric_host(candidate.place), address.port)
            try:
                if candidate.others:
                    share = candidate.share(self.left(deadline))
                    reader, writer = await asyncio.wait_for(connecting, share)
                else:
                    reader, writer = await connecting
            except asyncio.TimeoutError:
                errors.append(TimeoutError())
            except OSError as error:
                errors.append(error)
            else:
                self._reader, self._writer = reader, writer
                dialing.ready(writer.get_extra_info("socket"))
                return numeric_host(candidate.place)
        raise dialing.failure(address, errors) from errors[-1]

    # ---- the data connection ---------------------------------------------------------------------

    def watch(self, path: DataPath) -> None:
        """Have the event loop see to the completions and events of the data connection."""
        self.path = path
        connection = path.connection
        self._queue = connection.cq
        for fd, ready in ((connection.cq.fd, self._completed), (connection.event_fd, self._event)):
            copy = os.dup(fd)  # asyncio knows a descriptor by its number
            self._watched.append(copy)
            self.loop.add_reader(copy, ready)

    def _completed(self) -> None:
        path = self.path
        assert path is not None
        try:
            self._complete(path)
        except BaseException:  # a signal handler's: nobody knows which completions are lost
            path.interrupted()
            raise

    def _complete(self, path: DataPath) -> None:
        while True:
            try:
                completed = self._queue.take_fields(self._room)
            except RpmaError as error:
                self._lose(error)
                return
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
        self._is_closed = True
        self._unwatch()
        if self._writer is not None and not self.loop.is_closed():
            self._writer.close()
        if self.path is not None and os.getpid() == self._pid:
            self.path.close()


class _Job:
    """A function that is called in a thread; who waits for its result may be cancelled."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._result: Any = None

    def __call__(self) -> Any:
        result = self._function()
        with self._lock:
            if not self._is_abandoned:
                self._result = result
                return result
        result.close()
        return None

    def abandon(self) -> None:
        """Nobody waits for its result any more: it is closed, now or as soon as there is one."""
        with self._lock:
            self._is_abandoned = True
            result = self._result
        if result is not None:
            result.close()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
