# SPDX-License-Identifier: BSD-3-Clause
"""What `rpma bench` measures, and how."""

from __future__ import annotations

import bisect
import contextlib
import datetime
import gc
import itertools
import math
import platform
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import rpma
from rpma.pool.client.client import Client
from rpma.pool.client.pool import Pool
from rpma.pool.protocol.address import TargetAddress
from rpma.pool.protocol.errors import PoolBusyError, PoolError, PoolNotFoundError
from rpma.pool.protocol.persistency import Persistency

WARM_UP = 10
"""How many calls come before those that count."""

LEAST_CALLS = 10
MOST_CALLS = 1_000_000
"""How many calls are measured at least and at most, whatever the time."""

LEAST_POOL_SIZE = 16 << 20
"""So that small calls do not all go to the same pages, in bytes."""

BINS_PER_DOUBLING = 4
"""How fine a histogram is: each bin ends where the time is 2**(1/4) of where it begins."""

REMOVAL_SECONDS = 10.0
"""How long the target may take to see that a connection is over, in seconds."""

Call = Callable[[int, memoryview], object]


def measure(
    address: TargetAddress,
    token: bytes | None,
    sizes: Sequence[int],
    seconds: float,
    *,
    volatile: bool,
    step: Callable[[str], None],
) -> dict[str, Any]:
    """Measure a target in a pool that is made for it, and removed whatever happens.

    Args:
        address: of the target.
        token: the target's.
        sizes: of the calls, in bytes.
        seconds: how long each size of each call is measured.
        volatile: whether the pool is in DRAM.
        step: called with what comes next.

    Returns:
        What ``--json`` writes.
    """
    name = f"bench-{secrets.token_hex(6)}"
    room = max(LEAST_POOL_SIZE, *(4 * size for size in sizes))
    with Client(address, token=token) as client:
        try:
            with client.create_pool(name, room, volatile=volatile) as pool:
                return _measure(client, pool, sizes, seconds, step)
        finally:
            _remove(client, token, name)


def _measure(
    client: Client,
    pool: Pool,
    sizes: Sequence[int],
    seconds: float,
    step: Callable[[str], None],
) -> dict[str, Any]:
    calls: dict[str, Call] = {"write": pool.write}
    if pool.persistency is not Persistency.NONE:
        calls["write_persist"] = pool.write_persist
    calls["read"] = pool.read_into
    began = datetime.datetime.now(datetime.timezone.utc)
    results = []
    for operation, call in calls.items():
        for size in sizes:
            step(f"{operation} of {size} bytes")
            results.append({"operation": operation, **_time(call, size, pool.size, seconds)})
    return {
        "target": str(client.address),
        "device": client.device,
        "fabric": rpma.fabric.name,
        "persistency": pool.persistency.value,
        "pool_size": pool.size,
        "time": began.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "rpma": rpma.__version__,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "seconds": seconds,
        "results": results,
    }


def _time(call: Call, size: int, room: int, seconds: float) -> dict[str, Any]:
    """Times of calls of one size, at places all over the pool."""
    data = memoryview(bytearray(random.randbytes(size)))
    grain = 8 if size >= 8 else 1
    offsets = [random.randrange(0, (room - size) // grain + 1) * grain for _ in range(1024)]
    for number in range(WARM_UP):
        call(offsets[number], data)
    times: list[int] = []
    clock = time.perf_counter_ns
    with _without_gc():
        began = now = clock()
        end = began + int(seconds * 1e9)
        while (now < end and len(times) < MOST_CALLS) or len(times) < LEAST_CALLS:
            offset = offsets[len(times) & 1023]
            before = clock()
            call(offset, data)
            now = clock()
            times.append(now - before)
    elapsed = (now - began) / 1e9
    times.sort()
    return {
        "size": size,
        "count": len(times),
        "mean_us": round(sum(times) / len(times) / 1e3, 3),
        "min_us": times[0] / 1e3,
        "p50_us": percentile(times, 50) / 1e3,
        "p99_us": percentile(times, 99) / 1e3,
        "p999_us": percentile(times, 99.9) / 1e3,
        "max_us": times[-1] / 1e3,
        "calls_per_second": round(len(times) / elapsed, 1),
        "bytes_per_second": round(len(times) * size / elapsed),
        "histogram": histogram(times),
    }


def percentile(ordered: Sequence[int], percent: float) -> int:
    """The least value that so many percent of the values do not exceed."""
    rank = math.ceil(round(len(ordered) * percent / 100, 9))
    return ordered[max(rank, 1) - 1]


def histogram(ordered: Sequence[int]) -> dict[str, list[float]]:
    """How many times, given in ns, fall between edges, in us; one edge more than counts."""
    first = math.floor(math.log2(max(ordered[0], 1)) * BINS_PER_DOUBLING)
    last = math.floor(math.log2(max(ordered[-1], 1)) * BINS_PER_DOUBLING) + 1
    edges = [2 ** (power / BINS_PER_DOUBLING) for power in range(first, last + 1)]
    places = [bisect.bisect_left(ordered, edge) for edge in edges]
    places[0], places[-1] = 0, len(ordered)  # whatever floating point says
    counts = [after - before for before, after in itertools.pairwise(places)]
    return {"edges_us": [round(edge / 1e3, 4) for edge in edges], "counts": list(counts)}


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _remove(client: Client, token: bytes | None, name: str) -> None:
    """Remove the pool, over a new connection if that one is lost."""
    with contextlib.suppress(rpma.RpmaError, OSError):
        client.remove_pool(name)
        return
    client.close()  # or the target would think the pool in use
    deadline = time.monotonic() + REMOVAL_SECONDS
    while True:
        try:
            with Client(client.address, token=token) as another:
                another.remove_pool(name)
        except PoolNotFoundError:
            return
        except PoolBusyError:  # the target has not yet seen that the connection is over
            if time.monotonic() > deadline:
                return
            time.sleep(0.2)
        except (PoolError, rpma.RpmaError, OSError):
            return  # the target is gone, which whoever called has been told
        else:
            return
