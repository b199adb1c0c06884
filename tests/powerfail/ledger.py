"""The books of one pool: which records were acknowledged, and what the pool must hold for that.

A pool is full of places, two for each key, of many sizes and on no boundaries. A new record of a
key goes where its newest acknowledged one is not, so that one is never in danger by design. Every
byte of the pool is accounted for: it is what was last acknowledged there, except in the places
that were being written when the power went. Those may hold anything.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

#: Magic, place, sequence number, length of the payload, checksum of the rest.
_HEADER: Final = struct.Struct("<8sQQQI")
_MAGIC: Final = b"POWERREC"

#: Of the places. The big one takes more than one write, and more than one message of any kind.
SIZES: Final = (64, 200, 1000, 4096, 5001, 12288, 300_000)


class Record:
    """What is written: it knows its place, its number and its checksum."""

    @staticmethod
    def make(place: int, number: int, length: int) -> bytes:
        """A record of `length` bytes; its payload follows from its number."""
        payload = random.Random(number).randbytes(length - _HEADER.size)
        checksum = zlib.crc32(payload, place ^ number)
        return _HEADER.pack(_MAGIC, place, number, len(payload), checksum) + payload

    @staticmethod
    def number_in(data: bytes, place: int) -> int | None:
        """The number of the record that a place begins with, if it has a whole one of its own."""
        magic, its_place, number, length, checksum = _HEADER.unpack_from(data)
        payload = data[_HEADER.size : _HEADER.size + length]
        if magic != _MAGIC or its_place != place or len(payload) != length:
            return None
        return number if zlib.crc32(payload, place ^ number) == checksum else None


@dataclass
class Findings:
    """What the pool was found to hold after the power came back.

    Attributes:
        checked: places with an acknowledged record.
        lost: of those, how many hold an older record, or none.
        torn: of those, how many hold no whole record; and bytes that nobody wrote, as one.
        old: places that were being written, and are as before.
        new: the same, and have the new record whole.
        mixed: the same, and have something of both.
    """

    checked: int = 0
    lost: int = 0
    torn: int = 0
    old: int = 0
    new: int = 0
    mixed: int = 0

    def __iadd__(self, other: Findings) -> Findings:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self


class Ledger:
    """The books of a pool that is empty.

    Attributes:
        size: of the pool, in bytes.
        acknowledged: how many records were.
        complaints: what was wrong, in words.
    """

    def __init__(self, name: str, keys: int) -> None:
        """A pool with places for `keys` keys of each size."""
        self.name = name
        self._places: list[tuple[int, int]] = []
        offset = 0
        for _ in range(keys):
            for size in SIZES:
                for _ in range(2):
                    self._places.append((offset, size))
                    offset += size
        self.size = offset + 100
        self.acknowledged = 0
        self.complaints: list[str] = []
        self._content = bytearray(self.size)
        self._numbers = [0] * len(self._places)  # of the acknowledged records
        self._doubts: dict[int, bytes] = {}
        self._last = 0

    @property
    def keys(self) -> int:
        """How many there are."""
        return len(self._places) // 2

    def begin(self, key: int, chance: random.Random) -> tuple[int, int, bytes]:
        """A new record of a key: its place, its offset and its bytes. From now on the place is in
        doubt.
        """
        # The newest stays; where neither was acknowledged, either will do.
        place = 2 * key + (self._numbers[2 * key] > self._numbers[2 * key + 1])
        offset, size = self._places[place]
        self._last += 1
        length = chance.choice((size, chance.randint(_HEADER.size, size)))
        data = Record.make(place, self._last, length)
        self._doubts[place] = data
        return place, offset, data

    def acknowledge(self, place: int) -> None:
        """The record was."""
        data = self._doubts.pop(place)
        offset, _ = self._places[place]
        self._content[offset : offset + len(data)] = data
        self._numbers[place] = _HEADER.unpack_from(data)[2]
        self.acknowledged += 1

    def check(self, found: bytes) -> Findings:
        """Compare with what the pool holds after the power was lost; that counts from now on."""
        findings = Findings()
        for place, (offset, size) in enumerate(self._places):
            self._check_place(findings, place, found[offset : offset + size])
        end = sum(self._places[-1])
        if found[end:] != self._content[end:]:
            findings.torn += 1
            self.complaints.append(f"{self.name}: bytes behind the last place have changed")
        self._content[:] = found
        self._doubts.clear()
        return findings

    def _check_place(self, findings: Findings, place: int, now: bytes) -> None:
        offset, size = self._places[place]
        before = bytes(self._content[offset : offset + size])
        number = self._numbers[place]
        if (data := self._doubts.get(place)) is not None:
            if now == before:
                findings.old += 1
                return
            if now == data + before[len(data) :]:
                findings.new += 1
            else:
                findings.mixed += 1
            self._numbers[place] = 0  # nobody was told of what is there now
            return
        findings.checked += number > 0
        if now == before:
            return
        what = Record.number_in(now, place)
        is_whole = not any(now) or (what is not None and what != number)
        findings.lost += is_whole
        findings.torn += not is_whole
        wrong = [at for at in range(size) if now[at] != before[at]]
        there = f"record {what}" if what is not None else "none" if not any(now) else "no whole one"
        self.complaints.append(
            f"{self.name}: place {place} at {offset} of {size} bytes should hold record {number} "
            f"and holds {there}: {len(wrong)} bytes differ, from {wrong[0]} to {wrong[-1]}"
        )
        self._numbers[place] = 0

    def batch(self, chance: random.Random, most: int) -> Iterator[tuple[int, int, bytes]]:
        """New records of keys that are neighbours."""
        first = chance.randrange(self.keys)
        for key in range(first, min(first + chance.randint(1, most), self.keys)):
            yield self.begin(key, chance)
