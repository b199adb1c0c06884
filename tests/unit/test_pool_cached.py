"""What the kernel has cached of a pool's file is believed only where the storage has it, too."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpma import allocation
from rpma.pool import StorageError
from rpma.pool.target import cached
from rpma.pool.target import store as stores
from rpma.pool.target.poolfile import PoolFile
from rpma.pool.target.store import Store

SIZE = 3 * 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pools"
    made.mkdir()
    return made


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store(folder) as opened:
        opened.create("one", SIZE, content_length=1).close()
        yield opened


@pytest.fixture
def renewed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose cache was dropped, by their names."""
    names: list[str] = []
    renew = cached.renew

    def note(fd: int, path: str) -> None:
        names.append(os.path.basename(path))
        renew(fd, path)

    monkeypatch.setattr(stores, "renew", note)
    return names


def fails(patch: pytest.MonkeyPatch, call: str) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    patch.setattr(os, call, fail)


def test_what_a_target_closed_in_order_is_believed(store: Store, renewed: list[str]) -> None:
    for _ in range(3):
        store.open("one").close()
    with store.open("one") as opened:
        store.update(opened, content_length=2)
        opened.sync()
    store.resize("one", 2 * SIZE)
    store.open("one").close()
    assert renewed == []


def test_a_target_believes_nothing_at_first(folder: Path, renewed: list[str]) -> None:
    with Store(folder) as before:
        before.create("one", SIZE).close()
    with Store(folder) as store:
        store.open("one").close()
        assert renewed == ["one.pool"]
        store.open("one").close()
        assert renewed == ["one.pool"]


def test_what_was_not_closed_is_not_believed(store: Store, renewed: list[str]) -> None:
    opened = store.open("one")
    with pytest.warns(ResourceWarning, match="not closed"):
        del opened
    store.open("one").close()
    assert renewed == ["one.pool"]


@pytest.mark.parametrize(
    ("call", "work"),
    [
        ("fdatasync", lambda store, opened: store.update(opened, content_length=2)),
        ("fdatasync", lambda store, opened: store.complete(opened)),
        ("fdatasync", lambda _, opened: opened.sync()),
        ("fsync", lambda store, _: store.resize("one", 2 * SIZE)),
    ],
    ids=["update", "complete", "sync", "grow"],
)
def test_after_a_failure_nothing_is_believed_until_it_was_renewed(
    store: Store,
    renewed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    work: Callable[[Store, PoolFile], object],
) -> None:
    with store.open("one") as opened:
        with monkeypatch.context() as patch:
            fails(patch, call)
            with pytest.raises(OSError, match="Input/output error"):
                work(store, opened)
        assert opened.is_doubted
    renewed.clear()
    store.open("one").close()
    assert renewed == ["one.pool"]
    with store.open("one") as opened:
        assert renewed == ["one.pool"]
        assert opened.header.content_length == 1
        assert not opened.is_doubted


def test_a_failure_counts_however_many_have_the_file_open(store: Store, renewed: list[str]) -> None:
    first, second = store.open("one"), store.open("one")
    first.doubt()
    for opened in (first, second):
        opened.close()
    renewed.clear()
    store.open("one").close()
    assert renewed == ["one.pool"]


def test_a_pool_whose_storage_failed_is_not_completed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.create("two", SIZE, incomplete=True) as opened:
        with monkeypatch.context() as patch:
            fails(patch, "fdatasync")
            with pytest.raises(StorageError):
                store.complete(opened)
        for _ in range(2):  # though it works again
            with pytest.raises(StorageError, match="close the pool, open it again and write it"):
                store.complete(opened)
    with store.open("two") as opened:
        assert opened.header.incomplete
        store.complete(opened)
        assert not opened.header.incomplete


def test_another_pool_in_the_same_file_is_not_believed(
    folder: Path, store: Store, renewed: list[str]
) -> None:
    store.create("two", SIZE).close()
    (folder / "one.pool").write_bytes((folder / "two.pool").read_bytes())
    store.open("one").close()
    assert renewed == ["one.pool"]


def test_a_pool_is_not_opened_while_its_storage_fails(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with store.open("one") as opened:
        opened.doubt()
    with monkeypatch.context() as patch:
        patch.setattr(stores, "renew", fail)
        with pytest.raises(StorageError, match="mend the storage, then open it again"):
            store.open("one")
    store.open("one").close()


# ---- the cache itself ----


def resident(fd: int) -> int:
    """How many of a file's pages are in the cache."""
    size = os.fstat(fd).st_size
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    shared_for_reading = mmap.PROT_READ, mmap.MAP_SHARED
    address = libc.mmap(None, ctypes.c_size_t(size), *shared_for_reading, fd, ctypes.c_long(0))
    assert address != ctypes.c_void_p(-1).value
    pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
    try:
        assert not libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages)
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    return sum(byte & 1 for byte in pages)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "cached", os.O_RDWR | os.O_CREAT)
    os.write(fd, bytes(range(256)) * 160 + b"the end")  # the last page is not whole
    if allocation.is_in_memory(fd):
        os.close(fd)
        pytest.skip("a file on a tmpfs is its cache")
    yield fd
    os.close(fd)


def test_what_can_be_dropped_is(file: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rpma.target")
    os.fsync(file)
    assert resident(file) == 11
    cached.renew(file, "the file")
    assert resident(file) == 0
    assert not caplog.records
    assert os.pread(file, 1 << 16, 0) == bytes(range(256)) * 160 + b"the end"


def test_what_somebody_has_mapped_is_written_again(
    file: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rpma.target")
    size = os.fstat(file).st_size
    with mmap.mmap(file, size, prot=mmap.PROT_READ) as mapping:
        _ = mapping[0], mapping[5 * 4096], mapping[size - 1]
        cached.renew(file, "the file")
        assert "written again" in caplog.text
        assert mapping[:] == bytes(range(256)) * 160 + b"the end"
    assert os.fstat(file).st_size == size
