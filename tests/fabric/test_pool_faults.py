"""Remote pools when something goes wrong: a target, a client, the network or a file."""
# ruff: noqa: PT012, SIM117

from __future__ import annotations

import errno
import gc
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pairs import SOON, fork, pattern, threads
from targets import (
    MIB,
    TOKEN,
    Process,
    Stranger,
    a_pool,
    check_serves,
    connect,
    process,
    proxy,
    serving,
    stored,
    wait_left,
    wait_until,
)

import rpma
from fabrics.fabric import Fabric
from rpma.pool import (
    AuthenticationError,
    Client,
    Pool,
    PoolBusyError,
    PoolDamagedError,
    PoolError,
    PoolExistsError,
    PoolSpaceError,
    ProtocolError,
    StorageError,
    Target,
    TargetError,
    TargetLost,
)
from rpma.pool.client import needs, pool_logic
from rpma.pool.protocol import channel, messages
from rpma.pool.target import registry, session, tasks

pytestmark = pytest.mark.fabric

SIZE = 64 << 10
LARGE = 24 * MIB
#: A timeout that is to pass, in seconds.
SHORT = 0.3
#: What a client raises whose connection is gone: as soon as it knows, and in which words it learns.
GONE = (TargetLost, rpma.ConnectionEventError)

SOME_EXAMPLES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def target(fabric: Fabric, tmp_path: Path) -> Iterator[Target]:
    with serving(fabric, tmp_path, dram="4MiB") as started:
        yield started
        check_serves(started)  # whatever a test has done to it


@pytest.fixture
def child(fabric: Fabric, tmp_path: Path) -> Iterator[Process]:
    with process(fabric, tmp_path) as started:
        yield started


def check_lost(pool: Pool) -> None:
    """A pool whose target is gone says so at once, whatever is asked of it."""
    calls: list[Callable[[], object]] = [
        lambda: pool.read(0, 1, timeout=SOON),
        lambda: pool.write(0, b"x", timeout=SOON),
        lambda: pool.write_persist(0, b"x", timeout=SOON),
        lambda: pool.read(0, 1),
        lambda: pool.read_into(0, bytearray(1)),
        lambda: pool.write(0, b"x"),
        lambda: pool.write_persist(0, b"x"),
        lambda: pool.persist(timeout=SOON),
        lambda: pool.atomic_load(0, timeout=SOON),
        lambda: pool.compare_and_swap(0, 0, 1, timeout=SOON),
        lambda: pool.client.list_pools(timeout=SOON),
        lambda: pool.set_content_length(1, timeout=SOON),
    ]
    began = time.monotonic()
    for call in calls:
        with pytest.raises(TargetLost, match=r"lost|closed|connect"):
            call()
    assert time.monotonic() - began < SOON / 2


# ---- a target that dies --------------------------------------------------------------------------


def test_a_lost_target_is_a_lost_connection() -> None:
    assert issubclass(TargetLost, rpma.errors.ConnectionLost)
    assert issubclass(TargetLost, ConnectionError)
    assert TargetLost().acknowledged == 0


def test_a_target_that_is_killed_during_a_long_write(
    fabric: Fabric, child: Process, tmp_path: Path
) -> None:
    client = connect(child.address)
    pool = client.create_pool("pool", LARGE)
    pool.write_persist(0, pattern(SIZE))
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        told = done
        if done > total // 4:
            child.kill()

    with pytest.raises(TargetLost, match="lost") as caught:
        while True:  # the network may have had all of it already
            pool.write(SIZE, bytes(LARGE - SIZE), progress=progress, timeout=SOON)
    assert told <= caught.value.acknowledged < LARGE - SIZE
    check_lost(pool)
    client.close()
    assert pool.closed
    with serving(fabric, tmp_path) as again, connect(again) as client:
        with client.open_pool("pool") as pool:
            assert pool.read(0, SIZE) == pattern(SIZE)


