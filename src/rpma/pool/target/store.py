# SPDX-License-Identifier: BSD-3-Clause
"""The directory in which a target keeps its pools.

The pool NAME is the regular file NAME.pool: a header (see `rpma.pool.target.header`) and the data,
in whole pages of 4096 bytes that are allocated for certain, so that no write to a mapping of them
can fail for want of space. A crash at any moment leaves every pool as it was before or after what
was being done to it.

All sizes, lengths and offsets are in bytes. What the system refuses comes as a `PoolError`, with
the system's words.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import enum
import errno
import fcntl
import os
import re
import stat
import sys
import threading
import time
import uuid
import warnings
from typing import TYPE_CHECKING, Final, Literal
from weakref import WeakValueDictionary

from rpma.errors import ClosedError
from rpma.pool.protocol.attributes import NO_ATTRIBUTES, Attributes
from rpma.pool.protocol.errors import (
    PoolExistsError,
    PoolSizeError,
    PoolSpaceError,
    StorageError,
    TargetError,
    undoing,
)
from rpma.pool.protocol.names import NAME, check_name
from rpma.pool.protocol.sizes import format_size
from rpma.pool.target.cached import Belief, renew
from rpma.pool.target.catalog import Catalog, Listed, Totals
from rpma.pool.target.folder import NO_ROOM, OPEN, Folder, file_of, pool_errors, reason_of
from rpma.pool.target.header import DATA_OFFSET, MAX_SEQUENCE, SLOT_SIZE, Header, encode, slot_of
from rpma.pool.target.poolfile import PoolFile, examine, file_length, write_all, zero

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["Store"]

_LOCK: Final = ".lock"
_UNFINISHED: Final = re.compile(rf"\.{NAME.pattern}\.[0-9a-f]{{16}}\.new")


class _Unset(enum.Enum):
    UNSET = 0


class _Locks:
    """A lock for the header and the size of each pool, there as long as somebody has use for it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[str, threading.RLock] = WeakValueDictionary()

    def of(self, name: str) -> threading.RLock:
        """Whoever holds one may take it again."""
        with self._guard:
            return self._locks.setdefault(name, threading.RLock())


