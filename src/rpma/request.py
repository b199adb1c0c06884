# SPDX-License-Identifier: BSD-3-Clause
"""Why a request was refused: the C layer says no in one word, this says it in a sentence.

Nothing here runs unless a call has failed.
"""

from __future__ import annotations

from typing import Any

from rpma._buffers import copied
from rpma._native import lib
from rpma._object import integer, require
from rpma.constants import ATOMIC_WRITE_ALIGNMENT, CompletionFlags, FlushType, Usage
from rpma.errors import InvalidArgumentError, RpmaError, error_for
from rpma.memory import MemoryRegion, RemoteMemoryRegion, check_range

_UINT32_MAX = (1 << 32) - 1
_SIZE_MAX = (1 << 64) - 1
_WR_ID_MAX: int = lib.RPMAPY_WR_ID_RESERVED - 1
_FLUSH_READ_SIZE = 8
_FLAGS = (CompletionFlags.ON_ERROR, CompletionFlags.ALWAYS)


def _usage(name: str, region: MemoryRegion | RemoteMemoryRegion, needed: Usage) -> None:
    if not region.usage & needed:
        raise InvalidArgumentError(
            f"{name} is registered for {region.usage!r}, which does not allow this: "
            f"it needs {needed!r}"
        )


def _local(
    handle: Any, name: str, region: Any, needed: Usage, offset: Any, length: Any, offset_name: str
) -> None:
    require(MemoryRegion, name, region)
    _usage(name, region, needed)
    check_range(name, region, offset, length, offset_name)
    if int(length.__index__()) > _UINT32_MAX:
        raise InvalidArgumentError(
            f"length={length} must be at most {_UINT32_MAX} bytes a request: split the transfer, "
            "for example with write_batch() or read_batch()"
        )
    if not region.closed and not lib.rpmapy_mr_is_of(region._h, handle):
        raise InvalidArgumentError(
            f"{name} is registered with another peer than the one of this connection"
        )


def _remote(
    name: str, region: Any, needed: Usage, offset: Any, length: Any, offset_name: str
) -> None:
    require(RemoteMemoryRegion, name, region)
    _usage(name, region, needed)
    check_range(name, region, offset, length, offset_name)


def _common(flags: Any, wr_id: Any) -> None:
    if integer("flags", flags, _UINT32_MAX) not in _FLAGS:
        raise InvalidArgumentError(
            f"flags={flags!r} must be CompletionFlags.ON_ERROR or CompletionFlags.ALWAYS"
        )
    integer("wr_id", wr_id, _WR_ID_MAX)


def _no_data(one_name: str, one: Any, other_name: str, other: Any, **numbers: Any) -> bool:
    """Whether a request moves no data: both regions are None, and all numbers 0."""
    if one is not None or other is not None:
        if one is None or other is None:
            missing = one_name if one is None else other_name
            raise InvalidArgumentError(
                f"{missing} is None: give both regions, or None for both to move no data"
            )
        return False
    for name, value in numbers.items():
        if integer(name, value, _SIZE_MAX, "bytes"):
            raise InvalidArgumentError(f"{name}={value} must be 0 where the regions are None")
    return True


def explain_write(
    ret: int,
    handle: Any,
    dst: Any,
    dst_offset: Any,
    src: Any,
    src_offset: Any,
    length: Any,
    flags: Any = CompletionFlags.ALWAYS,
    wr_id: Any = 0,
    imm: Any = 0,
) -> RpmaError:
    """The exception for a write that was refused with `ret`."""
    numbers = {"dst_offset": dst_offset, "src_offset": src_offset, "length": length}
    if not _no_data("dst", dst, "src", src, **numbers):
        _remote("dst", dst, Usage.WRITE_DST, dst_offset, length, "dst_offset")
        _local(handle, "src", src, Usage.WRITE_SRC, src_offset, length, "src_offset")
    integer("imm", imm, _UINT32_MAX)
    _common(flags, wr_id)
    return error_for(ret, f"write {length} bytes")


def explain_read(
    ret: int,
    handle: Any,
    dst: Any,
    dst_offset: Any,
    src: Any,
    src_offset: Any,
    length: Any,
    flags: Any = CompletionFlags.ALWAYS,
    wr_id: Any = 0,
) -> RpmaError:
    """The exception for a read that was refused with `ret`."""
    numbers = {"dst_offset": dst_offset, "src_offset": src_offset, "length": length}
    if not _no_data("dst", dst, "src", src, **numbers):
        _local(handle, "dst", dst, Usage.READ_DST, dst_offset, length, "dst_offset")
        _remote("src", src, Usage.READ_SRC, src_offset, length, "src_offset")
    _common(flags, wr_id)
    return error_for(ret, f"read {length} bytes")


