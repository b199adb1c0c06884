# SPDX-License-Identifier: BSD-3-Clause
"""The commands and their options; what they do is in modules of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

import rpma
from rpma.cli import demo as demonstration

app = typer.Typer(
    help="Remote (persistent) memory access over RDMA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
console = Console()


@app.command()
def version() -> None:
    """Show which rpma and which librpma this is, and the RDMA devices found."""
    library = rpma.library
    table = Table(show_header=False)
    table.add_row("rpma", rpma.__version__)
    table.add_row("librpma", library.path)
    table.add_row("API version", ".".join(map(str, library.api_version)))
    table.add_row("build", "debug" if library.is_debug else "normal")
    table.add_row("libibverbs", library.ibverbs_path)
    table.add_row("librdmacm", library.rdmacm_path)
    table.add_row("devices", ", ".join(rpma.devices()) or "none")
    console.print(table)


@app.command()
def demo(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="What to put there.")
    ],
    address: Annotated[
        Optional[str],  # noqa: UP045 -- typer reads it at run time, on Python 3.10 too
        typer.Option(help="An address of an RDMA device of this machine. [default: the first]"),
    ] = None,
    port: Annotated[int, typer.Option(help="The port that the target listens on.")] = 7204,
) -> None:
    """Put FILE into the memory of another process, flush it, read it back and compare."""
    try:
        story = demonstration.run(file, address, port)
    except (rpma.RpmaError, OSError) as error:
        console.print(f"[red]rpma demo:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    console.print(demonstration.table(story))
    if not story.matches:
        raise typer.Exit(1)
