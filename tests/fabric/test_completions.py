"""No completion is lost, doubled or late, however waits and requests are mixed."""
# ruff: noqa: PT017

from __future__ import annotations

import os
import random
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import pytest
from pairs import (
    A_MOMENT,
    SIZE,
    SOON,
    VISIBILITY,
    Pair,
    completions,
    connections,
    pair,
    pattern,
    threads,
)

import rpma
from fabrics.fabric import Fabric
from rpma import CompletionFlags, WcStatus

pytestmark = pytest.mark.fabric

ALWAYS = CompletionFlags.ALWAYS


@pytest.fixture
def separate(peer: rpma.Peer, fabric: Fabric) -> Iterator[Pair]:
    """A pair whose target has a completion queue for receives."""
    with (
        rpma.ConnectionConfig(rcq_size=20, rq_size=20) as config,
        pair(peer, fabric, target=config, initiator=config) as made,
    ):
        yield made


@pytest.fixture
def shared(peer: rpma.Peer, fabric: Fabric) -> Iterator[Pair]:
    """A pair whose queues share a completion channel, on both sides."""
    with (
        rpma.ConnectionConfig(rcq_size=20, rq_size=20, shared_channel=True) as config,
        pair(peer, fabric, target=config, initiator=config) as made,
    ):
        yield made


def post(made: Pair, wr_id: int) -> None:
    made.initiator.write(made.remote, 0, made.local, 0, 8, flags=ALWAYS, wr_id=wr_id)


# ---- timeouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, A_MOMENT])
def test_waits_end_at_their_timeout(separate: Pair, timeout: float) -> None:
    conn = separate.initiator
    assert conn.rcq is not None
    calls: list[Callable[[], object]] = [
        lambda: conn.cq.wait(timeout),
        lambda: conn.cq.next_wc(timeout),
        lambda: conn.rcq.wait(timeout),  # type: ignore[union-attr]
        lambda: conn.rcq.next_wc(timeout),  # type: ignore[union-attr]
        lambda: conn.next_event(timeout),
        lambda: conn.wait_closed(timeout),
        lambda: conn.send_wait(separate.local, 0, 8, timeout=timeout),
    ]
    for call in calls:
        began = time.monotonic()
        with pytest.raises(rpma.WaitTimeoutError, match="time"):
            call()
        assert timeout <= time.monotonic() - began < timeout + 2
    separate.target.recv(separate.region, 0, 8)
    conn.write_wait(separate.remote, 0, separate.local, 0, 8, timeout=SOON)


@pytest.mark.parametrize("bad", ["1", b"1", []])
def test_a_timeout_is_a_number(linked: Pair, bad: object) -> None:
    conn = linked.initiator
    for call in (
        conn.cq.wait,
        conn.cq.next_wc,
        conn.next_event,
        lambda t: conn.write_wait(linked.remote, 0, linked.local, 0, 8, timeout=t),
        lambda t: conn.read_wait(linked.local, 0, linked.remote, 0, 8, timeout=t),
        lambda t: conn.write_batch(linked.remote, linked.local, [(0, 0, 8)], timeout=t),
        lambda t: conn.flush_wait(linked.remote, 0, 8, timeout=t),
        lambda t: conn.atomic_write_wait(linked.remote, 0, bytes(8), timeout=t),
        lambda t: conn.send_wait(None, timeout=t),
    ):
        with pytest.raises(TypeError, match="timeout must be a number of seconds"):
            call(bad)  # type: ignore[operator]
        with pytest.raises(rpma.InvalidArgumentError, match="timeout=-1"):
            call(-1)  # type: ignore[operator]
    conn.write_wait(linked.remote, 0, linked.local, 0, 8, timeout=10**400)


def test_nothing_is_there_before_something_has_completed(linked: Pair) -> None:
    assert linked.initiator.cq.get_wc() is None
    assert linked.initiator.cq.get_wcs() == []
    assert linked.initiator.rcq is None


@pytest.mark.parametrize("bad", [-1, 0, 1 << 17])
def test_get_wcs_takes_a_reasonable_number(linked: Pair, bad: int) -> None:
    with pytest.raises(rpma.InvalidArgumentError, match=f"max_entries={bad}"):
        linked.initiator.cq.get_wcs(bad)
    with pytest.raises(TypeError, match="max_entries must be an integer"):
        linked.initiator.cq.get_wcs("many")  # type: ignore[arg-type]


