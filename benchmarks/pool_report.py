# SPDX-License-Identifier: BSD-3-Clause
"""What benchmarks/pool.py shows: the ratios, and whether the aims are met."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

TARGET_AIM_KIB = 100
CLIENT_AIM_KIB = 8 << 10  # what it holds besides: the bounce buffers themselves


@dataclass(frozen=True)
class Contest:
    """The value of one against that of another: the first of the two is divided by the second."""

    title: str
    one: str
    other: str
    unit: str
    aim: float | None = None
    lower_wins: bool = False


CONTESTS = (
    Contest("durable 4 KiB, p50: redis-py", "durable redis-py p50", "durable rpma p50", "µs", 5),
    Contest(
        "durable 4 KiB, p50: redis-benchmark",
        "durable redis-benchmark p50",
        "durable rpma p50",
        "µs",
    ),
    Contest("durable 4 KiB, p50: gRPC", "durable gRPC p50", "durable rpma p50", "µs"),
    Contest("durable 4 KiB, p50: TCP alone", "durable TCP p50", "durable rpma p50", "µs"),
    Contest("durable 4 KiB, p99: redis-py", "durable redis-py p99", "durable rpma p99", "µs"),
    Contest("durable 4 KiB, p99: gRPC", "durable gRPC p99", "durable rpma p99", "µs"),
    Contest("a put, pool open: ib_write_bw, 256 KiB", "put", "ib_write_bw", "GB/s", 0.8),
    Contest("a put, pool open: write_batch, no file", "put", "write_batch, large", "GB/s"),
    Contest("a put, pool open: sendfile to a socket", "put", "sendfile", "GB/s"),
    Contest("a put, new pool: ib_write_bw, 256 KiB", "new put", "ib_write_bw", "GB/s"),
    Contest("a get: ib_write_bw, 256 KiB", "get", "ib_write_bw", "GB/s"),
    Contest("write 64 B, p50", "write 64 B pool p50", "write 64 B binding p50", "µs", 1.2, True),
    Contest("write 4 KiB, p50", "write 4 KiB pool p50", "write 4 KiB binding p50", "µs", 1.2, True),
    Contest("read 4 KiB, p50", "read 4 KiB pool p50", "read 4 KiB binding p50", "µs", 1.2, True),
    Contest("4 KiB, 64 tasks: write_batch of 64", "asyncio writers", "write_batch", "/s", 0.7),
    Contest("4 KiB, 64 tasks: one that blocks", "asyncio writers", "one writer", "/s"),
    Contest("4 KiB, 64 tasks: no writes at all", "asyncio writers", "asyncio alone", "/s"),
    Contest(
        "disk, durable 4 KiB, p50: bare mmap + msync",
        "disk, one rpma p50",
        "disk, one bare p50",
        "µs",
        1.4,
        True,
    ),
    *(
        contest
        for who in ("16 tasks", "64 tasks", "16 clients")
        for contest in (
            Contest(f"disk, {who}: Redis", f"disk, {who} rpma", f"disk, {who} redis", "/s", 2),
            Contest(
                f"disk, {who}: Redis, a pipeline",
                f"disk, {who} rpma",
                f"disk, {who} pipeline",
                "/s",
            ),
            Contest(
                f"disk, {who}: redis-benchmark",
                f"disk, {who} rpma",
                f"disk, {who} redis-benchmark",
                "/s",
            ),
        )
    ),
    Contest(
        "disk, 16 clients: 16 threads in C, msync of a file each",
        "disk, 16 clients rpma",
        "disk, 16 clients files",
        "/s",
    ),
)


def ratios(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each contest's outcome, of those that were measured."""
    found = []
    for contest in CONTESTS:
        one, other = (result["samples"].get(key) for key in (contest.one, contest.other))
        if not one or not other:
            continue
        each = [a / b for a, b in zip(one, other, strict=False)]
        median = statistics.median(each)
        met = contest.aim is None or (
            median <= contest.aim if contest.lower_wins else median >= contest.aim
        )
        found.append(
            {
                "title": contest.title,
                "unit": contest.unit,
                "one": statistics.median(one),
                "other": statistics.median(other),
                "ratio": median,
                "lowest": min(each),
                "highest": max(each),
                "aim": contest.aim,
                "lower_wins": contest.lower_wins,
                "met": met,
            }
        )
    return found


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 140
    machine = result["machine"]
    console.print(
        f"{machine['processors']} x {machine['processor']}, Linux {machine['kernel']}; fabric: "
        f"{result['fabric']}; storage: {result['storage']}; disk: {result['disk']}; durable by "
        f"{result['durability']}; "
        f"load before and after {result['load'][0]:.1f}, {result['load'][1]:.1f}; "
        f"{result['seconds']} s"
    )
    table = Table(
        title=f"pools: medians of {result['rounds']} rounds",
        caption="ratio: median (lowest-highest) of the rounds' ratios",
    )
    for heading in ("what", "one", "other", "one : other", "aim"):
        table.add_column(heading, justify="left" if heading in ("what", "aim") else "right")
    for outcome in result["ratios"]:
        sign = "≤" if outcome["lower_wins"] else "≥"
        aim = "" if outcome["aim"] is None else f"{sign} {outcome['aim']:g} {_word(outcome['met'])}"
        table.add_row(
            outcome["title"],
            _number(outcome["one"], outcome["unit"]),
            _number(outcome["other"], outcome["unit"]),
            f"{outcome['ratio']:.2f} ({outcome['lowest']:.2f}-{outcome['highest']:.2f})",
            aim,
        )
    console.print(table)
    spent = {
        who: statistics.median(result["samples"][f"disk, 16 clients, processor {who}"])
        for who in ("client", "target", "files")
    }
    console.print(
        f"disk, 16 clients: a record takes {spent['client'] + spent['target']:.0f} µs of a "
        f"processor, {spent['client']:.0f} of them the client's; msync alone, by 16 threads in C, "
        f"{spent['files']:.0f}"
    )
    for listing in result.get("listings", ()):
        times = ", ".join(
            f"{words} {listing[key]:.1f} ms ({listing[key] / listing['pools'] * 1e3:.0f} µs a pool)"
            for key, words in (("first", "at first"), ("then", "then"))
        )
        console.print(f"listing {listing['pools']:6,} pools: {times}")
    if "target_kib" not in result:
        return
    target, client = result["target_kib"], result["client_kib"]
    console.print(
        f"memory: the target grows by {target:.0f} KiB for a client (aim: < {TARGET_AIM_KIB} KiB, "
        f"{_word(target < TARGET_AIM_KIB)}); a client that puts {result['mebibytes']} MiB by "
        f"{client:.2f} MiB, bounce buffers included (aim: ≤ 8 MiB and what a put itself needs, "
        f"{_word(client <= CLIENT_AIM_KIB / 1024 + 1)})"
    )


def _number(value: float, unit: str) -> str:
    return f"{value:.2f} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def _word(met: bool) -> str:
    return "met" if met else "[red]missed[/red]"
