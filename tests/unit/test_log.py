"""librpma's log: the last message of a thread, thresholds, functions, logging, forks and exits.

`RemoteMemoryRegion` of too few bytes logs an error, of 21 bytes a debug message, and
`PeerConfig.from_descriptor` an info: all without a device.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

import rpma
from rpma.log import Level, Record, Threshold

DESCRIPTOR = bytes(20) + b"\x01"
WORDS = "incorrect size of the descriptor"


def fail(size: int = 5) -> None:
    """Log an error that names `size`, in this thread."""
    with pytest.raises(rpma.InvalidArgumentError):
        rpma.RemoteMemoryRegion(bytes(size))


def python(code: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", "import rpma\n" + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    thresholds = {threshold: rpma.log.get_threshold(threshold) for threshold in Threshold}
    yield
    rpma.log.set_function(None)
    for threshold, level in thresholds.items():
        rpma.log.set_threshold(threshold, level)


@pytest.fixture
def records() -> Iterator[list[Record]]:
    """What librpma logs, at any level."""
    found: list[Record] = []
    rpma.log.set_threshold(Threshold.MAIN, Level.DEBUG)
    rpma.log.set_function(found.append)
    yield found
    rpma.log.set_function(None)


# ---- the last message --------------------------------------------------------------------------


def test_errormsg_is_empty_in_a_thread_that_met_no_error() -> None:
    fail()
    seen = []
    thread = threading.Thread(target=lambda: seen.append(rpma.errormsg()))
    thread.start()
    thread.join()
    assert seen == [""]


def test_errormsg_is_the_last_error_of_this_thread() -> None:
    fail(3)
    assert f"{WORDS}: 3 bytes" in rpma.errormsg()
    other = threading.Thread(target=fail, args=(7,))
    other.start()
    other.join()
    assert f"{WORDS}: 3 bytes" in rpma.errormsg()
    fail(4)
    assert f"{WORDS}: 4 bytes" in rpma.errormsg()


def test_errormsg_is_never_cleared() -> None:
    fail(6)
    before = rpma.errormsg()
    rpma.RemoteMemoryRegion(DESCRIPTOR).close()
    rpma.PeerConfig(direct_write_to_pmem=True).close()
    with pytest.raises(rpma.InvalidArgumentError):  # the binding's own error, not librpma's
        rpma.ConnectionConfig(cq_size=-1)
    assert rpma.errormsg() == before


def test_errormsg_is_one_line() -> None:
    fail()
    assert "\n" not in rpma.errormsg()


@pytest.mark.parametrize("level", list(Level))
def test_errormsg_is_kept_whatever_the_threshold(level: Level) -> None:
    rpma.log.set_threshold(Threshold.MAIN, level)
    fail(8 + level)
    assert f": {8 + level} bytes" in rpma.errormsg()


def test_many_threads_each_have_their_own_errormsg() -> None:
    barrier = threading.Barrier(8)
    wrong: list[str] = []

    def run(size: int) -> None:
        barrier.wait()
        for _ in range(50):
            with contextlib.suppress(rpma.InvalidArgumentError):
                rpma.RemoteMemoryRegion(bytes(size))
            if f": {size} bytes" not in rpma.errormsg():
                wrong.append(rpma.errormsg())

    threads = [threading.Thread(target=run, args=(size,)) for size in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- thresholds --------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", list(Threshold))
@pytest.mark.parametrize("level", list(Level))
def test_a_threshold_reads_as_it_was_set(threshold: Threshold, level: Level) -> None:
    rpma.log.set_threshold(threshold, level)
    assert rpma.log.get_threshold(threshold) is level


def test_the_thresholds_are_librpmas_defaults_at_first() -> None:
    code = "print([rpma.log.get_threshold(t).name for t in rpma.log.Threshold])"
    assert python(code).stdout.strip() == "['WARNING', 'DISABLED']"


@pytest.mark.parametrize("level", [-2, 6, 99])
@pytest.mark.parametrize("threshold", list(Threshold))
def test_a_level_that_does_not_exist_is_refused(threshold: Threshold, level: int) -> None:
    before = rpma.log.get_threshold(threshold)
    with pytest.raises(rpma.InvalidArgumentError, match=r"rpma\.log\.Level"):
        rpma.log.set_threshold(threshold, level)  # type: ignore[arg-type]
    assert rpma.log.get_threshold(threshold) is before


@pytest.mark.parametrize("threshold", [-1, 2, 99])
def test_a_threshold_that_does_not_exist_is_refused(threshold: int) -> None:
    with pytest.raises(rpma.InvalidArgumentError, match=r"rpma\.log\.Threshold"):
        rpma.log.set_threshold(threshold, Level.ERROR)  # type: ignore[arg-type]
    with pytest.raises(rpma.InvalidArgumentError, match=r"rpma\.log\.Threshold"):
        rpma.log.get_threshold(threshold)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (Level.DISABLED, set()),
        (Level.FATAL, set()),
        (Level.ERROR, {Level.ERROR}),
        (Level.NOTICE, {Level.ERROR}),
        (Level.INFO, {Level.ERROR, Level.INFO}),
        (Level.DEBUG, {Level.ERROR, Level.INFO, Level.DEBUG}),
    ],
)
def test_messages_up_to_the_threshold_come(
    records: list[Record], level: Level, expected: set[Level]
) -> None:
    rpma.log.set_threshold(Threshold.MAIN, level)
    fail()
    rpma.PeerConfig.from_descriptor(b"\1").close()
    rpma.RemoteMemoryRegion(DESCRIPTOR).close()
    rpma.log.flush()
    assert {record.level for record in records} == expected


# ---- a function --------------------------------------------------------------------------------


def test_a_function_gets_each_message_in_order(records: list[Record]) -> None:
    before = time.time()
    for size in range(1, 21):
        fail(size)
    rpma.log.flush()
    errors = [record for record in records if record.level is Level.ERROR]
    assert [f": {size} bytes" in r.message for size, r in enumerate(errors, 1)] == [True] * 20
    for record in errors:
        assert record.file_name == "mr.c"
        assert record.line_no > 0
        assert record.function_name == "rpma_mr_remote_from_descriptor"
        assert record.thread_id == threading.get_native_id()
        assert before - 1 <= record.created <= time.time() + 1
        assert record.dropped == 0
        assert "\n" not in record.message


def test_a_function_runs_in_a_thread_of_its_own() -> None:
    names: list[str] = []
    rpma.log.set_function(lambda _: names.append(threading.current_thread().name))
    fail()
    rpma.log.flush()
    assert names == ["rpma-log"]


def test_a_function_may_call_rpma_and_fail_there() -> None:
    seen: list[str] = []

    def function(record: Record) -> None:
        seen.append(record.message)
        if len(seen) < 5:
            with contextlib.suppress(rpma.InvalidArgumentError):
                rpma.RemoteMemoryRegion(bytes(len(seen)))
        rpma.log.flush()  # from inside: returns at once

    rpma.log.set_function(function)
    fail(20)
    deadline = time.monotonic() + 10
    while len(seen) < 5 and time.monotonic() < deadline:
        rpma.log.flush()
    assert [text.split()[5] for text in seen] == ["20", "1", "2", "3", "4"]


def test_a_function_may_take_itself_away() -> None:
    seen: list[Record] = []

    def function(record: Record) -> None:
        seen.append(record)
        rpma.log.set_function(None)

    rpma.log.set_function(function)
    fail()
    rpma.log.flush()
    fail()
    assert len(seen) == 1


@pytest.mark.parametrize("exception", [ValueError, SystemExit, KeyboardInterrupt])
def test_what_a_function_raises_is_shown_and_the_next_message_comes(
    exception: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, *_: shown.append(kind))
    seen: list[Record] = []

    def function(record: Record) -> None:
        seen.append(record)
        raise exception("by the test")

    rpma.log.set_function(function)
    fail()
    fail()
    rpma.log.flush()
    assert len(seen) == 2
    assert shown == [exception, exception]


def test_an_excepthook_that_fails_does_not_end_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    def hook(*_: object) -> None:
        raise RuntimeError("the hook")

    monkeypatch.setattr(sys, "excepthook", hook)
    seen: list[Record] = []

    def function(record: Record) -> None:
        seen.append(record)
        raise ValueError("by the test")

    rpma.log.set_function(function)
    fail()
    fail()
    rpma.log.flush()
    assert len(seen) == 2


@pytest.mark.parametrize("bad", [1, "print", []])
def test_a_function_must_be_callable(bad: object) -> None:
    with pytest.raises(TypeError, match="function must be callable or None"):
        rpma.log.set_function(bad)  # type: ignore[arg-type]


def test_functions_can_be_exchanged_at_any_time() -> None:
    counts = [0, 0]

    def counter(which: int) -> Callable[[Record], None]:
        def function(_: Record) -> None:
            counts[which] += 1

        return function

    for i in range(100):
        rpma.log.set_function(counter(i % 2))
        fail()
        rpma.log.flush()
        if i % 3 == 0:
            rpma.log.set_function(None)
    assert counts == [50, 50]


def test_a_listener_that_is_too_slow_learns_how_many_messages_it_lost() -> None:
    ready, go = threading.Event(), threading.Event()
    seen: list[Record] = []

    def function(record: Record) -> None:
        seen.append(record)
        ready.set()
        go.wait(30)

    rpma.log.set_function(function)
    fail(1)
    assert ready.wait(30)
    for _ in range(1000):
        fail(2)
    go.set()
    rpma.log.flush()
    fail(3)
    rpma.log.flush()
    assert ": 3 bytes" in seen[-1].message
    assert len(seen) + sum(record.dropped for record in seen) == 1002
    assert seen[-1].dropped > 0
    assert not any(record.dropped for record in seen[:-1])


def test_flush_gives_up_on_a_function_that_hangs() -> None:
    go = threading.Event()
    rpma.log.set_function(lambda _: go.wait(30))
    fail()
    with pytest.raises(rpma.WaitTimeoutError, match=r"in 0\.05 s"):
        rpma.log.flush(0.05)
    go.set()
    rpma.log.flush()


def test_flush_returns_at_once_where_nobody_listens() -> None:
    rpma.log.set_function(None)
    fail()
    rpma.log.flush(0)


def test_many_threads_may_log_while_functions_change(records: list[Record]) -> None:
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with contextlib.suppress(rpma.InvalidArgumentError):
                rpma.RemoteMemoryRegion(b"")

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        rpma.log.set_function(records.append)
        rpma.log.set_threshold(Threshold.MAIN, Level.DEBUG)
        rpma.log.set_function(lambda record: records.append(record))
        time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    rpma.log.flush()
    assert records


# ---- logging -----------------------------------------------------------------------------------


def test_messages_go_to_the_logger_rpma(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "rpma"):
        rpma.log.use_logging()
        fail(9)
        rpma.PeerConfig.from_descriptor(b"\1").close()
        rpma.RemoteMemoryRegion(DESCRIPTOR).close()
        rpma.log.flush()
    assert rpma.log.get_threshold(Threshold.MAIN) is Level.DEBUG
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert error.name == "rpma"
    assert WORDS in error.getMessage()
    assert error.filename == "mr.c"
    assert error.funcName == "rpma_mr_remote_from_descriptor"
    assert error.thread == threading.get_native_id()
    assert abs(error.created - time.time()) < 60
    levels = {record.levelno for record in caplog.records}
    assert levels == {logging.ERROR, logging.INFO - 5, logging.DEBUG}


@pytest.mark.parametrize(
    ("logger", "main"),
    [
        (logging.DEBUG, Level.DEBUG),
        (logging.INFO, Level.NOTICE),
        (logging.WARNING, Level.WARNING),
        (logging.ERROR, Level.ERROR),
        (logging.CRITICAL, Level.FATAL),
        (logging.CRITICAL + 1, Level.DISABLED),
    ],
)
def test_the_threshold_follows_the_logger(
    caplog: pytest.LogCaptureFixture, logger: int, main: Level
) -> None:
    with caplog.at_level(logger, "rpma"):
        rpma.log.use_logging()
    assert rpma.log.get_threshold(Threshold.MAIN) is main


def test_a_percent_sign_in_a_message_is_only_that(caplog: pytest.LogCaptureFixture) -> None:
    record = Record(Level.ERROR, "x.c", 1, "f", "100%s %d", 1, time.time(), 0)
    with caplog.at_level(logging.DEBUG, "rpma"):
        rpma.log.to_logging(record)
        rpma.log.to_logging(record._replace(dropped=7))
    assert [r.getMessage() for r in caplog.records] == [
        "100%s %d",
        "100%s %d (7 earlier messages were lost)",
    ]


# ---- the default function ----------------------------------------------------------------------

SPEAK = """
try:
    rpma.RemoteMemoryRegion(b"short")
