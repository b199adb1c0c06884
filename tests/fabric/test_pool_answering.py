"""A target's answers to flush requests: what they promise, and what no client can do to them."""

from __future__ import annotations

import errno
import gc
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pairs import (
    A_MOMENT,
    EVERYTHING,
    SOON,
    connections,
    fork,
    line,
    pattern,
    python,
    threads,
)

import rpma
from fabrics.fabric import Fabric
from rpma import CompletionFlags, ConnectionConfig, Usage, allocation
from rpma.pool.durable import Durable, is_pmem
from rpma.pool.protocol.errors import NotDurableError, StorageError
from rpma.pool.protocol.persistency import Persistency
from rpma.pool.protocol.wire import (
    ANSWER,
    ANSWER_ROOM,
    LIST_MOST,
    LISTS,
    REQUEST,
    REQUEST_ROOM,
    SWAP_ANSWER,
    SWAP_REQUEST,
    FlushStatus,
)
from rpma.pool.target.answering import MAX_DEPTH, Answering, Counts, Ended

pytestmark = pytest.mark.fabric

PAGE = mmap.PAGESIZE
SIZE = 16 * PAGE
MESSAGE = REQUEST_ROOM + 8  # a client's, and one that is too long
OK, BAD, FAILED, NOT_DURABLE = FlushStatus
HERE = Path(__file__).resolve().parent


class Client:
    """The client's side of a connection, and its numbered pool at the target."""

    def __init__(self, stack: ExitStack, peer: rpma.Peer, outstanding: int) -> None:
        self._outstanding = outstanding
        self._buffer = bytearray(outstanding * (MESSAGE + ANSWER_ROOM) + SIZE)
        self._data = outstanding * (MESSAGE + ANSWER_ROOM)
        self._region = stack.enter_context(peer.register(self._buffer, EVERYTHING))
        self._sent = 0
        self._under_way = 0
        self._early: list[rpma.WorkCompletion] = []
        #: What the newest answer says that a compare-and-swap has found.
        self.found = 0
        self.connection: rpma.Connection

    def post(self, recv: Callable[..., None], slot: int) -> None:
        recv(
            self._region,
            self._outstanding * MESSAGE + slot * ANSWER_ROOM,
            ANSWER_ROOM,
            wr_id=1000 + slot,
        )

    def post_all(self, request: rpma.ConnectionRequest) -> None:
        for slot in range(self._outstanding):
            self.post(request.recv, slot)

    def _take(self) -> None:
        wc = self.connection.cq.next_wc(SOON).raise_for_status()
        if wc.wr_id < 1000:
            self._under_way -= 1
        else:
            self._early.append(wc)

    def _own(self, most: int = 0) -> None:
        """Return when so many requests are under way at most: the others' memory is ours again."""
        while self._under_way > most:
            self._take()

    def send(self, message: bytes) -> None:
        self._own(self._outstanding - 1)
        at = self._sent % self._outstanding * MESSAGE
        self._sent += 1
        self._buffer[at : at + len(message)] = message
        flags = CompletionFlags.ALWAYS
        self.connection.send(self._region, at, len(message), flags=flags, wr_id=1)
        self._under_way += 1

    def ask(self, number: int, offset: int, length: int, pool: int = 1, reserved: int = 0) -> None:
        self.send(REQUEST.pack(number, offset, length, pool, reserved))

    def ask_all(
        self, number: int, ranges: Sequence[tuple[int, int]], pool: int = 1, count: int = -1
    ) -> None:
        """A request for several ranges; `count` is what it says of how many there are."""
        said = len(ranges) if count < 0 else count
        self.send(LISTS[len(ranges)].pack(number, pool, said, *chain(*ranges)))

    def answers(self, count: int) -> list[tuple[int, FlushStatus]]:
        """The next answers: the request's id, the status."""
        got = []
        while len(got) < count:
            while not self._early:
                self._take()
            wc = self._early.pop(0)
            assert wc.byte_len in (ANSWER.size, SWAP_ANSWER.size)
            slot = wc.wr_id - 1000
            at = self._outstanding * MESSAGE + slot * ANSWER_ROOM
            number, status, reserved, found = SWAP_ANSWER.unpack_from(self._buffer, at)
            self.found = found if wc.byte_len == SWAP_ANSWER.size else 0
            assert reserved == 0
            got.append((number, FlushStatus(status)))
            self.post(self.connection.recv, slot)
        return got

    def flush(self, offset: int, length: int, pool: int = 1) -> FlushStatus:
        self.ask(77, offset, length, pool)
        ((number, status),) = self.answers(1)
        assert number == 77
        return status

    def write(self, remote: rpma.RemoteMemoryRegion, offset: int, data: bytes) -> None:
        """Post a write; nothing but a flush behind it says when it is there."""
        self._own()
        self._buffer[self._data : self._data + len(data)] = data
        flags = CompletionFlags.ALWAYS
        self.connection.write(
            remote, offset, self._region, self._data, len(data), flags=flags, wr_id=1
        )
        self._under_way += 1

    def write_with_imm(self, remote: rpma.RemoteMemoryRegion, length: int) -> None:
        self.connection.write_with_imm(remote, 0, self._region, self._data, length, 1)

    def settle(self, remote: rpma.RemoteMemoryRegion) -> None:
        """Return when all that was sent has arrived: a read comes back after it."""
        self._own()
        self.connection.read_wait(self._region, self._data, remote, 0, 8, timeout=SOON)


class Target(SimpleNamespace):
    """The target's side."""

    answering: Answering
    connection: rpma.Connection
    messages: rpma.MemoryRegion

    def wait_ended(self) -> Ended:
        readable, _, _ = select.select([self.answering.fd], [], [], SOON)
        assert readable, "the answering does not end"
        return self.answering.ended


@contextmanager
def connected(
    peer: rpma.Peer,
    fabric: Fabric,
    *,
    depth: int = 8,
    answers: int | None = None,
    outstanding: int = 64,
    start: bool = True,
) -> Iterator[tuple[Target, Client]]:
    """A client and a target whose requests are answered."""
    with ExitStack() as stack:
        room = depth * REQUEST_ROOM + (Answering.answers_size(depth) if answers is None else 0)
        messages = stack.enter_context(
            peer.register(bytearray(room + (answers or 0) * ANSWER_ROOM), Usage.RECV | Usage.SEND)
        )
        client = Client(stack, peer, outstanding)

        def before(request: rpma.ConnectionRequest) -> None:
            if not request.is_incoming:
                client.post_all(request)
                return
            for number in range(depth):
                request.recv(messages, number * REQUEST_ROOM, REQUEST_ROOM, wr_id=number)

        sends = Answering.send_queue_size(depth)
        server, client.connection = connections(
            peer,
            fabric,
            target=ConnectionConfig(sq_size=sends, rq_size=depth, cq_size=sends + depth),
            initiator=ConnectionConfig(
                sq_size=outstanding, rq_size=outstanding, cq_size=3 * outstanding
            ),
            before=before,
        )
        stack.enter_context(server)
        stack.enter_context(client.connection)
        answering = stack.enter_context(Answering(server, messages, depth))
        if start:
            answering.start()
        yield Target(answering=answering, connection=server, messages=messages), client


