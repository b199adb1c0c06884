"""Runs in the guest: where a file is on its disk, and what the disk has there."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from pathlib import Path

PAGE = 4096

FIEMAP = 0xC020660B
"""The ioctl that tells where a file is on its disk. FIBMAP would write dirty pages first."""

_FIEMAP = struct.Struct("=QQIIII")
_EXTENT = struct.Struct("=QQQ16xI12x")
_EXTENTS = 32


def places_of(file: Path, offset: int, count: int) -> list[int]:
    """Where pages of a file, from an offset on, are on its disk, in bytes."""
    end = offset + count * PAGE
    answer = bytearray(_FIEMAP.pack(0, end, 0, 0, _EXTENTS, 0) + bytes(_EXTENTS * _EXTENT.size))
    with file.open("rb") as stored:
        fcntl.ioctl(stored, FIEMAP, answer)
    mapped = _FIEMAP.unpack_from(answer)[3]
    found = {}
    for number in range(mapped):
        at, on_disk, length, _ = _EXTENT.unpack_from(answer, _FIEMAP.size + number * _EXTENT.size)
        found.update({at + step: on_disk + step for step in range(0, length, PAGE)})
    return [found[at] for at in range(offset, end, PAGE)]


def on_disk(device: str, place: int) -> bytes:
    """What the disk has there, past all of the guest's caches."""
    page = mmap.mmap(-1, PAGE)
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
    assert os.preadv(fd, [page], place) == PAGE
    os.close(fd)
    return page[:]


def put_on_disk(device: str, place: int, data: bytes) -> None:
    """Have the disk hold something else there, past all of the guest's caches."""
    page = mmap.mmap(-1, PAGE)
    page[:] = data
    fd = os.open(device, os.O_WRONLY | os.O_DIRECT)
    assert os.pwritev(fd, [page], place) == PAGE
    os.close(fd)
