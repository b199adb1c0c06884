# SPDX-License-Identifier: BSD-3-Clause
"""What `rpma bench` shows: a table, and a picture."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from rpma.cli.output import printable
from rpma.pool.protocol.sizes import format_size

Result = dict[str, Any]

TITLES = {"write": "write", "write_persist": "write + persist", "read": "read"}
BARS = "▁▂▃▄▅▆▇█"
HISTOGRAM_WIDTH = 16
"""How many bars a histogram in the table has."""

DRAWN_SIZE = 64
"""Of which size the distribution is drawn, if it was measured; else the smallest, in bytes."""

LABELS = {"p50_us": "p50", "p99_us": "p99", "p999_us": "p99.9"}

# Colours that everybody can tell apart, and that differ in print.
STYLES = {
    "write": ("#0072b2", "o", "-"),
    "write_persist": ("#d55e00", "s", "--"),
    "read": ("#009e73", "^", "-."),
}


def report(result: Result) -> Iterator[Any]:
    """The parts of what is printed."""
    yield Text(
        printable(
            f"{result['target']}: {result['device']} ({result['fabric']}), a pool of "
            f"{format_size(result['pool_size'])} {_durable(result)}, Linux {result['kernel']}, "
            f"Python {result['python']}"
        )
    )
    yield table(result)
    if result["persistency"] == "none":
        yield Text("write + persist: skipped, nothing makes memory in DRAM durable", style="yellow")


def table(result: Result) -> Table:
    """The figures."""
    shown = Table(caption="one call at a time; p99.9 of fewer than 1000 calls is the longest")
    shown.add_column("call")
    for heading in ("size", "calls", "p50 µs", "p99 µs", "p99.9 µs", "per second"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("µs, log scale", no_wrap=True)
    last = ""
    for line in result["results"]:
        operation = line["operation"]
        if last and operation != last:
            shown.add_section()
        shown.add_row(
            TITLES[operation] if operation != last else "",
            format_size(line["size"]),
            str(line["count"]),
            *(_us(line[key]) for key in ("p50_us", "p99_us", "p999_us")),
            format_size(line["bytes_per_second"]),
            _bars(line),
        )
        last = operation
    return shown


def _durable(result: Result) -> str:
    how = result["persistency"]
    return "in DRAM" if how == "none" else f"durable by {how}"


def _us(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _bars(line: Result) -> Text:
    """The histogram up to p99.9, with the times at which it begins and ends."""
    edges, counts = line["histogram"]["edges_us"], line["histogram"]["counts"]
    inside = [n for n, edge in enumerate(edges[:-1]) if edge <= line["p999_us"]]
    counts = counts[: len(inside)]
    width = min(HISTOGRAM_WIDTH, len(counts))
    sums = [0] * width
    for number, count in enumerate(counts):
        sums[number * width // len(counts)] += count
    most = max(sums)
    drawn = "".join(
        BARS[max(round(count / most * (len(BARS) - 1)), 0)] if count else " " for count in sums
    )
    text = Text(f"{_us(edges[0])} ".rjust(7), style="dim")
    text.append(drawn, style="cyan")
    return text.append(f" {_us(edges[len(inside)])}", style="dim")


# ---- the picture ----


def check_matplotlib() -> Any:
    """matplotlib.

    Raises:
        ImportError: it is not installed.
    """
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError as error:
        raise ImportError(
            "--png needs matplotlib, which is not installed: pip install 'rpma[benchmark]'",
            name="matplotlib",
        ) from error
    matplotlib.use("Agg")
    return matplotlib


def draw(result: Result, file: Path) -> None:
    """Draw latency and bandwidth over the size, and how the latencies are distributed."""
    check_matplotlib()
    plt = importlib.import_module("matplotlib.pyplot")
    lines = {
        name: measured
        for name in TITLES
        if (measured := [line for line in result["results"] if line["operation"] == name])
    }
    figure, axes = plt.subplot_mosaic(
        [["latency", name, "bandwidth"] for name in lines], figsize=(17, 5.6), layout="constrained"
    )
    _draw_latency(axes["latency"], lines)
    _draw_distributions({name: axes[name] for name in lines}, lines)
    _draw_bandwidth(axes["bandwidth"], lines)
    figure.suptitle(
        f"{printable(result['target'])}: {result['device']} ({result['fabric']}), pool "
        f"{_durable(result)}; Linux {result['kernel']}, Python {result['python']}; one call at a "
        "time",
        fontsize=11,
    )
    figure.savefig(file, dpi=110, format="png")
    plt.close(figure)


def _draw_latency(axes: Any, lines: dict[str, list[Result]]) -> None:
    for name, measured in lines.items():
        colour, marker, _ = STYLES[name]
        for key, dashes, width, filled in (
            ("p50_us", "-", 2, colour),
            ("p99_us", ":", 1.3, "white"),
        ):
            axes.plot(
                [line["size"] for line in measured],
                [line[key] for line in measured],
                color=colour,
                marker=marker,
                markerfacecolor=filled,
                linestyle=dashes,
                linewidth=width,
                label=f"{TITLES[name]}, {key.removesuffix('_us')}",
            )
    axes.set_title("Latency (lower is better)")
    axes.set_ylabel("time of a call, µs")
    axes.set_yscale("log")
    lowest, highest = axes.get_ylim()
    axes.set_ylim(lowest, highest * (highest / lowest) ** 0.3)  # room for the legend
    _over_sizes(axes, lines)
    axes.legend(fontsize=9, frameon=False, ncols=len(lines), loc="upper left")


def _draw_distributions(axes: dict[str, Any], lines: dict[str, list[Result]]) -> None:
    """A histogram for each call, of one size, one above the other with the same times."""
    sizes = [line["size"] for line in next(iter(lines.values()))]
    at = sizes.index(DRAWN_SIZE) if DRAWN_SIZE in sizes else 0
    chosen = {name: measured[at] for name, measured in lines.items()}
    begin = min(line["min_us"] for line in chosen.values()) / 1.3
    end = max(line["p999_us"] for line in chosen.values()) * 2
    for number, (name, line) in enumerate(chosen.items()):
        each, colour = axes[name], STYLES[name][0]
        share = [count / line["count"] * 100 for count in line["histogram"]["counts"]]
        edges = line["histogram"]["edges_us"]
        each.stairs(share, edges, color=colour, alpha=0.35, fill=True)
        each.stairs(share, edges, color=colour, linewidth=1.5)
        each.set_ylim(0, max(share) * 1.35)
        for key in LABELS:
            each.axvline(line[key], color="#444444", linestyle=":", linewidth=1.2)
        each.text(
            0.985,
            0.94,
            "dotted: " + ", ".join(f"{LABELS[key]} {_us(line[key])} µs" for key in LABELS),
            transform=each.transAxes,
            fontsize=9,
            horizontalalignment="right",
            verticalalignment="top",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
        )
        each.set_xscale("log")
        each.set_xlim(begin, end)
        each.set_ylabel(f"{TITLES[name]}, %")
        each.grid(alpha=0.3)
        each.xaxis.set_major_formatter(_plain_numbers())
        if number == 0:
            each.set_title(f"Distribution of calls, {format_size(line['size'])} at a time")
        if number < len(chosen) - 1:
            each.tick_params(axis="x", which="both", labelbottom=False)
        else:
            each.set_xlabel("time of a call, µs")


def _draw_bandwidth(axes: Any, lines: dict[str, list[Result]]) -> None:
    for name, measured in lines.items():
        colour, marker, dashes = STYLES[name]
        axes.plot(
            [line["size"] for line in measured],
            [line["bytes_per_second"] / 1e6 for line in measured],
            color=colour,
            marker=marker,
            linestyle=dashes,
            linewidth=2,
            label=TITLES[name],
        )
    axes.set_title("Bandwidth (higher is better)")
    axes.set_ylabel("MB/s")
    axes.set_yscale("log")
    _over_sizes(axes, lines)
    axes.legend(fontsize=9, frameon=False)


def _over_sizes(axes: Any, lines: dict[str, list[Result]]) -> None:
    sizes = [line["size"] for line in next(iter(lines.values()))]
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [format_size(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("size of a call")
    axes.yaxis.set_major_formatter(_plain_numbers())
    axes.grid(alpha=0.3)


def _plain_numbers() -> Any:
    return importlib.import_module("matplotlib.ticker").FuncFormatter(lambda value, _: f"{value:g}")