class Pool(SimpleNamespace):
    """A pool in a file, and a shadow of it that is registered."""

    path: Path
    shadow: bytearray
    durable: Durable
    remote: rpma.RemoteMemoryRegion

    def stored(self) -> bytes:
        return self.path.read_bytes()


@contextmanager
def pool_in(
    folder: Path, peer: rpma.Peer, how: Persistency = Persistency.MSYNC, name: str = "pool"
) -> Iterator[Pool]:
    shadow = bytearray(SIZE)
    with ExitStack() as stack:
        memory = stack.enter_context(allocation.map_file(folder / name, SIZE, create=True))
        durable = stack.enter_context(Durable(shadow, memory, how))
        region = stack.enter_context(peer.register(shadow, EVERYTHING))
        remote = stack.enter_context(rpma.RemoteMemoryRegion(region.descriptor))
        yield Pool(path=folder / name, shadow=shadow, durable=durable, remote=remote)


@pytest.fixture
def pool(tmp_path: Path, peer: rpma.Peer) -> Iterator[Pool]:
    with pool_in(tmp_path, peer) as made:
        yield made


@pytest.fixture
def pair(peer: rpma.Peer, fabric: Fabric, pool: Pool) -> Iterator[tuple[Target, Client]]:
    """A client that has the pool open for writing, by number 1."""
    with connected(peer, fabric) as (target, client):
        target.answering.set_pool(1, pool.durable)
        yield target, client


# ---- what an answer promises -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, SIZE), (SIZE - 1, 1), (PAGE - 3, 7), (PAGE, PAGE), (5, 3 * PAGE + 1)],
)
def test_what_was_written_and_flushed_is_in_the_file(
    pair: tuple[Target, Client], pool: Pool, offset: int, length: int
) -> None:
    _, client = pair
    client.write(pool.remote, 0, pattern(SIZE))
    assert client.flush(offset, length) is OK
    expected = bytearray(SIZE)
    expected[offset : offset + length] = pattern(SIZE)[offset : offset + length]
    assert pool.stored() == expected


def test_a_flush_of_nothing_is_answered(pair: tuple[Target, Client], pool: Pool) -> None:
    target, client = pair
    pool.shadow[:] = pattern(SIZE)
    for offset in (0, 5, SIZE):
        assert client.flush(offset, 0) is OK
    assert pool.stored() == bytes(SIZE)
    assert target.answering.counts == Counts(3, 0, 0, 0, 0)


def test_answers_come_in_the_order_of_requests(pair: tuple[Target, Client]) -> None:
    target, client = pair
    expected = []
    for number in range(200):
        is_good = number % 3 != 0
        client.ask(number + (5 << 60), SIZE - number * 64 - 64, 64 if is_good else SIZE + 1)
        expected.append((number + (5 << 60), OK if is_good else BAD))
        if number % 8 == 7:
            assert client.answers(8) == expected[-8:]
    counts = target.answering.counts
    assert (counts.requests, counts.failures, counts.bad_requests) == (200, 0, 67)


def test_many_writes_each_with_its_flush(pair: tuple[Target, Client], pool: Pool) -> None:
    _, client = pair
    for round_ in range(100):
        data = struct.pack("<QQ", round_, ~round_ & 0xFFFFFFFF)
        offset = round_ * 331 % (SIZE - 16)
        client.write(pool.remote, offset, data)
        assert client.flush(offset, 16) is OK
        assert pool.stored()[offset : offset + 16] == data


def test_memory_that_nothing_makes_durable(pair: tuple[Target, Client]) -> None:
    target, client = pair
    with Durable(bytearray(SIZE), None, Persistency.NONE) as volatile:
        target.answering.set_pool(2, volatile)
        assert client.flush(0, 8, pool=2) is NOT_DURABLE
        assert client.flush(0, SIZE + 1, pool=2) is BAD
        assert client.flush(0, 8, pool=1) is OK
        with pytest.raises(NotDurableError):
            volatile.flush()
        volatile.write_back()
        assert volatile.failed == 0
        target.answering.clear_pool(2)


def test_two_clients_of_one_pool(
    peer: rpma.Peer, fabric: Fabric, pool: Pool, pair: tuple[Target, Client]
) -> None:
    target, first = pair
    with connected(peer, fabric) as (another, second):
        another.answering.set_pool(9, pool.durable)

        def work(client: Client, number: int, half: int) -> None:
            for round_ in range(50):
                offset = half * SIZE // 2 + round_ * 8
                client.write(pool.remote, offset, struct.pack("<Q", round_ + 1))
                assert client.flush(offset, 8, pool=number) is OK

        threads(lambda: work(first, 1, 0), lambda: work(second, 9, 1))
        expected = struct.pack("<50Q", *range(1, 51))
        assert pool.stored()[:400] == pool.stored()[SIZE // 2 : SIZE // 2 + 400] == expected
        another.answering.clear_pool(9)
    assert target.answering.counts.requests == 50


# ---- requests that come together ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "ranges", "size"),
    [
        ([(0, 8), (8, 8), (16, 8)], 1, 24),  # adjacent
        ([(0, 100), (50, 100), (20, 10)], 1, 150),  # overlapping
        ([(16, 8), (8, 8), (0, 8)], 1, 24),  # in any order
        ([(0, 8), (100, 8)], 1, 108),  # of one page
        ([(0, 8), (PAGE + 5, 8)], 1, PAGE + 13),  # of adjacent pages
        ([(0, 8), (2 * PAGE, 8)], 2, 16),
        ([(0, 8), (4 * PAGE, 8), (8 * PAGE, 8), (4 * PAGE, 9)], 3, 25),
        ([(0, 8)] * 8, 1, 8),
        ([(0, 0), (5 * PAGE, 0)], 0, 0),
    ],
)
def test_ranges_of_requests_that_touch_are_flushed_as_one(
    peer: rpma.Peer,
    fabric: Fabric,
    pool: Pool,
    requests: list[tuple[int, int]],
    ranges: int,
    size: int,
) -> None:
    with connected(peer, fabric, start=False) as (target, client):
        target.answering.set_pool(1, pool.durable)
        client.write(pool.remote, 0, pattern(SIZE))
        for number, (offset, length) in enumerate(requests):
            client.ask(number, offset, length)
        client.settle(pool.remote)
        target.answering.start()
        assert client.answers(len(requests)) == [(n, OK) for n in range(len(requests))]
        assert target.answering.counts == Counts(len(requests), ranges, size, 0, 0)
        expected = bytearray(SIZE)
        for offset, length in requests:
            expected[offset : offset + length] = pattern(SIZE)[offset : offset + length]
        assert pool.stored() == expected, "what nobody flushed is not written"


