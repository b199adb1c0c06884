# SPDX-License-Identifier: BSD-3-Clause
"""Writers on a disk, which cost its flushes: what those who write at the same time share of them.

Records of 4 KiB at random places, each waited for by who wrote it until it is durable: by one that
blocks, by tasks of asyncio with one client, and by clients with a pool each. Redis keeps its log on
the same file system, with appendfsync always, and the tasks have a connection each, which is the
fastest for them; a pipeline for all of them, and Redis's own clients in C, are measured as well.
What 16 writers come to without a network, with a file each, a program in C tells (`pool_files.c`),
and how much of a processor they take.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import subprocess
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path

import pool_peers
from fabric_connections import build

import rpma.aio
from rpma.pool import Client, Pool

SIZE = 4096  # of a record
RECORDS = 1024  # of them in a pool
TASKS = (16, 64)
CLIENTS = 16
BLOCKS = 10  # of a round: what disturbs one of two that are compared disturbs both

Samples = dict[str, list[float]]
Put = Callable[[int, bytes], Awaitable[object]]
"""Makes a record durable, given its offset."""


def file_system(folder: Path) -> str:
    """Its kind."""
    command = ["findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return found.splitlines()[-1].strip()  # of those that lie over each other, the upper one


class Disk:
    """What is measured, on one file system."""

    def __init__(
        self, folder: Path, target: subprocess.Popen[bytes], address: str, port: int, pool: Pool
    ) -> None:
        self.folder, self.address, self.port, self.pool = folder, address, port, pool
        self._target = target
        self._program = build(folder, "pool_files")

    def measure(self, samples: Samples, count: int, seconds: float, turn: int) -> None:
        """A round."""
        self._one_writer(samples, count)
        for number in TASKS:
            self._contest(
                samples,
                f"disk, {number} tasks",
                turn,
                {
                    "rpma": lambda number=number: self._tasks(number, seconds),
                    "redis": lambda number=number: self._redis_tasks(number, seconds),
                    "pipeline": lambda number=number: self._redis_pipeline(number, seconds),
                },
            )
            own = pool_peers.redis_benchmark_rate(self.port, SIZE, RECORDS, number, count * 4)
            samples.setdefault(f"disk, {number} tasks redis-benchmark", []).append(own)
        self._contest(
            samples,
            f"disk, {CLIENTS} clients",
            turn,
            {
                "rpma": lambda: self._clients(samples, seconds),
                "redis": lambda: self._redis_clients(seconds),
            },
        )
        self._files(samples, seconds)

    @staticmethod
    def _contest(
        samples: Samples, name: str, turn: int, sides: dict[str, Callable[[], Awaitable[float]]]
    ) -> None:
        for side in sides if turn % 2 == 0 else reversed(sides):
            rate = asyncio.run(sides[side]())  # type: ignore[arg-type]
            samples.setdefault(f"{name} {side}", []).append(rate)

    # ---- one writer ------------------------------------------------------------------------------

    def _one_writer(self, samples: Samples, count: int) -> None:
        data, chance = os.urandom(SIZE), random.Random(1)
        kept: tuple[list[float], list[float]] = [], []
        with mapped(self.folder / "bare") as mapping:

            def bare(offset: int) -> None:
                mapping[offset : offset + SIZE] = data
                mapping.flush(offset, SIZE)

            def write_persist(offset: int) -> None:
                self.pool.write_persist(offset, data)

            calls = (write_persist, bare)
            for block in range(2 * BLOCKS):
                side = (block + block // 2) % 2
                kept[side].extend(timed(calls[side], chance, max(count // BLOCKS, 1)))
        for name, times in zip(("rpma", "bare"), kept, strict=True):
            times.sort()
            samples.setdefault(f"disk, one {name} p50", []).append(times[len(times) // 2])

    # ---- many ------------------------------------------------------------------------------------

    async def _tasks(self, number: int, seconds: float) -> float:
        async with rpma.aio.open_pool(self.address, "shared", access="shared") as pool:
            return await rate([pool.write_persist] * number, seconds)

    async def _clients(self, samples: Samples, seconds: float) -> float:
        async with AsyncExitStack() as stack:
            opening = [rpma.aio.open_pool(self.address, f"own-{i}") for i in range(CLIENTS)]
            pools = [await stack.enter_async_context(each) for each in opening]
            client, target = time.process_time(), processor_time(self._target.pid)
            found = await rate([pool.write_persist for pool in pools], seconds)
            for who, spent in (
                ("client", time.process_time() - client),
                ("target", processor_time(self._target.pid) - target),
            ):
                each = spent / (found * seconds) * 1e6
                samples.setdefault(f"disk, {CLIENTS} clients, processor {who}", []).append(each)
            return found

    def _files(self, samples: Samples, seconds: float) -> None:
        """The same records into files by msync alone, a thread of a C program for each."""
        with ExitStack() as stack:
            paths = [self.folder / f"bare-{i}" for i in range(CLIENTS)]
            for path in paths:
                stack.callback(path.unlink)
                stack.enter_context(mapped(path))
            command = [self._program, str(seconds), str(SIZE), *paths]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        per_second, each = map(float, done.stdout.split())
        samples.setdefault(f"disk, {CLIENTS} clients files", []).append(per_second)
        samples.setdefault(f"disk, {CLIENTS} clients, processor files", []).append(each)

    async def _redis_tasks(self, number: int, seconds: float) -> float:
        async with pool_peers.redis_task_client(self.port, number) as put:
            return await rate([put] * number, seconds)

    async def _redis_clients(self, seconds: float) -> float:
        async with AsyncExitStack() as stack:
            clients = [pool_peers.redis_task_client(self.port, 1) for _ in range(CLIENTS)]
            puts = [await stack.enter_async_context(client) for client in clients]
            return await rate(puts, seconds)

    async def _redis_pipeline(self, number: int, seconds: float) -> float:
        async with pool_peers.redis_pipeline(self.port) as put_all:
            data, chance, done, began = os.urandom(SIZE), random.Random(3), 0, time.perf_counter()
            while time.perf_counter() - began < seconds:
                await put_all([chance.randrange(RECORDS) * SIZE for _ in range(number)], data)
                done += number
            return done / (time.perf_counter() - began)


def processor_time(pid: int) -> float:
    """Seconds of processor that a process has taken, with its threads that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(call: Callable[[int], object], chance: random.Random, count: int) -> list[float]:
    """Microseconds of each call, given the offset of a record."""
    clock, times = time.perf_counter_ns, array("q", bytes(8 * count))
    for i in range(count):
        offset = chance.randrange(RECORDS) * SIZE
        began = clock()
        call(offset)
        times[i] = clock() - began
    return [ns / 1e3 for ns in times]


