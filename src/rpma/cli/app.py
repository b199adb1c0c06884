# SPDX-License-Identifier: BSD-3-Clause
"""The commands and their options; what they do is in modules of their own.

Those are imported by the commands that need them: some work where librpma is missing, and
`import rpma` fails.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from rpma import _fabric
from rpma.cli import bench, interrupts, output, pools, serve
from rpma.cli.common import AsJson, TokenFile, failing
from rpma.cli.machine import Machine
from rpma.cli.trace import trace

WITHOUT_RPMA = ("config", "debug-path", "doctor", "soft-path", "trace")
"""The commands that do without `import rpma`."""


class Command(TyperCommand):
    """A command: its help needs no `import rpma`, what it does may."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options and arguments."""
        return without_bool(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        if isinstance(ctx.obj, ImportError) and self.name not in WITHOUT_RPMA:
            output.fail("", f"{ctx.obj}; 'rpma doctor' looks closer")
        return super().invoke(ctx)


class Group(TyperGroup):
    """All commands."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its options."""
        return without_bool(super().get_params(ctx))


def without_bool(params: list[Any]) -> list[Any]:
    """The same; Typer would say of options without a value that they take a ``<bool>``."""
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def print_version(wanted: bool) -> None:
    """Print which rpma this is, whether it can be imported or not, and end."""
    if wanted:
        # Where the import fails, the package is there in name only.
        found = getattr(sys.modules["rpma"], "__version__", None)
        output.say(f"rpma {found or importlib.metadata.version('rpma')}")
        raise typer.Exit


app = typer.Typer(
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Remote (persistent) memory access over RDMA.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

COLOURS = {"ok": "green", "note": "blue", "warning": "yellow", "problem": "red"}


@app.callback()
def common(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Remote (persistent) memory access over RDMA."""


@app.command(cls=Command)
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
    table.add_row("because", library.reason)
    table.add_row("libibverbs", library.ibverbs_path)
    table.add_row("librdmacm", library.rdmacm_path)
    table.add_row("devices", ", ".join(rpma.devices()) or "none")
    output.show(table)


@app.command(cls=Command)
def info(
    place: Annotated[
        Optional[str],  # noqa: UP045 -- typer reads it at run time, on Python 3.10 too
        typer.Argument(metavar="[TARGET/POOL]", help="A pool to describe instead."),
    ] = None,
    as_json: AsJson = False,
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


@app.command("soft-path", cls=Command)
def soft_path() -> None:
    """Print the soft RNIC's folder: LD_LIBRARY_PATH=$(rpma soft-path) rping -s."""
    if not _fabric.has_soft():
        output.fail(
            "",
            f"this rpma was installed without the soft RNIC: {_fabric.SOFT_FOLDER} lacks "
            f"{' or '.join(_fabric.SOFT_LIBRARIES)}. Install rpma again",
        )
    print(_fabric.SOFT_FOLDER)


@app.command("debug-path", cls=Command)
def debug_path() -> None:
    """Print where librpma's debug build is: LD_LIBRARY_PATH=$(rpma debug-path) my_program.

    Where `import rpma` would take the soft RNIC, as this machine has no RDMA device or RPMA_FABRIC
    is soft, its folder follows: the program runs on it.
    """
    folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "debug")
    if not os.path.exists(os.path.join(folder, "librpma.so.0")):
        output.fail(
            "",
            f"this rpma was installed without the debug build of librpma: {folder} lacks "
            "librpma.so.0. Install rpma again",
        )
    try:
        plan = _fabric.plan(
            _fabric.wanted(os.environ),
            loaded=False,
            found=_fabric.devices(),
            installed=_fabric.has_soft(),
        )
    except ImportError as error:
        output.fail("", str(error))
    print(*[folder, *([_fabric.SOFT_FOLDER] if plan.load_soft else [])], sep=":")


@app.command(cls=Command)
def config(
    cflags: Annotated[bool, typer.Option("--cflags", help="The compiler's options.")] = False,
    libs: Annotated[bool, typer.Option("--libs", help="The linker's options.")] = False,
    library_path: Annotated[
        bool, typer.Option("--library-path", help="The folder, for LD_LIBRARY_PATH.")
    ] = False,
) -> None:
    """Print how to build C with rpma's own librpma: cc program.c $(rpma config --cflags --libs).

    The program runs with whatever librpma the dynamic linker finds: LD_LIBRARY_PATH=$(rpma config
    --library-path) takes rpma's own, $(rpma debug-path) its debug build.
    """
    from rpma.cli import config as own

    lacking = own.missing()
    if lacking is not None:
        output.fail(
            "",
            f"this rpma was installed without a librpma: there is no {lacking}. Install rpma again",
        )
    if library_path == (cflags or libs):
        output.fail("config", "give --cflags, --libs or both, or --library-path alone")
    print(own.LIBRARY if library_path else own.flags(cflags=cflags, libs=libs))


@app.command(cls=Command)
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
    output.show(Text(checks.verdict(patient, findings), style="bold"), whole=True)
    raise typer.Exit(checks.exit_code(findings))


@app.command(cls=Command)
def demo(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, readable=True, help="What to put there."
        ),
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
    with failing("demo"):
        from rpma.cli import demo as demonstration

        output.note(demonstration.fabric_line())
        with interrupts.undoing():
            story = demonstration.run(file, address, port)
    output.show(demonstration.table(story))
    if not story.matches:
        raise typer.Exit(1)


app.command(cls=Command)(trace)
for _name, _command in {**serve.COMMANDS, **pools.COMMANDS, **bench.COMMANDS}.items():
    app.command(_name, cls=Command, rich_help_panel="Pools")(_command)


def this_machine() -> Machine:
    """The machine that this runs on."""
    return Machine(environ=os.environ)


def run(broken: ImportError | None) -> NoReturn:
    """Run the command.

    Args:
        broken: why `import rpma` fails, if it does.
    """
    output.run(lambda: app(obj=broken))