def test_pools_are_flushed_apart(
    peer: rpma.Peer, fabric: Fabric, tmp_path: Path, pool: Pool
) -> None:
    with (
        pool_in(tmp_path, peer, name="other") as other,
        connected(peer, fabric, start=False) as (target, client),
    ):
        target.answering.set_pool(1, pool.durable)
        target.answering.set_pool(65, other.durable)  # of the same bucket
        pool.shadow[:] = pattern(SIZE)
        other.shadow[:] = pattern(SIZE, 5)
        for number in range(6):
            client.ask(number, number * 8, 8, pool=(1, 65, 2)[number % 3])
        client.settle(pool.remote)
        target.answering.start()
        statuses = (OK, OK, BAD)
        assert client.answers(6) == [(n, statuses[n % 3]) for n in range(6)]
        assert target.answering.counts == Counts(6, 2, 64, 0, 2)
        assert pool.stored()[:40] == pattern(8) + bytes(16) + pattern(32)[24:] + bytes(8)
        seeded = pattern(40, 5)
        assert other.stored()[:40] == bytes(8) + seeded[8:16] + bytes(16) + seeded[32:]
        target.answering.clear_pool(65)


@pytest.mark.parametrize(
    ("ranges", "flushed", "size"),
    [
        ([(0, 8), (2 * PAGE, 8)], 2, 16),
        ([(5 * PAGE + 3, 7), (0, 8), (8, 8)], 2, 23),
        ([(0, 0), (PAGE, 0)], 0, 0),
        ([(0, SIZE), (SIZE, 0)], 1, SIZE),
        ([(page * PAGE, 8) for page in range(0, 16, 2)], 8, 64),
        ([(page * PAGE, PAGE) for page in reversed(range(LIST_MOST))], 1, LIST_MOST * PAGE),
    ],
)
def test_a_request_for_several_ranges_has_one_answer(
    pair: tuple[Target, Client],
    pool: Pool,
    ranges: list[tuple[int, int]],
    flushed: int,
    size: int,
) -> None:
    target, client = pair
    client.write(pool.remote, 0, pattern(SIZE))
    client.ask_all(5 << 60, ranges)
    assert client.answers(1) == [(5 << 60, OK)]
    assert target.answering.counts == Counts(1, flushed, size, 0, 0)
    expected = bytearray(SIZE)
    for offset, length in ranges:
        expected[offset : offset + length] = pattern(SIZE)[offset : offset + length]
    assert pool.stored() == expected


def test_more_ranges_than_are_flushed_at_once(peer: rpma.Peer, fabric: Fabric, pool: Pool) -> None:
    with connected(peer, fabric, depth=24, start=False) as (target, client):
        target.answering.set_pool(1, pool.durable)
        client.write(pool.remote, 0, pattern(SIZE))
        for number in range(20):
            client.ask_all(number, [(page * PAGE + 64 * number, 64) for page in range(16)])
            if number % 5 == 4:
                client.ask(100 + number, 0, 0, pool=3)
        client.settle(pool.remote)
        target.answering.start()
        got = client.answers(24)
        expected: list[tuple[int, FlushStatus]] = []
        for number in range(20):
            expected.append((number, OK))
            if number % 5 == 4:
                expected.append((100 + number, BAD))
        assert got == expected
        stored, whole = pool.stored(), pattern(SIZE)
        for page in range(16):
            part = slice(page * PAGE, page * PAGE + 20 * 64)
            assert stored[part] == whole[part]
        assert target.answering.counts.requests == 24


# ---- bad requests ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        (1, SIZE + 1, 0, 1, 0),
        (1, 0, SIZE + 1, 1, 0),
        (1, SIZE, 1, 1, 0),
        (1, 1, SIZE, 1, 0),
        (1, (1 << 64) - 1, 2, 1, 0),
        (1, 8, (1 << 64) - 8, 1, 0),
        (1, (1 << 64) - 1, (1 << 64) - 1, 1, 0),
        (1, 0, 8, 1, 1),
        (1, 0, 8, 1, 1 << 31),
        (1, 0, 8, 0, 0),
        (1, 0, 8, 2, 0),
        (1, 0, 8, 65, 0),
        (1, 0, 8, (1 << 32) - 1, 0),
        ((1 << 64) - 1, 0, 8, 2, 0),
    ],
)
def test_a_bad_request(
    pair: tuple[Target, Client], pool: Pool, request_: tuple[int, int, int, int, int]
) -> None:
    target, client = pair
    pool.shadow[:] = pattern(SIZE)
    client.send(REQUEST.pack(*request_))
    assert client.answers(1) == [(request_[0], BAD)]
    assert target.answering.counts == Counts(1, 0, 0, 0, 1)
    assert pool.stored() == bytes(SIZE)
    assert client.flush(0, SIZE) is OK


@pytest.mark.parametrize("bad", range(3))
@pytest.mark.parametrize(
    "range_", [(SIZE + 1, 0), (SIZE, 1), (1, SIZE), (2**64 - 1, 2), (8, 2**32 - 1)]
)
def test_one_range_that_is_outside_makes_a_request_bad(
    pair: tuple[Target, Client], pool: Pool, range_: tuple[int, int], bad: int
) -> None:
    target, client = pair
    pool.shadow[:] = pattern(SIZE)
    ranges = [(0, 8), (PAGE, 8), (2 * PAGE, 8)]
    ranges[bad] = range_
    client.ask_all(7, ranges)
    assert client.answers(1) == [(7, BAD)]
    assert target.answering.counts == Counts(1, 0, 0, 0, 1)
    assert pool.stored() == bytes(SIZE)


@pytest.mark.parametrize(("count", "of"), [(0, 1), (1, 1), (3, 1), (2**32 - 1, 1), (2, 0), (2, 2)])
def test_a_request_for_several_ranges_says_how_many_and_of_what(
    pair: tuple[Target, Client], count: int, of: int
) -> None:
    _, client = pair
    client.ask_all(7, [(0, 8), (PAGE, 8)], of, count)
    assert client.answers(1) == [(7, BAD)]
    client.ask_all(8, [(0, 8), (PAGE, 8)])
    assert client.answers(1) == [(8, OK)]


@pytest.mark.parametrize("length", [*range(33, 48), *range(49, 53), 207])
def test_a_message_of_a_length_between_has_no_id(pair: tuple[Target, Client], length: int) -> None:
    _, client = pair
    whole = LISTS[LIST_MOST].pack(3, 1, LIST_MOST, *LIST_MOST * (0, 8))
    client.send(whole[:length])
    ((number, status),) = client.answers(1)
    assert status is BAD
    assert number == (3 if (length - 16) % 12 == 0 else 0)