# ---- who gets which ----------------------------------------------------------------------------


def test_get_wcs_takes_as_many_as_asked_for(linked: Pair) -> None:
    for number in range(7):
        post(linked, number)
    linked.initiator.flush_wait(linked.remote, 0, 8, timeout=SOON)  # then all are there
    got = [[wc.wr_id for wc in linked.initiator.cq.get_wcs(3)] for _ in range(4)]
    assert got == [[0, 1, 2], [3, 4, 5], [6], []]


def test_wait_and_get_wcs_find_everything(linked: Pair) -> None:
    seen: list[int] = []
    for number in range(5):
        post(linked, number)
    while len(seen) < 5:
        linked.initiator.cq.wait(SOON)
        while wcs := linked.initiator.cq.get_wcs(2):
            seen += [wc.wr_id for wc in wcs]
    assert seen == list(range(5))


def test_operations_keep_the_programs_completions(linked: Pair) -> None:
    conn = linked.initiator
    for number in range(3):
        post(linked, number)
        conn.write_wait(linked.remote, 0, linked.local, 0, 8, flush=VISIBILITY, timeout=SOON)
        conn.read_wait(linked.local, 0, linked.remote, 0, 8, timeout=SOON)
    conn.cq.wait(0)  # returns, since some were kept
    assert [conn.cq.next_wc(0).wr_id for _ in range(3)] == [0, 1, 2]
    assert conn.cq.get_wc() is None


def test_more_completions_are_kept_than_a_queue_holds(linked: Pair) -> None:
    conn = linked.initiator
    for number in range(100):
        post(linked, number)
        conn.write_wait(linked.remote, 0, linked.local, 0, 8, timeout=SOON)
    assert [wc.wr_id for wc in conn.cq.get_wcs(200)] == list(range(100))


def test_receives_that_operations_meet_are_kept(linked: Pair) -> None:
    for number in range(5):
        linked.initiator.recv(linked.local, 1024 + number, 1, wr_id=number)
        linked.target.send_wait(linked.region, 0, 1, timeout=SOON)
        linked.initiator.flush_wait(linked.remote, 0, 8, timeout=SOON)
    assert [wc.wr_id for wc in completions(linked.initiator.cq, 5)] == list(range(5))


@pytest.mark.parametrize("seed", range(4))
def test_no_completion_is_lost_or_doubled_in_any_mixture(
    peer: rpma.Peer, fabric: Fabric, seed: int
) -> None:
    """Random requests and waits against a model: a list of numbers to come, and the memory."""
    rng = random.Random(seed)
    with (
        rpma.ConnectionConfig(sq_size=16, cq_size=64) as config,
        pair(peer, fabric, size=4096, initiator=config) as made,
    ):
        conn, model, own = made.initiator, bytearray(4096), bytearray(pattern(4096, seed))
        made.own[:] = own
        expected: deque[int] = deque()
        room, numbers = 16, iter(range(10_000))

        def take(wcs: list[rpma.WorkCompletion]) -> None:
            for wc in wcs:
                assert wc.status is WcStatus.SUCCESS
                assert wc.wr_id == expected.popleft()

        for _ in range(120):
            kind = rng.randrange(10)
            dst, src, length = rng.randrange(2048), rng.randrange(1024), rng.randrange(1, 1024)
            if kind < 5 and room > 1:
                flags = rng.choice(list(CompletionFlags))
                wr_id = next(numbers)
                room -= 1
                if kind < 3:
                    conn.write(made.remote, dst, made.local, src, length, flags=flags, wr_id=wr_id)
                    model[dst : dst + length] = own[src : src + length]
                elif kind < 4:
                    value, at = rng.randbytes(8), dst & ~7
                    conn.atomic_write(made.remote, at, value, flags=flags, wr_id=wr_id)
                    model[at : at + 8] = value
                else:
                    conn.flush(made.remote, dst, length, flags=flags, wr_id=wr_id)
                if flags is ALWAYS:
                    expected.append(wr_id)
            elif kind < 6:
                conn.write_wait(made.remote, dst, made.local, src, length, timeout=SOON)
                model[dst : dst + length] = own[src : src + length]
                room = 16
            elif kind < 7:
                segments = [(rng.randrange(4088), rng.randrange(1024), 8) for _ in range(25)]
                conn.write_batch(made.remote, made.local, segments, timeout=60)
                for to, begin, count in segments:
                    model[to : to + count] = own[begin : begin + count]
                room = 16
            elif kind < 8:
                conn.read_wait(made.local, 2048, made.remote, dst, length, timeout=SOON)
                assert made.own[2048 : 2048 + length] == model[dst : dst + length]
                room = 16
            elif expected and rng.random() < 0.5:
                take([conn.cq.next_wc(SOON)])
            else:
                take(conn.cq.get_wcs(rng.randrange(1, 9)))
        conn.flush_wait(made.remote, 0, 4096, timeout=SOON)
        take(conn.cq.get_wcs(200))
        assert not expected
        assert made.memory == model


