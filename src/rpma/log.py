# SPDX-License-Identifier: BSD-3-Clause
"""librpma's log: thresholds, levels, and where messages go.

librpma logs to syslog, and to stderr what passes the auxiliary threshold; that is its default
function, and it stays in force until `set_function` names another. Messages for a Python function
are handed over by a thread of their own: librpma's threads never wait for the interpreter, a
function may call rpma, and Ctrl-C does not land in it. They arrive in order, a moment after the
call that logged them; `flush` waits until they have.

The main threshold decides which messages there are; above the level of a message nothing is even
formatted, so that the data path pays nothing. The last error message of a thread is kept for
`rpma.errormsg` whatever the threshold.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from rpma._native import fabric, ffi, lib, text
from rpma.errors import WaitTimeoutError, error_for


class Level(IntEnum):
    """How much a message matters (enum rpma_log_level)."""

    DISABLED = lib.RPMA_LOG_DISABLED
    """As a threshold: no messages."""
    FATAL = lib.RPMA_LOG_LEVEL_FATAL
    ERROR = lib.RPMA_LOG_LEVEL_ERROR
    WARNING = lib.RPMA_LOG_LEVEL_WARNING
    NOTICE = lib.RPMA_LOG_LEVEL_NOTICE
    """Completed calls of the connection's life: established, closed."""
    INFO = lib.RPMA_LOG_LEVEL_INFO
    DEBUG = lib.RPMA_LOG_LEVEL_DEBUG


class Threshold(IntEnum):
    """Which threshold (enum rpma_log_threshold)."""

    MAIN = lib.RPMA_LOG_THRESHOLD
    """Which messages there are at all."""
    AUX = lib.RPMA_LOG_THRESHOLD_AUX
    """Which of them the default function also writes to stderr."""


class Record(NamedTuple):
    """One message of librpma.

    Attributes:
        level: its level.
        file_name: librpma's source file, without folders.
        line_no: the line there.
        function_name: librpma's function.
        message: the text.
        thread_id: the operating system's id of the thread that logged it.
        created: when, in seconds since the epoch.
        dropped: how many messages before this one were lost, the listener being too slow.
    """

    level: Level
    file_name: str
    line_no: int
    function_name: str
    message: str
    thread_id: int
    created: float
    dropped: int


LogFunction = Callable[[Record], object]

# As logging numbers them. INFO lies between logging's own INFO, which NOTICE is, and DEBUG.
_LOGGING_LEVELS = {
    Level.FATAL: 50,
    Level.ERROR: 40,
    Level.WARNING: 30,
    Level.NOTICE: 20,
    Level.INFO: 15,
    Level.DEBUG: 10,
}


def set_threshold(threshold: Threshold, level: Level) -> None:
    """Let pass messages up to `level` (rpma_log_set_threshold).

    Raises:
        InvalidArgumentError: there is no such threshold or level.
    """
    ret = lib.rpmapy_log_set_threshold(threshold, level)
    if ret:
        raise error_for(
            ret,
            f"set log threshold {threshold!r} to {level!r}",
            "take an rpma.log.Threshold and an rpma.log.Level",
        )


def get_threshold(threshold: Threshold) -> Level:
    """The level up to which messages pass (rpma_log_get_threshold)."""
    level = ffi.new("int *")
    ret = lib.rpmapy_log_get_threshold(threshold, level)
    if ret:
        raise error_for(ret, f"get log threshold {threshold!r}", "take an rpma.log.Threshold")
    return Level(level[0])


