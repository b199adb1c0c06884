# SPDX-License-Identifier: BSD-3-Clause
"""What benchmarks/binding.py shows: the ratios to C, and the tables."""

from __future__ import annotations

import statistics
from typing import Any

from binding_measure import QUEUE_SIZE, WORKLOADS, Workload

IMPORT_AIM_MS = 100
IMPORT_RUNS = 15
IMPORT_WITHOUT = ("numpy", "rich", "typer")


def evaluate(result: dict[str, Any]) -> dict[str, Any]:
    """Ratios to C, by round, of each of Python's ways."""
    ways = result["ways"]
    ratios = {}
    for load in measured(result):
        fastest = max(
            (way for way in load.ways if way.side == "C"),
            key=lambda way: statistics.median(ways[way.key]["ops"]),
        )
        aim = load.aim
        for way in load.ways:
            if way.side == "C":
                continue
            each = [
                python / c
                for python, c in zip(ways[way.key]["ops"], ways[fastest.key]["ops"], strict=True)
            ]
            ratios[way.key] = {
                "to": fastest.key,
                "median": round(statistics.median(each), 3),
                "lowest": round(min(each), 3),
                "highest": round(max(each), 3),
                "aim": aim,
            }
            aim = None
    return ratios


def measured(result: dict[str, Any]) -> list[Workload]:
    keys = result.get("ways") or result["syscalls"]
    return [load for load in WORKLOADS if load.ways[0].key in keys]


def report(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 140
    console.print(
        f"{result['device']}, Linux {result['kernel']}, Python {result['python']}, "
        f"rpma {result['rpma']}, {result['librpma']}"
    )
    if result["emulated"]:
        console.print(
            "[bold]The processor is emulated (Soft-RoCE guest): the times and rates are no "
            "device's; only the ratios mean something.[/bold] "
            + ("2 ns per instruction, one processor." if result["clock"] != "wall" else "")
        )
    console.print(
        f"load of the machine before and after: {result['load'][0]:.1f}, {result['load'][1]:.1f}"
    )
    if "ways" in result:
        console.print(rates_table(result))
    if "syscalls" in result:
        table = Table(title="system calls per operation")
        for heading in ("operation", "way", "process"):
            table.add_column(heading)
        table.add_column("calls", justify="right")
        table.add_column("which")
        for load in measured(result):
            for number, way in enumerate(load.ways):
                for process, calls in result["syscalls"][way.key].items():
                    first = process == "client"
                    table.add_row(
                        load.title if number == 0 and first else "",
                        f"{way.side}: {way.title}" if first else "",
                        process,
                        f"{sum(calls.values()):.2f}",
                        ", ".join(f"{name} {hits:.2f}" for name, hits in calls.items()),
                    )
            table.add_section()
        console.print(table)
    times = result["import"]
    verdict = "reached" if times["median_ms"] < IMPORT_AIM_MS else "missed"
    console.print(
        f"import rpma: {times['median_ms']} ms (median of {IMPORT_RUNS} new interpreters, worst "
        f"{times['worst_ms']} ms; aim: under {IMPORT_AIM_MS} ms, {verdict}); "
        + (f"it imports {', '.join(times['unwanted'])}" if times["unwanted"] else "without ")
        + ("" if times["unwanted"] else ", ".join(IMPORT_WITHOUT))
    )


def rates_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(
        title=f"medians of {result['rounds']} rounds; queues of {QUEUE_SIZE}",
        caption="of C: Python's ops/s to those of the fastest C, median (lowest-highest round)",
    )
    for heading in ("operation", "way"):
        table.add_column(heading)
    for heading in ("ops/s", "µs p50", "µs p99", "of C"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("aim")
    for load in measured(result):
        for number, way in enumerate(load.ways):
            data = result["ways"][way.key]
            ratio = result["ratios"].get(way.key)
            of_c = aim = ""
            if ratio:
                of_c = f"{ratio['median']:.2f} ({ratio['lowest']:.2f}-{ratio['highest']:.2f})"
            if ratio and ratio["aim"] and result["clock"] == "wall":
                reached = ratio["median"] >= ratio["aim"]
                aim = f"{ratio['aim']} {'reached' if reached else '[red]missed[/red]'}"
            table.add_row(
                load.title if number == 0 else "",
                f"{way.side}: {way.title}",
                f"{statistics.median(data['ops']):.0f}",
                f"{data['p50_us']:.0f}" if data["p50_us"] >= 100 else f"{data['p50_us']:.1f}",
                f"{data['p99_us']:.0f}" if data["p99_us"] >= 100 else f"{data['p99_us']:.1f}",
                of_c,
                aim,
            )
        table.add_section()
    return table
