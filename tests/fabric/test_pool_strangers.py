"""What those who are not in can do to a target, and what they and clients are told."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pairs import line, python
from targets import MIB, TOKEN, Stranger, connect, serving, wait_left, wait_until

import rpma
from fabrics.fabric import Fabric
from rpma import allocation
from rpma.errors import RpmaError
from rpma.pool import Client, Target
from rpma.pool.protocol import messages
from rpma.pool.target import by_ssh, session, sparing, store, strangers

msgspec = pytest.importorskip("msgspec")

pytestmark = [pytest.mark.fabric, pytest.mark.soft_only("these never meet the device")]

SIZE = 64 << 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "the-folder-of-the-pools"
    made.mkdir()
    return made


@pytest.fixture
def target(fabric: Fabric, folder: Path) -> Iterator[Target]:
    with serving(fabric, folder, dram="4MiB") as started:
        yield started


# ---- who comes in ------------------------------------------------------------------------------


def idle(target: Target, host: str) -> Stranger:
    """A stranger from this address of the machine, who has nothing to say."""
    return Stranger(target, (host, 0))


def check_comes_in(target: Target) -> None:
    """An honest client does, at the first attempt and at once."""
    began = time.monotonic()
    with connect(target) as client:
        client.list_pools()
    assert time.monotonic() - began < 5


def test_strangers_who_are_silent_shut_nobody_out(target: Target) -> None:
    with ExitStack() as stack:
        for _ in range(4):
            for number in range(32):  # more than there are places, renewed
                stack.enter_context(closing(idle(target, f"127.0.1.{number}")))
            for _ in range(8):
                stack.enter_context(closing(idle(target, "127.0.0.1")))
            check_comes_in(target)
        assert len(target.strangers) > strangers.PLACES
    wait_left(target)
    check_comes_in(target)


def test_strangers_of_an_address_have_few_places(
    target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(strangers, "GRACE", 0.0)
    with ExitStack() as stack:
        other = stack.enter_context(closing(idle(target, "127.0.0.2")))
        other.receive(messages.Hello)
        many = [stack.enter_context(closing(idle(target, "127.0.0.1"))) for _ in range(50)]
        many[-1].receive(messages.Hello)
        for one in many[: -strangers.PLACES_OF_ONE]:
            one.check_ended()
        assert len(target.strangers) == 1 + strangers.PLACES_OF_ONE
        assert target.metrics(20).displaced_strangers == 50 - strangers.PLACES_OF_ONE
        other.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):  # who has one place only has it still
            other.socket.recv(1)
    assert "gone: it gave way to a newcomer" in caplog.text


def test_a_neighbour_of_strangers_who_always_come_again_comes_in(target: Target) -> None:
    """Behind one address, and at their pace."""
    ended = threading.Event()

    def come_again() -> None:
        kept: deque[socket.socket] = deque()
        while not ended.is_set():
            with suppress(OSError):
                kept.append(socket.create_connection(("127.0.0.1", target.address.port or 0), 20))
            if len(kept) > 100:
                kept.popleft().close()
        for one in kept:
            one.close()

    flooding = threading.Thread(target=come_again)
    flooding.start()
    try:
        wait_until(lambda: target.tally.displaced_strangers > 0, "strangers give way")
        for _ in range(10):
            check_comes_in(target)
    finally:
        ended.set()
        flooding.join()
    wait_left(target)


def test_many_honest_clients_at_once(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a stranger for a moment, and all have one address."""
    monkeypatch.setattr(strangers, "GRACE", 60.0)  # a moment, on a machine that is busy
    count = 3 * strangers.PLACES
    with ExitStack() as stack:
        came = [stack.enter_context(closing(Stranger(target))) for _ in range(count)]
        for one in came:
            one.login()
        for one in came:
            one.receive(messages.Accepted)
    wait_left(target)


def test_who_is_in_gives_way_to_nobody(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "GRACE", 0.0)
    with connect(target) as client, ExitStack() as stack:
        for _ in range(strangers.PLACES_OF_ONE + 4):
            stack.enter_context(closing(Stranger(target)))
        wait_until(lambda: target.tally.displaced_strangers > 0, "strangers give way")
        assert client.list_pools() == []


def test_clients_that_are_in_leave_places_for_strangers(fabric: Fabric, folder: Path) -> None:
    with serving(fabric, folder, max_clients=1) as target:
        with connect(target) as client, ExitStack() as stack:
            for number in range(strangers.PLACES):
                stack.enter_context(closing(idle(target, f"127.0.1.{number}")))
            with pytest.raises(rpma.pool.TargetError, match="1 clients are in, and no more"):
                connect(target)
            client.list_pools()
            assert target.metrics(20).refused_connections == 1
        wait_until(lambda: not target.clients, "it has left")
        check_comes_in(target)


# ---- who does not read ---------------------------------------------------------------------------


def deaf(target: Target) -> Stranger:
    """A stranger with hardly any room for what it is sent, who never reads."""
    return Stranger(target, is_deaf=True)