@pytest.mark.parametrize("length", [0, 1, 8, 16, 28, 31])
def test_a_message_that_is_too_short_has_no_id(pair: tuple[Target, Client], length: int) -> None:
    _, client = pair
    for _ in range(9):  # leaves a good request in each buffer of the target
        assert client.flush(0, 8) is OK
    for _ in range(10):
        client.send(REQUEST.pack(3, 0, 8, 1, 0)[:length])
        assert client.answers(1) == [(0, BAD)]
    assert client.flush(0, 8) is OK


@pytest.mark.parametrize("length", [0, 8, 32])
def test_immediate_data_of_a_write_is_no_request(
    pair: tuple[Target, Client], pool: Pool, length: int
) -> None:
    _, client = pair
    for _ in range(2):
        for _ in range(9):  # leaves a good request in each buffer of the target
            assert client.flush(0, 8) is OK
        client.write_with_imm(pool.remote, length)
        assert client.answers(1) == [(0, BAD)]


def test_a_message_that_is_too_long_ends_the_connection(pair: tuple[Target, Client]) -> None:
    target, client = pair
    client.send(bytes(REQUEST_ROOM + 1))
    assert target.wait_ended() is Ended.DISCONNECTED
    assert target.answering.failure is None
    target.answering.clear_pool(1)


def test_no_message_harms_the_target(
    peer: rpma.Peer, fabric: Fabric, pool: Pool, request: pytest.FixtureRequest
) -> None:
    stack = ExitStack()
    request.addfinalizer(stack.close)
    now: list[tuple[Target, Client]] = []

    def current() -> tuple[Target, Client]:
        if not now:
            now.append(stack.enter_context(connected(peer, fabric)))
            now[0][0].answering.set_pool(1, pool.durable)
        return now[0]

    small = st.one_of(st.integers(0, 3), st.integers(0, SIZE + PAGE), st.integers(0, 2**64 - 1))
    word = st.one_of(st.integers(0, 2), st.integers(0, 2**32 - 1))
    nearly = st.builds(REQUEST.pack, small, small, small, word, word)
    swap = st.builds(SWAP_REQUEST.pack, small, small, small, word, word, small, small)
    ranges = st.lists(st.tuples(small, st.integers(0, 2**32 - 1)), min_size=2, max_size=LIST_MOST)
    short = st.integers(0, 64)
    fitting = st.lists(st.tuples(short, short), min_size=2, max_size=LIST_MOST)
    several = st.builds(_several, small, word, st.one_of(word, st.none()), ranges | fitting)
    message = st.one_of(nearly, swap, several, st.binary(max_size=REQUEST_ROOM + 1))

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(message, min_size=1, max_size=8))
    def play(messages: list[bytes]) -> None:
        target, client = current()
        expected = []
        for message in messages:
            client.send(message)
            if len(message) > REQUEST_ROOM:
                assert target.wait_ended() is Ended.DISCONNECTED
                now.clear()
                stack.close()
                return
            expected.append(_expected(message))
        assert client.answers(len(messages)) == expected

    play()


def _several(number: int, pool: int, count: int | None, ranges: list[tuple[int, int]]) -> bytes:
    said = len(ranges) if count is None else count
    return LISTS[len(ranges)].pack(number, pool, said, *chain(*ranges))


def _expected(message: bytes) -> tuple[int, FlushStatus]:
    for count in range(2, LIST_MOST + 1):
        if len(message) == LISTS[count].size:
            number, pool, said, *rest = LISTS[count].unpack(message)
            is_good = pool == 1 and said == count
            for at, length in zip(rest[::2], rest[1::2], strict=True):
                is_good = is_good and at + length <= SIZE
            return number, OK if is_good else BAD
    if len(message) not in (REQUEST.size, SWAP_REQUEST.size):
        return 0, BAD
    number, offset, length, pool, reserved = REQUEST.unpack_from(message)
    is_good = pool == 1 and not reserved and offset + length <= SIZE
    if len(message) == SWAP_REQUEST.size:
        is_good = is_good and length == 8 and offset % 8 == 0
    return number, OK if is_good else BAD


# ---- compare-and-swap --------------------------------------------------------------------------


def swapped(client: Client, offset: int, expected: int, desired: int, **other: int) -> int:
    """Ask for one; what was found, which must have been answered OK."""
    fields = {"length": 8, "pool": 1, "reserved": 0} | other
    client.send(
        SWAP_REQUEST.pack(
            7, offset, fields["length"], fields["pool"], fields["reserved"], expected, desired
        )
    )
    assert client.answers(1) == [(7, OK)]
    return client.found


def word(pool: Pool, offset: int) -> int:
    return int.from_bytes(pool.shadow[offset : offset + 8], "little")


def test_a_swap_happens_if_what_is_there_is_expected(
    pair: tuple[Target, Client], pool: Pool
) -> None:
    _, client = pair
    first, second = 0x0102030405060708, 2**64 - 1
    assert swapped(client, 64, 0, first) == 0
    assert word(pool, 64) == first
    assert swapped(client, 64, 0, second) == first
    assert word(pool, 64) == first
    assert swapped(client, 64, first, second) == first
    assert word(pool, 64) == second
    assert word(pool, 56) == word(pool, 72) == 0


def test_a_flush_that_follows_a_swap_has_it(pair: tuple[Target, Client], pool: Pool) -> None:
    _, client = pair
    client.send(SWAP_REQUEST.pack(1, 0, 8, 1, 0, 0, 5))
    client.ask(2, 0, 8)
    assert client.answers(2) == [(1, OK), (2, OK)]
    assert pool.stored()[:8] == (5).to_bytes(8, "little")


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": 4},
        {"offset": SIZE},
        {"offset": SIZE - 4},
        {"offset": 2**64 - 8},
        {"length": 0},
        {"length": 16},
        {"pool": 2},
        {"reserved": 1},
    ],
)
def test_a_bad_swap(pair: tuple[Target, Client], pool: Pool, fields: dict[str, int]) -> None:
    _, client = pair
    before = bytes(pool.shadow)
    values = {"number": 9, "offset": 0, "length": 8, "pool": 1, "reserved": 0} | fields
    client.send(SWAP_REQUEST.pack(*values.values(), 0, 1))
    assert client.answers(1) == [(9, BAD)]
    assert bytes(pool.shadow) == before


def test_a_pool_that_is_open_for_reading_is_not_swapped_in(
    pair: tuple[Target, Client], pool: Pool
) -> None:
    target, client = pair
    target.answering.set_pool(2, pool.durable, False)
    client.send(SWAP_REQUEST.pack(1, 0, 8, 2, 0, 0, 1))
    assert client.answers(1) == [(1, BAD)]
    assert word(pool, 0) == 0


