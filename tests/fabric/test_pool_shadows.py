"""Pools whose files the device cannot work on: they have copies in the target's memory."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pairs import SOON, pattern, threads
from targets import MIB, connect, serving, stored, wait_left

from fabrics.fabric import Fabric
from rpma import allocation
from rpma.pool import Persistency, Pool, PoolSizeError, PoolSpaceError, Target

pytestmark = pytest.mark.fabric


@pytest.fixture(autouse=True)
def shadowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file's own mapping do, on any device."""
    monkeypatch.setattr(allocation.Memory, "keeps_rdma_writes", False)


def taken(target: Target) -> int:
    """How much memory the target's shadows take."""
    return target.metrics(SOON).shadow_bytes


def test_a_copy_has_what_the_file_has_and_the_file_gets_what_the_copy_gets(
    fabric: Fabric, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = pattern(MIB + 100)
    caplog.set_level(logging.INFO, "rpma.target")
    with serving(fabric, tmp_path, shadow_memory="4MiB") as target, connect(target) as client:
        with client.create_pool("pool", len(data)) as pool:
            assert pool.persistency is Persistency.MSYNC
            pool.write_persist(0, data[:MIB])
            assert stored(tmp_path)[:MIB] == data[:MIB]
            pool.write(MIB, data[MIB:])
            assert stored(tmp_path)[MIB:][:100] == bytes(100)
            assert taken(target) == len(data)
            assert target.metrics(SOON).shadow_limit == 4 * MIB
        assert taken(target) == 0
        assert stored(tmp_path)[: len(data)] == data
        with client.open_pool("pool", access="read") as pool:
            assert pool.read() == data
    assert "pool 'pool' has a copy in DRAM: 1 MiB of the 4 MiB for such copies are taken" in (
        caplog.messages
    )


def test_copies_take_no_more_memory_than_they_may(fabric: Fabric, tmp_path: Path) -> None:
    with serving(fabric, tmp_path, shadow_memory=3 * MIB) as target, connect(target) as client:
        with client.create_pool("first", 2 * MIB):
            with pytest.raises(PoolSpaceError) as caught:
                client.create_pool("second", MIB + 1)
            for words in ("pool 'second'", "3 MiB may be taken", "2 MiB are", "--shadow-memory"):
                assert words in str(caught.value)
            # The client is told that there is none.
            assert [info.name for info in client.list_pools()] == ["first"]
            assert [file.name for file in tmp_path.glob("*.pool")] == ["first.pool"]
            assert taken(target) == 2 * MIB
            client.create_pool("small", MIB).close()
        client.create_pool("second", 3 * MIB).close()
        with client.open_pool("first"):
            with pytest.raises(PoolSpaceError, match=r"'second'.*--shadow-memory"):
                client.open_pool("second")
            client.open_pool("small").close()
            assert taken(target) == 2 * MIB
        client.open_pool("second").close()
        assert taken(target) == 0


def test_clients_that_leave_give_their_memory_back(fabric: Fabric, tmp_path: Path) -> None:
    with serving(fabric, tmp_path, shadow_memory=MIB) as target:
        for _ in range(2):
            with connect(target) as client:
                client.create_pool("pool", MIB)
            wait_left(target)
            assert taken(target) == 0
            with connect(target) as client:
                client.remove_pool("pool")


def test_many_at_once_take_no_more_than_they_may(fabric: Fabric, tmp_path: Path) -> None:
    count, room = 4, 2

    def some(pools: list[Pool], name: str) -> None:
        with connect(target) as client:
            for _ in range(5):
                try:
                    with client.open_pool(name):
                        assert taken(target) <= room * MIB
                        pools.append(name)
                except PoolSpaceError:
                    assert taken(target) <= room * MIB

    with serving(fabric, tmp_path, shadow_memory=room * MIB) as target:
        with connect(target) as client:
            for number in range(count):
                client.create_pool(f"pool{number}", MIB).close()
        opened: list[Pool] = []
        threads(*(lambda number=number: some(opened, f"pool{number}") for number in range(count)))
        assert opened
        wait_left(target)
        assert taken(target) == 0


def test_a_limit_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(PoolSizeError, match="shadow_memory"):
        Target(tmp_path, shadow_memory="much")
