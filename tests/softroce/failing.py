"""Runs in the guest: storage fails under a target, and may work again; what is acknowledged then?

`python failing.py DISK FOLDER`: a file system on DISK is made and mounted on FOLDER, with a
device-mapper device in between that fails when it is told to. What was found is a line of JSON on
stdout. `python failing.py serve FOLDER [dies]` is a target.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from blocks import PAGE, on_disk, places_of, put_on_disk

from rpma import allocation
from rpma.pool import Client, PoolError, StorageError, Target
from rpma.pool.target.header import DATA_OFFSET, SLOT_SIZE, choose
from rpma.pool.target.registry import ServedPool

PAGES = 8
SIZE = PAGES * PAGE
ONE, TWO = b"1" * SIZE, b"2" * SIZE
LIMIT = 60.0
"""For a call, in seconds."""

SECTOR = 512
LAST = 8
"""The sectors at the end of the disk, which no file has."""

NAME = "failing"
TOKEN = "a token of sixteen"


class Storage:
    """The device between the file system and the disk."""

    def __init__(self, disk: str) -> None:
        self.disk = disk
        name = os.path.basename(disk)
        self._sectors = int(Path(f"/sys/block/{name}/size").read_text())
        _dmsetup("create", NAME, "--table", self._table([]))

    def fail(self, kind: str, places: list[list[int]]) -> None:
        """From now on, until it is mended: writing to these places fails, or flushing does."""
        if kind == "flush errors":
            parts = [(self._sectors - LAST, self._sectors)]
        else:
            parts = sorted((min(some) // SECTOR, (max(some) + PAGE) // SECTOR) for some in places)
            assert sum(last - first for first, last in parts) == (
                sum(map(len, places)) * PAGE // SECTOR
            ), "each file is in one piece"
        # The device-mapper sends a flush to "flakey", and none to "error".
        what = "error" if kind == "write errors" else "flakey"
        self._load([self._part(what, first, last) for first, last in parts])

    def mend(self) -> None:
        """It works again."""
        self._load([])

    def _load(self, failing: list[tuple[int, int, str]]) -> None:
        _dmsetup("load", NAME, "--table", self._table(failing))
        # Nothing is to be written because of this.
        _dmsetup("suspend", NAME, "--nolockfs", "--noflush")
        _dmsetup("resume", NAME)

    def _part(self, kind: str, first: int, last: int) -> tuple[int, int, str]:
        what = f"flakey {self.disk} {first} 0 1 1 error_writes" if kind == "flakey" else kind
        return first, last, f"{first} {last - first} {what}"

    def _table(self, failing: list[tuple[int, int, str]]) -> str:
        lines, at = [], 0
        for first, last, line in failing:
            lines += [self._linear(at, first), line]
            at = last
        lines.append(self._linear(at, self._sectors))
        return "\n".join(filter(None, lines))

    def _linear(self, first: int, last: int) -> str:
        return f"{first} {last - first} linear {self.disk} {first}" if last > first else ""


def _dmsetup(*arguments: str) -> None:
    environment = os.environ | {"DM_DISABLE_UDEV": "1"}
    subprocess.run(["dmsetup", *arguments], check=True, env=environment)


# ---- the target ---------------------------------------------------------------------------------


def serve(folder: str, *ways: str) -> None:
    """Serve until stdin ends. Pools with "shadowed" in their names are as with an RNIC that cannot
    use files. "dies": when a header cannot be made durable, and before that can be told.
    """
    map_it = ServedPool.map

    def map_(pool: ServedPool, *arguments: Any) -> None:
        keeps = "shadowed" not in pool.name
        allocation.Memory.keeps_rdma_writes = keeps  # type: ignore[assignment, method-assign]
        map_it(pool, *arguments)
        assert pool.is_shadowed != keeps

    ServedPool.map = map_  # type: ignore[method-assign]
    if "dies" in ways:
        sync = os.fdatasync

        def die(fd: int) -> None:
            try:
                sync(fd)
            except OSError:
                os.kill(os.getpid(), signal.SIGKILL)

        os.fdatasync = die
    with Target(folder, listen="127.0.0.1:0", token=TOKEN) as target:
        print(target.address.port, flush=True)
        sys.stdin.read()


class Serving:
    """A target in a process of its own, and a client of it."""

    def __init__(self, folder: Path, *ways: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve", str(folder), *ways],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        port = int(self._process.stdout.readline())
        self.client = Client(f"127.0.0.1:{port}", token=TOKEN, timeout=LIMIT)

    def kill(self) -> None:
        """SIGKILL it, if it lives."""
        self._process.kill()
        self._process.wait(LIMIT)
        with contextlib.suppress(PoolError, ConnectionError):
            self.client.close(timeout=LIMIT)

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


# ---- what happens -------------------------------------------------------------------------------


def outcome(call: Callable[[], object]) -> str:
    """How a call ends: "done", or the name of the exception."""
    try:
        call()
    except (PoolError, ConnectionError, TimeoutError) as error:
        return type(error).__name__
    return "done"


@contextlib.contextmanager
def mapped(file: Path) -> Iterator[None]:
    """A file is mapped, and its pages are touched, so that they cannot be dropped."""
    fd = os.open(file, os.O_RDONLY)
    mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
    os.close(fd)
    for offset in range(0, len(mapping), PAGE):
        _ = mapping[offset]
    try:
        yield
    finally:
        mapping.close()


def what_is_in(data: bytes) -> str:
    return {ONE: "old", TWO: "new"}.get(data, "mixed")


class Case:
    """A pool that cannot be persisted, and what came of it."""

    def __init__(self, storage: Storage, folder: Path, client: Client, name: str) -> None:
        self.name = name.replace(" ", "-")
        self.found: dict[str, Any] = {}
        self.file = folder / f"{self.name}.pool"
        self._storage = storage
        self._pool = client.create_pool(self.name, SIZE, timeout=LIMIT)
        self._pool.write_persist(0, ONE, timeout=LIMIT)
        self.places = places_of(self.file, DATA_OFFSET, PAGES)

    def write(self) -> None:
        """Without persisting it."""
        self._pool.write(0, TWO, timeout=LIMIT)

    def persist(self) -> None:
        """In vain."""
        self.write()
        self.found["first"] = outcome(lambda: self._pool.persist(timeout=LIMIT))

    def lose(self) -> None:
        """A disk may lose what it could not flush."""
        for number, place in enumerate(self.places):
            put_on_disk(self._storage.disk, place, ONE[number * PAGE : (number + 1) * PAGE])

    def persist_again(self) -> None:
        """The pool has not been closed meanwhile."""
        self.found["again"] = outcome(lambda: self._pool.persist(timeout=LIMIT))

    def close(self) -> None:
        self.found["close"] = outcome(lambda: self._pool.close(timeout=LIMIT))

    def open_again(self, client: Client, read: bool = True) -> None:
        """What does the pool hold now, is it said to be durable, and what is on the disk then?"""
        try:
            pool = client.open_pool(self.name, timeout=LIMIT)
        except StorageError as error:
            self.found["refused"] = str(error)
            return
        if read:
            self.found["holds"] = what_is_in(pool.read(0, SIZE, timeout=LIMIT))
        self.found["persist"] = outcome(lambda: pool.persist(0, SIZE, timeout=LIMIT))
        on_it = b"".join(on_disk(self._storage.disk, place) for place in self.places)
        self.found["disk"] = what_is_in(on_it)
        outcome(lambda: pool.close(timeout=LIMIT))


def fail(storage: Storage, folder: Path, client: Client, kind: str) -> dict[str, Case]:
    """Persisting fails; pools are opened again, but for those that wait for another target."""
    cases = {
        f"{kind}, {how}, {what}": Case(storage, folder, client, f"{kind}-{how}-{what}")
        for how in ("closed", "restarted", "mapped by another", "not mended")
        for what in ("mapped", "shadowed")
    }

    def of(how: str) -> list[Case]:
        return [case for name, case in cases.items() if how in name.split(", ")]

    storage.fail(kind, [case.places for case in cases.values()])
    for case in cases.values():
        case.persist()
        if kind == "flush errors":
            case.lose()
    with contextlib.ExitStack() as holders:
        for case in of("mapped by another"):
            holders.enter_context(mapped(case.file))
        for case in of("not mended"):
            case.persist_again()
            case.close()
            case.open_again(client, read=False)
        storage.mend()
        for case in [*of("closed"), *of("restarted"), *of("mapped by another")]:
            case.persist_again()
        for case in [*of("closed"), *of("mapped by another")]:
            case.close()
            case.open_again(client)
    return cases


def unpersisted(storage: Storage, folder: Path, client: Client) -> dict[str, str]:
    """Nobody persists: the failure comes to light when the pool is closed."""
    case = Case(storage, folder, client, "unpersisted")
    storage.fail("write errors", [case.places])
    case.write()
    case.close()
    storage.mend()
    case.open_again(client)
    return case.found


class Header:
    """Noting a content length fails; then the pool is asked for it, and given another one."""

    def __init__(self, storage: Storage, folder: Path, client: Client, name: str) -> None:
        self._name = name
        self._storage = storage
        self._file = folder / f"{name}.pool"
        pool = client.create_pool(name, SIZE, content_length=1, timeout=LIMIT)
        self._places = places_of(self._file, 0, DATA_OFFSET // PAGE)
        storage.fail("write errors", [self._places])
        self.found: dict[str, Any] = {
            "first": outcome(lambda: pool.set_content_length(2, timeout=LIMIT))
        }
        storage.mend()
        outcome(lambda: pool.close(timeout=LIMIT))

    def look(self, client: Client) -> None:
        """What the target says, and what is on the disk."""
        with client.open_pool(self._name, timeout=LIMIT) as pool:
            self.found["then"] = [pool.info.content_length, self._stored()]
            pool.set_content_length(3, timeout=LIMIT)
        info = client.describe_pool(self._name, timeout=LIMIT)
        self.found["at last"] = [info.content_length, self._stored()]

    def _stored(self) -> int | None:
        data = b"".join(on_disk(self._storage.disk, place) for place in self._places)
        return choose(data[:SLOT_SIZE], data[SLOT_SIZE:]).content_length


def main(disk: str, folder: Path) -> None:
    storage = Storage(disk)
    options = ["-b", "4096", "-O", "^has_journal", "-E", "nodiscard"]
    blocks = int(Path(f"/sys/block/{os.path.basename(disk)}/size").read_text()) // 8 - 1
    device = f"/dev/mapper/{NAME}"
    subprocess.run(["mkfs.ext4", "-q", *options, device, str(blocks)], check=True)
    subprocess.run(["mount", "-t", "ext4", device, folder], check=True)
    pools = folder / "pools"
    pools.mkdir()
    cases = {}
    with Serving(pools) as target:
        for kind in ("write errors", "flush errors", "both"):
            cases |= fail(storage, pools, target.client, kind)
        found: dict[str, Any] = {"unpersisted": unpersisted(storage, pools, target.client)}
        header = Header(storage, pools, target.client, "header")
        header.look(target.client)
    with Serving(pools, "dies") as target:
        killed = Header(storage, pools, target.client, "header-killed")
    with Serving(pools) as target:
        killed.look(target.client)
        for name, case in cases.items():
            if ", restarted, " in name:
                case.open_again(target.client)
    found |= {"header": header.found, "header, killed": killed.found}
    print(json.dumps(found | {"data": {name: case.found for name, case in cases.items()}}))


if sys.argv[1] == "serve":
    serve(*sys.argv[2:])
else:
    main(sys.argv[1], Path(sys.argv[2]))
