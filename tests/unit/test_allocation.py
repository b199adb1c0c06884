"""What rpma.allocation promises about the memory that programs register."""

from __future__ import annotations

import builtins
import contextlib
import errno
import gc
import io
import mmap
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import rpma
from rpma import _huge_pages, allocation

PAGE = mmap.PAGESIZE
HUGE = 2 << 20
HUGE_POOL = Path(f"/sys/kernel/mm/hugepages/hugepages-{HUGE >> 10}kB")


def pool(name: str) -> int:
    return int((HUGE_POOL / name).read_text())


def fork(function: Callable[[], None]) -> int:
    """Run the function in a forked child; its id is for `wait`."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # fork with threads: nothing to lock here
        pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return pid


def wait(pid: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child has failed"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of three pages and a bit."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * (3 * PAGE // 256) + b"the end")
    return path


@contextlib.contextmanager
def mounted(folder: Path, kind: str, options: str) -> Iterator[Path]:
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip(f"mounting a {kind} takes root and mount(8)")
    folder.mkdir()
    done = subprocess.run(
        [mount, "-t", kind, "-o", options, "none", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"mounting a {kind} is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def tiny_file_system(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "tiny", "tmpfs", "size=64k") as folder:
        yield folder


@pytest.fixture
def four_huge_pages() -> Iterator[None]:
    """At least four huge pages of 2 MiB are free."""
    try:
        before = pool("nr_hugepages")
    except OSError:
        pytest.skip("the kernel has no huge pages of 2 MiB")
    missing = max(4 - (pool("free_hugepages") - pool("resv_hugepages")), 0)
    try:
        if missing:
            (HUGE_POOL / "nr_hugepages").write_text(str(before + missing))
    except OSError as error:
        pytest.skip(f"no huge pages are free, and reserving some is refused: {error}")
    try:
        if pool("free_hugepages") - pool("resv_hugepages") < 4:
            pytest.skip("the kernel has no room for four huge pages")
        yield
    finally:
        if missing:
            (HUGE_POOL / "nr_hugepages").write_text(str(before))


class TestAnonymous:
    @pytest.mark.parametrize("size", [1, 7, PAGE - 1, PAGE, PAGE + 1, 10 * PAGE + 3])
    def test_is_zeroed_page_aligned_and_as_large_as_asked(self, size: int) -> None:
        with allocation.anonymous(size) as memory:
            assert memory.size == len(memory) == size
            assert memory.address % PAGE == 0
            assert memory.page_size == PAGE
            assert memory.path is None
            assert not memory.is_dax
            assert bytes(memory.view) == bytes(size)

    def test_view_is_writable_bytes_of_exactly_the_size_asked(self) -> None:
        with allocation.anonymous(100) as memory, memory.view as view:
            assert (view.nbytes, view.format, view.itemsize, view.readonly) == (100, "B", 1, False)
            assert view.contiguous
            view[99] = 0xFF
            with memory.view as other:
                assert other[99] == 0xFF
            with pytest.raises(IndexError):
                view[100] = 1

    def test_every_view_begins_at_the_address(self) -> None:
        ctypes = pytest.importorskip("ctypes")
        memory = allocation.anonymous(PAGE)
        with memory.view as view:
            view[:4] = b"rpma"
        assert ctypes.string_at(memory.address, 4) == b"rpma"

    def test_any_integer_is_a_size(self) -> None:
        numpy = pytest.importorskip("numpy")
        assert allocation.anonymous(numpy.int32(10)).size == 10

    @pytest.mark.parametrize("size", ["4096", 4096.0, None, True, b"1"])
    def test_what_is_no_integer_is_no_size(self, size: Any) -> None:
        with pytest.raises(TypeError, match=rf"size: an int is needed, not {type(size).__name__}"):
            allocation.anonymous(size)

    @pytest.mark.parametrize("size", [0, -1, -(1 << 80), sys.maxsize, sys.maxsize + 1, 1 << 80])
    def test_impossible_sizes_are_named(self, size: int) -> None:
        with pytest.raises(ValueError, match=rf"size: {size} "):
            allocation.anonymous(size)

    def test_more_than_the_system_has_is_a_memory_error(self) -> None:
        with pytest.raises(MemoryError, match=rf"size: the system has no {1 << 60} bytes"):
            allocation.anonymous(1 << 60)

    def test_parent_and_forked_child_keep_the_same_pages(self) -> None:
        # With private pages, the parent's write after the fork would move it off the pages that an
        # RNIC has pinned, and the child would not see it.
        memory = allocation.anonymous(PAGE)
        view = memory.view
        readable, writable = os.pipe()

        def child() -> None:
            os.read(readable, 1)
            assert view[0] == 1
            view[1] = 2

        pid = fork(child)
        view[0] = 1
        os.write(writable, b"x")
        wait(pid)
        assert view[1] == 2
        os.close(readable)
        os.close(writable)

    def test_sync_says_that_there_is_no_file(self) -> None:
        with (
            allocation.anonymous(PAGE) as memory,
            pytest.raises(io.UnsupportedOperation, match="anonymous memory has no file"),
        ):
            memory.sync()


class TestHugePages:
    @pytest.mark.usefixtures("four_huge_pages")
    @pytest.mark.parametrize("huge_pages", [True, HUGE])
    def test_the_memory_lies_in_huge_pages(self, huge_pages: int) -> None:
        if (
            huge_pages is True
            and "Hugepagesize:       2048 kB" not in Path("/proc/meminfo").read_text()
        ):
            pytest.skip("the default huge page size is not 2 MiB")
        free = pool("free_hugepages")
        with allocation.anonymous(HUGE + 5, huge_pages=huge_pages) as memory:
            assert memory.size == HUGE + 5
            assert memory.page_size == HUGE
            assert memory.address % HUGE == 0
            assert pool("free_hugepages") == free - 2, "huge pages are taken at once"
            with memory.view as view:
                assert len(view) == HUGE + 5
                view[HUGE + 4] = 1
        assert pool("free_hugepages") == free, "closing gives the huge pages back"

    @pytest.mark.usefixtures("four_huge_pages")
    def test_too_few_free_ones_is_an_error_that_says_what_to_do(self) -> None:
        total, free = pool("nr_hugepages"), pool("free_hugepages") - pool("resv_hugepages")
        pages = free + pool("nr_overcommit_hugepages") + (1 << 16)
        with pytest.raises(allocation.HugePageError) as caught:
            allocation.anonymous(pages * HUGE - 1, huge_pages=HUGE)
        message = str(caught.value)
        assert isinstance(caught.value, MemoryError)
        assert f"need {pages} huge pages of {HUGE} bytes" in message
        assert f"{free} of the system's {total} are free" in message
        assert f"echo {total + pages - free} > {HUGE_POOL}/nr_hugepages" in message
        assert pool("free_hugepages") - pool("resv_hugepages") == free

    def test_none_free_is_the_same_error(self) -> None:
        if not HUGE_POOL.exists():
            pytest.skip("the kernel has no huge pages of 2 MiB")
        if pool("nr_hugepages") or pool("nr_overcommit_hugepages"):
            pytest.skip("this machine has huge pages")
        with pytest.raises(
            allocation.HugePageError, match=r"0 of the system's 0 are free"
        ) as caught:
            allocation.anonymous(1, huge_pages=HUGE)
        if "Hugepagesize:       2048 kB" in Path("/proc/meminfo").read_text():
            assert "sysctl vm.nr_hugepages=1" in str(caught.value)

    def test_a_kernel_without_huge_pages_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(_huge_pages, "_HUGE_PAGE_POOLS", tmp_path / "none")
        for huge_pages in (True, HUGE):
            with pytest.raises(allocation.HugePageError, match="this system has none"):
                allocation.anonymous(1, huge_pages=huge_pages)

    @pytest.mark.parametrize("huge_pages", [0, 1, -HUGE, PAGE, HUGE + 1, 3 * HUGE, 1 << 70])
    def test_other_page_sizes_are_named_with_the_possible_ones(self, huge_pages: int) -> None:
        if not HUGE_POOL.exists():
            pytest.skip("the kernel has no huge pages of 2 MiB")
        with pytest.raises(ValueError, match=rf"huge_pages: {huge_pages} is .*: .*{HUGE}"):
            allocation.anonymous(1, huge_pages=huge_pages)

    @pytest.mark.parametrize("huge_pages", [None, "2M", 2.0])
    def test_what_is_no_page_size_is_a_type_error(self, huge_pages: Any) -> None:
        with pytest.raises(TypeError, match="huge_pages: an int is needed"):
            allocation.anonymous(1, huge_pages=huge_pages)

    @pytest.mark.usefixtures("four_huge_pages")
    def test_file_on_hugetlbfs_is_mapped_in_its_pages(self, tmp_path: Path) -> None:
        with mounted(tmp_path / "huge", "hugetlbfs", f"pagesize={HUGE}") as folder:
            free = pool("free_hugepages")
            path = folder / "file"
            with allocation.map_file(path, 2 * HUGE, create=True) as memory:
                assert memory.page_size == HUGE
                assert memory.address % HUGE == 0
                with memory.view as view:
                    view[-1] = 1
                memory.sync()
            with pytest.raises(ValueError, match=rf"size: {HUGE + 1} is not a multiple of {HUGE}"):
                allocation.map_file(path, HUGE + 1)
            path.unlink()
            assert pool("free_hugepages") == free, "nothing stays mapped"


class TestMapFile:
    @pytest.mark.parametrize("folder", ["/dev/shm", None])
    def test_what_is_written_is_in_the_file(self, folder: str | None, tmp_path: Path) -> None:
        path = Path(folder or tmp_path) / f"rpma-test-{os.getpid()}"
        if not path.parent.is_dir():
            pytest.skip(f"{folder} is missing")
        try:
            with allocation.map_file(path, PAGE + 10, create=True) as memory:
                assert (memory.size, memory.path, memory.page_size) == (PAGE + 10, str(path), PAGE)
                with memory.view as view:
                    assert bytes(view) == bytes(PAGE + 10)
                    view[PAGE : PAGE + 5] = b"hello"
                memory.sync()
            data = path.read_bytes()
            assert len(data) == PAGE + 10
            assert data[PAGE : PAGE + 5] == b"hello"
        finally:
            path.unlink(missing_ok=True)

    def test_without_a_size_it_is_the_whole_file(self, file: Path) -> None:
        with allocation.map_file(file) as memory:
            assert memory.size == 3 * PAGE + 7
            assert bytes(memory.view) == file.read_bytes()

    def test_with_a_size_it_is_the_beginning_of_the_file(self, file: Path) -> None:
        with allocation.map_file(str(file), 1000) as memory:
            assert bytes(memory.view) == file.read_bytes()[:1000]
        assert file.stat().st_size == 3 * PAGE + 7

    def test_size_beyond_the_end_is_named_with_what_there_is(self, file: Path) -> None:
        with pytest.raises(
            ValueError, match=rf"size: {3 * PAGE + 8} is beyond .* {3 * PAGE + 7} bytes"
        ):
            allocation.map_file(file, 3 * PAGE + 8)

    def test_empty_file_is_a_value_error(self, tmp_path: Path) -> None:
        (tmp_path / "empty").touch()
        with pytest.raises(ValueError, match="is empty"):
            allocation.map_file(tmp_path / "empty")

    def test_created_file_has_its_space_and_is_its_owners(self, tmp_path: Path) -> None:
        path = tmp_path / "new"
        allocation.map_file(path, 1 << 20, create=True).close()
        status = path.stat()
        assert status.st_size == 1 << 20
        assert status.st_blocks * 512 >= 1 << 20, "the file is sparse"
        assert status.st_mode & 0o777 == 0o600

    def test_create_works_beside_the_working_directory_too(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        allocation.map_file("new", 10, create=True).close()
        assert (tmp_path / "new").stat().st_size == 10

    def test_create_leaves_an_existing_file_as_it_is(self, file: Path) -> None:
        before = file.read_bytes()
        with pytest.raises(FileExistsError) as caught:
            allocation.map_file(file, PAGE, create=True)
        assert caught.value.filename == str(file)
        assert file.read_bytes() == before

    def test_create_needs_a_size(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="size: None is for a file that exists"):
            allocation.map_file(tmp_path / "new", create=True)
        assert not (tmp_path / "new").exists()

    def test_full_disk_is_enospc_and_leaves_no_file(self, tiny_file_system: Path) -> None:
        path = tiny_file_system / "new"
        with pytest.raises(OSError, match=f"no room for {1 << 20} bytes") as caught:
            allocation.map_file(path, 1 << 20, create=True)
        assert caught.value.errno == errno.ENOSPC
        assert caught.value.filename == str(path)
        assert list(tiny_file_system.iterdir()) == []
        with allocation.map_file(path, 32 << 10, create=True) as memory, memory.view as view:
            view[:] = b"x" * len(view)  # the space is there: no SIGBUS

    def test_other_failures_leave_no_file_either(self, tmp_path: Path) -> None:
        path = tmp_path / "new"
        with allocation.map_file(tmp_path / "probe", PAGE, create=True) as probe:
            if probe.is_dax:
                pytest.skip("the temporary folder is on DAX")
        with pytest.raises(OSError, match="dax=True"):
            allocation.map_file(path, PAGE, create=True, dax=True)
        with pytest.raises(OSError):  # noqa: PT011 - EFBIG or ENOSPC, the file system decides
            allocation.map_file(path, 1 << 62, create=True)
        assert not path.exists()

    def test_ordinary_file_is_not_dax_and_says_so_where_dax_is_required(self) -> None:
        path = Path(f"/dev/shm/rpma-test-{os.getpid()}")  # tmpfs: no DAX on any machine
        if not path.parent.is_dir():
            pytest.skip("/dev/shm is missing")
        path.write_bytes(bytes(PAGE))
        try:
            for dax in (None, False):
                with allocation.map_file(path, dax=dax) as memory:
                    assert memory.is_dax is False
            with pytest.raises(OSError, match=r"MAP_SYNC refused.*dax=None") as caught:
                allocation.map_file(path, dax=True)
            assert caught.value.errno == errno.EOPNOTSUPP
            assert caught.value.filename == str(path)
        finally:
            path.unlink()

    @pytest.mark.parametrize("dax", [None, True, False])
    def test_dax_decides_how_the_kernel_is_asked(
        self, file: Path, dax: bool | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        map_sync = 0x80000
        asked: list[int] = []
        real = mmap.mmap

        def a_kernel_with_dax(fd: int, length: int, flags: int, prot: int) -> mmap.mmap:
            asked.append(flags)
            return real(fd, length, flags=mmap.MAP_SHARED, prot=prot)

        monkeypatch.setattr(mmap, "mmap", a_kernel_with_dax)
        monkeypatch.setattr(allocation, "fabric", rpma.fabric._replace(name="rdma"))
        with allocation.map_file(file, dax=dax) as memory:
            assert memory.is_dax is (dax is not False)
            assert memory.keeps_rdma_writes is memory.is_dax
        assert [bool(flags & map_sync) for flags in asked] == [dax is not False]

    @pytest.mark.parametrize("fabric", ["soft", "rdma"])
    @pytest.mark.parametrize("kind", ["anonymous", "tmpfs", "file"])
    def test_a_device_may_write_where_nothing_is_written_back(
        self, kind: str, fabric: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """tests/test_kernel_device.py shows on real file systems that this is right."""
        monkeypatch.setattr(allocation, "fabric", rpma.fabric._replace(name=fabric))
        path = tmp_path / "file"
        path.write_bytes(bytes(PAGE))
        memory_file = os.memfd_create("memory")
        os.truncate(memory_file, PAGE)
        with path.open("rb") as stored:
            if kind == "file" and allocation.is_on_tmpfs(stored.fileno()):
                pytest.skip("the temporary folder is on tmpfs")
        with {
            "anonymous": lambda: allocation.anonymous(PAGE),
            "tmpfs": lambda: allocation.map_file(f"/proc/self/fd/{memory_file}"),
            "file": lambda: allocation.map_file(path),
        }[kind]() as memory:
            assert memory.keeps_rdma_writes is (kind != "file" or fabric == "soft")
        os.close(memory_file)

    def test_other_errors_of_mmap_are_not_taken_for_missing_dax(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_memory(*_: object, **__: object) -> mmap.mmap:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        monkeypatch.setattr(mmap, "mmap", no_memory)
        with pytest.raises(OSError, match="mmap of") as caught:
            allocation.map_file(file)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOMEM, str(file))

    def test_device_that_is_no_device_dax_is_named(self) -> None:
        with pytest.raises(
            ValueError, match="'/dev/zero' is a character device, but no device DAX"
        ):
            allocation.map_file("/dev/zero", PAGE)

    def test_device_dax_takes_size_and_alignment_from_sysfs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # /dev/zero stands in for the device: it can be mapped, and refuses MAP_SYNC.
        status = os.stat("/dev/zero")
        entry = tmp_path / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        (tmp_path / "dax").mkdir()
        entry.mkdir()
        (entry / "subsystem").symlink_to(tmp_path / "dax")
        (entry / "size").write_text(f"{2 * HUGE}\n")
        monkeypatch.setattr(allocation, "_CHARACTER_DEVICES", tmp_path)
        with allocation.map_file("/dev/zero") as memory:
            assert (memory.size, memory.page_size, memory.is_dax) == (2 * HUGE, HUGE, True)
            with pytest.raises(io.UnsupportedOperation, match="pmem_persist"):
                memory.sync()
        with pytest.raises(ValueError, match=f"size: {PAGE} is not a multiple of {HUGE}"):
            allocation.map_file("/dev/zero", PAGE)
        with pytest.raises(ValueError, match="dax: False is impossible"):
            allocation.map_file("/dev/zero", dax=False)
        (entry / "size").unlink()
        with pytest.raises(ValueError, match="a device whose size is not in"):
            allocation.map_file("/dev/zero")

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(ValueError, match="neither a regular file nor a device DAX"):
            allocation.map_file(tmp_path / "fifo", PAGE)
        with pytest.raises(IsADirectoryError):
            allocation.map_file(tmp_path, PAGE)
        with pytest.raises(FileNotFoundError):
            allocation.map_file(tmp_path / "missing", PAGE)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"path": b"file"}, "path: a str or an os.PathLike of str is needed, not bytes"),
            ({"path": 3}, "path: a str or an os.PathLike of str is needed, not int"),
            ({"size": "1"}, "size: an int is needed, not str"),
            ({"size": True}, "size: an int is needed, not bool"),
            ({"create": 1, "size": 1}, "create: a bool is needed, not int"),
            ({"dax": "yes"}, "dax: a bool or None is needed, not str"),
        ],
    )
    def test_arguments_of_the_wrong_type_are_named(
        self, file: Path, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(TypeError, match=message):
            allocation.map_file(**{"path": file, **arguments})

    @pytest.mark.parametrize("size", [0, -1, 1 << 64])
    def test_impossible_sizes_are_named(self, file: Path, size: int) -> None:
        with pytest.raises(ValueError, match=rf"size: {size} "):
            allocation.map_file(file, size)

    def test_descriptor_is_not_left_open_by_a_failure(self, file: Path) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(ValueError, match="beyond the end"):
                allocation.map_file(file, 1 << 40)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_write_of_a_forked_child_is_seen_in_memory_and_file(self, file: Path) -> None:
        with allocation.map_file(file) as memory:

            def child() -> None:
                memory.view[PAGE : PAGE + 5] = b"child"
                memory.sync(PAGE, 5)
                memory.close()

            wait(fork(child))
            assert bytes(memory.view[PAGE : PAGE + 5]) == b"child"
        assert file.read_bytes()[PAGE : PAGE + 5] == b"child"


class TestSync:
    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, None), (0, 0), (PAGE + 1, 1), (3 * PAGE, 7), (3 * PAGE + 7, None)],
    )
    def test_takes_any_range_of_the_memory(
        self, file: Path, offset: int, length: int | None
    ) -> None:
        with allocation.map_file(file) as memory:
            memory.sync(offset, length)

    @pytest.mark.parametrize(
        ("offset", "length", "message"),
        [
            (-1, None, "offset: -1 is outside"),
            (
                3 * PAGE + 8,
                None,
                f"offset: {3 * PAGE + 8} is outside of the memory; use 0 to {3 * PAGE + 7}",
            ),
            (0, -1, "length: -1 bytes from offset 0"),
            (PAGE, 2 * PAGE + 8, f"length: {2 * PAGE + 8} bytes .* use 0 to {2 * PAGE + 7}"),
            (0, 1 << 70, f"length: {1 << 70} bytes"),
        ],
    )
    def test_range_outside_of_the_memory_is_named(
        self, file: Path, offset: int, length: int | None, message: str
    ) -> None:
        with allocation.map_file(file) as memory, pytest.raises(ValueError, match=message):
            memory.sync(offset, length)

    def test_wrong_types_are_named(self, file: Path) -> None:
        with allocation.map_file(file) as memory:
            with pytest.raises(TypeError, match="offset: an int is needed, not float"):
                memory.sync(1.0)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="length: an int is needed, not str"):
                memory.sync(0, "1")  # type: ignore[arg-type]

    def test_rounds_to_the_pages_that_hold_the_range(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[tuple[int, int]] = []

        class Lib:
            @staticmethod
            def rpmapy_msync(address: int, length: int) -> int:
                calls.append((address, length))
                return 0

        with allocation.map_file(file) as memory:
            with monkeypatch.context() as patch:
                patch.setattr(allocation, "lib", Lib)
                memory.sync(PAGE + 100, 50)
            assert calls == [(memory.address + PAGE, 150)]

    def test_failing_storage_is_an_os_error_with_the_path(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Lib:
            @staticmethod
            def rpmapy_msync(*_: int) -> int:
                return errno.EIO

        with allocation.map_file(file) as memory:
            with monkeypatch.context() as patch:
                patch.setattr(allocation, "lib", Lib)
                with pytest.raises(OSError, match="msync") as caught:
                    memory.sync()
            assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(file))

    def test_other_threads_run_and_the_memory_stays_mapped_meanwhile(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inside, go_on = threading.Event(), threading.Event()

        class Lib:
            @staticmethod
            def rpmapy_msync(*_: int) -> int:
                inside.set()
                go_on.wait(10)
                return 0

        memory = allocation.map_file(file)
        with monkeypatch.context() as patch:
            patch.setattr(allocation, "lib", Lib)
            thread = threading.Thread(target=memory.sync)
            thread.start()
            assert inside.wait(10)
            with pytest.raises(BufferError):
                memory.close()
            go_on.set()
            thread.join()
        memory.close()

    def test_lets_other_threads_run_while_storage_is_slow(self, tmp_path: Path) -> None:
        size = 64 << 20
        with allocation.map_file(tmp_path / "large", size, create=True) as memory:
            with memory.view as view:
                view[:] = b"x" * size
            progress, done = 0, threading.Event()

            def count() -> None:
                nonlocal progress
                while not done.is_set():
                    time.sleep(0.0005)
                    progress += 1

            thread = threading.Thread(target=count)
            thread.start()
            started, before = time.perf_counter(), progress
            memory.sync()
            elapsed, counted = time.perf_counter() - started, progress - before
            done.set()
            thread.join()
        if elapsed < 0.02:
            pytest.skip(f"the storage took {elapsed * 1000:.1f} ms, too fast to tell")
        assert counted >= 3

    @settings(max_examples=200, deadline=None)
    @given(
        data=st.data(),
        size=st.integers(1, 5 * PAGE),
        content=st.binary(min_size=1, max_size=300),
    )
    def test_any_slice_written_and_synced_is_what_the_file_holds(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        data: st.DataObject,
        size: int,
        content: bytes,
    ) -> None:
        content = content[:size]
        offset = data.draw(st.integers(0, size - len(content)))
        path = tmp_path_factory.mktemp("property") / "file"
        with allocation.map_file(path, size, create=True) as memory:
            with memory.view as view:
                view[offset : offset + len(content)] = content
            memory.sync(offset, len(content))
            expected = bytes(offset) + content + bytes(size - offset - len(content))
            assert path.read_bytes() == expected
            start = data.draw(st.integers(0, size))
            stop = data.draw(st.integers(start, size))
            assert bytes(memory.view[start:stop]) == expected[start:stop]
            memory.sync(start, stop - start)
        path.unlink()

    @settings(deadline=None)
    @given(size=st.integers(1, 3 * PAGE), offset=st.integers(), length=st.integers())
    @example(size=PAGE, offset=PAGE, length=0)
    @example(size=PAGE, offset=PAGE, length=1)
    def test_a_range_is_taken_exactly_when_it_lies_in_the_memory(
        self, tmp_path_factory: pytest.TempPathFactory, size: int, offset: int, length: int
    ) -> None:
        path = tmp_path_factory.mktemp("range") / "file"
        inside = 0 <= offset <= size and 0 <= length <= size - offset
        expected = (
            contextlib.nullcontext() if inside else pytest.raises(ValueError, match="outside")
        )
        with allocation.map_file(path, size, create=True) as memory, expected:
            memory.sync(offset, length)
        path.unlink()


class TestClose:
    def test_is_idempotent_and_keeps_what_describes_the_memory(self) -> None:
        memory = allocation.anonymous(10)
        assert not memory.closed
        memory.close()
        memory.close()
        assert memory.closed
        assert memory.size == len(memory) == 10

    @pytest.mark.parametrize(
        "use",
        [
            lambda memory: memory.view,
            lambda memory: memory.address,
            lambda memory: memory.sync(),
            lambda memory: memory.array(),
            lambda memory: memory.__enter__(),
        ],
        ids=["view", "address", "sync", "array", "with"],
    )
    def test_use_afterwards_is_a_value_error(self, file: Path, use: Callable[[Any], Any]) -> None:
        memory = allocation.map_file(file)
        memory.close()
        with pytest.raises(ValueError, match="the memory has been closed"):
            use(memory)

    @pytest.mark.parametrize(
        "export",
        [
            lambda memory: memory.view,
            lambda memory: memory.view[3:5],
            lambda memory: memoryview(memory.view).cast("B"),
        ],
        ids=["view", "slice", "cast"],
    )
    def test_while_a_view_is_alive_is_refused_and_leaves_the_memory_usable(
        self, export: Callable[[allocation.Memory], memoryview]
    ) -> None:
        memory = allocation.anonymous(PAGE)
        view = export(memory)
        with pytest.raises(BufferError, match="still in use: close its memory regions"):
            memory.close()
        assert not memory.closed
        view[0] = 7
        assert 7 in bytes(memory.view)
        view.release()
        memory.close()
        assert memory.closed

    def test_end_of_a_with_block_closes(self) -> None:
        with allocation.anonymous(PAGE) as memory:
            pass
        assert memory.closed

    def test_end_of_a_with_block_refuses_while_a_view_is_alive(self) -> None:
        with pytest.raises(BufferError), allocation.anonymous(PAGE) as memory:
            view = memory.view
        assert view[0] == 0
        assert not memory.closed

    def test_live_view_does_not_hide_the_error_that_ends_a_with_block(self) -> None:
        memory = allocation.anonymous(PAGE)
        view = memory.view

        def fail() -> None:
            with memory:
                raise KeyError(view[0])

        with pytest.raises(KeyError):
            fail()
        assert not memory.closed
        view.release()
        memory.close()

    def test_dropping_the_memory_keeps_its_views_and_warns_of_nothing(self, file: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for memory in (allocation.anonymous(PAGE), allocation.map_file(file)):
                view, gone = memory.view, weakref.ref(memory)
                del memory
                gc.collect()
                view[0] = 9
                assert view[0] == 9
            assert gone() is None

    def test_dropped_memory_is_unmapped_with_its_last_view(self, file: Path) -> None:
        def mapped() -> bool:
            return str(file) in Path("/proc/self/maps").read_text()

        memory = allocation.map_file(file)
        view = memory.view[:10]
        assert mapped()
        del memory
        assert mapped()
        del view
        assert not mapped()


class TestBuffer:
    def test_memoryview_of_the_memory_is_its_view(self) -> None:
        memory = allocation.anonymous(100)
        if sys.version_info < (3, 12):
            with pytest.raises(TypeError):
                memoryview(memory)
            view = memory.__buffer__(0)  # what Python 3.12 calls
        else:
            view = memoryview(memory)
        view[99] = 5
        assert (view.nbytes, memory.view[99]) == (100, 5)
        with pytest.raises(BufferError):
            memory.close()
        view.release()
        memory.close()

    def test_repr_tells_what_it_is(self, file: Path) -> None:
        with allocation.anonymous(10) as memory:
            assert repr(memory) == (
                f"<rpma.Memory anonymous: 10 bytes, at {memory.address:#x}, pages of {PAGE} bytes>"
            )
        assert repr(memory) == "<rpma.Memory anonymous: 10 bytes, closed>"
        with allocation.map_file(file, 10, dax=False) as memory:
            assert repr(memory).startswith(f"<rpma.Memory file {str(file)!r}: 10 bytes, at 0x")


class TestArray:
    @pytest.fixture(autouse=True)
    def numpy(self) -> Any:
        return pytest.importorskip("numpy")

    def test_is_the_memory_and_no_copy(self) -> None:
        memory = allocation.anonymous(PAGE)
        array = memory.array("<u4")
        assert array.shape == (PAGE // 4,)
        assert array.ctypes.data == memory.address
        assert array.flags.writeable
        array[1] = 0x01020304
        assert bytes(memory.view[4:8]) == b"\x04\x03\x02\x01"

    def test_is_bytes_by_default(self, numpy: Any) -> None:
        array = allocation.anonymous(7).array()
        assert (array.dtype, array.shape) == (numpy.uint8, (7,))

    @pytest.mark.parametrize(
        ("shape", "expected"), [(3, (3,)), ((2, 3), (2, 3)), ((), ()), (0, (0,))]
    )
    def test_shape_may_cover_the_beginning(self, shape: Any, expected: tuple[int, ...]) -> None:
        array = allocation.anonymous(50).array("float64", shape)
        assert array.shape == expected

    def test_keeps_the_memory_open_until_it_goes(self) -> None:
        memory = allocation.anonymous(PAGE)
        array = memory.array()
        with pytest.raises(BufferError):
            memory.close()
        array[0] = 1
        del array
        memory.close()

    def test_outlives_the_memory_object(self) -> None:
        array = allocation.anonymous(PAGE).array()
        gc.collect()
        array[:] = 3
        assert int(array.sum()) == 3 * PAGE

    @pytest.mark.parametrize("shape", [51, (7, 8), (-1, 2), (-1, -1), (1 << 40, 1 << 40)])
    def test_shape_that_does_not_fit_is_named(self, shape: Any) -> None:
        with pytest.raises(ValueError, match=r"shape: .* the memory's 50 bytes"):
            allocation.anonymous(50).array(shape=shape)

    def test_part_of_an_item_at_the_end_is_named(self) -> None:
        with pytest.raises(
            ValueError, match=r"dtype: the memory's 50 bytes are not a whole number"
        ):
            allocation.anonymous(50).array("float64")

    @pytest.mark.parametrize("dtype", ["O", "V0", [("a", "O")]])
    def test_items_that_mean_nothing_to_a_peer_are_refused(self, dtype: Any) -> None:
        with pytest.raises(ValueError, match="cannot lie in registered memory"):
            allocation.anonymous(64).array(dtype)

    def test_wrong_type_of_shape_is_named(self) -> None:
        with pytest.raises(TypeError, match="shape: an int is needed, not float"):
            allocation.anonymous(64).array(shape=2.0)  # type: ignore[arg-type]


class TestNumpyMissing:
    def test_array_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = builtins.__import__

        def without_numpy(name: str, *arguments: Any) -> Any:
            if name == "numpy":
                raise ImportError("No module named 'numpy'")
            return real(name, *arguments)

        with allocation.anonymous(PAGE) as memory:
            monkeypatch.setattr(builtins, "__import__", without_numpy)
            with pytest.raises(ImportError, match=r"pip install 'rpma\[numpy\]'"):
                memory.array()


# ---- populate ------------------------------------------------------------------------------------


def resident_pages(memory: allocation.Memory) -> int:
    """How many of its pages are mapped in this process, by /proc/self/pagemap."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pages = -(-memory.size // PAGE)
        pagemap.seek(memory.address // PAGE * 8)
        entries = memoryview(pagemap.read(pages * 8)).cast("Q")
    return sum(entry >> 63 for entry in entries)


def test_populating_brings_all_pages() -> None:
    with allocation.anonymous(64 * PAGE - 5) as memory:
        assert resident_pages(memory) == 0
        memory.populate()
        assert resident_pages(memory) == 64
        memory.populate()
        assert bytes(memory.view) == bytes(64 * PAGE - 5)


def test_populating_a_file_changes_nothing_in_it(tmp_path: Path) -> None:
    content = os.urandom(5 * PAGE + 17)
    (tmp_path / "file").write_bytes(content)
    with allocation.map_file(tmp_path / "file") as memory:
        memory.populate()
        assert resident_pages(memory) == 6
    assert (tmp_path / "file").read_bytes() == content


def test_populating_a_file_that_has_become_shorter(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8 * PAGE))
    with allocation.map_file(tmp_path / "file") as memory:
        os.truncate(tmp_path / "file", PAGE)
        with pytest.raises(OSError, match="populate") as caught:
            memory.populate()
        assert caught.value.errno == errno.EFAULT
        assert caught.value.filename == str(tmp_path / "file")


def test_populating_what_is_closed() -> None:
    memory = allocation.anonymous(PAGE)
    memory.close()
    with pytest.raises(ValueError, match="closed"):
        memory.populate()
