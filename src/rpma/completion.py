# SPDX-License-Identifier: BSD-3-Clause
"""Completion queues: which requests are done, and how they ended."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from rpma._native import ffi, lib
from rpma._object import deadline_after, integer
from rpma.constants import WcFlags, WcOpcode, WcStatus
from rpma.errors import completion_error, error_for, event_error

_AGAIN: int = lib.RPMAPY_AGAIN
_NO_COMPLETION: int = lib.RPMA_E_NO_COMPLETION
_STATUSES = {int(status): status for status in WcStatus}
_OPCODES: dict[int, WcOpcode | int] = {int(opcode): opcode for opcode in WcOpcode}
_FLAGS = {0: WcFlags(0)}  # the combinations met so far
_SUCCESS = WcStatus.SUCCESS
_GENERAL_ERR = WcStatus.GENERAL_ERR
_WITH_IMM = int(WcFlags.WITH_IMM)
_MOST_ENTRIES = 1 << 16

# struct rpmapy_wc, taken apart at once: reading it member by member takes five times as long.
_LAYOUT = struct.Struct("=QiiIIIII4x")
_ONE = ffi.typeof("struct rpmapy_wc *")
_MANY = ffi.typeof("struct rpmapy_wc[]")
assert _LAYOUT.size == ffi.sizeof("struct rpmapy_wc")
_new = tuple.__new__

Fields = tuple[int, ...]
"""wr_id, status, opcode, vendor_err, byte_len, imm, qp_num, flags, as they are in C."""


class WorkCompletion(NamedTuple):
    """How one request ended (struct ibv_wc).

    Attributes:
        wr_id: the number that the request was posted with.
        status: how it ended.
        opcode: what it was. Means nothing where the request failed.
        byte_len: how many bytes were received; means nothing on the sending side of a write.
        imm: the immediate data that came along, or None.
        qp_num: the queue pair it was posted to: `Connection.qp_num`.
        vendor_err: the device's own word on a failure.
        flags: what the completion carries.
    """

    wr_id: int
    status: WcStatus
    opcode: WcOpcode | int
    byte_len: int
    imm: int | None
    qp_num: int
    vendor_err: int
    flags: WcFlags

    def raise_for_status(self) -> WorkCompletion:
        """Raise the CompletionError for the status; return the completion if it is a success."""
        if self.status is not _SUCCESS:
            raise completion_error(self, f"request {self.wr_id}")
        return self


def room_for_one() -> Any:
    """Room for a completion: a struct rpmapy_wc."""
    return ffi.new(_ONE)


def room_for(count: int) -> Any:
    """Room for so many."""
    return ffi.new(_MANY, count)


def fields_of(raw: Any) -> Fields:
    """The members of a struct rpmapy_wc, for those who make no WorkCompletion of each."""
    return _LAYOUT.unpack(ffi.buffer(raw))


def translate(raw: Any) -> WorkCompletion:
    """A WorkCompletion of a struct rpmapy_wc."""
    return completion_of(_LAYOUT.unpack(ffi.buffer(raw)))


def completion_of(fields: Fields) -> WorkCompletion:
    """A WorkCompletion of the members of a struct rpmapy_wc."""
    wr_id, status, opcode, vendor_err, byte_len, imm, qp_num, flags = fields
    if flags not in _FLAGS:
        _FLAGS[flags] = WcFlags(flags)
    return _new(
        WorkCompletion,
        (
            wr_id,
            _STATUSES.get(status, _GENERAL_ERR),
            _OPCODES.get(opcode, opcode),
            byte_len,
            imm if flags & _WITH_IMM else None,
            qp_num,
            vendor_err,
            _FLAGS[flags],
        ),
    )


class CompletionQueue:
    """A completion queue (rpma_cq_*), owned by a connection or a shared receive queue.

    The usual wait is `next_wc`. The pieces that it is made of are librpma's: `wait` for an event,
    then `get_wcs` until nothing comes; an event may come without a completion, and one event may
    stand for many completions.
    """

    __slots__ = ("__weakref__", "_h", "_owner")

    def __init__(self, owner: Any, handle: Any) -> None:
        """Not for programs: see `Connection.cq`, `Connection.rcq`, `SharedReceiveQueue.rcq`."""
        self._owner = owner  # keeps it alive
        self._h = handle

    @property
    def fd(self) -> int:
        """A file descriptor that is readable when an event waits (rpma_cq_get_fd).

        For select and event loops: when it is readable call `wait`, then `get_wcs` until it
        returns nothing. It is non-blocking. It knows nothing of completions that `write_wait` and
        its kin have met and kept: after one of those call `get_wcs` before sleeping on it.
        """
        fd = ffi.new("int *")
        ret = lib.rpmapy_cq_fd(self._h, fd)
        if ret:
            raise error_for(ret, "get the file descriptor of the completion queue")
        return int(fd[0])

    def fileno(self) -> int:
        """`fd`, so that select and selectors take the queue itself."""
        return self.fd

    def wait(self, timeout: float | None = None) -> None:
        """Wait for a completion event, and ask for the next one (rpma_cq_wait).

        Args:
            timeout: in seconds; None waits for ever.

        Raises:
            WaitTimeoutError: there was none in time.
            SharedChannelError: the completion channel is shared: use `Connection.wait`.
            ConnectionEventError: the connection has ended, and nothing is left to complete.
        """
        deadline = deadline_after(timeout)
        while (ret := lib.rpmapy_cq_wait(self._h, deadline)) == _AGAIN:
            pass
        if ret:
            raise self._error(ret, "wait for a completion")

    def get_wc(self) -> WorkCompletion | None:
        """The next work completion, or None if there is none now (rpma_cq_get_wc)."""
        raw = ffi.new(_ONE)
        got = lib.rpmapy_cq_get_wc(self._h, 1, raw)
        if got == 1:
            return translate(raw)
        if got == _NO_COMPLETION:
            return None
        raise self._error(got, "get a work completion")

    def get_wcs(self, max_entries: int = 64) -> list[WorkCompletion]:
        """Up to `max_entries` work completions, as many as there are now (rpma_cq_get_wc).

        Args:
            max_entries: from 1 to 65536.

        Raises:
            InvalidArgumentError: `max_entries` is not.
        """
        return [completion_of(fields) for fields in self.get_fields(max_entries)]

    def get_fields(self, max_entries: int = 64) -> list[Fields]:
        """As `get_wcs`, but what `fields_of` has, for those who make no WorkCompletion of each."""
        count = integer("max_entries", max_entries, _MOST_ENTRIES, minimum=1)
        raw = ffi.new(_MANY, count)
        got = lib.rpmapy_cq_get_wc(self._h, count, raw)
        if got > 0:
            return list(_LAYOUT.iter_unpack(ffi.buffer(raw, got * _LAYOUT.size)))
        if got == _NO_COMPLETION:
            return []
        raise self._error(got, "get work completions")

    def take_fields(self, room: Any) -> list[Fields]:
        """For event loops, in one crossing: `wait`, if there is an event, and `get_fields`.

        Args:
            room: made by `room_for`, for as many at most.
        """
        got = lib.rpmapy_cq_take(self._h, len(room), room)
        if got > 0:
            return list(_LAYOUT.iter_unpack(ffi.buffer(room, got * _LAYOUT.size)))
        if got in (0, _NO_COMPLETION):
            return []
        raise self._error(got, "get work completions")

    def next_wc(self, timeout: float | None = None) -> WorkCompletion:
        """The next work completion, waiting for it: `wait` and `get_wc` as often as it takes.

        Where the completion channel is shared it takes events of the other queue too; its
        completions are not lost, but `Connection.wait` may return for them later.

        Args:
            timeout: in seconds; None waits for ever.

        Raises:
            WaitTimeoutError: nothing completed in time.
            ConnectionEventError: the connection has ended, and nothing is left to complete.
        """
        deadline = deadline_after(timeout)
        raw = ffi.new(_ONE)
        while (ret := lib.rpmapy_cq_next_wc(self._h, deadline, raw)) == _AGAIN:
            pass
        if ret:
            raise self._error(ret, "wait for a completion")
        return translate(raw)

    def next_into(self, room: Any, timeout: float | None = None) -> None:
        """As `next_wc`, but into `room`, made by `room_for_one`; `translate` reads it there.

        A signal handler that raises just when there is one does not make it get lost: `room` has
        it, and another `wr_id` than before.
        """
        deadline = deadline_after(timeout)
        while (ret := lib.rpmapy_cq_next_wc(self._h, deadline, room)) == _AGAIN:
            pass
        if ret:
            raise self._error(ret, "wait for a completion")

    def _error(self, ret: int, what: str) -> Exception:
        if ret == lib.RPMAPY_E_ENDED:
            return event_error(self._owner.ended, f"cannot {what}, nothing is left to complete")
        return error_for(ret, what)

    def __repr__(self) -> str:
        return f"<rpma.CompletionQueue of {self._owner!r}>"
