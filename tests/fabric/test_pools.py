"""Remote pools, as their users have them."""
# ruff: noqa: PT031

from __future__ import annotations

import errno
import gc
import io
import os
import struct
import textwrap
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pairs import SOON, open_files, pattern, threads
from targets import MIB, TOKEN, check_serves, connect, serving, stored, wait_left

import rpma
import rpma.pool
from fabrics.fabric import Fabric
from rpma.pool import (
    Attributes,
    Client,
    NotDurableError,
    Persistency,
    Pool,
    PoolAccessError,
    PoolBusyError,
    PoolExistsError,
    PoolNameError,
    PoolNotFoundError,
    PoolSizeError,
    PoolSpaceError,
    Target,
    TargetError,
)
from rpma.pool.protocol.messages import Access
from rpma.pool.target.header import choose

pytestmark = pytest.mark.fabric

SIZE = 64 << 10
#: More than two of the requests that a transfer is cut into, and no whole number of them.
LONG = 3 * MIB + 12345

MANY_EXAMPLES = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def target(fabric: Fabric, tmp_path: Path) -> Iterator[Target]:
    with serving(fabric, tmp_path, dram="4MiB") as started:
        yield started


@pytest.fixture
def client(target: Target) -> Iterator[Client]:
    with connect(target) as connected:
        yield connected


@pytest.fixture
def pool(client: Client) -> Iterator[Pool]:
    with client.create_pool("pool", SIZE) as created:
        yield created


# ---- the life of a pool --------------------------------------------------------------------------


def test_the_example_of_the_documentation(target: Target, tmp_path: Path) -> None:
    text = rpma.pool.__doc__ or ""
    code = textwrap.dedent(text.partition("::\n\n")[2])
    assert '"db1.example:7204"' in code
    code = code.replace('"db1.example:7204"', repr(str(target.address)))
    exec(compile(code, "example", "exec"), {"rpma": rpma, "token": TOKEN})
    with rpma.open_pool(str(target.address), "journal", token=TOKEN) as pool:
        assert len(pool) == 64 * MIB
    assert (tmp_path / "journal.pool").is_file()


def test_a_pool_from_its_creation_to_its_removal(target: Target, tmp_path: Path) -> None:
    address = target.address
    with rpma.create_pool(address, "a", "64KiB", token=TOKEN) as pool:
        assert (pool.name, pool.size, len(pool), pool.access) == ("a", SIZE, SIZE, "write")
        assert not pool.closed
        pool[:5] = b"first"
        pool.persist()
        identity = pool.pool_id
        assert repr(pool).startswith("<rpma.pool.Pool 'a' of 65536 bytes, write, at 127.0.0.1:")
    assert pool.closed
    assert pool.client.closed
    (info,) = rpma.list_pools(address, token=TOKEN)
    assert (info.name, info.kind, info.size, info.users, info.access) == (
        "a",
        "file",
        SIZE,
        0,
        None,
    )
    assert info.problem == ""
    assert info.pool_id == identity
    assert info.allocated >= SIZE
    assert abs(info.created / 1e9 - time.time()) < 3600
    with rpma.open_pool(address, "a", access="read", token=TOKEN) as pool:
        assert pool[:5] == b"first"
        assert pool.pool_id == identity
    rpma.remove_pool(address, "a", token=TOKEN)
    assert rpma.list_pools(address, token=TOKEN) == []
    assert not list(tmp_path.glob("*.pool"))


def test_a_new_pool_has_zeros(pool: Pool) -> None:
    assert pool.read() == bytes(SIZE)


def test_a_pool_of_one_byte(client: Client) -> None:
    with client.create_pool("one", 1) as pool:
        pool.write_persist(0, b"x")
        assert pool.read() == b"x"
        assert pool[-1] == ord("x")
        with pytest.raises(rpma.InvalidArgumentError, match="outside of pool 'one'"):
            pool.write(0, b"xy")


@pytest.mark.parametrize("size", [0, "0", "0MiB"])
def test_a_pool_of_no_bytes_cannot_be(client: Client, size: int | str) -> None:
    with pytest.raises(PoolSizeError, match="use 1 to") as caught:
        client.create_pool("none", size)
    assert isinstance(caught.value, ValueError)
    assert client.list_pools() == []


@pytest.mark.parametrize("size", [-1, "1.5", "many", "", "64 miles", 1 << 49, 1 << 63, 1 << 70])
def test_what_cannot_be_a_size(client: Client, size: int | str) -> None:
    with pytest.raises(PoolSizeError, match="size"):
        client.create_pool("none", size)
    assert client.list_pools() == []


@pytest.mark.parametrize("size", [1 << 46, "200TiB"])
def test_a_pool_larger_than_the_disk(client: Client, size: int | str, tmp_path: Path) -> None:
    with pytest.raises(PoolSpaceError, match=r"asked for, .* free") as caught:
        client.create_pool("huge", size)
    assert isinstance(caught.value, OSError)
    assert caught.value.errno == errno.ENOSPC
    assert not list(tmp_path.glob("*huge*"))
    client.create_pool("huge", SIZE).close()


def test_a_pool_that_there_is_not(client: Client) -> None:
    for ask in (client.open_pool, client.describe_pool, client.remove_pool):
        with pytest.raises(PoolNotFoundError, match="there is no pool 'nobody'") as caught:
            ask("nobody")
        assert isinstance(caught.value, FileNotFoundError)
        assert caught.value.errno == errno.ENOENT
    with pytest.raises(PoolNotFoundError, match="there is no pool 'nobody'"):
        client.resize_pool("nobody", SIZE)
    with pytest.raises(PoolNotFoundError):
        rpma.open_pool(client.address, "nobody", token=TOKEN)  # and leaves no client behind


def test_a_pool_that_exists_already(client: Client, pool: Pool) -> None:
    pool[:3] = b"old"
    for volatile in (False, True):
        with pytest.raises(PoolExistsError, match="'pool'") as caught:
            client.create_pool("pool", SIZE, volatile=volatile)
        assert isinstance(caught.value, FileExistsError)
    client.create_pool("dram", SIZE, volatile=True).close()
    for volatile in (False, True):
        with pytest.raises(PoolExistsError, match="choose another name, or remove it"):
            client.create_pool("dram", SIZE, volatile=volatile)
    assert pool[:3] == b"old"


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-option", "a/b", "a\0b", "a b", "ä", "x" * 129, "x" * 5000]
)
def test_what_cannot_be_a_name(client: Client, name: str) -> None:
    check_bad_name(client, name)


