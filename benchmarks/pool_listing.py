# SPDX-License-Identifier: BSD-3-Clause
"""How long it takes to list the pools of a target, few and many, for benchmarks/pool.py."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import pool_peers

from rpma.pool import Client
from rpma.pool.target.store import Store

COUNTS = (10, 100, 1_000, 10_000)
SIZE = 4096  # of a pool
TIMES = 5


def listings(folder: Path) -> list[dict[str, Any]]:
    """Milliseconds for each number of pools: of a target that has just started, and afterwards."""
    folder.mkdir()
    found, made = [], 0
    for count in COUNTS:
        with Store(folder) as store:  # a client may ask for 500 a second
            for number in range(made, count):
                store.create(f"pool-{number:05}", SIZE).close()
        made = count
        with pool_peers.target(folder) as (_, address), Client(address) as client:
            times = []
            for _ in range(1 + TIMES):
                began = time.perf_counter()
                listed = client.list_pools()
                times.append((time.perf_counter() - began) * 1e3)
                assert len(listed) == count
        found.append({"pools": count, "first": times[0], "then": statistics.median(times[1:])})
    return found
