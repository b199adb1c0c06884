# SPDX-License-Identifier: BSD-3-Clause
"""Whom benchmarks/pool.py measures, each a process of its own on the same storage."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from fabric_programs import free_port, is_listening
from processes import end_input

HERE = Path(__file__).resolve().parent
TARGET = (
    "import sys, rpma\n"
    "with rpma.Target(sys.argv[1], listen='127.0.0.1:0', dram='16MiB') as target:\n"
    "    print(target.address.port, flush=True)\n"
    "    sys.stdin.read()\n"
)

Put = Callable[[int, bytes], object]
"""Makes bytes durable at an offset."""


@contextmanager
def told_its_port(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process that prints the port it listens on, and ends with its input."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.strip().isdigit():
            sys.exit(f"pool: {' '.join(command[:2])} did not start")
        yield process, int(line)
    finally:
        end_input(process)


@contextmanager
def target(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A target of rpma's and its address."""
    with told_its_port(sys.executable, "-c", TARGET, str(folder)) as (process, port):
        yield process, f"127.0.0.1:{port}"


@contextmanager
def grpc(folder: Path) -> Iterator[Put]:
    """A put over gRPC, its server in Python as its client is, with fsync."""
    import pool_grpc

    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else it logs that a channel is closed
    with (
        told_its_port(sys.executable, str(HERE / "pool_grpc.py"), str(folder)) as (_, port),
        pool_grpc.connected(port) as put,
    ):
        yield put


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """Redis with appendfsync always; its port."""
    port = free_port()
    command = [
        *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
        *("--auto-aof-rewrite-percentage", "0"),  # it would write for itself
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not is_listening(port) and time.monotonic() < end:
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def redis_client(port: int) -> Iterator[Put]:
    """A set, by Redis's client for Python."""
    import redis as package

    with package.Redis(port=port) as connection:
        yield lambda offset, data: connection.set(str(offset), data)


def redis_benchmark(port: int, size: int, count: int) -> float:
    """The same by Redis's own benchmark, which is C: the p50 in microseconds."""
    command = ["redis-benchmark", "-p", str(port), "-c", "1", "-t", "set", "--csv"]
    done = subprocess.run(
        [*command, "-d", str(size), "-n", str(count)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.splitlines()[-1].split(",")[4].strip('"')) * 1000


def redis_benchmark_rate(port: int, size: int, keys: int, clients: int, count: int) -> float:
    """Sets a second by Redis's own benchmark, with so many connections."""
    command = ["redis-benchmark", "-p", str(port), "-c", str(clients), "-r", str(keys), "--csv"]
    command += ["-t", "set", "-d", str(size), "-n", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1].split(",")[1].strip('"'))


AsyncPut = Callable[[int, bytes], Awaitable[object]]
AsyncPutAll = Callable[[Sequence[int], bytes], Awaitable[object]]


@asynccontextmanager
async def redis_task_client(port: int, connections: int) -> AsyncIterator[AsyncPut]:
    """A set, by Redis's client for asyncio: as many at a time as there are connections."""
    from redis import asyncio as package

    client = package.Redis(
        connection_pool=package.BlockingConnectionPool(port=port, max_connections=connections)
    )
    async with client:
        yield lambda offset, data: client.set(str(offset), data)


@asynccontextmanager
async def redis_pipeline(port: int) -> AsyncIterator[AsyncPutAll]:
    """Sets that travel together, and are waited for together."""
    from redis import asyncio as package

    async with package.Redis(port=port, single_connection_client=True) as client:

        async def put_all(offsets: Sequence[int], data: bytes) -> None:
            pipeline = client.pipeline(transaction=False)
            for offset in offsets:
                pipeline.set(str(offset), data)
            await pipeline.execute()

        yield put_all


ECHO = (
    "import socket\n"
    "server = socket.create_server(('127.0.0.1', 0))\n"
    "print(server.getsockname()[1], flush=True)\n"
    "peer, _ = server.accept()\n"
    "peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)\n"
    "while head := peer.recv(8, socket.MSG_WAITALL):\n"
    "    peer.recv(int.from_bytes(head, 'little'), socket.MSG_WAITALL)\n"
    "    peer.send(bytes(16))\n"
)


@contextmanager
def sockets() -> Iterator[Put]:
    """The same bytes there, 16 back, by TCP alone: nothing is stored."""
    with (
        told_its_port(sys.executable, "-c", ECHO) as (_, port),
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def put(_offset: int, data: bytes) -> None:
            connection.sendall(len(data).to_bytes(8, "little") + data)
            connection.recv(16, socket.MSG_WAITALL)

        yield put


SINK = (
    "import socket, sys\n"
    "server = socket.create_server(('127.0.0.1', 0))\n"
    "print(server.getsockname()[1], flush=True)\n"
    "peer, _ = server.accept()\n"
    "room, left = bytearray(256 << 10), int(sys.argv[1])\n"
    "while left:\n"
    "    left -= peer.recv_into(room)\n"
    "peer.send(b'.')\n"
)


def sendfile_rate(file: Path) -> float:
    """GB/s of a file by sendfile(2) to a process that receives it, and keeps none of it."""
    size = file.stat().st_size
    with (
        told_its_port(sys.executable, "-c", SINK, str(size)) as (_, port),
        socket.create_connection(("127.0.0.1", port)) as connection,
        open(file, "rb") as source,
    ):
        began = time.perf_counter()
        connection.sendfile(source)
        connection.recv(1)
        return size / (time.perf_counter() - began) / 1e9
