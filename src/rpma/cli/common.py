# SPDX-License-Identifier: BSD-3-Clause
"""What the commands about pools share: options, addresses, sizes, and how they fail."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, Optional

import typer
from rich.console import Console
from rich.markup import escape

from rpma.cli.trace_report import printable

if TYPE_CHECKING:
    from rpma.pool.protocol.address import TargetAddress

# Typer reads these at run time, on Python 3.10 too.
TokenFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--token-file",
        metavar="FILE",
        dir_okay=False,
        envvar="RPMA_TOKEN_FILE",
        help="The file with the target's token.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Place = Annotated[str, typer.Argument(metavar="TARGET/POOL", help="host:7204/journal, say.")]


def words_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        if type(error).__str__ is OSError.__str__:  # which begins with the number
            return error.strerror
    return str(error) or type(error).__name__


def complain(command: str, text: str) -> None:
    """Say what went wrong, in one line on stderr."""
    errors = Console(stderr=True)
    line = f"[red]rpma {command}:[/] {escape(printable(text))}"
    errors.print(line, highlight=False, soft_wrap=True)


def fail(command: str, text: str) -> NoReturn:
    """End a command that failed."""
    complain(command, text)
    raise typer.Exit(1)


@contextlib.contextmanager
def failing(command: str) -> Iterator[None]:
    """Whatever goes wrong ends the command with one clear line."""
    from rpma import RpmaError

    try:
        yield
    except BrokenPipeError:
        # Whoever read the output has left. Nothing more can be written, at exit either.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except ImportError as error:
        if error.name not in ("msgspec", "numpy", "matplotlib", "prometheus_client", "h11"):
            raise
        fail(command, str(error))
    except (RpmaError, OSError) as error:
        fail(command, words_of(error))


def target_at(text: str) -> TargetAddress:
    """The address of a target; a usage error if it is none."""
    from rpma import InvalidArgumentError
    from rpma.pool.protocol.address import TargetAddress

    try:
        return TargetAddress.parse(text)
    except InvalidArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="TARGET") from None


def pool_at(text: str) -> tuple[TargetAddress, str]:
    """The target and the name of a pool; a usage error if it is no TARGET/POOL."""
    from rpma import InvalidArgumentError
    from rpma.pool.protocol.address import parse_pool

    try:
        return parse_pool(text)
    except InvalidArgumentError as error:
        raise typer.BadParameter(str(error), param_hint="TARGET/POOL") from None


def size_of(text: str, hint: str) -> int:
    """The bytes that a size means; a usage error if it is none."""
    from rpma.pool.protocol.errors import PoolSizeError
    from rpma.pool.protocol.sizes import parse_size

    try:
        return parse_size(text)
    except PoolSizeError as error:
        raise typer.BadParameter(str(error).removeprefix("size: "), param_hint=hint) from None


def output() -> Console:
    """Where tables go: as wide as the terminal, and as they are where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=1000)