def test_two_threads_take_each_completion_once(linked: Pair) -> None:
    seen: list[int] = []
    stop = threading.Event()

    def take() -> None:
        while not stop.is_set():
            try:
                seen.append(linked.initiator.cq.next_wc(0.05).wr_id)
            except rpma.WaitTimeoutError:
                continue

    def give() -> None:
        deadline = time.monotonic() + 60
        for number in range(60):
            while number - len(seen) > 6 and time.monotonic() < deadline:
                time.sleep(0.001)
            post(linked, number)
        while len(seen) < 60 and time.monotonic() < deadline:
            time.sleep(0.001)
        stop.set()

    threads(take, take, give)
    assert sorted(seen) == list(range(60))


def test_an_operation_beside_a_thread_that_takes_completions(linked: Pair) -> None:
    """Whoever polls gives the other its own."""
    seen: list[int] = []
    stop = threading.Event()

    def take() -> None:
        while not stop.is_set():
            try:
                seen.append(linked.initiator.cq.next_wc(0.05).wr_id)
            except rpma.WaitTimeoutError:
                continue

    def operate() -> None:
        try:
            for number in range(40):
                post(linked, number)
                linked.initiator.write_wait(linked.remote, 8, linked.local, 0, 8, timeout=SOON)
            deadline = time.monotonic() + SOON
            while len(seen) < 40 and time.monotonic() < deadline:
                time.sleep(0.001)
        finally:
            stop.set()

    threads(take, operate)
    assert seen == list(range(40))


def test_two_threads_in_operations_are_told_or_both_right(linked: Pair) -> None:
    """librpma allows one thread at a time on a connection; what is refused leaves no trace."""
    done = [0, 0]
    refused = [0, 0]

    def run(which: int) -> None:
        for number in range(60):
            at = which * 32
            linked.own[at : at + 8] = bytes([which, number] * 4)
            try:
                linked.initiator.write_wait(
                    linked.remote, at, linked.local, at, 8, flush=VISIBILITY, timeout=SOON
                )
            except rpma.InUseError as error:
                assert "another thread is inside an operation" in str(error)
                refused[which] += 1
            else:
                done[which] += 1
                assert linked.memory[at : at + 8] == bytes([which, number] * 4)

    threads(lambda: run(0), lambda: run(1))
    assert done[0] + refused[0] == done[1] + refused[1] == 60
    assert sum(done)  # how many depends on who runs when
    linked.initiator.write_wait(linked.remote, 0, linked.local, 0, 8, timeout=SOON)


def test_connections_work_in_threads_of_their_own(peer: rpma.Peer, fabric: Fabric) -> None:
    with pair(peer, fabric) as one, pair(peer, fabric) as two, pair(peer, fabric) as three:

        def run(made: Pair, seed: int) -> None:
            made.own[:] = pattern(SIZE, seed)
            for _ in range(10):
                made.initiator.write_batch(
                    made.remote,
                    made.local,
                    [(i * 512, i * 512, 512) for i in range(32)],
                    flush=VISIBILITY,
                    timeout=60,
                )
            assert made.memory[: 32 * 512] == made.own[: 32 * 512]

        threads(lambda: run(one, 1), lambda: run(two, 2), lambda: run(three, 3))


# ---- receive queues, shared channels -----------------------------------------------------------


