# SPDX-License-Identifier: BSD-3-Clause
"""Memory regions: local memory that the RNIC may touch, and descriptions of the other side's."""

from __future__ import annotations

import errno
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from rpma._buffers import bytes_of, copied
from rpma._native import ffi, lib, text
from rpma._object import NativeObject, handle_out, integer, pointer_to, require
from rpma.constants import Advice, AdviseFlags, FlushType, Usage
from rpma.errors import InvalidArgumentError, errno_of, error_for

if TYPE_CHECKING:
    from rpma._types import Buffer, WritableBuffer
    from rpma.peer import Peer


_SIZE_MAX = (1 << 64) - 1
_DESCRIPTOR_ROOM = 255
_LAYOUT = struct.Struct("<QQIB")

_NOT_PERSISTENT = (
    "usage has FLUSH_TYPE_PERSISTENT, which a device that flushes by itself takes for persistent "
    "memory alone: a device DAX, or, if it has on-demand paging, a file on DAX. Register other "
    "memory with FLUSH_TYPE_VISIBILITY (docs/durability.md)"
)


class Descriptor(NamedTuple):
    """What a descriptor of a memory region says, for programs that use verbs directly.

    Attributes:
        address: the region's address on its own side.
        size: in bytes.
        rkey: the key that remote requests need.
        usage: what the region is registered for.
    """

    address: int
    size: int
    rkey: int
    usage: Usage

    @classmethod
    def unpack(cls, descriptor: Buffer) -> Descriptor:
        """Decode `MemoryRegion.descriptor`; bytes behind it (padding) do not matter.

        Raises:
            InvalidArgumentError: it is too short, or names no usage.
        """
        raw = copied("descriptor", descriptor)
        if len(raw) < _LAYOUT.size:
            raise InvalidArgumentError(
                f"descriptor has {len(raw)} bytes, a memory region's has {_LAYOUT.size}"
            )
        address, size, rkey, usage = _LAYOUT.unpack_from(raw)
        if not usage:
            raise InvalidArgumentError("descriptor names no usage: these are not its bytes")
        return cls(address, size, rkey, Usage(usage))


class MemoryRegion(NativeObject):
    """Registered local memory (rpma_mr_reg). Made by `Peer.register`.

    It holds the buffer, without a copy, until it is closed: a bytearray cannot be resized and a
    mmap not be closed meanwhile. Close it only when no request that names it is under way.
    """

    __slots__ = ("_peer", "_size", "_view", "usage")
    _what = "memory region"

    def __init__(self, peer: Peer, buffer: WritableBuffer, usage: Usage) -> None:
        """Register `buffer`; see `Peer.register`."""
        view = _writable_view(buffer)
        usage = _usage(usage)
        out = handle_out("rpmapy_local")
        pointer = pointer_to(view)
        ret = lib.rpmapy_mr_reg(peer._h, pointer, view.nbytes, usage, out)
        if ret:
            raise error_for(ret, f"register {view.nbytes} bytes", _hint(usage))
        self._adopt(out)
        self._peer = peer
        self._view = view
        self._size = view.nbytes
        self.usage = usage

    @property
    def peer(self) -> Peer:
        """The peer that it is registered with."""
        return self._peer

    @property
    def view(self) -> memoryview:
        """The registered memory, writable, as bytes; a new memoryview each time.

        It holds the buffer as long as it lives, beyond the region's close().
        """
        ret = lib.rpmapy_state(self._h)
        if not ret:
            try:
                return memoryview(self._view)
            except ValueError:  # another thread has closed it since
                ret = lib.RPMAPY_E_CLOSED
        raise error_for(ret, "view the memory region")

    @property
    def descriptor(self) -> bytes:
        """What the other side needs for a `RemoteMemoryRegion` (rpma_mr_get_descriptor)."""
        room = ffi.new("char[]", _DESCRIPTOR_ROOM)
        size = ffi.new("size_t *", _DESCRIPTOR_ROOM)
        ret = lib.rpmapy_mr_get_descriptor(self._h, room, size)
        if ret:
            raise error_for(ret, "get the descriptor of the memory region")
        return bytes(ffi.buffer(room, size[0]))

    @property
    def address(self) -> int:
        """Its address in this process (rpma_mr_get_ptr)."""
        pointer = ffi.new("uintptr_t *")
        ret = lib.rpmapy_mr_get_ptr(self._h, pointer)
        if ret:
            raise error_for(ret, "get the address of the memory region")
        return int(pointer[0])

    @property
    def size(self) -> int:
        """Its size in bytes (rpma_mr_get_size)."""
        size = ffi.new("size_t *")
        ret = lib.rpmapy_mr_get_size(self._h, size)
        if ret:
            raise error_for(ret, "get the size of the memory region")
        return int(size[0])

    def advise(
        self,
        offset: int,
        length: int,
        advice: Advice = Advice.PREFETCH,
        flags: AdviseFlags = AdviseFlags.FLUSH,
    ) -> None:
        """Say what will happen to a range, so that its pages are there in time (rpma_mr_advise).

        Args:
            offset: where the range begins, in bytes.
            length: how long it is, in bytes.
            advice: what will happen.
            flags: FLUSH: return when the pages are there.

        Raises:
            NotSupportedError: the device does not take this advice. The soft RNIC does, a kernel's
                device needs on-demand paging for it.
            InvalidArgumentError: the range is outside the region.
        """
        check_range("region", self, offset, length, "offset")
        ret = lib.rpmapy_mr_advise(
            self._h,
            offset,
            length,
            integer("advice", advice, 0x7FFFFFFF),
            integer("flags", flags, 0xFFFFFFFF),
        )
        if ret:
            raise error_for(ret, "advise on the memory region")

    def close(self) -> None:
        """Deregister the memory and let go of the buffer (rpma_mr_dereg)."""
        try:
            super().close()
        finally:
            if self.closed:  # Ctrl-C may have come before
                self._view.release()

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<rpma.MemoryRegion{state} of {len(self)} bytes, {self.usage!r}>"


