"""What those who are not in can do to a target, and what they and clients are told."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from targets import MIB, Stranger, connect, serving, wait_left, wait_until

import rpma
from fabrics.fabric import Fabric
from rpma.errors import RpmaError
from rpma.pool import Client, Target, messages, served, session, store, words

msgspec = pytest.importorskip("msgspec")

pytestmark = pytest.mark.fabric

SIZE = 64 << 10


@pytest.fixture(autouse=True)
def _soft_only(fabric: Fabric) -> None:
    if fabric.name != "soft":
        pytest.skip("these never meet the device")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "the-folder-of-the-pools"
    made.mkdir()
    return made


@pytest.fixture
def target(fabric: Fabric, folder: Path) -> Iterator[Target]:
    with serving(fabric, folder, dram="4MiB") as started:
        yield started


# ---- in the log ----------------------------------------------------------------------------------


def nonsense(number: int) -> bytes:
    """A login with a long and nasty field name."""
    return bytes(msgspec.msgpack.encode({"type": "login", f"\x1b[31m{number}\n" + 50000 * "x": 1}))


def test_bad_logins_leave_few_and_short_lines(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "rpma"):
        for number in range(3 * words.LINES):
            with closing(Stranger(target)) as stranger:
                stranger.receive(messages.Hello)
                stranger.send_raw(stranger.channel.frame(nonsense(number)))
                failed = stranger.receive(messages.Failed)
                assert len(failed.text) < 200
                assert failed.text.isprintable()
                stranger.check_ended()
        wait_left(target)
        target.close()
    lines = [record.getMessage() for record in caplog.records]
    gone = [line for line in lines if "has gone" in line]
    assert len(gone) == words.LINES
    assert f"{2 * words.LINES} more lines left out: strangers have gone" in lines
    assert all(len(line) < 250 and line.isprintable() for line in lines)


def test_a_client_that_is_refused_much_leaves_few_and_short_lines(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "rpma"):
        with connect(target) as client:
            for _ in range(3 * words.LINES):
                with pytest.raises(rpma.pool.PoolNameError):
                    ask(client, messages.Describe("\x1b\n\u202e" * 60))
        wait_left(target)
        target.close()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("refused" in line for line in lines) == words.LINES
    assert f"{2 * words.LINES} more lines left out: requests have failed: describe" in lines
    assert all(len(line) < 400 and line.isprintable() for line in lines)


def ask(client: Client, request: messages.Request) -> Any:
    from rpma.pool import logic

    return client._driver.run(logic._ask(request, messages.Done), 20)


# ---- no path of the target -----------------------------------------------------------------------


def damaged(client: Client, path: Path) -> None:
    path.write_bytes(b"")
    client.list_pools()
    client.describe_pool("pool")
    client.open_pool("pool")


def cut_off(client: Client, path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)
    client.list_pools()
    client.open_pool("pool")


def is_a_directory(client: Client, path: Path) -> None:
    path.unlink()
    path.mkdir()
    with suppress(RpmaError):
        client.remove_pool("pool")
    client.resize_pool("pool", MIB)


def cut_off_while_open(client: Client, path: Path) -> None:
    with client.open_pool("pool") as pool:
        os.truncate(path, 8192)
        pool.write_persist(0, bytes(SIZE))


def without_a_directory(client: Client, path: Path) -> None:
    shutil.rmtree(path.parent)
    for call in (client.list_pools, lambda: client.create_pool("another", SIZE)):
        with suppress(RpmaError):
            call()
    client.open_pool("pool")


def twice_open(client: Client, _: Path) -> None:
    with client.open_pool("pool"):
        with suppress(RpmaError):
            client.remove_pool("pool")
        client.open_pool("pool")


PROVOKED: list[Callable[[Client, Path], object]] = [
    damaged,
    cut_off,
    is_a_directory,
    cut_off_while_open,
    without_a_directory,
    twice_open,
    lambda client, _: client.open_pool("none"),
    lambda client, _: client.describe_pool("none"),
    lambda client, _: client.remove_pool("none"),
    lambda client, _: client.create_pool("pool", SIZE),
    lambda client, _: client.create_pool("large", 1 << 47),
    lambda client, _: client.resize_pool("pool", 1 << 47),
    lambda client, _: client.create_pool("large", 1 << 40, volatile=True),
    lambda client, _: ask(client, messages.Open("../pool", "read")),
    lambda client, _: ask(client, messages.SetContent(9, 1)),
]

FAILING = [
    (errno.EIO, store.os, "fsync"),
    (errno.EACCES, store.os, "open"),
    (errno.EMFILE, store.os, "open"),
    (errno.ENOSPC, store.os, "posix_fallocate"),
    (errno.EROFS, store.os, "unlink"),
    (errno.EIO, store.os, "pread"),
    (errno.ENOMEM, served.allocation, "map_file"),
    (errno.EMFILE, session.Session, "_check_room"),
]


@contextmanager
def what_is_sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """All that the target and its clients say to each other."""
    sent: list[bytes] = []
    encode = messages.encode

    def noting(message: Any) -> bytes:
        sent.append(encode(message))
        return sent[-1]

    with monkeypatch.context() as patch:
        patch.setattr(messages, "encode", noting)
        yield sent


@pytest.mark.parametrize("provoke", PROVOKED)
def test_what_goes_wrong_tells_no_path(
    target: Target,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    provoke: Callable[[Client, Path], object],
) -> None:
    caplog.set_level(logging.INFO, "rpma")
    with what_is_sent(monkeypatch) as sent, connect(target) as client:
        client.create_pool("pool", SIZE).close()
        with pytest.raises(RpmaError):
            provoke(client, folder / "pool.pool")
    said = b"".join(sent)
    assert b"failed" in said or provoke is cut_off_while_open  # told on the data connection
    assert folder.name.encode() not in said
    assert b"/proc/" not in said
    if provoke in (damaged, cut_off, is_a_directory):
        assert str(folder / "pool.pool") in caplog.text  # its operator is told


@pytest.mark.parametrize(("number", "where", "function"), FAILING)
def test_what_the_system_refuses_tells_no_path(
    target: Target,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    where: Any,
    function: str,
) -> None:
    path = str(folder / "pool.pool")

    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number), path)

    calls: list[Callable[[Client], object]] = [
        lambda client: client.create_pool("another", SIZE).close(),
        lambda client: client.open_pool("pool").close(),
        lambda client: client.resize_pool("pool", MIB),
        lambda client: client.remove_pool("pool"),
        lambda client: client.list_pools(),
    ]
    failed = 0
    with what_is_sent(monkeypatch) as sent, connect(target) as client:
        client.create_pool("pool", SIZE).close()
        with monkeypatch.context() as patch:
            patch.setattr(where, function, fail)
            for call in calls:
                try:
                    call(client)
                except RpmaError as error:
                    assert os.strerror(number) in str(error)  # noqa: PT017
                    failed += 1
    assert failed
    said = b"".join(sent)
    assert os.strerror(number).encode() in said
    assert folder.name.encode() not in said
    assert b"/proc/" not in said


def test_a_stranger_is_told_no_path(
    target: Target, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(folder / "pool.pool")

    def fail(*_: object) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(session.Keys, "derive", fail)
    with closing(Stranger(target)) as stranger:
        stranger.receive(messages.Hello)
        stranger.send(messages.Login(messages.VERSION, "", bytes(32), bytes(32)))
        failed = stranger.receive(messages.Failed)
        assert failed.text == f"the target failed: {os.strerror(errno.EACCES)}"
    wait_until(lambda: not target._sessions, "it has left")