async def rate(puts: Sequence[Put], seconds: float) -> float:
    """Records a second by as many tasks as there are puts, each of which waits for its own."""
    data, loop = os.urandom(SIZE), asyncio.get_running_loop()
    end = loop.time() + seconds

    async def write_on(put: Put, chance: random.Random) -> int:
        done = 0
        while loop.time() < end:
            await put(chance.randrange(RECORDS) * SIZE, data)
            done += 1
        return done

    began = time.perf_counter()
    tasks = (write_on(put, random.Random(number)) for number, put in enumerate(puts))
    return sum(await asyncio.gather(*tasks)) / (time.perf_counter() - began)


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """A file as large as a pool, whose blocks are got as the store gets them."""
    with open(path, "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, RECORDS * SIZE)
        os.fsync(file.fileno())
        with mmap.mmap(file.fileno(), RECORDS * SIZE) as mapping:
            yield mapping


@contextmanager
def disk(folder: Path) -> Iterator[Disk]:
    """A target and a Redis that store in it."""
    folders = [folder / name for name in ("pools", "redis")]
    for each in folders:
        each.mkdir()
    with ExitStack() as stack:
        target, address = stack.enter_context(pool_peers.target(folders[0]))
        port = stack.enter_context(pool_peers.redis(folders[1]))
        client = stack.enter_context(Client(address))
        for name in ("shared", *(f"own-{i}" for i in range(CLIENTS))):
            client.create_pool(name, RECORDS * SIZE).close()
        pool = stack.enter_context(client.open_pool("shared", access="shared"))
        yield Disk(folder, target, address, port, pool)