def test_swaps_of_many_clients_are_atomic(peer: rpma.Peer, fabric: Fabric, pool: Pool) -> None:
    clients, each = 4, 40

    def add(client: Client) -> None:
        known = 0
        for _ in range(each):
            while (found := swapped(client, 0, known, known + 1)) != known:
                known = found
            known += 1

    with ExitStack() as stack:
        pairs = [stack.enter_context(connected(peer, fabric)) for _ in range(clients)]
        for target, _ in pairs:
            target.answering.set_pool(1, pool.durable)
        threads(*(partial(add, client) for _, client in pairs))
    assert word(pool, 0) == clients * each


# ---- pools come and go -------------------------------------------------------------------------


def test_a_pool_is_flushed_while_it_is_open_for_writing(
    pair: tuple[Target, Client], pool: Pool
) -> None:
    target, client = pair
    assert client.flush(0, 8) is OK
    target.answering.clear_pool(1)
    assert client.flush(0, 8) is BAD
    target.answering.clear_pool(1)  # again
    target.answering.set_pool(1, pool.durable, False)
    assert client.flush(0, 8) is BAD
    target.answering.set_pool(2, pool.durable, True)
    assert client.flush(0, 8, pool=2) is OK
    with pytest.raises(rpma.InvalidArgumentError, match="number=2"):
        target.answering.set_pool(2, pool.durable)
    assert target.answering.counts == Counts(4, 2, 16, 0, 2)


def test_pools_come_and_go_under_load(pair: tuple[Target, Client], pool: Pool) -> None:
    target, client = pair
    enough = threading.Event()

    def come_and_go() -> None:
        until = time.monotonic() + 1
        while time.monotonic() < until:
            with Durable(bytearray(SIZE), None, Persistency.NONE) as other:
                target.answering.set_pool(2, other)
                target.answering.clear_pool(2)
            target.answering.clear_pool(1)
            target.answering.set_pool(1, pool.durable)
        enough.set()

    def ask() -> None:
        while not enough.is_set():
            for number in range(8):
                client.ask(number, 0, 8, pool=1 + number % 2)
            assert [number for number, _ in client.answers(8)] == list(range(8))

    threads(come_and_go, ask)
    assert client.flush(0, 8) is OK


def test_memory_stays_while_clients_have_it(pair: tuple[Target, Client], pool: Pool) -> None:
    target, client = pair
    with pytest.raises(rpma.InUseError, match=r"1 client\(s\) have it open"):
        pool.durable.close()
    assert not pool.durable.closed
    assert client.flush(0, 8) is OK
    target.answering.close()
    pool.durable.close()
    assert pool.durable.closed
    pool.durable.close()
    with pytest.raises(rpma.ClosedError):
        pool.durable.flush()
    with pytest.raises(rpma.ClosedError):
        target.answering.set_pool(2, pool.durable)


def test_the_connection_stays_while_it_is_answered(pair: tuple[Target, Client]) -> None:
    target, client = pair
    for _ in range(20):
        with pytest.raises(rpma.InUseError):
            target.connection.close()
        client.ask(1, 0, 8)
    assert client.answers(20) == [(1, OK)] * 20
    assert target.answering.ended is Ended.NOT


def test_without_its_messages_it_fails(pair: tuple[Target, Client]) -> None:
    target, client = pair
    target.messages.close()
    client.ask(1, 0, 8)
    if target.wait_ended() is Ended.FAILED:
        assert isinstance(target.answering.failure, rpma.ClosedError)
    else:
        assert target.answering.ended is Ended.DISCONNECTED


# ---- depth -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "answers"), [(1, 1), (1, 4), (4, 1), (4, 3), (8, 8), (7, 5), (64, 64)]
)
def test_more_requests_than_the_target_takes_at_once(
    peer: rpma.Peer, fabric: Fabric, pool: Pool, depth: int, answers: int
) -> None:
    with connected(peer, fabric, depth=depth, answers=answers) as (target, client):
        target.answering.set_pool(1, pool.durable)
        count = min(60, 2 * depth + 6)  # each wait for a receive takes long on some devices
        for number in range(count):
            client.ask(number, number * 8, 8)
        assert client.answers(count) == [(number, OK) for number in range(count)]
        assert target.answering.counts.requests == count


# ---- the end -----------------------------------------------------------------------------------


def test_stopping_while_idle(pair: tuple[Target, Client]) -> None:
    target, client = pair
    assert client.flush(0, 8) is OK
    time.sleep(A_MOMENT)  # it has gone to sleep
    assert target.answering.ended is Ended.NOT
    assert not select.select([target.answering.fd], [], [], 0)[0]
    began = time.monotonic()
    target.answering.stop()
    assert time.monotonic() - began < 0.5
    assert target.wait_ended() is Ended.STOPPED
    target.answering.stop()
    with pytest.raises(rpma.InUseError):
        target.answering.start()
    target.answering.close()
    target.answering.stop()
    assert target.answering.ended is Ended.STOPPED
    assert target.answering.failure is None


def test_stopping_what_never_ran(peer: rpma.Peer, fabric: Fabric, pool: Pool) -> None:
    with connected(peer, fabric, start=False) as (target, _):
        target.answering.set_pool(1, pool.durable)
        assert target.answering.ended is Ended.NOT
        target.answering.stop()
        assert target.wait_ended() is Ended.STOPPED
        with pytest.raises(rpma.InUseError):
            target.answering.start()


def test_it_starts_once(pair: tuple[Target, Client]) -> None:
    target, _ = pair
    with pytest.raises(rpma.InUseError, match="started or stopped before"):
        target.answering.start()


@pytest.mark.parametrize("depth", [1, 8])
def test_stopping_under_load(peer: rpma.Peer, fabric: Fabric, pool: Pool, depth: int) -> None:
    for _ in range(5):
        with connected(peer, fabric, depth=depth) as (target, client):
            target.answering.set_pool(1, pool.durable)
            for number in range(60):
                client.ask(number, number * 8, 8)
            client.answers(3)
            began = time.monotonic()
            target.answering.stop()
            assert time.monotonic() - began < SOON / 4
            assert target.wait_ended() is Ended.STOPPED


def test_a_client_that_leaves(pair: tuple[Target, Client]) -> None:
    target, client = pair
    assert client.flush(0, 8) is OK
    client.connection.close()
    assert target.wait_ended() is Ended.DISCONNECTED
    target.answering.close()
    assert target.answering.ended is Ended.DISCONNECTED


def test_a_client_that_leaves_in_the_middle(peer: rpma.Peer, fabric: Fabric, pool: Pool) -> None:
    for count in (1, 2, 5, 8, 60):
        with connected(peer, fabric) as (target, client):
            target.answering.set_pool(1, pool.durable)
            for number in range(count):
                client.ask(number, number * 8, 8)
            client.connection.disconnect()
            assert target.wait_ended() is Ended.DISCONNECTED
    assert pool.durable.failed == 0