except rpma.RpmaError:
    pass
rpma.PeerConfig.from_descriptor(b"1").close()
"""


def test_the_default_function_writes_nothing_to_stderr() -> None:
    assert python(SPEAK).stderr == ""


def test_the_default_function_writes_to_stderr_up_to_the_auxiliary_threshold() -> None:
    code = "from rpma.log import *\nset_threshold(Threshold.AUX, Level.ERROR)\n" + SPEAK
    (line,) = python(code).stderr.splitlines()
    assert "*ERROR* mr.c: " in line
    assert "rpma_mr_remote_from_descriptor: incorrect size of the descriptor: 5 bytes" in line


def test_the_auxiliary_threshold_lets_pass_only_what_the_main_one_does() -> None:
    code = "from rpma.log import *\nset_threshold(Threshold.AUX, Level.DEBUG)\n" + SPEAK
    assert "*INFO*" not in python(code).stderr
    code = "from rpma.log import *\nset_threshold(Threshold.MAIN, Level.INFO)\n" + code
    assert "*INFO*" in python(code).stderr
    code += "set_threshold(Threshold.MAIN, Level.DISABLED)\nprint('--', file=sys.stderr)\n" + SPEAK
    _, _, after = python("import sys\n" + code).stderr.partition("--\n")
    assert after == ""


def test_the_default_function_is_silent_while_a_function_listens() -> None:
    code = "from rpma.log import *\nset_threshold(Threshold.AUX, Level.DEBUG)\n"
    code += "set_function(lambda record: print(record.message))\n" + SPEAK
    done = python(code)
    assert done.stderr == ""
    assert WORDS in done.stdout
    code += "set_function(None)\n" + SPEAK
    assert WORDS in python(code).stderr


# ---- forks and exits ---------------------------------------------------------------------------


def fork(function: Callable[[], None]) -> None:
    """Run the function in a forked child, which must succeed in time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    pytest.fail("the child hangs")