def test_strangers_who_never_read_hold_up_nothing(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the target really says fits into the kernels' buffers.
    monkeypatch.setattr(session, "told", lambda _: 60000 * "x")
    with ExitStack() as stack:
        for number in range(strangers.PLACES):
            stranger = stack.enter_context(closing(deaf(target)))
            stranger.send_raw(stranger.channel.frame(nonsense(number)))
        check_comes_in(target)
        wait_left(target)


def test_a_client_that_reads_no_replies_is_given_up(
    target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rpma")
    monkeypatch.setattr("rpma.pool.target.stream.SEND_TIMEOUT", 0.3)
    monkeypatch.setattr("rpma.pool.target.tasks.REQUESTS_PER_SECOND", 1e6)
    with connect(target) as other:
        for number in range(20):
            other.create_pool(f"pool-{number}", 4096).close()
        client = connect(target)
        pool = client.open_pool("pool-0")
        driver = client._driver
        assert driver._socket is not None
        driver._socket.settimeout(0.5)
        list_all = messages.encode(messages.List(""))
        with suppress(OSError):  # the target reads no more, or has ended it
            while True:
                driver._socket.sendall(driver._channel.frame(list_all))
        wait_until(lambda: target.clients == 1, "it is given up")
        with other.open_pool("pool-0"):
            pass
        with suppress(RpmaError):
            pool.close()
        with suppress(RpmaError):
            client.close()
    assert "has gone: it does not read what it is sent" in caplog.text


def test_the_target_ends_whatever_its_peers_do(
    fabric: Fabric, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "told", lambda _: 60000 * "x")
    monkeypatch.setattr("rpma.pool.target.tasks.REQUESTS_PER_SECOND", 1e6)
    with serving(fabric, folder) as target, ExitStack() as stack:
        with connect(target) as client:
            for number in range(20):
                client.create_pool(f"pool-{number}", 4096).close()
        for number in range(32):
            stack.enter_context(closing(idle(target, f"127.0.1.{number}")))
            stranger = stack.enter_context(closing(deaf(target)))
            stranger.send_raw(stranger.channel.frame(nonsense(number)))
        client = connect(target)
        driver = client._driver
        assert driver._socket is not None
        driver._socket.settimeout(0.5)
        list_all = messages.encode(messages.List(""))
        with suppress(OSError):
            while True:
                driver._socket.sendall(driver._channel.frame(list_all))
        began = time.monotonic()
        target.close(drain=0.5)
        assert time.monotonic() - began < 4
        with suppress(RpmaError):
            client.close()


_IN_THE_MIDDLE = """
import os, signal, sys
from rpma.pool import Client
client = Client(sys.argv[1], token=sys.argv[2])
pool = client.create_pool("large", 24 << 20)
def progress(done, total):
    if done >= total // 4:
        print("in the middle", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
if sys.argv[3] == "read":
    pool.read(progress=progress)
else:
    pool.write(0, bytes(24 << 20), progress=progress)
"""


@pytest.mark.parametrize("way", ["read", "write"])
def test_the_target_ends_though_a_client_stands_still_in_a_transfer(
    fabric: Fabric, folder: Path, way: str
) -> None:
    with (
        serving(fabric, folder) as target,
        python(_IN_THE_MIDDLE, str(target.address), TOKEN, way) as child,
    ):
        assert line(child) == "in the middle"
        began = time.monotonic()
        target.close()
        assert time.monotonic() - began < 4
        child.kill()


def test_strangers_do_not_hold_up_the_drain(target: Target) -> None:
    with closing(idle(target, "127.0.0.1")) as stranger:
        stranger.receive(messages.Hello)
        began = time.monotonic()
        target.close(drain=60)
        assert time.monotonic() - began < 4


def test_whoever_starts_a_target_by_ssh_sends_the_token_soon(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(by_ssh, "TOKEN_TIMEOUT", 0.1)
    reading, writing = os.pipe()
    with os.fdopen(reading) as stdin, os.fdopen(writing, "w"):
        monkeypatch.setattr("sys.stdin", stdin)
        assert by_ssh.serve(lambda token: pytest.fail(f"{token!r} came")) == 1
    assert json.loads(capsys.readouterr().out) == {"error": "no token came in time"}


# ---- in the log ----------------------------------------------------------------------------------


def nonsense(number: int) -> bytes:
    """A login with a long and nasty field name."""
    return bytes(msgspec.msgpack.encode({"type": "login", f"\x1b[31m{number}\n" + 900 * "x": 1}))


def test_bad_logins_leave_few_and_short_lines(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "rpma"):
        for number in range(3 * sparing.LINES):
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
    assert len(gone) == sparing.LINES
    assert f"{2 * sparing.LINES} more lines left out: strangers have gone" in lines
    assert all(len(line) < 250 and line.isprintable() for line in lines)


def test_an_error_of_the_target_that_strangers_provoke_is_not_logged_without_end(
    target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Any:
        raise LookupError("it is wrong")

    monkeypatch.setattr(session.Keys, "derive", fail)
    for _ in range(2 * sparing.LINES):
        with closing(Stranger(target)) as stranger:
            stranger.receive(messages.Hello)
            stranger.send(messages.Login(messages.VERSION, "", bytes(32), bytes(32)))
            stranger.check_ended()
    wait_left(target)
    target.close()
    assert caplog.text.count("LookupError: it is wrong") == sparing.LINES
    assert f"{sparing.LINES} more lines left out: errors of the target" in caplog.text


def test_a_client_that_is_refused_much_leaves_few_and_short_lines(
    target: Target, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "rpma"):
        with connect(target) as client:
            for _ in range(3 * sparing.LINES):
                with pytest.raises(rpma.pool.PoolNameError):
                    ask(client, messages.Describe("\x1b\n\u202e" * 60))
        wait_left(target)
        target.close()
    lines = [record.getMessage() for record in caplog.records]
    assert sum("refused" in line for line in lines) == sparing.LINES
    assert f"{2 * sparing.LINES} more lines left out: requests have failed: describe" in lines
    assert all(len(line) < 400 and line.isprintable() for line in lines)


def ask(client: Client, request: messages.Request) -> Any:
    from rpma.pool.client import needs

    return client._driver.run(needs.ask(request, messages.Done), 20)


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
    (errno.ENOMEM, allocation, "map_file"),
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
