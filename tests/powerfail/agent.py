"""A client in the guest, which does there what it is told from outside.

The guest's RDMA device reaches nobody but the guest. So its clients run in it as well, and whoever
tells them what to do keeps the books outside: what is acknowledged to a client is told there, over
a forwarded TCP port, before the client is told to go on.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

from rpma.pool import Client, Persistency, Pool, PoolError, PoolInfo, TargetLost

_LENGTH = struct.Struct("<I")

BOUNCE_SIZE = 1 << 20
"""Of each client, in bytes: what is registered takes the emulated processor its time."""

LIMIT = 90.0
"""How long an answer may take, in seconds: longer than any call's own limit."""


def _send(end: socket.socket, thing: object) -> None:
    data = pickle.dumps(thing)
    end.sendall(_LENGTH.pack(len(data)) + data)


def _receive(end: socket.socket) -> Any:
    """What was sent; EOFError where there will be nothing."""
    return pickle.loads(_read(end, _LENGTH.unpack(_read(end, _LENGTH.size))[0]))


def _read(end: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        more = end.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return bytes(data)


# ---- in the guest ----


def listen(port: int, addresses: Mapping[str, str], token: str) -> None:
    """Have a client for each that connects, from now on.

    Args:
        port: where they connect.
        addresses: the targets', by the name that is sent first.
        token: the targets'.
    """
    listener = socket.create_server(("0.0.0.0", port))

    def accept() -> None:
        while True:
            end, _ = listener.accept()
            threading.Thread(target=_serve, args=(end, addresses, token), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def _serve(end: socket.socket, addresses: Mapping[str, str], token: str) -> None:
    with end, contextlib.suppress(EOFError, OSError):
        address = addresses[_receive(end)]
        pools: dict[int, Pool] = {}
        with Client(address, token=token, timeout=LIMIT, bounce_size=BOUNCE_SIZE) as client:
            while True:
                number, name, arguments, options = _receive(end)
                called: Callable[..., Any] = getattr(pools.get(number, client), name)
                try:
                    answer = called(*arguments, **options)
                except Exception as error:
                    _send(end, (False, repr(error)))
                    continue
                if isinstance(answer, Pool):
                    pools[len(pools) + 1] = answer
                    answer = (len(pools), answer.persistency)
                _send(end, (True, answer))


# ---- outside ----


class RemotePool:
    """A pool that the client in the guest has open, with what the tests need of a pool's methods.

    Attributes:
        persistency: how it becomes durable.
    """

    def __init__(self, client: RemoteClient, number: int, persistency: Persistency) -> None:
        """The pool that has this number in the guest."""
        self.persistency = persistency
        self._client, self._number = client, number

    def _call(self, name: str, *arguments: object, **options: object) -> Any:
        return self._client.call(self._number, name, *arguments, **options)

    def read(self, *, timeout: float) -> bytes:
        """All of it."""
        return bytes(self._call("read", timeout=timeout))

    def write(self, offset: int, data: bytes, *, timeout: float) -> None:
        """Write."""
        self._call("write", offset, data, timeout=timeout)

    def write_persist(self, offset: int, data: bytes, *, timeout: float) -> None:
        """Write, durably."""
        self._call("write_persist", offset, data, timeout=timeout)

    def persist(self, offset: int, length: int, *, timeout: float) -> None:
        """Make what was written durable."""
        self._call("persist", offset, length, timeout=timeout)

    def commit(self, content_length: int | None, *, timeout: float) -> None:
        """Note that it is whole, and put it in its place."""
        self._call("commit", content_length, timeout=timeout)

    def set_content_length(self, length: int | None, *, timeout: float) -> None:
        """Note a content length."""
        self._call("set_content_length", length, timeout=timeout)

    def close(self) -> None:
        """Close it."""
        self._call("close")

    def __enter__(self) -> RemotePool:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self.close()


class RemoteClient:
    """A client in the guest, with what the tests need of a client's methods."""

    def __init__(self, port: int, kind: str) -> None:
        """Of the target of a kind of storage."""
        try:
            self._end = socket.create_connection(("127.0.0.1", port), LIMIT)
            _send(self._end, kind)
        except ConnectionError as error:
            raise TargetLost(f"the guest is gone: {error}") from error

    def call(self, number: int, name: str, *arguments: object, **options: object) -> Any:
        """Have the guest call a method of the pool that has a number, or of the client (0).

        Raises:
            TargetLost: the guest is gone, whatever became of the call.
            PoolError: the call failed there.
        """
        try:
            _send(self._end, (number, name, arguments, options))
            done, answer = _receive(self._end)
        except (EOFError, ConnectionError) as error:
            raise TargetLost(f"the guest is gone: {error!r}") from error
        if not done:
            raise PoolError(f"in the guest: {answer}")
        return answer

    def open_pool(self, name: str, *, timeout: float) -> RemotePool:
        """Open a pool."""
        return RemotePool(self, *self.call(0, "open_pool", name, timeout=timeout))

    def create_pool(
        self,
        name: str,
        size: int,
        *,
        content_length: int | None = None,
        replace: bool = False,
        timeout: float,
    ) -> RemotePool:
        """Create a pool."""
        options = {"content_length": content_length, "replace": replace, "timeout": timeout}
        return RemotePool(self, *self.call(0, "create_pool", name, size, **options))

    def list_pools(self, *, timeout: float) -> list[PoolInfo]:
        """What pools there are."""
        return list(self.call(0, "list_pools", timeout=timeout))

    def remove_pool(self, name: str, *, timeout: float) -> None:
        """Remove a pool."""
        self.call(0, "remove_pool", name, timeout=timeout)

    def resize_pool(self, name: str, size: int, *, timeout: float) -> None:
        """Change a pool's size."""
        self.call(0, "resize_pool", name, size, timeout=timeout)

    def close(self) -> None:
        """Have the client in the guest leave."""
        self._end.close()
