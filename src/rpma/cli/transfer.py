# SPDX-License-Identifier: BSD-3-Clause
"""`rpma put` and `rpma get`: a file goes into a pool, or comes out of one, piece by piece."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from rpma.pool.client import Client
from rpma.pool.durability import Persistency
from rpma.pool.errors import PoolNotFoundError
from rpma.pool.pool import Pool

PIECE_SIZE = 16 << 20
"""How much of the file one call moves, in bytes."""

STREAM_PIECE_SIZE = 4 << 20
"""How much of a file whose size is not known is in memory at a time, in bytes."""

PERSIST_EACH = 64 << 20
"""After so many bytes, what was written is made durable."""

PERSIST_SECONDS = 1.0
"""Or after so long, in seconds."""

Moved = Callable[[int], object]
"""Called with how many bytes have been moved in all."""


@dataclass
class Put:
    """What has been put so far.

    Attributes:
        size: of what is to be put, in bytes; None: it is not known before the end comes.
        written: the target's memory has so many bytes.
        durable: so many are durable, from the first on.
        persistency: how they become so, or "" as long as that is not known.
    """

    size: int | None
    written: int = 0
    durable: int = 0
    persistency: str = ""


def put(
    client: Client,
    name: str,
    source: BinaryIO,
    state: Put,
    *,
    room: int,
    overwrite: bool,
    volatile: bool,
    moved: Moved,
) -> None:
    """Put `source` into a new pool: `state.size` bytes, or all that comes.

    While it is under way the pool's content length is what is durable, so that whoever reads the
    pool of a put that never ended gets no more than was put.

    Args:
        client: of the target.
        name: of the pool.
        source: what to put.
        state: where it is noted how far it came, also when it fails.
        room: the pool's size in bytes.
        overwrite: whether to remove a pool of that name first.
        volatile: whether the pool is in DRAM; nothing becomes durable then.
        moved: called after each piece.
    """
    if overwrite:
        with contextlib.suppress(PoolNotFoundError):
            client.remove_pool(name)
    with client.create_pool(name, room, content_length=0, volatile=volatile) as pool:
        put_into(pool, source, state, moved)


def put_into(pool: Pool, source: BinaryIO, state: Put, moved: Moved) -> None:
    """Put `source` into a pool that is open for writing; the arguments are `put`'s."""
    state.persistency = pool.persistency.value
    pieces = _stream(pool, source) if state.size is None else _file(pool, source, state.size)
    last = time.monotonic()
    for written in pieces:
        state.written += written
        behind = state.written - state.durable
        if behind >= PERSIST_EACH or time.monotonic() - last >= PERSIST_SECONDS:
            _persist(pool, state)
            last = time.monotonic()
        moved(state.written)
    _persist(pool, state)
    if pool.persistency is Persistency.NONE:
        pool.set_content_length(state.written)


def _file(pool: Pool, source: BinaryIO, size: int) -> Iterator[int]:
    """Write a file of a known size, piece by piece; yields how long each was."""
    for offset in range(0, size, PIECE_SIZE):
        length = min(PIECE_SIZE, size - offset)
        try:
            pool.write_from(offset, source, length)
        except EOFError:
            raise OSError(f"the file ended before its {size} bytes: is it written to?") from None
        yield length


def _stream(pool: Pool, source: BinaryIO) -> Iterator[int]:
    """Write all that comes, piece by piece; yields how long each was."""
    view, offset = memoryview(bytearray(min(STREAM_PIECE_SIZE, pool.size))), 0
    while offset < pool.size:
        piece = view[: pool.size - offset]
        length = _fill(piece, source)
        pool.write(offset, piece[:length])
        yield length
        offset += length
        if length < len(piece):
            return
    if source.read(1):
        raise OSError(f"more comes than the {pool.size} bytes that the pool has")


def _persist(pool: Pool, state: Put) -> None:
    """Make durable what was written, and note it."""
    if pool.persistency is not Persistency.NONE and state.written > state.durable:
        pool.persist(state.durable, state.written - state.durable)
        pool.set_content_length(state.written)
        state.durable = state.written


def _fill(view: memoryview, source: BinaryIO) -> int:
    """Read as much as there is room for, less only at the end of the file."""
    done = 0
    while done < len(view):
        count = source.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


def content_of(pool: Pool) -> int:
    """How many bytes of a pool are a file that was put; all of them where that is not known."""
    content = pool.info.content_length
    return pool.size if content is None else min(content, pool.size)


def get(pool: Pool, sink: BinaryIO, moved: Moved) -> int:
    """Write the content of a pool into `sink`; returns how many bytes that are."""
    size = content_of(pool)
    for offset in range(0, size, PIECE_SIZE):
        length = min(PIECE_SIZE, size - offset)
        pool.read_to(offset, sink, length)
        moved(offset + length)
    sink.flush()
    return size


# ---- files ----


@contextlib.contextmanager
def source_of(file: Path) -> Iterator[tuple[BinaryIO, int | None]]:
    """A file to read, "-" being the standard input, and its size, None where that is not known."""
    with contextlib.ExitStack() as stack:
        stream = (
            sys.stdin.buffer
            if str(file) == "-"
            else stack.enter_context(open(file, "rb", buffering=0))
        )
        status = os.fstat(stream.fileno())
        size = None
        if stat.S_ISREG(status.st_mode):
            size = max(status.st_size - stream.tell(), 0)
        elif stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(f"{file} is a directory")
        yield stream, size


@contextlib.contextmanager
def sink_of(file: Path) -> Iterator[BinaryIO]:
    """A file to write, "-" being the standard output.

    A regular file appears, or is replaced, when all is in it and durable; until then there is
    another one beside it, which goes if anything fails.
    """
    if str(file) == "-":
        yield sys.stdout.buffer
        return
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(file.stat().st_mode):  # a device, a pipe: it stays what it is
            with open(file, "wb", buffering=0) as stream:
                yield stream
            return
    final = Path(os.path.realpath(file))  # a link stays a link
    beside = final.with_name(f".{final.name[:200]}.{secrets.token_hex(6)}.part")
    try:
        with open(beside, "xb", buffering=0) as stream:
            yield stream
            os.fsync(stream.fileno())
        os.replace(beside, final)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
