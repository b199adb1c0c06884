"""The life of objects that need no device; those that need one are in tests/fabric."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import rpma

DESCRIPTOR = bytes(16) + b"key!\x0f"

KINDS: dict[str, Callable[[], Any]] = {
    "PeerConfig": rpma.PeerConfig,
    "ConnectionConfig": rpma.ConnectionConfig,
    "SharedReceiveQueueConfig": rpma.SharedReceiveQueueConfig,
    "RemoteMemoryRegion": lambda: rpma.RemoteMemoryRegion(DESCRIPTOR),
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@kinds
def test_close_can_be_called_again(make: Callable[[], Any]) -> None:
    made = make()
    assert not made.closed
    for _ in range(3):
        made.close()
        assert made.closed


@kinds
def test_with_closes(make: Callable[[], Any]) -> None:
    with make() as made:
        assert not made.closed
    assert made.closed


@kinds
def test_with_closes_after_an_exception(make: Callable[[], Any]) -> None:
    with pytest.raises(ZeroDivisionError), make() as made:
        raise ZeroDivisionError
    assert made.closed


@kinds
def test_with_refuses_what_is_closed(make: Callable[[], Any]) -> None:
    made = make()
    made.close()
    with pytest.raises(rpma.ClosedError, match=r"cannot enter the .*closed"), made:
        pytest.fail("entered")


@kinds
def test_with_allows_an_early_close(make: Callable[[], Any]) -> None:
    with make() as made:
        made.close()


@kinds
def test_what_holds_only_memory_may_be_left_to_the_garbage_collector(
    make: Callable[[], Any],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reference = weakref.ref(make())
        gc.collect()
    assert reference() is None


@kinds
def test_it_is_neither_pickled_nor_copied(make: Callable[[], Any]) -> None:
    with make() as made:
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            with pytest.raises(TypeError, match="cannot be pickled"):
                pickle.dumps(made, protocol)
        with pytest.raises(TypeError):
            copy.copy(made)
        with pytest.raises(TypeError):
            copy.deepcopy(made)


@kinds
def test_repr_tells_kind_and_state(make: Callable[[], Any]) -> None:
    made = make()
    assert repr(made).startswith(f"<rpma.{type(made).__name__}")
    assert "closed" not in repr(made)
    made.close()
    assert "closed" in repr(made)


@kinds
def test_it_has_no_attributes_but_its_own(make: Callable[[], Any]) -> None:
    with make() as made, pytest.raises(AttributeError):
        made.flush_typs = 1


@kinds
def test_a_reference_cycle_is_collected(make: Callable[[], Any]) -> None:
    class Holder:
        pass

    holder = Holder()
    holder.made = make()  # type: ignore[attr-defined]
    holder.again = holder  # type: ignore[attr-defined]
    reference = weakref.ref(holder.made)  # type: ignore[attr-defined]
    del holder
    gc.collect()
    assert reference() is None


@kinds
def test_a_finalizer_of_the_program_may_still_use_it(make: Callable[[], Any]) -> None:
    """In a cycle the collector calls the finalizers first, in any order: none may free a handle."""
    seen: list[bool] = []

    class Holder:
        def __init__(self, made: Any) -> None:
            self.made = made
            self.cycle = self

        def __del__(self) -> None:
            # Takes the memory of whatever has been freed too early.
            churn = [each() for each in KINDS.values() for _ in range(20)]
            seen.append(self.made.closed)
            self.made.close()
            assert len(churn) == 20 * len(KINDS)

    for _ in range(5):
        Holder(make())
        gc.collect()
    assert seen == [True] * 5


@kinds
def test_threads_may_close_it_at_once(make: Callable[[], Any]) -> None:
    for _ in range(50):
        made = make()
        barrier = threading.Barrier(4)

        def close(barrier: threading.Barrier = barrier, made: Any = made) -> None:
            barrier.wait()
            made.close()

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert made.closed


def test_a_use_and_a_close_at_once_give_the_value_or_closed_error() -> None:
    wrong: list[BaseException] = []
    for _ in range(50):
        config = rpma.ConnectionConfig(sq_size=77)
        barrier = threading.Barrier(2)

        def use(barrier: threading.Barrier = barrier, config: Any = config) -> None:
            barrier.wait()
            try:
                while True:
                    assert config.sq_size == 77
            except rpma.ClosedError:
                pass
            except BaseException as error:
                wrong.append(error)

        thread = threading.Thread(target=use)
        thread.start()
        barrier.wait()
        config.close()
        thread.join(30)
        assert not thread.is_alive()
    assert not wrong


@kinds
def test_a_forked_child_is_refused(make: Callable[[], Any]) -> None:
    with make() as made:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert made.closed
                with pytest.raises(rpma.ForkedError, match="fork"):
                    made.__enter__()
                made.close()  # is nothing to the child
                del made
                gc.collect()
                with make() as own:  # what it makes itself is its own
                    assert not own.closed
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert not made.closed


def test_a_forked_child_may_exit_as_usual() -> None:
    code = """
import os, rpma
kept = [rpma.PeerConfig(), rpma.ConnectionConfig(), rpma.RemoteMemoryRegion(bytes(20) + b"1")]
rpma.log.set_function(print)
pid = os.fork()
if pid == 0:
    raise SystemExit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "7", "")


def test_an_interpreter_may_exit_with_objects_open() -> None:
    code = """
import rpma
class Holder: pass
holder = Holder()
holder.cycle = holder
holder.kept = [rpma.PeerConfig(), rpma.ConnectionConfig(), rpma.RemoteMemoryRegion(b"1" * 21)]
rpma.kept = holder
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "kind", [rpma.Connection, rpma.ConnectionRequest], ids=lambda kind: kind.__name__
)
def test_what_only_rpma_makes_says_how(kind: Any) -> None:
    with pytest.raises(TypeError, match="make it with"):
        kind()


@pytest.mark.parametrize("bad", ["rxe0", None, 7])
def test_a_peer_is_made_of_a_device(bad: object) -> None:
    with pytest.raises(TypeError, match=r"device must be a rpma\.Device, not"):
        rpma.Peer(bad)  # type: ignore[arg-type]


def test_memory_does_not_grow() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def run(times: int) -> None:
        for _ in range(times):
            for make in KINDS.values():
                make().close()
                make()
            with pytest.raises(rpma.InvalidArgumentError):
                rpma.RemoteMemoryRegion(b"")

    run(500)
    gc.collect()
    before = resident()
    run(3000)
    gc.collect()
    assert resident() - before < 2 << 20


def test_segments_in_a_reference_cycle_do_not_crash_the_collector() -> None:
    program = (
        "import array, gc\n"
        "from rpma.operations import _segments\n"
        "for segments in ([(1, 2, 3)] * 30, array.array('Q', [1, 2, 3])):\n"
        "    for _ in range(50):\n"
        "        cycle = [_segments(segments)]\n"
        "        cycle.append(cycle)\n"
        "        del cycle\n"
        "        gc.collect()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
