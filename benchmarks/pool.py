# SPDX-License-Identifier: BSD-3-Clause
"""How fast pools are: against Redis and gRPC, against ib_write_bw, against the binding itself.

The target serves a folder on tmpfs (`--storage` names another), on the soft RNIC or on the device
that RPMA_FABRIC chooses; all others store on the same file system. So they do once more on a disk
(`--disk`), whose flushes writers have to wait for. They take turns, for several rounds; a ratio is
taken within a round, and the table gives the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pool_disk
import pool_listing
import pool_peers
import pool_report
from fabric_programs import FailedError, Soft, soft_folder, write_bandwidth

import rpma
import rpma.aio
from fabric import machine
from rpma import Usage
from rpma.cli import transfer
from rpma.pool import Client, Pool

SIZE = 4096  # of a record
RECORDS = 1024  # of them in a pool
WRITERS = 64
SEGMENT = 256 << 10  # as pools move much; ib_write_bw does the same
CLIENTS = 64  # for the target's memory

Samples = dict[str, list[float]]


def timed(call: Callable[[int], object], count: int) -> list[float]:
    """Microseconds of each call, given the number of a record."""
    clock, times = time.perf_counter_ns, array("q", bytes(8 * count))
    for i in range(count):
        began = clock()
        call(i % RECORDS)
        times[i] = clock() - began
    return [ns / 1e3 for ns in sorted(times)]


def note(samples: Samples, key: str, times: list[float]) -> None:
    for name, at in (("p50", 0.5), ("p99", 0.99)):
        samples.setdefault(f"{key} {name}", []).append(times[int(len(times) * at)])


# ---- a durable record, one at a time -------------------------------------------------------------


def durable(samples: Samples, pool: Pool, peers: dict[str, Any], count: int, turn: int) -> None:
    data = os.urandom(SIZE)
    puts = {"rpma": lambda offset, data: pool.write_persist(offset, data)} | peers["puts"]
    for name in puts if turn % 2 == 0 else reversed(puts):
        put = puts[name]
        for record in range(50):
            put(record * SIZE, data)
        note(samples, f"durable {name}", timed(lambda i, put=put: put(i * SIZE, data), count))
    samples.setdefault("durable redis-benchmark p50", []).append(
        pool_peers.redis_benchmark(peers["redis port"], SIZE, count)
    )


# ---- the pool's calls, and the binding's own -----------------------------------------------------


@contextmanager
def raw(pool: Pool) -> Iterator[dict[str, tuple[Callable[[int], object], Callable[[int], object]]]]:
    """Pairs of what the pool does and what a program does with the binding for the same.

    The binding's calls use the pool's own connection, from registered memory of their own.
    """
    path, remote = pool.client._driver.path, pool._logic.remote
    assert path is not None
    connection, buffer = path.connection, bytearray(SIZE)
    data, small = os.urandom(SIZE), os.urandom(64)
    usage = Usage.WRITE_SRC | Usage.READ_DST
    with path.peer.register(bytearray(SIZE), usage) as region, region.view as view:

        def write(i: int, data: bytes) -> None:
            view[: len(data)] = data
            connection.write_wait(remote, i * SIZE, region, 0, len(data))

        def read(i: int) -> None:
            connection.read_wait(region, 0, remote, i * SIZE, SIZE)
            buffer[:] = view

        yield {
            "write 64 B": (lambda i: pool.write(i * SIZE, small), lambda i: write(i, small)),
            "write 4 KiB": (lambda i: pool.write(i * SIZE, data), lambda i: write(i, data)),
            "read 4 KiB": (lambda i: pool.read_into(i * SIZE, buffer), read),
        }


def overhead(samples: Samples, pool: Pool, count: int, turn: int) -> None:
    with raw(pool) as pairs:
        for name, pair in pairs.items():
            kept: tuple[list[float], list[float]] = [], []
            for block in range(10):  # close to each other: what disturbs one disturbs both
                for side in (0, 1) if (turn + block) % 2 else (1, 0):
                    kept[side].extend(timed(pair[side], max(count // 10, 1)))
            for side, times in zip(("pool", "binding"), kept, strict=True):
                note(samples, f"{name} {side}", sorted(times))


# ---- many writers --------------------------------------------------------------------------------


def batch_rate(pool: Pool, seconds: float) -> float:
    """Records a second by Connection.write_batch: 64 are copied into registered memory first."""
    path, remote = pool.client._driver.path, pool._logic.remote
    assert path is not None
    data = os.urandom(SIZE)
    triples = array("Q", [n for i in range(WRITERS) for n in (i * SIZE, i * SIZE, SIZE)])
    room = bytearray(WRITERS * SIZE)
    with path.peer.register(room, Usage.WRITE_SRC) as region, region.view as view:
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            for i in range(WRITERS):
                view[i * SIZE : (i + 1) * SIZE] = data
            path.connection.write_batch(remote, region, triples)
            done += WRITERS
        return done / (time.perf_counter() - began)


async def tasks_rate(write: Callable[[int, bytes], Awaitable[None]], seconds: float) -> float:
    """Records a second by 64 tasks, each of which waits for its own."""
    data, loop = os.urandom(SIZE), asyncio.get_running_loop()
    end = loop.time() + seconds

    async def write_on(number: int) -> int:
        done = 0
        while loop.time() < end:
            await write(number * SIZE, data)
            done += 1
        return done

    began = time.perf_counter()
    done = sum(await asyncio.gather(*(write_on(number) for number in range(WRITERS))))
    return done / (time.perf_counter() - began)


async def futures_rate(seconds: float) -> float:
    """The same where nothing is written: all that is begun in a turn of the loop is done in it."""
    loop = asyncio.get_running_loop()
    begun: list[asyncio.Future[None]] = []

    def finish() -> None:
        for future in begun:
            future.set_result(None)
        begun.clear()

    async def write(_offset: int, _data: bytes) -> None:
        future = loop.create_future()
        if not begun:
            loop.call_soon(finish)
        begun.append(future)
        await future

    return await tasks_rate(write, seconds)


def many_writers(samples: Samples, address: str, pool: Pool, seconds: float) -> None:
    async def with_asyncio() -> float:
        async with rpma.aio.open_pool(address, "many", access="shared") as opened:
            return await tasks_rate(opened.write, seconds)

    def one_at_a_time() -> float:
        data, done, began = os.urandom(SIZE), 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            pool.write(done % RECORDS * SIZE, data)
            done += 1
        return done / (time.perf_counter() - began)

    samples.setdefault("asyncio writers", []).append(asyncio.run(with_asyncio()))
    samples.setdefault("asyncio alone", []).append(asyncio.run(futures_rate(seconds)))
    samples.setdefault("write_batch", []).append(batch_rate(pool, seconds))
    samples.setdefault("one writer", []).append(one_at_a_time())


# ---- a large file --------------------------------------------------------------------------------


def put_file(samples: Samples, address: str, pool: Pool, file: Path, memory: list[float]) -> None:
    """GB/s of a put, to its end durable: into a pool that is open, and with one made for it."""
    size = file.stat().st_size
    with Client(address) as client, transfer.source_of(file) as source:
        before = most = own_memory(file)

        def moved(_done: int) -> None:
            nonlocal most
            most = max(most, own_memory(file))

        state, began = transfer.Put(size), time.perf_counter()
        new = {"room": size, "overwrite": False, "volatile": False}
        transfer.put(client, "new", source, state, moved=moved, **new)
        samples.setdefault("new put", []).append(size / (time.perf_counter() - began) / 1e9)
        assert state.durable == size
        memory.append((most - before) / 1024)
        client.remove_pool("new")
    with transfer.source_of(file) as source:
        state, began = transfer.Put(size), time.perf_counter()
        transfer.put_into(pool, source, state, lambda _: None)
        samples.setdefault("put", []).append(size / (time.perf_counter() - began) / 1e9)
        assert state.durable == size
    samples.setdefault("write_batch, large", []).append(whole_pool_rate(pool))
    samples.setdefault("sendfile", []).append(pool_peers.sendfile_rate(file))
    began = time.perf_counter()
    with open(os.devnull, "wb", buffering=0) as sink:
        transfer.get(pool, sink, lambda _: None)
    samples.setdefault("get", []).append(size / (time.perf_counter() - began) / 1e9)


def whole_pool_rate(pool: Pool) -> float:
    """GB/s of Connection.write_batch into all of a pool, from 1 MiB over and over: no file."""
    path, remote = pool.client._driver.path, pool._logic.remote
    assert path is not None
    room = bytearray(1 << 20)
    offsets = range(0, len(pool), SEGMENT)
    triples = array("Q", [n for at in offsets for n in (at, at % len(room), SEGMENT)])
    with path.peer.register(room, Usage.WRITE_SRC) as region:
        began = time.perf_counter()
        path.connection.write_batch(remote, region, triples)
        return len(pool) / (time.perf_counter() - began) / 1e9


# ---- memory --------------------------------------------------------------------------------------


def anonymous(pid: int) -> int:
    """A process's anonymous memory, in KiB."""
    (line,) = (
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("RssAnon:")
    )
    return int(line.split()[1])


