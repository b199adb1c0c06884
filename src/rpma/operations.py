# SPDX-License-Identifier: BSD-3-Clause
"""The data path, whole operations: post, keep the queues filled and wait, in one crossing."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn, Union

from rpma._native import ffi, lib
from rpma._object import FOREVER, deadline_after, pointer_to
from rpma.completion import translate
from rpma.constants import FlushType
from rpma.errors import (
    InvalidArgumentError,
    WaitTimeoutError,
    completion_error,
    error_for,
    event_error,
)
from rpma.memory import MemoryRegion, RemoteMemoryRegion, require_regions
from rpma.request import (
    atomic_value,
    explain_atomic_write,
    explain_flush,
    explain_read,
    explain_send,
    explain_write,
    flush_kind,
    rest_of,
)

if TYPE_CHECKING:
    from rpma._types import Buffer

Segments = Union[Iterable[tuple[int, int, int]], "Buffer"]

_NULL = ffi.NULL
_VISIBILITY = FlushType.VISIBILITY
_AGAIN: int = lib.RPMAPY_AGAIN
_ARGUMENT: int = lib.RPMAPY_E_ARGUMENT
_NO_FLUSH: int = lib.RPMAPY_NO_FLUSH
_BAD_CALL = (TypeError, OverflowError, AttributeError)  # an argument of the wrong kind

# The data path looks these up once.
_read_wait = lib.rpmapy_read_wait
_write_wait = lib.rpmapy_write_wait
_flush_wait = lib.rpmapy_flush_wait
_send_wait = lib.rpmapy_send_wait
_atomic_write_wait = lib.rpmapy_atomic_write_wait
_resume = lib.rpmapy_operation_resume


class Operations:
    """The part of `Connection` that posts requests and waits for them.

    An operation that times out or is interrupted leaves its requests under way; their completions
    are dropped when they come.
    """

    __slots__ = ()

    _h: Any

    def write_wait(
        self,
        dst: RemoteMemoryRegion,
        dst_offset: int,
        src: MemoryRegion,
        src_offset: int,
        length: int,
        *,
        flush: FlushType | None = None,
        timeout: float | None = None,
    ) -> None:
        """Write, flush if asked to, and wait until that is done.

        Args:
            dst: as for `write`.
            dst_offset: as for `write`.
            src: as for `write`.
            src_offset: as for `write`.
            length: as for `write`.
            flush: None: done is when the other side's RNIC has the data. Otherwise a flush of the
                range follows the write, and done is when that is.
            timeout: in seconds; None waits for ever. After a timeout the requests are still under
                way: leave `src` alone until the connection is closed.

        Raises:
            InvalidArgumentError: a range is outside its region, or a region is for other uses.
            NotSupportedError: the flush is not.
            CompletionError: a request failed; the connection is unusable.
            ConnectionEventError: the connection ended.
            WaitTimeoutError: the timeout has passed.
        """
        try:
            deadline = FOREVER if timeout is None else deadline_after(timeout)
            ret = _write_wait(
                self._h,
                dst._h,
                dst_offset,
                src._h,
                src_offset,
                length,
                _NO_FLUSH if flush is None else flush,
                deadline,
            )
            while ret == _AGAIN:
                ret = _resume(self._h, deadline)
        except _BAD_CALL:
            if lib.rpmapy_operation_abandon(self._h):
                raise  # by a signal handler
            deadline_after(timeout)
            ret = _ARGUMENT
        except BaseException:
            lib.rpmapy_operation_abandon(self._h)
            raise
        if ret:
            if ret == _ARGUMENT:
                require_regions(dst=(RemoteMemoryRegion, dst), src=(MemoryRegion, src))
            if flush is not None and ret in (_ARGUMENT, lib.RPMA_E_NOSUPP):
                flush_kind(flush)
                explain_write(ret, self._h, dst, dst_offset, src, src_offset, length)
                raise explain_flush(ret, dst, dst_offset, length, flush)
            self._raise_failure(ret, "the write")
            raise explain_write(ret, self._h, dst, dst_offset, src, src_offset, length)

    def read_wait(
        self,
        dst: MemoryRegion,
        dst_offset: int,
        src: RemoteMemoryRegion,
        src_offset: int,
        length: int,
        *,
        timeout: float | None = None,
    ) -> None:
        """Read, and wait until the data is there.

        Args:
            dst: as for `read`.
            dst_offset: as for `read`.
            src: as for `read`.
            src_offset: as for `read`.
            length: as for `read`.
            timeout: in seconds; None waits for ever. After a timeout the request is still under
                way, and may still write into `dst`, until the connection is closed.

        Raises:
            InvalidArgumentError: a range is outside its region, or a region is for other uses.
            CompletionError: the request failed; the connection is unusable.
            ConnectionEventError: the connection ended.
            WaitTimeoutError: the timeout has passed.
        """
        try:
            deadline = FOREVER if timeout is None else deadline_after(timeout)
            ret = _read_wait(self._h, dst._h, dst_offset, src._h, src_offset, length, deadline)
            while ret == _AGAIN:
                ret = _resume(self._h, deadline)
        except _BAD_CALL:
            if lib.rpmapy_operation_abandon(self._h):
                raise  # by a signal handler
            deadline_after(timeout)
            ret = _ARGUMENT
        except BaseException:
            lib.rpmapy_operation_abandon(self._h)
            raise
        if ret:
            if ret == _ARGUMENT:
                require_regions(dst=(MemoryRegion, dst), src=(RemoteMemoryRegion, src))
            self._raise_failure(ret, "the read")
            raise explain_read(ret, self._h, dst, dst_offset, src, src_offset, length)

    def flush_wait(
        self,
        dst: RemoteMemoryRegion,
        dst_offset: int,
        length: int,
        type: FlushType = _VISIBILITY,  # noqa: A002 -- librpma's name for it
        *,
        timeout: float | None = None,
    ) -> None:
        """Flush what was written before, and wait until that is done.

        Args:
            dst: as for `flush`.
            dst_offset: as for `flush`.
            length: as for `flush`.
            type: as for `flush`.
            timeout: in seconds; None waits for ever.

        Raises:
            NotSupportedError: as for `flush`.
            InvalidArgumentError: the range is outside the region.
            CompletionError: the request failed; the connection is unusable.
            ConnectionEventError: the connection ended.
            WaitTimeoutError: the timeout has passed.
        """
        try:
            deadline = FOREVER if timeout is None else deadline_after(timeout)
            ret = _flush_wait(self._h, dst._h, dst_offset, length, type, deadline)
            while ret == _AGAIN:
                ret = _resume(self._h, deadline)
        except _BAD_CALL:
            if lib.rpmapy_operation_abandon(self._h):
                raise  # by a signal handler
            deadline_after(timeout)
            ret = _ARGUMENT
        except BaseException:
            lib.rpmapy_operation_abandon(self._h)
            raise
        if ret:
            self._raise_failure(ret, "the flush")
            raise explain_flush(ret, dst, dst_offset, length, type)

    def atomic_write_wait(
        self,
        dst: RemoteMemoryRegion,
        dst_offset: int,
        value: Buffer,
        *,
        timeout: float | None = None,
    ) -> None:
        """Write 8 bytes as a whole, and wait until that is done.

        Args:
            dst: as for `atomic_write`.
            dst_offset: as for `atomic_write`.
            value: as for `atomic_write`.
            timeout: in seconds; None waits for ever.

        Raises:
            InvalidArgumentError: misaligned, outside the region, or not 8 bytes.
            CompletionError: the request failed; the connection is unusable.
            ConnectionEventError: the connection ended.
            WaitTimeoutError: the timeout has passed.
        """
        raw = atomic_value(value)
        try:
            deadline = FOREVER if timeout is None else deadline_after(timeout)
            ret = _atomic_write_wait(self._h, dst._h, dst_offset, raw, deadline)
            while ret == _AGAIN:
                ret = _resume(self._h, deadline)
        except _BAD_CALL:
            if lib.rpmapy_operation_abandon(self._h):
                raise  # by a signal handler
            deadline_after(timeout)
            ret = _ARGUMENT
        except BaseException:
            lib.rpmapy_operation_abandon(self._h)
            raise
        if ret:
            self._raise_failure(ret, "the atomic write")
            raise explain_atomic_write(ret, dst, dst_offset, value)

    def send_wait(
        self,
        src: MemoryRegion | None,
        offset: int = 0,
        length: int | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Send a message, and wait until the other side's RNIC has it.

        Args:
            src: as for `send`.
            offset: as for `send`.
            length: as for `send`.
            timeout: in seconds; None waits for ever.

        Raises:
            InvalidArgumentError: the range is outside the region, or that is for other uses.
            CompletionError: the request failed; the connection is unusable.
            ConnectionEventError: the connection ended.
            WaitTimeoutError: the timeout has passed.
        """
        if length is None:
            length = rest_of(src, "src", offset)
        try:
            deadline = FOREVER if timeout is None else deadline_after(timeout)
            handle = _NULL if src is None else src._h
            ret = _send_wait(self._h, handle, offset, length, deadline)
            while ret == _AGAIN:
                ret = _resume(self._h, deadline)
        except _BAD_CALL:
            if lib.rpmapy_operation_abandon(self._h):
                raise  # by a signal handler
            deadline_after(timeout)
            ret = _ARGUMENT
        except BaseException:
            lib.rpmapy_operation_abandon(self._h)
            raise
        if ret:
            self._raise_failure(ret, "the send")
            raise explain_send(ret, self._h, src, offset, length)

    def write_batch(
        self,
        dst: RemoteMemoryRegion,
        src: MemoryRegion,
        segments: Segments,
        *,
        flush: FlushType | None = None,
        timeout: float | None = None,
    ) -> None:
        """Write many segments, flush if asked to, and wait until all is done.

        As many requests are under way at a time as `sq_size` and `cq_size` allow.

        Args:
            dst: as for `write`.
            src: as for `write`.
            segments: triples (dst_offset, src_offset, length), in bytes; or, without a copy, a
                buffer of them as unsigned 64-bit numbers: an array("Q"), a numpy array of uint64.
            flush: None: done is when the other side's RNIC has the data. Otherwise a flush from
                the first byte written to the last follows, and done is when that is.
            timeout: in seconds for all of it; None waits for ever.

        Raises:
            InvalidArgumentError: a segment is outside its region; nothing has been written then.
            CompletionError: a request failed; its number is in `request`.
            ConnectionEventError: the connection ended.
            WaitTimeoutError: the timeout has passed.
        """
        triples, count, owner = _segments(segments)
        try:
            deadline = FOREVER if timeout is None else deadline_after(timeout)
            ret = lib.rpmapy_write_batch(
                self._h,
                dst._h,
                src._h,
                triples,
                count,
                _NO_FLUSH if flush is None else flush,
                deadline,
            )
            while ret == _AGAIN:
                ret = _resume(self._h, deadline)
        except _BAD_CALL:
            if lib.rpmapy_operation_abandon(self._h):
                raise  # by a signal handler
            deadline_after(timeout)
            ret = _ARGUMENT
        except BaseException:
            lib.rpmapy_operation_abandon(self._h)
            raise
        if ret:
            if ret == _ARGUMENT:
                require_regions(dst=(RemoteMemoryRegion, dst), src=(MemoryRegion, src))
            if ret == _ARGUMENT or (flush is not None and ret == lib.RPMA_E_NOSUPP):
                _explain_segments(ret, self._h, explain_write, dst, src, owner)
                if flush is not None:
                    raise explain_flush(ret, dst, 0, 0, flush)
            self._raise_failure(ret, "the batch")
            raise error_for(ret, f"write {count} segments")

    def read_batch(
        self,
        dst: MemoryRegion,
        src: RemoteMemoryRegion,
        segments: Segments,
        *,
        timeout: float | None = None,
    ) -> None:
        """Read many segments, and wait until all is there.

        Args:
            dst: as for `read`.
            src: as for `read`.
            segments: triples (dst_offset, src_offset, length), in bytes; or, without a copy, a
                buffer of them as unsigned 64-bit numbers: an array("Q"), a numpy array of uint64.
            timeout: in seconds for all of it; None waits for ever.

        Raises:
            InvalidArgumentError: a segment is outside its region; nothing has been read then.
            CompletionError: a request failed; its number is in `request`.
            ConnectionEventError: the connection ended.
            WaitTimeoutError: the timeout has passed.
        """
        triples, count, owner = _segments(segments)
        try:
            deadline = FOREVER if timeout is None else deadline_after(timeout)
            ret = lib.rpmapy_read_batch(self._h, dst._h, src._h, triples, count, deadline)
            while ret == _AGAIN:
                ret = _resume(self._h, deadline)
        except _BAD_CALL:
            if lib.rpmapy_operation_abandon(self._h):
                raise  # by a signal handler
            deadline_after(timeout)
            ret = _ARGUMENT
        except BaseException:
            lib.rpmapy_operation_abandon(self._h)
            raise
        if ret:
            if ret == _ARGUMENT:
                require_regions(dst=(MemoryRegion, dst), src=(RemoteMemoryRegion, src))
                _explain_segments(ret, self._h, explain_read, dst, src, owner)
            self._raise_failure(ret, "the batch")
            raise error_for(ret, f"read {count} segments")

    def _raise_failure(self, ret: int, what: str) -> None:
        """Raise for what can only happen once requests are posted."""
        if ret == lib.RPMAPY_E_COMPLETION:
            self._raise_completion(what)
        if ret == lib.RPMAPY_E_ENDED:
            raise event_error(lib.rpmapy_conn_ended(self._h), f"{what} cannot be completed")
        if ret == lib.RPMAPY_E_TIMEOUT:
            raise WaitTimeoutError(f"{what} was not completed in time; it may still be under way")

    def _raise_completion(self, what: str) -> NoReturn:
        wc = ffi.new("struct rpmapy_wc *")
        first = ffi.new("struct rpmapy_wc *")
        request = lib.rpmapy_operation_failure(self._h, wc, first)
        cause = translate(first) if first.status else None
        raise completion_error(translate(wc), what, request, cause)