class _Delivery:
    """The thread that empties librpma's ring into a function."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.function: LogFunction | None = None
        self.thread: threading.Thread | None = None

    def set_function(self, function: LogFunction | None) -> None:
        with self.lock:
            self.function = function
            lib.rpmapy_log_listen(function is not None)
            if function is not None and self.thread is None:
                self.thread = threading.Thread(target=self.run, name="rpma-log", daemon=True)
                self.thread.start()

    def run(self) -> None:
        raw = ffi.new("struct rpmapy_log_record *")
        while True:
            if lib.rpmapy_log_next(raw):
                with self.lock:
                    if self.function is None:
                        self.thread = None
                        return
                continue
            function = self.function
            try:
                if function is not None:
                    function(_record(raw))
            except BaseException:
                # As logging does: a listener's failure must not become librpma's. Nor may it end
                # this thread, not even by SystemExit: nobody would empty the ring any more.
                with contextlib.suppress(BaseException):
                    sys.excepthook(*sys.exc_info())
            finally:
                lib.rpmapy_log_delivered()

    def after_fork_in_child(self) -> None:
        function = self.function
        self.__init__()  # type: ignore[misc]
        if function is not None:
            self.set_function(function)


def _record(raw: object) -> Record:
    return Record(
        level=Level(raw.level),  # type: ignore[attr-defined]
        file_name=text(raw.file),  # type: ignore[attr-defined]
        line_no=raw.line,  # type: ignore[attr-defined]
        function_name=text(raw.function),  # type: ignore[attr-defined]
        message=text(raw.message),  # type: ignore[attr-defined]
        thread_id=raw.thread,  # type: ignore[attr-defined]
        created=raw.when,  # type: ignore[attr-defined]
        dropped=raw.dropped,  # type: ignore[attr-defined]
    )


_delivery = _Delivery()
os.register_at_fork(after_in_child=_delivery.after_fork_in_child)


def set_function(function: LogFunction | None) -> None:
    """Send messages to `function`, in place of syslog and stderr (rpma_log_set_function).

    Args:
        function: called with a `Record` for each message, in a thread of its own; what it raises
            is shown by sys.excepthook. None is librpma's default function.
    """
    if function is not None and not callable(function):
        raise TypeError(f"function must be callable or None, not {type(function).__name__}")
    _delivery.set_function(function)


def to_logging(record: Record) -> None:
    """A function for `set_function`: pass a message to the logger "rpma" of `logging`."""
    import logging  # not before someone wants it: it is slow to import

    logger = logging.getLogger("rpma")
    level = _LOGGING_LEVELS[record.level]
    if not logger.isEnabledFor(level):
        return
    made = logger.makeRecord(
        logger.name,
        level,
        record.file_name,
        record.line_no,
        "%s",
        (record.message,),
        None,
        record.function_name,
    )
    made.created = record.created
    made.msecs = (record.created % 1) * 1000
    made.thread = record.thread_id
    made.threadName = f"thread {record.thread_id}"
    if record.dropped:
        made.msg = f"%s ({record.dropped} earlier messages were lost)"
    logger.handle(made)


def use_logging() -> None:
    """Send messages to the logger "rpma" of `logging`, as many as its level lets pass now.

    The main threshold follows the logger's effective level at this moment; call it again after
    changing that. librpma's NOTICE is logging's INFO, its INFO lies below that.
    """
    import logging

    logger = logging.getLogger("rpma")
    enabled = [level for level, number in _LOGGING_LEVELS.items() if logger.isEnabledFor(number)]
    set_function(to_logging)
    set_threshold(Threshold.MAIN, max(enabled, default=Level.DISABLED))


_unsaid = (
    [f"the soft RNIC is the RDMA device of this process: {fabric.reason}"]
    if fabric.name == "soft"
    else []
)


def announce_soft_rnic() -> None:
    """Say once in the log that the soft RNIC is the device, and why, if it is.

    Called when a device is looked up, not at import: whoever listens has had time to begin. As
    long as the threshold holds the message back it stays to be said.
    """
    if not _unsaid or get_threshold(Threshold.MAIN) < Level.NOTICE:
        return
    with contextlib.suppress(IndexError):  # another thread was first
        lib.rpmapy_log_message(Level.NOTICE, _unsaid.pop().encode())


def flush(timeout: float = 5.0) -> None:
    """Wait until all messages so far have been handed to the function of `set_function`.

    Raises:
        WaitTimeoutError: they were not within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while _delivery.function is not None and not lib.rpmapy_log_drained():
        if threading.current_thread() is _delivery.thread:
            return
        if time.monotonic() > deadline:
            raise WaitTimeoutError(f"the log function did not take all messages in {timeout} s")
        time.sleep(0.001)


@atexit.register
def _shut_down() -> None:
    with contextlib.suppress(WaitTimeoutError):
        flush(1.0)
    set_function(None)
