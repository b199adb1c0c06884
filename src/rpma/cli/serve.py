# SPDX-License-Identifier: BSD-3-Clause
"""`rpma serve`: a target in the foreground, as systemd and containers want it."""

from __future__ import annotations

import contextlib
import enum
import errno
import logging
import os
import re
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer

from rpma.cli import interrupts, output
from rpma.cli.common import failing, flag, size_of

if TYPE_CHECKING:
    from types import TracebackType

    from rpma.pool.target.target import Target

log = logging.getLogger("rpma.serve")

LISTEN = "127.0.0.1:7204"
"""Where clients come in, if nothing else is said: from this machine only."""

STATUS_EACH = 2.0
"""How often the status is told to systemd, in seconds."""

STORAGE_GRACE = 5.0
"""How long storage may hold up the end after a second signal, in seconds."""

_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


class LogLevel(str, enum.Enum):
    """From which level on events are logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


# Typer reads these at run time, on Python 3.10 too.
_Directory = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Argument(
        metavar="DIRECTORY",
        exists=True,
        file_okay=False,
        help="Where the pools are, on persistent memory best.",
    ),
]
_TokenFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--token-file",
        metavar="FILE",
        dir_okay=False,
        envvar="RPMA_TOKEN_FILE",
        help="A line with the token, or lines USER:TOKEN; for its owner's eyes only.",
    ),
]


def serve(
    directory: _Directory = None,
    listen: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="HOST:PORT", help="Where clients come in.", show_default=LISTEN),
    ] = None,
    token_file: _TokenFile = None,
    dram: Annotated[
        str, typer.Option(metavar="SIZE", help="How much memory pools in DRAM may take.")
    ] = "0",
    shadow_memory: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="SIZE",
            help="How much memory copies may take of pools whose files the RDMA device cannot work "
            "on; half of what there is, if nothing is said.",
        ),
    ] = None,
    rdma_address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="ADDRESS",
            help="Of the RDMA device for data; that by which a client came in, if none is given.",
        ),
    ] = None,
    data_ports: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="PORTS", help="For data: 7300-7399, say; any that are free, if none are given."
        ),
    ] = None,
    direct_write_to_pmem: Annotated[
        bool,
        flag(
            "direct-write-to-pmem",
            "What the RNIC writes to persistent memory is durable at once (eADR, DDIO off).",
        ),
    ] = False,
    max_clients: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many clients may be in at a time.")
    ] = 1024,
    drain: Annotated[
        float,
        typer.Option(
            min=0, metavar="SECONDS", help="How long clients may stay after SIGTERM or SIGINT."
        ),
    ] = 10.0,
    metrics: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="HOST:PORT", help="Where Prometheus may ask for metrics."),
    ] = None,
    log_level: Annotated[
        LogLevel, typer.Option(help="From which level on events are logged.")
    ] = LogLevel.INFO,
    by_ssh: Annotated[
        bool,
        flag(
            "ssh",
            "As clients of ssh:// start it: the token comes on standard input, and it ends with "
            "that.",
        ),
    ] = False,
) -> None:
    """Serve the pools of DIRECTORY, and pools in DRAM, until SIGTERM or SIGINT.

    Then no more clients come in, and those that are in may stay for --drain seconds. A second
    signal ends that at once. No client is waited for beyond that, whatever it does, and storage
    that does not answer for five seconds more.

    Without a token, clients of this machine only may come in, and all of them. Each event is a line
    on stderr.
    """
    start_log(log_level.value)
    have_all_descriptors()
    with failing("serve"), contextlib.ExitStack() as stack:
        from rpma import InvalidArgumentError
        from rpma.cli import tokens
        from rpma.pool.target.target import ListenError, Target

        make = partial(
            Target,
            directory,
            dram=size_of(dram, "--dram"),
            shadow_memory=(
                size_of(shadow_memory, "--shadow-memory") if shadow_memory is not None else None
            ),
            rdma_address=rdma_address,
            data_ports=ports_of(data_ports) if data_ports is not None else (),
            direct_write_to_pmem=direct_write_to_pmem,
            max_clients=max_clients,
        )
        if by_ssh:
            from rpma.pool.target.by_ssh import serve as serve_by_ssh

            where = listen or _any_address()
            stack.enter_context(interrupts.undoing())
            raise typer.Exit(serve_by_ssh(lambda token: make(listen=where, token=token)))
        found = tokens.read(token_file) if token_file is not None else None
        try:
            target = make(
                listen=listen or LISTEN,
                token=found.token if found else None,
                tokens=found.users if found else None,
            )
        except InvalidArgumentError as error:
            raise typer.BadParameter(_as_options(str(error))) from None
        if metrics is not None:
            from rpma.cli.metrics import export

            stack.enter_context(export(target, *_host_port(metrics)))
        try:
            run(target, drain)
        except ListenError as error:
            what = "address" if error.errno == errno.EADDRNOTAVAIL else "port"
            output.fail("serve", f"{error.strerror}; --listen HOST:PORT takes another {what}")


def token(
    file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            metavar="FILE", help="The token file to make; without it, the token is printed."
        ),
    ] = None,
    user: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="USER", help="Whose it is; nobody's in particular, if not given."),
    ] = None,
) -> None:
    """Make a token for --token-file, which nobody can find by trying.

    Only its owner can read the FILE that is made; one that is there stays as it is. Clients need a
    copy of the target's.
    """
    with failing("token"):
        from rpma.cli import tokens

        made = tokens.new(user)
        if file is None:
            output.say(made)
        else:
            with interrupts.undoing():
                tokens.write(made, file)


COMMANDS: dict[str, Callable[..., None]] = {"serve": serve, "token": token}


def run(target: Target, drain: float) -> None:
    """Serve until a signal, then drain.

    Raises:
        OSError: it cannot listen there.
        RpmaError: the target failed.
    """
    from rpma.cli.systemd import notify

    with Signals() as signals:
        target.start()
        status = ""
        notify("READY=1", "STATUS=serving")
        while not (names := signals.wait(STATUS_EACH)):
            if target.failure is not None:
                raise target.failure
            if status != (status := f"STATUS={target.clients} clients"):
                notify(status)
        log.info("%s: draining", names[0])
        # More than the drain itself: storage may take its time.
        notify(
            "STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={int(drain * 1e6) + 30_000_000}"
        )
        _end(target, 0.0 if len(names) > 1 else drain, signals)
    if target.failure is not None:
        raise target.failure


def _end(target: Target, drain: float, signals: Signals) -> None:
    """Drain; one more signal ends that, and the process if storage does not let it end."""

    def close() -> None:
        try:
            target.close(drain)
        finally:
            signals.wake()

    closing = threading.Thread(target=close, name="rpma-drain", daemon=True)
    closing.start()
    deadline = None if drain else time.monotonic() + STORAGE_GRACE
    while closing.is_alive():
        names = signals.wait(None if deadline is None else max(deadline - time.monotonic(), 0.01))
        for name in names:
            if deadline is not None:
                _end_now(f"{name}: ending in the middle of it")
            log.warning("%s: ending at once", name)
            deadline = time.monotonic() + STORAGE_GRACE
            threading.Thread(target=target.close, name="rpma-end", daemon=True).start()
        if deadline is not None and closing.is_alive() and time.monotonic() >= deadline:
            _end_now(f"storage has not ended in {STORAGE_GRACE:g} s: ending without it")
        if not names and deadline is None:
            closing.join()


def _end_now(why: str) -> NoReturn:
    """End the process. What was persisted is durable; nothing else was promised."""
    log.critical("%s", why)
    logging.shutdown()
    os._exit(1)


def have_all_descriptors() -> None:
    """Have as many file descriptors as the process may: each connection takes some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # What is refused leaves the limit as it is, which is enough for fewer clients.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Signals:
    """SIGTERM and SIGINT, to be waited for; whichever thread the kernel gives them to."""

    NUMBERS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> Signals:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before = {number: signal.getsignal(number) for number in self.NUMBERS}
        self._fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self.NUMBERS:
            signal.signal(number, lambda _number, _frame: None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd)
        self._reader.close()
        self._writer.close()

    def wait(self, timeout: float | None) -> list[str]:
        """The names of the signals that came, none after `timeout` seconds or `wake`."""
        self._reader.settimeout(timeout)
        try:
            data = self._reader.recv(64)
        except TimeoutError:
            return []
        return [signal.Signals(number).name for number in data if number in self.NUMBERS]

    def wake(self) -> None:
        """Have `wait` return."""
        self._writer.send(b"\0")