class Store:
    """A directory of pools, for one target alone: a second Store on it, of this process or another,
    is refused.

    All methods may be called from several threads.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Take the directory, and remove what creations that never ended have left in it.

        TargetError where there is no such directory, it cannot be used, or a target has it.
        """
        self._fd = self._lock_fd = -1
        path = os.fspath(directory)
        if not isinstance(path, str):
            raise TypeError(f"directory: a str or a path is needed, not {type(directory).__name__}")
        self._directory = os.path.abspath(path)
        self._process = os.getpid()
        self._changing = _Locks()
        self._belief = Belief()
        try:
            self._take()
        except BaseException:
            self.close()
            raise

    def _take(self) -> None:
        what = f"serve the directory {self._directory!r}"
        with pool_errors(what):
            self._fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock_fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | OPEN, 0o600, dir_fd=self._fd)
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # Not ours: close() would take it from whoever has it, were it our parent.
                os.close(self._lock_fd)
                self._lock_fd = -1
                raise TargetError(
                    f"cannot {what}: another target has it; stop that one, or use another directory"
                ) from None
            self._folder = Folder(self._fd, self._directory)
            self._catalog = Catalog(self._folder)
            for file in os.listdir(self._fd):
                if _UNFINISHED.fullmatch(file):
                    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                        os.unlink(file, dir_fd=self._fd)

    @property
    def directory(self) -> str:
        """The absolute path of the directory."""
        return self._directory

    @property
    def closed(self) -> bool:
        """Whether `close` has been called."""
        return self._fd < 0

    def close(self) -> None:
        """Let go of the directory. Closing again does nothing; what is open stays open."""
        lock, self._lock_fd = self._lock_fd, -1
        directory, self._fd = self._fd, -1
        if lock >= 0:
            # Closing alone would leave the lock with the children that were forked meanwhile, and
            # unlocking in one of them would take it from us.
            if os.getpid() == self._process:
                with contextlib.suppress(OSError):
                    fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)
        if directory >= 0:
            os.close(directory)

    def __enter__(self) -> Store:
        self._open_folder()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<rpma.Store {self._directory!r}{' (closed)' if self.closed else ''}>"

    def create(
        self,
        name: str,
        size: int,
        attributes: Attributes = NO_ATTRIBUTES,
        content_length: int | None = None,
        *,
        incomplete: bool = False,
    ) -> PoolFile:
        """Make a pool of `size` zero bytes, durably, and open it.

        Raises PoolNameError, PoolSizeError for a size or content length that cannot be,
        PoolExistsError, PoolSpaceError where there is no room, and StorageError or TargetError for
        anything else that fails. Whatever it raises, it leaves nothing behind.
        """
        check_name(name)
        header = _new_header(size, attributes, content_length, incomplete)
        folder, file = self._open_folder(), file_of(name)
        what = f"create the pool {name!r}"
        exists = PoolExistsError(
            f"cannot {what}: there is one of that name", where=folder.path_of(name)
        )
        with pool_errors(what):
            if folder.has(name):  # found out below as well, but only after the allocation
                raise exists
        with self._making(name, header, what) as (fd, made):
            try:
                # A link, since a rename would replace a pool made meanwhile.
                os.link(
                    made[0],
                    file,
                    src_dir_fd=folder.fd,
                    dst_dir_fd=folder.fd,
                    follow_symlinks=False,
                )
            except FileExistsError:
                raise exists from None
            made.append(file)
            os.unlink(made[0], dir_fd=folder.fd)
            folder.sync()
            self._catalog.made(name, fd, header)
        return PoolFile(name, folder.path_of(name), fd, header, self._belief)

    def create_beside(
        self,
        name: str,
        size: int,
        attributes: Attributes = NO_ATTRIBUTES,
        content_length: int | None = None,
    ) -> PoolFile:
        """Make a pool beside the one of that name, if there is one, and open it.

        It is incomplete and not listed, and has no name before `put_in_place`. `discard` removes
        it; so does the next Store of the directory.

        Raises PoolNameError, PoolSizeError, PoolDamagedError where something else than a file has
        the name, PoolSpaceError where there is no room for both, and StorageError or TargetError.
        """
        check_name(name)
        header = _new_header(size, attributes, content_length, incomplete=True)
        folder, what = self._open_folder(), f"replace the pool {name!r}"
        with pool_errors(what):
            if folder.has(name) and stat.S_ISDIR(folder.status(name).st_mode):
                raise folder.damaged(name, "it is not a regular file")
        try:
            with self._making(name, header, what) as (fd, made):
                pass
        except PoolSpaceError as error:
            raise PoolSpaceError(
                f"{error}; the old pool stays until the new one is whole, so there must be room "
                "for both",
                where=error.where,
            ) from None
        return PoolFile(name, folder.path_of(name), fd, header, self._belief, beside=made[0])

    @contextlib.contextmanager
    def _making(
        self, name: str, header: Header, what: str
    ) -> Iterator[tuple[int, builtins.list[str]]]:
        """A pool's file, whole and durable, and the names that it has: one that no pool has, to
        begin with. Where the block fails, it goes.
        """
        folder, unfinished = self._open_folder(), f".{name}.{os.urandom(8).hex()}.new"
        made: builtins.list[str] = []
        fd = -1
        try:
            with pool_errors(what), self._catalog.changing():
                mode = os.O_RDWR | os.O_CREAT | os.O_EXCL | OPEN
                fd = os.open(unfinished, mode, 0o600, dir_fd=folder.fd)
                made.append(unfinished)
                self._allocate(fd, 0, file_length(header.size), what)
                # Both slots from the start: at no time does one damaged sector cost the pool.
                first = dataclasses.replace(header, sequence=1)
                write_all(fd, encode(first) + encode(header), 0)
                os.fsync(fd)
                yield fd, made
        except BaseException as error:
            if fd >= 0:
                os.close(fd)
            with undoing(error):
                self._clear_away(made)
            raise

    def _clear_away(self, leftovers: builtins.list[str]) -> None:
        """Remove what a creation that has failed has made, the last of it first."""
        folder, what = self._open_folder(), "remove what is there of it"
        with pool_errors(what), contextlib.ExitStack() as all_of_it:
            all_of_it.enter_context(self._catalog.changing())
            if len(leftovers) > 1:
                all_of_it.callback(folder.sync)
            for leftover in leftovers:
                all_of_it.callback(_unlink, leftover, folder.fd)

    def put_in_place(self, pool_file: PoolFile) -> None:
        """Give a pool that was made beside its name, in one step: whoever opens that name gets the
        old one or the new one, also after a crash. Who has the old one open keeps it.

        Its data and its header must be durable already.

        Raises PoolDamagedError where something else than a file has the name, and StorageError or
        TargetError. The old one is where it was then, unless the words say otherwise: where
        `beside` is "", the new one has the name, and only whether that is durable is not known.
        """
        folder, name = self._open_folder(), pool_file.name
        with pool_errors(f"replace the pool {name!r}"), self._catalog.changing():
            try:
                os.rename(
                    pool_file.beside, file_of(name), src_dir_fd=folder.fd, dst_dir_fd=folder.fd
                )
            except IsADirectoryError:
                raise folder.damaged(name, "it is not a regular file") from None
            pool_file.beside = ""
            self._catalog.made(name, pool_file.fd, pool_file.header)
            with _though(f"the pool {name!r} has been replaced", "one of the two is there, whole"):
                folder.sync()

    def discard(self, pool_file: PoolFile) -> None:
        """Close a pool that was made beside and is not in its place, and remove its file."""
        folder, beside = self._open_folder(), pool_file.beside
        pool_file.close()
        what = f"remove what was to replace the pool {pool_file.name!r}"
        with pool_errors(what), self._catalog.changing(), contextlib.suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=folder.fd)

    def open(self, name: str) -> PoolFile:
        """Open a pool for reading and writing. What is read from it is on its storage: where what
        the kernel has cached of it may not be, since this is the first time or the storage has
        failed, the cache is dropped or written again.

        Raises PoolNameError, PoolNotFoundError, PoolDamagedError where it is no regular file, has
        no valid header or is shorter than its header says, and StorageError or TargetError for
        anything else that fails.
        """
        check_name(name)
        folder = self._open_folder()
        with pool_errors(f"open the pool {name!r}"):
            fd = folder.open(name, os.O_RDWR)
            try:
                header, problem = self._examine(name, fd)
                if header is None or problem:
                    raise folder.damaged(name, problem)
            except BaseException:
                os.close(fd)
                raise
        return PoolFile(name, folder.path_of(name), fd, header, self._belief)

    def _examine(self, name: str, fd: int) -> tuple[Header | None, str]:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return examine(fd)
        believed = self._belief.take(fd)
        if believed is not None:
            header, problem = examine(fd)
            if header is not None and header.pool_id == believed:
                return header, problem
        try:
            renew(fd, self._folder.path_of(name))
        except OSError as error:
            raise StorageError(
                f"cannot open the pool {name!r}: its storage fails ({reason_of(error)}), and what "
                "the kernel has cached of it may never be there; mend the storage, then open it "
                "again",
                where=self._folder.path_of(name),
            ) from error
        return examine(fd)

    def update(
        self,
        pool_file: PoolFile,
        *,
        content_length: int | Literal[_Unset.UNSET] | None = _Unset.UNSET,
        attributes: Attributes | None = None,
        size: int | None = None,
        incomplete: bool | None = None,
    ) -> Header:
        """Change the header of an open pool, durably; what is not given stays as it is in the file.

        After a crash on the way the pool has its old header or the new one, and after an error it
        has the old one. `size` does not touch the data, and must fit into the file: `resize` is
        what gives a pool another size.

        Raises PoolSizeError for a size or content length that cannot be, PoolDamagedError where the
        file is no longer valid, and PoolSpaceError, StorageError or TargetError where the system
        fails. Returns the new header, which is that of `pool_file` from then on.
        """
        fd = pool_file.fd
        what = f"update the header of the pool {pool_file.name!r}"
        with self._changing.of(pool_file.name), pool_errors(what):
            # Not that of pool_file: another one may have been open on the same pool.
            old, problem = examine(fd)
            if old is None or problem:
                raise self._folder.damaged(pool_file.name, problem)
            if old.sequence >= MAX_SEQUENCE:
                raise self._folder.damaged(
                    pool_file.name, f"no number is left for a header after {old.sequence}"
                )
            new = dataclasses.replace(
                old,
                content_length=(
                    old.content_length if content_length is _Unset.UNSET else content_length
                ),
                attributes=old.attributes if attributes is None else attributes,
                size=old.size if size is None else size,
                incomplete=old.incomplete if incomplete is None else incomplete,
                sequence=old.sequence + 1,
            )
            room = os.fstat(fd).st_size - DATA_OFFSET
            if new.size > room:
                raise PoolSizeError(
                    f"size: {new.size} bytes do not fit into the file of the pool "
                    f"{pool_file.name!r}, which has room for {room}; resize it"
                )
            offset = slot_of(new.sequence) * SLOT_SIZE
            before = os.pread(fd, SLOT_SIZE, offset)
            try:
                with pool_file.doubting():
                    write_all(fd, encode(new), offset)
                    os.fdatasync(fd)
            except BaseException:
                # The next reader must not take a header that may not be durable for the newest one:
                # the next update would then overwrite the other, which is.
                with contextlib.suppress(OSError):
                    write_all(fd, before, offset)
                raise
            pool_file.header = new
            self._catalog.changed(pool_file.name, fd, new)
            return new

    def complete(self, pool_file: PoolFile, content_length: int | None = None) -> Header:
        """Note, durably, that a pool is whole; a content length other than None as well.

        What is in the file is durable before the header says so. Raises what `update` raises.
        """
        what = f"complete the pool {pool_file.name!r}"
        with self._changing.of(pool_file.name):
            if pool_file.is_doubted:  # no later success proves that all is there
                raise StorageError(
                    f"cannot {what}: the storage has failed, and what was written before may be "
                    "lost; close the pool, open it again and write it again"
                )
            with pool_errors(what):
                pool_file.sync()
            was_incomplete = pool_file.header.incomplete
            self.update(
                pool_file,
                incomplete=False,
                content_length=_Unset.UNSET if content_length is None else content_length,
            )
            if was_incomplete:  # the other copy as well: it is of a version that not all rpmas know
                self.update(pool_file)
            return pool_file.header

    def resize(self, name: str, new_size: int) -> Header:
        """Give a pool another size, durably. The data that fits stays, and what is added is zero.
        A content length beyond the new size becomes the new size; the pool is incomplete then.

        Nobody may have the pool mapped: what lies beyond the new end goes.

        Raises what `open` raises, PoolSizeError, and PoolSpaceError where there is no room for the
        growth; the pool is then as it was.
        """
        check_name(name)
        # The header is apart from the data, and both orders below keep one rule: the file is never
        # shorter than a header says that may be on the disk. So a growing file has its bytes before
        # its header, and a shrinking one its header before it loses bytes. A crash in between
        # leaves a file that is longer than it need be, which is harmless.
        with self._changing.of(name), self.open(name) as pool_file:
            what = f"resize the pool {name!r}"
            fd, old_size = pool_file.fd, pool_file.header.size
            new_size = dataclasses.replace(
                pool_file.header, size=new_size, content_length=None
            ).size
            with pool_errors(what):
                length, new_length = os.fstat(fd).st_size, file_length(new_size)
                if new_size > old_size:
                    with pool_file.doubting():
                        self._grow(fd, DATA_OFFSET + old_size, length, new_length, what)
                if new_size != old_size:
                    self._write_size(pool_file, new_size)
                if length > new_length:
                    os.ftruncate(fd, new_length)
            return pool_file.header

    def remove(self, name: str) -> None:
        """Remove a pool, valid or not, durably. Whoever has it open keeps the bytes until they
        close it.

        Raises PoolNameError, PoolNotFoundError, and StorageError or TargetError for anything else
        that fails.
        """
        check_name(name)
        folder = self._open_folder()
        with pool_errors(f"remove the pool {name!r}"), self._catalog.changing():
            try:
                os.unlink(file_of(name), dir_fd=folder.fd)
            except FileNotFoundError:
                raise folder.not_found(name) from None
            except IsADirectoryError:
                raise folder.damaged(name, "it is not a regular file") from None
            self._catalog.gone(name)
            with _though(f"the pool {name!r} has been removed", "it may be there again"):
                folder.sync()

    def find(self, name: str) -> Listed | None:
        """A pool, also one that cannot be opened; None where there is none. PoolNameError."""
        self._open_folder()
        return self._catalog.find(check_name(name))

    def after(self, name: str, count: int) -> builtins.list[str]:
        """The names of the next `count` pools after `name`: see `Catalog.after`. StorageError or
        TargetError where the directory cannot be read.
        """
        self._open_folder()
        return self._catalog.after(name, count)

    def list(self) -> builtins.list[Listed]:
        """All pools, by name. One that cannot be opened is there with its problem; StorageError or
        TargetError only where the directory itself cannot be read.
        """
        listed = (self._catalog.find(name) for name in self.after("", sys.maxsize))
        return [one for one in listed if one is not None]

    def totals(self) -> Totals:
        """How many pools there are, and their size: in the same time however many there are, once
        all have been looked at.
        """
        self._open_folder()
        return self._catalog.totals()

    def _grow(self, fd: int, old_end: int, length: int, new_length: int, what: str) -> None:
        """Give a file of `length` bytes those that it lacks, all zero from `old_end` on."""
        try:
            if new_length > length:
                self._allocate(fd, length, new_length, what)
            # The rest of the last page, and what a shrinking that a crash ended has left.
            zero(fd, old_end, min(length, new_length))
            os.fsync(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, length)
            raise

    def _write_size(self, pool_file: PoolFile, size: int) -> None:
        content_length, incomplete = pool_file.header.content_length, None
        if content_length is not None and content_length > size:
            content_length, incomplete = size, True
        # Where this fails, the file keeps its length: the new header may be on the disk all the
        # same, and would then come to light after a crash.
        self.update(pool_file, size=size, content_length=content_length, incomplete=incomplete)

    def _allocate(self, fd: int, length: int, new_length: int, what: str) -> None:
        """Let a file of `length` bytes have `new_length`, with storage behind all of them."""
        asked = new_length - length
        info = os.fstatvfs(fd)
        if info.f_blocks and asked > info.f_bfree * info.f_frsize:
            # Before trying it: file systems hand out all that they have before they say no, and
            # meanwhile nobody else has any.
            raise self._no_room(asked, what, os.strerror(errno.ENOSPC))
        try:
            os.posix_fallocate(fd, 0, new_length)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise self._no_room(asked, what, reason_of(error)) from error
            raise

    def _no_room(self, asked: int, what: str, reason: str) -> PoolSpaceError:
        free = "unknown"
        with contextlib.suppress(OSError):
            info = os.fstatvfs(self._open_folder().fd)
            free = _figure(info.f_bavail * info.f_frsize)
        return PoolSpaceError(
            f"cannot {what}: {reason}: {_figure(asked)} asked for, {free} free",
            where=self._directory,
        )

    def _open_folder(self) -> Folder:
        if self._fd < 0:
            raise ClosedError("the store has been closed")
        return self._folder


def _new_header(
    size: int, attributes: Attributes, content_length: int | None, incomplete: bool
) -> Header:
    """That of a pool that is made now; the second, since both slots have one."""
    return Header(
        pool_id=uuid.uuid4(),
        size=size,
        created=max(time.time_ns(), 0),
        content_length=content_length,
        attributes=attributes,
        incomplete=incomplete,
        sequence=2,
    )


@contextlib.contextmanager
def _though(done: str, afterwards: str) -> Iterator[None]:
    """While what has been done is made durable, and cannot be undone any more."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{done}, but it is not known whether durably: {reason_of(error)}; after a power cut "
            f"{afterwards}"
        ) from error


def _figure(size: int) -> str:
    return f"{format_size(size)} ({size} bytes)"


def _unlink(file: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file, dir_fd=directory)