def test_receives_complete_on_their_own_queue(separate: Pair) -> None:
    assert separate.target.rcq is not None
    separate.target.recv(separate.region, 0, 8, wr_id=1)
    separate.target.send(separate.region, 0, 8, flags=ALWAYS, wr_id=2)
    separate.initiator.recv(separate.local, 0, 8, wr_id=3)
    separate.initiator.send_wait(separate.local, 0, 8, timeout=SOON)
    assert separate.target.rcq.next_wc(SOON).wr_id == 1
    assert separate.target.cq.next_wc(SOON).wr_id == 2
    assert separate.target.rcq.get_wc() is None
    assert separate.target.cq.get_wc() is None


def test_a_queue_is_one_object_while_it_is_used(separate: Pair) -> None:
    cq, rcq = separate.target.cq, separate.target.rcq
    assert cq is separate.target.cq
    assert rcq is separate.target.rcq
    assert cq is not rcq
    assert "CompletionQueue of <rpma.Connection" in repr(cq)


def test_a_shared_channel_tells_which_queue_has_something(shared: Pair) -> None:
    target = shared.target
    with pytest.raises(rpma.WaitTimeoutError):
        target.wait(A_MOMENT)
    target.recv(shared.region, 0, 8, wr_id=1)
    shared.initiator.send_wait(shared.local, 0, 8, timeout=SOON)
    assert target.wait(SOON) is target.rcq
    assert [wc.wr_id for wc in target.rcq.get_wcs()] == [1]
    with rpma.RemoteMemoryRegion(shared.local.descriptor) as remote:
        target.write(remote, 0, shared.region, 0, 8, flags=ALWAYS, wr_id=2)
        assert target.wait(SOON) is target.cq
        assert [wc.wr_id for wc in target.cq.get_wcs()] == [2]


def test_a_queue_of_a_shared_channel_is_not_waited_for_alone(shared: Pair) -> None:
    for queue in (shared.target.cq, shared.target.rcq):
        assert queue is not None
        with pytest.raises(rpma.SharedChannelError) as caught:
            queue.wait(SOON)
        assert caught.value.name == "RPMA_E_SHARED_CHANNEL"


def test_a_channel_that_is_not_shared_is_not_waited_for(separate: Pair) -> None:
    with pytest.raises(rpma.NotSharedChannelError):
        separate.target.wait(SOON)
    with pytest.raises(rpma.NotSharedChannelError):
        _ = separate.target.compl_fd


def test_next_wc_of_one_queue_loses_no_event_of_the_other(shared: Pair) -> None:
    target = shared.target
    assert target.rcq is not None
    with rpma.RemoteMemoryRegion(shared.local.descriptor) as remote:
        target.write(remote, 0, shared.region, 0, 8, flags=ALWAYS, wr_id=1)
        with pytest.raises(rpma.WaitTimeoutError):
            target.rcq.next_wc(A_MOMENT)  # meets the event of the other queue
        assert target.wait(SOON) is target.cq
        assert [wc.wr_id for wc in target.cq.get_wcs()] == [1]
    target.recv(shared.region, 0, 8, wr_id=2)
    shared.initiator.send_wait(shared.local, 0, 8, timeout=SOON)
    with pytest.raises(rpma.WaitTimeoutError):
        target.cq.next_wc(A_MOMENT)
    assert target.wait(SOON) is target.rcq
    assert [wc.wr_id for wc in target.rcq.get_wcs()] == [2]


def test_operations_work_on_a_shared_channel(shared: Pair) -> None:
    conn = shared.initiator
    conn.recv(shared.local, 0, 8, wr_id=1)
    shared.target.send_wait(shared.region, 0, 8, timeout=SOON)
    post(shared, 2)
    conn.write_batch(shared.remote, shared.local, [(i * 8, 0, 8) for i in range(50)], timeout=60)
    seen = {}
    while len(seen) < 2:
        queue = conn.wait(SOON)
        for wc in queue.get_wcs():
            seen[wc.wr_id] = queue
    assert seen == {1: conn.rcq, 2: conn.cq}


