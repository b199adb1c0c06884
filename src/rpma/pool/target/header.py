# SPDX-License-Identifier: BSD-3-Clause
"""The header of a pool's file.

A file starts with two copies of its header, the slots, of 4096 bytes each; the data begins behind
them, at `DATA_OFFSET`. A change of the header is written to the slot that does not hold the newest
one, so that a crash on the way leaves a valid header: the old one or the new one.

A slot, little endian; what is not named here is zero:

======  =====  ==================================================================
offset  bytes
======  =====  ==================================================================
0       8      ``RPMAPOOL``
8       4      version of the format: 1; 2 where there are flags
12      4      length of the fields: 168; 176 in version 2
16      8      sequence, from 1 on: odd ones are in the first slot, even ones in the second
24      8      size of the data in bytes
32      8      when the pool was created, in nanoseconds since 1970
40      8      content length in bytes; all ones: unknown
48      16     pool id
64      8      signature
72      16     major, compat, incompat and ro_compat features, 4 each
88      64     poolset uuid, uuid, next uuid, previous uuid, 16 each
152     16     user flags
168     8      flags, in version 2: bit 0, the pool is incomplete
4064    32     SHA-256 of all that is before
======  =====  ==================================================================

The magic, the version and the checksum stay where they are in every version of the format, so that
a newer version can be told from a damaged file. A header without flags is of version 1, which every
rpma reads; one that does not know a flag refuses the pool, and cannot take it for what it is not.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from rpma._huge_pages import an_integer
from rpma.pool.protocol.attributes import (
    MAX_SIZE,
    NO_ATTRIBUTES,
    Attributes,
    check_uuid,
    in_range,
    set_field,
)
from rpma.pool.protocol.errors import PoolDamagedError, PoolSizeError

__all__ = [
    "DATA_OFFSET",
    "FORMAT_VERSION",
    "Header",
    "MAX_SEQUENCE",
    "SLOT_SIZE",
    "choose",
    "decode_slot",
    "encode",
    "slot_of",
]

SLOT_SIZE: Final = 4096
"""The bytes of one copy of the header."""

DATA_OFFSET: Final = 2 * SLOT_SIZE
"""Where the data of a pool begins in its file, in bytes."""

MAX_SEQUENCE: Final = (1 << 63) - 1
"""The last number of a header."""

FORMAT_VERSION: Final = 2
"""The newest version of the format that this module reads and writes."""

_MAGIC: Final = b"RPMAPOOL"
_FIELDS: Final = struct.Struct("<8sIIQQQQ16s8sIIII16s16s16s16s16s")
_ATTRIBUTES: Final = slice(64, _FIELDS.size)
_ALL_ZERO: Final = bytes(_FIELDS.size - 64)
_FLAGS: Final = struct.Struct("<Q")
_INCOMPLETE: Final = 1
_CHECKSUM_OFFSET: Final = SLOT_SIZE - hashlib.sha256().digest_size
_LENGTHS: Final = {1: _FIELDS.size, 2: _FIELDS.size + _FLAGS.size}  # of the fields, by version
_RESERVED: Final = {version: bytes(_CHECKSUM_OFFSET - each) for version, each in _LENGTHS.items()}
_UNKNOWN: Final = (1 << 64) - 1


class _NewerFormatError(PoolDamagedError):
    """The slot is sound, but not of this version of the format."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a pool.

    PoolSizeError for a size or a content length that cannot be, TypeError or ValueError for any
    other field, all with its name.

    Attributes:
        pool_id: random, made with the pool; a pool that is removed and made again has another.
        size: bytes of data, 1 to `MAX_SIZE`.
        created: when the pool was created, in nanoseconds since 1970.
        content_length: how many of the bytes, from the first on, are a file that was put here;
            None where nobody said.
        attributes: what the creator says about the pool.
        incomplete: whether it is being filled, or was and that never ended, or was cut since.
        sequence: the number of this header, 1 to `MAX_SEQUENCE`; every change takes the next.
    """

    pool_id: UUID
    size: int
    created: int
    content_length: int | None = None
    attributes: Attributes = NO_ATTRIBUTES
    incomplete: bool = False
    sequence: int = 1

    def __post_init__(self) -> None:
        check_uuid("pool_id", self.pool_id)
        size = an_integer("size", self.size)
        if not 1 <= size <= MAX_SIZE:
            raise PoolSizeError(
                f"size: {size} bytes cannot be the size of a pool; use 1 to {MAX_SIZE}"
            )
        set_field(self, "size", size)
        set_field(self, "created", in_range("created", self.created, 0, (1 << 63) - 1))
        if self.content_length is not None:
            content_length = an_integer("content_length", self.content_length)
            if not 0 <= content_length <= size:
                raise PoolSizeError(
                    f"content_length: {content_length} bytes are not within the pool; use 0 to "
                    f"its size, {size}, or None"
                )
            set_field(self, "content_length", content_length)
        if not isinstance(self.attributes, Attributes):
            raise TypeError(
                f"attributes: an Attributes is needed, not {type(self.attributes).__name__}"
            )
        if not isinstance(self.incomplete, bool):
            raise TypeError(f"incomplete: a bool is needed, not {type(self.incomplete).__name__}")
        set_field(self, "sequence", in_range("sequence", self.sequence, 1, MAX_SEQUENCE))


def slot_of(sequence: int) -> int:
    """Which slot the header of that number is in: 0 or 1."""
    return (sequence - 1) % 2


def encode(header: Header) -> bytes:
    """The slot of a header: `SLOT_SIZE` bytes."""
    attributes = header.attributes
    version = 2 if header.incomplete else 1
    fields = _FIELDS.pack(
        _MAGIC,
        version,
        _LENGTHS[version],
        header.sequence,
        header.size,
        header.created,
        _UNKNOWN if header.content_length is None else header.content_length,
        header.pool_id.bytes,
        attributes.signature,
        attributes.major,
        attributes.compat_features,
        attributes.incompat_features,
        attributes.ro_compat_features,
        attributes.poolset_uuid.bytes,
        attributes.uuid.bytes,
        attributes.next_uuid.bytes,
        attributes.prev_uuid.bytes,
        attributes.user_flags,
    )
    if header.incomplete:
        fields += _FLAGS.pack(_INCOMPLETE)
    body = fields + _RESERVED[version]
    return body + hashlib.sha256(body).digest()


def decode_slot(data: bytes) -> Header:
    """The header in a slot. PoolDamagedError, with the reason, where it holds none."""
    if len(data) != SLOT_SIZE:
        raise PoolDamagedError(f"it has {len(data)} bytes, not {SLOT_SIZE}")
    if not any(data):
        raise PoolDamagedError("it is empty")
    body = data[:_CHECKSUM_OFFSET]
    (
        magic,
        version,
        length,
        sequence,
        size,
        created,
        content_length,
        pool_id,
        signature,
        major,
        compat_features,
        incompat_features,
        ro_compat_features,
        poolset_uuid,
        own_uuid,
        next_uuid,
        prev_uuid,
        user_flags,
    ) = _FIELDS.unpack_from(body)
    if magic != _MAGIC:
        raise PoolDamagedError("it does not begin as one")
    if hashlib.sha256(body).digest() != data[_CHECKSUM_OFFSET:]:
        raise PoolDamagedError("its checksum is wrong")
    if version not in _LENGTHS:
        raise _NewerFormatError(
            f"it is of version {version} of the format, and this rpma knows versions 1 to "
            f"{FORMAT_VERSION}: use the rpma that wrote it, or a newer one"
        )
    if length != _LENGTHS[version]:
        raise PoolDamagedError(f"its fields have {length} bytes, not {_LENGTHS[version]}")
    if body[length:] != _RESERVED[version]:
        raise PoolDamagedError("its reserved bytes are not zero")
    (flags,) = _FLAGS.unpack_from(body, _FIELDS.size)
    if flags & ~_INCOMPLETE:
        raise PoolDamagedError(f"it makes no sense: flags: {flags:#x}")
    try:
        return Header(
            pool_id=UUID(bytes=pool_id),
            size=size,
            created=created,
            content_length=None if content_length == _UNKNOWN else content_length,
            attributes=NO_ATTRIBUTES  # as most have, and making some takes the longest of all
            if body[_ATTRIBUTES] == _ALL_ZERO
            else Attributes(
                signature=signature,
                major=major,
                compat_features=compat_features,
                incompat_features=incompat_features,
                ro_compat_features=ro_compat_features,
                poolset_uuid=UUID(bytes=poolset_uuid),
                uuid=UUID(bytes=own_uuid),
                next_uuid=UUID(bytes=next_uuid),
                prev_uuid=UUID(bytes=prev_uuid),
                user_flags=user_flags,
            ),
            incomplete=bool(flags & _INCOMPLETE),
            sequence=sequence,
        )
    except ValueError as error:
        raise PoolDamagedError(f"it makes no sense: {error}") from error


def choose(slot_a: bytes, slot_b: bytes) -> Header:
    """The newest header that is valid, out of the first and the second slot of a file.

    PoolDamagedError, with the reasons, where neither slot has one, where a slot is of a newer
    version of the format, or where the slots are of different pools.
    """
    headers: list[Header] = []
    reasons: list[str] = []
    for number, data in enumerate((slot_a, slot_b)):
        try:
            header = decode_slot(data)
        except _NewerFormatError as error:
            # The other slot may be valid, but it is what was before: not what the pool is now.
            raise PoolDamagedError(f"its header cannot be used: {error}") from None
        except PoolDamagedError as error:
            reasons.append(str(error))
            continue
        if slot_of(header.sequence) == number:
            headers.append(header)
        else:
            reasons.append("it belongs in the other place")
    if not headers:
        raise PoolDamagedError(
            f"neither copy of its header is valid; the first: {reasons[0]}; the second: "
            f"{reasons[1]}"
        )
    if headers[0].pool_id != headers[-1].pool_id:
        raise PoolDamagedError("the two copies of its header are of different pools")
    return max(headers, key=lambda header: header.sequence)