def explain_atomic_write(
    ret: int,
    dst: Any,
    dst_offset: Any,
    value: Any,
    flags: Any = CompletionFlags.ALWAYS,
    wr_id: Any = 0,
) -> RpmaError:
    """The exception for an atomic write that was refused with `ret`."""
    _remote("dst", dst, Usage.WRITE_DST, dst_offset, ATOMIC_WRITE_ALIGNMENT, "dst_offset")
    if dst_offset % ATOMIC_WRITE_ALIGNMENT:
        raise InvalidArgumentError(
            f"dst_offset={dst_offset} must be a multiple of {ATOMIC_WRITE_ALIGNMENT}: an atomic "
            "write is aligned"
        )
    atomic_value(value)
    _common(flags, wr_id)
    return error_for(ret, "write atomically")


def explain_flush(
    ret: int,
    dst: Any,
    dst_offset: Any,
    length: Any,
    flush_type: Any,
    flags: Any = CompletionFlags.ALWAYS,
    wr_id: Any = 0,
) -> RpmaError:
    """The exception for a flush that was refused with `ret`."""
    require(RemoteMemoryRegion, "dst", dst)
    check_range("dst", dst, dst_offset, length, "dst_offset")
    kind = flush_kind(flush_type)
    if dst.size < _FLUSH_READ_SIZE:
        raise InvalidArgumentError(
            f"dst has {dst.size} bytes: a region must have at least {_FLUSH_READ_SIZE} to be "
            "flushed, since the flush reads as many"
        )
    _common(flags, wr_id)
    hint = ""
    if ret == lib.RPMA_E_NOSUPP:
        # Not by dst.flush_types: another call, and librpma's message of this one would be gone.
        if not dst.usage & Usage[f"FLUSH_TYPE_{kind.name}"]:
            hint = f"register the region on the target with Usage.FLUSH_TYPE_{kind.name}"
        elif kind is FlushType.PERSISTENT:
            hint = (
                "if the target's platform supports it, have the target send "
                "PeerConfig(direct_write_to_pmem=True).descriptor and apply it here with "
                "apply_remote_peer_config()"
            )
    return error_for(ret, f"flush {length} bytes ({kind.name})", hint)


def explain_send(
    ret: int,
    handle: Any,
    src: Any,
    offset: Any,
    length: Any,
    flags: Any = CompletionFlags.ALWAYS,
    wr_id: Any = 0,
    imm: Any = 0,
) -> RpmaError:
    """The exception for a send that was refused with `ret`."""
    if not _no_data("src", src, "src", src, offset=offset, length=length):
        _local(handle, "src", src, Usage.SEND, offset, length, "offset")
    integer("imm", imm, _UINT32_MAX)
    _common(flags, wr_id)
    return error_for(ret, f"send {length} bytes")


def explain_receive(
    ret: int, handle: Any, dst: Any, offset: Any, length: Any, wr_id: Any
) -> RpmaError:
    """The exception for a receive that was refused with `ret`."""
    if not _no_data("dst", dst, "dst", dst, offset=offset, length=length):
        _local(handle, "dst", dst, Usage.RECV, offset, length, "offset")
    integer("wr_id", wr_id, _WR_ID_MAX)
    return error_for(ret, f"post a receive of {length} bytes")


def flush_kind(flush_type: Any) -> FlushType:
    """`flush_type` as a FlushType, or the exception that says what is wrong with it."""
    if integer("type", flush_type, _UINT32_MAX) not in tuple(FlushType):
        raise InvalidArgumentError(f"type={flush_type!r} must be a member of rpma.FlushType")
    return FlushType(flush_type)


def atomic_value(value: Any) -> bytes:
    """The bytes of an atomic write, or the exception that says what is wrong with them."""
    if isinstance(value, int):
        raise TypeError(
            f"value must be {ATOMIC_WRITE_ALIGNMENT} bytes, not int: of an int take "
            f".to_bytes({ATOMIC_WRITE_ALIGNMENT}, 'little')"
        )
    raw = copied("value", value, f"{ATOMIC_WRITE_ALIGNMENT} bytes")
    if len(raw) != ATOMIC_WRITE_ALIGNMENT:
        raise InvalidArgumentError(
            f"value has {len(raw)} bytes, an atomic write has {ATOMIC_WRITE_ALIGNMENT}"
        )
    return raw


def rest_of(region: Any, name: str, offset: Any) -> int:
    """How many bytes a region, called `name`, has from `offset` on; None has none."""
    if region is None:
        return 0
    require(MemoryRegion, name, region)
    return max(len(region) - integer("offset", offset, _SIZE_MAX, "bytes"), 0)