def test_select_takes_queues(separate: Pair) -> None:
    conn = separate.initiator
    with selectors.DefaultSelector() as selector:
        selector.register(conn.cq, selectors.EVENT_READ, conn.cq)
        selector.register(conn.rcq, selectors.EVENT_READ, conn.rcq)  # type: ignore[arg-type]
        assert not selector.select(A_MOMENT)
        post(separate, 5)
        ((key, _),) = selector.select(SOON)
        assert key.data is conn.cq
        conn.cq.wait(0)
        assert conn.cq.get_wcs()[0].wr_id == 5
        assert not selector.select(0)
        conn.recv(separate.local, 0, 8, wr_id=6)
        separate.target.send_wait(separate.region, 0, 8, timeout=SOON)
        ((key, _),) = selector.select(SOON)
        assert key.data is conn.rcq
        conn.rcq.wait(0)
        assert conn.rcq.get_wcs()[0].wr_id == 6


def test_select_takes_a_shared_channel(shared: Pair) -> None:
    fd = shared.initiator.compl_fd
    assert not select.select([fd], [], [], A_MOMENT)[0]
    post(shared, 7)
    assert select.select([fd], [], [], SOON)[0] == [fd]
    assert shared.initiator.wait(0) is shared.initiator.cq
    assert shared.initiator.cq.get_wcs()[0].wr_id == 7
    assert not os.get_blocking(fd)


# ---- Ctrl-C and close() ------------------------------------------------------------------------


class Waits:
    """Every kind of wait, on objects that nothing happens to."""

    def __init__(self, peer: rpma.Peer, fabric: Fabric) -> None:
        self.port = fabric.next_port()
        self.address = fabric.address
        self.peer = peer
        self.region = peer.register(bytearray(64), rpma.Usage.SEND | rpma.Usage.RECV)
        self.srq = peer.create_srq()
        with (
            rpma.ConnectionConfig(rcq_size=10) as config,
            rpma.ConnectionConfig(rcq_size=10, shared_channel=True) as sharing,
        ):
            self.other, self.plain = connections(peer, fabric, initiator=config)
            self.far, self.sharing = connections(peer, fabric, initiator=sharing)
        self.endpoint = peer.listen(fabric.address, self.port)

    def close(self) -> None:
        for thing in (self.endpoint, self.plain, self.sharing, self.other, self.far):
            thing.close()
        self.srq.close()
        self.region.close()

    def kinds(self) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
        """By name: the wait, and what closes its object."""
        plain, sharing = self.plain, self.sharing
        assert plain.rcq is not None
        assert self.srq.rcq is not None
        assert sharing.rcq is not None
        return {
            "next_conn_req": (self.endpoint.next_conn_req, self.endpoint.close),
            "accept": (self.endpoint.accept, self.endpoint.close),
            "next_event": (plain.next_event, plain.close),
            "wait_established": (plain.wait_established, plain.close),
            "wait_closed": (plain.wait_closed, plain.close),
            "cq.wait": (plain.cq.wait, plain.close),
            "cq.next_wc": (plain.cq.next_wc, plain.close),
            "rcq.wait": (plain.rcq.wait, plain.close),
            "rcq.next_wc": (plain.rcq.next_wc, plain.close),
            "send_wait": (lambda: plain.send_wait(self.region, 0, 8), plain.close),
            "shared wait": (sharing.wait, sharing.close),
            "shared next_wc": (sharing.rcq.next_wc, sharing.close),
            "srq.rcq.wait": (self.srq.rcq.wait, self.srq.close),
            "srq.rcq.next_wc": (self.srq.rcq.next_wc, self.srq.close),
        }


KINDS = [
    "next_conn_req",
    "accept",
    "next_event",
    "wait_established",
    "wait_closed",
    "cq.wait",
    "cq.next_wc",
    "rcq.wait",
    "rcq.next_wc",
    "send_wait",
    "shared wait",
    "shared next_wc",
    "srq.rcq.wait",
    "srq.rcq.next_wc",
]


@pytest.fixture
def waits(peer: rpma.Peer, fabric: Fabric) -> Iterator[Waits]:
    made = Waits(peer, fabric)
    yield made
    made.close()


class InterruptError(Exception):
    """What the handler of SIGINT raises: with KeyboardInterrupt a failure would end all tests."""


