# SPDX-License-Identifier: BSD-3-Clause
"""The commands about pools and their options; the work is in modules of their own.

Those are imported by the commands that need them: other commands start without.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from rpma.cli import interrupts, output
from rpma.cli.common import (
    AsJson,
    Place,
    TokenFile,
    failing,
    flag,
    naming,
    pool_at,
    size_of,
    target_at,
    words_of,
)

if TYPE_CHECKING:
    from rpma.cli.transfer import Put
    from rpma.pool.client.client import Client
    from rpma.pool.protocol.address import TargetAddress

Volatile = Annotated[bool, flag("volatile", "In the target's DRAM: gone when the target ends.")]


def create(
    place: Place,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="64MiB or 4096, say.")],
    volatile: Volatile = False,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Create a pool of zeros."""
    with failing("create"):
        from rpma.cli.pool_facts import facts

        address, name = pool_at(place)
        count = size_of(size, "SIZE")
        with (
            client_of(address, token_file) as client,
            client.create_pool(name, count, volatile=volatile) as pool,
        ):
            info, persistency = pool.info, pool.persistency.value
        if as_json:
            output.print_json({"target": str(address), **facts(info), "persistency": persistency})
        else:
            output.say(f"created {name}: {_shown(info.size)}, {_how(persistency)}")


def list_(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="host:7204, say.")],
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """List the pools of a target."""
    with failing("list"):
        from rpma.cli.pool_facts import facts, listing

        address = target_at(target)
        with client_of(address, token_file) as client:
            pools = client.list_pools()
        if as_json:
            output.print_json({"target": str(address), "pools": [facts(info) for info in pools]})
        elif pools:
            output.show(listing(pools), whole=True)
        else:
            output.note(f"{address} has no pools")


def describe(place: str, token_file: Path | None, as_json: bool) -> None:
    """Print what `rpma info TARGET/POOL` shows."""
    with failing("info"):
        from rpma.cli.pool_facts import description, facts

        address, name = pool_at(place)
        with client_of(address, token_file) as client:
            info = client.describe_pool(name)
        if as_json:
            output.print_json({"target": str(address), **facts(info)})
        else:
            output.show(description(address, info))


def put(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What to put; - is the standard input.")
    ],
    place: Place,
    overwrite: Annotated[
        bool,
        flag(
            "overwrite", "Replace a pool of that name, in one step and when all of FILE is there."
        ),
    ] = False,
    volatile: Volatile = False,
    size: Annotated[
        Optional[str],  # noqa: UP045 -- typer reads it at run time, on Python 3.10 too
        typer.Option(
            metavar="SIZE",
            help="The pool's size, where it is not the file's. A pipe needs it.",
        ),
    ] = None,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Put a file into a new pool, durably.

    Where that fails, the last line says how many bytes are durable. They are the content of a pool
    that is incomplete; with --overwrite there is none, and an old pool is as it was.
    """
    with failing("put"), contextlib.ExitStack() as stack:
        from rpma.cli import transfer

        stack.enter_context(interrupts.undoing())
        address, name = pool_at(place)
        source = stack.enter_context(transfer.source_of(file))
        length = source.size
        if length is None and size is None:
            raise typer.BadParameter(
                "it is not known how much will come: give the pool's size", param_hint="--size"
            )
        room = max(length or 0, 1) if size is None else size_of(size, "--size")
        if room < (length or 0):
            raise typer.BadParameter(
                f"{room} bytes are too few for the {length} of {file}", param_hint="--size"
            )
        state = transfer.Put(length)
        began = time.monotonic()
        with (
            _noting(state) as problems,
            naming(file),
            client_of(address, token_file) as client,
            _bar(name, length) as moved,
        ):
            transfer.put(
                client,
                name,
                source,
                state,
                room=room,
                overwrite=overwrite,
                volatile=volatile,
                moved=moved,
            )
        problem = " ".join(problems)
        seconds = time.monotonic() - began
        if as_json:
            output.print_json(
                {
                    "target": str(address),
                    "name": name,
                    "file": str(file),
                    "size": room,
                    "bytes": state.written,
                    "durable": state.durable,
                    "persistency": state.persistency or None,
                    "seconds": round(seconds, 6),
                    "error": problem or None,
                }
            )
        if problem:
            output.fail("put", problem, interrupts.CODE if state.interrupted else 1)
        if not as_json:
            output.say(
                f"put {file} into {name}: {_shown(state.written)}, {_how(state.persistency)}, "
                f"{_rate(state.written, seconds)}"
            )


def get(
    place: Place,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to; - is the standard output.")
    ],
    partial: Annotated[
        bool, flag("partial", "Get what is there of a pool that is incomplete.")
    ] = False,
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Get the file that was put into a pool, or all that is in it.

    FILE appears, or is replaced, when all of it is there. A pool that is incomplete is refused.
    """
    to_stdout = output.descriptor_of(file, 1) == 1
    if to_stdout and as_json:
        raise typer.BadParameter("the file itself goes to the standard output", param_hint="--json")
    if file.is_dir():
        raise typer.BadParameter(f"{file} is a directory", param_hint="FILE")
    with failing("get"), contextlib.ExitStack() as stack:
        from rpma.cli import transfer

        stack.enter_context(interrupts.undoing())
        address, name = pool_at(place)
        began = time.monotonic()
        with (
            client_of(address, token_file) as client,
            client.open_pool(name, access="read") as pool,
        ):
            info = pool.info
            if not partial:
                transfer.check_whole(info)
            with _bar(name, transfer.content_of(pool)) as moved, transfer.sink_of(file) as sink:
                count = transfer.get(pool, sink, moved)
        seconds = time.monotonic() - began
        if as_json:
            output.print_json(
                {
                    "target": str(address),
                    "name": name,
                    "file": str(file),
                    "size": info.size,
                    "bytes": count,
                    "content_length": info.content_length,
                    "incomplete": info.incomplete,
                    "seconds": round(seconds, 6),
                }
            )
        elif not to_stdout:
            output.say(f"got {file} from {name}: {_shown(count)}, {_rate(count, seconds)}")
        if info.incomplete:
            output.note(f"rpma get: note: the pool is incomplete; {count} bytes are what is there")
        elif count < info.size and count:
            words = f"note: the pool has {info.size} bytes; {count} of them are a file's"
            output.note(f"rpma get: {words}")


