# SPDX-License-Identifier: BSD-3-Clause
"""`rpma put` and `rpma get`: a file goes into a pool, or comes out of one, piece by piece."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from rpma._streams import flush_fully, read_fully
from rpma.cli import output
from rpma.cli.common import naming
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

SHORT = STREAM_PIECE_SIZE
"""A file that is no longer than this is read before it is put, in bytes."""

KEPT_ATTRIBUTES = ("system.posix_acl_access", "security.selinux")
"""The extended attributes that a file keeps when it is replaced, besides the user's."""

Moved = Callable[[int], object]
"""Called with how many bytes have been moved in all."""


@dataclass
class Source:
    """What is to be put.

    Attributes:
        stream: the file.
        size: how much of it, in bytes; None: it is not known before the end comes.
        status: of a file that nobody is to write to meanwhile.
        name: its name.
    """

    stream: BinaryIO
    size: int | None
    status: os.stat_result | None = None
    name: str = ""

    def check_unchanged(self) -> None:
        """Raise OSError if the file was written to since it was opened."""
        if self.status is None:
            return
        now = os.fstat(self.stream.fileno())
        if (now.st_size, now.st_mtime_ns) != (self.status.st_size, self.status.st_mtime_ns):
            raise OSError(
                f"{self.name} was written to while it was read: what was put may be no state that "
                "it ever had; put a copy of it"
            )


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
    source: Source,
    state: Put,
    *,
    room: int,
    overwrite: bool,
    volatile: bool,
    moved: Moved,
) -> None:
    """Put `source` into a new pool.

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


def put_into(pool: Pool, source: Source, state: Put, moved: Moved) -> None:
    """Put `source` into a pool that is open for writing; the arguments are `put`'s."""
    state.persistency = pool.persistency.value
    size, stream = source.size, source.stream
    pieces = _stream(pool, stream) if size is None else _file(pool, stream, size)
    last = time.monotonic()
    for written in pieces:
        state.written += written
        behind = state.written - state.persisted
        if behind >= PERSIST_EACH or time.monotonic() - last >= PERSIST_SECONDS:
            _persist(pool, state)
            last = time.monotonic()
        moved(state.written)
    source.check_unchanged()
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
        length = read_fully(source, piece)
        pool.write(offset, piece[:length])
        yield length
        offset += length
        if length < len(piece):
            return
    if read_fully(source, memoryview(bytearray(1))):
        raise OSError(f"more comes than the {pool.size} bytes that the pool has")


def _persist(pool: Pool, state: Put) -> None:
    """Make durable what was written, and note it."""
    if pool.persistency is not Persistency.NONE and state.written > state.persisted:
        pool.persist(state.persisted, state.written - state.persisted)
        if not state.replaces:  # nobody would see it
            pool.set_content_length(state.written)
        state.persisted = state.written


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
    flush_fully(sink)
    return size


# ---- files ----


@contextlib.contextmanager
def source_of(file: Path) -> Iterator[Source]:
    """A file to read, "-" being the standard input.

    What the system says of a file's size is believed of long ones only: those of /proc are said to
    have none, and those of /sys a page. A short one is read here, to its end.

    Raises:
        OSError: it cannot be read, or is being written to.
    """
    with contextlib.ExitStack() as stack, naming(file):
        stream = _opened(file, stack)
        status = os.fstat(stream.fileno())
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        if stat.S_ISBLK(status.st_mode):
            at = stream.tell()
            size = stream.seek(0, os.SEEK_END) - at
            stream.seek(at)
            yield Source(stream, size)
        elif stat.S_ISREG(status.st_mode):
            yield _of_regular(file, stream, status)
        else:
            yield Source(stream, None)


def _opened(file: Path, stack: contextlib.ExitStack) -> BinaryIO:
    fd = output.descriptor_of(file, 0)
    if fd == 0:
        return sys.stdin.buffer
    return stack.enter_context(open(file if fd is None else os.dup(fd), "rb", buffering=0))


def _of_regular(file: Path, stream: BinaryIO, status: os.stat_result) -> Source:
    at = stream.tell()
    size = max(status.st_size - at, 0)
    if size <= SHORT:
        view = memoryview(bytearray(SHORT + 1))
        length = read_fully(stream, view)
        if length <= SHORT:
            Source(stream, length, status, str(file)).check_unchanged()
            return Source(io.BytesIO(view[:length]), length)
        stream.seek(at)
        if not status.st_size:
            return Source(stream, None)
    return Source(stream, size, status, str(file))


@contextlib.contextmanager
def sink_of(file: Path) -> Iterator[BinaryIO]:
    """A file to write, "-" being the standard output.

    A regular file appears, or is replaced, when all is in it and durable; until then there is
    another one beside it, which goes if anything fails. It keeps its permissions, owner, group and
    extended attributes; a link is followed. What is no regular file is written to as it is.

    Raises:
        OSError: it cannot be written.
    """
    with naming(file):
        fd = output.descriptor_of(file, 1)
        if fd == 1:
            yield cast("BinaryIO", output.Data())
        elif fd is not None:
            with open(os.dup(fd), "wb", buffering=0) as stream:
                yield stream
        else:
            status = _status(file)
            if status is None or stat.S_ISREG(status.st_mode):
                with _replacing(Path(os.path.realpath(file)), status) as stream:
                    yield stream
            else:
                with open(file, "wb", buffering=0) as stream:
                    yield stream
                    if stat.S_ISBLK(status.st_mode):
                        os.fsync(stream.fileno())


def _status(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _replacing(final: Path, old: os.stat_result | None) -> Iterator[BinaryIO]:
    """A new file that takes the place of `final` at the end."""
    if old is not None and not os.access(final, os.W_OK, effective_ids=True):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    beside = final.with_name(f".rpma-{secrets.token_hex(6)}.part")

    def private(path: str, flags: int) -> int:
        return os.open(path, flags, 0o666 if old is None else 0o600)

    try:
        stream = open(beside, "xb", buffering=0, opener=private)  # noqa: SIM115 -- closed below
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(final.parent)) from None
    try:
        with stream:
            yield stream
            if old is not None:
                _take_after(stream.fileno(), final, old)
            os.fsync(stream.fileno())
        os.replace(beside, final)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(final.parent)


def _take_after(fd: int, final: Path, old: os.stat_result) -> None:
    """Give a new file the owner, group, permissions and attributes of the one that it replaces.

    As far as this user may: a group that is another one gets no more than what all others have.
    """
    mode = stat.S_IMODE(old.st_mode) & 0o777  # setuid and the like were for what was in it
    with contextlib.suppress(OSError):
        os.fchown(fd, old.st_uid, -1)
    try:
        os.fchown(fd, -1, old.st_gid)
    except OSError:
        mode &= 0o707 | (mode & 0o007) << 3
    os.fchmod(fd, mode)
    with contextlib.suppress(OSError):  # a file system that has none
        for name in os.listxattr(final):
            if name.startswith("user.") or name in KEPT_ATTRIBUTES:
                with contextlib.suppress(OSError):
                    os.setxattr(fd, name, os.getxattr(final, name))


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