@pytest.mark.parametrize("call", ["persist", "write_persist", "write_persist with a timeout"])
def test_a_target_that_is_killed_while_it_persists(
    fabric: Fabric, child: Process, tmp_path: Path, call: str
) -> None:
    client = connect(child.address)
    pool = client.create_pool("pool", SIZE)
    pool.write_persist(0, b"durable")
    child.stop()
    killer = threading.Timer(SHORT, child.kill)
    killer.start()
    with pytest.raises(TargetLost, match="lost") as caught:
        if call == "persist":
            pool.persist(timeout=SOON)
        elif call == "write_persist":
            pool.write_persist(SIZE // 2, b"not durable")
        else:
            pool.write_persist(SIZE // 2, b"not durable", timeout=SOON)
    killer.join()
    assert caught.value.acknowledged == 0
    check_lost(pool)
    pool.close()
    pool.close()
    client.close()
    with process(fabric, tmp_path) as again, connect(again.address) as client:
        with client.open_pool("pool") as pool:
            assert pool.read(0, 7) == b"durable"
            assert client.describe_pool("pool").users == 1


def test_a_write_goes_on_where_the_target_was_lost(
    fabric: Fabric, child: Process, tmp_path: Path
) -> None:
    data = pattern(2 * MIB) * 4
    with connect(child.address) as client:
        pool = client.create_pool("pool", len(data))
        done = 0
        step = MIB

        def write_on(pool: Pool, kill_at: int | None) -> None:
            nonlocal done
            while done < len(data):
                if done == kill_at:
                    child.kill()
                pool.write_persist(done, data[done : done + step], timeout=SOON)
                done += step

        with pytest.raises(TargetLost):
            write_on(pool, 3 * step)
    assert done >= 3 * step
    with process(fabric, tmp_path) as again, connect(again.address) as client:
        with client.open_pool("pool") as pool:
            assert pool.read(0, done, timeout=SOON) == data[:done]
            write_on(pool, None)
            assert pool.read(timeout=SOON) == data


def test_reading_and_asking_a_target_that_is_killed(child: Process) -> None:
    client = connect(child.address)
    pool = client.create_pool("pool", LARGE)

    def progress(done: int, total: int) -> None:
        if done > total // 8:
            child.kill()

    with pytest.raises(TargetLost, match="lost") as caught:
        while True:
            pool.read(progress=progress, timeout=SOON)
    assert 0 < caught.value.acknowledged < LARGE
    check_lost(pool)
    with pytest.raises(TargetLost, match="cannot connect"):
        connect(child.address)
    client.close()


@pytest.mark.parametrize("how", ["pool", "client", "with"])
def test_the_end_of_a_client_whose_target_was_killed(child: Process, how: str) -> None:
    np = pytest.importorskip("numpy")
    gc.collect()
    client = connect(child.address)
    pools = [client.create_pool(f"pool-{number}", SIZE) for number in range(3)]
    arrays = [pool.array(np.uint8, 10) for pool in pools]
    child.kill()
    with suppress(TargetLost):  # it may know, or learn it now
        if how == "pool":
            pools[0].close()
        elif how == "client":
            client.close()
        else:
            with client, pools[0], pools[1]:
                pass
    with suppress(TargetLost):
        client.close()
    assert client.closed
    assert all(pool.closed for pool in pools)
    assert all(array.local.tolist() == [0] * 10 for array in arrays)


def test_a_with_block_ends_soon_and_with_its_own_exception(child: Process) -> None:
    began = time.monotonic()
    with pytest.raises(LookupError, match="the program's"):
        with connect(child.address) as client, client.create_pool("pool", SIZE):
            child.kill()
            raise LookupError("the program's")
    assert client.closed
    assert time.monotonic() - began < SOON


def test_nobody_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(TargetLost, match=rf"cannot connect to 127\.0\.0\.1:{port}: .*refused"):
        Client(f"127.0.0.1:{port}", token=TOKEN, timeout=SOON)
    with pytest.raises(TargetLost, match=r"cannot connect to no-such-host\.invalid"):
        Client("no-such-host.invalid", token=TOKEN, timeout=SOON)


# ---- a target that stands still ------------------------------------------------------------------


def test_a_target_that_stands_still_while_it_persists(child: Process) -> None:
    with connect(child.address) as client, client.create_pool("pool", SIZE) as pool:
        pool.write(0, b"written")
        child.stop()
        try:
            began = time.monotonic()
            for _ in range(3):
                with pytest.raises(rpma.WaitTimeoutError, match="timeout") as caught:
                    pool.persist(timeout=SHORT)
                assert isinstance(caught.value, TimeoutError)
            assert 3 * SHORT <= time.monotonic() - began < 3 * SHORT + 5
        finally:
            child.resume()
        pool.persist(timeout=SOON)
        pool.write_persist(0, b"written again", timeout=SOON)
        assert pool.read(0, 13, timeout=SOON) == b"written again"


def test_a_target_that_stands_still_while_it_is_asked(child: Process) -> None:
    with connect(child.address) as client:
        pool = client.create_pool("pool", SIZE)
        child.stop()
        try:
            began = time.monotonic()
            with pytest.raises(rpma.WaitTimeoutError, match="did not reply in time"):
                client.list_pools(timeout=SHORT)
            assert SHORT <= time.monotonic() - began < 5
        finally:
            child.resume()
        with pytest.raises(TargetLost, match="connect again"):
            client.list_pools(timeout=SOON)
        pool.write_persist(0, b"the data connection is none the worse", timeout=SOON)
        assert pool[:8] == b"the data"
    assert pool.closed
    with connect(child.address) as client:
        wait_until(lambda: not client.describe_pool("pool").users, "the pool is free")
        assert client.open_pool("pool")[:8] == b"the data"


def test_long_transfers_to_a_target_that_stands_still(fabric: Fabric, child: Process) -> None:
    if fabric.name != "soft":
        pytest.skip("a kernel's device writes and reads without the target's process")
    data = pattern(MIB) * 8
    with connect(child.address) as client, client.create_pool("pool", len(data)) as pool:
        pool.write(0, data)
        child.stop()
        try:
            for call in (
                lambda: pool.write(0, bytes(len(data)), timeout=SHORT),
                lambda: pool.read(timeout=SHORT),
                lambda: pool.read(0, 8, timeout=SHORT),
                lambda: pool.atomic_store(0, 1, timeout=SHORT),
                lambda: pool.compare_and_swap(8, 0, 1, timeout=SHORT),
                lambda: pool.flush(timeout=SHORT),
                lambda: pool.write_persist(0, bytes(100), timeout=SHORT),
            ):
                with pytest.raises(rpma.WaitTimeoutError):
                    call()
        finally:
            child.resume()
        pool.write(0, data, timeout=SOON)
        assert pool.read(timeout=SOON) == data
        for _ in range(20):  # no bounce buffer was lost
            pool.write_persist(0, data[:SIZE], timeout=SOON)


def test_every_call_that_asks_the_target_has_its_timeout(child: Process) -> None:
    calls: list[Callable[[Client, Pool], object]] = [
        lambda client, _: client.create_pool("new", SIZE, timeout=SHORT),
        lambda client, _: client.open_pool("other", timeout=SHORT),
        lambda client, _: client.list_pools(timeout=SHORT),
        lambda client, _: client.describe_pool("other", timeout=SHORT),
        lambda client, _: client.resize_pool("other", MIB, timeout=SHORT),
        lambda client, _: client.remove_pool("other", timeout=SHORT),
        lambda _, pool: pool.set_content_length(1, timeout=SHORT),
        lambda _, pool: pool.write_persist(0, bytes(8), timeout=SHORT),
        lambda _, pool: pool.persist(timeout=SHORT),
        lambda _, pool: pool.close(timeout=SHORT),
    ]
    with connect(child.address) as client:
        client.create_pool("other", SIZE).close()
    clients = [connect(child.address, bounce_size=MIB) for _ in calls]
    pools = [client.create_pool(f"p{at}", SIZE) for at, client in enumerate(clients)]
    child.stop()
    try:
        for call, client, pool in zip(calls, clients, pools, strict=True):
            began = time.monotonic()
            with pytest.raises(rpma.WaitTimeoutError):
                call(client, pool)
            assert SHORT <= time.monotonic() - began < SHORT + 3
    finally:
        child.resume()
    for client in clients:
        client.close(timeout=SOON)
    check_serves(child.address)


def test_arrays_keep_their_timeouts(fabric: Fabric, child: Process) -> None:
    np = pytest.importorskip("numpy")
    if fabric.name != "soft":
        pytest.skip("a kernel's device writes and reads without the target's process")
    with connect(child.address) as client, client.create_pool("pool", LARGE) as pool:
        array = pool.array(np.uint8)
        child.stop()
        try:
            for call in (array.write, array.read, array.persist):
                with pytest.raises(rpma.WaitTimeoutError):
                    call(timeout=SHORT)
        finally:
            child.resume()
        array.read(timeout=SOON)  # behind what was under way, and touched `local` until now
        array.local[:] = 7
        array.write(timeout=SOON)
        array.local[:] = 0
        array.read(timeout=SOON)
        assert set(array.local.tolist()[:: 1 << 16]) == {7}
        array.write(timeout=SOON)


@pytest.mark.parametrize("what", ["pool", "client"])
def test_leaving_a_target_that_stands_still(
    child: Process, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("rpma.pool.client.pool.LEAVE_TIMEOUT", SHORT)
    np = pytest.importorskip("numpy")
    client = connect(child.address)
    pool = client.create_pool("pool", SIZE)
    array = pool.array(np.uint8, 10)
    child.stop()
    try:
        began = time.monotonic()
        with pytest.raises(rpma.WaitTimeoutError, match="the timeout has passed"):
            with client, pool:
                pool.persist(timeout=SHORT)
        assert time.monotonic() - began < 5
        assert client.closed
        assert pool.closed
        assert array.local.tolist() == [0] * 10
    finally:
        child.resume()
    client = connect(child.address)
    pool = client.create_pool("another", SIZE)
    child.stop()
    try:
        with pytest.raises(rpma.WaitTimeoutError):
            (client if what == "client" else pool).close(timeout=SHORT)
        assert pool.closed
        client.close(timeout=SHORT)
        assert client.closed
    finally:
        child.resume()
    check_serves(child.address)


def test_connecting_to_a_target_that_stands_still(child: Process) -> None:
    child.stop()
    try:
        began = time.monotonic()
        with pytest.raises(rpma.WaitTimeoutError, match=r"in time|timeout"):
            connect(child.address, timeout=SHORT)
        assert time.monotonic() - began < 5
    finally:
        child.resume()
    check_serves(child.address)


@pytest.mark.parametrize("timeout", [-1, float("nan"), "1"])
def test_a_timeout_that_cannot_be(target: Target, timeout: Any) -> None:
    with a_pool(target, SIZE) as pool:
        for call in (pool.read, pool.persist, pool.client.list_pools):
            with pytest.raises((ValueError, TypeError), match="timeout"):
                call(timeout=timeout)
        with pytest.raises((ValueError, TypeError), match="timeout"):
            connect(target, timeout=timeout)
        assert pool.read() == bytes(SIZE)


def test_a_timeout_of_zero(target: Target) -> None:
    with a_pool(target, SIZE) as pool:
        with pytest.raises(rpma.WaitTimeoutError):
            pool.persist(timeout=0)
        pool.persist(timeout=SOON)


# ---- a client that goes in the middle ------------------------------------------------------------

_CLIENT = """
import os, sys
from rpma.pool import Client
client = Client(sys.argv[1], token=sys.argv[2])
pool = client.create_pool("pool", 8 << 20)
pool.write_persist(0, b"durable")
print("in", flush=True)
data = bytes(range(1, 256)) * 4096
while True:
    pool.write(4096, data)
    pool.persist(4096, len(data))
"""


def test_a_client_that_is_killed_in_the_middle(target: Target, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CLIENT, str(target.address), TOKEN], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"in\n"
        with connect(target) as client:
            with pytest.raises(PoolBusyError, match="until they close it"):
                client.open_pool("pool")
            other.kill()
            wait_until(lambda: not client.describe_pool("pool").users, "the pool is free")
            with client.open_pool("pool") as pool:
                assert pool[:7] == b"durable"
    assert stored(tmp_path)[:7] == b"durable"


def test_a_client_that_leaves_while_its_pool_is_being_opened(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_moment = threading.Event()
    slow_open = registry.ServedPools.open

    def open_slowly(*arguments: Any) -> Any:
        a_moment.wait(SOON)
        return slow_open(*arguments)

    with a_pool(target, SIZE):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(registry.ServedPools, "open", open_slowly)
        with connect(target) as client:
            with pytest.raises(rpma.WaitTimeoutError, match="did not reply in time"):
                client.open_pool("pool", timeout=SHORT)
        time.sleep(SHORT)  # the target sees it leave
        a_moment.set()
        wait_left(target)
    with connect(target) as client, client.open_pool("pool", timeout=SOON) as pool:
        pool.write_persist(0, b"free")


def test_a_pool_that_cannot_be_mapped_is_not_created(
    target: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(pool: registry.ServedPool, *_: object) -> None:
        raise PoolSpaceError(f"pool {pool.name!r}: the target has no memory")

    with connect(target) as client:
        with monkeypatch.context() as patch:
            patch.setattr(registry.ServedPool, "map", fail)
            for volatile in (False, True):
                with pytest.raises(PoolSpaceError, match="has no memory"):
                    client.create_pool("pool", SIZE, volatile=volatile)
            assert client.list_pools() == []
            assert not list(tmp_path.glob("*pool*"))
        client.create_pool("pool", SIZE).close()


# ---- a fork, and Ctrl-C --------------------------------------------------------------------------


def test_a_forked_child_is_told_so_and_its_parent_goes_on(target: Target) -> None:
    np = pytest.importorskip("numpy")
    with a_pool(target, SIZE) as pool:
        client, array = pool.client, pool.array(np.uint8, 8)
        pool.write(0, b"before")

        def in_the_child() -> None:
            calls: list[Callable[[], object]] = [
                pool.read,
                lambda: pool.write(0, b"child"),
                lambda: pool.write_persist(0, b"child"),
                pool.persist,
                pool.flush,
                array.read,
                lambda: pool.atomic_store(0, 1),
                lambda: pool.compare_and_swap(0, 0, 1),
                client.list_pools,
                lambda: client.open_pool("pool"),
            ]
            for call in calls:
                with pytest.raises(rpma.ForkedError, match=r"the parent .*'spawn'"):
                    call()
            pool.close()
            client.close()

        fork(in_the_child)
        assert pool[:6] == b"before"
        pool.write_persist(0, b"after.", timeout=SOON)
        assert [info.users for info in client.list_pools(timeout=SOON)] == [1]


def test_a_child_forked_while_another_thread_is_in_a_call(child: Process) -> None:
    with connect(child.address) as client, client.create_pool("pool", SIZE) as pool:
        child.stop()
        waiting = threading.Thread(target=lambda: pool.persist(timeout=SOON))
        waiting.start()
        time.sleep(SHORT)

        def in_the_child() -> None:
            with pytest.raises(rpma.ForkedError, match="belongs to the parent process"):
                pool.read()

        try:
            fork(in_the_child)
        finally:
            child.resume()
        waiting.join(SOON)
        assert not waiting.is_alive()


#: Arguments: the target, the token, what to do. SIGALRM is Ctrl-C, at any moment of it.
_INTERRUPTED = """
import gc, signal, sys, time, warnings
from rpma.errors import RpmaError, WaitTimeoutError
from rpma.pool import Client, TargetLost
warnings.simplefilter("ignore", ResourceWarning)  # what is dropped on the way
address, token, what = sys.argv[1:]
LIMIT = 10

def connect():
    return Client(address, token=token, bounce_size="1MiB", timeout=LIMIT)

size = 600_000 if what != "small" else 100
contents = [bytes([value]) * size for value in (1, 2)]
turn = 0
client = connect()
pool = client.create_pool("pool-" + what, 1 << 20)

def do():
    global turn
    turn += 1
    data = contents[turn % 2]
    if what == "connect":
        with connect() as other:
            other.list_pools(timeout=LIMIT)
    elif what == "ask":
        client.list_pools(timeout=LIMIT)
    elif what == "read":
        assert len(set(pool.read(0, size, timeout=LIMIT))) == 1
    elif what == "write":
        pool.write(0, data, timeout=LIMIT)
    elif what == "persist":
        pool.persist(timeout=LIMIT)
    else:
        pool.write_persist(0, data, timeout=LIMIT)

def check():
    for data in contents:
        pool.write_persist(0, data, timeout=LIMIT)
        assert pool.read(0, size, timeout=LIMIT) == data
    client.list_pools(timeout=LIMIT)

check()
began = time.monotonic()
for _ in range(3):
    do()
takes = (time.monotonic() - began) / 3
signal.signal(signal.SIGALRM, signal.default_int_handler)
interrupted = again = 0
ends = time.monotonic() + 5
rounds = 0
while rounds < 60 or (interrupted < 20 and time.monotonic() < ends):
    rounds += 1
    try:
        signal.setitimer(signal.ITIMER_REAL, max(takes * (rounds % 23) / 20, 1e-6))
        do()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    except TargetLost as error:
        assert "connect again" in str(error), error
    try:
        check()
    except TargetLost as error:
        assert "connect again" in str(error), error
        again += 1
        client.close(timeout=LIMIT)
        client = connect()
        while True:
            try:
                pool = client.open_pool("pool-" + what, timeout=LIMIT)
                break
            except BlockingIOError:  # the target has not seen yet that we left
                time.sleep(0.001)
        check()
    if time.monotonic() > ends:
        break
pool.close(timeout=LIMIT)
client.close(timeout=LIMIT)
print("good", interrupted > 5)
"""


@pytest.mark.parametrize("what", ["connect", "ask", "read", "write", "persist", "small", "large"])
def test_ctrl_c_at_any_moment(target: Target, what: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED, str(target.address), TOKEN, what],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "good True\n"), done.stderr


# ---- tokens, and what is on the wire -------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "token"),
    [("{}", "wrong"), ("{}", f"{TOKEN}!"), ("eve@{}", TOKEN), ("{}", TOKEN[:-1])],
)
def test_a_wrong_token(target: Target, address: str, token: str | None) -> None:
    with pytest.raises(AuthenticationError, match="the token is not this target's") as caught:
        Client(address.format(target.address), token=token, timeout=SOON)
    assert isinstance(caught.value, PermissionError)
    assert TOKEN not in str(caught.value)


def test_no_token(target: Target) -> None:
    with pytest.raises(AuthenticationError, match="asks for a token, and none was given"):
        Client(target.address, timeout=SOON)


def test_a_token_out_of_a_file_may_have_its_newline(target: Target) -> None:
    Client(target.address, token=f"{TOKEN}\n", timeout=SOON).close()


def test_a_token_of_bytes_with_a_newline_is_told_as_such(target: Target) -> None:
    with pytest.raises(AuthenticationError, match="target's: it ends with a newline, as a file's"):
        Client(target.address, token=f"{TOKEN}\n".encode(), timeout=SOON)


@pytest.mark.parametrize("token", ["", b"", "  ", b"\n", "\t\n "])
def test_an_empty_token(target: Target, token: str | bytes) -> None:
    with pytest.raises(AuthenticationError, match="token is empty: give the target's, or None"):
        Client(target.address, token=token)


def test_a_target_with_another_token_is_not_trusted(target: Target) -> None:
    """An impostor lets anybody in, but cannot show that it has the token."""

    def change(direction: str, number: int, frame: bytes) -> bytes:
        if (direction, number) == ("to client", 1):
            accepted = messages.encode(messages.Accepted(bytes(channel.PROOF_SIZE)))
            return channel.Channel().frame(accepted)
        return frame

    with proxy(target, change) as between, pytest.raises(AuthenticationError, match="impostor"):
        connect(between.address)


def test_the_token_is_never_on_the_wire(target: Target) -> None:
    with proxy(target) as between:
        with connect(between.address) as client, client.create_pool("pool", SIZE) as pool:
            pool.write_persist(0, b"data")
        with pytest.raises(AuthenticationError):
            connect(between.address, token="a wrong token that must not be seen either")
    seen = between.all_bytes()
    assert b"create" in seen
    for form in (TOKEN.encode(), TOKEN.encode().hex().encode(), TOKEN.encode("utf-16-le")):
        assert form not in seen
    assert b"a wrong token" not in seen


def test_a_login_that_was_seen_is_worth_nothing(target: Target) -> None:
    with proxy(target) as between, connect(between.address) as client:
        client.list_pools()
    recorded = [frame for direction, frame in between.frames if direction == "to target"]
    with closing(Stranger(target)) as stranger:
        stranger.receive(messages.Hello)
        stranger.send_raw(recorded[0])
        failed = stranger.receive(messages.Failed)
        assert failed.code == AuthenticationError.wire_code
        stranger.check_ended()
    with proxy(target, replayed(recorded)) as between, pytest.raises(AuthenticationError):
        connect(between.address)


def replayed(recorded: list[bytes]) -> Callable[[str, int, bytes], bytes]:
    def change(direction: str, number: int, frame: bytes) -> bytes:
        return recorded[number] if direction == "to target" else frame

    return change


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


def other_code(frame: bytes) -> bytes:
    return frame[:4] + bytes([frame[4] ^ 0x80]) + frame[5:]


def cut(frame: bytes) -> bytes:
    (length,) = struct.unpack_from("<I", frame)
    return struct.pack("<I", length - 1) + frame[4:-1]


def twice(frame: bytes) -> bytes:
    return frame + frame


CHANGES = pytest.mark.parametrize("change", [flipped, other_code, cut, twice])


@CHANGES
@pytest.mark.parametrize("direction", ["to target", "to client"])
def test_a_frame_that_was_changed_on_the_way_is_refused(
    target: Target, direction: str, change: Callable[[bytes], bytes]
) -> None:
    changing = threading.Event()

    def pass_on(way: str, number: int, frame: bytes) -> bytes:
        return change(frame) if changing.is_set() and way == direction and number > 2 else frame

    with proxy(target, pass_on) as between:
        client = connect(between.address)
        client.create_pool("pool", SIZE).close()
        changing.set()
        with pytest.raises((ProtocolError, TargetLost)):
            for name in ("a", "b", "c"):
                client.create_pool(name, SIZE, timeout=SOON)
        with pytest.raises(TargetLost, match=r"connect again|closed|lost"):
            client.list_pools(timeout=SOON)
        client.close()
    # What came as it was sent has been done, once; nothing of what did not.
    done = {"to target": [], "to client": ["a"]}[direction]
    perhaps: list[str] = []
    if change is twice and direction == "to target":
        done = ["a"]
    elif change is twice:  # the client asked for it, and left at the second reply that it found
        perhaps = ["b"]
    with connect(target) as client:
        names = [info.name for info in client.list_pools()]
    assert names in ([*done, "pool"], [*done, *perhaps, "pool"])


def test_a_frame_that_is_dropped_is_missed(target: Target) -> None:
    dropping = threading.Event()

    def pass_on(way: str, _number: int, frame: bytes) -> bytes:
        if dropping.is_set() and way == "to target":
            dropping.clear()
            return b""
        return frame

    with proxy(target, pass_on) as between, connect(between.address) as client:
        dropping.set()
        with pytest.raises(rpma.WaitTimeoutError, match="did not reply in time"):
            client.list_pools(timeout=SHORT)
        with pytest.raises(TargetLost, match="connect again"):
            client.list_pools(timeout=SHORT)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("direction", ["to target", "to client"])
def test_a_control_channel_that_breaks_at_any_message(
    target: Target, monkeypatch: pytest.MonkeyPatch, direction: str, number: int
) -> None:
    monkeypatch.setattr(session, "LOGIN_TIMEOUT", 2.0)

    def pass_on(way: str, at: int, frame: bytes) -> bytes | None:
        return None if (way, at) == (direction, number) else frame

    began = time.monotonic()
    with proxy(target, pass_on) as between, suppress(TargetLost, rpma.ConnectionEventError):
        with connect(between.address, timeout=5) as client:
            with client.create_pool("pool", SIZE, timeout=5) as pool:
                pool.write_persist(0, b"x", timeout=5)
            for _ in range(3):
                client.list_pools(timeout=5)
    assert time.monotonic() - began < 9
    wait_left(target)


# ---- strangers -----------------------------------------------------------------------------------


def test_a_stranger_who_says_nothing_is_sent_away(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOGIN_TIMEOUT", SHORT)
    with closing(Stranger(target)) as silent, closing(Stranger(target)) as slow:
        began = time.monotonic()
        slow.receive(messages.Hello)
        slow.send_raw(b"\x10")
        for one in (silent, slow):
            one.check_ended()
        assert SHORT / 2 < time.monotonic() - began < 5
    wait_left(target)


def test_one_with_the_token_who_makes_no_data_connection_is_sent_away(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOGIN_TIMEOUT", SHORT)
    with closing(Stranger(target)) as stranger:
        stranger.come_in()
        assert target.clients == 1
        failed = stranger.receive(messages.Failed)
        assert "the client took too long to make its data connection" in failed.text
        stranger.check_ended()
    wait_left(target)


def test_one_who_leaves_before_the_data_connection_is_not_waited_for(
    target: Target, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(session, "LOGIN_TIMEOUT", 10 * SOON)
    with caplog.at_level("INFO", "rpma.target"):
        with closing(Stranger(target)) as stranger:
            stranger.come_in()
            assert target.clients == 1
        wait_left(target)
    assert "it left before it had made its data connection" in caplog.text


def test_a_data_connection_needs_the_ticket(target: Target, peer: rpma.Peer) -> None:
    with closing(Stranger(target)) as stranger:
        found = stranger.come_in()
        where = found.host or "127.0.0.1"
        for ticket in (None, b"a", bytes(channel.TICKET_SIZE), os.urandom(channel.TICKET_SIZE)):
            with pytest.raises(rpma.ConnectionEventError):
                peer.connect(where, str(found.port), private_data=ticket, timeout=SOON).close()


def test_more_clients_than_the_target_takes(fabric: Fabric, tmp_path: Path) -> None:
    with serving(fabric, tmp_path, max_clients=2) as target:
        with connect(target) as client, connect(target):
            with pytest.raises(TargetError, match="2 clients are in, and no more may be"):
                connect(target)
            client.list_pools(timeout=SOON)
        wait_left(target)
        check_serves(target)


def test_a_client_that_asks_without_end_is_slowed_down(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "BURST", 20.0)
    monkeypatch.setattr(tasks, "REQUESTS_PER_SECOND", 100.0)
    with connect(target) as flooding, connect(target) as other:
        began = time.monotonic()
        for _ in range(20):
            flooding.list_pools()
        quick = time.monotonic() - began
        ended = threading.Event()

        def flood() -> None:
            for _ in range(60):
                flooding.list_pools(timeout=SOON)
            ended.set()

        def another() -> None:
            while not ended.is_set():
                before = time.monotonic()
                other.list_pools(timeout=SOON)
                assert time.monotonic() - before < 2
                time.sleep(0.05)

        threads(flood, another)
        assert time.monotonic() - began > 0.59  # 80 requests, 20 of them at once, 100 a second
        assert quick < 5


def test_requests_that_come_all_at_once_are_answered_in_order(target: Target) -> None:
    with connect(target) as client:
        driver = client._driver
        count = 50
        requests = [messages.Describe(f"pool-{number}") for number in range(count)]
        frames = b"".join(driver._channel.frame(messages.encode(one)) for one in requests)
        assert driver._socket is not None
        driver._socket.sendall(frames)
        for number in range(count):
            reply = messages.decode(driver._receive(time.monotonic() + SOON), messages.Failed)
            assert f"'pool-{number}'" in reply.text


@given(data=st.binary(min_size=1, max_size=200))
@SOME_EXAMPLES
def test_whatever_bytes_a_stranger_sends(target: Target, data: bytes) -> None:
    with closing(Stranger(target)) as stranger:
        stranger.receive(messages.Hello)
        stranger.send_raw(data)
        stranger.socket.shutdown(socket.SHUT_WR)
        stranger.check_ended()


#: What MessagePack can say, in all its shapes.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(message=ANYTHING)
@SOME_EXAMPLES
def test_whatever_message_a_stranger_sends(target: Target, message: Any) -> None:
    msgspec = pytest.importorskip("msgspec")
    with closing(Stranger(target)) as stranger:
        stranger.receive(messages.Hello)
        stranger.send_raw(stranger.channel.frame(msgspec.msgpack.encode(message)))
        failed = stranger.receive(messages.Failed)
        assert failed.code == ProtocolError.wire_code
        stranger.check_ended()


@pytest.mark.parametrize("length", [1025, 1 << 31, (1 << 32) - 1])
def test_a_frame_that_is_too_long(target: Target, length: int) -> None:
    with closing(Stranger(target)) as stranger:
        stranger.receive(messages.Hello)
        stranger.send_raw(struct.pack("<I", length))
        failed = stranger.receive(messages.Failed)
        assert f"{length} bytes came, 1024 are accepted" in failed.text
        stranger.check_ended()


def test_a_client_of_another_version(target: Target) -> None:
    with closing(Stranger(target)) as stranger:
        stranger.login(version=messages.VERSION + 1)
        failed = stranger.receive(messages.Failed)
        assert failed.code == ProtocolError.wire_code
        assert "install the same rpma on both" in failed.text
        stranger.check_ended()


def test_a_target_of_another_version(target: Target) -> None:
    def change(direction: str, number: int, frame: bytes) -> bytes:
        if (direction, number) == ("to client", 0):
            hello = messages.Hello(messages.VERSION + 1, channel.new_nonce())
            return channel.Channel().frame(messages.encode(hello))
        return frame

    with proxy(target, change) as between:
        with pytest.raises(ProtocolError, match="install the same rpma on both"):
            connect(between.address)


def test_what_is_no_target_at_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for said in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b""):

            def answer(said: bytes = said) -> None:
                with server.accept()[0] as connection:
                    connection.sendall(said)

            answering = threading.Thread(target=answer)
            answering.start()
            with pytest.raises((ProtocolError, TargetLost)) as caught:
                Client(address, token=TOKEN, timeout=SOON)
            assert isinstance(caught.value, ConnectionError)
            answering.join(SOON)


ARBITRARY_REQUESTS: list[Any] = [
    messages.Close(0),
    messages.Close((1 << 32) - 1),
    messages.SetContent(7, 1),
    messages.Create("../outside", 1, rpma.pool.Attributes(), None, False, False, False),
    messages.Create("pool", 0, rpma.pool.Attributes(), None, False, False, False),
    messages.Create("pool", 1 << 62, rpma.pool.Attributes(), None, False, False, False),
    messages.Create("pool", 10, rpma.pool.Attributes(), 11, False, False, False),
    messages.Create("pool", 1 << 62, rpma.pool.Attributes(), None, True, False, False),
    messages.Open("../../etc/passwd", "write"),
    messages.Open("", "read"),
    messages.Describe("../outside"),
    messages.Resize("pool", 1),
    messages.Remove("../outside"),
    messages.Remove(".lock"),
]


def test_requests_that_no_client_of_ours_sends(target: Target, tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    with connect(target) as client:
        for request in ARBITRARY_REQUESTS:
            with pytest.raises(PoolError):
                client._driver.run(needs.ask(request, messages.Done), SOON)
        assert client.list_pools(timeout=SOON) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not (tmp_path.parent / "outside.pool").exists()


@given(message=ANYTHING)
@SOME_EXAMPLES
def test_a_client_that_talks_nonsense_ends_its_own_session_only(
    target: Target, message: Any
) -> None:
    msgspec = pytest.importorskip("msgspec")

    def talk() -> Any:
        return (yield needs.Exchange(msgspec.msgpack.encode(message)))

    client = connect(target, bounce_size=MIB)
    try:
        payload = client._driver.run(talk(), SOON)
        assert messages.decode(payload, messages.Failed).code == ProtocolError.wire_code
        with pytest.raises(TargetLost):
            client.list_pools(timeout=SOON)
    finally:
        client.close()


# ---- keys ----------------------------------------------------------------------------------------


class Descriptors:
    """Keeps the descriptors of all pools that are opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[bytes] = []
        monkeypatch.setattr(pool_logic, "RemoteMemoryRegion", self._note)

    def _note(self, descriptor: bytes) -> rpma.RemoteMemoryRegion:
        self.seen.append(descriptor)
        return rpma.RemoteMemoryRegion(descriptor)

    def forged(self) -> rpma.RemoteMemoryRegion:
        """The last one, claiming to be for everything."""
        return rpma.RemoteMemoryRegion(self.seen[-1][:-1] + b"\xff")


@pytest.fixture
def descriptors(monkeypatch: pytest.MonkeyPatch) -> Descriptors:
    return Descriptors(monkeypatch)


def raw_write(client: Client, remote: rpma.RemoteMemoryRegion) -> None:
    """Write as a client that obeys no rules."""
    path = client._path
    path.bounce.view[:8] = b"intruder"
    path.connection.write_wait(remote, 0, path.bounce, 0, 8, timeout=SOON)


def raw_read(client: Client, remote: rpma.RemoteMemoryRegion) -> bytes:
    path = client._path
    path.connection.read_wait(path.bounce, 0, remote, 0, 8, timeout=SOON)
    return bytes(path.bounce.view[:8])


def test_the_device_keeps_a_reader_from_writing(target: Target, descriptors: Descriptors) -> None:
    with a_pool(target, SIZE) as pool:
        pool.write(0, b"original")
        with descriptors.forged() as remote:
            assert raw_read(pool.client, remote) == b"original"
            raw_write(pool.client, remote)  # a writer can
        pool.write(0, b"original")
    with connect(target) as other, other.open_pool("pool", access="read") as watching:
        client = connect(target)
        client.open_pool("pool", access="read")
        with descriptors.forged() as remote:
            assert raw_read(client, remote) == b"original"
            with pytest.raises(rpma.errors.RemoteAccessError):
                raw_write(client, remote)
        with suppress(*GONE):
            client.close()
        assert watching[:8] == b"original"


@pytest.mark.parametrize("access", [raw_write, raw_read])
def test_a_key_is_worth_nothing_once_the_pool_is_closed(
    target: Target,
    descriptors: Descriptors,
    access: Callable[[Client, rpma.RemoteMemoryRegion], object],
) -> None:
    client = connect(target)
    client.create_pool("pool", SIZE).close()
    with descriptors.forged() as remote, pytest.raises(rpma.errors.RemoteAccessError):
        access(client, remote)
    with suppress(*GONE):
        client.close()
    with connect(target) as client, client.open_pool("pool") as pool:
        assert pool[:8] == bytes(8)


@pytest.mark.parametrize("access", [raw_write, raw_read])
def test_a_key_is_worth_nothing_on_the_connection_of_another_client(
    target: Target,
    descriptors: Descriptors,
    access: Callable[[Client, rpma.RemoteMemoryRegion], object],
) -> None:
    with a_pool(target, SIZE) as pool:
        thief = connect(target)
        with descriptors.forged() as remote, pytest.raises(rpma.errors.RemoteAccessError):
            access(thief, remote)
        with suppress(*GONE):
            thief.close()
        assert pool[:8] == bytes(8)
        pool.write_persist(0, b"goes on.", timeout=SOON)
        remote = descriptors.forged()
    with connect(target) as thief, remote:  # nor once its owner has left
        with pytest.raises(rpma.errors.RemoteAccessError):
            access(thief, remote)
        with suppress(*GONE):
            thief.close()


def test_a_flush_request_for_a_pool_of_somebody_else(target: Target) -> None:
    with a_pool(target, SIZE) as pool, connect(target) as other:
        other.create_pool("own", SIZE).close()
        with other.open_pool("own") as own:
            own._logic.number = 99
            with pytest.raises(rpma.pool.PoolAccessError, match="does not let this range"):
                own.persist(timeout=SOON)
            own._logic.number = 2
            own.persist(timeout=SOON)
        pool.persist(timeout=SOON)


# ---- files that somebody damages -----------------------------------------------------------------


def damage_magic(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\0" * 8192)


def truncate_data(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4096)


def truncate_all(path: Path) -> None:
    os.truncate(path, 0)


def replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_link(path: Path) -> None:
    moved = path.with_suffix(".moved")
    path.rename(moved)
    path.symlink_to(moved)


@pytest.mark.parametrize(
    "damage",
    [damage_magic, truncate_data, truncate_all, replace_by_directory, replace_by_link],
)
def test_a_file_that_was_damaged_while_its_pool_was_closed(
    target: Target, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    with connect(target) as client:
        client.create_pool("good", SIZE).close()
        client.create_pool("pool", SIZE).close()
        damage(tmp_path / "pool.pool")
        with pytest.raises(PoolDamagedError, match="'pool' is damaged: ") as caught:
            client.open_pool("pool")
        assert isinstance(caught.value, OSError)
        assert caught.value.errno == errno.EIO
        with pytest.raises(PoolDamagedError, match="is damaged"):
            client.resize_pool("pool", 1)
        with pytest.raises(PoolExistsError):
            client.create_pool("pool", SIZE)
        good, bad = client.list_pools()
        assert (good.name, good.problem) == ("good", "")
        assert bad.name == "pool"
        assert "is damaged" in bad.problem
        assert client.describe_pool("pool").problem == bad.problem
        with client.open_pool("good") as pool:
            pool.write_persist(0, b"good", timeout=SOON)
        if damage is replace_by_directory:
            with pytest.raises(PoolDamagedError):
                client.remove_pool("pool")
        else:
            client.remove_pool("pool")
            client.create_pool("pool", SIZE).close()


def test_a_header_half_of_which_was_damaged_is_still_good(target: Target, tmp_path: Path) -> None:
    with connect(target) as client:
        client.create_pool("pool", SIZE, content_length=5).close()
        with (tmp_path / "pool.pool").open("r+b") as file:
            file.write(os.urandom(100))
        with client.open_pool("pool") as pool:
            assert pool.info.content_length == 5
            pool.set_content_length(6)
        assert client.describe_pool("pool").content_length == 6


@pytest.mark.parametrize("length", [4, 12 << 10, 60 << 10])  # small ones, and large ones
@pytest.mark.parametrize("way", ["persist", "write_persist"])
def test_a_file_that_is_cut_off_while_its_pool_is_open(
    target: Target, tmp_path: Path, way: str, length: int
) -> None:
    lost = pattern(length, 1)
    with connect(target) as client, connect(target) as other:
        good = other.create_pool("good", SIZE)
        pool = client.create_pool("pool", SIZE)
        pool.write_persist(0, pattern(SIZE))
        os.truncate(tmp_path / "pool.pool", 8192 + 4096)
        for _ in range(2):  # it stays so
            with pytest.raises(StorageError, match="storage failed: what was written") as caught:
                if way == "persist":
                    pool.write(SIZE - length, lost, timeout=SOON)
                    pool.persist(timeout=SOON)
                else:
                    pool.write_persist(SIZE - length, lost, timeout=SOON)
            assert caught.value.errno == errno.EIO
        good.write_persist(0, b"good", timeout=SOON)
        assert good[:4] == b"good"
        # The connection, which other pools use as well, is none the worse.
        assert pool.read(0, 4096, timeout=SOON) == pattern(SIZE)[:4096]
        assert len(pool.read(0, SIZE, timeout=SOON)) == SIZE
        with suppress(StorageError):  # closing it says so, too, where it has to write it back
            pool.close()
        with pytest.raises(PoolDamagedError, match="its header asks for"):
            client.open_pool("pool", timeout=SOON)
        good.close()


def test_a_file_that_is_removed_while_its_pool_is_open(target: Target, tmp_path: Path) -> None:
    with connect(target) as client:
        pool = client.create_pool("pool", SIZE)
        pool.write_persist(0, b"gone")
        (tmp_path / "pool.pool").unlink()
        pool.write_persist(0, b"still here", timeout=SOON)
        assert pool[:5] == b"still"
        pool.close()
        assert client.list_pools() == []
        client.create_pool("pool", SIZE).close()


def test_a_directory_that_goes_away(fabric: Fabric, tmp_path: Path) -> None:
    folder = tmp_path / "pools"
    folder.mkdir()
    with serving(fabric, folder, dram=MIB) as target, connect(target) as client:
        client.create_pool("pool", SIZE).close()
        shutil.rmtree(folder)
        with pytest.raises(PoolError):
            client.open_pool("pool")
        with pytest.raises(PoolError):
            client.create_pool("another", SIZE)
        client.create_pool("dram", SIZE, volatile=True).close()
        assert [info.name for info in client.list_pools()] == ["dram"]


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    for folder in (tmp_path / "missing", Path(__file__)):
        with pytest.raises(OSError, match=folder.name):
            Target(folder, listen="127.0.0.1:0", token=TOKEN).start()
