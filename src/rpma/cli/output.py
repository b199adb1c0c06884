# SPDX-License-Identifier: BSD-3-Clause
"""Where the commands write to: the standard streams, and what may go wrong with them.

Commands print as Python programs do, and so do typer and rich. Below them are streams that take all
that is written, so that no command ends in the middle of a line:

- what a terminal's encoding cannot show is written in another way;
- a non-blocking pipe is waited for;
- a reader that has left, as `head` does, is no failure: nothing more is written;
- anything else, such as a full disk, is said when the command has ended, and is its failure.
"""

from __future__ import annotations

import codecs
import errno
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.measure import Measurement
from rich.text import Text

from rpma._streams import write_fully
from rpma.cli import interrupts

if TYPE_CHECKING:
    from rich.console import RenderableType

LONGEST_TEXT = 1000
"""How many characters of somebody else's text are printed."""

WIDEST = 100_000
"""No output is wider than this, in characters."""

#: What is written where the encoding has no such characters: one for one, so that columns stay.
_PLAIN = str.maketrans("µ…▁▂▃▄▅▆▇█", "u~__..::##")


# ---- the standard streams ----------------------------------------------------------------------


class Descriptor(io.RawIOBase):
    """The standard output, or standard error: takes all that is written.

    Attributes:
        error: why it takes no more of it, once that is so.
    """

    def __init__(self, fd: int) -> None:
        """Of a file descriptor, which stays open."""
        self._file = io.FileIO(fd, "w", closefd=False)
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of it, or note why not."""
        with memoryview(data).cast("B") as view:
            if self.error is None:
                try:
                    write_fully(self._file, view)
                except OSError as error:
                    self.error = error
            return len(view)

    def fileno(self) -> int:
        """The file descriptor."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._file.isatty()

    def writable(self) -> bool:
        """It is."""
        return True


class ReaderHasLeft(Exception):  # noqa: N818 -- no error
    """Nobody reads the standard output any more: there is nothing left to do."""


class Data(io.RawIOBase):
    """The standard output for bytes that are no text: here a failure is one at once.

    Raises:
        ReaderHasLeft: nobody reads it any more.
        OSError: it cannot be written.
    """

    def __init__(self) -> None:
        """What was printed before comes first."""
        sys.stdout.flush()
        self._file = io.FileIO(sys.stdout.fileno(), "w", closefd=False)

    def write(self, data: Any) -> int:
        """Write all of it."""
        with memoryview(data).cast("B") as view:
            try:
                write_fully(self._file, view)
            except BrokenPipeError:
                raise ReaderHasLeft from None
            return len(view)

    def writable(self) -> bool:
        """It is."""
        return True


def descriptor_of(file: Path, standard: int) -> int | None:
    """The file descriptor that a name stands for: of ``/dev/stdout`` or ``/dev/fd/3``, say.

    What such a name leads to is not to be opened again, and least of all replaced: a redirected
    output has its position, and may be there to be appended to.

    Args:
        file: the name.
        standard: what "-" stands for.
    """
    if str(file) == "-":
        return standard
    own, path = f"/proc/{os.getpid()}/fd", str(file)
    for _ in range(40):  # as many links as Linux follows
        folder, name = os.path.split(path)
        if name.isdecimal() and os.path.realpath(folder) == own:
            return int(name)
        try:
            path = os.path.join(folder, os.readlink(path))
        except OSError:
            break
    return None


def run(work: Callable[[], object]) -> NoReturn:
    """Run a command to its end, that of its output included, and end the process.

    Args:
        work: the command; it ends with SystemExit, or with none where all is well.
    """
    code: str | int | None = 0
    out = _take("stdout")
    _take("stderr")
    try:
        work()
    except SystemExit as end:
        code = end.code
    except KeyboardInterrupt:  # while a command was ending
        code = interrupts.CODE
    if out is not None:
        sys.stdout.flush()
        if out.error is not None and out.error.errno != errno.EPIPE:
            complain("", f"cannot write to the standard output: {out.error.strerror}")
            code = code or 1
    sys.exit(code)


def _take(name: str) -> Descriptor | None:
    """Put a stream of ours in the place of a standard stream; None where there is another one."""
    stream = getattr(sys, name)
    try:
        descriptor = Descriptor(stream.fileno())
    except (AttributeError, OSError, ValueError):  # io.UnsupportedOperation is both
        return None
    stream.flush()
    ours = io.TextIOWrapper(
        io.BufferedWriter(descriptor),
        encoding=stream.encoding,
        errors="rpma.cli.shown",
        line_buffering=descriptor.isatty() or name == "stderr",
        write_through=stream.write_through,
    )
    setattr(sys, name, ours)
    return descriptor


def _shown(error: UnicodeError) -> tuple[str, int]:
    """What the encoding cannot show, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("rpma.cli.shown", _shown)


# ---- what is shown -----------------------------------------------------------------------------


def printable(text: str) -> str:
    """Somebody else's text for a terminal, which must not take any of it for a command."""
    text = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(*parts: RenderableType, whole: bool = False) -> None:
    """Print tables and texts, as wide as the terminal, or as COLUMNS says; else as they are.

    Args:
        parts: one below the other.
        whole: whether none of their lines may be broken; the terminal does that, if need be.
    """
    for part in parts:
        console = Console(highlight=False, markup=False)  # what is in brackets is no style
        if whole or not (console.is_terminal or os.environ.get("COLUMNS")):
            widest = Measurement.get(console, console.options.update(max_width=WIDEST), part)
            least = console.width if console.is_terminal else 1
            console.width = max(widest.maximum, least)
        console.print(part)


def say(text: str) -> None:
    """Print a line, with somebody else's words in it."""
    print(printable(text))


def print_json(facts: Any) -> None:
    """Print what ``--json`` asks for."""
    print(json.dumps(facts, indent=2))


def complain(command: str, text: str) -> None:
    """Say what went wrong, in one line on stderr.

    Args:
        command: which one it is; "" for all of `rpma`.
        text: what to say.
    """
    line = Text(f"rpma {command}".rstrip() + ":", style="red")
    line.append(f" {printable(text)}", style="default")
    note(line)


def note(text: str | Text) -> None:
    """Say something on stderr, in one line."""
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def fail(command: str, text: str, code: int = 1) -> NoReturn:
    """End a command that failed; the other arguments are `complain`'s.

    Args:
        command: which one it is.
        text: what to say.
        code: the exit code.
    """
    complain(command, text)
    raise typer.Exit(code)
