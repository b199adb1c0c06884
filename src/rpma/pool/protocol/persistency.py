# SPDX-License-Identifier: BSD-3-Clause
"""What makes a pool durable."""

from __future__ import annotations

import enum


class Persistency(enum.Enum):
    """What makes a pool durable.

    Attributes:
        NONE: nothing: it is in DRAM.
        MSYNC: a request to the target, which writes the pages to the file's storage.
        PMEM: a request to the target, which flushes its CPU caches to persistent memory.
        FLUSH: the client's own flush: what arrives at the target is in its persistence domain. A
            request is answered all the same, as with PMEM.
    """

    NONE = "none"
    MSYNC = "msync"
    PMEM = "pmem_persist"
    FLUSH = "rpma_flush"
