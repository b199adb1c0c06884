"""Descriptors come from the network: whatever the bytes are, they work or are refused."""
# ruff: noqa: PT017

from __future__ import annotations

import array
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import rpma
from rpma import Usage

SIZE = 21
VALID = struct.pack("<QQIB", 0x7F0123456000, 4096, 0xABCDEF, Usage.WRITE_DST | Usage.READ_SRC)


def check(raw: bytes) -> None:
    """Make all there is of the bytes; only InvalidArgumentError may come of it."""
    try:
        with rpma.RemoteMemoryRegion(raw) as remote:
            assert len(raw) >= SIZE
            address, size, rkey, usage = struct.unpack_from("<QQIB", raw)
            assert usage
            assert (remote.size, remote.usage) == (size, Usage(usage))
            assert remote.flush_types <= set(rpma.FlushType)
            assert str(size) in repr(remote)
            unpacked = rpma.Descriptor.unpack(raw)
            assert unpacked == (address, size, rkey, Usage(usage))
    except rpma.InvalidArgumentError as error:
        assert len(raw) < SIZE or not raw[20]
        assert "remote memory region" in str(error)
        with pytest.raises(rpma.InvalidArgumentError):
            rpma.Descriptor.unpack(raw)


@given(st.binary(max_size=300))
@example(b"")
@example(b"\xff" * SIZE)
@example(bytes(SIZE))
def test_any_bytes_make_a_region_or_an_error(raw: bytes) -> None:
    check(raw)


@given(st.binary(min_size=SIZE, max_size=SIZE))
def test_any_bytes_of_the_right_length(raw: bytes) -> None:
    check(raw)


@pytest.mark.parametrize("at", range(SIZE))
def test_each_byte_corrupted(at: int) -> None:
    for value in range(256):
        raw = bytearray(VALID)
        raw[at] = value
        check(bytes(raw))


@pytest.mark.parametrize("length", range(SIZE))
def test_each_truncation_is_refused(length: int) -> None:
    with pytest.raises(rpma.InvalidArgumentError, match=f"from {length} bytes"):
        rpma.RemoteMemoryRegion(VALID[:length])
    with pytest.raises(ValueError, match=f"descriptor has {length} bytes"):
        rpma.Descriptor.unpack(VALID[:length])


def test_bytes_behind_a_descriptor_do_not_matter() -> None:
    with rpma.RemoteMemoryRegion(VALID + bytes(35)) as remote:
        assert remote.size == 4096
    assert rpma.Descriptor.unpack(VALID + b"\xff" * 200) == rpma.Descriptor.unpack(VALID)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_descriptor_may_be_any_buffer(kind: type) -> None:
    with rpma.RemoteMemoryRegion(kind(VALID)) as remote:
        assert remote.size == 4096


def test_a_descriptor_may_be_a_strided_buffer() -> None:
    spread = bytes(byte for pair in zip(VALID, bytes(SIZE), strict=True) for byte in pair)
    with rpma.RemoteMemoryRegion(memoryview(spread)[::2]) as remote:
        assert remote.size == 4096
    with rpma.RemoteMemoryRegion(array.array("B", VALID)) as remote:
        assert remote.size == 4096


@pytest.mark.parametrize("bad", ["x" * SIZE, None, 21, [1] * SIZE, object()])
def test_what_is_no_buffer_is_a_type_error(bad: object) -> None:
    with pytest.raises(TypeError, match="descriptor must be bytes, not"):
        rpma.RemoteMemoryRegion(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="descriptor must be bytes, not"):
        rpma.Descriptor.unpack(bad)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="descriptor must be bytes, not"):
        rpma.PeerConfig.from_descriptor(bad)  # type: ignore[arg-type]


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x02")
@example(b"\xff")
def test_any_bytes_make_a_peer_configuration_or_an_error(raw: bytes) -> None:
    try:
        with rpma.PeerConfig.from_descriptor(raw) as config:
            assert raw
            assert config.direct_write_to_pmem is bool(raw[0])
            assert len(config.descriptor) == 1
    except rpma.InvalidArgumentError as error:
        assert not raw
        assert "from 0 bytes" in str(error)


@pytest.mark.parametrize("flushes", range(4))
def test_flush_types_follow_the_usage(flushes: int) -> None:
    expected = set()
    usage = Usage.WRITE_DST
    if flushes & 1:
        usage |= Usage.FLUSH_TYPE_VISIBILITY
        expected.add(rpma.FlushType.VISIBILITY)
    if flushes & 2:
        usage |= Usage.FLUSH_TYPE_PERSISTENT
        expected.add(rpma.FlushType.PERSISTENT)
    with rpma.RemoteMemoryRegion(VALID[:20] + bytes([usage])) as remote:
        assert remote.flush_types == expected


def test_a_closed_remote_region_says_so() -> None:
    remote = rpma.RemoteMemoryRegion(VALID)
    remote.close()
    remote.close()
    assert remote.closed
    assert (remote.size, remote.usage) == (4096, Usage.WRITE_DST | Usage.READ_SRC)
    with pytest.raises(rpma.ClosedError, match="closed"):
        _ = remote.flush_types
