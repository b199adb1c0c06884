# SPDX-License-Identifier: BSD-3-Clause
"""The commands and their options; what they do is in modules of their own.

Those are imported by the commands that need them: some work where librpma is missing, and
`import rpma` fails.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer
from rich.table import Table
from rich.text import Text

from rpma import _fabric
from rpma.cli import bench, output, pools, serve
from rpma.cli.common import TokenFile, words_of
from rpma.cli.machine import Machine
from rpma.cli.trace import trace

app = typer.Typer(
    help="Remote (persistent) memory access over RDMA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

WITHOUT_RPMA = ("debug-path", "doctor", "soft-path", "trace")
"""The commands that do without `import rpma`."""

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@app.callback()
def check_import(context: typer.Context) -> None:
    """Remote (persistent) memory access over RDMA."""
    if isinstance(context.obj, ImportError) and context.invoked_subcommand not in WITHOUT_RPMA:
        output.fail("", f"{context.obj}; 'rpma doctor' looks closer")


@app.command()
def version() -> None:
    """Show which rpma and which librpma this is, and the RDMA devices found."""
    import rpma

    library = rpma.library
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    table.add_row("rpma", rpma.__version__)
    table.add_row("librpma", library.path)
    table.add_row("API version", ".".join(map(str, library.api_version)))
    table.add_row("build", "debug" if library.is_debug else "normal")
    table.add_row("libibverbs", library.ibverbs_path)
    table.add_row("librdmacm", library.rdmacm_path)
    table.add_row("devices", ", ".join(rpma.devices()) or "none")
    output.show(table)


@app.command()
def info(
    place: Annotated[
        Optional[str],  # noqa: UP045 -- typer reads it at run time, on Python 3.10 too
        typer.Argument(metavar="[TARGET/POOL]", help="A pool to describe instead."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    token_file: TokenFile = None,
) -> None:
    """Show the devices found, the fabric chosen and why, and the versions; or describe a pool."""
    if place is not None:
        pools.describe(place, token_file, as_json)
        return
    from rpma.cli import info as facts

    found = facts.gather(this_machine())
    if as_json:
        output.print_json(found)
    else:
        output.show(facts.table(found))


@app.command("soft-path")
def soft_path() -> None:
    """Print the soft RNIC's folder: LD_LIBRARY_PATH=$(rpma soft-path) rping -s."""
    if not _fabric.has_soft():
        output.fail(
            "",
            f"this rpma was installed without the soft RNIC: {_fabric.SOFT_FOLDER} lacks "
            f"{' or '.join(_fabric.SOFT_LIBRARIES)}. Install rpma again",
        )
    print(_fabric.SOFT_FOLDER)


@app.command("debug-path")
def debug_path() -> None:
    """Print the folder of librpma's debug build: LD_LIBRARY_PATH=$(rpma debug-path) my_program."""
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "debug")
    if not os.path.exists(os.path.join(folder, "librpma.so.0")):
        output.fail(
            "",
            f"this rpma was installed without the debug build of librpma: {folder} lacks "
            "librpma.so.0. Install rpma again",
        )
    print(folder)


@app.command()
def doctor(context: typer.Context) -> None:
    """Tell what stands in the way of a real RDMA device, and what to do about it.

    Looks only, and needs no rights. The exit code is 1 where something is broken, and 0 where a
    device is usable or the machine has none, so that the soft RNIC serves.
    """
    from rpma.cli import doctor as checks

    if isinstance(context.obj, ImportError):
        patient = checks.Patient(this_machine(), None, str(context.obj))
    else:
        import rpma

        patient = checks.Patient(this_machine(), rpma.fabric)
    findings = checks.examine(patient)
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        line = Text(f"{finding.level.value:8} ", style=COLOURS[finding.level.value])
        line.append(f"{finding.subject:{width}}  {finding.text}", style="default")
        if finding.remedy:
            line.append(f" -> {finding.remedy}", style="bold default")
        output.show(line, whole=True)
    raise typer.Exit(checks.exit_code(findings))


@app.command()
def demo(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, readable=True, help="What to put there.")
    ],
    address: Annotated[
        Optional[str],  # noqa: UP045 -- typer reads it at run time, on Python 3.10 too
        typer.Option(help="An address of an RDMA device of this machine. [default: the first]"),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="The port that the target listens on; 0: one that is free."
        ),
    ] = 0,
) -> None:
    """Put FILE into a pool, kill its target, get FILE back from a new one and compare."""
    import rpma
    from rpma.cli import demo as demonstration

    output.note(demonstration.fabric_line())
    try:
        story = demonstration.run(file, address, port)
    except (rpma.RpmaError, OSError) as error:
        output.fail("demo", words_of(error))
    output.show(demonstration.table(story))
    if not story.matches:
        raise typer.Exit(1)


app.command()(trace)
for _name, _command in {**serve.COMMANDS, **pools.COMMANDS, **bench.COMMANDS}.items():
    app.command(_name, rich_help_panel="Pools")(_command)


def this_machine() -> Machine:
    """The machine that this runs on."""
    return Machine(environ=os.environ)


def run(broken: ImportError | None) -> NoReturn:
    """Run the command.

    Args:
        broken: why `import rpma` fails, if it does.
    """
    output.run(lambda: app(obj=broken))
