"""What rpma.pool.target.store promises about a target's directory of pools, crashes included."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rpma.errors import ClosedError
from rpma.pool.protocol.attributes import MAX_SIZE, Attributes
from rpma.pool.protocol.errors import (
    PoolDamagedError,
    PoolError,
    PoolExistsError,
    PoolNameError,
    PoolNotFoundError,
    PoolSizeError,
    PoolSpaceError,
    StorageError,
    TargetError,
)
from rpma.pool.protocol.names import check_name
from rpma.pool.target.header import DATA_OFFSET, MAX_SEQUENCE, SLOT_SIZE, Header, encode, slot_of
from rpma.pool.target.poolfile import PoolFile
from rpma.pool.target.store import Store

PAGE = 4096
ATTRIBUTES = Attributes(signature=b"TEST", major=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pools"
    made.mkdir()
    return made


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store(folder) as opened:
        yield opened


def make(store: Store, name: str = "one", size: int = 3 * PAGE, **more: Any) -> Header:
    """Create a pool and close it."""
    with store.create(name, size, **more) as pool_file:
        return pool_file.header


def write(folder: Path, name: str, data: bytes, offset: int = 0) -> None:
    with open(folder / f"{name}.pool", "r+b") as file:
        file.seek(DATA_OFFSET + offset)
        file.write(data)


def read(folder: Path, name: str, size: int) -> bytes:
    return (folder / f"{name}.pool").read_bytes()[DATA_OFFSET:][:size]


def files(folder: Path) -> set[str]:
    return set(os.listdir(folder)) - {".lock"}


def descriptors() -> set[str]:
    seen = os.listdir("/proc/self/fd")  # through a descriptor that is among them
    return {fd for fd in seen if os.path.lexists(f"/proc/self/fd/{fd}")}


def run(code: str, *arguments: object, before: tuple[str, ...] = ()) -> str:
    """What a Python program prints."""
    done = subprocess.run(
        [*before, sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CHANGES = (
    "open",
    "posix_fallocate",
    "pwrite",
    "ftruncate",
    "fsync",
    "fdatasync",
    "link",
    "rename",
    "unlink",
)
"""The system calls of the store that change something."""


def spy(monkeypatch: pytest.MonkeyPatch, on_call: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Have `on_call` see, and perhaps prevent, each of the CHANGES."""

    def wrap(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            on_call(name, arguments)
            return real(*arguments, **keywords)

        return call

    for name in CHANGES:
        monkeypatch.setattr(os, name, wrap(name))


def crash_everywhere(folder: Path, act: Callable[[Store], object]) -> Iterator[int]:
    """Run `act` in children that die before their 1st, 2nd, ... change; a step after each, up to
    the first child that lives to the end of it.
    """
    for step in range(1, 100):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
            child = os.fork()
        if child == 0:
            left = step

            def count(*_: object) -> None:
                nonlocal left
                left -= 1
                if left == 0:
                    os._exit(7)

            try:
                taken = Store(folder)
                spy(pytest.MonkeyPatch(), count)
                act(taken)
            except BaseException:
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 7), "the child has failed"
        yield step
        if code == 0:
            return
    pytest.fail("the child never came to its end")