def own_memory(file: Path) -> int:
    """What this process has in memory, in KiB, but for the file's pages in the page cache."""
    total, counts = 0, True
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            total += int(line.split()[1]) if counts else 0
        elif "-" in line.split()[0]:
            counts = not line.endswith(str(file))
    return total


def memory_per_client(pid: int, address: str) -> float:
    """KiB by which the target grows for a client that has written to a pool."""

    def come_in(stack: ExitStack) -> None:
        client = stack.enter_context(Client(address, bounce_size="1MiB"))
        pool = stack.enter_context(client.open_pool("many", access="shared"))
        pool.write_persist(0, bytes(SIZE))

    with ExitStack() as stack:
        for _ in range(8):  # what the first few bring into being is the target's own
            come_in(stack)
        before = anonymous(pid)
        for _ in range(CLIENTS):
            come_in(stack)
        return (anonymous(pid) - before) / CLIENTS


# ---- all of it -----------------------------------------------------------------------------------


def measure(options: argparse.Namespace, work: Path, say: Callable[[str], None]) -> dict[str, Any]:
    samples: Samples = {}
    client_memory: list[float] = []
    folders = {name: work / name for name in ("pools", "grpc", "redis")}
    for folder in folders.values():
        folder.mkdir()
    file = work / "file"
    with open(file, "wb") as filled:
        block = os.urandom(1 << 20)
        for _ in range(options.mebibytes):
            filled.write(block)
    with ExitStack() as stack:
        process, address = stack.enter_context(pool_peers.target(folders["pools"]))
        port = stack.enter_context(pool_peers.redis(folders["redis"]))
        peers = {
            "redis port": port,
            "puts": {
                "redis-py": stack.enter_context(pool_peers.redis_client(port)),
                "gRPC": stack.enter_context(pool_peers.grpc(folders["grpc"])),
                "TCP": stack.enter_context(pool_peers.sockets()),
            },
        }
        client = stack.enter_context(Client(address))
        client.create_pool("many", RECORDS * SIZE).close()
        pool = stack.enter_context(client.open_pool("many", access="shared"))
        durability = pool.persistency.value
        large = stack.enter_context(client.create_pool("large", options.mebibytes << 20))
        large.write(0, bytes(large.size))  # this machine has its memory from now on
        for turn in range(options.rounds):
            about = f"round {turn + 1} of {options.rounds}"
            say(f"{about}: durable records")
            durable(samples, pool, peers, options.count, turn)
            say(f"{about}: calls")
            overhead(samples, pool, options.count, turn)
            say(f"{about}: many writers")
            many_writers(samples, address, pool, options.seconds)
            if turn < options.files:
                say(f"{about}: a large file")
                put_file(samples, address, large, file, client_memory)
                if options.bandwidth:
                    found = write_bandwidth(SEGMENT, options.seconds)["gbps"]
                    samples.setdefault("ib_write_bw", []).append(found)
        say("memory")
        per_client = memory_per_client(process.pid, address)
    say("listings")
    listings = pool_listing.listings(work / "listed")
    return {
        "fabric": rpma.fabric.name,
        "durability": durability,
        "samples": samples,
        "listings": listings,
        "target_kib": per_client,
        "client_kib": max(client_memory, default=0.0),
        "mebibytes": options.mebibytes,
    }


