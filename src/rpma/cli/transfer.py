# SPDX-License-Identifier: BSD-3-Clause
"""`rpma put` and `rpma get`: a file goes into a pool, or comes out of one, piece by piece."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from rpma.cli import output
from rpma.pool.client.client import Client
from rpma.pool.client.pool import Pool
from rpma.pool.protocol.messages import PoolInfo
from rpma.pool.protocol.persistency import Persistency

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
        replaces: whether nothing of it counts before the pool is in its place.
        written: the target's memory has so many bytes.
        persisted: so many were made durable, from the first on, and are noted as the content.
        persistency: how they become so, or "" as long as there is no pool.
        ending: whether the target was asked to note that the pool is whole.
        ended: whether it has done so.
        interrupted: whether it was ended by Ctrl-C.
    """

    size: int | None
    replaces: bool = False
    written: int = 0
    persisted: int = 0
    persistency: str = ""
    ending: bool = False
    ended: bool = False
    interrupted: bool = False

    @property
    def durable(self) -> int:
        """How many bytes of the pool are durable, from the first on."""
        return 0 if self.replaces and not self.ended else self.persisted


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

    While it is under way the pool is incomplete, and its content length what is durable. One that
    replaces another is beside it until it is whole.

    Args:
        client: of the target.
        name: of the pool.
        source: what to put.
        state: where it is noted how far it came, also when it fails.
        room: the pool's size in bytes.
        overwrite: whether to replace a pool of that name, in one step and when all is there.
        volatile: whether the pool is in DRAM; nothing becomes durable then.
        moved: called after each piece.
    """
    state.replaces = overwrite
    with client.create_pool(
        name, room, content_length=0, volatile=volatile, incomplete=True, replace=overwrite
    ) as pool:
        put_into(pool, source, state, moved)


def put_into(pool: Pool, source: BinaryIO, state: Put, moved: Moved) -> None:
    """Put `source` into a pool that is open for writing; the arguments are `put`'s."""
    state.persistency = pool.persistency.value
    pieces = _stream(pool, source) if state.size is None else _file(pool, source, state.size)
    last = time.monotonic()
    for written in pieces:
        state.written += written
        behind = state.written - state.persisted
        if behind >= PERSIST_EACH or time.monotonic() - last >= PERSIST_SECONDS:
            _persist(pool, state)
            last = time.monotonic()
        moved(state.written)
    is_durable = pool.persistency is not Persistency.NONE
    if is_durable and state.written > state.persisted:
        pool.persist(state.persisted, state.written - state.persisted)
    state.ending = True
    pool.commit(state.written, persist=False)
    state.persisted, state.ended = state.written if is_durable else 0, True


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
    if pool.persistency is not Persistency.NONE and state.written > state.persisted:
        pool.persist(state.persisted, state.written - state.persisted)
        if not state.replaces:  # nobody would see it
            pool.set_content_length(state.written)
        state.persisted = state.written


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


def check_whole(info: PoolInfo) -> None:
    """Raise OSError for a pool that is incomplete, with how far it came."""
    if not info.incomplete:
        return
    content = info.content_length
    came = (
        "how much of it is there is not known"
        if content is None
        else f"{content} bytes of a file are there, in a pool of {info.size}"
    )
    raise OSError(
        f"pool {info.name!r} is incomplete: {came}; its put never ended, or a resize has cut it; "
        "--partial gets what is there"
    )


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
        yield cast("BinaryIO", output.Data())
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
    _sync_folder(final.parent)


def _sync_folder(folder: Path) -> None:
    """Make durable which files it has."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(fd)
