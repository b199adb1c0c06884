# SPDX-License-Identifier: BSD-3-Clause
"""Shared receive queues: posted receives that many connections take from."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from rpma._native import ffi, lib
from rpma._object import NativeObject, handle_out, integer, require
from rpma.completion import CompletionQueue
from rpma.errors import error_for
from rpma.memory import MemoryRegion
from rpma.request import explain_receive, rest_of

if TYPE_CHECKING:
    from rpma.peer import Peer

_UINT32_MAX = (1 << 32) - 1


class SharedReceiveQueueConfig(NativeObject):
    """How large a shared receive queue is (rpma_srq_cfg_*)."""

    __slots__ = ()
    _what = "shared receive queue configuration"
    _warns = False

    def __init__(self, *, rq_size: int | None = None, rcq_size: int | None = None) -> None:
        """Make one with librpma's defaults, where nothing else is said.

        Args:
            rq_size: how many receives can be posted at a time.
            rcq_size: how many completions of receives can wait; 0: the queue has no receive CQ of
                its own, and receives complete on the connections' queues.
        """
        out = handle_out("rpmapy_srq_cfg")
        ret = lib.rpmapy_srq_cfg_new(out)
        if ret:
            raise error_for(ret, f"make a {self._what}")
        self._adopt(out)
        if rq_size is not None:
            self.rq_size = rq_size
        if rcq_size is not None:
            self.rcq_size = rcq_size

    def _get(self, field: int) -> int:
        value = ffi.new("uint32_t *")
        ret = lib.rpmapy_srq_cfg_get(self._h, field, value)
        if ret:
            raise error_for(ret, f"read the {self._what}")
        return int(value[0])

    def _set(self, field: int, name: str, value: object) -> None:
        ret = lib.rpmapy_srq_cfg_set(self._h, field, integer(name, value, _UINT32_MAX))
        if ret:
            raise error_for(ret, f"set {name}={value}")

    @property
    def rq_size(self) -> int:
        """How many receives can be posted at a time."""
        return self._get(lib.RPMAPY_SRQ_CFG_RQ_SIZE)

    @rq_size.setter
    def rq_size(self, value: int) -> None:
        self._set(lib.RPMAPY_SRQ_CFG_RQ_SIZE, "rq_size", value)

    @property
    def rcq_size(self) -> int:
        """How many completions of receives can wait; 0: no receive CQ of its own."""
        return self._get(lib.RPMAPY_SRQ_CFG_RCQ_SIZE)

    @rcq_size.setter
    def rcq_size(self, value: int) -> None:
        self._set(lib.RPMAPY_SRQ_CFG_RCQ_SIZE, "rcq_size", value)


class SharedReceiveQueue(NativeObject):
    """A receive queue that connections share (rpma_srq_new).

    Connections use it that are made with a `ConnectionConfig` naming it as `srq`. Close it after
    them.
    """

    __slots__ = ("_peer", "_rcq")
    _what = "shared receive queue"

    def __init__(self, peer: Peer, config: SharedReceiveQueueConfig | None = None) -> None:
        """Make one; see `Peer.create_srq`."""
        if config is not None:
            require(SharedReceiveQueueConfig, "config", config)
        out = handle_out("rpmapy_srq")
        ret = lib.rpmapy_srq_new(peer._h, ffi.NULL if config is None else config._h, out)
        if ret:
            raise error_for(ret, "create a shared receive queue")
        self._adopt(out)
        self._peer = peer
        self._rcq: weakref.ref[CompletionQueue] | None = None

    ended = int(lib.RPMA_CONN_UNDEFINED)  # never by an event

    @property
    def peer(self) -> Peer:
        """The peer that it belongs to."""
        return self._peer

    @property
    def rcq(self) -> CompletionQueue | None:
        """Its receive completion queue, or None if configured without (rpma_srq_get_rcq)."""
        handle = lib.rpmapy_srq_rcq(self._h)
        if not handle:
            return None
        queue = self._rcq() if self._rcq is not None else None
        if queue is None:
            queue = CompletionQueue(self, handle)
            self._rcq = weakref.ref(queue)
        return queue

    def recv(
        self,
        dst: MemoryRegion | None,
        offset: int = 0,
        length: int | None = None,
        *,
        wr_id: int = 0,
    ) -> None:
        """Post a receive (rpma_srq_recv).

        Args:
            dst: where the message goes; registered for RECV, with the peer of this queue. None
                receives messages without bytes.
            offset: where in `dst`, in bytes.
            length: the longest message that fits, in bytes; None: up to the end of `dst`.
            wr_id: names the request in its work completion; below 2**63.

        Raises:
            InvalidArgumentError: the range is outside the region, or the region is for other uses.
            QueueFullError: `rq_size` receives are posted.
        """
        if length is None:
            length = rest_of(dst, "dst", offset)
        try:
            ret = lib.rpmapy_srq_recv(
                self._h, ffi.NULL if dst is None else dst._h, offset, length, wr_id
            )
        except (TypeError, OverflowError, AttributeError):
            ret = lib.RPMAPY_E_ARGUMENT
        if ret:
            raise explain_receive(ret, self._h, dst, offset, length, wr_id)
