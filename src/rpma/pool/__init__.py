# SPDX-License-Identifier: BSD-3-Clause
"""Remote pools: named, durable memory of another machine.

A target (`Target`, or the command `rpma serve`) serves pools; clients create, open, read, write,
persist and close them::

    with rpma.create_pool("db1.example:7204", "journal", size="64MiB", token=token) as pool:
        pool[0:4096] = bytes(4096)
        pool.persist(0, 4096)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpma.pool.client.client import (
    Client,
    create_pool,
    list_pools,
    open_pool,
    remove_pool,
)
from rpma.pool.client.pool import Pool, PoolArray
from rpma.pool.protocol.address import DEFAULT_PORT, TargetAddress
from rpma.pool.protocol.attributes import Attributes
from rpma.pool.protocol.errors import (
    AuthenticationError,
    NotDurableError,
    PoolAccessError,
    PoolBusyError,
    PoolDamagedError,
    PoolError,
    PoolExistsError,
    PoolNameError,
    PoolNotFoundError,
    PoolSizeError,
    PoolSpaceError,
    ProtocolError,
    StorageError,
    TargetError,
    TargetLost,
)
from rpma.pool.protocol.messages import PoolInfo
from rpma.pool.protocol.persistency import Persistency

if TYPE_CHECKING:
    from rpma.pool.target.target import Target

__all__ = [
    "DEFAULT_PORT",
    "Attributes",
    "AuthenticationError",
    "Client",
    "NotDurableError",
    "Persistency",
    "Pool",
    "PoolAccessError",
    "PoolArray",
    "PoolBusyError",
    "PoolDamagedError",
    "PoolError",
    "PoolExistsError",
    "PoolInfo",
    "PoolNameError",
    "PoolNotFoundError",
    "PoolSizeError",
    "PoolSpaceError",
    "ProtocolError",
    "StorageError",
    "Target",
    "TargetAddress",
    "TargetError",
    "TargetLost",
    "create_pool",
    "list_pools",
    "open_pool",
    "remove_pool",
]


def __getattr__(name: str) -> Any:
    if name == "Target":  # which brings asyncio along: a client does without
        from rpma.pool.target.target import Target

        return Target
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
