"""What rpma.pool.target.header promises about the header of a pool's file."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import struct
import uuid
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rpma.pool.protocol.attributes import MAX_SIZE, NO_ATTRIBUTES, Attributes
from rpma.pool.protocol.errors import PoolDamagedError, PoolSizeError
from rpma.pool.target.header import (
    DATA_OFFSET,
    MAX_SEQUENCE,
    SLOT_SIZE,
    Header,
    choose,
    decode_slot,
    encode,
    slot_of,
)

FIELDS = 168  # the bytes of a slot that mean something, without the checksum
CHECKSUM = 4064
EMPTY = bytes(SLOT_SIZE)

u32 = st.integers(0, (1 << 32) - 1)
attributes = st.builds(
    Attributes,
    signature=st.binary(max_size=8),
    major=u32,
    compat_features=u32,
    incompat_features=u32,
    ro_compat_features=u32,
    poolset_uuid=st.uuids(),
    uuid=st.uuids(),
    next_uuid=st.uuids(),
    prev_uuid=st.uuids(),
    user_flags=st.binary(max_size=16),
)


@st.composite
def headers(draw: st.DrawFn) -> Header:
    size = draw(st.integers(1, MAX_SIZE))
    return Header(
        pool_id=draw(st.uuids()),
        size=size,
        created=draw(st.integers(0, (1 << 63) - 1)),
        content_length=draw(st.none() | st.integers(0, size)),
        incomplete=draw(st.booleans()),
        attributes=draw(attributes),
        sequence=draw(st.integers(1, MAX_SEQUENCE)),
    )


def header(sequence: int = 1, **fields: Any) -> Header:
    known: dict[str, Any] = {"pool_id": uuid.UUID(int=7), "size": 1 << 20, "created": 10**18}
    return Header(sequence=sequence, **{**known, **fields})


def sealed(body: bytes) -> bytes:
    """A slot with the right checksum, whatever else it holds."""
    assert len(body) == CHECKSUM
    return body + hashlib.sha256(body).digest()


def changed(slot: bytes, offset: int, value: bytes) -> bytes:
    return sealed((slot[:offset] + value + slot[offset + len(value) :])[:CHECKSUM])


def pair(newest: Header) -> tuple[bytes, bytes]:
    """The two slots of a file whose newest header this is."""
    before = encode(dataclasses.replace(newest, sequence=newest.sequence - 1))
    slots = {slot_of(newest.sequence): encode(newest), slot_of(newest.sequence - 1): before}
    return slots[0], slots[1]


class TestAttributes:
    def test_are_all_zero_by_default(self) -> None:
        assert Attributes() == NO_ATTRIBUTES
        assert (NO_ATTRIBUTES.signature, NO_ATTRIBUTES.user_flags) == (bytes(8), bytes(16))
        assert {NO_ATTRIBUTES.uuid, NO_ATTRIBUTES.prev_uuid} == {uuid.UUID(int=0)}

    def test_bytes_are_filled_up_with_zeros(self) -> None:
        some = Attributes(signature=b"LOG", user_flags=b"\x01")
        assert some.signature == b"LOG\0\0\0\0\0"
        assert some.user_flags == b"\x01" + bytes(15)
        assert some == Attributes(signature=b"LOG\0", user_flags=b"\x01\0")

    @pytest.mark.parametrize(
        ("fields", "kind", "message"),
        [
            ({"signature": b"123456789"}, ValueError, "signature: 9 bytes .* at most 8"),
            ({"signature": "LOG"}, TypeError, "signature: bytes are needed, not str"),
            ({"user_flags": bytes(17)}, ValueError, "user_flags: 17 bytes .* at most 16"),
            ({"major": -1}, ValueError, "major: -1 is out of range; use 0 to 4294967295"),
            ({"compat_features": 1 << 32}, ValueError, "compat_features: 4294967296"),
            ({"incompat_features": 1.0}, TypeError, "incompat_features: an int is needed"),
            ({"ro_compat_features": True}, TypeError, "ro_compat_features: an int is needed"),
            ({"uuid": "0"}, TypeError, r"uuid: a uuid\.UUID is needed, not str"),
        ],
    )
    def test_what_does_not_fit_is_named(
        self, fields: dict[str, Any], kind: type[Exception], message: str
    ) -> None:
        with pytest.raises(kind, match=f"^{message}"):
            Attributes(**fields)

    @given(attributes)
    def test_can_be_sent_as_messagepack(self, some: Attributes) -> None:
        msgspec = pytest.importorskip("msgspec")
        sent = msgspec.msgpack.encode(some)
        assert msgspec.msgpack.decode(sent, type=Attributes) == some

    def test_are_checked_when_they_come_as_messagepack(self) -> None:
        msgspec = pytest.importorskip("msgspec")
        sent = msgspec.msgpack.encode({"major": 1 << 32})
        with pytest.raises(msgspec.ValidationError, match="major: 4294967296 is out of range"):
            msgspec.msgpack.decode(sent, type=Attributes)


class TestHeader:
    @pytest.mark.parametrize(
        ("fields", "kind", "message"),
        [
            ({"size": 0}, PoolSizeError, f"size: 0 bytes .* use 1 to {MAX_SIZE}"),
            ({"size": -1}, PoolSizeError, "size: -1"),
            ({"size": MAX_SIZE + 1}, PoolSizeError, "size: "),
            ({"size": "1"}, TypeError, "size: an int is needed, not str"),
            ({"size": 9, "content_length": 10}, PoolSizeError, "content_length: 10 .* use 0 to"),
            ({"content_length": -1}, PoolSizeError, "content_length: -1"),
            ({"content_length": "1"}, TypeError, "content_length: an int is needed"),
            ({"incomplete": 1}, TypeError, "incomplete: a bool is needed, not int"),
            ({"created": -1}, ValueError, "created: -1 is out of range"),
            ({"sequence": 0}, ValueError, "sequence: 0 is out of range"),
            ({"sequence": MAX_SEQUENCE + 1}, ValueError, "sequence: "),
            ({"pool_id": b"1"}, TypeError, r"pool_id: a uuid\.UUID is needed, not bytes"),
            ({"attributes": {}}, TypeError, "attributes: an Attributes is needed, not dict"),
        ],
    )
    def test_what_cannot_be_is_named(
        self, fields: dict[str, Any], kind: type[Exception], message: str
    ) -> None:
        with pytest.raises(kind, match=f"^{message}"):
            header(**fields)

    @pytest.mark.parametrize("size", [1, MAX_SIZE])
    @pytest.mark.parametrize("whole", [True, False])
    def test_the_limits_can_be(self, size: int, whole: bool) -> None:
        one = header(size=size, content_length=size if whole else 0, sequence=MAX_SEQUENCE)
        assert decode_slot(encode(one)) == one


class TestSlot:
    def test_is_laid_out_as_written_down(self) -> None:
        slot = encode(
            header(
                sequence=3,
                size=1000,
                created=77,
                content_length=5,
                attributes=Attributes(
                    signature=b"SIGN",
                    major=1,
                    compat_features=2,
                    incompat_features=3,
                    ro_compat_features=4,
                    poolset_uuid=uuid.UUID(int=11),
                    uuid=uuid.UUID(int=12),
                    next_uuid=uuid.UUID(int=13),
                    prev_uuid=uuid.UUID(int=14),
                    user_flags=b"flags",
                ),
            )
        )
        assert (len(slot), DATA_OFFSET) == (4096, 8192)
        assert slot[:8] == b"RPMAPOOL"
        assert struct.unpack_from("<IIQQQQ", slot, 8) == (1, FIELDS, 3, 1000, 77, 5)
        assert slot[48:64] == uuid.UUID(int=7).bytes
        assert slot[64:72] == b"SIGN\0\0\0\0"
        assert struct.unpack_from("<IIII", slot, 72) == (1, 2, 3, 4)
        assert slot[88:152] == b"".join(uuid.UUID(int=n).bytes for n in (11, 12, 13, 14))
        assert slot[152:168] == b"flags" + bytes(11)
        assert slot[168:4064] == bytes(3896)
        assert slot[4064:] == hashlib.sha256(slot[:4064]).digest()

    def test_of_an_incomplete_pool_is_one_that_older_rpmas_refuse(self) -> None:
        whole, slot = encode(header()), encode(header(incomplete=True))
        assert struct.unpack_from("<II", slot, 8) == (2, FIELDS + 8)  # they know 1 and 168 alone
        assert slot[168:176] == struct.pack("<Q", 1)
        assert slot[16:168] == whole[16:168]
        assert slot[176:4064] == whole[176:4064] == bytes(3888)
        assert decode_slot(slot).incomplete
        assert not decode_slot(whole).incomplete

    def test_unknown_content_length_is_all_ones(self) -> None:
        assert encode(header())[40:48] == b"\xff" * 8

    @given(headers())
    def test_what_was_encoded_is_decoded(self, one: Header) -> None:
        slot = encode(one)
        assert len(slot) == SLOT_SIZE
        assert decode_slot(slot) == one

    @pytest.mark.parametrize("length", [0, 1, SLOT_SIZE - 1, SLOT_SIZE + 1])
    def test_has_its_length(self, length: int) -> None:
        slot = (encode(header()) + b"\0")[:length]
        with pytest.raises(PoolDamagedError, match=f"it has {length} bytes, not 4096"):
            decode_slot(slot)

    def test_of_zeros_is_empty(self) -> None:
        with pytest.raises(PoolDamagedError, match="it is empty"):
            decode_slot(EMPTY)

    def test_of_something_else(self) -> None:
        with pytest.raises(PoolDamagedError, match="it does not begin as one"):
            decode_slot(sealed(b"\x7fELF".ljust(CHECKSUM, b"\0")))

    @pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
    def test_every_damaged_byte_is_found(self, flip: int) -> None:
        slot = bytearray(encode(header(content_length=9)))
        for offset in range(SLOT_SIZE):
            slot[offset] ^= flip
            with pytest.raises(PoolDamagedError, match=r"does not begin as one|checksum is wrong"):
                decode_slot(bytes(slot))
            slot[offset] ^= flip

    @pytest.mark.parametrize(
        ("offset", "value", "message"),
        [
            (
                8,
                struct.pack("<I", 3),
                "version 3 of the format, and this rpma knows versions 1 to 2: use",
            ),
            (8, struct.pack("<I", 2), "its fields have 168 bytes, not 176"),
            (8, struct.pack("<II", 2, FIELDS + 8) + encode(header())[16:168] + b"\2", "flags: 0x2"),
            (8, struct.pack("<II", 2, 176) + encode(header())[16:176] + b"\1", "reserved bytes"),
            (8, struct.pack("<I", 0), "version 0 of the format"),
            (12, struct.pack("<I", 0), "its fields have 0 bytes, not 168"),
            (12, struct.pack("<I", 172), "its fields have 172 bytes"),
            (12, b"\xff" * 4, "its fields have 4294967295 bytes"),
            (16, bytes(8), "makes no sense: sequence: 0 "),
            (16, struct.pack("<Q", 1 << 63), "makes no sense: sequence: "),
            (24, bytes(8), "makes no sense: size: 0 "),
            (24, struct.pack("<Q", MAX_SIZE + 1), "makes no sense: size: "),
            (24, b"\xff" * 8, "makes no sense: size: "),
            (32, struct.pack("<Q", 1 << 63), "makes no sense: created: "),
            (40, struct.pack("<Q", (1 << 20) + 1), "makes no sense: content_length: "),
            (40, struct.pack("<Q", (1 << 64) - 2), "makes no sense: content_length: "),
            (FIELDS, b"\x01", "reserved bytes are not zero"),
            (CHECKSUM - 1, b"\x01", "reserved bytes are not zero"),
        ],
    )
    def test_a_right_checksum_excuses_nothing(
        self, offset: int, value: bytes, message: str
    ) -> None:
        with pytest.raises(PoolDamagedError, match=message):
            decode_slot(changed(encode(header()), offset, value))

    def test_every_reserved_byte_is_checked(self) -> None:
        slot = encode(header())
        for offset in range(FIELDS, CHECKSUM):
            with pytest.raises(PoolDamagedError, match="reserved bytes"):
                decode_slot(changed(slot, offset, b"\x80"))

    @settings(max_examples=500)
    @given(st.binary(min_size=FIELDS - 16, max_size=FIELDS - 16), st.booleans())
    def test_any_fields_make_a_header_or_are_damage(self, fields: bytes, small: bool) -> None:
        if small:  # most of what 64 bits hold is too large to get any further
            fields = (
                b"".join((fields[:7], b"\0", fields[8:13], bytes(3), fields[16:23], b"\0"))
                + (fields[24:28] + bytes(4) if fields[24] & 1 else b"\xff" * 8)
                + fields[32:]
            )
        body = b"RPMAPOOL" + struct.pack("<II", 1, FIELDS) + fields
        slot = sealed(body.ljust(CHECKSUM, b"\0"))
        sequence, size, created, length = struct.unpack_from("<QQQQ", slot, 16)
        right = 1 <= sequence <= MAX_SEQUENCE and 1 <= size <= MAX_SIZE and created < 1 << 63
        if right and (length == (1 << 64) - 1 or length <= size):
            assert encode(decode_slot(slot)) == slot
        else:
            with pytest.raises(PoolDamagedError, match="it makes no sense: "):
                decode_slot(slot)


class TestChoose:
    @given(st.integers(2, MAX_SEQUENCE))
    @example(2)
    @example(3)
    def test_takes_the_newest(self, sequence: int) -> None:
        newest = header(sequence, content_length=12)
        assert choose(*pair(newest)) == newest

    @pytest.mark.parametrize("other", [EMPTY, b"\xff" * SLOT_SIZE, b"", b"short"])
    @pytest.mark.parametrize("sequence", [1, 2])
    def test_takes_the_only_one(self, sequence: int, other: bytes) -> None:
        one = header(sequence)
        assert choose(*((encode(one), other) if sequence == 1 else (other, encode(one)))) == one

    @pytest.mark.parametrize("sequence", [2, 3])
    def test_a_damaged_byte_leaves_the_other_slot(self, sequence: int) -> None:
        newest = header(sequence, content_length=12)
        both = bytearray(b"".join(pair(newest)))
        older = dataclasses.replace(newest, sequence=sequence - 1)
        for offset in range(DATA_OFFSET):
            both[offset] ^= 0x10
            hit = offset // SLOT_SIZE == slot_of(sequence)
            found = choose(bytes(both[:SLOT_SIZE]), bytes(both[SLOT_SIZE:]))
            assert found == (older if hit else newest)
            both[offset] ^= 0x10

    @given(
        st.integers(0, SLOT_SIZE - 1),
        st.integers(SLOT_SIZE, DATA_OFFSET - 1),
        st.integers(1, 255),
    )
    def test_damage_to_both_gives_both_reasons(self, one: int, two: int, flip: int) -> None:
        both = bytearray(b"".join(pair(header(2))))
        both[one] ^= flip
        both[two] ^= flip
        with pytest.raises(PoolDamagedError, match=r"neither copy .* the first: .* the second: "):
            choose(bytes(both[:SLOT_SIZE]), bytes(both[SLOT_SIZE:]))

    def test_empty_slots_hold_nothing(self) -> None:
        with pytest.raises(PoolDamagedError, match="first: it is empty; the second: it is empty"):
            choose(EMPTY, EMPTY)

    @pytest.mark.parametrize("newer", [0, 1])
    def test_does_not_go_back_behind_a_newer_version(self, newer: int) -> None:
        slots = [*pair(header(2))]
        slots[newer] = changed(slots[newer], 8, struct.pack("<I", 9))
        with pytest.raises(PoolDamagedError, match=r"version 9 .* or a newer one"):
            choose(*slots)

    def test_a_damaged_version_is_no_newer_one(self) -> None:
        first, second = pair(header(2))
        torn = second[:8] + struct.pack("<I", 9) + second[12:]
        assert choose(first, torn) == header(1)

    def test_a_header_has_its_place(self) -> None:
        first, second = pair(header(2))
        with pytest.raises(PoolDamagedError, match="first: it belongs in the other place"):
            choose(second, first)
        assert choose(first, first) == header(1)
        assert choose(second, second) == header(2)

    def test_slots_of_two_pools_are_refused(self) -> None:
        other = encode(header(2, pool_id=uuid.UUID(int=8)))
        with pytest.raises(PoolDamagedError, match="of different pools"):
            choose(encode(header(1)), other)

    @given(seed=st.integers(0), start=st.binary(max_size=200), as_one=st.booleans())
    def test_arbitrary_bytes_are_damage(self, seed: int, start: bytes, as_one: bool) -> None:
        # Hypothesis does not draw that many bytes; it draws those that mean something.
        both = random.Random(seed).randbytes(DATA_OFFSET)
        start = (b"RPMAPOOL" if as_one else b"") + start
        both = start + both[len(start) : SLOT_SIZE] + start + both[SLOT_SIZE + len(start) :]
        assert len(both) == DATA_OFFSET
        with pytest.raises(PoolDamagedError):
            choose(both[:SLOT_SIZE], both[SLOT_SIZE:])

    @given(
        base=headers().filter(lambda one: one.sequence > 1),
        edits=st.lists(
            st.tuples(st.integers(0, DATA_OFFSET - 1), st.binary(min_size=1, max_size=40)),
            max_size=4,
        ),
        seal=st.booleans(),
    )
    def test_edited_slots_give_a_header_or_damage(
        self, base: Header, edits: list[tuple[int, bytes]], seal: bool
    ) -> None:
        both = bytearray(b"".join(pair(base)))
        for offset, value in edits:
            value = value[: DATA_OFFSET - offset]
            both[offset : offset + len(value)] = value
        slots = [bytes(both[:SLOT_SIZE]), bytes(both[SLOT_SIZE:])]
        if seal:
            slots = [sealed(slot[:CHECKSUM]) for slot in slots]
        try:
            found = choose(*slots)
        except PoolDamagedError:
            assert edits
        else:
            assert encode(found) in slots