def test_a_function_listens_in_a_forked_child_too(records: list[Record]) -> None:
    fail(1)
    rpma.log.flush()
    parents = len(records)

    def child() -> None:
        assert ": 1 bytes" in rpma.errormsg()
        with contextlib.suppress(rpma.InvalidArgumentError):
            rpma.RemoteMemoryRegion(bytes(2))
        rpma.log.flush()
        assert ": 2 bytes" in records[-1].message
        assert len(records) == parents + 1

    fork(child)
    fail(3)
    rpma.log.flush()
    assert ": 3 bytes" in records[-1].message
    assert len(records) == parents + 1


def test_a_fork_while_other_threads_log_does_not_hang_the_child(records: list[Record]) -> None:
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with contextlib.suppress(rpma.InvalidArgumentError):
                rpma.RemoteMemoryRegion(b"")

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()

    def child() -> None:
        with contextlib.suppress(rpma.InvalidArgumentError):
            rpma.RemoteMemoryRegion(b"child")
        rpma.log.flush()
        assert any(": 5 bytes" in record.message for record in records)

    try:
        for _ in range(20):
            fork(child)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("listener", ["print", "lambda record: [][0]", "lambda r: time.sleep(9)"])
def test_an_interpreter_exits_with_a_listener_installed(listener: str) -> None:
    code = f"import time\nrpma.log.set_function({listener})\n" + SPEAK
    began = time.monotonic()
    done = python(code, "-X", "dev")
    assert done.returncode == 0
    assert time.monotonic() - began < 8
    if listener == "print":
        assert WORDS in done.stdout


def test_an_interpreter_exits_while_threads_log() -> None:
    code = """
import threading
rpma.log.set_function(lambda record: None)
def run():
    while True:
        try:
            rpma.RemoteMemoryRegion(b"")
        except rpma.RpmaError:
            pass
for _ in range(4):
    threading.Thread(target=run, daemon=True).start()
"""
    for _ in range(5):
        assert python(code).returncode == 0
