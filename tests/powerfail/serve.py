"""The target in the guest: serves the pools of both kinds of storage until the power goes."""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

# asyncio does without it, and it takes half a second to import here.
sys.modules["ssl"] = None  # type: ignore[assignment]

import agent  # type: ignore[import-not-found]  # noqa: E402

from rpma import allocation  # noqa: E402
from rpma.pool.target import served_pool  # noqa: E402
from rpma.pool.target.header import DATA_OFFSET  # noqa: E402
from rpma.pool.target.target import Target  # noqa: E402

LINE = 64
"""What a processor's cache keeps or loses as a whole, in bytes."""
PAGE = 4096
KINDS = ("dax", "disk")


def lose_caches(pool: Path, persisted: bytes, chance: random.Random, survival: float) -> None:
    """Take from a pool what was in the processor's caches when the power went.

    A line that was not flushed may have left the cache all the same: each survives by chance. The
    emulated memory itself loses nothing.
    """
    fd = os.open(pool, os.O_RDWR)
    for start in range(0, len(persisted), PAGE):
        now = os.pread(fd, min(PAGE, len(persisted) - start), DATA_OFFSET + start)
        if now == persisted[start : start + PAGE]:
            continue
        for at in range(start, start + len(now), LINE):
            line = persisted[at : min(at + LINE, start + len(now))]
            if now[at - start : at - start + LINE] != line and chance.random() >= survival:
                os.pwrite(fd, line, DATA_OFFSET + at)
    os.fsync(fd)
    os.close(fd)


def shadow_some() -> None:
    """Let pools named "shadowed" be what they are with a device that does not pin their pages."""
    mapped, can_register = served_pool.ServedPool.map, served_pool._can_register
    here = threading.local()

    def map_(self: served_pool.ServedPool, *arguments: Any) -> None:
        here.is_shadowed = self.name.startswith("shadowed")
        mapped(self, *arguments)
        assert self.is_shadowed == here.is_shadowed

    served_pool._can_register = lambda *of: not here.is_shadowed and can_register(*of)
    served_pool.ServedPool.map = map_  # type: ignore[method-assign, assignment]


def switch_the_rule_off(pins_files: bool) -> None:
    """Let the kernel's device work on the files themselves of pools named "unruled", if it can."""
    mapped, keeps = served_pool.ServedPool.map, allocation.Memory.keeps_rdma_writes
    here = threading.local()

    def map_(self: served_pool.ServedPool, *arguments: Any) -> None:
        here.is_unruled = self.name.startswith("unruled")
        mapped(self, *arguments)
        assert self.is_shadowed == (not (here.is_unruled and pins_files))

    def keeps_rdma_writes(self: allocation.Memory) -> bool:
        return bool(here.is_unruled or keeps.fget(self))  # type: ignore[attr-defined]

    allocation.Memory.keeps_rdma_writes = property(keeps_rdma_writes)  # type: ignore[assignment, method-assign]
    served_pool.ServedPool.map = map_  # type: ignore[method-assign, assignment]


def main() -> None:
    share = Path(os.environ["POWERFAIL_SHARE"])
    job = json.loads((share / "job").read_text())
    logging.basicConfig(level=logging.WARNING)
    assert "/stubs.so" in Path("/proc/self/maps").read_text()
    chance = random.Random(job["seed"])
    for name in job["persisted"]:
        pool = Path("/run/dax/pools", name + ".pool")
        if pool.exists():
            lose_caches(pool, (share / f"{name}.persisted").read_bytes(), chance, job["survival"])
    ports, token = job["ports"], job["token"]
    if "agent" in ports:
        switch_the_rule_off(job["pins_files"])
        facts = dict(line.split("=", 1) for line in (share / "facts").read_text().splitlines())
        targets = {
            kind: Target(
                f"/run/{kind}/pools",
                listen="127.0.0.1:0",
                token=token,
                rdma_address=facts["address"],
            )
            for kind in KINDS
        }
    else:
        shadow_some()
        targets = {
            kind: Target(
                f"/run/{kind}/pools",
                listen=f"0.0.0.0:{ports[kind][0]}",
                token=token,
                data_ports=ports[kind][1:],
            )
            for kind in KINDS
        }
    for target in targets.values():
        target.start()
    if "agent" in ports:
        addresses = {kind: str(target.address) for kind, target in targets.items()}
        agent.listen(ports["agent"][0], addresses, token)
    (share / "serving").touch()
    while True:
        time.sleep(3600)


main()
