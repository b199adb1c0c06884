# SPDX-License-Identifier: BSD-3-Clause
"""Pools for asyncio: the names of `rpma.pool`, with calls to be awaited.

::

    async with rpma.aio.open_pool("db1.example:7204", "journal", token=token) as pool:
        await pool.write_persist(0, b"...")
        head = await pool.read(0, 16)

What each call does, takes and raises is said in `rpma.pool`: it is the same, done by the same code.
Many tasks may use one client at a time, all of the event loop that it was made in. A task that is
cancelled leaves nothing behind that writes into memory of the program: `read_into` fills its buffer
only when all has come, piece by piece, and a `PoolArray` keeps its task until the network is done
with the array.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rpma.errors import ClosedError, RpmaError
from rpma.pool.client import logic
from rpma.pool.client.aio_driver import AsyncDriver
from rpma.pool.client.arrays import Index, RegisteredArray
from rpma.pool.client.client import CONNECT_TIMEOUT, DEFAULT_BOUNCE_SIZE, bounce_size_of
from rpma.pool.client.opened import OpenedPool
from rpma.pool.client.pool import LEAVE_TIMEOUT
from rpma.pool.client.write_batch import Outbox
from rpma.pool.protocol.address import TargetAddress
from rpma.pool.protocol.tokens import check_token

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from types import TracebackType

    import numpy.typing as npt

    from rpma._types import Buffer, WritableBuffer
    from rpma.pool.client.datapath import DataPath
    from rpma.pool.client.pool_logic import PoolLogic
    from rpma.pool.protocol.attributes import Attributes
    from rpma.pool.protocol.messages import Access, PoolInfo

    Progress = Callable[[int, int], object]

__all__ = [
    "Client",
    "Pool",
    "PoolArray",
    "connect",
    "create_pool",
    "list_pools",
    "open_pool",
    "remove_pool",
]

T = TypeVar("T", bound="Client | Pool")


class Opening(Generic[T]):
    """What opens something: ``await`` it, or enter it with ``async with``."""

    def __init__(self, opening: Callable[[], Awaitable[T]]) -> None:
        """Made by the functions of this module."""
        self._opening = opening
        self._opened: T | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self._opening().__await__()

    async def __aenter__(self) -> T:
        self._opened = await self._opening()
        return self._opened

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._opened is not None
        await self._opened.__aexit__(kind, value, traceback)


class _Closing:
    async def close(self, *, timeout: float | None = None) -> None:
        raise NotImplementedError

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
            return
        with contextlib.suppress(RpmaError, OSError):  # that exception goes on
            await self.close(timeout=LEAVE_TIMEOUT)


class Client(_Closing):
    """A connection to a target: many pools over one. See `rpma.pool.Client`; made by `connect`."""

    def __init__(self, address: TargetAddress, driver: AsyncDriver) -> None:
        """Made by `connect`."""
        self.address = address
        self._driver = driver
        self._pools: list[Pool] = []
        self._closed = False

    def create_pool(
        self,
        name: str,
        size: int | str,
        *,
        attributes: Attributes | None = None,
        content_length: int | None = None,
        volatile: bool = False,
        incomplete: bool = False,
        replace: bool = False,
        timeout: float | None = None,
    ) -> Opening[Pool]:
        """Create a pool and open it for writing."""
        return Opening(
            lambda: self._open(
                logic.create(
                    self._path,
                    name,
                    size,
                    attributes,
                    content_length,
                    volatile,
                    incomplete,
                    replace,
                ),
                timeout,
            )
        )

    def open_pool(
        self, name: str, *, access: Access = "write", timeout: float | None = None
    ) -> Opening[Pool]:
        """Open a pool."""
        return Opening(lambda: self._open(logic.open_(self._path, name, access), timeout))

    async def list_pools(self, *, timeout: float | None = None) -> list[PoolInfo]:
        """All pools of the target, in order of their names."""
        pools: list[PoolInfo] = await self._driver.whole(logic.list_(self._path), timeout)
        return pools

    async def describe_pool(self, name: str, *, timeout: float | None = None) -> PoolInfo:
        """What the target says of one pool."""
        info: PoolInfo = await self._driver.whole(logic.describe(self._path, name), timeout)
        return info

    async def resize_pool(
        self, name: str, size: int | str, *, timeout: float | None = None
    ) -> None:
        """Change the size of a pool that nobody has open. What is added is zeros."""
        await self._driver.whole(logic.resize(self._path, name, size), timeout)

    async def remove_pool(self, name: str, *, timeout: float | None = None) -> None:
        """Remove a pool that nobody has open."""
        await self._driver.whole(logic.remove(self._path, name), timeout)

    async def _open(self, steps: Any, timeout: float | None) -> Pool:
        opened = await self._driver.whole(steps, timeout, undo=self._abandon)
        pool = Pool(self, opened)
        self._pools.append(pool)
        return pool

    def _abandon(self, opened: PoolLogic) -> None:
        """A task that was cancelled had asked for it."""
        if not self._closed:
            pool = Pool(self, opened)
            self._pools.append(pool)
            self._driver.begin(pool.close())

    @property
    def _path(self) -> DataPath:
        if self._closed:
            raise ClosedError("the client is closed")
        path = self._driver.path
        assert path is not None
        return path

    @property
    def device(self) -> str:
        """The name of the RDMA device that it uses."""
        return self._path.peer.device.name

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._closed

    async def close(self, *, timeout: float | None = None) -> None:
        """Close its pools, after what was issued is done, and the connection. Idempotent."""
        self._driver.check_loop()
        if self._closed:
            return
        failure: Exception | None = None
        deadline = self._driver.deadline(timeout)
        try:
            for pool in tuple(self._pools):  # all of them, whatever fails
                try:
                    await pool.close(timeout=self._driver.left(deadline))
                except (RpmaError, OSError) as error:
                    failure = failure or error
        finally:
            self._end()
        if failure is not None:
            raise failure

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._driver.close()

    async def __aenter__(self) -> Client:
        if self._closed:
            raise ClosedError("the client is closed")
        return self

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self._closed = True
            self._driver.close()

    def __repr__(self) -> str:
        return f"<rpma.aio.Client{' closed' if self._closed else ''} of {self.address}>"


class Pool(OpenedPool, _Closing):
    """A pool that is open. See `rpma.pool.Pool`."""

    def __init__(self, client: Client, pool: PoolLogic) -> None:
        """Made by `Client`."""
        super().__init__(pool)
        self._client = client
        self._run = client._driver.run
        self._wait = client._driver.wait
        self._outbox = Outbox(pool, client._driver.loop)
        self._owns_client = False
        self._arrays: list[PoolArray] = []
        self._closing: asyncio.Task[None] | None = None

    @property
    def client(self) -> Client:
        """The client that opened it."""
        return self._client

    async def read(
        self,
        offset: int = 0,
        length: int | None = None,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> bytes:
        """Read."""
        data: bytes = await self._run(self._logic.read(offset, length, progress), timeout)
        return data

    async def read_into(
        self,
        offset: int,
        buffer: WritableBuffer,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Fill a buffer with what is at `offset`."""
        await self._run(self._logic.read_into(offset, buffer, progress), timeout)

    async def write(
        self,
        offset: int,
        data: Buffer,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write; done when the target's memory has the data, which is not yet durable."""
        if timeout is None and progress is None:
            written = self._outbox.write(offset, data)
            if written is not None:
                await written
                return
            waiter = self._logic.post_small(offset, data)
            if waiter is not None:
                await self._wait(waiter)
                return
        await self._run(self._logic.write(offset, data, progress), timeout)

    async def write_persist(
        self,
        offset: int,
        data: Buffer,
        *,
        timeout: float | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write; done when the data is durable."""
        if timeout is None and progress is None:
            persisted = self._outbox.write_persist(offset, data)
            if persisted is not None:
                await persisted
                return
            waiter = self._logic.post_small(offset, data, persists=True)
            if waiter is not None:
                await self._wait(waiter)
                return
        await self._run(self._logic.write_persist(offset, data, progress), timeout)

    async def persist(
        self, offset: int = 0, length: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Make a range durable."""
        await self._run(self._logic.persist(offset, length), timeout)

    async def flush(
        self, offset: int = 0, length: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Make what was written visible to whoever reads the target's memory."""
        await self._run(self._logic.flush(offset, length), timeout)

    async def atomic_store(self, offset: int, value: int, *, timeout: float | None = None) -> None:
        """Write 8 bytes as a whole."""
        await self._run(self._logic.atomic_store(offset, value), timeout)

    async def atomic_load(self, offset: int, *, timeout: float | None = None) -> int:
        """Read 8 bytes as a whole."""
        value: int = await self._run(self._logic.atomic_load(offset), timeout)
        return value

    async def compare_and_swap(
        self, offset: int, expected: int, desired: int, *, timeout: float | None = None
    ) -> int:
        """Write 8 bytes as a whole if they are what is expected, and tell what they were."""
        steps = self._logic.compare_and_swap(offset, expected, desired)
        found: int = await self._run(steps, timeout)
        return found

    def array(
        self,
        dtype: npt.DTypeLike = "uint8",
        shape: int | tuple[int, ...] | None = None,
        offset: int = 0,
    ) -> PoolArray:
        """A numpy array in registered memory, for a part of the pool."""
        self._logic.check_open()
        array = PoolArray(self, RegisteredArray(self._logic, dtype, shape, offset))
        self._arrays.append(array)
        return array

    async def set_content_length(self, length: int | None, *, timeout: float | None = None) -> None:
        """Note, durably, how many of its bytes are a file's content."""
        await self._client._driver.whole(self._logic.set_content_length(length), timeout)

    async def commit(
        self,
        content_length: int | None = None,
        *,
        persist: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Note, durably, that it is whole; one that replaces another takes its place."""
        await self._client._driver.whole(self._logic.commit(content_length, persist), timeout)

    async def close(self, *, timeout: float | None = None) -> None:
        """Close it, after what was issued is done.

        It goes on by itself where the task is cancelled meanwhile, and whoever else closes it waits
        for that.
        """
        driver = self._client._driver
        driver.check_loop()
        if self._closing is not None:
            await driver.ended(self._closing, driver.deadline(timeout))
            return
        self._closing = driver.begin(self._close(timeout))
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:
            if self._owns_client:
                self._client._end()
            raise
        finally:
            if self._owns_client:
                await self._client.close()

    async def _close(self, timeout: float | None) -> None:
        driver = self._client._driver
        try:
            if not self._client.closed:
                with contextlib.suppress(ClosedError):  # another task has closed the client
                    await driver.run(self._logic.close(asks=not driver.is_lost), timeout)
        finally:
            self._logic.let_go([array._array for array in self._arrays])
            if self in self._client._pools:
                self._client._pools.remove(self)

    async def __aenter__(self) -> Pool:
        self._logic.check_open()
        return self

    def __repr__(self) -> str:
        return f"<rpma.aio.Pool {self.name!r}{self._state()}, at {self._client.address}>"


class PoolArray:
    """A part of a pool as a numpy array in registered memory. See `rpma.pool.PoolArray`.

    Attributes:
        local: the numpy array.
    """

    def __init__(self, pool: Pool, array: RegisteredArray) -> None:
        """Made by `Pool.array`."""
        self._pool = pool
        self._array = array
        self.local = array.local

    async def read(self, index: Index = None, *, timeout: float | None = None) -> None:
        """Read rows of the pool into `local`."""
        await self._pool._run(self._array.read(index), timeout)

    async def write(self, index: Index = None, *, timeout: float | None = None) -> None:
        """Write rows of `local` into the pool."""
        await self._pool._run(self._array.write(index), timeout)

    async def persist(self, index: Index = None, *, timeout: float | None = None) -> None:
        """Make rows durable that were written."""
        at, length = self._array.range(index)
        await self._pool.persist(self._array.offset + at, length, timeout=timeout)

    def close(self) -> None:
        """Deregister its memory; `local` lives on as an ordinary array."""
        self._array.close()
        if self in self._pool._arrays:
            self._pool._arrays.remove(self)


def connect(
    target: str | TargetAddress,
    *,
    token: Buffer | str | None = None,
    bounce_size: int | str = DEFAULT_BOUNCE_SIZE,
    timeout: float | None = CONNECT_TIMEOUT,
) -> Opening[Client]:
    """Connect to a target. See `rpma.pool.Client`."""

    async def opening() -> Client:
        address = target if isinstance(target, TargetAddress) else TargetAddress.parse(target)
        size, secret = bounce_size_of(bounce_size), check_token(token)
        driver = AsyncDriver()
        try:
            driver.watch(await driver.run(logic.connect(address, secret, size, timeout), timeout))
        except BaseException:
            driver.close()
            raise
        return Client(address, driver)

    return Opening(opening)


def create_pool(
    target: str | TargetAddress,
    name: str,
    size: int | str,
    *,
    token: Buffer | str | None = None,
    attributes: Attributes | None = None,
    volatile: bool = False,
    incomplete: bool = False,
    replace: bool = False,
    bounce_size: int | str = DEFAULT_BOUNCE_SIZE,
    timeout: float | None = CONNECT_TIMEOUT,
) -> Opening[Pool]:
    """Create a pool on a target, over a connection of its own."""
    return _alone(
        connect(target, token=token, bounce_size=bounce_size, timeout=timeout),
        lambda client: client.create_pool(
            name,
            size,
            attributes=attributes,
            volatile=volatile,
            incomplete=incomplete,
            replace=replace,
            timeout=timeout,
        ),
    )


def open_pool(
    target: str | TargetAddress,
    name: str,
    *,
    access: Access = "write",
    token: Buffer | str | None = None,
    bounce_size: int | str = DEFAULT_BOUNCE_SIZE,
    timeout: float | None = CONNECT_TIMEOUT,
) -> Opening[Pool]:
    """Open a pool of a target, over a connection of its own."""
    return _alone(
        connect(target, token=token, bounce_size=bounce_size, timeout=timeout),
        lambda client: client.open_pool(name, access=access, timeout=timeout),
    )


async def remove_pool(
    target: str | TargetAddress,
    name: str,
    *,
    token: Buffer | str | None = None,
    timeout: float | None = CONNECT_TIMEOUT,
) -> None:
    """Remove a pool of a target."""
    async with connect(target, token=token, timeout=timeout) as client:
        await client.remove_pool(name, timeout=timeout)


async def list_pools(
    target: str | TargetAddress,
    *,
    token: Buffer | str | None = None,
    timeout: float | None = CONNECT_TIMEOUT,
) -> list[PoolInfo]:
    """List the pools of a target."""
    async with connect(target, token=token, timeout=timeout) as client:
        return await client.list_pools(timeout=timeout)


def _alone(connecting: Opening[Client], open_: Callable[[Client], Opening[Pool]]) -> Opening[Pool]:
    async def opening() -> Pool:
        client = await connecting
        try:
            pool = await open_(client)
        except BaseException:
            await client.close()
            raise
        pool._owns_client = True
        return pool

    return Opening(opening)
