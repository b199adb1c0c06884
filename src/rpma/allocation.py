# SPDX-License-Identifier: BSD-3-Clause
"""Memory that is fit to be registered with an RNIC.

Any writable buffer can be registered, but a good one starts at a page, is not copied away by a
fork, and has its space for certain. `anonymous` makes such memory out of DRAM, `map_file` out of a
file, a file on DAX persistent memory, or a device DAX. Both answer a `Memory`::

    with allocation.anonymous(1 << 20) as memory:
        with peer.register(memory, usage) as region:
            ...

All sizes, lengths, offsets and addresses are in bytes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import mmap
import os
import stat
import sys
from typing import TYPE_CHECKING, Any, Final, Literal

from rpma._huge_pages import (
    HugePageError,
    an_integer,
    huge_page_shortage,
    huge_page_size,
    read_text,
)
from rpma._native import fabric, ffi, lib

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

__all__ = ["HugePageError", "Memory", "anonymous", "map_file"]

# Linux's values of what the mmap module does not name.
_MAP_SHARED_VALIDATE: Final = 0x03
_MAP_HUGETLB: Final = 0x40000
_MAP_SYNC: Final = 0x80000
_MAP_HUGE_SHIFT: Final = 26  # log2 of the page size goes into the flags from this bit on
_HUGETLBFS_MAGIC: Final = 0x958458F6
_TMPFS_MAGIC: Final = 0x01021994

_CHARACTER_DEVICES: Final = "/sys/dev/char"

_Kind = Literal["anonymous", "file", "device"]


class Memory:
    """Mapped memory that starts at a page boundary; made by `anonymous` and `map_file`.

    It is exactly `size` bytes to everyone who sees it: `len()`, `view`, `array()`, and the region
    that ``peer.register(memory, ...)`` makes. The mapping behind it is whole pages, but what is
    left of the last page is never registered: a remote peer reaches what was asked for and nothing
    else.

    `view` works on every Python; from Python 3.12 on a Memory is a buffer itself (PEP 688), so that
    ``memoryview(memory)`` works as well.

    `close` (or the end of a ``with`` block) unmaps the memory. A Memory that is dropped without it
    is unmapped when the last of it, its views, its arrays and its registrations goes, as any other
    Python buffer is. That gives no ResourceWarning, files included: no data is lost by it, since
    the kernel keeps what was written to a shared file mapping. It is not durable before `sync`,
    but neither is it after `close`.

    A child made by fork shares the memory: what either writes, the other sees.
    """

    def __init__(
        self,
        mapping: mmap.mmap,
        size: int,
        *,
        page_size: int,
        kind: _Kind,
        path: str | None,
        is_dax: bool,
        has_writeback: bool = False,
    ) -> None:
        """For `anonymous` and `map_file` only."""
        self._mapping = mapping
        self._size = size
        self._page_size = page_size
        self._kind: _Kind = kind
        self._path = path
        self._is_dax = is_dax
        self._has_writeback = has_writeback
        self._address = _address_of(mapping)

    @property
    def size(self) -> int:
        """What was asked for, in bytes; known after `close`, too."""
        return self._size

    @property
    def page_size(self) -> int:
        """The size in bytes of the pages behind the memory: that of the system, of the huge pages
        that were asked for, of the hugetlbfs of the file, or the alignment of the device DAX.
        """
        return self._page_size

    @property
    def path(self) -> str | None:
        """The path given to `map_file`; None for anonymous memory."""
        return self._path

    @property
    def is_dax(self) -> bool:
        """Whether a store is durable as soon as it has left the CPU caches (MAP_SYNC, or a device
        DAX), so that libpmem's pmem_persist or an RDMA flush is enough, with no msync.
        """
        return self._is_dax

    @property
    def keeps_rdma_writes(self) -> bool:
        """Whether what peers write into it is the file's as the program's own stores are, so that
        `sync` makes it durable where it can make anything durable.

        Always with the soft RNIC: a processor writes, through the mapping. A device of the
        kernel's writes past it, and the kernel does not learn of that: of a file that it writes
        back, on ext4, xfs, NFS or overlayfs say, a page that was once written back counts as clean
        from then on. `sync` then succeeds and writes nothing, and the page is dropped when its
        memory is wanted: what peers wrote is lost. So there it is False for such files, also
        before Linux 6.5, where they can be registered: let peers write to anonymous memory, and
        copy it into the file. It is True for memory where nothing is written back: anonymous, a
        device DAX, a file mapped with MAP_SYNC (`is_dax`), on tmpfs (a memfd is) or on hugetlbfs.
        """
        return not self._has_writeback or fabric.name == "soft"

    @property
    def closed(self) -> bool:
        """Whether `close` has unmapped the memory."""
        return self._mapping.closed

    @property
    def address(self) -> int:
        """Where the memory starts in this process; a multiple of the page size. ValueError once
        closed: something else may live there by then.
        """
        self._check_open()
        return self._address

    @property
    def view(self) -> memoryview:
        """A new writable memoryview of format ``B`` and exactly `size` bytes. The memory cannot be
        closed while the view is alive: ``release()`` it, or drop it. ValueError once closed.
        """
        self._check_open()
        return memoryview(self._mapping)[: self._size]

    def __buffer__(self, flags: int, /) -> memoryview:
        return self.view

    def __len__(self) -> int:
        return self._size

    def array(
        self, dtype: npt.DTypeLike = "uint8", shape: int | tuple[int, ...] | None = None
    ) -> npt.NDArray[Any]:
        """A numpy array over the memory, without a copy; it keeps the memory from being closed.

        With ``shape=None`` it has one dimension and covers the whole memory. A given shape may
        need less than `size` bytes; the array then covers the first ones.

        Raises ImportError where numpy is missing, and ValueError where the memory is not a whole
        number of `dtype` items, the shape does not fit, or the type holds Python objects (pointers
        mean nothing to a remote peer).
        """
        try:
            import numpy as np  # an optional extra
        except ImportError as error:
            raise ImportError(
                "Memory.array() needs numpy, which is not installed: pip install 'rpma[numpy]'"
            ) from error
        kind: np.dtype[Any] = np.dtype(dtype)
        if kind.hasobject or kind.itemsize == 0:
            raise ValueError(
                f"dtype: {kind!r} cannot lie in registered memory; use one with items of a fixed "
                "size in bytes and without Python objects"
            )
        if shape is None:
            if self._size % kind.itemsize:
                raise ValueError(
                    f"dtype: the memory's {self._size} bytes are not a whole number of {kind!r} "
                    f"items of {kind.itemsize} bytes; give a shape"
                )
            shape = self._size // kind.itemsize
        dims = shape if isinstance(shape, tuple) else (shape,)
        dims = tuple(an_integer("shape", n) for n in dims)
        needed = kind.itemsize * math.prod(dims)
        if any(n < 0 for n in dims) or needed > self._size:
            raise ValueError(
                f"shape: {shape!r} of {kind!r} does not fit: it must be non-negative and need no "
                f"more than the memory's {self._size} bytes"
            )
        # frombuffer holds the view. ndarray alone lets go of it, and the memory could be closed.
        array: npt.NDArray[Any]
        array = np.ndarray(dims, dtype=kind, buffer=np.frombuffer(self.view, np.uint8))
        return array

    def sync(self, offset: int = 0, length: int | None = None) -> None:
        """Make `length` bytes from `offset` on durable (to the end, with ``length=None``): msync
        of the pages that hold them. Returns when the storage has them; other threads run
        meanwhile.

        This is for files, and for what processors wrote; for what an RNIC wrote see
        `keeps_rdma_writes`. It works for a file on DAX, too, where flushing the CPU caches is
        enough and faster. Raises io.UnsupportedOperation for memory where msync means nothing:
        anonymous memory, which nothing makes durable, and a device DAX, which needs libpmem's
        pmem_persist.
        Raises ValueError for a range outside of the memory, and OSError where the storage fails:
        what was written may then be lost, and a later sync that succeeds does not prove otherwise.
        """
        self._check_open()
        if self._kind == "anonymous":
            raise io.UnsupportedOperation("sync: anonymous memory has no file to be written to")
        if self._kind == "device":
            raise io.UnsupportedOperation(
                f"sync: msync does not work on the device DAX {self._path!r}; stores to it become "
                "durable by flushing the CPU caches: use libpmem's pmem_persist"
            )
        offset = an_integer("offset", offset)
        if not 0 <= offset <= self._size:
            raise ValueError(f"offset: {offset} is outside of the memory; use 0 to {self._size}")
        length = self._size - offset if length is None else an_integer("length", length)
        if not 0 <= length <= self._size - offset:
            raise ValueError(
                f"length: {length} bytes from offset {offset} on are outside of the memory; use 0 "
                f"to {self._size - offset}"
            )
        if length == 0:
            return
        before = offset % mmap.PAGESIZE  # msync wants the start of a page
        # Not mmap.flush: it keeps the GIL for as long as the storage takes (as of Python 3.11). The
        # view keeps another thread from unmapping the memory under the system call.
        with self.view:
            number = lib.rpmapy_msync(self._address + offset - before, length + before)
            if number:
                raise OSError(number, f"msync: {os.strerror(number)}", self._path)

    def populate(self) -> None:
        """Have all of its pages now, rather than each when it is first touched; other threads run
        meanwhile. A kernel before 5.14 ignores it.

        A file's pages are read from its storage for that, and count as written to.

        Raises MemoryError where the system has too little memory, and OSError where the storage
        fails, or the file has become shorter.
        """
        self._check_open()
        with self.view:  # keeps another thread from unmapping it under the system call
            number = lib.rpmapy_populate(self._address, self._size)
        if number == errno.ENOMEM:
            raise MemoryError(f"the system has no {self._size} bytes of memory to give")
        if number:
            raise OSError(number, f"populate: {os.strerror(number)}", self._path)

    def close(self) -> None:
        """Unmap the memory. Closing again does nothing. Does not make a file durable: `sync` does.

        Raises BufferError while a view, an array or a registration is alive, since it would be left
        pointing nowhere; the memory then stays as it was, and can be closed later.
        """
        try:
            self._mapping.close()
        except BufferError:
            raise BufferError(
                f"{self!r} is still in use: close its memory regions, release() its views and drop "
                "its arrays first"
            ) from None

    def __enter__(self) -> Memory:
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except BufferError:
            # The traceback of an error holds the views of the frames that it passed. They must not
            # hide the error; the memory goes with the last of them.
            if error is None:
                raise

    def __repr__(self) -> str:
        what = "anonymous" if self._path is None else f"{self._kind} {self._path!r}"
        dax = ", DAX" if self._is_dax else ""
        where = (
            "closed" if self.closed else f"at {self._address:#x}, pages of {self._page_size} bytes"
        )
        return f"<rpma.Memory {what}{dax}: {self._size} bytes, {where}>"

    def _check_open(self) -> None:
        if self._mapping.closed:
            raise ValueError(f"{self!r}: the memory has been closed")


def anonymous(size: int, *, huge_pages: bool | int = False) -> Memory:
    """Zeroed memory of `size` bytes that belongs to this process and the children that it forks.

    `huge_pages` asks for huge pages, which save the RNIC translations: True for the system's
    default size, or a page size in bytes (``2 << 20``, ``1 << 30``). They are taken from the
    system's pool at once, and there is no fallback to small ones. Small pages are taken when they
    are first touched or registered.

    Raises TypeError and ValueError for what cannot be a size or a page size of this system,
    HugePageError (a MemoryError) where too few huge pages are free, and MemoryError where the
    system refuses.
    """
    size = an_integer("size", size)
    if huge_pages is False:
        page, flags = mmap.PAGESIZE, 0
    else:
        page = huge_page_size(huge_pages)
        flags = _MAP_HUGETLB | (page.bit_length() - 1) << _MAP_HUGE_SHIFT
    length = _whole_pages(size, page)
    # MAP_SHARED, not MAP_PRIVATE: after a fork, a private page is copied on the first write, so
    # that the parent may go on with the copy while the RNIC still uses the page it pinned.
    # A shared page stays where it is. (Of huge pages, MAP_SHARED also reserves all of them now.)
    try:
        mapping = _map(-1, length, mmap.MAP_SHARED | flags)
        if flags:
            _populate(mapping)
    except OSError as error:
        if flags:
            raise HugePageError(huge_page_shortage(size, page, error)) from error
        if error.errno != errno.ENOMEM:
            raise
        raise MemoryError(f"size: the system has no {size} bytes of memory to give") from error
    return Memory(mapping, size, page_size=page, kind="anonymous", path=None, is_dax=False)


def map_file(
    path: str | os.PathLike[str],
    size: int | None = None,
    *,
    create: bool = False,
    dax: bool | None = None,
) -> Memory:
    """Map the first `size` bytes of a file, shared and writable (all of it, with ``size=None``).

    ``create=True`` makes a new file of `size` bytes, with access for its owner only (mode 0600),
    and allocates its space for real, so that a full disk is an error here rather than a SIGBUS at
    some later store. The file and its name are durable on return. It must not exist yet: data is
    neither reused nor overwritten by accident. Where anything fails, no file is left behind. A
    file that exists already is mapped as it is: the holes of a sparse one (``fallocate --length
    SIZE FILE`` fills them) take their space when they are written to.

    `dax` says whether to map with MAP_SYNC, with which a store is durable once it has left the CPU
    caches: True requires it, False does without, None takes it where the file system can (see
    `Memory.is_dax`). A device DAX (``/dev/dax*``) always has that property.

    Not every file can be registered with an RNIC that has no on-demand paging: the kernel refuses
    to pin pages of a file on DAX (EOPNOTSUPP), and since Linux 6.5 those of any file that has
    write-back, on ext4 or xfs say (EFAULT). Before, it registers them, and what peers write
    through a kernel's device can be lost all the same: see `Memory.keeps_rdma_writes`. Files on
    tmpfs or hugetlbfs and device DAX can be registered. The soft RNIC takes any file.

    Raises TypeError and ValueError for arguments that make no sense (a size beyond the end of the
    file, say), FileExistsError with ``create=True`` where the path exists, OSError with EOPNOTSUPP
    with ``dax=True`` where there is no DAX, ENOSPC where the space is not there, and what opening
    raises.
    """
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise TypeError(
            f"path: a str or an os.PathLike of str is needed, not {type(path).__name__}"
        )
    if not isinstance(create, bool):
        raise TypeError(f"create: a bool is needed, not {type(create).__name__}")
    if dax is not None and not isinstance(dax, bool):
        raise TypeError(f"dax: a bool or None is needed, not {type(dax).__name__}")
    if size is not None:
        size = an_integer("size", size)
        _whole_pages(size, mmap.PAGESIZE)
    elif create:
        raise ValueError("size: None is for a file that exists; with create=True give its bytes")

    fd = os.open(name, os.O_RDWR | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)
    try:
        if create and size is not None:
            _allocate(fd, size, name)
        return _map_open_file(fd, name, size, dax)
    except BaseException:
        if create:
            with contextlib.suppress(OSError):
                os.unlink(name)
        raise
    finally:
        os.close(fd)


def _map_open_file(fd: int, name: str, size: int | None, dax: bool | None) -> Memory:
    """The mapping of an open file; it outlives the descriptor."""
    info = os.fstat(fd)
    kind: _Kind = "file"
    if stat.S_ISREG(info.st_mode):
        available, page = info.st_size, _file_page_size(fd)
    elif stat.S_ISCHR(info.st_mode):
        kind, (available, page) = "device", _device_dax(name, info.st_rdev)
        if dax is False:
            raise ValueError(
                f"dax: False is impossible for the device DAX {name!r}; use None or True"
            )
    else:
        raise ValueError(f"path: {name!r} is neither a regular file nor a device DAX")
    if available == 0:
        raise ValueError(f"path: {name!r} is empty, there is nothing to map")
    if size is None:
        size = available
    if size > available:
        raise ValueError(f"size: {size} is beyond the end of {name!r}, which has {available} bytes")
    if page != mmap.PAGESIZE and size % page:
        raise ValueError(f"size: {size} is not a multiple of {page}, as {name!r} needs it")

    if dax is not False:
        try:
            mapping = _map(fd, size, _MAP_SHARED_VALIDATE | _MAP_SYNC, name)
            return Memory(mapping, size, page_size=page, kind=kind, path=name, is_dax=True)
        except OSError as error:
            # EINVAL: a kernel, or an emulation of one, that does not know MAP_SHARED_VALIDATE.
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            if dax and kind == "file":
                raise OSError(
                    errno.EOPNOTSUPP,
                    "dax=True, but the file is not on DAX (MAP_SYNC refused): that takes ext4 or "
                    "xfs on persistent memory, mounted with -o dax; dax=None maps it without",
                    name,
                ) from error
    mapping = _map(fd, size, mmap.MAP_SHARED, name)
    return Memory(
        mapping,
        size,
        page_size=page,
        kind=kind,
        path=name,
        is_dax=kind == "device",
        has_writeback=kind == "file" and not is_in_memory(fd),
    )


def _map(fd: int, length: int, flags: int, name: str | None = None) -> mmap.mmap:
    if flags >= 1 << 31:  # the flags of mmap are a C int
        flags -= 1 << 32
    try:
        return mmap.mmap(fd, length, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError as error:
        if name is None or error.errno is None:
            raise
        raise OSError(error.errno, f"mmap of {length} bytes: {error.strerror}", name) from error


def _address_of(mapping: mmap.mmap) -> int:
    return int(ffi.cast("uintptr_t", ffi.from_buffer(mapping)))


def _allocate(fd: int, size: int, name: str) -> None:
    """Give a new file its space, and make it and its name durable."""
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno is None:
            raise
        reason = f"no room for {size} bytes" if error.errno == errno.ENOSPC else error.strerror
        raise OSError(error.errno, f"cannot allocate the file: {reason}", name) from error
    os.fsync(fd)
    folder = os.open(os.path.dirname(name) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that has no such thing
            raise
    finally:
        os.close(folder)


def _file_page_size(fd: int) -> int:
    """The page size of a regular file: hugetlbfs has its own, and unmaps only whole pages."""
    if lib.rpmapy_file_system_magic(fd) == _HUGETLBFS_MAGIC:
        return os.fstatvfs(fd).f_bsize
    return mmap.PAGESIZE


def is_on_tmpfs(fd: int) -> bool:
    """Whether an open file is in memory, on a tmpfs."""
    return bool(lib.rpmapy_file_system_magic(fd) == _TMPFS_MAGIC)


def is_in_memory(fd: int) -> bool:
    """Whether an open file's pages are the file, by its file system. What a file system is laid
    over (overlayfs), or whose it is (NFS), it does not say: those count as written back.
    """
    return lib.rpmapy_file_system_magic(fd) in (_TMPFS_MAGIC, _HUGETLBFS_MAGIC)


def _device_dax(name: str, device: int) -> tuple[int, int]:
    """The size and the alignment of a device DAX."""
    entry = os.path.join(_CHARACTER_DEVICES, f"{os.major(device)}:{os.minor(device)}")
    try:
        if os.path.basename(os.path.realpath(os.path.join(entry, "subsystem"))) != "dax":
            raise ValueError(f"path: {name!r} is a character device, but no device DAX")
        size = int(read_text(entry, "size"))
        has_align = os.path.exists(os.path.join(entry, "align"))
        return size, int(read_text(entry, "align")) if has_align else 2 << 20
    except OSError as error:
        raise ValueError(
            f"path: {name!r} is a device whose size is not in {entry}: {error}"
        ) from error


def _whole_pages(size: int, page: int) -> int:
    """`size` rounded up to pages; ValueError where that is no size of a mapping."""
    if size <= 0:
        raise ValueError(f"size: {size} is not a size; use 1 byte or more")
    length = -(-size // page) * page
    if length > sys.maxsize:
        raise ValueError(
            f"size: {size} does not fit an address space; use {sys.maxsize // page * page} at most"
        )
    return length


def _populate(mapping: mmap.mmap) -> None:
    """Take the huge pages now. Reserved ones may still be out of this process's reach (limits of a
    cgroup, memory nodes), and finding out by touching them would be a SIGBUS.
    """
    # Not mmap.madvise: it keeps the GIL.
    number = lib.rpmapy_populate(_address_of(mapping), len(mapping))
    if number:
        mapping.close()  # now, not when the traceback of the error goes
        raise OSError(number, os.strerror(number))