@given(name=st.text(max_size=300).filter(lambda text: not text.isalnum()))
@MANY_EXAMPLES
def test_no_name_leads_anywhere_else(client: Client, tmp_path: Path, name: str) -> None:
    try:
        client.create_pool(name, 1).close()
    except PoolNameError:
        check_bad_name(client, name)
        assert not list(tmp_path.glob("*.pool"))
    else:
        (path,) = tmp_path.glob("*.pool")
        assert path.name == f"{name}.pool"
        client.remove_pool(name)


def check_bad_name(client: Client, name: str) -> None:
    calls: list[Any] = [
        lambda: client.create_pool(name, SIZE),
        lambda: client.create_pool(name, SIZE, volatile=True),
        lambda: client.open_pool(name),
        lambda: client.describe_pool(name),
        lambda: client.resize_pool(name, SIZE),
        lambda: client.remove_pool(name),
    ]
    for call in calls:
        with pytest.raises(PoolNameError, match="use 1 to 128 ASCII letters, digits"):
            call()
    assert client.list_pools(timeout=SOON) == []


def test_a_name_is_a_string(client: Client) -> None:
    for name in (None, 3, b"pool", Path("pool")):
        with pytest.raises(TypeError, match="name"):
            client.create_pool(name, SIZE)  # type: ignore[arg-type]
    with pytest.raises(rpma.InvalidArgumentError, match="access='writ' must be one of"):
        client.open_pool("pool", access="writ")  # type: ignore[arg-type]


def test_more_pools_than_fit_into_one_answer_are_listed_in_order(client: Client) -> None:
    names = [f"pool-{number:03}" for number in range(150)]
    for name in reversed(names):
        client.create_pool(name, 4096, volatile=True).close()
    assert [info.name for info in client.list_pools()] == names


def test_pools_in_dram_and_in_files_are_listed_together(client: Client) -> None:
    client.create_pool("b", 4096, volatile=True).close()
    client.create_pool("a", 4096).close()
    with client.create_pool("c", 4096):
        kinds = [(info.name, info.kind, info.users) for info in client.list_pools()]
    assert kinds == [("a", "file", 0), ("b", "dram", 0), ("c", "file", 1)]
    assert client.describe_pool("b").kind == "dram"
    assert client.describe_pool("c").kind == "file"


def test_a_pool_grows_and_shrinks(client: Client) -> None:
    with client.create_pool("pool", SIZE, content_length=SIZE) as pool:
        pool.write_persist(0, pattern(SIZE))
        with pytest.raises(PoolBusyError, match="it must be closed") as caught:
            client.resize_pool("pool", 1)
        assert isinstance(caught.value, BlockingIOError)
    client.resize_pool("pool", "1MiB")
    with client.open_pool("pool") as pool:
        assert pool.size == MIB
        assert pool.read() == pattern(SIZE) + bytes(MIB - SIZE)
        assert pool.info.content_length == SIZE
    client.resize_pool("pool", 100)
    client.resize_pool("pool", 200)
    with client.open_pool("pool") as pool:
        assert pool.read() == pattern(SIZE)[:100] + bytes(100)
        assert pool.info.content_length == 100
    with pytest.raises(PoolSizeError, match="use 1 to"):
        client.resize_pool("pool", 0)
    with pytest.raises(PoolSizeError, match="size"):
        client.resize_pool("pool", 1 << 70)
    with pytest.raises(PoolSpaceError, match="free"):
        client.resize_pool("pool", 1 << 46)
    assert client.describe_pool("pool").size == 200


def test_a_pool_that_is_open_cannot_be_removed(client: Client, pool: Pool) -> None:
    with pytest.raises(PoolBusyError, match="it must be closed"):
        client.remove_pool("pool")
    pool.close()
    client.remove_pool("pool")


# ---- reading and writing -------------------------------------------------------------------------


def test_what_is_written_is_read(pool: Pool) -> None:
    data = pattern(5000)
    pool.write(100, data)
    assert pool.read(100, 5000) == data
    assert pool.read() == bytes(100) + data + bytes(SIZE - 5100)
    assert pool.read(5000) == data[4900:] + bytes(SIZE - 5100)
    assert pool.read(SIZE, 0) == pool.read(0, 0) == pool.read(SIZE) == b""
    pool.write(SIZE, b"")
    pool.write_persist(SIZE, b"")
    pool.persist(SIZE)
    pool.flush(SIZE)


def test_whatever_has_a_buffer_is_written_and_read_into(pool: Pool) -> None:
    np = pytest.importorskip("numpy")
    data = pattern(64)
    for source in (
        data,
        bytearray(data),
        memoryview(data),
        memoryview(bytearray(data)).cast("I"),
        np.frombuffer(data, "u8"),
        np.frombuffer(data, "u1").reshape(4, 4, 4),
    ):
        pool.write(0, bytes(64))
        pool.write(0, source)
        assert pool.read(0, 64) == data
    room = bytearray(64)
    array = np.zeros((2, 4), "u8")
    for sink in (room, memoryview(bytearray(64)), array):
        pool.read_into(0, sink)
        assert bytes(sink) == data
    pool.read_into(8, memoryview(room)[10:20])
    assert room == data[:10] + data[8:18] + data[20:]