def resize(
    place: Place,
    size: Annotated[str, typer.Argument(metavar="SIZE", help="64MiB or 4096, say.")],
    token_file: TokenFile = None,
) -> None:
    """Change the size of a pool that nobody has open. What is added is zeros.

    A pool with a file of more than SIZE is incomplete from then on.
    """
    with failing("resize"):
        address, name = pool_at(place)
        count = size_of(size, "SIZE")
        with client_of(address, token_file) as client:
            client.resize_pool(name, count)


def remove(
    places: Annotated[
        list[str], typer.Argument(metavar="TARGET/POOL...", help="host:7204/journal, say.")
    ],
    token_file: TokenFile = None,
) -> None:
    """Remove pools that nobody has open, and all that is in them."""
    failed = False
    with failing("remove"):
        from rpma import RpmaError

        pools: dict[TargetAddress, list[str]] = {}
        for address, name in map(pool_at, places):
            pools.setdefault(address, []).append(name)
        for address, names in pools.items():
            with client_of(address, token_file) as client:
                for name in names:
                    try:
                        client.remove_pool(name)
                    except RpmaError as error:
                        output.complain("remove", words_of(error))
                        failed = True
    if failed:
        raise typer.Exit(1)


def client_of(address: TargetAddress, token_file: Path | None) -> Client:
    """A client of a target, with the token that is in the file."""
    from rpma.cli.tokens import token_for
    from rpma.pool.client.client import Client

    return Client(address, token=token_for(address, token_file))


COMMANDS: dict[str, Callable[..., None]] = {
    "create": create,
    "list": list_,
    "put": put,
    "get": get,
    "resize": resize,
    "remove": remove,
}


@contextlib.contextmanager
def _noting(state: Put) -> Iterator[list[str]]:
    """What goes wrong in a put, and how far it came, as words for the list that it yields."""
    from rpma import RpmaError
    from rpma.pool.protocol.errors import PoolExistsError

    problems: list[str] = []
    try:
        yield problems
    except PoolExistsError as error:
        problems.append(f"{error}; --overwrite replaces it")
    except (RpmaError, OSError, KeyboardInterrupt) as error:
        state.interrupted = isinstance(error, KeyboardInterrupt)
        words = "interrupted" if state.interrupted else words_of(error)
        problems.append(words + _left_by(state, error))


def _left_by(state: Put, error: BaseException) -> str:
    """What a put that failed has left, as the end of what is said of it."""
    from rpma.pool.protocol.errors import PoolError

    if not state.persistency:
        return ""
    if not state.replaces:
        of_all = f" of {state.size}" if state.size is not None else ""
        return f"; {state.durable}{of_all} bytes are durable"
    if not state.ending:
        return "; nothing was replaced"
    if state.ended or isinstance(error, PoolError):
        return ""  # the target's words say what is so
    return "; whether the pool was replaced is not known: it is the old one or the new one, whole"


@contextlib.contextmanager
def _bar(title: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal; yields what is called with how many bytes are done."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task(output.printable(title), total=total)
        yield lambda done: progress.update(task, completed=done)


def _shown(size: int) -> str:
    """A size, and what it is in bytes where that is not the same."""
    from rpma.pool.protocol.sizes import format_size

    return format_size(size) if size < 1024 else f"{format_size(size)} ({size} bytes)"


def _how(persistency: str) -> str:
    return "in DRAM" if persistency == "none" else f"durable by {persistency}"


def _rate(size: int, seconds: float) -> str:
    from rpma.pool.protocol.sizes import format_size

    return f"{seconds:.2f} s, {format_size(round(size / seconds))}/s"