def _segments(segments: Any) -> tuple[Any, int, Any]:
    """Segments as C takes them, how many, and the Python object that holds the memory."""
    try:
        view = memoryview(segments)
    except ValueError:  # a numpy array of a type that the buffer protocol does not know
        raise TypeError(
            "segments as a buffer must be contiguous unsigned 64-bit numbers, not of "
            f"{getattr(segments, 'dtype', type(segments).__name__)}"
        ) from None
    except TypeError:
        try:
            flat = array("Q", [number for segment in segments for number in _triple(segment)])
        except OverflowError:
            raise InvalidArgumentError(
                "segments: offsets and lengths must be from 0 to 2**64 - 1"
            ) from None
        except TypeError as error:
            raise TypeError(
                f"segments must be triples of int (dst_offset, src_offset, length): {error}"
            ) from None
        view = memoryview(flat)
    if view.format not in ("Q", "L") or view.itemsize != 8 or not view.c_contiguous:
        raise TypeError(
            "segments as a buffer must be contiguous unsigned 64-bit numbers, "
            f"not format {view.format!r}"
        )
    numbers = view.nbytes // 8
    if numbers % 3:
        raise InvalidArgumentError(
            f"segments has {numbers} numbers: give three each, dst_offset, src_offset, length"
        )
    if not numbers:
        return _NULL, 0, view
    return pointer_to(view, "struct rpmapy_segment *"), numbers // 3, view


def _triple(segment: Any) -> Any:
    if len(segment) != 3:
        raise TypeError(f"{segment!r} has {len(segment)} items")
    return segment


def _explain_segments(ret: int, handle: Any, explain: Any, dst: Any, src: Any, view: Any) -> None:
    numbers = view.cast("B").cast("Q")
    for i in range(0, len(numbers), 3):
        try:
            explain(ret, handle, dst, numbers[i], src, numbers[i + 1], numbers[i + 2])
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"segment {i // 3}: {error}") from None