def test_what_has_no_fitting_buffer(pool: Pool) -> None:
    with pytest.raises(TypeError, match=r"data must be an object with a buffer, as .* not str"):
        pool.write(0, "text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="buffer must be an object with a buffer"):
        pool.read_into(0, 12)  # type: ignore[arg-type]
    with pytest.raises(rpma.InvalidArgumentError, match="data is not contiguous"):
        pool.write(0, memoryview(bytes(10))[::2])
    with pytest.raises(rpma.InvalidArgumentError, match="buffer must be writable"):
        pool.read_into(0, bytes(10))
    assert pool.read() == bytes(SIZE)


@pytest.mark.parametrize("length", [4096, 4097, 256 << 10, (256 << 10) + 1, LONG])
def test_transfers_of_any_length(client: Client, tmp_path: Path, length: int) -> None:
    data = pattern(length)
    with client.create_pool("long", LONG + 7) as pool:
        pool.write(3, data)
        assert pool.read(3, length) == data
        again = pattern(length, 1)
        pool.write_persist(5, again)
        assert stored(tmp_path, "long")[5 : 5 + length] == again
        room = bytearray(length)
        pool.read_into(5, room)
        assert room == again


@pytest.mark.parametrize("way", ["write", "write_persist", "read", "read_into"])
def test_progress_is_told_step_by_step_to_the_end(client: Client, way: str) -> None:
    told: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        told.append((done, total))

    with client.create_pool("long", LONG) as pool:
        if way == "write":
            pool.write(0, bytes(LONG), progress=progress)
        elif way == "write_persist":
            pool.write_persist(0, bytes(LONG), progress=progress)
        elif way == "read":
            pool.read(progress=progress)
        else:
            pool.read_into(0, bytearray(LONG), progress=progress)
    done = [step[0] for step in told]
    assert len(done) > 3
    assert done == sorted(set(done))
    assert done[-1] == LONG
    assert {step[1] for step in told} == {LONG}


def test_short_transfers_tell_their_progress_too(pool: Pool) -> None:
    for way in (pool.write, pool.write_persist):
        told: list[tuple[int, int]] = []
        way(0, bytes(100), progress=lambda done, total, told=told: told.append((done, total)))
        assert told == [(100, 100)]


@pytest.mark.parametrize("way", ["write", "write_persist", "read"])
def test_an_exception_of_the_progress_callback_ends_the_transfer(client: Client, way: str) -> None:
    def progress(done: int, total: int) -> None:
        raise LookupError(f"{done} of {total}")

    with client.create_pool("long", LONG) as pool:
        data = pattern(LONG)
        arguments = () if way == "read" else (0, bytes(LONG))
        for _ in range(10):  # the bounce buffers come back
            with pytest.raises(LookupError, match=f"of {LONG}"):
                getattr(pool, way)(*arguments, progress=progress, timeout=SOON)
        pool.write(0, data, timeout=SOON)
        assert pool.read(timeout=SOON) == data


@pytest.mark.parametrize("length", [0, 1, 4096, 4097, 256 << 10, LONG])
def test_a_file_is_written_and_read(client: Client, tmp_path: Path, length: int) -> None:
    data = pattern(LONG)
    (tmp_path / "in").write_bytes(b"before" + data + b"after")
    done: list[int] = []
    with client.create_pool("long", LONG + 10) as pool:
        with open(tmp_path / "in", "rb", buffering=0) as source:
            source.seek(6)
            pool.write_from(3, source, length, progress=lambda count, _: done.append(count))
            assert source.tell() == 6 + length
        assert pool.read() == bytes(3) + data[:length] + bytes(LONG + 7 - length)
        assert done[-1:] == ([length] if length else [])
        with open(tmp_path / "out", "wb") as sink:
            pool.read_to(3, sink, length, timeout=SOON)
        assert (tmp_path / "out").read_bytes() == data[:length]


def test_a_file_that_is_too_short(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(pattern(LONG))
    with client.create_pool("long", 2 * LONG) as pool:
        for _ in range(10):  # the bounce buffers come back
            with open(tmp_path / "in", "rb") as source:
                wanted = f"ended after {LONG} of {LONG + 1} bytes"
                with pytest.raises(EOFError, match=wanted):
                    pool.write_from(0, source, LONG + 1)
        with (
            open(tmp_path / "in", "rb", buffering=0) as source,
            pytest.raises(io.UnsupportedOperation),
        ):
            pool.read_to(0, source, 10)
        pool.write(0, bytes(LONG))
        assert pool.read(timeout=SOON) == bytes(2 * LONG)


@pytest.mark.parametrize("timeout", [None, SOON])
def test_a_file_that_shrinks_while_it_is_written(
    target: Target, tmp_path: Path, timeout: float | None
) -> None:
    (tmp_path / "in").write_bytes(bytes(8 * LONG))
    client = connect(target)
    pool = client.create_pool("long", 8 * LONG)

    def progress(_done: int, _total: int) -> None:
        os.truncate(tmp_path / "in", 4096)

    with (
        open(tmp_path / "in", "rb", buffering=0) as source,
        pytest.raises((EOFError, OSError), match=r"ended after|became shorter"),
    ):
        pool.write_from(0, source, 8 * LONG, progress=progress, timeout=timeout)
    with suppress(rpma.RpmaError):  # the connection may be lost with that
        client.close()
    wait_left(target)


def test_a_file_that_is_no_file_of_the_system(client: Client) -> None:
    data = pattern(LONG)
    with client.create_pool("long", LONG) as pool:
        pool.write_from(0, io.BytesIO(data), LONG)
        assert pool.read() == data


def test_a_file_is_let_go_of(client: Client, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(pattern(LONG))
    maps = Path("/proc/self/maps")
    with client.create_pool("long", LONG) as pool, open(tmp_path / "in", "rb") as source:
        pool.write_from(0, source, LONG)
        assert str(tmp_path / "in") not in maps.read_text()
        source.seek(0)
        with pytest.raises(LookupError):
            pool.write_from(0, source, LONG, progress=lambda *_: {}["none"])
        source.seek(0)
        pool.write_from(0, source, LONG)  # what was given up is out of the way
        assert str(tmp_path / "in") not in maps.read_text()
        assert pool.read() == pattern(LONG)


def test_slices_are_those_of_bytes(pool: Pool) -> None:
    data = pattern(SIZE)
    pool[:] = data
    for index in (
        slice(None),
        slice(0, 0),
        slice(3, 7),
        slice(-4, None),
        slice(-10, -3),
        slice(SIZE - 2, SIZE + 50),
        slice(7, 3),
        slice(SIZE + 1, SIZE + 9),
        slice(0, 5, 1),
    ):
        assert pool[index] == data[index], index
    assert pool[0] == data[0]
    assert pool[-1] == data[-1]
    assert pool[SIZE - 1] == data[-1]
    pool[3] = 255
    pool[-2] = 254
    pool[10:13] = b"abc"
    pool[-6:-3] = memoryview(b"xyz")
    pool[7:3] = b""
    wanted = bytearray(data)
    wanted[3], wanted[-2], wanted[10:13], wanted[-6:-3] = 255, 254, b"abc", b"xyz"
    assert pool.read() == wanted


def test_slices_that_cannot_be(pool: Pool) -> None:
    for step in (2, -1):
        with pytest.raises(ValueError, match="a step of 1 only"):
            pool[::step]
        with pytest.raises(ValueError, match="a step of 1 only"):
            pool[0:4:step] = b"ab"
    with pytest.raises(ValueError, match="3 bytes do not fit into 4"):
        pool[0:4] = b"abc"
    with pytest.raises(ValueError, match="5 bytes do not fit into 4"):
        pool[-4:] = b"abcde"
    with pytest.raises(ValueError, match="1 bytes do not fit into 0"):
        pool[SIZE:] = b"a"
    with pytest.raises(ValueError, match="256"):
        pool[0] = 256
    for index in (SIZE, -SIZE - 1, 1 << 70):
        with pytest.raises(IndexError, match=f"outside of the pool's {SIZE} bytes"):
            pool[index]
        with pytest.raises(IndexError, match=f"outside of the pool's {SIZE} bytes"):
            pool[index] = 1
    for index in ("a", 1.5, None):
        with pytest.raises(TypeError):
            pool[index]  # type: ignore[index]
    with pytest.raises(TypeError, match="data must be an object with a buffer"):
        pool[0:3] = "abc"  # type: ignore[assignment]
    assert pool.read() == bytes(SIZE)


EDGES = st.sampled_from(
    [0, 1, 8, 4096, SIZE - 1, SIZE, SIZE + 1, 1 << 31, 1 << 32, 1 << 63, 1 << 64]
)


@given(
    offset=EDGES | st.integers(-10, 2 * SIZE),
    length=st.none() | EDGES | st.integers(-10, 2 * SIZE),
)
@MANY_EXAMPLES
def test_a_range_is_inside_of_the_pool_or_refused(
    pool: Pool, offset: int, length: int | None
) -> None:
    inside = 0 <= offset <= SIZE and (length is None or 0 <= length <= SIZE - offset)
    for call in (pool.read, pool.persist, pool.flush):
        if inside:
            call(offset, length, timeout=SOON)
        else:
            with pytest.raises(rpma.InvalidArgumentError, match=r"offset|length") as caught:
                call(offset, length, timeout=SOON)
            assert isinstance(caught.value, ValueError)
    count = min(max(length or 0, 0), 2 * SIZE)
    fits = 0 <= offset <= SIZE - count
    for write in (pool.write, pool.write_persist):
        if fits:
            write(offset, bytes(count), timeout=SOON)
        else:
            with pytest.raises(rpma.InvalidArgumentError, match=r"offset|length"):
                write(offset, bytes(count), timeout=SOON)
    assert pool.read(0, 16, timeout=SOON) == bytes(16)


def test_an_offset_is_a_number(pool: Pool) -> None:
    for bad in ("0", 1.0, None, b""):
        with pytest.raises(TypeError, match="offset"):
            pool.read(bad, 1)  # type: ignore[arg-type]


# ---- 8 bytes as a whole --------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 0x0123456789ABCDEF, (1 << 64) - 1])
def test_eight_bytes_are_stored_and_loaded_as_a_whole(pool: Pool, value: int) -> None:
    pool.atomic_store(8, value)
    assert pool.atomic_load(8) == value
    assert pool.read(0, 24) == bytes(8) + struct.pack("<Q", value) + bytes(8)
    pool.atomic_store(SIZE - 8, value, timeout=SOON)
    assert pool.atomic_load(SIZE - 8, timeout=SOON) == value


def test_eight_bytes_that_cannot_be(pool: Pool) -> None:
    for offset in (1, 4, 9):
        with pytest.raises(rpma.InvalidArgumentError, match=f"offset={offset} must be a multiple"):
            pool.atomic_store(offset, 1)
        with pytest.raises(rpma.InvalidArgumentError, match=f"offset={offset} must be a multiple"):
            pool.atomic_load(offset)
    for offset in (SIZE, SIZE - 7, -8):
        with pytest.raises(rpma.InvalidArgumentError, match="offset"):
            pool.atomic_store(offset, 1)
        with pytest.raises(rpma.InvalidArgumentError, match="offset"):
            pool.atomic_load(offset)
    for value in (-1, 1 << 64):
        with pytest.raises(rpma.InvalidArgumentError, match="value"):
            pool.atomic_store(0, value)
    with pytest.raises(TypeError, match="value"):
        pool.atomic_store(0, 1.0)  # type: ignore[arg-type]
    assert pool.read() == bytes(SIZE)


def test_eight_bytes_are_swapped_if_they_are_expected(pool: Pool) -> None:
    first, second = 0x0123456789ABCDEF, (1 << 64) - 1
    assert pool.compare_and_swap(8, 0, first) == 0
    assert pool.compare_and_swap(8, 0, second) == first  # it has stayed
    assert pool.atomic_load(8) == first
    assert pool.compare_and_swap(8, first, second, timeout=SOON) == first
    assert pool.read(0, 24) == bytes(8) + struct.pack("<Q", second) + bytes(8)


def test_a_swap_comes_after_what_was_written_before(pool: Pool) -> None:
    for number in range(1, 50):
        pool.atomic_store(0, number)
        assert pool.compare_and_swap(0, number, number + 1) == number
        assert pool.atomic_load(0) == number + 1


def test_a_swap_in_dram(client: Client) -> None:
    with client.create_pool("volatile", SIZE, volatile=True) as pool:
        assert pool.compare_and_swap(0, 0, 5) == 0
        assert pool.compare_and_swap(0, 0, 6) == 5


def test_swaps_that_cannot_be(pool: Pool) -> None:
    for offset in (1, 4, SIZE, SIZE - 7, -8):
        with pytest.raises(rpma.InvalidArgumentError, match="offset"):
            pool.compare_and_swap(offset, 0, 1)
    for number in (-1, 1 << 64):
        with pytest.raises(rpma.InvalidArgumentError, match="expected"):
            pool.compare_and_swap(0, number, 1)
        with pytest.raises(rpma.InvalidArgumentError, match="desired"):
            pool.compare_and_swap(0, 0, number)
    assert pool.read() == bytes(SIZE)


# ---- durability ----------------------------------------------------------------------------------


def test_what_was_persisted_is_in_the_file(client: Client, tmp_path: Path) -> None:
    with client.create_pool("pool", 5000, attributes=Attributes(signature=b"tests")) as pool:
        raw = (tmp_path / "pool.pool").read_bytes()
        assert len(raw) == 8192 + 8192  # whole pages
        header = choose(raw[:4096], raw[4096:8192])
        assert (header.size, header.pool_id) == (5000, pool.pool_id)
        assert header.attributes == pool.attributes == Attributes(signature=b"tests")
        assert pool.persistency in (Persistency.MSYNC, Persistency.PMEM)
        pool[0:6] = b"begin."
        pool[4998:] = b".."
        pool.persist()
        assert stored(tmp_path)[:5000] == b"begin." + bytes(4992) + b".."
        pool.write_persist(4000, b"at once")
        assert stored(tmp_path)[4000:4007] == b"at once"
        pool.write(4096, b"a range")
        pool.persist(4096, 7)
        assert stored(tmp_path)[4096:4103] == b"a range"


def test_what_was_not_persisted_is_kept_all_the_same_when_the_pool_is_closed(
    client: Client, tmp_path: Path
) -> None:
    with client.create_pool("pool", SIZE) as pool:
        pool.write(77, b"not persisted")
    assert stored(tmp_path)[77:90] == b"not persisted"


def test_threads_share_a_pool(client: Client) -> None:
    with client.create_pool("pool", 4 * MIB) as pool:

        def run(number: int) -> None:
            for step in range(10):
                data = pattern(300_000 + step, number)
                pool.write_persist(number * MIB, data, timeout=SOON)
                assert pool.read(number * MIB, len(data), timeout=SOON) == data

        threads(*(lambda number=number: run(number) for number in range(4)))


def test_pools_survive_the_restart_of_their_target(fabric: Fabric, tmp_path: Path) -> None:
    attributes = Attributes(
        signature=b"SIG", major=3, compat_features=1, user_flags=b"flags", uuid=uuid.uuid4()
    )
    with serving(fabric, tmp_path) as target, connect(target) as client:
        with client.create_pool("a", SIZE, attributes=attributes, content_length=10) as pool:
            identity = pool.pool_id
            assert pool.info.content_length == 10
            pool.write_persist(0, pattern(SIZE))
        with client.create_pool("b", SIZE) as pool:
            pool.set_content_length(0)
            pool.set_content_length(SIZE)
        with client.create_pool("c", SIZE, content_length=5) as pool:
            pool.set_content_length(None)
            assert client.describe_pool("c").content_length is None
    for _ in range(2):
        with serving(fabric, tmp_path) as target, connect(target) as client:
            assert [info.content_length for info in client.list_pools()] == [10, SIZE, None]
            with client.open_pool("a", access="read") as pool:
                assert pool.attributes == attributes
                assert pool.attributes.signature == b"SIG".ljust(8, b"\0")
                assert pool.pool_id == identity
                assert pool.info.content_length == 10
                assert pool.read() == pattern(SIZE)


@pytest.mark.parametrize("length", [-1, SIZE + 1, 1 << 63, 1 << 70])
def test_a_content_length_is_within_the_pool(client: Client, pool: Pool, length: int) -> None:
    with pytest.raises((PoolSizeError, rpma.InvalidArgumentError), match="length"):
        pool.set_content_length(length)
    with pytest.raises(ValueError, match="content_length"):
        client.create_pool("another", SIZE, content_length=length)
    assert [info.name for info in client.list_pools(timeout=SOON)] == ["pool"]


def test_attributes_are_attributes(client: Client) -> None:
    with pytest.raises(TypeError, match="attributes"):
        client.create_pool("pool", SIZE, attributes={"major": 1})  # type: ignore[arg-type]
    assert client.list_pools(timeout=SOON) == []


# ---- pools in DRAM -------------------------------------------------------------------------------


def test_a_pool_in_dram_lives_as_long_as_its_target(fabric: Fabric, tmp_path: Path) -> None:
    with serving(fabric, tmp_path, dram="1MiB") as target, connect(target) as client:
        with client.create_pool("cache", SIZE, volatile=True) as pool:
            assert pool.persistency is Persistency.NONE
            pool[:6] = b"cached"
            pool.flush()
        with client.open_pool("cache") as pool:
            assert pool[:6] == b"cached"
    with serving(fabric, tmp_path, dram="1MiB") as target, connect(target) as client:
        assert client.list_pools() == []
        with pytest.raises(PoolNotFoundError, match="there is no pool 'cache'"):
            client.open_pool("cache")


def test_a_pool_in_dram_is_not_durable_and_says_so(client: Client) -> None:
    with client.create_pool("cache", SIZE, volatile=True) as pool:
        calls: list[Any] = [
            pool.persist,
            lambda: pool.write_persist(0, b"x"),
            lambda: pool.write_persist(0, bytes(SIZE)),
        ]
        for call in calls:
            with pytest.raises(NotDurableError, match=r"is in DRAM.*flush\(\) makes") as caught:
                call()
            assert isinstance(caught.value, io.UnsupportedOperation)
        assert pool.read() == bytes(SIZE)  # refused before anything was written
    with pytest.raises(TargetError, match="only pools in files change their size"):
        client.resize_pool("cache", 1)


def test_pools_in_dram_take_no_more_than_the_target_gives(client: Client) -> None:
    with client.create_pool("a", 3 * MIB, volatile=True):
        with pytest.raises(PoolSpaceError, match=r"1 MiB of the 4 MiB .* are free"):
            client.create_pool("b", MIB + 1, volatile=True)
        client.create_pool("b", MIB, volatile=True).close()
        with pytest.raises(PoolSpaceError, match="are free"):
            client.create_pool("c", 1, volatile=True)
    client.remove_pool("a")
    client.create_pool("c", 3 * MIB, volatile=True).close()


def test_a_target_without_dram_and_one_without_a_directory(fabric: Fabric, tmp_path: Path) -> None:
    with (
        serving(fabric, tmp_path) as target,
        connect(target) as client,
        pytest.raises(PoolSpaceError, match="0 B of the 0 B"),
    ):
        client.create_pool("cache", 1, volatile=True)
    with serving(fabric, dram="1MiB") as target, connect(target) as client:
        with pytest.raises(TargetError, match="has no directory: it serves pools in DRAM only"):
            client.create_pool("file", 1)
        for ask in (
            client.open_pool,
            client.describe_pool,
            client.remove_pool,
            partial(client.resize_pool, size=2),
        ):
            with pytest.raises(PoolNotFoundError, match="there is no pool 'file'"):
                ask("file")
        with client.create_pool("cache", 1, volatile=True):
            assert [info.name for info in client.list_pools()] == ["cache"]


# ---- arrays --------------------------------------------------------------------------------------


def test_an_array_is_a_part_of_a_pool(pool: Pool, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    array = pool.array("f4", (10, 20), offset=64)
    assert (array.local.dtype, array.local.shape) == (np.dtype("f4"), (10, 20))
    assert not array.local.any()
    array.local[:] = np.arange(200).reshape(10, 20)
    array.write()
    array.persist()
    wanted = np.arange(200, dtype="f4").tobytes()
    assert stored(tmp_path)[64 : 64 + 800] == wanted
    assert pool.read(0, 64 + 808) == bytes(64) + wanted + bytes(8)
    array.local[:] = 0
    array.read(3)
    assert array.local[3].tolist() == list(range(60, 80))
    assert not array.local[:3].any()
    assert not array.local[4:].any()
    array.read(slice(-2, None))
    assert array.local[8:].ravel().tolist() == list(range(160, 200))
    assert not array.local[4:8].any()
    array.read()
    assert array.local.tobytes() == wanted
    array.local[:] = -1
    array.write(-1)
    array.write(slice(1, 3))
    array.write(slice(5, 5))
    array.persist(slice(1, 3))
    array.read(slice(0, 0))
    rows = [row[0] for row in np.frombuffer(pool.read(64, 800), "f4").reshape(10, 20)]
    assert rows == [0, -1, -1, 60, 80, 100, 120, 140, 160, -1]


def test_an_array_of_the_whole_pool_and_of_many_kinds(client: Client) -> None:
    np = pytest.importorskip("numpy")
    with client.create_pool("pool", LONG) as pool:
        pool.write(0, pattern(LONG))
        whole = pool.array()
        whole.read(timeout=SOON)
        assert whole.local.tobytes() == pattern(LONG)
        whole.local[:] = whole.local[::-1].copy()
        whole.write(timeout=SOON)
        assert pool.read() == pattern(LONG)[::-1]
        record = pool.array([("id", "<u4"), ("value", "<f8")], 5)
        record.local["id"] = 7
        record.write()
        assert pool.read(0, 4) == struct.pack("<I", 7)
        assert pool.array(np.int16, 4).local.shape == (4,)
        assert pool.array(">i8", (2, 1, 3)).local.shape == (2, 1, 3)


def test_an_array_that_cannot_be(pool: Pool) -> None:
    pytest.importorskip("numpy")
    invalid = rpma.InvalidArgumentError
    with pytest.raises(invalid, match="not a whole number"):
        pool.array("f8", offset=4)
    with pytest.raises(invalid, match="outside of pool 'pool'"):
        pool.array("u1", SIZE + 1)
    with pytest.raises(invalid, match="outside of pool 'pool'"):
        pool.array("u1", SIZE, offset=1)
    with pytest.raises(invalid, match="offset"):
        pool.array("u1", 1, offset=SIZE + 1)
    with pytest.raises(invalid, match="without Python objects"):
        pool.array(object, 1)
    for shape in (0, -1, (), (3, 0)):
        with pytest.raises(invalid, match="must be of positive numbers"):
            pool.array("u1", shape)
    with pytest.raises(invalid, match=r"must be of positive numbers|items"):
        pool.array("u1", offset=SIZE)
    with pytest.raises(TypeError):
        pool.array("no such type", 1)
    with pytest.raises(TypeError):
        pool.array("u1", 1.5)  # type: ignore[arg-type]


def test_rows_that_an_array_does_not_have(pool: Pool) -> None:
    pytest.importorskip("numpy")
    array = pool.array("u1", (4, 2))
    for call in (array.read, array.write, array.persist):
        for row in (4, -5):
            with pytest.raises(rpma.InvalidArgumentError, match=f"{row} is outside of .* 4 rows"):
                call(row)
        with pytest.raises(rpma.InvalidArgumentError, match="step of 1"):
            call(slice(None, None, 2))
        with pytest.raises(TypeError):
            call("row")  # type: ignore[arg-type]


def test_an_array_lives_on_without_its_pool(pool: Pool) -> None:
    pytest.importorskip("numpy")
    one, another = pool.array("u1", 10), pool.array("u1", 10)
    one.local[:] = 5
    one.close()
    one.close()
    assert one.local.tolist() == [5] * 10
    with pytest.raises(rpma.ClosedError, match="closed"):
        one.write()
    another.write()
    pool.close()
    another.local[:] = 6
    assert another.local.tolist() == [6] * 10
    for call in (another.read, another.write, another.persist):
        with pytest.raises(rpma.ClosedError, match="pool 'pool' is closed"):
            call()
    with pytest.raises(rpma.ClosedError, match="pool 'pool' is closed"):
        pool.array()


def test_an_array_that_is_closed_is_not_kept_by_its_pool(pool: Pool) -> None:
    pytest.importorskip("numpy")
    array = pool.array("u1", 10)
    memory = weakref.ref(array.local)
    array.close()
    del array
    gc.collect()
    assert memory() is None


def test_a_reader_has_arrays_to_read(client: Client, pool: Pool) -> None:
    pytest.importorskip("numpy")
    pool[:3] = b"abc"
    pool.close()
    with client.open_pool("pool", access="read") as reader:
        array = reader.array("u1", 3)
        array.read()
        assert array.local.tobytes() == b"abc"
        for call in (array.write, array.persist):
            with pytest.raises(PoolAccessError, match="open it with access='write'"):
                call()


# ---- who may have it open ------------------------------------------------------------------------

ACCESSES: tuple[Access, ...] = ("read", "write", "shared")


@pytest.mark.parametrize("second", ACCESSES)
@pytest.mark.parametrize("first", ACCESSES)
def test_a_writer_alone_or_readers_or_those_who_share(
    client: Client, target: Target, first: Access, second: Access
) -> None:
    client.create_pool("pool", SIZE).close()
    allowed = first == second != "write"
    with connect(target) as other, client.open_pool("pool", access=first):
        if allowed:
            with other.open_pool("pool", access=second) as pool:
                assert pool.access == second
                info = client.describe_pool("pool")
                assert (info.users, info.access) == (2, second)
        else:
            with pytest.raises(PoolBusyError) as caught:
                other.open_pool("pool", access=second)
            assert isinstance(caught.value, BlockingIOError)
            assert f"open by 1 for {first}" in str(caught.value)
            assert f"cannot be opened for {second} until they close it" in str(caught.value)
        with pytest.raises(PoolBusyError):
            other.open_pool("pool", access="write")
    with connect(target) as other, other.open_pool("pool", access=second):
        assert other.describe_pool("pool").users == 1


def test_a_pool_that_is_created_is_open_for_writing(target: Target, pool: Pool) -> None:
    with connect(target) as other, pytest.raises(PoolBusyError, match="open by 1 for write"):
        other.open_pool(pool.name, access="read")


@pytest.mark.parametrize("access", ACCESSES)
def test_a_client_has_a_pool_open_once(client: Client, access: Access) -> None:
    client.create_pool("pool", SIZE).close()
    with client.open_pool("pool", access=access), pytest.raises(PoolBusyError, match="open"):
        client.open_pool("pool", access=access)
    client.open_pool("pool", access=access).close()


def test_a_reader_cannot_write(client: Client) -> None:
    client.create_pool("pool", SIZE).close()
    with client.open_pool("pool", access="read") as pool:
        calls: list[Any] = [
            lambda: pool.write(0, b"x"),
            lambda: pool.write_persist(0, b"x"),
            lambda: pool.write_persist(0, bytes(SIZE)),
            lambda: pool.persist(),
            lambda: pool.flush(),
            lambda: pool.atomic_store(0, 1),
            lambda: pool.compare_and_swap(0, 0, 1),
            lambda: pool.set_content_length(1),
            lambda: pool.__setitem__(0, 1),
        ]
        for call in calls:
            with pytest.raises(PoolAccessError, match="open it with access='write'") as caught:
                call()
            assert isinstance(caught.value, PermissionError)
            assert caught.value.errno == errno.EACCES
        assert pool.read() == bytes(SIZE)


def test_those_who_share_see_each_others_writes(client: Client, target: Target) -> None:
    client.create_pool("pool", SIZE).close()
    with (
        connect(target) as other,
        client.open_pool("pool", access="shared") as one,
        other.open_pool("pool", access="shared") as another,
    ):
        one.write_persist(0, b"one")
        another.write_persist(100, b"another")
        assert one.read(100, 7) == b"another"
        assert another.read(0, 3) == b"one"
        one.atomic_store(8, 1)
        assert another.atomic_load(8) == 1
        assert another.compare_and_swap(8, 1, 2) == 1
        assert one.compare_and_swap(8, 1, 3) == 2
        one.close()
        another.write_persist(0, b"alone")
    with client.open_pool("pool") as pool:
        assert pool[:5] == b"alone"


def test_when_a_client_leaves_its_pools_are_free(client: Client, target: Target) -> None:
    other = connect(target)
    other.create_pool("pool", SIZE).write(0, b"kept")
    other._driver.close()  # as if it had died
    other._closed = True
    deadline = time.monotonic() + SOON
    while client.describe_pool("pool").users:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with client.open_pool("pool") as pool:
        assert pool[:4] == b"kept"


# ---- clients -------------------------------------------------------------------------------------


def test_many_pools_over_one_connection(client: Client, fabric: Fabric) -> None:
    count = 40
    pools = [client.create_pool(f"pool-{number}", 4096) for number in range(count)]
    before = fabric.resources().get("qp")
    for number, pool in enumerate(pools):
        pool.write(0, pattern(4096, number))
    for pool in pools:
        pool.persist()
    for number, pool in enumerate(pools):
        assert pool.read() == pattern(4096, number)
    assert fabric.resources().get("qp") == before
    for pool in pools[::2]:
        pool.close()
    assert [info.users for info in client.list_pools()].count(1) == count // 2
    pools[1].write_persist(0, b"still open")
    client.close()
    assert all(pool.closed for pool in pools)


def test_a_client_opens_no_more_pools_than_the_target_lets_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpma.pool.target.session.MAX_OPEN", 3)
    pools = [client.create_pool(f"pool-{number}", 4096) for number in range(3)]
    with pytest.raises(TargetError, match="3 pools are open by this client: close one first"):
        client.create_pool("one-more", 4096)
    pools[0].close()
    client.create_pool("one-more", 4096).close()


def test_closing_twice_and_use_afterwards(target: Target) -> None:
    client = connect(target)
    pool = client.create_pool("pool", SIZE)
    pool.close()
    pool.close()
    calls: list[Any] = [
        pool.read,
        lambda: pool.read_into(0, bytearray(1)),
        lambda: pool.write(0, b"x"),
        lambda: pool.write_persist(0, b"x"),
        pool.persist,
        pool.flush,
        lambda: pool.atomic_store(0, 1),
        lambda: pool.atomic_load(0),
        lambda: pool.compare_and_swap(0, 0, 1),
        lambda: pool.set_content_length(1),
        lambda: pool[0],
        pool.__enter__,
    ]
    for call in calls:
        with pytest.raises(rpma.ClosedError, match="pool 'pool' is closed") as caught:
            call()
        assert isinstance(caught.value, ValueError)
    assert repr(pool).startswith("<rpma.pool.Pool 'pool' closed")
    pool = client.open_pool("pool")
    client.close()
    client.close()
    assert client.closed
    assert pool.closed
    pool.close()
    asks: list[Any] = [
        client.list_pools,
        lambda: client.open_pool("pool"),
        lambda: client.create_pool("another", 1),
        lambda: client.describe_pool("pool"),
        lambda: client.remove_pool("pool"),
        lambda: client.resize_pool("pool", 1),
        lambda: client.device,
        client.__enter__,
    ]
    for ask in asks:
        with pytest.raises(rpma.ClosedError, match="client is closed"):
            ask()
    with pytest.raises(rpma.ClosedError, match="closed"):
        pool.read()
    assert "closed" in repr(client)


def test_a_client_that_is_dropped_open_warns_and_is_closed(target: Target) -> None:
    client = connect(target)
    with pytest.warns(ResourceWarning, match=r"unclosed <rpma\.pool\.Client of 127"):
        del client
        gc.collect()
    wait_left(target)
    pool = rpma.create_pool(target.address, "pool", SIZE, token=TOKEN)
    pool.write(0, b"x")
    with pytest.warns(ResourceWarning, match=r"unclosed <rpma\.pool\.Client of 127"):
        del pool
        gc.collect()
    wait_left(target)
    check_serves(target)


def test_the_device_and_the_address_of_a_client(
    client: Client, target: Target, fabric: Fabric
) -> None:
    assert client.device == fabric.device
    assert client.address == target.address
    assert target.clients == 1
    assert str(target.address.port) in repr(client)


def test_the_bounce_buffers_are_as_large_as_asked_for(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rpma import allocation

    asked: list[int] = []
    anonymous = allocation.anonymous
    monkeypatch.setattr(
        allocation, "anonymous", lambda size, **rest: asked.append(size) or anonymous(size, **rest)
    )
    for size in ("1MiB", 2 * MIB):
        asked.clear()
        with connect(target, bounce_size=size) as client:
            assert max(asked) == (MIB if size == "1MiB" else size)
            assert sum(asked) < max(asked) + 64 * 1024
            with client.create_pool(f"pool-{max(asked)}", LONG) as pool:
                asked.clear()
                pool.write(0, pattern(LONG), timeout=SOON)
                assert pool.read(timeout=SOON) == pattern(LONG)
                assert not asked
    with pytest.raises(PoolSizeError, match=r"bounce_size=\d+ must be at least 1048576"):
        connect(target, bounce_size=MIB - 1)
    with pytest.raises(PoolSizeError, match="bounce_size: 'much' is not a size"):
        connect(target, bounce_size="much")


def other_threads() -> int:
    """How many there are but for those that a target keeps for what may block."""
    kept = ("rpma-storage", "rpma-opening")
    return sum(not thread.name.startswith(kept) for thread in threading.enumerate())


def test_clients_one_after_the_other_leave_nothing_behind(fabric: Fabric, tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    gc.collect()
    outside = fabric.resources()
    with serving(fabric, tmp_path, dram=MIB) as target:

        def use(number: int) -> None:
            with connect(target, bounce_size=MIB) as client:
                pool = client.create_pool(f"pool-{number}", SIZE, volatile=number % 2 == 0)
                array = pool.array(np.uint8, 100)
                array.local[:] = number
                array.write()
                if number % 2:
                    pool.persist()
                pool.close()
                client.remove_pool(f"pool-{number}")

        use(0)
        use(1)
        wait_left(target)
        gc.collect()
        before = (fabric.resources(), open_files(), other_threads())
        for number in range(20):
            use(number)
        wait_left(target)
        gc.collect()
        assert (fabric.resources(), open_files(), other_threads()) == before
        assert threading.active_count() <= other_threads() + 6
    assert fabric.resources() == outside


def test_a_target_that_ends_leaves_nothing_behind(fabric: Fabric, tmp_path: Path) -> None:
    def use() -> None:
        with serving(fabric, tmp_path) as target:
            client = connect(target)
            pool = client.create_pool(f"pool-{time.monotonic_ns()}", SIZE)
            pool.write(0, b"not persisted")
            target.close()
            target.close()
            with pytest.raises((rpma.errors.ConnectionLost, rpma.ConnectionEventError)):
                pool.persist(timeout=SOON)
            client.close()
        assert stored(tmp_path, pool.name)[:13] == b"not persisted"

    use()
    gc.collect()
    before = (fabric.resources(), open_files(), threading.active_count())
    use()
    gc.collect()
    assert (fabric.resources(), open_files(), threading.active_count()) == before


def test_clients_that_leave_while_their_target_ends(fabric: Fabric, tmp_path: Path) -> None:
    for number in range(15):
        with serving(fabric, tmp_path) as target:
            clients = [connect(target, bounce_size=MIB) for _ in range(2)]
            for index, client in enumerate(clients):
                client.create_pool(f"pool-{number}-{index}", 4096)
            for client in clients:
                client.close()
            time.sleep(number * 0.0003)
    with serving(fabric, tmp_path) as target, connect(target) as client:
        assert len(client.list_pools()) == 30


def test_a_target_waits_for_its_clients_if_asked_to(fabric: Fabric, tmp_path: Path) -> None:
    with serving(fabric, tmp_path) as target:
        with connect(target) as client:
            ending = threading.Thread(target=target.close, args=(SOON,))
            ending.start()
            time.sleep(0.2)
            with client.create_pool("pool", SIZE) as pool:
                pool.write_persist(0, b"in time")
            with pytest.raises(rpma.RpmaError):
                connect(target, timeout=5)
        ending.join(SOON)
        assert not ending.is_alive()
    assert stored(tmp_path)[:7] == b"in time"


def test_a_directory_has_one_target(tmp_path: Path, target: Target) -> None:
    with pytest.raises(TargetError, match=r"another target|serves"):
        Target(tmp_path, listen="127.0.0.1:0", token=TOKEN).start()
    with pytest.raises(TargetError, match="has been started before"):
        target.start()
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{target.address.port}"):
        Target(listen=str(target.address), token=TOKEN, dram=MIB).start()
    check_serves(target)


def test_a_target_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(rpma.InvalidArgumentError, match=r"without a token .* give it one, or"):
        Target(tmp_path, listen="0.0.0.0:0")
    with pytest.raises(rpma.InvalidArgumentError, match="a directory, or dram"):
        Target(token=TOKEN)
    for listen in ("", "7204", "host", ":7204", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536"):
        with pytest.raises(rpma.InvalidArgumentError, match=r"listen|should be"):
            Target(tmp_path, listen=listen, token=TOKEN)
    with pytest.raises(PoolSizeError, match="dram"):
        Target(dram="much", token=TOKEN)
    with pytest.raises(rpma.pool.AuthenticationError, match="token is empty"):
        Target(tmp_path, token="")


# ---- tokens --------------------------------------------------------------------------------------


def test_each_user_has_a_token(fabric: Fabric, tmp_path: Path) -> None:
    options: Any = {"token": None, "tokens": {"ann": "ann's", "bob": b"bob's"}}
    with serving(fabric, tmp_path, **options) as target:
        place = f"127.0.0.1:{target.address.port}"
        for user, token in (("ann", "ann's"), ("bob", "bob's"), ("bob", bytearray(b"bob's"))):
            assert rpma.list_pools(f"{user}@{place}", token=token) == []
        for where, token in (
            (f"ann@{place}", "bob's"),
            (f"eve@{place}", "ann's"),
            (place, "ann's"),
        ):
            with pytest.raises(rpma.pool.AuthenticationError, match="the token is not this target"):
                rpma.list_pools(where, token=token)
        with pytest.raises(rpma.pool.AuthenticationError, match="a token, and none was given"):
            rpma.list_pools(f"ann@{place}")


def test_a_target_on_loopback_needs_no_token(fabric: Fabric, tmp_path: Path) -> None:
    with serving(fabric, tmp_path, token=None) as target:
        assert rpma.list_pools(target.address) == []
        with pytest.raises(rpma.pool.AuthenticationError, match="no token, and one was given"):
            rpma.list_pools(target.address, token="some")
