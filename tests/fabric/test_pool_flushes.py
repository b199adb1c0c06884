"""Pools that the device itself makes durable, by what their operator says of the platform."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pairs import SOON, has_native_flush, line, pattern, python
from targets import MIB, TOKEN, connect, stored

import rpma
from fabrics.fabric import Fabric
from rpma.pool import Persistency, TargetAddress

pytestmark = pytest.mark.fabric

SERVING = """
import sys
from rpma.pool import Target
folder, address, token, word = sys.argv[1:]
with Target(
    folder,
    listen="127.0.0.1:0",
    token=token,
    rdma_address=address,
    direct_write_to_pmem=word == "stated",
) as target:
    print(target.address.port, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder on tmpfs, whose files any device works on itself."""
    made = Path(tempfile.mkdtemp(prefix="rpma-pools-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("word", ["stated", "not stated"])
def test_the_device_flushes_by_the_word_of_the_operator_unless_it_refuses_the_memory(
    fabric: Fabric, peer: rpma.Peer, folder: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """libpmem is told to take all memory for persistent. A device that flushes by itself knows
    better, and then the target's processor does.
    """
    monkeypatch.setitem(os.environ, "PMEM_IS_PMEM_FORCE", "1")
    refuses = word == "stated" and has_native_flush(peer)
    by_device = word == "stated" and not refuses
    data = pattern(MIB)
    with python(SERVING, str(folder), fabric.address, TOKEN, word) as child:
        with (
            connect(TargetAddress("127.0.0.1", int(line(child)))) as client,
            client.create_pool("pool", MIB) as pool,
        ):
            assert pool.persistency is (Persistency.FLUSH if by_device else Persistency.PMEM)
            pool.write_persist(0, data[: MIB // 2])
            pool.write(MIB // 2, data[MIB // 2 :])
            pool.persist(MIB // 2, MIB // 2)
            assert pool.read() == data
            assert stored(folder)[:MIB] == data
        _, errors = child.communicate(timeout=SOON)
    assert ("the target flushes it" in errors) == refuses, errors


def test_what_is_not_persistent_memory_is_not_flushed_by_the_device(
    fabric: Fabric, folder: Path
) -> None:
    with (
        python(SERVING, str(folder), fabric.address, TOKEN, "stated") as child,
        connect(TargetAddress("127.0.0.1", int(line(child)))) as client,
        client.create_pool("pool", MIB) as pool,
    ):
        assert pool.persistency is Persistency.MSYNC
        pool.write_persist(0, pattern(100))
