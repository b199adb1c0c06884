# SPDX-License-Identifier: BSD-3-Clause
"""What benchmarks/fabric.py shows: the tables, and the picture."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabric_connections import COST_AIM, MEMORY_AIM_KIB

#: The value of a contest in the table.
UNITS = {"p50_us": "µs", "mean_us": "µs", "gbps": "GB/s", "mops": "M/s"}


def show(result: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 140
    machine = result["machine"]
    console.print(
        f"{machine['processors']} x {machine['processor']}, Linux {machine['kernel']}; load before "
        f"and after {result['load'][0]:.1f}, {result['load'][1]:.1f}; {result['seconds']} s"
    )
    console.print(", ".join(f"{name} {version}" for name, version in machine["packages"].items()))
    if result["retries"]:
        console.print(f"perftest had to be started again {result['retries']} times")
    console.print(contests_table(result))
    if "connections" in result:
        console.print(connections_table(result["connections"]))


def contests_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(
        title=f"the soft RNIC against others on TCP: medians of {result['rounds']} rounds",
        caption="ratio: soft RNIC to peer, median (lowest-highest) of the rounds' ratios",
    )
    for heading, justify in (
        ("what", "left"),
        ("size", "right"),
        ("soft RNIC", "right"),
        ("peer", "left"),
        ("its", "right"),
        ("ratio", "right"),
        ("aim", "left"),
    ):
        table.add_column(heading, justify=justify, no_wrap=heading in ("soft RNIC", "its", "ratio"))
    for outcome in result["ratios"]:
        unit = UNITS[outcome["value"]]
        if "ratio" not in outcome:
            ours = theirs = ratio = ""
            aim = "not measured"
        else:
            ours = f"{outcome['our_median']:.2f} {unit}"
            theirs = f"{outcome['their_median']:.2f} {unit}"
            ratio = f"{outcome['ratio']:.2f} ({outcome['lowest']:.2f}-{outcome['highest']:.2f})"
            sign = "≤" if outcome["lower_wins"] else "≥"
            aim = f"{sign} {outcome['aim']:g} {verdict(outcome['met'])}"
        table.add_row(
            outcome["title"],
            size_of(outcome["size"]),
            ours,
            outcome["theirs"],
            theirs,
            ratio,
            aim,
        )
    return table


def connections_table(measured: dict[str, Any]) -> Any:
    from rich.table import Table

    count = measured["count"]
    table = Table(
        title=f"{count} connections into one target, from one client "
        f"(queues of {measured['queue_size']}; {measured['connect_us']:.0f} µs to make one)",
        caption="memory: growth of RssAnon from 1 to all connections, queues and all, each used",
    )
    for heading in ("what", "one", f"{count}", "ratio"):
        table.add_column(heading, justify="left" if heading == "what" else "right", no_wrap=True)
    table.add_column("aim")
    for side, kib in measured["memory_kib"].items():
        table.add_row(
            f"memory per connection, {side}",
            "",
            f"{kib:.1f} KiB",
            "",
            f"≤ {MEMORY_AIM_KIB} KiB {verdict(kib <= MEMORY_AIM_KIB)}",
        )
    for number, (depth, cost) in enumerate(measured["cost"].items()):
        table.add_row(
            f"8 B write, {depth} under way" if depth != "1" else "8 B write, one at a time",
            f"{cost['one_us']:.1f} µs",
            f"{cost['many_us']:.1f} µs",
            f"{cost['ratio']:.2f} ({cost['lowest']:.2f}-{cost['highest']:.2f})",
            f"≤ {COST_AIM} {verdict(cost['ratio'] <= COST_AIM)}" if number == 0 else "",
        )
        for side in ("target", "client"):
            one, many = (
                statistics.median(run[f"{side}_cpu"] for run in measured["runs"][f"{over} {depth}"])
                for over in (1, count)
            )
            table.add_row(
                f"  processor time, {side}", f"{one:.1f} µs", f"{many:.1f} µs", f"{many / one:.2f}"
            )
    cost = measured["socket_cost"]
    table.add_row(
        "the same bytes, by TCP sockets alone",
        f"{cost['one_us']:.1f} µs",
        f"{cost['many_us']:.1f} µs",
        f"{cost['ratio']:.2f} ({cost['lowest']:.2f}-{cost['highest']:.2f})",
    )
    return table


def verdict(met: bool) -> str:
    return "[green]met[/green]" if met else "[red]missed[/red]"


def size_of(size: float) -> str:
    for unit in ("B", "KiB"):
        if size < 1024:
            return f"{size:g} {unit}"
        size /= 1024
    return f"{size:g} MiB"


# ---- the picture --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One half of the picture: the value of each program (a key of PROGRAMS) that it draws."""

    title: str
    what: str
    lines: dict[str, str]  # values of Values; the first line is the soft RNIC's
    sizes: tuple[int, ...]


PANELS = (
    Panel(
        "Latency (lower is better)",
        "half round trip, µs",
        {"soft write latency": "p50_us", "ucx latency": "p50_us", "fi_pingpong": "mean_us"},
        tuple(4**power for power in range(1, 11)),
    ),
    Panel(
        "Bandwidth, one connection (higher is better)",
        "bandwidth, GB/s",
        {"soft write": "gbps", "ucx write": "gbps", "iperf3": "gbps"},
        tuple(4**power for power in range(3, 12)),
    ),
)

#: Colours that colour-blind people tell apart (Okabe and Ito).
STYLES = {
    "soft write latency": ("soft RNIC, ib_write_lat (p50)", "#0072b2", "o", "-"),
    "fi_pingpong": ("libfabric tcp, fi_pingpong (mean)", "#e69f00", "s", "--"),
    "ucx latency": ("UCX tcp, put_lat (p50)", "#009e73", "^", "-."),
    "soft write": ("soft RNIC, ib_write_bw", "#0072b2", "o", "-"),
    "ucx write": ("UCX tcp, put_bw", "#009e73", "^", "-."),
    "iperf3": ("iperf3, one stream", "#d55e00", "D", ":"),
}


def draw(result: dict[str, Any], file: Path) -> None:
    """Two panels: latency and bandwidth over message size."""
    try:
        import matplotlib
    except ImportError:
        print(f"no {file}: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), dpi=130, layout="constrained")
    for panel, axis in zip(PANELS, axes, strict=True):
        for name, value in panel.lines.items():
            xs, ys = series(result["samples"], name, value, panel.sizes)
            if not xs:
                continue
            label, colour, marker, line = STYLES[name]
            axis.plot(xs, ys, line, marker=marker, color=colour, label=label, markersize=5)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_locator(FixedLocator(panel.sizes[::2]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: size_of(size)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_title(panel.title)
        axis.set_xlabel("message size")
        axis.set_ylabel(panel.what)
        axis.grid(visible=True, which="major", alpha=0.35)
        axis.grid(visible=True, which="minor", axis="y", alpha=0.12)
        axis.legend(frameon=False)
    machine = result["machine"]
    figure.suptitle(
        f"The soft RNIC on 127.0.0.1: {machine['processors']} x {machine['processor']}, "
        f"Linux {machine['kernel']}",
        fontsize="medium",
    )
    figure.savefig(file)
    print(f"picture: {file}")


def series(
    samples: dict[str, Any], name: str, value: str, sizes: tuple[int, ...]
) -> tuple[list[int], list[float]]:
    xs = [size for size in sizes if samples.get(f"{name} {size}", {}).get(value)]
    return xs, [statistics.median(samples[f"{name} {size}"][value]) for size in xs]