DYING = """
import sys
import rpma
from rpma.pool.protocol.wire import REQUEST
address, port = sys.argv[1:]
peer = rpma.Peer.for_address(address)
buffer = bytearray(REQUEST.pack(1, 0, 8, 1, 0)) + bytearray(16)
region = peer.register(buffer, rpma.Usage(0xFF) ^ rpma.Usage.FLUSH_TYPE_PERSISTENT)
request = peer.request(address, port)
request.recv(region, 32, 16, wr_id=1)
connection = request.connect()
connection.wait_established(20)
said = False
while True:
    connection.send(region, 0, 32, flags=rpma.CompletionFlags.ALWAYS)
    for _ in range(2):
        if connection.cq.next_wc(20).raise_for_status().wr_id == 1:
            connection.recv(region, 32, 16, wr_id=1)
    if not said:
        print("answered", flush=True)
        said = True
"""


def test_a_client_that_is_killed(peer: rpma.Peer, fabric: Fabric, pool: Pool) -> None:
    port = fabric.next_port()
    depth = 4
    with (
        peer.listen(fabric.address, port) as endpoint,
        peer.register(
            bytearray(depth * REQUEST_ROOM + Answering.answers_size(depth)),
            Usage.RECV | Usage.SEND,
        ) as messages,
        ConnectionConfig(cq_size=20) as config,
        python(DYING, fabric.address, port) as child,
    ):
        with endpoint.next_conn_req(config, timeout=60) as request:
            for number in range(depth):
                request.recv(messages, number * REQUEST_ROOM, REQUEST_ROOM, wr_id=number)
            connection = request.connect()
        connection.wait_established(SOON)
        with connection, Answering(connection, messages, depth) as answering:
            answering.set_pool(1, pool.durable)
            answering.start()
            assert line(child) == "answered"
            child.kill()
            readable, _, _ = select.select([answering.fd], [], [], 60)
            assert readable
            assert answering.ended is Ended.DISCONNECTED
            assert answering.counts.requests > 0


def test_in_a_forked_child_it_is_the_parents(pair: tuple[Target, Client], pool: Pool) -> None:
    target, client = pair

    def child() -> None:
        assert target.answering.closed
        target.answering.close()
        for call in (target.answering.start, lambda: target.answering.set_pool(2, pool.durable)):
            with pytest.raises(rpma.ForkedError):
                call()

    fork(child)
    assert client.flush(0, 8) is OK


def test_what_nobody_closes_ends_with_its_last_reference(
    peer: rpma.Peer, fabric: Fabric, tmp_path: Path
) -> None:
    def lose() -> None:
        stack = ExitStack()
        pool = stack.enter_context(pool_in(tmp_path, peer))
        target, client = stack.enter_context(connected(peer, fabric))
        target.answering.set_pool(1, pool.durable)
        assert client.flush(0, 8) is OK
        target.cycle = target
        stack.pop_all().cycle = pool  # type: ignore[attr-defined]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        before = threading.active_count(), len(os.listdir("/proc/self/task"))
        for round_ in range(3):
            lose()
            gc.collect()
            (tmp_path / "pool").rename(tmp_path / str(round_))
        gc.collect()
        assert len(os.listdir("/proc/self/task")) <= before[1] + 1


# ---- arguments ---------------------------------------------------------------------------------


def test_what_does_not_fit_together(peer: rpma.Peer, fabric: Fabric) -> None:
    usage = Usage.RECV | Usage.SEND
    with ExitStack() as stack:

        def register(size: int, usage: Usage = usage) -> rpma.MemoryRegion:
            return stack.enter_context(peer.register(bytearray(size), usage))

        good = register(8 * (REQUEST_ROOM + ANSWER_ROOM))
        small, receive_only = register(8 * REQUEST_ROOM + 15), register(len(good), Usage.RECV)
        with connected(peer, fabric) as (target, _):
            for messages, depth in ((good, 0), (small, 8), (receive_only, 8), (good, 16)):
                with pytest.raises(rpma.InvalidArgumentError):
                    Answering(target.connection, messages, depth)
            with pytest.raises(rpma.InvalidArgumentError, match=f"depth={MAX_DEPTH + 1}"):
                Answering(target.connection, good, MAX_DEPTH + 1)
            with pytest.raises(TypeError, match=r"connection must be a rpma\.Connection"):
                Answering(good, good, 8)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"messages must be a rpma\.MemoryRegion"):
                Answering(target.connection, target.connection, 8)  # type: ignore[arg-type]
        with (
            rpma.Peer.for_address(fabric.address) as stranger,
            stranger.register(bytearray(1024), usage) as foreign,
            connected(peer, fabric) as (target, _),
            pytest.raises(rpma.InvalidArgumentError, match="the same peer"),
        ):
            Answering(target.connection, foreign, 8)
        config = ConnectionConfig(rcq_size=10, cq_size=100)
        server, client = connections(peer, fabric, target=config)
        with server, client, pytest.raises(rpma.InvalidArgumentError, match="second or shared"):
            Answering(server, good, 8)


def test_memory_that_cannot_be_a_pools() -> None:
    msync, words = Persistency.MSYNC, "(must be writable|is not contiguous)"
    for bad in (b"read-only", bytearray(), memoryview(bytearray(8))[::2]):
        with pytest.raises(rpma.InvalidArgumentError, match=f"memory {words}"):
            Durable(bad, None, msync)  # type: ignore[arg-type]
        with pytest.raises(rpma.InvalidArgumentError, match=f"mapping {words}"):
            Durable(bytearray(8), bad, msync)  # type: ignore[arg-type]
    with pytest.raises(rpma.InvalidArgumentError, match="mapping has 8 bytes, memory 9"):
        Durable(bytearray(9), bytearray(8), msync)
    with pytest.raises(TypeError, match="memory must be a writable buffer, not int"):
        Durable(8, None, msync)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="persistency"):
        Durable(bytearray(8), None, "msync")  # type: ignore[arg-type]
    assert not is_pmem(bytearray(64))


# ---- durable memory by itself ------------------------------------------------------------------


def test_flushing_a_mapping_itself(tmp_path: Path) -> None:
    with allocation.map_file(tmp_path / "pool", 3 * PAGE + 100, create=True) as memory:
        with memory.view as view, Durable(view[100:], None, Persistency.MSYNC) as durable:
            view[:] = pattern(len(view))
            for offset in (0, 1, PAGE, 3 * PAGE - 100, 3 * PAGE - 1):
                durable.flush(offset, 1)
            durable.flush()
            durable.write_back()
            assert len(durable) == 3 * PAGE
            for offset, length in ((3 * PAGE + 1, 0), (0, 3 * PAGE + 1), (PAGE, 2 * PAGE + 1)):
                with pytest.raises(rpma.InvalidArgumentError):
                    durable.flush(offset, length)
            assert repr(durable) == f"<rpma.pool.Durable of {3 * PAGE} bytes, msync>"
        assert (tmp_path / "pool").read_bytes() == pattern(3 * PAGE + 100)