# ---- the log ----


class OneLine(logging.Formatter):
    """A line for each event: when, how grave, what. A traceback is in the line, too."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        words = record.getMessage()
        if record.exc_info:
            words += " | " + self.formatException(record.exc_info)
        words = words.replace("\n", " | ")
        if not words.isprintable():
            words = "".join(
                c if c.isprintable() else c.encode("unicode_escape").decode() for c in words
            )
        return f"{moment}.{int(record.msecs):03}Z {record.levelname.lower():8} {words}"


def start_log(level: str) -> None:
    """Log on stderr from `level` on, other packages' warnings too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("rpma").setLevel(level.upper())
    logging.captureWarnings(True)


# ---- options ----


def ports_of(text: str) -> tuple[int, ...]:
    """The port numbers that ``7300-7399`` or ``7300,7310-7312`` says."""
    ports: list[int] = []
    for part in text.split(","):
        match = _PORTS.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 0 < first <= last < 1 << 16:
            raise typer.BadParameter(
                f"{text!r} should be ports from 1 to 65535: 7300-7399, say",
                param_hint="--data-ports",
            )
        ports += range(first, last + 1)
    return tuple(dict.fromkeys(ports))


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or len(port) > 5 or int(port) >= 1 << 16:
        raise typer.BadParameter(
            f"{text!r} should be HOST:PORT, an IPv6 address in brackets", param_hint="--metrics"
        )
    return host, int(port)


def _any_address() -> str:
    """All addresses of the family by which ssh came in, and a free port."""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return "[::]:0" if len(words) == 4 and ":" in words[2] else "0.0.0.0:0"


def _as_options(words: str) -> str:
    """The target's words about its arguments, for those who gave options."""
    if "without a token" in words:
        words = words.replace("give it one", "give it one with --token-file")
    return re.sub(r"\b(listen|dram|data_ports|rdma_address)= ?", r"--\1 ", words)