@pytest.fixture
def _sigint() -> Iterator[None]:
    def handler(*_: object) -> None:
        raise InterruptError

    before = signal.signal(signal.SIGINT, handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint")
def test_every_wait_answers_ctrl_c(waits: Waits) -> None:
    kinds = waits.kinds()
    assert list(kinds) == KINDS
    for name, (wait, _) in kinds.items():
        timer = threading.Timer(A_MOMENT, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        began = time.monotonic()
        with pytest.raises(InterruptError):
            wait()
        assert time.monotonic() - began < A_MOMENT + 1, name
        timer.join()
    # All goes on as if nothing had been.
    waits.other.recv(waits.region, 0, 8, wr_id=3)  # for the send that was interrupted
    assert waits.other.cq.next_wc(SOON).wr_id == 3
    waits.other.recv(waits.region, 0, 8, wr_id=4)
    waits.plain.send_wait(waits.region, 0, 8, timeout=SOON)
    assert waits.other.cq.next_wc(SOON).wr_id == 4
    assert waits.plain.cq.get_wc() is None


@pytest.mark.parametrize("name", KINDS)
def test_close_in_another_thread_ends_every_wait(waits: Waits, name: str) -> None:
    wait, close = waits.kinds()[name]
    caught: list[BaseException] = []

    def run() -> None:
        try:
            wait()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(A_MOMENT / 2)  # nothing tells that the wait has begun
    began = time.monotonic()
    close()
    thread.join(SOON)
    assert time.monotonic() - began < 2
    assert [type(error) for error in caught] == [rpma.ClosedError]
    with pytest.raises(rpma.ClosedError):
        wait()


def test_ctrl_c_is_a_keyboard_interrupt(fabric: Fabric) -> None:
    code = f"""
import rpma, sys
peer = rpma.Peer.for_address({fabric.address!r})
with peer.listen({fabric.address!r}, {fabric.next_port()}) as endpoint:
    print("ready", flush=True)
    endpoint.accept()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal; a shell starts background jobs with SIGINT ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "ResourceWarning" not in errors


@pytest.mark.usefixtures("_sigint")
def test_what_a_signal_handler_raises_is_not_taken_for_a_bad_argument(linked: Pair) -> None:
    def handler(*_: object) -> None:
        raise TypeError("by the handler")

    signal.signal(signal.SIGINT, handler)
    timer = threading.Timer(A_MOMENT, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(TypeError, match="by the handler"):
        linked.initiator.send_wait(linked.local, 0, 8, timeout=SOON)
    timer.join()
    linked.target.recv(linked.region, 0, 8)
    linked.initiator.write_wait(linked.remote, 0, linked.local, 0, 8, timeout=SOON)


def test_a_batch_that_cannot_go_on_answers_its_timeout(linked: Pair) -> None:
    """The queue is full of the program's own requests, which wait for a receive."""
    conn = linked.initiator
    for number in range(6):
        conn.send(linked.local, 0, 8, wr_id=number)
    began, used = time.monotonic(), time.thread_time()
    with pytest.raises(rpma.WaitTimeoutError):
        conn.write_batch(linked.remote, linked.local, [(0, 0, 8)] * 60, timeout=3 * A_MOMENT)
    assert time.monotonic() - began < 3 * A_MOMENT + 2
    assert time.thread_time() - used < 2 * A_MOMENT, "it spins"
    for number in range(6):
        linked.target.recv(linked.region, 0, 8, wr_id=number)
    assert len(completions(linked.target.cq, 6)) == 6


def test_a_wait_lets_other_threads_run(linked: Pair) -> None:
    count = 0
    stop = threading.Event()

    def run() -> None:
        nonlocal count
        while not stop.is_set():
            count += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with pytest.raises(rpma.WaitTimeoutError):
            linked.initiator.cq.next_wc(3 * A_MOMENT)
    finally:
        stop.set()
        thread.join()
    assert count > 1000


def test_polling_threads_and_close_do_not_crash(peer: rpma.Peer, fabric: Fabric) -> None:
    for _ in range(5):
        with pair(peer, fabric) as made:

            def poll(conn: rpma.Connection = made.initiator) -> None:
                try:
                    while True:
                        conn.cq.get_wcs()
                        repr(conn)
                except rpma.ClosedError:
                    pass

            def operate(made: Pair = made) -> None:
                try:
                    while True:
                        made.initiator.write_wait(made.remote, 0, made.local, 0, 8, timeout=SOON)
                except rpma.ClosedError:
                    pass

            def close(conn: rpma.Connection = made.initiator) -> None:
                time.sleep(0.05)
                conn.close()

            threads(poll, operate, close)