class RemoteMemoryRegion(NativeObject):
    """The other side's memory region (rpma_mr_remote_from_descriptor)."""

    __slots__ = ("size", "usage")
    _what = "remote memory region"
    _warns = False

    def __init__(self, descriptor: Buffer) -> None:
        """Make it from a descriptor.

        Args:
            descriptor: bytes that the other side got from `MemoryRegion.descriptor`. Bytes behind
                it do not matter: InfiniBand and RoCE pad private data with zeros. What it says is
                believed: compare `size` with what is sensible before you take as much memory.

        Raises:
            InvalidArgumentError: the bytes are too few, or no descriptor.
        """
        raw = copied("descriptor", descriptor)
        out = handle_out("rpmapy_remote")
        ret = lib.rpmapy_mr_remote_from_descriptor(raw, len(raw), out)
        if ret:
            raise error_for(ret, f"make a remote memory region from {len(raw)} bytes")
        self._adopt(out)
        size = ffi.new("size_t *")
        ret = lib.rpmapy_mr_remote_get_size(self._h, size)
        if ret:
            raise error_for(ret, "get the size of the remote memory region")
        self.size = int(size[0])
        self.usage = Descriptor.unpack(raw).usage

    @property
    def flush_types(self) -> frozenset[FlushType]:
        """The flushes it is registered for (rpma_mr_remote_get_flush_type)."""
        raw = ffi.new("int *")
        ret = lib.rpmapy_mr_remote_get_flush_type(self._h, raw)
        if ret:
            raise error_for(ret, "get the flush types of the remote memory region")
        usage = Usage(raw[0])
        pairs = (
            (Usage.FLUSH_TYPE_PERSISTENT, FlushType.PERSISTENT),
            (Usage.FLUSH_TYPE_VISIBILITY, FlushType.VISIBILITY),
        )
        return frozenset(flush for flag, flush in pairs if flag in usage)

    def __len__(self) -> int:
        if self.size > sys.maxsize:  # the other side may say anything
            raise InvalidArgumentError(
                f"the other side says that its region has {self.size} bytes, more than len() can "
                "tell: take `size`"
            )
        return self.size

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<rpma.RemoteMemoryRegion{state} of {self.size} bytes, {self.usage!r}>"


def check_range(
    name: str,
    region: MemoryRegion | RemoteMemoryRegion,
    offset: object,
    length: object,
    offset_name: str,
    length_name: str = "length",
) -> None:
    """Raise unless the range lies in the region, saying which argument is wrong and why."""
    start = integer(offset_name, offset, _SIZE_MAX, "bytes")
    count = integer(length_name, length, _SIZE_MAX, "bytes")
    # len() is for sizes below 2**63; a descriptor may say more.
    size = region.size if isinstance(region, RemoteMemoryRegion) else len(region)
    if start + count > size:
        raise InvalidArgumentError(
            f"{offset_name}={start} and {length_name}={count} reach to byte {start + count}, "
            f"beyond {name}, which has {size} bytes"
        )


def _writable_view(buffer: Any) -> memoryview:
    view = bytes_of(
        "buffer",
        buffer,
        "an object with a writable buffer (bytearray, mmap, numpy array, rpma.allocation.Memory)",
    )
    if view.readonly:
        raise InvalidArgumentError(
            f"buffer is read-only ({type(buffer).__name__}): the RNIC needs writable memory, "
            "such as a bytearray"
        )
    if not view.nbytes:
        raise InvalidArgumentError("buffer is empty: a memory region has at least one byte")
    return view


def _usage(usage: object) -> Usage:
    number = integer("usage", usage, 0xFFFFFFFF)
    allowed = int(sum(Usage))
    if not number or number & ~allowed:
        raise InvalidArgumentError(
            f"usage={number:#x} must combine members of rpma.Usage, at least one"
        )
    return Usage(number)


def _hint(usage: Usage) -> str:
    """What else there is to say of a registration that the device has just refused."""
    is_invalid = errno_of(text(lib.rpmapy_call_message())) == errno.EINVAL
    return _NOT_PERSISTENT if is_invalid and Usage.FLUSH_TYPE_PERSISTENT in usage else ""


def require_regions(**regions: tuple[type, object]) -> None:
    """Raise TypeError for the first argument that is not the kind of region it must be."""
    for name, (kind, value) in regions.items():
        require(kind, name, value)
