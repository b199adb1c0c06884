"""Runs in the guest: persists over its RDMA device, and looks at the disk for what was persisted.

`python persisting.py FOLDER DEVICE ADDRESS`: FOLDER is on a file system on the disk DEVICE, ADDRESS
is the RDMA device's. What was found is a line of JSON on stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from blocks import PAGE, on_disk, places_of

from rpma import allocation
from rpma.pool import Client, Target
from rpma.pool.target.header import DATA_OFFSET
from rpma.pool.target.served_pool import ServedPool

HUGE_PAGE = 2 << 20
TIMES = 6
LIMIT = 60.0
"""For a call, in seconds."""

_TOKEN = "a token of sixteen"
_keeps_rdma_writes = allocation.Memory.keeps_rdma_writes


def persist(folder: Path, device: str, client: Client, name: str) -> dict[str, object]:
    """Persist many times in one place, and twice in each of some pages."""
    with client.create_pool(name, (1 + TIMES) * PAGE, timeout=LIMIT) as pool:
        places = places_of(folder / f"{name}.pool", DATA_OFFSET, 1 + TIMES)

        def is_kept(page: int, number: int) -> bool:
            data = number.to_bytes(2, "little") * (PAGE // 2)
            pool.write_persist(page * PAGE, data, timeout=LIMIT)
            return on_disk(device, places[page]) == data

        return {
            "one place": [is_kept(0, 1000 + time) for time in range(TIMES)],
            "first": [is_kept(1 + page, 2000 + page) for page in range(TIMES)],
            "second": [is_kept(1 + page, 3000 + page) for page in range(TIMES)],
        }


def pools(folder: Path, device: str, address: str, shadowed: list[bool]) -> dict[str, object]:
    """Persist with the rule that says who may have a file's own mapping, and without it."""
    with (
        Target(folder, listen="127.0.0.1:0", token=_TOKEN, rdma_address=address) as target,
        Client(target.address, token=_TOKEN, timeout=LIMIT) as client,
    ):
        with_rule = persist(folder, device, client, "with")
        [with_rule["shadowed"]] = shadowed
        shadowed.clear()
        allocation.Memory.keeps_rdma_writes = True  # type: ignore[assignment, method-assign]
        try:
            without = persist(folder, device, client, "without")
        finally:
            allocation.Memory.keeps_rdma_writes = _keeps_rdma_writes  # type: ignore[method-assign]
        [without["shadowed"]] = shadowed
        shadowed.clear()
        return {"with": with_rule, "without": without}


def on_tmpfs(address: str, shadowed: list[bool]) -> bool:
    """Whether a pool on tmpfs is shadowed."""
    folder = Path("/dev/shm/pools")
    folder.mkdir()
    with (
        Target(folder, listen="127.0.0.1:0", token=_TOKEN, rdma_address=address) as target,
        Client(target.address, token=_TOKEN, timeout=LIMIT) as client,
    ):
        client.create_pool("pool", PAGE, timeout=LIMIT).close()
    return shadowed.pop()


def mappings(folder: Path) -> dict[str, bool]:
    """Of which files the mapping keeps what peers write: by what they are on."""
    memory = os.memfd_create("memory")
    os.truncate(memory, PAGE)
    Path("/tmp/layered").write_bytes(bytes(PAGE))
    (folder / "ordinary").write_bytes(bytes(PAGE))
    Path("/run/bound").write_bytes(b"")
    ordinary = os.open(folder / "ordinary", os.O_RDWR)
    os.mkdir("/run/huge")
    Path("/proc/sys/vm/nr_hugepages").write_text("1")
    Path("/dev/shm/file").write_bytes(bytes(PAGE))
    files = {
        "ext4": str(folder / "ordinary"),
        "ext4 by its descriptor": f"/proc/self/fd/{ordinary}",
        "ext4 bound to a tmpfs": "/run/bound",
        "overlayfs": "/tmp/layered",
        "tmpfs": "/dev/shm/file",
        "memfd": f"/proc/self/fd/{memory}",
        "hugetlbfs": "/run/huge/file",
    }
    subprocess.run(["mount", "--bind", folder / "ordinary", "/run/bound"], check=True)
    subprocess.run(
        ["mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "huge", "/run/huge"], check=True
    )
    with open("/run/huge/file", "wb") as huge:
        huge.truncate(HUGE_PAGE)
    found = {}
    for name, file in files.items():
        with allocation.map_file(file) as mapped:
            found[name] = mapped.keeps_rdma_writes
    return found


def of_example(folder: Path) -> str:
    """What the examples say of a file on a disk."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
    import common

    try:
        common.map_memory(str(folder / "example"), PAGE)
    except SystemExit as error:
        return str(error.code)
    return ""


def main() -> None:
    folder, device, address = Path(sys.argv[1]), *sys.argv[2:]
    shadowed: list[bool] = []
    mapped = ServedPool.map

    def map_(self: ServedPool, *arguments: object) -> None:
        mapped(self, *arguments)  # type: ignore[arg-type]
        shadowed.append(self.is_shadowed)

    ServedPool.map = map_  # type: ignore[method-assign, assignment]
    found = {
        "kernel": os.uname().release,
        **pools(folder, device, address, shadowed),
        "tmpfs": on_tmpfs(address, shadowed),
        "mappings": mappings(folder),
        "example": of_example(folder),
    }
    print(json.dumps(found))


main()
