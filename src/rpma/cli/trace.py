# SPDX-License-Identifier: BSD-3-Clause
"""`rpma trace`: the log of librpma's debug build, summed up."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Annotated, BinaryIO, Optional

import typer

from rpma.cli import interrupts, output
from rpma.cli import trace_log as log
from rpma.cli.common import AsJson, words_of
from rpma.cli.trace_report import Readers, facts, report
from rpma.cli.trace_summary import Summary


def trace(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE",
            dir_okay=False,  # not exists=True: some typer would want a file "-" then
            help="What RPMA_LOG_FILE named, of one run or of many; - is the standard input.",
        ),
    ],
    chrome: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads it at run time, on Python 3.10 too
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Also write a trace for https://ui.perfetto.dev or chrome://tracing.",
        ),
    ] = None,
    as_json: AsJson = False,
    pid: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(metavar="N", help="Only this process; may be given more than once."),
    ] = None,
) -> None:
    """Sum up the log of librpma's debug build: calls, errors, findings, connections.

    RPMA_LOG_FILE=FILE RPMA_LOG_LEVEL=2 makes the debug build log what a program does, 3 all calls,
    4 also completions and queues. The exit code is 0 whatever the log tells, and 1 where a file
    cannot be read or is no such log.
    """
    for file in files:
        if str(file) != "-" and not file.exists():
            raise typer.BadParameter(f"{file} does not exist", param_hint="FILE")
    if chrome is not None and any(_is_same(chrome, file) for file in files):
        raise typer.BadParameter(f"{chrome} is one of the logs", param_hint="--chrome")
    try:
        with interrupts.undoing():
            summary, readers = _read(files, chrome, frozenset(pid or ()))
    except KeyboardInterrupt:
        output.fail("trace", "interrupted", interrupts.CODE)
    except OSError as error:
        output.fail("trace", words_of(error))
    if not summary.records:
        output.fail("trace", f"no record is of process {' or '.join(map(str, pid or ()))}")
    if as_json:
        output.print_json(facts(summary, readers))
    else:
        output.show(*report(summary, readers))


def _read(
    files: list[Path], chrome: Path | None, wanted: frozenset[int]
) -> tuple[Summary, Readers]:
    """Sum up the logs, and write a trace of them."""
    summary, readers = Summary(), Readers()
    with ExitStack() as stack:
        exporter = None
        if chrome is not None:
            from rpma.cli.trace_chrome import Exporter

            exporter = stack.enter_context(Exporter(chrome))
            summary.when_over = exporter.life
        for file in files:
            name = "standard input" if str(file) == "-" else str(file)
            with _open(file) as stream:
                reader = log.Reader(stream)
                readers.append((name, reader))
                for record in reader:
                    if not wanted or record.pid in wanted:
                        summary.add(record)
                        if exporter is not None:
                            exporter.add(record)
            if not reader.records:
                what = "is not the log of librpma's debug build" if reader.lines else "is empty"
                output.fail("trace", f"{name} {what}")
        summary.finish()
        if exporter is not None:
            for _, enter in summary.unfinished:
                exporter.unfinished(enter)
    return summary, readers


def _open(file: Path) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if str(file) == "-" else file.open("rb")


def _is_same(chrome: Path, file: Path) -> bool:
    """Whether writing one would destroy the other."""
    try:
        read = os.fstat(sys.stdin.fileno()) if str(file) == "-" else file.stat()
        return chrome.is_file() and os.path.samestat(chrome.stat(), read)
    except OSError:
        return False
