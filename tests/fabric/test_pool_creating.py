"""A pool that could not be created is not there, whatever it was that failed, and when."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pairs import SOON
from targets import connect, serving, wait_left

import rpma
from fabrics.fabric import Fabric
from rpma.pool import PoolError, StorageError, Target, TargetError
from rpma.pool.durable import Durable
from rpma.pool.target import registry
from rpma.pool.target.answering import Answering

pytestmark = pytest.mark.fabric

SIZE = 64 << 10
#: A timeout that is to pass, in seconds.
SHORT = 0.3

VOLATILE = pytest.mark.parametrize("volatile", [False, True], ids=["file", "dram"])


@pytest.fixture
def target(fabric: Fabric, tmp_path: Path) -> Iterator[Target]:
    with serving(fabric, tmp_path, dram="4MiB") as started:
        yield started


def fails_with(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


FAILURES = pytest.mark.parametrize(
    ("owner", "method", "error"),
    [
        (registry.ServedPool, "map", StorageError("it cannot be mapped")),
        (Durable, "__init__", TargetError("libpmem.so.1 is not installed")),
        (registry.ServedPool, "register", rpma.errors.OutOfMemoryError("no memory can be pinned")),
        (registry.ServedPool, "register", OSError(errno.ENOMEM, "no memory can be pinned")),
        (Answering, "set_pool", rpma.errors.OutOfMemoryError("no memory for the pool")),
        (registry.ServedPools, "info", OSError(errno.EIO, "it cannot be looked at")),
    ],
)


def check_nothing_is_there(target: Target, folder: Path) -> None:
    """No pool, no file, and all DRAM is free."""
    with connect(target) as client:
        assert client.list_pools(timeout=SOON) == []
        assert [path.name for path in folder.iterdir()] == [".lock"]
        client.create_pool("all", "4MiB", volatile=True, timeout=SOON).close()
        client.remove_pool("all")
        client.create_pool("pool", SIZE, timeout=SOON).close()


@VOLATILE
@FAILURES
def test_a_pool_is_not_there_when_creating_it_has_failed(
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    owner: type,
    method: str,
    error: BaseException,
    volatile: bool,
) -> None:
    with connect(target) as client:
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, fails_with(error))
            words = error.strerror if isinstance(error, OSError) else ""
            with pytest.raises(PoolError, match=re.escape(words or str(error))):
                client.create_pool("pool", SIZE, volatile=volatile, timeout=SOON)
        check_nothing_is_there(target, tmp_path)


@FAILURES
def test_a_pool_is_not_open_when_opening_it_has_failed(
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    method: str,
    error: BaseException,
) -> None:
    with connect(target) as client:
        client.create_pool("pool", SIZE).close()
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, fails_with(error))
            with pytest.raises(PoolError):
                client.open_pool("pool", timeout=SOON)
        assert client.describe_pool("pool").users == 0
        with client.open_pool("pool", timeout=SOON) as pool:
            pool.write_persist(0, b"durable")


@pytest.mark.parametrize("method", ["map", "register"])
def test_a_pool_that_cannot_be_removed_again_is_said_to_be_there(
    target: Target, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    unlink = os.unlink

    def stuck(path: Any, **options: Any) -> None:
        if path == "pool.pool":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        unlink(path, **options)

    with connect(target) as client:
        with monkeypatch.context() as patch:
            patch.setattr(registry.ServedPool, method, fails_with(StorageError("it has failed")))
            patch.setattr(os, "unlink", stuck)
            with pytest.raises(
                StorageError, match=r"it has failed; and .* could not be undone: .*[Rr]ead-only"
            ):
                client.create_pool("pool", SIZE, timeout=SOON)
        assert [info.name for info in client.list_pools()] == ["pool"]
        client.remove_pool("pool")


class Slow:
    """Registering a pool, which goes on when it is told to."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self._register = registry.ServedPool.register
        patch.setattr(registry.ServedPool, "register", lambda *args: self._slowly(*args))

    def _slowly(self, *arguments: Any) -> Any:
        self.reached.set()
        assert self.go_on.wait(SOON)
        return self._register(*arguments)


@VOLATILE
def test_a_pool_is_not_there_when_its_creator_left_before_it_was_told(
    target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, volatile: bool
) -> None:
    with monkeypatch.context() as patch:
        slow = Slow(patch)
        client = connect(target)
        with pytest.raises(rpma.WaitTimeoutError, match="did not reply in time"):
            client.create_pool("pool", SIZE, volatile=volatile, timeout=SHORT)
        assert slow.reached.wait(SOON)
        client.close()
        slow.go_on.set()
        wait_left(target)
    check_nothing_is_there(target, tmp_path)


def test_a_pool_is_not_there_when_its_target_ended_before_it_was_told(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The client leaves first: then the target's end meets a session that is leaving."""
    with monkeypatch.context() as patch, serving(fabric, tmp_path) as target:
        slow = Slow(patch)
        with connect(target) as client, pytest.raises(rpma.WaitTimeoutError):
            client.create_pool("pool", SIZE, timeout=SHORT)
        assert slow.reached.wait(SOON)
        ending = threading.Thread(target=target.close)
        ending.start()
        ending.join(SHORT)
        assert ending.is_alive()  # it waits for what is being done
        slow.go_on.set()
        ending.join(SOON)
        assert not ending.is_alive()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
