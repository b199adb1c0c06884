"""Pools that are incomplete until they are whole, and pools that take the place of others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pairs import SOON
from targets import MIB, TOKEN, connect, process, serving, wait_left, wait_until

import rpma
from fabrics.fabric import Fabric
from rpma.pool import (
    Client,
    PoolAccessError,
    PoolBusyError,
    PoolExistsError,
    PoolNotFoundError,
    PoolSpaceError,
    Target,
)

pytestmark = pytest.mark.fabric

SIZE = 64 << 10


@pytest.fixture
def target(fabric: Fabric, tmp_path: Path) -> Iterator[Target]:
    with serving(fabric, tmp_path, dram="1MiB") as started:
        yield started


@pytest.fixture
def client(target: Target) -> Iterator[Client]:
    with connect(target) as connected:
        yield connected


@pytest.fixture
def other(target: Target) -> Iterator[Client]:
    with connect(target) as connected:
        yield connected


def make(client: Client, data: bytes = b"old", name: str = "pool", volatile: bool = False) -> None:
    with client.create_pool(name, SIZE, volatile=volatile, content_length=len(data)) as pool:
        pool.write(0, data)
        if not volatile:
            pool.persist(0, len(data))


def content(client: Client, name: str = "pool") -> bytes:
    with client.open_pool(name, access="read") as pool:
        assert not pool.info.incomplete
        return pool.read(0, pool.info.content_length)


def files(folder: Path) -> list[str]:
    return sorted(set(os.listdir(folder)) - {".lock"})


# ---- pools that are being filled -----------------------------------------------------------------


@pytest.mark.parametrize("volatile", [False, True])
def test_a_pool_is_incomplete_until_it_is_committed(client: Client, volatile: bool) -> None:
    with client.create_pool("pool", SIZE, incomplete=True, volatile=volatile) as pool:
        assert pool.info.incomplete
        pool.write(0, b"data")
        pool.set_content_length(2)
        described = client.describe_pool("pool")
        assert (described.incomplete, described.content_length) == (True, 2)
    with client.open_pool("pool") as pool:  # somebody goes on with it
        assert pool.info.incomplete
        with pytest.raises(rpma.InvalidArgumentError):
            pool.commit(SIZE + 1)
        pool.commit(4)
        pool.commit()
        assert client.describe_pool("pool") in client.list_pools()
    described = client.describe_pool("pool")
    assert (described.incomplete, described.content_length) == (False, 4)


def test_a_pool_is_whole_if_nobody_says_otherwise(client: Client) -> None:
    make(client)
    assert not client.describe_pool("pool").incomplete
    client.resize_pool("pool", 2)
    cut = client.describe_pool("pool")
    assert (cut.incomplete, cut.content_length) == (True, 2)


def test_what_was_committed_is_durable(client: Client, tmp_path: Path) -> None:
    with client.create_pool("pool", SIZE, incomplete=True) as pool:
        pool.write(SIZE - 4, b"last")
        pool.commit()
        # Where the device has a copy of the file, only what was persisted is in it.
        assert (tmp_path / "pool.pool").read_bytes()[-4:] == b"last"


def test_a_reader_commits_nothing(client: Client) -> None:
    client.create_pool("pool", SIZE, incomplete=True).close()
    with client.open_pool("pool", access="read") as pool, pytest.raises(PoolAccessError):
        pool.commit()
    assert client.describe_pool("pool").incomplete


# ---- pools that replace others -------------------------------------------------------------------

KINDS = pytest.mark.parametrize(
    ("old", "new"), [(False, False), (False, True), (True, False), (True, True)]
)


@KINDS
def test_a_pool_takes_the_place_of_another(
    client: Client, other: Client, target: Target, tmp_path: Path, old: bool, new: bool
) -> None:
    make(client, volatile=old)
    pool_id = client.describe_pool("pool").pool_id
    with client.create_pool("pool", 2 * SIZE, replace=True, volatile=new) as pool:
        pool.write(0, b"new one")
        assert content(other) == b"old"
        assert [info.size for info in other.list_pools()] == [SIZE]
        pool.commit(7)
        described = other.describe_pool("pool")
        assert (described.size, described.kind) == (2 * SIZE, "dram" if new else "file")
        assert (described.users, described.access) == (1, "write")
        assert described.pool_id == pool.pool_id != pool_id
        pool.write(0, b"n")  # it is open as before
    assert content(other) == b"new one"
    assert files(tmp_path) == ([] if new else ["pool.pool"])
    measured = target.metrics(SOON)
    assert measured.pools == {"file": int(not new), "dram": int(new)}
    assert measured.bytes == {"file": 2 * SIZE * (not new), "dram": 2 * SIZE * new}
    client.remove_pool("pool")
    make(client, volatile=True)


@KINDS
def test_readers_of_the_old_pool_keep_it(
    client: Client, other: Client, target: Target, old: bool, new: bool
) -> None:
    make(client, volatile=old)
    with other.open_pool("pool", access="read") as reading:
        with client.create_pool("pool", SIZE, replace=True, volatile=new) as pool:
            pool.write(0, b"new")
            pool.commit(3)
            assert reading.read(0, 3) == b"old"
        assert content(client) == b"new"
        assert reading.read(0, 3) == b"old"
        with client.open_pool("pool"):
            assert target.metrics(SOON).open_pools >= 1
        client.remove_pool("pool")
        with pytest.raises(PoolNotFoundError):
            client.open_pool("pool")
        assert reading.read(0, 3) == b"old"
    assert client.list_pools() == []
    with client.create_pool("large", MIB, volatile=True):  # all that it took is given back
        pass


def test_there_need_be_none_of_that_name(client: Client, other: Client) -> None:
    with client.create_pool("pool", SIZE, replace=True) as pool:
        pool.write(0, b"new")
        assert other.list_pools() == []
        with pytest.raises(PoolNotFoundError):
            other.open_pool("pool", access="read")
        with pytest.raises(PoolBusyError, match="pool 'pool' is being replaced"):
            other.create_pool("pool", SIZE)
        pool.commit(3)
    assert content(other) == b"new"
    with pytest.raises(PoolExistsError):
        other.create_pool("pool", SIZE)


def test_what_is_to_be_replaced_does_not_change_meanwhile(client: Client, other: Client) -> None:
    make(client)
    with client.create_pool("pool", SIZE, replace=True) as pool:
        for change in (
            lambda: other.open_pool("pool"),
            lambda: other.open_pool("pool", access="shared"),
            lambda: other.resize_pool("pool", 2 * SIZE),
            lambda: other.remove_pool("pool"),
            lambda: other.create_pool("pool", SIZE, replace=True),
            lambda: client.create_pool("pool", SIZE, replace=True, volatile=True),
        ):
            with pytest.raises(PoolBusyError, match="pool 'pool' is being replaced"):
                change()
        pool.commit()
        with pytest.raises(PoolBusyError, match="pool 'pool' is open by 1"):
            other.remove_pool("pool")
    other.remove_pool("pool")


@pytest.mark.parametrize("access", ["write", "shared"])
def test_a_pool_that_is_written_is_not_replaced(
    client: Client, other: Client, tmp_path: Path, access: rpma.pool.protocol.messages.Access
) -> None:
    make(client)
    with other.open_pool("pool", access=access):
        with pytest.raises(PoolBusyError, match=f"is open for {access}: it cannot be replaced"):
            client.create_pool("pool", SIZE, replace=True)  # before anything has been written
        assert files(tmp_path) == ["pool.pool"]


@pytest.mark.parametrize("volatile", [False, True])
def test_without_a_commit_the_old_one_stays(
    client: Client, other: Client, tmp_path: Path, volatile: bool
) -> None:
    make(client)
    with client.create_pool("pool", SIZE, replace=True, volatile=volatile) as pool:
        pool.write_persist(0, b"new") if not volatile else pool.write(0, b"new")
    assert content(other) == b"old"
    assert files(tmp_path) == ["pool.pool"]
    with other.open_pool("pool") as opened, other.create_pool("dram", MIB, volatile=True):
        assert opened.read(0, 3) == b"old"


def test_what_a_client_that_dies_has_begun_goes(
    client: Client, target: Target, tmp_path: Path
) -> None:
    make(client)
    dying = connect(target)
    dying.create_pool("pool", SIZE, replace=True).write(0, b"new")
    assert len(files(tmp_path)) == 2
    dying._driver.close()  # without a word
    dying._closed = True
    wait_until(lambda: files(tmp_path) == ["pool.pool"], "what it began goes")
    assert content(client) == b"old"
    client.close()
    wait_left(target)


def test_a_target_that_is_killed_leaves_the_old_one(fabric: Fabric, tmp_path: Path) -> None:
    with process(fabric, tmp_path) as child:
        client = connect(child.address)
        make(client)
        pool = client.create_pool("pool", SIZE, replace=True)
        pool.write_persist(0, b"new")
        child.kill()
        with pytest.raises(rpma.ConnectionLost):
            pool.commit(3, timeout=SOON)
        with suppress(rpma.ConnectionLost):
            client.close()
    assert len(files(tmp_path)) == 2
    with process(fabric, tmp_path) as child, connect(child.address) as client:
        assert files(tmp_path) == ["pool.pool"]
        assert content(client) == b"old"


def test_dram_has_to_have_room_for_both(client: Client) -> None:
    with client.create_pool("pool", 600 << 10, volatile=True) as pool:
        pool.write(0, b"old")
    with pytest.raises(PoolSpaceError, match="there must be room for both"):
        client.create_pool("pool", 600 << 10, volatile=True, replace=True)
    with client.open_pool("pool") as pool:
        assert pool.read(0, 3) == b"old"


def test_the_same_for_asyncio(target: Target, client: Client) -> None:
    make(client)

    async def test() -> None:
        async with rpma.aio.connect(target.address, token=TOKEN, timeout=SOON) as async_client:
            async with async_client.create_pool("pool", SIZE, replace=True) as pool:
                await pool.write(0, b"newer")
            assert content(client) == b"old"
            async with async_client.create_pool("pool", SIZE, replace=True) as pool:
                await pool.write_persist(0, b"new")
                await pool.commit(3, persist=False)
            async with async_client.create_pool("other", SIZE, incomplete=True) as pool:
                assert pool.info.incomplete
                await pool.commit()
        async with rpma.aio.create_pool(
            target.address, "third", SIZE, token=TOKEN, incomplete=True
        ) as pool:
            assert pool.info.incomplete

    asyncio.run(test())
    assert content(client) == b"new"
    assert [info.incomplete for info in client.list_pools()] == [False, False, True]
    with rpma.create_pool(target.address, "pool", SIZE, token=TOKEN, replace=True) as pool:
        pool.commit()
    assert client.describe_pool("pool").content_length is None
