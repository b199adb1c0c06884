# SPDX-License-Identifier: BSD-3-Clause
"""What `rpma trace` says of a log: tables for people, and JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rpma.cli import trace_log as log
from rpma.cli.output import printable
from rpma.cli.trace_summary import Function, Life, Problem, Summary

SHOWN = 20
"""How many processes, connections and so on are printed; JSON has all that are kept."""

COUNTS = ("lines", "records", "foreign", "damaged")

COLOURS = {"assertion": "red", "warning": "yellow", "leak": "yellow"}
"""The kinds of findings, from the worst on."""

Readers = list[tuple[str, log.Reader]]
"""The names of the logs, and how much was in them."""


def facts(summary: Summary, files: Readers) -> dict[str, Any]:
    """What `rpma trace --json` prints.

    All durations are in nanoseconds, and so is a "time": how long it was after "first".
    """
    first = summary.first
    return {
        "files": [
            {"name": name, **{key: getattr(reader, key) for key in COUNTS}}
            for name, reader in files
        ],
        "first": _utc(first),
        "span": summary.last - first,
        "records": summary.records,
        "level": summary.level,
        "left_out": summary.left_out,
        "processes": [
            {
                "pid": process.pid,
                "command": process.command,
                "librpma": process.librpma,
                "time": process.first - first,
                "span": process.last - process.first,
                "calls": process.calls,
                "has_ended": process.has_ended,
            }
            for process in summary.processes
        ],
        "functions": [
            {
                "function": name,
                "calls": function.calls,
                "errors": function.errors,
                "empty": function.empty,
                "total": function.total,
                "min": function.least,
                "mean": round(function.total / function.calls),
                "p50": function.percentile(0.5),
                "p99": function.percentile(0.99),
                "max": function.greatest,
            }
            for name, function in _by_total(summary)
        ],
        "errors": [asdict(error) | {"time": error.time - first} for error in _by_count(summary)],
        "findings": [asdict(found) | {"time": found.time - first} for found in _by_kind(summary)],
        "unfinished": [
            asdict(enter) | {"time": enter.time - first, "waited": process.last - enter.time}
            for process, enter in summary.unfinished
        ],
        "messages": summary.messages,
        "connections": [
            asdict(life)
            | {
                "events": [{"time": time - first, "event": what} for time, what in life.events],
                "requests": {
                    kind: {"count": count, "bytes": size}
                    for kind, (count, size) in life.requests.items()
                },
                "queues": {
                    name: {"greatest": used, "size": size}
                    for name, (used, size) in life.queues.items()
                },
            }
            for life in summary.lives
        ],
        "connections_seen": summary.connections,
    }


def _utc(time: int) -> str:
    seconds, fraction = divmod(time, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)
    return f"{moment.isoformat()}.{fraction:09}Z"


def _by_total(summary: Summary) -> list[tuple[str, Function]]:
    return sorted(summary.functions.items(), key=lambda item: -item[1].total)


def _by_count(summary: Summary) -> list[Problem]:
    return sorted(summary.errors.values(), key=lambda error: -error.count)


def _by_kind(summary: Summary) -> list[Problem]:
    kinds = tuple(COLOURS)
    return sorted(summary.findings.values(), key=lambda it: (kinds.index(it.kind), it.time))


# ---- tables --------------------------------------------------------------------------------------


def report(summary: Summary, files: Readers) -> Iterator[RenderableType]:
    """The summary as tables, in the order in which one wants to know."""
    yield _header(summary, files)
    parts: tuple[tuple[Callable[[Summary], RenderableType], object], ...] = (
        (_processes, summary.processes),
        (_functions, summary.functions),
        (_errors, summary.errors),
        (_findings, summary.findings),
        (_unfinished, summary.unfinished),
        (_connections, summary.lives),
    )
    for part, content in parts:
        if content:
            yield ""
            yield part(summary)


def _text(text: str, style: str = "") -> Text:
    """The same, not to be read as markup either."""
    return Text(printable(text), style=style)


def _header(summary: Summary, files: Readers) -> Table:
    shown = Table(show_header=False, box=None, pad_edge=False)
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    shown.add_row("log", _text(", ".join(name for name, _ in files)))
    shown.add_row("records", f"{summary.records}, up to level {summary.level}")
    for key, what in (("foreign", "not the log's"), ("damaged", "damaged or cut off")):
        if count := sum(getattr(reader, key) for _, reader in files):
            lines = "1 line is" if count == 1 else f"{count} lines are"
            shown.add_row("", Text(f"{lines} {what}", style="yellow"))
    if summary.left_out:
        shown.add_row(
            "", Text(f"{summary.left_out} times there was too much to keep it", style="yellow")
        )
    first, last = (_utc(time)[:23].replace("T", " ") for time in (summary.first, summary.last))
    last = last.removeprefix(first[:11])
    shown.add_row("time", f"{first} to {last} UTC: {brief(summary.last - summary.first)}")
    for librpma in list(dict.fromkeys(process.librpma for process in summary.processes))[:SHOWN]:
        if librpma:
            shown.add_row("librpma", _text(librpma))
    if summary.messages:
        counts = (f"{count} {severity}" for severity, count in summary.messages.items())
        shown.add_row("its messages", ", ".join(counts))
    return shown


def _table(title: str, *columns: str) -> Table:
    """An empty table; columns that begin with ">" are of numbers."""
    shown = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=0 if len(columns) > 6 else (0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        if column.startswith(">"):
            shown.add_column(column[1:], justify="right", no_wrap=True)
        else:
            shown.add_column(column, overflow="fold")
    return shown


def _more(shown: Table, entries: int) -> Table:
    if entries > SHOWN:
        shown.caption = f"and {entries - SHOWN} more, with --json"
        shown.caption_justify = "left"
    return shown


def _processes(summary: Summary) -> Table:
    shown = _table("Processes", ">PID", "Command", ">From", ">For", ">Calls", "End")
    for process in summary.processes[:SHOWN]:
        shown.add_row(
            str(process.pid),
            _text(process.command or "(its start is not in the log)"),
            _at(summary, process.first),
            brief(process.last - process.first),
            str(process.calls),
            Text("exited") if process.has_ended else Text("not logged", style="yellow"),
        )
    return _more(shown, len(summary.processes))


def _functions(summary: Summary) -> Table:
    columns = (">Calls", ">Empty", ">Errors", ">Total", ">Mean", ">p50", ">p99", ">Max")
    shown = _table("Calls", "Function", *columns)
    for name, function in _by_total(summary):
        durations = (
            function.total,
            round(function.total / function.calls),
            function.percentile(0.5),
            function.percentile(0.99),
            function.greatest,
        )
        shown.add_row(
            name,
            str(function.calls),
            str(function.empty or ""),
            Text(str(function.errors or ""), style="red"),
            *(brief(duration).replace(" ", "") for duration in durations),
        )
    return shown


def _errors(summary: Summary) -> Table:
    shown = _table("Errors", "Function", "Code", ">Count", "Last message")
    errors = _by_count(summary)
    for error in errors[:SHOWN]:
        message = _text(error.message)
        for line in error.where:
            message.append(f"\n{printable(line)}", style="dim")
        shown.add_row(_text(error.about), error.code, str(error.count), message)
    return _more(shown, len(errors))


def _findings(summary: Summary) -> Table:
    """Not a row each: the frames of a backtrace are long, and want the whole width."""
    shown = _table("Findings", "")
    shown.show_header = False
    findings = _by_kind(summary)
    for found in findings[:SHOWN]:
        text = Text(f"{found.kind} ", style=COLOURS[found.kind])
        about = f"{found.about}: " if found.about else ""
        text.append(f"{printable(about + found.message)}", style="bold default")
        times = f"{found.count} times, last " if found.count > 1 else ""
        place = f"thread {found.tid} of process {found.pid}"
        text.append(f"\n  {times}at {_at(summary, found.time)}, {place}", style="default")
        for line in found.where:
            text.append(f"\n    {printable(line)}", style="dim default")
        shown.add_row(text)
    return _more(shown, len(findings))


def _unfinished(summary: Summary) -> Table:
    columns = (">Process", ">Thread", ">Since", ">For", "Call")
    shown = _table("Calls that have not ended", *columns)
    for process, enter in summary.unfinished[:SHOWN]:
        shown.add_row(
            str(enter.pid),
            str(enter.tid),
            _at(summary, enter.time),
            brief(process.last - enter.time),
            _text(f"{enter.function}({enter.arguments})"),
        )
    return _more(shown, len(summary.unfinished))


def _connections(summary: Summary) -> Group:
    parts: list[RenderableType] = [Text("Connections", style="bold italic")]
    for life in summary.lives[:SHOWN]:
        name = _text(life.name, "bold")
        name.append(f" of process {life.pid} {printable(life.about)}", style="not bold")
        lines = Table.grid(padding=(0, 2, 0, 0))
        lines.add_column(justify="right", min_width=11)
        lines.add_column(overflow="fold")
        for time, what in life.events:
            is_bad = what.startswith(BAD_EVENTS) or "RPMA_E_" in what
            lines.add_row(_at(summary, time), _text(what, "red" if is_bad else ""))
        for title, text in _traffic(life):
            lines.add_row(Text(title, style="dim"), _text(text))
        parts += [name, lines]
    if summary.connections > SHOWN:
        more = f"and {summary.connections - SHOWN} more, with --json"
        parts.append(Text(more, style="dim italic"))
    return Group(*parts)


BAD_EVENTS = ("lost", "rejected", "unreachable", "undefined")


def _traffic(life: Life) -> Iterator[tuple[str, str]]:
    """What went over a connection: a title and a text for each kind of fact."""
    if life.requests:
        posted = (f"{count} {kind} ({_size(n)})" for kind, (count, n) in life.requests.items())
        yield "requests", ", ".join(posted)
    if life.completions:
        counts = (f"{count} {status}" for status, count in life.completions.items())
        yield "completions", ", ".join(counts)
    elif life.polled:
        yield "completions", f"{life.polled}, whose status level 4 logs"
    if life.queues:
        most = (
            f"{name} {used} of {'?' if size is None else size}"
            for name, (used, size) in life.queues.items()
        )
        yield "queues", f"{', '.join(most)} at most"


def _at(summary: Summary, time: int) -> str:
    """How long after the first record, so that it can be compared."""
    return f"{(time - summary.first) / 1e9:.6f} s"


def brief(duration: int) -> str:
    """A duration, of nanoseconds, in three digits."""
    for unit, scale in (("ns", 1), ("us", 1_000), ("ms", 1_000_000)):
        if duration < 999.5 * scale:
            return f"{duration / scale:.3g} {unit}"
    seconds = duration / 1e9
    return f"{seconds:.3g} s" if seconds < 999.5 else f"{seconds:.0f} s"


def _size(count: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count} bytes"
