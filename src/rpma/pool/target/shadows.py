# SPDX-License-Identifier: BSD-3-Clause
"""The memory of shadows: copies in DRAM of pools whose files the device cannot work on."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import Final

from rpma.pool.protocol.errors import PoolSpaceError
from rpma.pool.protocol.sizes import format_size

PART: Final = 2
"""Shadows may take one in so many bytes of memory, if nothing is said: they cannot be swapped."""


class ShadowMemory:
    """How much memory shadows take together, and may take; for all threads.

    Attributes:
        limit: how much they may take, in bytes.
    """

    def __init__(self, limit: int) -> None:
        """None is taken yet."""
        self.limit = limit
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """How much they take, in bytes."""
        return self._used

    def take(self, size: int, name: str) -> None:
        """Count `size` bytes for the pool called `name`, until they are given back.

        Raises:
            PoolSpaceError: so many are not left.
        """
        with self._lock:
            left = self.limit - self._used
            if size <= left:
                self._used += size
                return
        raise PoolSpaceError(
            f"pool {name!r} needs {format_size(size)} of the target's memory for a copy, since the "
            f"RDMA device cannot work on its file: {format_size(self.limit)} may be taken by such "
            f"copies, and {format_size(self.limit - left)} are; the target's --shadow-memory "
            "(Target's shadow_memory) raises that"
        )

    def give_back(self, size: int) -> None:
        """They are free again."""
        with self._lock:
            self._used -= size


def default_limit(root: str = "/") -> int:
    """Half of the machine's memory, or of what its control groups (v2) leave this process.

    Args:
        root: where proc and sys are.
    """
    with open(os.path.join(root, "proc/meminfo")) as lines:
        found = re.search(r"^MemTotal: +(\d+) kB$", lines.read(), re.MULTILINE)
    assert found is not None, "/proc/meminfo tells no MemTotal"
    return min([int(found[1]) << 10, *_group_limits(root)]) // PART


def _group_limits(root: str) -> list[int]:
    """The limits of the control group of this process, and of all that it is in."""
    limits = []
    with contextlib.suppress(OSError):
        with open(os.path.join(root, "proc/self/cgroup")) as lines:
            group = next((line[3:].strip() for line in lines if line.startswith("0::")), "/")
        parts = [part for part in group.split("/") if part]
        for count in range(len(parts) + 1):
            folder = os.path.join(root, "sys/fs/cgroup", *parts[:count])
            # The root has no limit, a container sees no more than its own, "max" is none.
            with (
                contextlib.suppress(OSError, ValueError),
                open(os.path.join(folder, "memory.max")) as limit,
            ):
                limits.append(int(limit.read()))
    return limits