def measure_disk(
    options: argparse.Namespace, result: dict[str, Any], say: Callable[[str], None]
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="rpma-pool-", dir=options.disk) as work,
        pool_disk.disk(Path(work)) as disk,
    ):
        for turn in range(options.rounds):
            say(f"round {turn + 1} of {options.rounds}: on a disk")
            disk.measure(result["samples"], options.count // 4, options.seconds, turn)
        result["durability"] = disk.pool.persistency.value


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 rounds, a file of 64 MiB")
    parser.add_argument("--rounds", type=int, default=None, help="default: 9")
    parser.add_argument("--count", type=int, default=3000, help="calls a round; default: 3000")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a run; default: 0.5")
    parser.add_argument("--storage", type=Path, default=Path("/dev/shm"), help="default: /dev/shm")
    parser.add_argument(
        "--disk", type=Path, default=Path("/var/tmp"), help="a folder on one; default: /var/tmp"
    )
    parser.add_argument("--only-disk", action="store_true", help="only what is measured there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 9)
    options.mebibytes = 64 if options.quick else 1024
    options.files = options.rounds if options.quick else min(options.rounds, 5)
    folder = soft_folder()
    # perftest's program is measured where the pool's device is the soft RNIC.
    options.bandwidth = rpma.fabric.name == "soft" and bool(folder and shutil.which("ib_write_bw"))
    Soft.folder = str(folder)
    return options


def main() -> None:
    options = parsed()
    if shutil.which("redis-server") is None:
        sys.exit("pool: redis-server is not installed (Debian: apt-get install redis-server)")
    show = sys.stderr.isatty()

    def say(text: str) -> None:
        if show:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    began, load = time.monotonic(), os.getloadavg()[0]
    result: dict[str, Any] = {"fabric": rpma.fabric.name, "samples": {}}
    if not options.only_disk:
        with tempfile.TemporaryDirectory(prefix="rpma-pool-", dir=options.storage) as work:
            try:
                result = measure(options, Path(work), say)
            except FailedError as error:
                sys.exit(f"pool: {error}")
    measure_disk(options, result, say)
    say("")
    result |= {
        "machine": machine(),
        "storage": f"{options.storage}, {pool_disk.file_system(options.storage)}",
        "disk": f"{options.disk}, {pool_disk.file_system(options.disk)}",
        "rounds": options.rounds,
        "load": [load, os.getloadavg()[0]],
        "seconds": round(time.monotonic() - began),
    }
    result["ratios"] = pool_report.ratios(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    pool_report.show(result)


if __name__ == "__main__":
    main()