def test_closing_lets_go_of_the_file(tmp_path: Path) -> None:
    def files() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{fd}") == str(path) for fd in range(256))

    path = (tmp_path / "pool").resolve()
    with allocation.map_file(path, PAGE, create=True) as memory, open(path, "rb") as file:
        before = files()
        durable = Durable(memory.view, None, Persistency.MSYNC, file.fileno())
        durable.flush()
        assert files() == before + 1
        durable.close()
        assert files() == before


@pytest.mark.parametrize(
    "dirty",
    [[], [0], [SIZE - 1], [0, SIZE - 1], [5, PAGE, 2 * PAGE + 1, 7 * PAGE], range(0, SIZE, 100)],
)
def test_what_was_not_flushed_is_written_back(pool: Pool, dirty: list[int]) -> None:
    for offset in dirty:
        pool.shadow[offset] = 0xEE
    assert pool.stored() == bytes(SIZE)
    pool.durable.write_back()
    assert pool.stored() == pool.shadow


# ---- storage that fails ------------------------------------------------------------------------


def test_a_file_that_shrinks_costs_its_pool_only(
    peer: rpma.Peer, tmp_path: Path, pool: Pool, pair: tuple[Target, Client]
) -> None:
    target, client = pair
    with pool_in(tmp_path, peer, name="other") as other:
        target.answering.set_pool(2, other.durable)
        client.write(pool.remote, 0, pattern(SIZE))
        assert client.flush(0, SIZE) is OK
        os.truncate(pool.path, 3 * PAGE)
        assert client.flush(0, 8) is OK, "these pages are still there"
        assert client.flush(3 * PAGE - 8, 16) is FAILED
        assert client.flush(0, 8) is FAILED, "from now on nothing is sure"
        client.send(SWAP_REQUEST.pack(9, 0, 8, 1, 0, 0, 1))
        assert client.answers(1) == [(9, FAILED)], "what a swap would say of it is no more sure"
        assert pool.durable.failed == errno.EIO
        client.write(other.remote, 0, b"of use")
        assert client.flush(0, 6, pool=2) is OK
        assert other.stored()[:6] == b"of use"
        assert target.answering.counts[3:] == (3, 0)
        for call in (pool.durable.flush, pool.durable.write_back):
            with pytest.raises(StorageError) as caught:
                call()
            assert caught.value.errno == errno.EIO
        target.answering.clear_pool(2)
    target.answering.close()
    pool.durable.close()
    assert pool.durable.failed == errno.EIO


@pytest.mark.parametrize("touch", ["flush", "read", "write", "write_back"])
def test_pages_that_a_mapping_has_lost(tmp_path: Path, touch: str) -> None:
    """Whoever meets them: msync alone would say that all is well."""
    with (
        allocation.map_file(tmp_path / "pool", SIZE, create=True) as memory,
        memory.view as view,
        Durable(bytearray(SIZE), view, Persistency.MSYNC) as shadowed,
        Durable(view, None, Persistency.MSYNC) as durable,
    ):
        os.truncate(tmp_path / "pool", PAGE)
        if touch == "read":
            assert view[SIZE - 1] == 0
            assert max(view[PAGE:]) == 0
        elif touch == "write":
            view[PAGE:] = bytes(SIZE - PAGE)
        elif touch == "write_back":
            with pytest.raises(StorageError):
                shadowed.write_back()
        failed = durable if touch != "write_back" else shadowed
        with pytest.raises(StorageError):
            failed.flush(2 * PAGE)
        assert failed.failed == errno.EIO


def test_guards_of_many_pools(tmp_path: Path) -> None:
    """More than have room in one table; closed ones make room."""
    for _ in range(2):
        with ExitStack() as stack:
            durables = []
            for number in range(200):
                path = tmp_path / str(number)
                path.unlink(missing_ok=True)
                path.write_bytes(bytes(PAGE))
                memory = stack.enter_context(allocation.map_file(path))
                durables.append(stack.enter_context(Durable(memory.view, None, Persistency.MSYNC)))
            for number in range(0, 200, 7):
                os.truncate(tmp_path / str(number), 0)
            for number, durable in enumerate(durables):
                if number % 7 == 0:
                    with pytest.raises(StorageError):
                        durable.flush()
                else:
                    durable.flush()


FOREIGN = """
import faulthandler, mmap, os, signal, sys
from rpma.pool.durable import Durable
from rpma.pool.protocol.persistency import Persistency
path, how = sys.argv[1:]
if how == "handler":
    faulthandler.enable()
if how == "ignored":
    signal.signal(signal.SIGBUS, signal.SIG_IGN)
durable = Durable(bytearray(100), None, Persistency.NONE)
if how in ("sent", "ignored"):
    os.kill(os.getpid(), signal.SIGBUS)
if how == "ignored":
    print("goes on", flush=True)
with open(path, "w+b") as file:
    file.truncate(mmap.PAGESIZE)
    mapping = mmap.mmap(file.fileno(), mmap.PAGESIZE)
    file.truncate(0)
mapping[0]
print("not reached")
"""


@pytest.mark.parametrize("how", ["default", "handler", "sent", "ignored"])
def test_faults_elsewhere_are_the_programs(tmp_path: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, str(tmp_path / "file"), how],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGBUS, done
    assert done.stdout == ("goes on\n" if how == "ignored" else "")
    assert ("Bus error" in done.stderr) is (how == "handler")


def in_a_process(code: str, fabric: Fabric, *arguments: str, **variables: str) -> str:
    """Run code that has what this module has, in a process of its own; what it prints."""
    start = (
        f"import sys\nsys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]\n"
        "from test_pool_answering import *\n"
        "from test_pool_answering import _ports_after\n"
        "fabric = SimpleNamespace(address=sys.argv[1], next_port=_ports_after(sys.argv[2]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + code, fabric.address, fabric.next_port(), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | variables,
    )
    assert done.returncode == 0, (done.returncode, done.stdout, done.stderr)
    return done.stdout


def _ports_after(first: str) -> Callable[[], str]:
    return lambda: first


REGISTERED = """
path = Path(sys.argv[3])
with rpma.Peer.for_address(fabric.address) as peer, ExitStack() as stack:
    memory = stack.enter_context(allocation.map_file(path, SIZE, create=True))
    try:
        region = stack.enter_context(peer.register(memory, EVERYTHING))
    except rpma.ProviderError as error:
        print("cannot be registered", error)
        sys.exit()
    remote = stack.enter_context(rpma.RemoteMemoryRegion(region.descriptor))
    durable = stack.enter_context(Durable(memory.view, None, Persistency.MSYNC))
    target, client = stack.enter_context(connected(peer, fabric))
    target.answering.set_pool(1, durable)
    client.write(remote, 5 * PAGE, b"there")
    assert client.flush(0, SIZE) is OK
    os.truncate(path, PAGE)
    client.write(remote, 5 * PAGE, b"gone")
    client.write(remote, 0, b"still there")
    client.settle(remote)
    assert client.flush(5 * PAGE, 4) is FAILED
    assert client.flush(0, 4) is FAILED
    assert path.read_bytes()[:11] == b"still there"
    print("good")
"""


