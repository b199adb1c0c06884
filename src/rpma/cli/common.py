# SPDX-License-Identifier: BSD-3-Clause
"""What the commands about pools share: options, addresses, sizes, and how they fail."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from rpma.cli import interrupts, output

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


def flag(name: str, words: str) -> Any:
    """An option that is on or off."""
    return typer.Option(f"--{name}/--no-{name}", help=words, show_default=False)


AsJson = Annotated[bool, flag("json", "Print JSON.")]
Place = Annotated[str, typer.Argument(metavar="TARGET/POOL", help="host:7204/journal, say.")]


def words_of(error: BaseException) -> str:
    """What went wrong, in one line."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is not None:
            return f"{error.filename}: {error.strerror}"
        if type(error).__str__ is OSError.__str__:  # which begins with the number
            return error.strerror
    # Of arguments that are given by position here the names of Python's say nothing.
    return re.sub(r"^(name|size): ", "", str(error)) or type(error).__name__


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Errors of the system that do not say of which file they are say that they are of this one."""
    try:
        yield
    except OSError as error:
        is_systems = error.strerror and type(error).__str__ is OSError.__str__
        if is_systems and error.filename is None:
            error.filename = "the standard input or output" if str(file) == "-" else str(file)
        raise


@contextlib.contextmanager
def failing(command: str) -> Iterator[None]:
    """Whatever goes wrong ends the command with one clear line."""
    from rpma import RpmaError

    try:
        yield
    except output.ReaderHasLeft:
        raise typer.Exit from None
    except ImportError as error:
        if error.name not in ("msgspec", "numpy", "matplotlib", "prometheus_client", "h11"):
            raise
        output.fail(command, str(error))
    except KeyboardInterrupt:
        interrupts.end()
        output.fail(command, "interrupted", interrupts.CODE)
    except (RpmaError, OSError) as error:
        output.fail(command, words_of(error))


def target_at(text: str) -> TargetAddress:
    """The address of a target; a usage error if it is none."""
    from rpma import InvalidArgumentError
    from rpma.pool.protocol.address import TargetAddress, parse_pool

    try:
        return TargetAddress.parse(text)
    except InvalidArgumentError as error:
        words = str(error).removeprefix("target=")
        with contextlib.suppress(InvalidArgumentError):
            target, name = parse_pool(text)
            words = f"{text!r} names a pool, {name!r}: give its target alone, {str(target)!r}"
        raise typer.BadParameter(words, param_hint="TARGET") from None


def pool_at(text: str) -> tuple[TargetAddress, str]:
    """The target and the name of a pool; a usage error if it is no TARGET/POOL."""
    from rpma import InvalidArgumentError
    from rpma.pool.protocol.address import parse_pool

    try:
        return parse_pool(text)
    except InvalidArgumentError as error:
        words = str(error).removeprefix("target=")
        if os.path.exists(text):
            words = (
                f"{text!r} is a file of this machine: TARGET/POOL is a pool, as in "
                "host:7204/journal, and FILE comes before it in 'put', behind it in 'get'"
            )
        raise typer.BadParameter(words, param_hint="TARGET/POOL") from None


def size_of(text: str, hint: str) -> int:
    """The bytes that a size means; a usage error if it is none."""
    from rpma.pool.protocol.errors import PoolSizeError
    from rpma.pool.protocol.sizes import parse_size

    try:
        return parse_size(text)
    except PoolSizeError as error:
        raise typer.BadParameter(str(error).removeprefix("size: "), param_hint=hint) from None
