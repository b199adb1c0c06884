"""Targets that serve pools: in this process, in one that can be killed, and behind a proxy."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

from pairs import SOON, line, python

from fabrics.fabric import Fabric
from rpma.pool import Client, Pool, Target, TargetAddress
from rpma.pool.protocol import channel, messages
from rpma.pool.target.header import DATA_OFFSET

TOKEN = "the token of the tests"
MIB = 1 << 20


@contextmanager
def serving(fabric: Fabric, folder: Path | None = None, **options: Any) -> Iterator[Target]:
    """A target in this process."""
    options = {"token": TOKEN, "rdma_address": fabric.address} | options
    with Target(folder, listen="127.0.0.1:0", **options) as target:
        yield target


def connect(target: Target | TargetAddress, **options: Any) -> Client:
    """A client of a target, with its token."""
    address = target.address if isinstance(target, Target) else target
    return Client(address, **{"token": TOKEN, "timeout": SOON} | options)


@contextmanager
def a_pool(target: Target, size: int = MIB, name: str = "pool", **options: Any) -> Iterator[Pool]:
    """A pool that has just been created, with a client of its own."""
    with connect(target) as client, client.create_pool(name, size, **options) as pool:
        yield pool


def stored(folder: Path, name: str = "pool") -> bytes:
    """What a pool's file has behind its header: whole pages."""
    return (folder / f"{name}.pool").read_bytes()[DATA_OFFSET:]


def check_serves(target: Target | TargetAddress) -> None:
    """Others are served as if nothing had happened."""
    with connect(target) as client:
        client.list_pools(timeout=SOON)


def wait_until(condition: Callable[[], object], what: str, limit: float = SOON) -> None:
    """Return when it is so, which must be soon."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"it does not happen that {what}"
        time.sleep(0.005)


def wait_left(target: Target) -> None:
    """Return when the target has seen all its clients leave."""
    wait_until(lambda: not target._sessions, "all clients have left")


# ---- in a process of its own -------------------------------------------------------------------

_PROGRAM = """
import sys, threading
from rpma.pool import Target
folder, address, token = sys.argv[1:]
with Target(folder, listen="127.0.0.1:0", token=token, rdma_address=address) as target:
    print(target.address.port, flush=True)
    sys.stdin.read()
"""


@dataclass
class Process:
    """A target in a process of its own."""

    popen: Popen[str]
    address: TargetAddress

    def kill(self) -> None:
        """Kill it; returns when nothing of it is left, its hold on the directory neither."""
        self.popen.kill()
        self.popen.wait(SOON)

    def stop(self) -> None:
        """Stop it as a debugger does; returns when it stands still."""
        os.kill(self.popen.pid, signal.SIGSTOP)
        wait_until(lambda: self._state() == "T", "the target stops")

    def resume(self) -> None:
        os.kill(self.popen.pid, signal.SIGCONT)

    def _state(self) -> str:
        status = Path(f"/proc/{self.popen.pid}/stat").read_text()
        return status.rpartition(")")[2].split()[0]


@contextmanager
def process(fabric: Fabric, folder: Path) -> Iterator[Process]:
    """A target that can be killed and stopped; it is gone at the end."""
    with python(_PROGRAM, str(folder), fabric.address, TOKEN) as child:
        yield Process(child, TargetAddress("127.0.0.1", int(line(child))))


# ---- behind a proxy ----------------------------------------------------------------------------

_LENGTH = struct.Struct("<I")
#: How many frames have no authentication code yet: the login; the greeting and the admission.
_PLAIN = {"to target": 1, "to client": 2}
_CODE_SIZE = 16

#: Given the direction, the number of the frame and the frame: what is sent instead, None: the end.
Change = Callable[[str, int, bytes], bytes | None]


def unchanged(_direction: str, _number: int, frame: bytes) -> bytes:
    return frame


@dataclass
class Proxy:
    """Passes control channels on, and keeps what passes."""

    address: TargetAddress
    frames: list[tuple[str, bytes]] = field(default_factory=list)

    def all_bytes(self) -> bytes:
        return b"".join(frame for _, frame in self.frames)


@contextmanager
def proxy(target: Target, change: Change = unchanged) -> Iterator[Proxy]:
    """A proxy before the control channel of a target; the data connection goes its own way."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = Proxy(TargetAddress("127.0.0.1", server.getsockname()[1]))
        opened: list[socket.socket] = []
        started: list[threading.Thread] = []

        def start(function: Callable[..., None], *arguments: object) -> None:
            thread = threading.Thread(target=function, args=arguments, daemon=True)
            started.append(thread)
            thread.start()

        def accept() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    there = socket.create_connection(("127.0.0.1", target.address.port or 0))
                    opened.extend((client, there))
                    start(_pass_on, made, "to target", client, there, change)
                    start(_pass_on, made, "to client", there, client, change)

        start(accept)
        try:
            yield made
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # wakes accept()
            for one in opened:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            for thread in started:
                thread.join(SOON)
            for one in opened:
                one.close()


def _pass_on(
    made: Proxy, direction: str, source: socket.socket, sink: socket.socket, change: Change
) -> None:
    with suppress(OSError), source.makefile("rb") as stream:
        number = 0
        while frame := _frame(stream, number >= _PLAIN[direction]):
            made.frames.append((direction, frame))
            passed = change(direction, number, frame)
            number += 1
            if passed is None:
                break
            sink.sendall(passed)
    for one in (source, sink):
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def _frame(stream: Any, secured: bool) -> bytes:
    length = stream.read(_LENGTH.size)
    if len(length) < _LENGTH.size:
        return b""
    rest = _LENGTH.unpack(length)[0] + (_CODE_SIZE if secured else 0)
    return bytes(length + stream.read(rest))


# ---- strangers ---------------------------------------------------------------------------------


class Stranger:
    """Somebody who speaks the protocol by hand, or does not."""

    def __init__(
        self,
        target: Target,
        source: tuple[str, int] = ("", 0),
        *,
        is_deaf: bool = False,
    ) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(SOON)
        if is_deaf:  # neither side's kernel takes much of what is not read
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 200)
        self.socket.bind(source)
        self.socket.connect(("127.0.0.1", target.address.port or 0))
        self.channel = channel.Channel()

    def send(self, message: Any) -> None:
        self.send_raw(self.channel.frame(messages.encode(message)))

    def send_raw(self, data: bytes) -> None:
        with suppress(ConnectionError):
            self.socket.sendall(data)

    def receive(self, kind: Any) -> Any:
        while (payload := self.channel.next_payload()) is None:
            data = self.socket.recv(1 << 16)
            assert data, "the target has ended the connection"
            self.channel.feed(data)
        return messages.decode(payload, kind)

    def login(self, user: str = "", version: int = messages.VERSION) -> channel.Keys:
        """Show the token; the session is not received yet."""
        hello, nonce = self.receive(messages.Hello), channel.new_nonce()
        keys = channel.Keys.derive(TOKEN.encode(), hello.nonce, nonce, user)
        self.send(messages.Login(version, user, nonce, keys.client_proof))
        return keys

    def come_in(self) -> messages.Session:
        keys = self.login()
        keys.check_target(self.receive(messages.Accepted).proof)
        self.channel.secure(key_in=keys.to_client, key_out=keys.to_target)
        found: messages.Session = self.receive(messages.Session)
        return found

    def check_ended(self) -> None:
        """The target ends the connection, without having said much more."""
        rest = b""
        with suppress(ConnectionError):
            while data := self.socket.recv(1 << 16):
                rest += data
        assert len(rest) < 1000

    def close(self) -> None:
        self.socket.close()