def test_a_client_writes_where_the_file_has_gone(fabric: Fabric, tmp_path: Path) -> None:
    printed = in_a_process(REGISTERED, fabric, str(tmp_path / "pool"))
    if printed.startswith("cannot be registered"):
        pytest.skip(f"the mapping {printed}")
    assert printed == "good\n"


# ---- libpmem -----------------------------------------------------------------------------------

RECORDER = """
#include <stddef.h>
#include <unistd.h>
size_t calls[1000][2];
int count;
volatile int is_held;
void pmem_persist(const void *address, size_t length)
{
	calls[count][0] = (size_t)address;
	calls[count++][1] = length;
	while (is_held)
		usleep(1000);
}
int pmem_is_pmem(const void *address, size_t length)
{
	return address && length == 4096;
}
"""

PERSISTED = """
import ctypes
recorder = ctypes.CDLL("libpmem.so.1")
count = ctypes.c_int.in_dll(recorder, "count")
calls = ((ctypes.c_size_t * 2) * 1000).in_dll(recorder, "calls")
address = 0

def persisted():
    made = [(calls[i][0] - address, calls[i][1]) for i in range(count.value)]
    count.value = 0
    return made
"""

BY_ITSELF = """
memory = bytearray(SIZE)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
with Durable(memory, None, Persistency.PMEM) as durable:
    durable.flush(3, 5)
    durable.flush(100)
    durable.flush(SIZE, 0)
    durable.write_back()
    assert persisted() == [(3, 5), (100, SIZE - 100)]
with Durable(bytearray(SIZE), memory, Persistency.PMEM) as durable:
    memory[5] = memory[6] = memory[3 * PAGE] = memory[-1] = 1
    durable.write_back()
    where = -address % PAGE or PAGE  # bytes in the first page
    pages = [0, *range(where, SIZE, PAGE)]
    ends = [*pages[1:], SIZE]
    expected = []
    for offset in (5, 3 * PAGE, SIZE - 1):
        index = max(i for i, begin in enumerate(pages) if begin <= offset)
        expected.append((pages[index], ends[index] - pages[index]))
    assert persisted() == expected, expected
    assert memory == bytes(SIZE)
assert is_pmem(bytearray(4096)) and not is_pmem(bytearray(4097))
print("good")
"""

BY_REQUEST = """
with rpma.Peer.for_address(fabric.address) as peer, ExitStack() as stack:
    memory = allocation.anonymous(SIZE)
    address = memory.address
    region = stack.enter_context(peer.register(memory, EVERYTHING))
    remote = stack.enter_context(rpma.RemoteMemoryRegion(region.descriptor))
    durable = stack.enter_context(Durable(memory.view, None, Persistency.PMEM))
    target, client = stack.enter_context(connected(peer, fabric, start=False))
    target.answering.set_pool(1, durable)
    for number, (offset, length) in enumerate(
        [(500, 8), (0, 8), (8, 8), (20, 10), (25, 100), (490, 9), (499, 1)]
    ):
        client.ask(number, offset, length)
    client.settle(remote)
    target.answering.start()
    assert client.answers(7) == [(n, OK) for n in range(7)]
    assert persisted() == [(0, 16), (20, 105), (490, 18)]
    assert target.answering.counts == Counts(7, 3, 139, 0, 0)
    assert client.flush(PAGE - 1, 2) is OK
    assert persisted() == [(PAGE - 1, 2)]
print("good")
"""


CLEARED = """
with rpma.Peer.for_address(fabric.address) as peer, ExitStack() as stack:
    memory = allocation.anonymous(SIZE)
    durable = stack.enter_context(Durable(memory.view, None, Persistency.PMEM))
    target, client = stack.enter_context(connected(peer, fabric))
    target.answering.set_pool(1, durable)
    held = ctypes.c_int.in_dll(recorder, "is_held")
    held.value = 1
    client.ask(1, 0, 8)
    while not count.value:
        time.sleep(0.001)
    clearing = threading.Thread(target=target.answering.clear_pool, args=(1,))
    clearing.start()
    clearing.join(0.3)
    assert clearing.is_alive()
    held.value = 0
    clearing.join(10)
    assert not clearing.is_alive()
    assert client.answers(1) == [(1, OK)]
    assert client.flush(0, 8) is BAD
print("good")
"""


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libpmem that keeps a record of what it is asked for."""
    folder = tmp_path_factory.mktemp("libpmem")
    (folder / "recorder.c").write_text(RECORDER)
    library = folder / "libpmem.so.1"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, "-Wl,-soname,libpmem.so.1", "recorder.c"],
        cwd=folder,
        check=True,
    )
    return library


@pytest.mark.parametrize("code", [BY_ITSELF, BY_REQUEST], ids=["by itself", "by request"])
def test_exactly_what_was_flushed_is_persisted(fabric: Fabric, recorder: Path, code: str) -> None:
    path = os.pathsep.join(filter(None, [str(recorder.parent), os.environ.get("LD_LIBRARY_PATH")]))
    assert in_a_process(PERSISTED + code, fabric, LD_LIBRARY_PATH=path) == "good\n"


def test_a_pool_is_cleared_after_the_flush_that_it_is_in(fabric: Fabric, recorder: Path) -> None:
    path = os.pathsep.join(filter(None, [str(recorder.parent), os.environ.get("LD_LIBRARY_PATH")]))
    assert in_a_process(PERSISTED + CLEARED, fabric, LD_LIBRARY_PATH=path) == "good\n"


def test_a_preloaded_libpmem_comes_first(fabric: Fabric, recorder: Path) -> None:
    preload = f"{os.environ.get('LD_PRELOAD', '')} {recorder}"
    code = PERSISTED + BY_ITSELF
    assert in_a_process(code, fabric, LD_PRELOAD=preload) == "good\n"


def test_without_libpmem_it_is_said_what_to_install(fabric: Fabric, tmp_path: Path) -> None:
    """One that is no libpmem stands for one that is not there."""
    (tmp_path / "empty.c").write_text("int nothing;\n")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", tmp_path / "libpmem.so.1", tmp_path / "empty.c"],
        check=True,
    )
    code = """
from rpma.pool.protocol.errors import TargetError
for how in (Persistency.PMEM, Persistency.FLUSH):
    with pytest.raises(TargetError, match="apt-get install libpmem1"):
        Durable(bytearray(8), None, how)
assert not is_pmem(bytearray(4096))
Durable(bytearray(8), None, Persistency.MSYNC).close()
print("good")
"""
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("LD_LIBRARY_PATH")]))
    assert in_a_process(code, fabric, LD_LIBRARY_PATH=path) == "good\n"
