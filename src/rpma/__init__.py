# SPDX-License-Identifier: BSD-3-Clause
"""Remote (persistent) memory access over RDMA: a binding of librpma.

Register a piece of memory on one machine, read and write it from another without the first one's
CPU in the path, and make what was written durable. See docs/tutorial.md for a start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpma import allocation, errors, log
from rpma._fabric import Fabric
from rpma._native import fabric
from rpma.completion import CompletionQueue, WorkCompletion
from rpma.config import ConnectionConfig
from rpma.conn_req import ConnectionRequest
from rpma.connection import Connection
from rpma.constants import (
    ATOMIC_WRITE_ALIGNMENT,
    DEFAULT_TIMEOUT_MS,
    Advice,
    AdviseFlags,
    CompletionFlags,
    ConnectionEvent,
    FlushType,
    Usage,
    WcFlags,
    WcOpcode,
    WcStatus,
)
from rpma.device import Device, DeviceAttributes, devices
from rpma.endpoint import Endpoint
from rpma.errors import (
    AgainError,
    ClosedError,
    CompletionError,
    ConnectionClosed,
    ConnectionEventError,
    ConnectionLost,
    ConnectionRejected,
    ConnectionUnreachable,
    ForkedError,
    InUseError,
    InvalidArgumentError,
    NoCompletionError,
    NoDeviceError,
    NoEventError,
    NotSharedChannelError,
    NotSupportedError,
    OutOfMemoryError,
    ProviderError,
    QueueFullError,
    RpmaError,
    SharedChannelError,
    UnknownError,
    VersionError,
    WaitTimeoutError,
    err_2str,
    errormsg,
)
from rpma.memory import Descriptor, MemoryRegion, RemoteMemoryRegion
from rpma.peer import Peer, PeerConfig
from rpma.srq import SharedReceiveQueue, SharedReceiveQueueConfig
from rpma.version import Library, check_version, library, version_mismatch

if TYPE_CHECKING:
    from rpma import aio, pool
    from rpma.pool import Target, create_pool, list_pools, open_pool, remove_pool

__version__ = "0.1.0"

__all__ = [
    "ATOMIC_WRITE_ALIGNMENT",
    "DEFAULT_TIMEOUT_MS",
    "Advice",
    "AdviseFlags",
    "AgainError",
    "ClosedError",
    "CompletionError",
    "CompletionFlags",
    "CompletionQueue",
    "Connection",
    "ConnectionClosed",
    "ConnectionConfig",
    "ConnectionEvent",
    "ConnectionEventError",
    "ConnectionLost",
    "ConnectionRejected",
    "ConnectionRequest",
    "ConnectionUnreachable",
    "Descriptor",
    "Device",
    "DeviceAttributes",
    "Endpoint",
    "Fabric",
    "FlushType",
    "ForkedError",
    "InUseError",
    "InvalidArgumentError",
    "Library",
    "MemoryRegion",
    "NoCompletionError",
    "NoDeviceError",
    "NoEventError",
    "NotSharedChannelError",
    "NotSupportedError",
    "OutOfMemoryError",
    "Peer",
    "PeerConfig",
    "ProviderError",
    "QueueFullError",
    "RemoteMemoryRegion",
    "RpmaError",
    "SharedChannelError",
    "SharedReceiveQueue",
    "SharedReceiveQueueConfig",
    "Target",
    "UnknownError",
    "Usage",
    "VersionError",
    "WaitTimeoutError",
    "WcFlags",
    "WcOpcode",
    "WcStatus",
    "WorkCompletion",
    "__version__",
    "aio",
    "allocation",
    "check_version",
    "create_pool",
    "devices",
    "err_2str",
    "errormsg",
    "errors",
    "fabric",
    "library",
    "list_pools",
    "log",
    "open_pool",
    "pool",
    "remove_pool",
    "version_mismatch",
]

# Pools come when they are first asked for: they need msgspec (the extra "pool"), and time.
_OF_POOL = ("Target", "create_pool", "list_pools", "open_pool", "remove_pool")


def __getattr__(name: str) -> Any:
    if name in ("aio", "pool") or name in _OF_POOL:
        from importlib import import_module

        module = import_module(f"rpma.{name if name == 'aio' else 'pool'}")
        return getattr(module, name) if name in _OF_POOL else module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
