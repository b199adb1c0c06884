# SPDX-License-Identifier: BSD-3-Clause
"""Connections: their life, their queues; what goes over them is in posting and operations."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

from rpma._native import ffi, lib
from rpma._object import NativeObject, deadline_after
from rpma.completion import CompletionQueue
from rpma.constants import ConnectionEvent
from rpma.errors import RpmaError, WaitTimeoutError, error_for, event_error
from rpma.operations import Operations
from rpma.posting import Posting

if TYPE_CHECKING:
    from rpma.config import ConnectionConfig
    from rpma.peer import Peer, PeerConfig

_PRIVATE_DATA_MAX = 255
_AGAIN: int = lib.RPMAPY_AGAIN


class Connection(Posting, Operations, NativeObject):
    """A connection (rpma_conn_*), and the requests over it.

    Made by `Peer.connect`, `Endpoint.accept` or `ConnectionRequest.connect`. One thread at a time
    may use it, as librpma has it.

    There are three ways to have a request done:

    - `write`, `read`, `flush`, `send`, `recv` and their kin post one request and return. What
      became of it comes as a work completion of `cq` (`rcq`), named by `wr_id`; with
      CompletionFlags.ON_ERROR only a failure does.
    - `write_wait` and its kin post, wait and raise on failure, in one crossing into C.
    - `write_batch` and `read_batch` do that for many segments, and keep the send queue filled.

    The three can be mixed: completions of the first kind that the others meet are kept for `cq`.
    """

    __slots__ = ("_config", "_cq", "_peer", "_rcq")
    _what = "connection"

    _peer: Peer
    _config: ConnectionConfig | None  # keeps its shared receive queue alive
    _cq: weakref.ref[CompletionQueue] | None
    _rcq: weakref.ref[CompletionQueue] | None

    def __init__(self) -> None:
        """Not for programs."""
        raise TypeError(
            "make it with Peer.connect(), Endpoint.accept() or ConnectionRequest.connect()"
        )

    @classmethod
    def _made(cls, peer: Peer, out: Any, config: ConnectionConfig | None) -> Connection:
        self = cls.__new__(cls)
        self._adopt(out)
        self._peer, self._config = peer, config
        self._cq = self._rcq = None
        return self

    # ---- its life ------------------------------------------------------------------------------

    def _established(self, timeout: float | None, what: str) -> Connection:
        return self._established_by(deadline_after(timeout), what)

    def _established_by(self, deadline: int, what: str) -> Connection:
        """Wait for ESTABLISHED; whatever else happens closes the connection."""
        try:
            event = self._next_event(deadline, what)
            if event is not ConnectionEvent.ESTABLISHED:
                raise event_error(event, what)
        except BaseException:
            with contextlib.suppress(RpmaError):
                self.close()
            raise
        return self

    def wait_established(self, timeout: float | None = None) -> None:
        """Wait until the connection is established.

        Args:
            timeout: in seconds; None leaves it to the network's own limits.

        Raises:
            ConnectionRejected: nobody listens there, or the other side refused.
            ConnectionUnreachable: the other side does not answer.
            WaitTimeoutError: the timeout has passed; the connection may still come.
        """
        event = self.next_event(timeout)
        if event is not ConnectionEvent.ESTABLISHED:
            raise event_error(event, "cannot connect")

    def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the connection has ended, by whichever side.

        Args:
            timeout: in seconds; None waits for ever.

        Raises:
            WaitTimeoutError: it has not ended in time.
        """
        deadline = deadline_after(timeout)
        while self.ended is ConnectionEvent.UNDEFINED:
            self._next_event(deadline, "wait for the end of the connection")

    def next_event(self, timeout: float | None = None) -> ConnectionEvent:
        """The next event of the connection, waiting for it (rpma_conn_next_event).

        Args:
            timeout: in seconds; None waits for ever, 0 only looks.

        Raises:
            WaitTimeoutError: there was none in time.
        """
        return self._next_event(deadline_after(timeout), "wait for an event of the connection")

    def _next_event(self, deadline: int, what: str) -> ConnectionEvent:
        event = ffi.new("int *")
        while (ret := lib.rpmapy_conn_next_event(self._h, deadline, event)) == _AGAIN:
            pass
        if ret == lib.RPMAPY_E_TIMEOUT:
            raise WaitTimeoutError(f"{what}: the timeout has passed")
        if ret:
            raise error_for(ret, what)
        return ConnectionEvent(event[0])

    @property
    def ended(self) -> ConnectionEvent:
        """The event that ended it, as far as seen; UNDEFINED while it lasts."""
        return ConnectionEvent(lib.rpmapy_conn_ended(self._h))

    def disconnect(self) -> None:
        """Disconnect (rpma_conn_disconnect). The event CLOSED follows.

        On the other side at once; on this one when the other has answered, by disconnecting or
        closing as well. Requests under way, and posted receives, complete as flushed.
        """
        ret = lib.rpmapy_conn_disconnect(self._h)
        if ret:
            raise error_for(ret, "disconnect")

    def close(self) -> None:
        """Close it, disconnecting if need be (rpma_conn_delete)."""
        super().close()

    # ---- what it is ------------------------------------------------------------------------------

    @property
    def peer(self) -> Peer:
        """The peer that it belongs to."""
        return self._peer

    @property
    def private_data(self) -> bytes:
        """The bytes that the other side sent while connecting (rpma_conn_get_private_data).

        InfiniBand and RoCE pad them with zeros: to 56 bytes on the target, 196 on the initiator.
        """
        return read_private_data(lib.rpmapy_conn_private_data, self._h, self._what)

    @property
    def qp_num(self) -> int:
        """The number of its queue pair, as in work completions (rpma_conn_get_qp_num)."""
        number = ffi.new("uint32_t *")
        ret = lib.rpmapy_conn_qp_num(self._h, number)
        if ret:
            raise error_for(ret, "get the queue pair number")
        return int(number[0])

    @property
    def event_fd(self) -> int:
        """A file descriptor that is readable when `next_event` has one (rpma_conn_get_event_fd).

        It is non-blocking. It knows nothing of events that a wait for completions has met and kept:
        a program that sleeps on it waits for completions by file descriptor too.
        """
        fd = ffi.new("int *")
        ret = lib.rpmapy_conn_event_fd(self._h, fd)
        if ret:
            raise error_for(ret, "get the event file descriptor")
        return int(fd[0])

    @property
    def compl_fd(self) -> int:
        """The file descriptor of the shared completion channel (rpma_conn_get_compl_fd).

        Readable when `wait` has something. It is non-blocking.

        Raises:
            NotSharedChannelError: it was configured without `shared_channel`.
        """
        fd = ffi.new("int *")
        ret = lib.rpmapy_conn_compl_fd(self._h, fd)
        if ret:
            raise error_for(ret, "get the file descriptor of the shared completion channel")
        return int(fd[0])

    @property
    def cq(self) -> CompletionQueue:
        """The main completion queue (rpma_conn_get_cq)."""
        queue = self._cq() if self._cq is not None else None
        if queue is None:
            queue = CompletionQueue(self, lib.rpmapy_conn_cq(self._h))
            self._cq = weakref.ref(queue)
        return queue

    @property
    def rcq(self) -> CompletionQueue | None:
        """The completion queue of receives, or None if they use `cq` (rpma_conn_get_rcq)."""
        queue = self._rcq() if self._rcq is not None else None
        if queue is None:
            handle = lib.rpmapy_conn_rcq(self._h)
            if not handle:
                return None
            queue = CompletionQueue(self, handle)
            self._rcq = weakref.ref(queue)
        return queue

    def apply_remote_peer_config(self, config: PeerConfig) -> None:
        """Take note of the other side's platform (rpma_conn_apply_remote_peer_cfg).

        Args:
            config: made with `PeerConfig.from_descriptor` from what the other side sent.
        """
        if not hasattr(config, "direct_write_to_pmem"):
            raise TypeError(f"config must be a rpma.PeerConfig, not {type(config).__name__}")
        ret = lib.rpmapy_conn_apply_remote_peer_cfg(self._h, config._h)
        if ret:
            raise error_for(ret, "apply the peer configuration")

    def wait(self, timeout: float | None = None) -> CompletionQueue:
        """Wait for a completion event of either queue (rpma_conn_wait).

        Args:
            timeout: in seconds; None waits for ever.

        Returns:
            The queue that the event is for: call `get_wcs` on it until nothing comes.

        Raises:
            NotSharedChannelError: it was configured without `shared_channel`.
            WaitTimeoutError: there was no event in time.
            ConnectionEventError: the connection has ended, and nothing is left to complete.
        """
        deadline = deadline_after(timeout)
        is_rcq = ffi.new("bool *")
        while (ret := lib.rpmapy_conn_wait(self._h, deadline, is_rcq)) == _AGAIN:
            pass
        if ret == lib.RPMAPY_E_ENDED:
            raise event_error(self.ended, "cannot wait for a completion, nothing is left")
        if ret:
            raise error_for(ret, "wait for a completion")
        queue = self.rcq if is_rcq[0] else self.cq
        assert queue is not None
        return queue

    def __repr__(self) -> str:
        try:
            number = self.qp_num
        except RpmaError:
            return "<rpma.Connection closed>"
        ended = self.ended
        state = f" ({ended!s})" if ended is not ConnectionEvent.UNDEFINED else ""
        return f"<rpma.Connection of queue pair {number}{state}>"


def read_private_data(get: Any, handle: Any, what: str) -> bytes:
    """The private data of a connection or a request for one, by its C function."""
    data = ffi.new("char[]", _PRIVATE_DATA_MAX)
    size = ffi.new("uint8_t *")
    ret = get(handle, data, size)
    if ret:
        raise error_for(ret, f"get the private data of the {what}")
    return bytes(ffi.buffer(data, size[0]))
