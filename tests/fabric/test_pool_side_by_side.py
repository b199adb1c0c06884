"""Storage that stands still for one pool holds up nobody who has nothing to do with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pairs import SOON
from targets import MIB, connect, serving, wait_left, wait_until

from fabrics.fabric import Fabric
from rpma.pool import Client, PoolSpaceError, Target
from rpma.pool.target import registry

pytestmark = pytest.mark.fabric

SIZE = 64 << 10


@pytest.fixture
def target(fabric: Fabric, tmp_path: Path) -> Iterator[Target]:
    with serving(fabric, tmp_path, dram="4MiB") as started:
        yield started


class Gate:
    """Storage stands still at it until it is opened."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def wait(self) -> None:
        self._reached.set()
        assert self._open.wait(2 * SOON)

    def reached(self) -> bool:
        """Return when storage stands still."""
        return self._reached.wait(SOON)

    def open(self) -> None:
        self._open.set()


@contextmanager
def standing_still(monkeypatch: pytest.MonkeyPatch, call: str) -> Iterator[Gate]:
    """Whatever syncs a file of the pool "slow", or lets go of its memory, stands still."""
    gate = Gate()
    with monkeypatch.context() as patch:
        if call == "close":
            close = registry.ServedPool.close

            def slow_close(pool: registry.ServedPool) -> None:
                if pool.name == "slow":
                    gate.wait()
                close(pool)

            patch.setattr(registry.ServedPool, "close", slow_close)
        else:
            sync = getattr(os, call)

            def slow_sync(fd: int) -> None:
                if "slow" in os.path.basename(os.readlink(f"/proc/self/fd/{fd}")):
                    gate.wait()
                sync(fd)

            patch.setattr(os, call, slow_sync)
        try:
            yield gate
        finally:
            gate.open()


def create(client: Client) -> None:
    client.create_pool("slow", SIZE).close()


def resize(client: Client) -> None:
    client.resize_pool("slow", 2 * SIZE)


def set_content(client: Client) -> None:
    with client.open_pool("slow") as pool:
        pool.set_content_length(5)


def close_pool(client: Client) -> None:
    client.open_pool("slow").close()


def leave(client: Client) -> None:
    client.open_pool("slow")
    client.close()


@pytest.mark.parametrize(
    ("work", "call"),
    [
        (create, "fsync"),
        (resize, "fsync"),
        (set_content, "fdatasync"),
        (close_pool, "close"),
        (leave, "close"),
    ],
)
def test_others_are_served_while_storage_stands_still_for_one_pool(
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[Client], None],
    call: str,
) -> None:
    failures: list[BaseException] = []
    with connect(target) as there:
        there.create_pool("fast", SIZE).close()
        if work is not create:
            there.create_pool("slow", SIZE).close()
        slow_client = connect(target)

        def be_slow() -> None:
            try:
                work(slow_client)
            except BaseException as error:
                failures.append(error)

        with standing_still(monkeypatch, call) as gate:
            slow = threading.Thread(target=be_slow)
            slow.start()
            assert gate.reached()
            with there.open_pool("fast", timeout=SOON) as pool:
                pool.write_persist(0, b"durable", timeout=SOON)
                pool.set_content_length(7, timeout=SOON)
            assert "fast" in [info.name for info in there.list_pools(timeout=SOON)]
            assert there.describe_pool("fast", timeout=SOON).content_length == 7
            with connect(target) as newcomer:
                newcomer.create_pool("new", SIZE, timeout=SOON).close(timeout=SOON)
                newcomer.resize_pool("new", 2 * SIZE, timeout=SOON)
                newcomer.remove_pool("new", timeout=SOON)
            assert target.metrics(SOON).clients >= 1
            assert slow.is_alive() or work is leave
        slow.join(SOON)
        assert not slow.is_alive()
        slow_client.close()
        if not failures:
            there.open_pool("slow", timeout=SOON).close()
    assert not failures
    wait_left(target)


def test_who_opens_a_pool_that_is_being_closed_waits_for_it(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[bytes] = []

    def open_it() -> None:
        with connect(target) as other, other.open_pool("slow") as pool:
            opened.append(pool[:7])

    with connect(target) as client:
        pool = client.create_pool("slow", SIZE)
        pool.write_persist(0, b"durable")
        with standing_still(monkeypatch, "close") as gate:
            threads = [threading.Thread(target=pool.close), threading.Thread(target=open_it)]
            threads[0].start()
            assert gate.reached()
            threads[1].start()
            with connect(target) as other:
                assert other.list_pools(timeout=SOON)[0].users == 0
            assert not opened
        for thread in threads:
            thread.join(SOON)
    assert opened == [b"durable"]


def test_dram_is_not_given_twice_to_those_who_ask_at_once(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that fit are mapped at the same time; the one that does not is refused meanwhile."""
    together = threading.Barrier(5)
    map_it = registry.ServedPool.map

    def map_together(pool: registry.ServedPool, *arguments: Any) -> None:
        together.wait(SOON)
        map_it(pool, *arguments)

    clients = [connect(target, bounce_size=MIB) for _ in range(4)]
    made: list[str] = []

    def make(number: int) -> None:
        pool = clients[number].create_pool(f"pool-{number}", MIB, volatile=True)
        made.append(pool.name)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    with monkeypatch.context() as patch:
        patch.setattr(registry.ServedPool, "map", map_together)
        for thread in threads:
            thread.start()
        with connect(target) as late:
            try:
                wait_until(lambda: len(late.list_pools()) == 4, "all are being created")
                with pytest.raises(PoolSpaceError, match="0 B of the 4 MiB"):
                    late.create_pool("late", 1, volatile=True, timeout=SOON)
            finally:
                together.wait(SOON)
            for thread in threads:
                thread.join(SOON)
    assert sorted(made) == [f"pool-{number}" for number in range(4)]
    for client in clients:
        client.close()
