# SPDX-License-Identifier: BSD-3-Clause
"""The client that blocks: what can be asked of a target."""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING

from rpma.errors import ClosedError, RpmaError, WaitTimeoutError
from rpma.pool.client import logic
from rpma.pool.client.datapath import LEAST_BOUNCE_SIZE, DataPath
from rpma.pool.client.driver import Driver, seconds
from rpma.pool.client.line import Line
from rpma.pool.client.pool import LEAVE_TIMEOUT, Pool, leave
from rpma.pool.protocol.address import TargetAddress
from rpma.pool.protocol.errors import PoolSizeError
from rpma.pool.protocol.sizes import parse_size
from rpma.pool.protocol.tokens import check_token

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rpma._types import Buffer
    from rpma.pool.client.pool_logic import PoolLogic
    from rpma.pool.protocol.attributes import Attributes
    from rpma.pool.protocol.messages import Access, PoolInfo

DEFAULT_BOUNCE_SIZE = 8 << 20
"""How much memory a client registers to move data through, in bytes."""

CONNECT_TIMEOUT = 30.0
"""How long coming in may take, in seconds."""


class Client:
    """A connection to a target: many pools over one.

    Threads may share a client and its pools: one call at a time goes on, in the order in which they
    came. To wait for its turn is part of a call's timeout.
    """

    def __init__(
        self,
        target: str | TargetAddress,
        *,
        token: Buffer | str | None = None,
        bounce_size: int | str = DEFAULT_BOUNCE_SIZE,
        timeout: float | None = CONNECT_TIMEOUT,
    ) -> None:
        """Connect.

        Args:
            target: `[user@]host[:port]`, an IPv6 address in brackets.
            token: the target's; None for one that has none.
            bounce_size: how much memory to register for data that is not in registered memory
                itself, in bytes or as "8MiB".
            timeout: for all of it, in seconds; None waits for ever.

        Raises:
            AuthenticationError: the token is not the target's.
            TargetLost: there is no target, or it ended the connection.
            NoDeviceError: no RDMA device leads to the target.
            WaitTimeoutError: it did not answer in time.
        """
        self._closed = True  # until it is open
        self.address = target if isinstance(target, TargetAddress) else TargetAddress.parse(target)
        size = bounce_size_of(bounce_size)
        secret = check_token(token)
        self._pools: list[Pool] = []
        self._closings = Line()
        self._driver = Driver()
        try:
            steps = logic.connect(self.address, secret, size, timeout)
            self._driver.path = self._driver.run(steps, timeout)
        except BaseException:
            self._driver.close()
            raise
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
    ) -> Pool:
        """Create a pool and open it for writing.

        Args:
            name: letters, digits, ".", "_" and "-", not beginning with any of these three.
            size: in bytes, or as "64MiB".
            attributes: whatever its users want to know of it.
            content_length: how many of its bytes are a file's content.
            volatile: in the target's DRAM: gone when the target ends.
            incomplete: it is marked so, as long as it is filled, until `Pool.commit`.
            replace: it takes the place of the pool of that name, if there is one, in `Pool.commit`.
                Until then the old one is there, and can be read but not changed; the new one is
                incomplete, beside it and not listed, and goes if it is closed without. So there
                must be room for both.
            timeout: in seconds; None waits for ever.

        Raises:
            PoolExistsError: there is one of that name.
            PoolBusyError: the one to be replaced is open for writing, or being replaced.
            PoolSpaceError: the target has no room for it.
            PoolNameError, PoolSizeError: those cannot be.
        """
        steps = logic.create(
            self._path, name, size, attributes, content_length, volatile, incomplete, replace
        )
        return self._opened(self._driver.run(steps, timeout))

    def open_pool(
        self, name: str, *, access: Access = "write", timeout: float | None = None
    ) -> Pool:
        """Open a pool.

        Args:
            name: its name.
            access: "write": for this client alone; "read": with others who read; "shared": for
                writing, with others who asked for the same.
            timeout: in seconds; None waits for ever.

        Raises:
            PoolNotFoundError: there is none of that name.
            PoolBusyError: others have it open in a way that excludes this.
            PoolDamagedError: its file is not what the target made of it.
        """
        return self._opened(self._driver.run(logic.open_(self._path, name, access), timeout))

    def list_pools(self, *, timeout: float | None = None) -> list[PoolInfo]:
        """All pools of the target, in order of their names."""
        pools: list[PoolInfo] = self._driver.run(logic.list_(self._path), timeout)
        return pools

    def describe_pool(self, name: str, *, timeout: float | None = None) -> PoolInfo:
        """What the target says of one pool."""
        info: PoolInfo = self._driver.run(logic.describe(self._path, name), timeout)
        return info

    def resize_pool(self, name: str, size: int | str, *, timeout: float | None = None) -> None:
        """Change the size of a pool that nobody has open. What is added is zeros."""
        self._driver.run(logic.resize(self._path, name, size), timeout)

    def remove_pool(self, name: str, *, timeout: float | None = None) -> None:
        """Remove a pool that nobody has open."""
        self._driver.run(logic.remove(self._path, name), timeout)

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

    def _opened(self, pool: PoolLogic) -> Pool:
        opened = Pool(self, pool)
        self._pools.append(opened)
        if self._closed:  # by another thread, since the target has answered
            opened._let_go()
        return opened

    def close(self, *, timeout: float | None = None) -> None:
        """Close its pools, after what was issued is done, and the connection. Idempotent.

        Whichever threads close it, or its pools, at once: each returns when that is done. A call
        that closes it, by a callback, from within, leaves it to another thread that is at it.

        Args:
            timeout: in seconds; None waits for ever. It is closed all the same when that has
                passed.

        Raises:
            TargetLost: the connection has ended, and with it what was not persisted may be lost.
            WaitTimeoutError: the timeout has passed.
        """
        deadline = None if timeout is None else time.monotonic() + seconds(timeout)
        try:
            self._one_closes(partial(self._close, deadline), deadline)
        except WaitTimeoutError:
            if not self._closed:  # another thread closes it, and has more time
                self._end(deadline)
            raise

    def _one_closes(self, close: Callable[[], None], deadline: float | None) -> None:
        """Call this when no other thread closes anything of this client."""
        if self._driver.is_of_parent:
            close()
            return
        # In a call: whoever closes waits for that call, which must not wait for him.
        is_in_call = self._driver.line.is_inside()
        has_begun = False

        def begin() -> None:
            nonlocal has_begun
            has_begun = True
            close()

        try:
            self._closings.do(begin, -math.inf if is_in_call else deadline)
        except WaitTimeoutError:
            if has_begun or not is_in_call:
                raise

    def _close(self, deadline: float | None) -> None:
        if self._closed:
            return
        with contextlib.ExitStack() as stack:  # all of it, whatever fails
            stack.callback(self._end, deadline)
            for pool in tuple(self._pools):
                stack.callback(_close_in_time, pool, deadline)

    def _end(self, deadline: float | None) -> None:
        self._closed = True
        try:
            self._driver.close_in_turn(deadline)
        finally:
            for pool in tuple(self._pools):  # opened by other threads meanwhile
                pool._let_go()

    def __enter__(self) -> Client:
        if self._closed:
            raise ClosedError("the client is closed")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        leave(self, kind)

    def __del__(self) -> None:
        if not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self._closed = True
            self._driver.close()

    def __repr__(self) -> str:
        return f"<rpma.pool.Client{' closed' if self._closed else ''} of {self.address}>"


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
) -> Pool:
    """Create a pool on a target, over a connection of its own. See `Client.create_pool`."""
    client = Client(target, token=token, bounce_size=bounce_size, timeout=timeout)
    return _alone(
        client,
        lambda: client.create_pool(
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
) -> Pool:
    """Open a pool of a target, over a connection of its own. See `Client.open_pool`."""
    client = Client(target, token=token, bounce_size=bounce_size, timeout=timeout)
    return _alone(client, lambda: client.open_pool(name, access=access, timeout=timeout))


def remove_pool(
    target: str | TargetAddress,
    name: str,
    *,
    token: Buffer | str | None = None,
    timeout: float | None = CONNECT_TIMEOUT,
) -> None:
    """Remove a pool of a target. See `Client.remove_pool`."""
    with Client(target, token=token, timeout=timeout) as client:
        client.remove_pool(name, timeout=timeout)


def list_pools(
    target: str | TargetAddress,
    *,
    token: Buffer | str | None = None,
    timeout: float | None = CONNECT_TIMEOUT,
) -> list[PoolInfo]:
    """List the pools of a target. See `Client.list_pools`."""
    with Client(target, token=token, timeout=timeout) as client:
        return client.list_pools(timeout=timeout)


def bounce_size_of(size: int | str) -> int:
    """The size of the bounce buffers in bytes, if that is enough."""
    number = parse_size(size, "bounce_size")
    if number < LEAST_BOUNCE_SIZE:
        raise PoolSizeError(f"bounce_size={number} must be at least {LEAST_BOUNCE_SIZE}")
    return number


def _close_in_time(pool: Pool, deadline: float | None) -> None:
    pool.close(timeout=None if deadline is None else max(deadline - time.monotonic(), 0))


def _alone(client: Client, opening: Callable[[], Pool]) -> Pool:
    try:
        pool = opening()
    except BaseException:
        with contextlib.suppress(RpmaError, OSError):
            client.close(timeout=LEAVE_TIMEOUT)
        raise
    pool._owns_client = True
    return pool
