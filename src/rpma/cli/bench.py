# SPDX-License-Identifier: BSD-3-Clause
"""`rpma bench`: how long a target takes to write, to persist and to read."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.text import Text

from rpma.cli import interrupts, output
from rpma.cli.common import TokenFile, failing, flag, naming, size_of, target_at

DEFAULT_SIZES = "8,64,4KiB,64KiB,1MiB"

MOST_BYTES = 1 << 30
"""The largest size, in bytes."""


def bench(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="host:7204, say.")],
    sizes: Annotated[
        str, typer.Option(metavar="SIZES", help="How many bytes at a time.")
    ] = DEFAULT_SIZES,
    seconds: Annotated[
        float,
        typer.Option(min=0.01, metavar="SECONDS", help="How long to measure each of them."),
    ] = 1.0,
    volatile: Annotated[bool, flag("volatile", "In a pool in the target's DRAM.")] = False,
    as_json: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads it at run time, on Python 3.10 too
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write all figures as JSON; to the standard output with -, without the table.",
        ),
    ] = None,
    png: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", dir_okay=False, help="Draw a picture, with matplotlib."),
    ] = None,
    token_file: TokenFile = None,
) -> None:
    """Measure latency and bandwidth of a target, in a pool that is removed at the end.

    One call at a time: write, write and persist, read. The times are those of a Python program.
    """
    with failing("bench"):
        from rpma.cli import bench_measure as measure
        from rpma.cli import bench_report as report
        from rpma.cli.tokens import token_for

        address = target_at(target)
        wanted = sizes_of(sizes)
        if png is not None:
            report.check_matplotlib()
        with interrupts.undoing():
            _terminate_as_interrupt()
            result = measure.measure(
                address,
                token_for(address, token_file),
                wanted,
                seconds,
                volatile=volatile,
                step=_teller(),
            )
        to_stdout = str(as_json) == "-"
        if not to_stdout:
            output.show(*report.report(result), whole=True)
        if as_json is not None:
            _write_json(result, None if to_stdout else as_json)
        if png is not None:
            with naming(png):
                report.draw(result, png)


COMMANDS: dict[str, Callable[..., None]] = {"bench": bench}


def sizes_of(text: str) -> list[int]:
    """The sizes that ``8,64,4KiB`` says, in order; a usage error if it says none."""
    found = sorted({size_of(part.strip(), "--sizes") for part in text.split(",")})
    for size in found:
        if not 0 < size <= MOST_BYTES:
            raise typer.BadParameter(
                f"{size} bytes cannot be measured: from 1 to 1GiB", param_hint="--sizes"
            )
    return found


def _teller() -> Callable[[str], None]:
    """What says, on a terminal, what is measured now."""
    if not sys.stderr.isatty():
        return lambda _words: None
    return lambda words: output.note(Text(f"measuring {output.printable(words)}", style="dim"))


def _terminate_as_interrupt() -> None:
    """SIGTERM ends it as Ctrl-C does: the pool is removed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _write_json(result: dict[str, Any], file: Path | None) -> None:
    if file is None:
        output.print_json(result)
    else:
        with naming(file):
            file.write_text(json.dumps(result, indent=2) + "\n")
