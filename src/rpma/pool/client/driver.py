# SPDX-License-Identifier: BSD-3-Clause
"""The driver that blocks: sees to what the client's logic needs, one call at a time."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from rpma._object import deadline_after
from rpma.errors import ClosedError, ForkedError, WaitTimeoutError
from rpma.pool.client import dialing, needs
from rpma.pool.client.datapath import DataPath
from rpma.pool.client.line import Line
from rpma.pool.client.order import Order
from rpma.pool.client.waiting import Waiter, again, given_up
from rpma.pool.protocol.address import numeric_host
from rpma.pool.protocol.channel import Channel
from rpma.pool.protocol.errors import TargetLost

if TYPE_CHECKING:
    from rpma.pool.protocol.address import TargetAddress

_RECEIVE_SIZE = 64 << 10

_A_MOMENT = 0.2
"""How long a call that was under way may take to leave once all is closed, in seconds."""


class Driver:
    """Runs the steps of the logic, one call at a time."""

    def __init__(self) -> None:
        self.path: DataPath | None = None
        self.line = Line()
        self._channel = Channel()
        self._socket: socket.socket | None = None
        self._broken: Exception | None = None
        self._is_closed = False
        self._pid = os.getpid()

    @property
    def is_of_parent(self) -> bool:
        """Whether this process was forked since: other threads of the parent may have the locks."""
        return os.getpid() != self._pid

    def run(self, steps: Any, timeout: float | None) -> Any:
        """The result of `steps`; its needs are seen to as they come."""
        deadline = None if timeout is None else time.monotonic() + seconds(timeout)
        if self.is_of_parent:
            raise ForkedError(
                "this client belongs to the parent process: a child that needs one of its own is "
                "to be forked before the parent connects, or started with multiprocessing's 'spawn'"
            )
        path = self.path
        if path is None or not self.line.is_inside():
            return self.line.do(partial(self._run, steps, deadline), deadline)
        # Called by what that call calls, which goes on only after this one.
        outer, path.order = path.order, Order()
        try:
            return self._run(steps, deadline)
        finally:
            path.order = outer

    def _run(self, steps: Any, deadline: float | None) -> Any:
        thrown: BaseException | None = None
        try:
            if self._is_closed:
                raise _closed()
            need = next(steps)
            while True:
                try:
                    got = self._see_to(need, deadline)
                except BaseException as error:
                    thrown = error
                    need = steps.throw(error)
                else:
                    need = steps.send(got)
        except StopIteration as stop:
            return stop.value
        except Exception:
            raise
        except BaseException as error:
            # Ctrl-C while it waits leaves all in order; within a step nobody knows.
            if error is not thrown and self.path is not None:
                self.path.tear()
            raise
        finally:
            if self._is_closed:  # by another thread, which had no time to wait for this one
                self._close_socket()

    def _see_to(self, need: Any, deadline: float | None) -> Any:
        if isinstance(need, Waiter):
            path = self.path
            assert path is not None
            while not need.done:
                path.progress(None if deadline is None else _left(deadline))
            return None
        if isinstance(need, needs.Run):
            return need.function()
        if isinstance(need, needs.Secure):
            self._channel.secure(key_in=need.keys.to_client, key_out=need.keys.to_target)
            return None
        try:
            if isinstance(need, needs.Dial):
                return self._dial(need.address, deadline)
            if self._broken is not None:
                raise again(self._broken)
            if isinstance(need, needs.Exchange):
                self._send(need.payload, deadline)
            elif need.patience is not None and not self._hears(need.patience):
                return None
            return self._receive(deadline)
        except BaseException as error:
            if self._is_closed and isinstance(error, TargetLost):
                raise _closed() from None
            # A reply that is not waited for would be taken for that of the next request.
            if self._broken is None:
                self._broken = given_up(error)
            raise

    def _dial(self, address: TargetAddress, deadline: float | None) -> str:
        try:
            found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise dialing.failure(address, [error]) from error
        errors = []
        for candidate in dialing.candidates(found):
            left = None if deadline is None else _left(deadline)
            try:
                self._socket = socket.socket(candidate.family, socket.SOCK_STREAM)
                self._socket.settimeout(candidate.share(left))
                self._socket.connect(candidate.place)
                dialing.ready(self._socket)
                return numeric_host(candidate.place)
            except OSError as error:
                errors.append(error)
                self._close_socket()
        raise dialing.failure(address, errors) from errors[-1]

    def _send(self, payload: bytes, deadline: float | None) -> None:
        assert self._socket is not None
        self._socket.settimeout(None if deadline is None else _left(deadline))
        try:
            self._socket.sendall(self._channel.frame(payload))
        except TimeoutError:
            raise WaitTimeoutError("the target did not take the request in time") from None
        except OSError as error:
            raise TargetLost(
                f"the connection to the target is lost: {error.strerror or error}"
            ) from error

    def _hears(self, patience: float) -> bool:
        assert self._socket is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(patience * 1000))

    def _receive(self, deadline: float | None) -> bytes:
        assert self._socket is not None
        while (payload := self._channel.next_payload()) is None:
            self._socket.settimeout(None if deadline is None else _left(deadline))
            try:
                data = self._socket.recv(_RECEIVE_SIZE)
            except TimeoutError:
                raise WaitTimeoutError("the target did not reply in time") from None
            except OSError as error:
                raise TargetLost(
                    f"the connection to the target is lost: {error.strerror or error}"
                ) from error
            if not data:
                raise TargetLost("the target closed the connection")
            self._channel.feed(data)
        return payload

    @property
    def is_lost(self) -> bool:
        """Whether the target cannot be asked anything any more."""
        if self.is_of_parent:
            return True
        path = self.path
        return self._broken is not None or (path is not None and path.broken is not None)

    def close_in_turn(self, deadline: float | None) -> None:
        """Let go of all, when no other thread is in a call, or the time has come.

        Raises:
            WaitTimeoutError: one was; what it is in fails.
        """
        if self.is_of_parent:
            self.close()
            return
        is_in_call = self.line.is_inside()  # of this very thread, which goes on with it
        try:
            self.line.do(partial(self.close, is_in_call), deadline)
        except BaseException:
            self._close_under_others()
            raise

    def close(self, is_in_call: bool = False) -> None:
        """Let go of all.

        Args:
            is_in_call: a call is under way, and may yet touch the memory of the bounce buffers.
        """
        self._is_closed = True
        self._close_socket()
        if self.path is not None and not self.is_of_parent:
            self.path.close(is_in_call)

    def _close_under_others(self) -> None:
        """Let go of all but the socket's descriptor: who is in a call may be using its number."""
        self._is_closed = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self.path is not None:
            self.path.close(is_in_call=True)
        with suppress(WaitTimeoutError):  # then it closes the socket when it leaves
            self.line.do(self._close_socket, time.monotonic() + _A_MOMENT)

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()


def seconds(timeout: float) -> float:
    """A timeout in seconds, as a number that is not negative.

    Raises:
        TypeError, InvalidArgumentError: it is none.
    """
    return max(deadline_after(timeout) - time.monotonic_ns(), 0) / 1e9


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise WaitTimeoutError("the timeout has passed")
    return left


def _closed() -> ClosedError:
    return ClosedError("the client is closed")
