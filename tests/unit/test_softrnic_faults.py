"""The soft RNIC on a network that fails: a proxy between two programs that cuts, resets, stalls,
splits, delays and half-closes connections, during their handshake and later."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
import socket
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from softrnic_programs import TESTS, environment, run

pytestmark = pytest.mark.timeout(300)

FAULTS = ("none", "cut", "reset", "stall", "split", "delay", "half-close")
#: A stall that is to be noticed by a timeout is longer than any of those; another one ends it.
STALL_SECONDS = 1.5


@dataclass(frozen=True)
class Fault:
    """What happens to a connection when so many bytes have gone in that direction."""

    kind: str
    after: int
    towards_server: bool


def _any_fault(kind: str, chance: random.Random) -> Fault:
    # MPA's frames have some 30 bytes; a round moves a megabyte.
    after = chance.choice(
        (0, chance.randrange(60), chance.randrange(4000), chance.randrange(10**6))
    )
    return Fault(kind, after, chance.random() < 0.5)


class Proxy:
    """A port whose connections go on to another port, and have faults."""

    def __init__(self, target: int, seed: int) -> None:
        self.seen: Counter[str] = Counter()
        self._target = target
        self._chance = random.Random(seed)
        self._kinds = itertools.cycle(FAULTS)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """All connections end."""
        self._loop.call_soon_threadsafe(self._main.cancel)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._accept())
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._main)
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._listener.close()
        self._loop.close()

    async def _accept(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            task = self._loop.create_task(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: socket.socket) -> None:
        fault = _any_fault(next(self._kinds), self._chance)
        server = socket.socket()
        with client, server:
            for one in client, server:
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.sock_connect(server, ("127.0.0.1", self._target))
            nothing = Fault("none", 0, fault.towards_server)
            pumps = [
                self._loop.create_task(
                    self._pump(client, server, fault if fault.towards_server else nothing)
                ),
                self._loop.create_task(
                    self._pump(server, client, nothing if fault.towards_server else fault)
                ),
            ]
            try:
                done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.exception()
            finally:
                for task in pumps:
                    task.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, source: socket.socket, target: socket.socket, fault: Fault) -> None:
        """Ends, by an exception, with the connection."""
        left = fault.after
        while True:
            data = await self._loop.sock_recv(source, 65536)
            if not data:
                target.shutdown(socket.SHUT_WR)
                return
            if len(data) <= left or fault.kind == "none":
                left -= len(data)
                await self._loop.sock_sendall(target, data)
                continue
            await self._loop.sock_sendall(target, data[:left])
            data = data[left:]
            self.seen[fault.kind] += 1
            if fault.kind == "split":
                for i in range(min(len(data), 2000)):
                    await self._loop.sock_sendall(target, data[i : i + 1])
                await self._loop.sock_sendall(target, data[2000:])
                fault = Fault("none", 0, fault.towards_server)
            elif fault.kind == "delay":
                await asyncio.sleep(0.01)
                await self._loop.sock_sendall(target, data)
                left = 5000
            elif fault.kind == "half-close":
                target.shutdown(socket.SHUT_WR)
                while await self._loop.sock_recv(source, 65536):
                    pass
                return
            else:
                if fault.kind == "stall":
                    await asyncio.sleep(STALL_SECONDS)
                if fault.kind == "reset":
                    for one in source, target:
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise ConnectionAbortedError(fault.kind)


@pytest.fixture
def program(instrumented: tuple[list[str], list[Path]], tmp_path: Path) -> Path:
    """The test, which is both of the programs."""
    options, device = instrumented
    test = tmp_path / "faults_test"
    run("gcc", *options, TESTS / "faults_test.c", *device, "-o", test)
    return test


@contextlib.contextmanager
def _server(program: Path) -> Iterator[int]:
    with subprocess.Popen(
        [program, "serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(SOFTRNIC_HANDSHAKE_MS="300"),
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, output + errors


@pytest.mark.parametrize("seed", [1, 2])
def test_calls_end_and_nothing_is_left_on_a_network_that_fails(program: Path, seed: int) -> None:
    with _server(program) as port:
        proxy = Proxy(port, seed)
        try:
            output = run(program, proxy.port, port, "35", SOFTRNIC_HANDSHAKE_MS="300")
        finally:
            proxy.close()
    counts = re.fullmatch(r"(\d+) established, (\d+) not; (\d+) whole, (\d+) broken\n", output)
    assert counts, output
    # Each has happened, to somebody.
    assert all(int(count) for count in counts.groups()), output
    assert set(proxy.seen) >= set(FAULTS) - {"none"}