class TestNames:
    @pytest.mark.parametrize("name", ["a", "0", "A.b_c-d", "x..y", "a" * 128, "one.pool"])
    def test_can_be(self, name: str) -> None:
        assert check_name(name) == name

    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            ".hidden",
            "-rf",
            "_a",
            "a/b",
            "/a",
            "../a",
            "a\\b",
            "a\0",
            "a\n",
            "\na",
            "a b",
            "é",
            "٣",
            "\u212a",
            "\ud800",
            "a" * 129,
            "a" * 1_000_000,
        ],
    )
    def test_cannot_be(self, name: str) -> None:
        with pytest.raises(PoolNameError, match="use 1 to 128 ASCII letters, digits") as caught:
            check_name(name)
        assert len(str(caught.value)) < 2000
        assert isinstance(caught.value, ValueError)

    @pytest.mark.parametrize("name", [None, 1, b"a", Path("a")])
    def test_wrong_type_is_named(self, name: Any) -> None:
        with pytest.raises(TypeError, match=f"name: a str is needed, not {type(name).__name__}"):
            check_name(name)

    @settings(max_examples=1000)
    @given(st.text() | st.text("./a-_\0\n\\~A0", max_size=12))
    @example("..")
    @example("a/../../b")
    def test_no_text_leads_out_of_the_directory(self, name: str) -> None:
        try:
            check_name(name)
        except PoolNameError:
            return
        path = os.path.join("/the/directory", name + ".pool")
        assert os.path.normpath(path) == path
        assert os.path.dirname(path) == "/the/directory"
        assert len(os.fsencode(name)) == len(name) <= 128
        assert not name.startswith((".", "-"))

    @settings(
        max_examples=30,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z") | st.text("./a-_\0", max_size=5))
    def test_what_is_accepted_is_a_plain_file_of_the_directory(
        self, folder: Path, store: Store, name: str
    ) -> None:
        around = set(os.listdir(folder.parent))
        try:
            make(store, name, 1)
        except PoolNameError:
            assert not files(folder)
        else:
            assert files(folder) == {f"{name}.pool"}
            assert (folder / f"{name}.pool").is_file()
            store.remove(name)
        assert set(os.listdir(folder.parent)) == around

    @pytest.mark.parametrize("method", ["create", "open", "resize", "remove"])
    @pytest.mark.parametrize("name", ["../one", ".lock", "", "a/b"])
    def test_every_method_checks_them(self, store: Store, method: str, name: str) -> None:
        arguments = (1,) if method in ("create", "resize") else ()
        with pytest.raises(PoolNameError):
            getattr(store, method)(name, *arguments)


class TestDirectory:
    def test_one_that_is_missing_is_named(self, tmp_path: Path) -> None:
        before = descriptors()
        with pytest.raises(TargetError, match="missing': No such file or directory"):
            Store(tmp_path / "missing")
        assert descriptors() == before

    def test_a_file_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(TargetError, match="file': Not a directory"):
            Store(str(tmp_path / "file"))

    def test_bytes_are_no_path(self) -> None:
        with pytest.raises(TypeError, match="directory: a str or a path is needed, not bytes"):
            Store(b".")  # type: ignore[arg-type]

    def test_a_lock_that_is_a_link_is_refused(self, folder: Path) -> None:
        (folder / ".lock").symlink_to(folder.parent / "elsewhere")
        with pytest.raises(TargetError, match="symbolic links"):
            Store(folder)
        assert not (folder.parent / "elsewhere").exists()

    def test_is_known_by_its_absolute_path(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder.parent)
        with Store("pools") as store:
            assert store.directory == str(folder)
            monkeypatch.chdir("/")
            with store.create("one", 1) as pool_file:
                assert pool_file.path == str(folder / "one.pool")

    def test_is_followed_when_it_is_moved(self, folder: Path, store: Store) -> None:
        folder.rename(folder.parent / "moved")
        make(store)
        assert files(folder.parent / "moved") == {"one.pool"}

    def test_a_second_store_of_this_process_is_refused(self, folder: Path, store: Store) -> None:
        before = descriptors()
        with pytest.raises(TargetError, match="another target has it") as caught:
            Store(folder)
        assert str(folder) in str(caught.value)
        assert descriptors() == before
        make(store)  # and the first one goes on
        with pytest.raises(TargetError):
            Store(folder)

    def test_a_store_of_another_process_is_refused_until_it_ends(self, folder: Path) -> None:
        code = (
            "import sys; from rpma.pool.target.store import Store; s = Store(sys.argv[1]);"
            "print('ready', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other:
            try:
                assert other.stdout is not None
                assert other.stdout.readline() == b"ready\n"
                with pytest.raises(TargetError, match="another target has it"):
                    Store(folder)
            finally:
                other.kill()
            other.wait()
            Store(folder).close()

    def test_close_lets_the_next_one_in_although_a_child_lives(self, folder: Path) -> None:
        store = Store(folder)
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
            child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
        os.close(reading)
        store.close()
        Store(folder).close()
        os.close(writing)
        os.waitpid(child, 0)

    def test_close_in_a_child_leaves_the_parent_its_lock(self, folder: Path, store: Store) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
            child = os.fork()
        if child == 0:
            store.close()
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(TargetError, match="another target has it"):
            Store(folder)

    def test_leftovers_of_creations_go_and_nothing_else(self, folder: Path) -> None:
        kept = {
            ".one.new",
            ".one.0123456789abcde.new",
            ".one.0123456789ABCDEF.new",
            "one.0123456789abcdef.new",
            ".one.0123456789abcdef.new.txt",
            ".-.0123456789abcdef.new",
            "one.pool",
        }
        gone = {".one.0123456789abcdef.new", ".a.b-c.fedcba9876543210.new"}
        for name in kept | gone:
            (folder / name).touch()
        (folder / ".dir.0123456789abcdef.new").mkdir()
        Store(folder).close()
        assert files(folder) == kept | {".dir.0123456789abcdef.new"}

    def test_leftovers_stay_while_another_target_has_the_directory(
        self, folder: Path, store: Store
    ) -> None:
        (folder / ".one.0123456789abcdef.new").touch()
        with pytest.raises(TargetError):
            Store(folder)
        assert files(folder) == {".one.0123456789abcdef.new"}
        assert not store.closed

    def test_close_is_idempotent_and_ends_all_use(self, folder: Path) -> None:
        before = descriptors()
        store = Store(folder)
        pool_file = store.create("one", 1)
        store.close()
        store.close()
        assert store.closed
        for use in (
            lambda: store.create("two", 1),
            lambda: store.open("one"),
            lambda: store.resize("one", 1),
            lambda: store.remove("one"),
            store.list,
            store.__enter__,
        ):
            with pytest.raises(ClosedError, match="the store has been closed"):
                use()
        store.update(pool_file, content_length=1)  # what is open stays open
        pool_file.close()
        assert descriptors() == before

    def test_dropping_it_open_warns(self, folder: Path) -> None:
        store = Store(folder)
        with pytest.warns(ResourceWarning, match="Store .* was not closed"):
            del store
        Store(folder).close()

    def test_descriptors_do_not_pass_exec(self, store: Store) -> None:
        before = descriptors()
        with store.create("one", 1) as created, store.open("one") as opened:
            new = {int(fd) for fd in descriptors() - before}
            assert new == {created.fd, opened.fd}
            for fd in new:
                assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        own = (store._fd, store._lock_fd)
        assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in own)

    def test_reprs(self, folder: Path) -> None:
        store = Store(folder)
        pool_file = store.create("one", 5)
        assert repr(store) == f"<rpma.Store {str(folder)!r}>"
        assert repr(pool_file) == "<rpma.PoolFile 'one': 5 bytes>"
        pool_file.close()
        store.close()
        assert repr(store) == f"<rpma.Store {str(folder)!r} (closed)>"
        assert repr(pool_file) == "<rpma.PoolFile 'one': 5 bytes (closed)>"


class TestCreate:
    @pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, PAGE + 1, 100_000])
    def test_makes_zeros_in_whole_allocated_pages(
        self, folder: Path, store: Store, size: int
    ) -> None:
        make(store, size=size)
        path = folder / "one.pool"
        pages = -(-size // PAGE)
        assert path.stat().st_size == DATA_OFFSET + pages * PAGE
        assert path.stat().st_blocks * 512 >= path.stat().st_size
        assert path.stat().st_mode & 0o7777 == 0o600
        assert path.stat().st_nlink == 1
        assert read(folder, "one", pages * PAGE) == bytes(pages * PAGE)
        assert files(folder) == {"one.pool"}

    def test_gives_the_open_pool(self, folder: Path, store: Store) -> None:
        with store.create("one", 1000, ATTRIBUTES, content_length=10) as pool_file:
            assert pool_file.name == "one"
            assert pool_file.path == str(folder / "one.pool")
            assert os.path.samestat(os.fstat(pool_file.fd), os.stat(pool_file.path))
            header = pool_file.header
            os.pwrite(pool_file.fd, b"data", DATA_OFFSET)
        assert (header.size, header.attributes, header.content_length) == (1000, ATTRIBUTES, 10)
        assert header.created > 10**18
        assert read(folder, "one", 4) == b"data"
        with store.open("one") as pool_file:
            assert pool_file.header == header

    def test_writes_both_copies_of_the_header(self, folder: Path, store: Store) -> None:
        header = make(store)
        data = (folder / "one.pool").read_bytes()
        first = dataclasses.replace(header, sequence=1)
        assert header.sequence == 2
        assert data[:DATA_OFFSET] == encode(first) + encode(header)

    def test_every_pool_has_its_own_id(self, store: Store) -> None:
        ids = {make(store, name).pool_id for name in "abc"}
        assert len(ids) == 3
        assert uuid.UUID(int=0) not in ids

    @pytest.mark.parametrize("size", [0, -1, MAX_SIZE + 1, 1 << 64, 1 << 200])
    def test_refuses_a_size_that_cannot_be(self, folder: Path, store: Store, size: int) -> None:
        with pytest.raises(PoolSizeError, match=r"^size: .* use 1 to"):
            store.create("one", size)
        assert not files(folder)

    def test_refuses_other_arguments_that_cannot_be(self, folder: Path, store: Store) -> None:
        with pytest.raises(PoolSizeError, match=r"^content_length: 11"):
            store.create("one", 10, content_length=11)
        with pytest.raises(TypeError, match="size: an int is needed, not str"):
            store.create("one", "10")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="attributes: an Attributes is needed, not dict"):
            store.create("one", 10, {})  # type: ignore[arg-type]
        assert not files(folder)

    def test_never_replaces_a_pool(self, folder: Path, store: Store) -> None:
        make(store)
        before = (folder / "one.pool").read_bytes()
        with pytest.raises(PoolExistsError, match="create the pool 'one': there is one") as caught:
            store.create("one", 10)
        assert isinstance(caught.value, FileExistsError)
        assert (folder / "one.pool").read_bytes() == before
        assert files(folder) == {"one.pool"}

    @pytest.mark.parametrize("kind", ["directory", "dangling link", "empty file"])
    def test_never_replaces_anything(self, folder: Path, store: Store, kind: str) -> None:
        path = folder / "one.pool"
        if kind == "directory":
            path.mkdir()
        elif kind == "dangling link":
            path.symlink_to("nowhere")
        else:
            path.touch()
        with pytest.raises(PoolExistsError):
            store.create("one", 10)
        assert files(folder) == {"one.pool"}

    def test_never_replaces_a_pool_made_meanwhile(
        self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def meanwhile(name: str, _: object) -> None:
            if name == "link":
                (folder / "one.pool").write_text("the other one")

        spy(monkeypatch, meanwhile)
        with pytest.raises(PoolExistsError):
            store.create("one", 10)
        assert files(folder) == {"one.pool"}
        assert (folder / "one.pool").read_text() == "the other one"

    def test_of_one_name_by_many_threads_makes_one(self, folder: Path, store: Store) -> None:
        made: list[PoolFile] = []
        refused: list[PoolExistsError] = []
        barrier = threading.Barrier(8)

        def create() -> None:
            barrier.wait()
            try:
                made.append(store.create("one", 10))
            except PoolExistsError as error:
                refused.append(error)

        threads = [threading.Thread(target=create) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for pool_file in made:
            pool_file.close()
        assert (len(made), len(refused)) == (1, 7)
        assert files(folder) == {"one.pool"}

    @pytest.mark.parametrize(
        ("number", "kind"),
        [
            (errno.EIO, StorageError),
            (errno.ENOSPC, PoolSpaceError),
            (errno.EDQUOT, PoolSpaceError),
            (errno.EMFILE, TargetError),
            (errno.EACCES, TargetError),
        ],
    )
    def test_leaves_nothing_behind_whatever_fails(
        self,
        folder: Path,
        store: Store,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        kind: type[PoolError],
    ) -> None:
        calls: list[str] = []
        with monkeypatch.context() as patch:
            spy(patch, lambda name, _: calls.append(name))
            make(store, "whole")
        store.remove("whole")
        assert calls == [
            "open",
            "posix_fallocate",
            "pwrite",
            "fsync",
            "link",
            "unlink",
            "fsync",
        ]
        before = descriptors()
        for failing in range(len(calls)):
            left = failing

            def fail(*_: object) -> None:
                nonlocal left
                left -= 1
                if left == -1:
                    raise OSError(number, os.strerror(number))

            with monkeypatch.context() as patch:
                spy(patch, fail)
                with pytest.raises(kind, match=f"create the pool 'one': {os.strerror(number)}"):
                    store.create("one", 10)
            assert not files(folder)
            assert descriptors() == before

    def test_says_so_when_it_cannot_but_leave_something_behind(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unlinked: list[str] = []

        def fail(name: str, arguments: tuple[Any, ...]) -> None:
            if name == "unlink":
                unlinked.append(arguments[0])
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        with monkeypatch.context() as patch:
            spy(patch, fail)
            with pytest.raises(
                TargetError, match=r"create .*; and .* could not be undone: .*remov"
            ):
                store.create("one", 10)
        assert "one.pool" in unlinked[1:]
        assert [listed.name for listed in store.list()] == ["one"]

    def test_leaves_nothing_behind_when_it_is_interrupted(
        self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(name: str, _: object) -> None:
            if name == "fsync":
                raise KeyboardInterrupt

        before = descriptors()
        spy(monkeypatch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.create("one", 10)
        assert not files(folder)
        assert descriptors() == before

    def test_a_write_that_takes_less_is_gone_on_with(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = os.pwrite
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data[:1000]), at))
            header = make(store)
        with store.open("one") as pool_file:
            assert pool_file.header == header

    def test_a_file_system_that_cannot_sync_directories_will_do(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(name: str, arguments: tuple[Any, ...]) -> None:
            if name == "fsync" and arguments[0] == store._fd:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        with monkeypatch.context() as patch:
            spy(patch, refuse)
            make(store)
            store.remove("one")

    def test_a_crash_leaves_no_pool_or_the_whole_one(self, folder: Path) -> None:
        states = []
        for _ in crash_everywhere(folder, lambda store: make(store, size=PAGE)):
            with Store(folder) as store:
                assert files(folder) <= {"one.pool"}
                states.append(bool(files(folder)))
                if states[-1]:
                    with store.open("one") as pool_file:
                        assert pool_file.header.size == PAGE
                    store.remove("one")
        assert states == [False] * 5 + [True] * 3


class TestSpace:
    LIMITED = (
        "import resource, sys; from rpma.pool.target.store import Store\n"
        "from rpma.pool.protocol.errors import PoolSpaceError\n"
        "store = Store(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
    )

    def test_file_too_large_is_no_space(self, folder: Path) -> None:
        code = self.LIMITED + (
            "try: store.create('one', 200_000)\n"
            "except PoolSpaceError as error: print(error, error.errno)\n"
            "store.create('two', 50_000).close()\n"
            "store.close()\n"
        )
        printed = run(code, folder)
        assert "create the pool 'one': File too large: 204 KiB (208896 bytes) asked" in printed
        assert " free " in printed
        assert printed.strip().endswith(str(errno.ENOSPC))
        assert files(folder) == {"two.pool"}

    def test_growth_that_fails_leaves_the_pool_as_it_was(self, folder: Path, store: Store) -> None:
        header = make(store, size=50_000)
        write(folder, "one", b"x" * 50_000)
        before = (folder / "one.pool").read_bytes()
        store.close()
        code = self.LIMITED + (
            "try: store.resize('one', 200_000)\n"
            "except PoolSpaceError as error: print(error)\n"
            "store.close()\n"
        )
        assert "resize the pool 'one': File too large: " in run(code, folder)
        assert (folder / "one.pool").read_bytes() == before
        with Store(folder) as again, again.open("one") as pool_file:
            assert pool_file.header == header

    def test_a_hopeless_request_is_refused_before_it_takes_any(
        self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        info = os.statvfs(folder)
        if info.f_bfree * info.f_frsize >= MAX_SIZE or info.f_blocks == 0:
            pytest.skip("there is room for every pool here")
        header = make(store)
        spy(monkeypatch, lambda name, _: calls.append(name))
        with pytest.raises(PoolSpaceError, match=r"No space left .* 256 TiB \(\d+ bytes\) asked"):
            store.create("two", MAX_SIZE)
        with pytest.raises(PoolSpaceError, match="cannot resize the pool 'one': No space left"):
            store.resize("one", MAX_SIZE)
        assert "posix_fallocate" not in calls
        assert files(folder) == {"one.pool"}
        with store.open("one") as pool_file:
            assert pool_file.header == header

    FULL = """
import os, subprocess, sys
from rpma.pool.protocol.errors import PoolSpaceError
from rpma.pool.target.store import Store
folder = sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], check=True)
real = os.fstatvfs
with Store(folder) as store:
    for surprise in (False, True):
        if surprise:  # the space goes between the look and the allocation
            os.fstatvfs = lambda fd: os.statvfs("/proc")
        try:
            store.create("large", 2 << 20)
        except PoolSpaceError as error:
            print(error)
        assert os.listdir(folder) == [".lock"], os.listdir(folder)
        assert os.statvfs(folder).f_bfree * os.statvfs(folder).f_frsize == 1 << 20
        store.create("small", 512 << 10).close()
        before = open(folder + "/small.pool", "rb").read()
        try:
            store.resize("small", 2 << 20)
        except PoolSpaceError as error:
            print(error)
        assert open(folder + "/small.pool", "rb").read() == before
        assert store.list()[0].allocated == 8192 + (512 << 10)
        store.resize("small", 900 << 10)
        store.remove("small")
        os.fstatvfs = real
"""

    def test_full_disk(self, folder: Path) -> None:
        unshare = shutil.which("unshare")
        if unshare is None or shutil.which("mount") is None:
            pytest.skip("a small file system takes unshare(1) and mount(8)")
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
        tried = subprocess.run([unshare, "-rm", *mount], capture_output=True, check=False)
        if tried.returncode != 0:
            pytest.skip(f"mounting a tmpfs is not allowed here: {tried.stderr.decode().strip()}")
        lines = run(self.FULL, folder, before=(unshare, "-rm")).splitlines()
        assert len(lines) == 4
        assert "create the pool 'large': No space left on device: 2.01 MiB" in lines[0]
        assert "1 MiB (1048576 bytes) free" in lines[0]
        assert "resize the pool 'small': No space left on device: 1.5 MiB" in lines[1]
        assert "No space left on device" in lines[2]
        assert "No space left on device" in lines[3]


class TestOpen:
    def test_missing(self, folder: Path, store: Store) -> None:
        with pytest.raises(PoolNotFoundError, match=r"no pool 'one'$") as caught:
            store.open("one")
        assert isinstance(caught.value, FileNotFoundError)
        assert caught.value.where == str(folder)

    @pytest.mark.parametrize(
        "kind", ["symbolic link", "dangling link", "directory", "fifo", "socket", "device"]
    )
    def test_what_is_no_regular_file_is_refused(
        self, folder: Path, store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, before = folder / "one.pool", descriptors()
        if kind == "symbolic link":
            make(store, "two")
            path.symlink_to("two.pool")
        elif kind == "dangling link":
            path.symlink_to("nowhere")
        elif kind == "directory":
            path.mkdir()
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            monkeypatch.chdir(folder)  # the path of a socket has to be short
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind("one.pool")
        else:
            try:
                os.mknod(path, 0o20600, os.stat("/dev/null").st_rdev)
            except PermissionError:
                pytest.skip("making a device takes root")
        with pytest.raises(PoolDamagedError, match=r"'one' is damaged: it is not a regular file"):
            store.open("one")
        listed = {one.name: one for one in store.list()}["one"]
        assert "not a regular file" in listed.problem
        assert listed.header is None
        assert descriptors() == before

    @pytest.mark.parametrize("kind", ["symbolic link", "fifo", "directory"])
    def test_what_takes_the_place_of_a_file_at_the_last_moment_is_refused(
        self, folder: Path, store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = folder / "one.pool"
        make(store, "two")

        def swap(name: str, arguments: tuple[Any, ...]) -> None:
            if name == "open" and arguments[0] == path.name:
                os.remove(path)
                if kind == "symbolic link":
                    path.symlink_to("two.pool")
                elif kind == "fifo":
                    os.mkfifo(path)
                else:
                    path.mkdir()

        make(store, "one")
        with monkeypatch.context() as patch:
            spy(patch, swap)
            with pytest.raises(PoolDamagedError, match="it is not a regular file"):
                store.open("one")
        assert not path.is_file() or path.is_symlink()
        (path.rmdir if kind == "directory" else path.unlink)()
        make(store, "one")
        with monkeypatch.context() as patch:
            spy(patch, swap)
            assert [bool(one.problem) for one in store.list()] == [True, False]

    def test_damage_names_the_pool_and_the_path(self, folder: Path, store: Store) -> None:
        make(store)
        with open(folder / "one.pool", "r+b") as file:
            file.write(bytes(DATA_OFFSET))
        before = descriptors()
        with pytest.raises(PoolDamagedError) as caught:
            store.open("one")
        assert str(caught.value) == (
            "the pool 'one' is damaged: neither copy of its header is valid; the first: it is "
            "empty; the second: it is empty"
        )
        assert caught.value.in_full == f"{caught.value} ({folder / 'one.pool'})"
        assert caught.value.errno == errno.EIO
        assert descriptors() == before

    @pytest.mark.parametrize("length", [0, 1, SLOT_SIZE, DATA_OFFSET - 1])
    def test_a_file_without_room_for_a_header(
        self, folder: Path, store: Store, length: int
    ) -> None:
        make(store)
        os.truncate(folder / "one.pool", length)
        with pytest.raises(
            PoolDamagedError, match=f"has {length} bytes, and the header alone takes 8192"
        ):
            store.open("one")

    def test_a_file_that_was_cut(self, folder: Path, store: Store) -> None:
        header = make(store, size=PAGE + 1)
        path = folder / "one.pool"
        os.truncate(path, DATA_OFFSET + PAGE + 1)  # all of the data, if not whole pages
        with store.open("one") as pool_file:
            assert pool_file.header == header
        os.truncate(path, DATA_OFFSET + PAGE)
        with pytest.raises(PoolDamagedError, match=r"has 12288 bytes, .* asks for 12289"):
            store.open("one")

    def test_a_file_that_is_longer_will_do(self, folder: Path, store: Store) -> None:
        make(store, size=PAGE)
        os.truncate(folder / "one.pool", 1 << 20)
        with store.open("one") as pool_file:
            assert pool_file.header.size == PAGE

    @pytest.mark.parametrize("slot", [0, 1])
    def test_one_damaged_copy_of_the_header_will_do(
        self, folder: Path, store: Store, slot: int
    ) -> None:
        header = make(store)
        with open(folder / "one.pool", "r+b") as file:
            file.seek(slot * SLOT_SIZE)
            file.write(b"\xff" * SLOT_SIZE)
        with store.open("one") as pool_file:
            assert pool_file.header == dataclasses.replace(header, sequence=2 - slot)
            store.update(pool_file, content_length=5)
            new = pool_file.header
        with store.open("one") as pool_file:
            assert pool_file.header == new
            assert new.content_length == 5

    def test_a_file_that_may_not_be_opened(self, store: Store) -> None:
        make(store)
        with pytest.MonkeyPatch.context() as patch:

            def refuse(name: str, _: object) -> None:
                if name == "open":
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

            spy(patch, refuse)
            with pytest.raises(TargetError, match="open the pool 'one': Permission denied"):
                store.open("one")
            listed = store.list()
        assert "Permission denied" in listed[0].problem
        assert listed[0].allocated > 0

    @settings(
        max_examples=50,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        seed=st.integers(0),
        length=st.integers(0, 3 * SLOT_SIZE) | st.integers(DATA_OFFSET, 9000),
        start=st.binary(max_size=200),
    )
    def test_arbitrary_files_are_damage(
        self, folder: Path, store: Store, seed: int, length: int, start: bytes
    ) -> None:
        # Drawn by Hypothesis, so many bytes are too slow for its health checks on a busy machine.
        content = (start + random.Random(seed).randbytes(length))[:length]
        (folder / "one.pool").write_bytes(content)
        with pytest.raises(PoolDamagedError, match="the pool 'one'"):
            store.open("one")
        assert [bool(one.problem) for one in store.list()] == [True]


class TestPoolFile:
    def test_close_is_idempotent_and_ends_all_use(self, store: Store) -> None:
        make(store)
        pool_file = store.open("one")
        assert not pool_file.closed
        pool_file.close()
        pool_file.close()
        assert pool_file.closed
        assert (pool_file.name, pool_file.header.size) == ("one", 3 * PAGE)
        for use in (
            lambda: pool_file.fd,
            pool_file.__enter__,
            lambda: store.update(pool_file, content_length=1),
        ):
            with pytest.raises(ClosedError, match="the pool's file has been closed"):
                use()

    def test_dropping_it_open_warns(self, store: Store) -> None:
        before = descriptors()
        pool_file = store.create("one", 1)
        with pytest.warns(ResourceWarning, match="PoolFile 'one': 1 bytes> was not closed"):
            del pool_file
        assert descriptors() == before


class TestUpdate:
    def test_changes_what_is_given(self, store: Store) -> None:
        header = make(store, attributes=ATTRIBUTES, content_length=7)
        with store.open("one") as pool_file:
            new = store.update(pool_file, content_length=8)
            assert new == dataclasses.replace(header, content_length=8, sequence=3)
            assert pool_file.header == new
            other = Attributes(major=9)
            new = store.update(pool_file, attributes=other)
            assert (new.attributes, new.content_length, new.sequence) == (other, 8, 4)
            new = store.update(pool_file, content_length=None, size=100)
            assert (new.attributes, new.content_length, new.size) == (other, None, 100)
        with store.open("one") as pool_file:
            assert pool_file.header == new

    def test_of_a_file_that_has_become_shorter_is_refused(self, folder: Path, store: Store) -> None:
        with store.create("one", 2 * PAGE) as pool_file:
            os.truncate(folder / "one.pool", DATA_OFFSET + PAGE)
            before = (folder / "one.pool").read_bytes()
            with pytest.raises(PoolDamagedError, match="its header asks for"):
                store.update(pool_file, content_length=1)
        assert (folder / "one.pool").read_bytes() == before

    def test_writes_only_the_slot_that_is_not_in_use(self, folder: Path, store: Store) -> None:
        make(store)
        write(folder, "one", b"data" * 1000)
        with store.open("one") as pool_file:
            for length in range(5):
                before = (folder / "one.pool").read_bytes()
                in_use = slot_of(pool_file.header.sequence) * SLOT_SIZE
                store.update(pool_file, content_length=length)
                after = (folder / "one.pool").read_bytes()
                assert after[in_use:][:SLOT_SIZE] == before[in_use:][:SLOT_SIZE]
                assert after[DATA_OFFSET:] == before[DATA_OFFSET:]
                assert after != before

    def test_is_durable_when_it_returns(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        with store.create("one", 1) as pool_file, monkeypatch.context() as patch:
            spy(patch, lambda name, _: calls.append(name))
            store.update(pool_file, content_length=1)
        assert calls == ["pwrite", "fdatasync"]

    def test_a_torn_write_of_any_length_gives_the_old_or_the_new_header(
        self, folder: Path, store: Store
    ) -> None:
        path = folder / "one.pool"
        with store.create("one", PAGE, content_length=0) as pool_file:
            for length in (1, 2):  # the new header in either slot
                before, old = path.read_bytes(), pool_file.header
                new = store.update(pool_file, content_length=length)
                after = path.read_bytes()
                offset = slot_of(new.sequence) * SLOT_SIZE
                seen = set()
                with open(path, "r+b", buffering=0) as file:
                    for torn in range(SLOT_SIZE + 1):
                        file.seek(0)
                        file.write(before[:offset] + after[offset : offset + torn])
                        file.write(before[offset + torn : DATA_OFFSET])
                        with store.open("one") as reopened:
                            assert reopened.header in (old, new)
                            seen.add(reopened.header)
                assert seen == {old, new}

    @settings(
        max_examples=100,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(st.sampled_from(["old", "new", "lost"]), min_size=8, max_size=8))
    def test_sectors_written_in_any_order_give_the_old_or_the_new_header(
        self, folder: Path, store: Store, sectors: list[str]
    ) -> None:
        old = make(store, f"p{uuid.uuid4().hex}", PAGE, content_length=0)
        (name,) = (one.name for one in store.list())
        path = folder / f"{name}.pool"
        before = path.read_bytes()
        with store.open(name) as pool_file:
            new = store.update(pool_file, content_length=1)
        after = path.read_bytes()
        slot = slot_of(new.sequence) * SLOT_SIZE
        mixed = bytearray(before)
        for number, kind in enumerate(sectors):
            at = slice(slot + number * 512, slot + (number + 1) * 512)
            mixed[at] = {"old": before[at], "new": after[at], "lost": b"\xa5" * 512}[kind]
        path.write_bytes(mixed)
        with store.open(name) as pool_file:
            assert pool_file.header in (old, new)
            again = store.update(pool_file, content_length=2)
        with store.open(name) as pool_file:
            assert pool_file.header == again
        store.remove(name)

    def test_a_crash_leaves_the_old_or_the_new_header(self, folder: Path) -> None:
        with Store(folder) as store:
            make(store, content_length=0)

        def update(store: Store) -> None:
            with store.open("one") as pool_file:
                store.update(pool_file, content_length=1)

        seen = []
        for _ in crash_everywhere(folder, update):
            with Store(folder) as store, store.open("one") as pool_file:
                seen.append(pool_file.header.content_length)
        assert seen == [0, 0, 1, 1]  # before open, pwrite, fdatasync, the end

    @pytest.mark.parametrize("failing", ["pwrite", "fdatasync"])
    def test_a_failure_leaves_the_old_header_in_use(
        self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch, failing: str
    ) -> None:
        with store.create("one", PAGE) as pool_file:
            old, before = pool_file.header, (folder / "one.pool").read_bytes()
            failed = []

            def fail(name: str, _: object) -> None:
                if name == failing and not failed:
                    failed.append(name)
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

            with monkeypatch.context() as patch:
                spy(patch, fail)
                with pytest.raises(StorageError, match="header of the pool 'one': Input/output"):
                    store.update(pool_file, content_length=1)
            assert pool_file.header == old
            assert (folder / "one.pool").read_bytes() == before
            new = store.update(pool_file, content_length=2)
            assert new.sequence == old.sequence + 1

    def test_through_two_objects_does_not_lose_either(self, store: Store) -> None:
        make(store)
        with store.open("one") as first, store.open("one") as second:
            store.update(first, content_length=1)
            new = store.update(second, attributes=ATTRIBUTES)
        assert (new.content_length, new.attributes, new.sequence) == (1, ATTRIBUTES, 4)

    def test_by_many_threads_counts_them_all(self, store: Store) -> None:
        with store.create("one", 1000) as pool_file:
            threads = [
                threading.Thread(
                    target=lambda: [store.update(pool_file, content_length=n) for n in range(5)]
                )
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        with store.open("one") as pool_file:
            assert pool_file.header.sequence == 2 + 20

    def test_refuses_what_cannot_be(self, folder: Path, store: Store) -> None:
        with store.create("one", 100) as pool_file:
            before = (folder / "one.pool").read_bytes()
            for fields, kind, message in (
                ({"content_length": 101}, PoolSizeError, "content_length: 101"),
                ({"size": 0}, PoolSizeError, "size: 0"),
                ({"size": PAGE + 1}, PoolSizeError, "has room for 4096; resize it"),
                ({"attributes": {}}, TypeError, "attributes: "),
            ):
                with pytest.raises(kind, match=message):
                    store.update(pool_file, **fields)  # type: ignore[arg-type]
            assert (folder / "one.pool").read_bytes() == before

    def test_of_a_damaged_file(self, folder: Path, store: Store) -> None:
        with store.create("one", 100) as pool_file:
            with open(folder / "one.pool", "r+b") as file:
                file.write(bytes(DATA_OFFSET))
            with pytest.raises(PoolDamagedError, match="the pool 'one'"):
                store.update(pool_file, content_length=1)

    def test_after_the_last_number(self, store: Store) -> None:
        with store.create("one", 100) as pool_file:
            last = dataclasses.replace(pool_file.header, sequence=MAX_SEQUENCE)
            os.pwrite(pool_file.fd, encode(last), slot_of(MAX_SEQUENCE) * SLOT_SIZE)
            with pytest.raises(PoolDamagedError, match="no number is left"):
                store.update(pool_file, content_length=1)


class TestResize:
    @pytest.mark.parametrize(
        ("old", "new"),
        [(1, 2), (1, PAGE), (PAGE, PAGE + 1), (100, 5 * PAGE), (5 * PAGE, 100), (7, 7), (2, 1)],
    )
    def test_keeps_the_data_that_fits_and_adds_zeros(
        self, folder: Path, store: Store, old: int, new: int
    ) -> None:
        before = make(store, size=old, attributes=ATTRIBUTES)
        write(folder, "one", b"x" * old)
        header = store.resize("one", new)
        assert header == dataclasses.replace(
            before, size=new, sequence=before.sequence + (old != new)
        )
        assert read(folder, "one", new) == b"x" * min(old, new) + bytes(max(new - old, 0))
        info = (folder / "one.pool").stat()
        assert info.st_size == DATA_OFFSET + -(-new // PAGE) * PAGE
        assert info.st_blocks * 512 >= info.st_size
        with store.open("one") as pool_file:
            assert pool_file.header == header

    def test_what_was_cut_off_does_not_come_back(self, folder: Path, store: Store) -> None:
        make(store, size=2 * PAGE)
        write(folder, "one", b"secret--" * PAGE)  # beyond the end, too
        store.resize("one", 10)
        store.resize("one", 3 * PAGE)
        assert read(folder, "one", 3 * PAGE) == b"secret--se" + bytes(3 * PAGE - 10)

    @pytest.mark.parametrize("new", [11, PAGE, 3 * PAGE, (2 << 20) + 5, 4 << 20])
    def test_what_a_crash_left_beyond_the_end_does_not_come_back(
        self, folder: Path, store: Store, new: int
    ) -> None:
        make(store, size=10)
        write(folder, "one", b"x" * (3 << 20))
        header = store.resize("one", new)
        assert header.size == new
        assert read(folder, "one", 4 << 20) == (b"x" * 10 + bytes(-(-new // PAGE) * PAGE - 10))

    def test_the_same_size_gives_back_what_a_crash_left(self, folder: Path, store: Store) -> None:
        header = make(store, size=10)
        write(folder, "one", b"x" * (1 << 20))
        assert store.resize("one", 10) == header
        assert (folder / "one.pool").stat().st_size == DATA_OFFSET + PAGE

    @pytest.mark.parametrize(
        ("length", "new", "expected"),
        [(None, 50, None), (100, 50, 50), (50, 50, 50), (49, 50, 49), (100, 200, 100), (0, 1, 0)],
    )
    def test_lowers_the_content_length(
        self, store: Store, length: int | None, new: int, expected: int | None
    ) -> None:
        make(store, size=100, content_length=length)
        assert store.resize("one", new).content_length == expected

    @pytest.mark.parametrize("size", [0, -1, MAX_SIZE + 1])
    def test_refuses_a_size_that_cannot_be(self, store: Store, size: int) -> None:
        make(store)
        with pytest.raises(PoolSizeError, match=r"^size: "):
            store.resize("one", size)

    def test_missing_and_damaged(self, folder: Path, store: Store) -> None:
        with pytest.raises(PoolNotFoundError):
            store.resize("one", 1)
        (folder / "one.pool").touch()
        with pytest.raises(PoolDamagedError):
            store.resize("one", 1)

    def test_growing_syncs_the_bytes_before_it_writes_the_header(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(store, size=10)
        calls: list[tuple[str, object]] = []
        with monkeypatch.context() as patch:
            spy(patch, lambda name, arguments: calls.append((name, arguments[-1])))
            store.resize("one", 2 * PAGE)
        assert calls[1:3] == [
            ("posix_fallocate", DATA_OFFSET + 2 * PAGE),
            ("pwrite", DATA_OFFSET + 10),
        ]
        assert [name for name, _ in calls[3:]] == ["fsync", "pwrite", "fdatasync"]
        assert calls[4] == ("pwrite", 0)

    def test_shrinking_syncs_the_header_before_it_cuts_the_bytes(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(store, size=2 * PAGE)
        calls: list[tuple[str, object]] = []
        with monkeypatch.context() as patch:
            spy(patch, lambda name, arguments: calls.append((name, arguments[-1])))
            store.resize("one", 10)
        assert [name for name, _ in calls[1:]] == ["pwrite", "fdatasync", "ftruncate"]
        assert calls[3] == ("ftruncate", DATA_OFFSET + PAGE)

    @pytest.mark.parametrize(("old", "new"), [(PAGE + 10, 4 * PAGE), (4 * PAGE, PAGE + 10)])
    def test_a_crash_leaves_the_old_or_the_new_size(self, folder: Path, old: int, new: int) -> None:
        seen = []
        for _ in crash_everywhere(self.fresh(folder, old), lambda store: store.resize("one", new)):
            with Store(folder) as store:
                with store.open("one") as pool_file:
                    seen.append(pool_file.header.size)
                kept = b"x" * (PAGE + 10)
                assert read(folder, "one", PAGE + 10) == kept
                store.resize("one", 4 * PAGE)  # whatever the crash has left
                whole = seen[-1] == 4 * PAGE == old
                rest = (b"x" if whole else b"\0") * (3 * PAGE - 10)
                assert read(folder, "one", 4 * PAGE) == kept + rest
            self.fresh(folder, old)
        assert set(seen) == {old, new}
        assert seen == sorted(seen, key=lambda size: size == new)

    @staticmethod
    def fresh(folder: Path, size: int) -> Path:
        with Store(folder) as store:
            with contextlib.suppress(PoolNotFoundError):
                store.remove("one")
            make(store, size=size)
            write(folder, "one", b"x" * size)
        return folder

    @pytest.mark.parametrize("failing", ["posix_fallocate", "pwrite", "fsync"])
    def test_growth_that_fails_is_undone(
        self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch, failing: str
    ) -> None:
        make(store, size=10)
        write(folder, "one", b"x" * 10)
        before = (folder / "one.pool").read_bytes()

        def fail(name: str, _: object) -> None:
            if name == failing:
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            spy(patch, fail)
            with pytest.raises(StorageError, match="resize the pool 'one': Input/output error"):
                store.resize("one", 5 * PAGE)
        assert (folder / "one.pool").read_bytes() == before

    def test_a_header_that_may_be_on_the_disk_keeps_its_bytes(
        self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        header = make(store, size=10)

        def fail(name: str, _: object) -> None:
            if name == "fdatasync":
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            spy(patch, fail)
            with pytest.raises(StorageError):
                store.resize("one", 5 * PAGE)
        assert (folder / "one.pool").stat().st_size == DATA_OFFSET + 5 * PAGE
        with store.open("one") as pool_file:
            assert pool_file.header == header

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(st.integers(1, 5 * PAGE), min_size=1, max_size=6))
    def test_any_sequence_of_sizes(self, folder: Path, store: Store, sizes: list[int]) -> None:
        make(store, size=sizes[0])
        expected = bytearray(sizes[0])
        for number, size in enumerate(sizes, 1):
            store.resize("one", size)
            del expected[size:]
            expected += bytes(size - len(expected))
            assert read(folder, "one", size) == expected
            expected[:] = bytes([number]) * size
            write(folder, "one", expected)
        store.remove("one")


class TestIncomplete:
    def test_a_pool_is_so_until_it_is_completed(self, store: Store) -> None:
        with store.create("one", PAGE, content_length=0, incomplete=True) as pool_file:
            assert store.update(pool_file, content_length=7).incomplete
            with store.open("one") as other:
                assert other.header.incomplete
            assert [one.header and one.header.incomplete for one in store.list()] == [True]
            header = store.complete(pool_file)
        assert (header.incomplete, header.content_length) == (False, 7)
        with store.open("one") as pool_file:
            assert pool_file.header == header

    def test_both_copies_of_a_whole_one_are_what_every_rpma_reads(
        self, folder: Path, store: Store
    ) -> None:
        with store.create("one", PAGE, incomplete=True) as pool_file:
            store.complete(pool_file, 5)
        data = (folder / "one.pool").read_bytes()
        versions = [int.from_bytes(data[at + 8 : at + 12], "little") for at in (0, SLOT_SIZE)]
        assert versions == [1, 1]

    def test_the_data_is_durable_before_the_header_says_so(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[str] = []
        with (
            store.create("one", PAGE, incomplete=True) as pool_file,
            monkeypatch.context() as patch,
        ):
            spy(patch, lambda name, _: calls.append(name))
            store.complete(pool_file, 5)
        assert calls == ["fdatasync", *["pwrite", "fdatasync"] * 2]

    def test_completing_fails_as_a_whole(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for number in (1, 2):
            left = number

            def fail(name: str, _: object) -> None:
                nonlocal left
                left -= name == "fdatasync"
                if name == "fdatasync" and not left:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))

            name = f"pool-{number}"
            with store.create(name, PAGE, incomplete=True) as pool_file:
                with monkeypatch.context() as patch:
                    spy(patch, fail)
                    with pytest.raises(StorageError):
                        store.complete(pool_file, 5)
                with store.open(name) as other:
                    assert other.header.incomplete
                    assert pool_file.header == other.header

    @pytest.mark.parametrize(("length", "is_cut"), [(None, False), (10, False), (11, True)])
    def test_one_that_is_resized_to_less_than_its_content(
        self, store: Store, length: int | None, is_cut: bool
    ) -> None:
        make(store, size=PAGE, content_length=length)
        assert store.resize("one", 10).incomplete == is_cut
        assert store.resize("one", PAGE).incomplete == is_cut  # what is lost is lost


class TestReplace:
    """A pool that is made beside another and takes its place."""

    def test_is_hidden_until_it_is_in_place(self, folder: Path, store: Store) -> None:
        make(store, size=10)
        write(folder, "one", b"old")
        with store.create_beside("one", 20, ATTRIBUTES, 3) as new:
            assert new.header.incomplete
            os.pwrite(new.fd, b"new", DATA_OFFSET)
            store.update(new, content_length=2)
            assert [(one.name, one.header and one.header.size) for one in store.list()] == [
                ("one", 10)
            ]
            assert files(folder) == {"one.pool", new.beside}
            with store.open("one") as old:
                store.complete(new)
                store.put_in_place(new)
                assert os.pread(old.fd, 3, DATA_OFFSET) == b"old"  # who has it open keeps it
            assert new.beside == ""
        assert files(folder) == {"one.pool"}
        assert read(folder, "one", 3) == b"new"
        with store.open("one") as pool_file:
            header = pool_file.header
        assert (header.size, header.content_length, header.incomplete) == (20, 2, False)
        assert [one.header for one in store.list()] == [header]
        assert store.totals() == (1, 20)

    def test_needs_none_of_that_name(self, folder: Path, store: Store) -> None:
        with store.create_beside("one", 20) as new:
            assert store.list() == []
            store.put_in_place(new)
        assert files(folder) == {"one.pool"}

    def test_is_discarded(self, folder: Path, store: Store) -> None:
        make(store, size=10)
        before = descriptors()
        store.discard(store.create_beside("one", 20))
        assert descriptors() == before
        assert files(folder) == {"one.pool"}
        assert [one.header and one.header.size for one in store.list()] == [10]

    def test_one_that_a_crash_has_left_goes(self, folder: Path) -> None:
        with Store(folder) as store:
            make(store, size=10)
            store.create_beside("one", 20).close()
            assert len(files(folder)) == 2
        with Store(folder) as store:
            assert files(folder) == {"one.pool"}

    def test_a_crash_leaves_the_old_one_or_the_new_one_whole(self, folder: Path) -> None:
        def fresh() -> None:
            with Store(folder) as store:
                with contextlib.suppress(PoolNotFoundError):
                    store.remove("one")
                make(store, size=PAGE)
                write(folder, "one", b"x" * PAGE)

        def replace(store: Store) -> None:
            with store.create_beside("one", 2 * PAGE) as new:
                os.pwrite(new.fd, b"y" * 2 * PAGE, DATA_OFFSET)
                store.complete(new, 5)
                store.put_in_place(new)

        fresh()
        seen = []
        for _ in crash_everywhere(folder, replace):
            with Store(folder) as store:
                assert files(folder) == {"one.pool"}
                (one,) = store.list()
                assert one.header is not None
                assert (one.problem, one.header.incomplete) == ("", False)
                size = one.header.size
                letter = {PAGE: b"x", 2 * PAGE: b"y"}[size]
                assert read(folder, "one", size) == letter * size
                seen.append(size)
            fresh()
        assert set(seen) == {PAGE, 2 * PAGE}
        assert seen == sorted(seen)

    def test_is_durable_in_its_order(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        make(store)
        calls: list[tuple[str, Any]] = []
        with store.create_beside("one", 10) as new, monkeypatch.context() as patch:
            beside = new.beside
            spy(patch, lambda name, arguments: calls.append((name, arguments[0])))
            store.complete(new)
            store.put_in_place(new)
            expected = [("fdatasync", new.fd), *[("pwrite", new.fd), ("fdatasync", new.fd)] * 2]
        assert calls == [*expected, ("rename", beside), ("fsync", store._fd)]

    def test_a_rename_that_fails_leaves_the_old_one(
        self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(store, size=10)

        def fail(name: str, _: object) -> None:
            if name == "rename":
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        new = store.create_beside("one", 20)
        with monkeypatch.context() as patch:
            spy(patch, fail)
            with pytest.raises(StorageError, match="cannot replace the pool 'one': Input/output"):
                store.put_in_place(new)
        assert new.beside
        store.discard(new)
        assert files(folder) == {"one.pool"}
        assert [one.header and one.header.size for one in store.list()] == [10]

    def test_a_directory_that_cannot_be_synced_leaves_what_is_said(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(store, "one", size=10)
        make(store, "two", size=10)

        def fail(name: str, _: object) -> None:
            if name == "fsync":
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        with store.create_beside("one", 20) as new, monkeypatch.context() as patch:
            spy(patch, fail)
            with pytest.raises(
                StorageError,
                match="'one' has been replaced, but it is not known whether durably: Input/output "
                "error; after a power cut one of the two is there, whole",
            ):
                store.put_in_place(new)
            assert not new.beside
            with pytest.raises(
                StorageError, match=r"'two' has been removed, but .* it may be there again"
            ):
                store.remove("two")
        assert [(one.name, one.header and one.header.size) for one in store.list()] == [("one", 20)]

    def test_there_must_be_room_for_both(
        self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(store, size=10)

        def fail(name: str, _: object) -> None:
            if name == "posix_fallocate":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            spy(patch, fail)
            with pytest.raises(PoolSpaceError, match=r"asked for, .* there must be room for both"):
                store.create_beside("one", 20)
        assert files(folder) == {"one.pool"}

    @pytest.mark.parametrize("when", ["before", "meanwhile"])
    def test_never_replaces_a_directory(self, folder: Path, store: Store, when: str) -> None:
        path = folder / "one.pool"
        if when == "before":
            path.mkdir()
            with pytest.raises(PoolDamagedError, match="it is not a regular file"):
                store.create_beside("one", 10)
        else:
            new = store.create_beside("one", 10)
            path.mkdir()
            with pytest.raises(PoolDamagedError, match="it is not a regular file"):
                store.put_in_place(new)
            store.discard(new)
        assert files(folder) == {"one.pool"}


class TestRemove:
    def test_takes_the_name_and_leaves_what_is_open(self, folder: Path, store: Store) -> None:
        with store.create("one", 10) as pool_file:
            store.remove("one")
            assert not files(folder)
            os.pwrite(pool_file.fd, b"x", DATA_OFFSET)
            with pytest.raises(PoolNotFoundError):
                store.open("one")
        assert make(store).pool_id != pool_file.header.pool_id

    def test_is_durable_when_it_returns(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(store)
        calls: list[tuple[str, Any]] = []
        with monkeypatch.context() as patch:
            spy(patch, lambda name, arguments: calls.append((name, arguments[0])))
            store.remove("one")
        assert calls == [("unlink", "one.pool"), ("fsync", store._fd)]

    def test_missing(self, store: Store) -> None:
        with pytest.raises(PoolNotFoundError, match="no pool 'one'"):
            store.remove("one")

    def test_takes_damaged_ones_and_links_but_not_what_a_link_leads_to(
        self, folder: Path, store: Store
    ) -> None:
        (folder / "one.pool").write_bytes(b"damaged")
        (folder.parent / "precious").touch()
        (folder / "two.pool").symlink_to(folder.parent / "precious")
        store.remove("one")
        store.remove("two")
        assert not files(folder)
        assert (folder.parent / "precious").exists()

    def test_leaves_directories_alone(self, folder: Path, store: Store) -> None:
        (folder / "one.pool").mkdir()
        with pytest.raises(PoolDamagedError, match="it is not a regular file"):
            store.remove("one")
        assert files(folder) == {"one.pool"}

    def test_that_fails_says_why(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        make(store)

        def fail(name: str, _: object) -> None:
            if name == "unlink":
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        with monkeypatch.context() as patch:
            spy(patch, fail)
            with pytest.raises(TargetError, match="remove the pool 'one': Read-only file system"):
                store.remove("one")


class TestList:
    def test_of_nothing(self, store: Store) -> None:
        assert store.list() == []

    def test_is_sorted_and_tells_of_each(self, folder: Path, store: Store) -> None:
        headers = {name: make(store, name, size=PAGE) for name in ("b", "a.b", "a", "C")}
        listed = store.list()
        assert [one.name for one in listed] == ["C", "a", "a.b", "b"]
        for one in listed:
            assert one.header == headers[one.name]
            assert one.problem == ""
            assert one.allocated == (folder / f"{one.name}.pool").stat().st_blocks * 512
            assert one.allocated >= DATA_OFFSET + PAGE

    def test_broken_ones_are_there_with_their_problem(self, folder: Path, store: Store) -> None:
        make(store, "fine")
        header = make(store, "cut", size=5 * PAGE)
        os.truncate(folder / "cut.pool", DATA_OFFSET + PAGE)
        (folder / "empty.pool").touch()
        (folder / "text.pool").write_text("text" * PAGE)
        (folder / "link.pool").symlink_to("fine.pool")
        before = descriptors()
        listed = {one.name: one for one in store.list()}
        assert sorted(listed) == ["cut", "empty", "fine", "link", "text"]
        assert listed["fine"].problem == ""
        assert listed["cut"].header == header
        assert listed["empty"].header is listed["text"].header is listed["link"].header is None
        for name, words in (
            ("cut", "its header asks for"),
            ("empty", "has 0 bytes"),
            ("link", "not a regular file"),
            ("text", "does not begin as one"),
        ):
            assert words in listed[name].problem
            assert listed[name].problem.startswith(f"the pool {name!r} is damaged: ")
        assert descriptors() == before

    def test_leaves_out_what_cannot_be_a_pool(self, folder: Path, store: Store) -> None:
        for name in ("notes.txt", ".pool", "-x.pool", "a b.pool", ".one.pool", "x.POOL", "é.pool"):
            (folder / name).touch()
        with contextlib.suppress(OSError):  # not every file system takes it
            (folder / os.fsdecode(b"\xff.pool")).touch()
        assert store.list() == []

    def test_a_pool_that_goes_meanwhile_is_left_out(
        self, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(store, "a")
        make(store, "b")

        def take(name: str, _: object) -> None:
            if name == "open":
                (folder / "a.pool").unlink(missing_ok=True)

        with monkeypatch.context() as patch:
            spy(patch, take)
            assert [one.name for one in store.list()] == ["b"]

    def test_without_descriptors_every_pool_has_that_problem(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(store)

        def fail(name: str, _: object) -> None:
            if name == "open":
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as patch:
            spy(patch, fail)
            (listed,) = store.list()
        assert "Too many open files" in listed.problem

    def test_a_directory_that_cannot_be_read_is_an_error(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "listdir", fail)
            with pytest.raises(StorageError, match=r"list the pools: Input/output error"):
                store.list()


def test_a_killed_target_leaves_a_directory_that_can_be_served(folder: Path) -> None:
    code = (
        "import sys; from rpma.pool.target.store import Store; s = Store(sys.argv[1])\n"
        "f = s.create('one', 4096, content_length=0); n = 0\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    n += 1; s.update(f, content_length=n % 4096); s.create('two', 4096).close()\n"
        "    s.resize('two', 20_000); s.resize('two', 5); s.remove('two')\n"
    )
    for wait in (0.0, 0.01, 0.05):
        with subprocess.Popen(
            [sys.executable, "-c", code, folder], stdout=subprocess.PIPE
        ) as target:
            assert target.stdout is not None
            assert target.stdout.readline() == b"ready\n"
            with contextlib.suppress(subprocess.TimeoutExpired):
                target.wait(wait)
            target.send_signal(signal.SIGKILL)
        with Store(folder) as store:
            assert files(folder) <= {"one.pool", "two.pool"}
            assert all(one.problem == "" for one in store.list())
            for one in store.list():
                store.remove(one.name)
