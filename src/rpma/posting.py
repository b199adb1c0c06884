# SPDX-License-Identifier: BSD-3-Clause
"""The data path, one request at a time: post it and return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpma._native import ffi, lib
from rpma.constants import CompletionFlags, FlushType
from rpma.request import (
    atomic_value,
    explain_atomic_write,
    explain_flush,
    explain_read,
    explain_receive,
    explain_send,
    explain_write,
    rest_of,
)

if TYPE_CHECKING:
    from rpma._types import Buffer
    from rpma.memory import MemoryRegion, RemoteMemoryRegion

_NULL = ffi.NULL
_ON_ERROR = CompletionFlags.ON_ERROR
_ALWAYS = CompletionFlags.ALWAYS
_VISIBILITY = FlushType.VISIBILITY
_ARGUMENT: int = lib.RPMAPY_E_ARGUMENT
_BAD_CALL = (TypeError, OverflowError, AttributeError)  # an argument of the wrong kind

# The data path looks these up once.
_read = lib.rpmapy_read
_write = lib.rpmapy_write
_flush = lib.rpmapy_flush
_send = lib.rpmapy_send
_recv = lib.rpmapy_recv


class Posting:
    """The part of `Connection` that posts requests. What becomes of them comes to its queues."""

    __slots__ = ()

    _h: Any

    def write(
        self,
        dst: RemoteMemoryRegion | None,
        dst_offset: int,
        src: MemoryRegion | None,
        src_offset: int,
        length: int,
        *,
        flags: CompletionFlags = _ON_ERROR,
        wr_id: int = 0,
    ) -> None:
        """Post a write into the other side's memory (rpma_write).

        Args:
            dst: where to: a region that the other side registered for WRITE_DST. None, with `src`,
                writes nothing.
            dst_offset: where in `dst`, in bytes.
            src: where from: a region of this side, registered for WRITE_SRC. It must not change
                until the request, or a later one, has completed.
            src_offset: where in `src`, in bytes.
            length: how much, in bytes.
            flags: when it leaves a work completion.
            wr_id: names the request in its work completion; below 2**63.

        Raises:
            InvalidArgumentError: a range is outside its region, or a region is for other uses.
            QueueFullError: `sq_size` requests are under way.
        """
        try:
            ret = _write(
                self._h,
                _NULL if dst is None else dst._h,
                dst_offset,
                _NULL if src is None else src._h,
                src_offset,
                length,
                flags,
                wr_id,
            )
        except _BAD_CALL:
            ret = _ARGUMENT
        if ret:
            raise explain_write(
                ret, self._h, dst, dst_offset, src, src_offset, length, flags, wr_id
            )

    def write_with_imm(
        self,
        dst: RemoteMemoryRegion | None,
        dst_offset: int,
        src: MemoryRegion | None,
        src_offset: int,
        length: int,
        imm: int,
        *,
        flags: CompletionFlags = _ON_ERROR,
        wr_id: int = 0,
    ) -> None:
        """Post a write that also completes a receive of the other side (rpma_write_with_imm).

        The arguments are `write`'s, and:

        Args:
            dst: as for `write`.
            dst_offset: as for `write`.
            src: as for `write`.
            src_offset: as for `write`.
            length: as for `write`.
            imm: 32 bits that the other side finds in its work completion.
            flags: as for `write`.
            wr_id: as for `write`.
        """
        try:
            ret = lib.rpmapy_write_with_imm(
                self._h,
                _NULL if dst is None else dst._h,
                dst_offset,
                _NULL if src is None else src._h,
                src_offset,
                length,
                imm,
                flags,
                wr_id,
            )
        except _BAD_CALL:
            ret = _ARGUMENT
        if ret:
            raise explain_write(
                ret, self._h, dst, dst_offset, src, src_offset, length, flags, wr_id, imm
            )

    def read(
        self,
        dst: MemoryRegion | None,
        dst_offset: int,
        src: RemoteMemoryRegion | None,
        src_offset: int,
        length: int,
        *,
        flags: CompletionFlags = _ON_ERROR,
        wr_id: int = 0,
    ) -> None:
        """Post a read of the other side's memory (rpma_read).

        Args:
            dst: where to: a region of this side, registered for READ_DST. It has the data when
                the request, or a later one, has completed. None, with `src`, reads nothing.
            dst_offset: where in `dst`, in bytes.
            src: where from: a region that the other side registered for READ_SRC.
            src_offset: where in `src`, in bytes.
            length: how much, in bytes.
            flags: when it leaves a work completion.
            wr_id: names the request in its work completion; below 2**63.

        Raises:
            InvalidArgumentError: a range is outside its region, or a region is for other uses.
            QueueFullError: `sq_size` requests are under way.
        """
        try:
            ret = _read(
                self._h,
                _NULL if dst is None else dst._h,
                dst_offset,
                _NULL if src is None else src._h,
                src_offset,
                length,
                flags,
                wr_id,
            )
        except _BAD_CALL:
            ret = _ARGUMENT
        if ret:
            raise explain_read(ret, self._h, dst, dst_offset, src, src_offset, length, flags, wr_id)

    def atomic_write(
        self,
        dst: RemoteMemoryRegion,
        dst_offset: int,
        value: Buffer,
        *,
        flags: CompletionFlags = _ON_ERROR,
        wr_id: int = 0,
    ) -> None:
        """Post a write of 8 bytes that the other side sees whole or not at all.

        It is carried out after all flushes before it (rpma_atomic_write).

        Args:
            dst: a region that the other side registered for WRITE_DST.
            dst_offset: where in `dst`, in bytes; a multiple of 8.
            value: 8 bytes, copied at once.
            flags: when it leaves a work completion.
            wr_id: names the request in its work completion; below 2**63.

        Raises:
            InvalidArgumentError: misaligned, outside the region, or not 8 bytes.
            QueueFullError: `sq_size` requests are under way.
        """
        raw = atomic_value(value)
        try:
            ret = lib.rpmapy_atomic_write(self._h, dst._h, dst_offset, raw, flags, wr_id)
        except _BAD_CALL:
            ret = _ARGUMENT
        if ret:
            raise explain_atomic_write(ret, dst, dst_offset, value, flags, wr_id)

    def flush(
        self,
        dst: RemoteMemoryRegion,
        dst_offset: int,
        length: int,
        type: FlushType = _VISIBILITY,  # noqa: A002 -- librpma's name for it
        *,
        flags: CompletionFlags = _ALWAYS,
        wr_id: int = 0,
    ) -> None:
        """Post a flush of what was written before (rpma_flush).

        Args:
            dst: the region that was written to.
            dst_offset: where the range begins, in bytes.
            length: how long it is, in bytes.
            type: VISIBILITY, or PERSISTENT, which the target's platform must support.
            flags: when it leaves a work completion.
            wr_id: names the request in its work completion; below 2**63.

        Raises:
            NotSupportedError: the region is not registered for this flush; or PERSISTENT without
                a peer configuration that says direct write to pmem.
            InvalidArgumentError: the range is outside the region.
            QueueFullError: `sq_size` requests are under way.
        """
        try:
            ret = _flush(self._h, dst._h, dst_offset, length, type, flags, wr_id)
        except _BAD_CALL:
            ret = _ARGUMENT
        if ret:
            raise explain_flush(ret, dst, dst_offset, length, type, flags, wr_id)

    def send(
        self,
        src: MemoryRegion | None,
        offset: int = 0,
        length: int | None = None,
        *,
        flags: CompletionFlags = _ON_ERROR,
        wr_id: int = 0,
    ) -> None:
        """Post a message, which takes a receive that the other side has posted (rpma_send).

        Args:
            src: a region of this side, registered for SEND; None sends no bytes.
            offset: where in `src`, in bytes.
            length: how much, in bytes; None: up to the end of `src`.
            flags: when it leaves a work completion.
            wr_id: names the request in its work completion; below 2**63.

        Raises:
            InvalidArgumentError: the range is outside the region, or that is for other uses.
            QueueFullError: `sq_size` requests are under way.
        """
        if length is None:
            length = rest_of(src, "src", offset)
        try:
            ret = _send(self._h, _NULL if src is None else src._h, offset, length, flags, wr_id)
        except _BAD_CALL:
            ret = _ARGUMENT
        if ret:
            raise explain_send(ret, self._h, src, offset, length, flags, wr_id)

    def send_with_imm(
        self,
        src: MemoryRegion | None,
        offset: int,
        length: int,
        imm: int,
        *,
        flags: CompletionFlags = _ON_ERROR,
        wr_id: int = 0,
    ) -> None:
        """Post a message with 32 bits beside it (rpma_send_with_imm).

        Args:
            src: as for `send`.
            offset: as for `send`.
            length: as for `send`.
            imm: 32 bits that the other side finds in its work completion.
            flags: as for `send`.
            wr_id: as for `send`.
        """
        try:
            ret = lib.rpmapy_send_with_imm(
                self._h, _NULL if src is None else src._h, offset, length, imm, flags, wr_id
            )
        except _BAD_CALL:
            ret = _ARGUMENT
        if ret:
            raise explain_send(ret, self._h, src, offset, length, flags, wr_id, imm)

    def recv(
        self,
        dst: MemoryRegion | None,
        offset: int = 0,
        length: int | None = None,
        *,
        wr_id: int = 0,
    ) -> None:
        """Post a receive, for one message of the other side (rpma_recv).

        Args:
            dst: a region of this side, registered for RECV; None receives messages without bytes.
            offset: where in `dst`, in bytes.
            length: the longest message that fits, in bytes; None: up to the end of `dst`. A longer
                one breaks the connection.
            wr_id: names the request in its work completion; below 2**63.

        Raises:
            InvalidArgumentError: the range is outside the region, or that is for other uses.
            QueueFullError: `rq_size` receives are posted.
        """
        if length is None:
            length = rest_of(dst, "dst", offset)
        try:
            ret = _recv(self._h, _NULL if dst is None else dst._h, offset, length, wr_id)
        except _BAD_CALL:
            ret = _ARGUMENT
        if ret:
            raise explain_receive(ret, self._h, dst, offset, length, wr_id)
