# SPDX-License-Identifier: BSD-3-Clause
"""How fast the soft RNIC is, against programs that move data over the same machine's TCP.

The programs take turns, run by run, for several rounds, as the machine may be busy with other
things. A ratio is taken within one round; the table gives the median of the rounds, and whether the
aim is met. perftest's programs run unmodified on the soft RNIC; libfabric's and UCX's use TCP as
the soft RNIC does, and sockperf and iperf3 say what the machine's TCP gives at all.

On the soft RNIC's speed from Python there is benchmarks/binding.py, with RPMA_FABRIC=soft.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fabric_connections
import fabric_report
from fabric_programs import PROGRAMS, FailedError, Soft, soft_folder

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True)
class Contest:
    """One value of the soft RNIC against the same value of somebody else, at one size."""

    title: str
    ours: str  # a key of PROGRAMS
    theirs: str
    size: int
    value: str  # a key of Values
    aim: float | None
    lower_wins: bool = False


CONTESTS = (
    Contest("write latency, p50", "soft write latency", "ucx latency", 64, "p50_us", 1, True),
    Contest("write latency, mean", "soft write latency", "fi_pingpong", 64, "mean_us", 1, True),
    Contest(
        "send latency, sleeping, p50", "soft send latency", "sockperf", 64, "p50_us", 1.2, True
    ),
    Contest("write bandwidth", "soft write", "iperf3", 64 * KIB, "gbps", 0.9),
    Contest("write bandwidth", "soft write", "ucx write", 64 * KIB, "gbps", 2),
    Contest("write bandwidth", "soft write", "iperf3", MIB, "gbps", 0.9),
    Contest("write bandwidth", "soft write", "ucx write", MIB, "gbps", 2),
    Contest("message rate, 128 under way", "soft write", "ucx write", 64, "mops", 1),
)

#: Seconds of a run. iperf3 and sockperf know whole seconds only.
LATENCY_SECONDS = 0.25
BANDWIDTH_SECONDS = 0.5


@dataclass(frozen=True)
class Point:
    """What takes turns in a round: programs that do the same at one size."""

    programs: tuple[str, ...]
    size: int
    seconds: float
    rounds: int

    def key(self, program: str) -> str:
        return f"{program} {self.size}"


def points(options: argparse.Namespace) -> list[Point]:
    """Many rounds at the sizes that have an aim, fewer at those that are only drawn."""
    found: dict[tuple[str, int], set[str]] = {}
    for contest in CONTESTS:
        found.setdefault((contest.ours, contest.size), {contest.ours}).add(contest.theirs)
    drawn: dict[tuple[str, int], set[str]] = {}
    if not options.no_plot:
        for panel in fabric_report.PANELS:
            for size in panel.sizes:
                drawn[next(iter(panel.lines)), size] = set(panel.lines)
    result = []
    for key in [*found, *(key for key in drawn if key not in found)]:
        programs = found.get(key, set()) | drawn.get(key, set())
        there = tuple(name for name in PROGRAMS if name in programs and installed(name))
        is_latency = "latency" in key[0]
        result.append(
            Point(
                there,
                key[1],
                LATENCY_SECONDS if is_latency else BANDWIDTH_SECONDS,
                options.rounds if key in found else options.drawn_rounds,
            )
        )
    return result


def installed(name: str) -> bool:
    return PROGRAMS[name].is_installed


def measure(options: argparse.Namespace, say: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """All rounds; the values of each program at each size, by round."""
    plan = points(options)
    samples: dict[str, dict[str, list[float]]] = {}
    for number in range(options.rounds):
        for point in plan:
            if number >= point.rounds:
                continue
            # Who comes first alternates.
            for name in point.programs if number % 2 == 0 else reversed(point.programs):
                program = PROGRAMS[name]
                say(f"round {number + 1} of {options.rounds}: {program.title}, {point.size} B")
                for value, measured in program.run(point.size, point.seconds).items():
                    samples.setdefault(point.key(name), {}).setdefault(value, []).append(measured)
    return samples


def ratios(samples: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each contest's outcome."""
    outcomes = []
    for contest in CONTESTS:
        ours = samples.get(f"{contest.ours} {contest.size}", {}).get(contest.value)
        theirs = samples.get(f"{contest.theirs} {contest.size}", {}).get(contest.value)
        outcome: dict[str, Any] = {
            "title": contest.title,
            "size": contest.size,
            "ours": PROGRAMS[contest.ours].title,
            "theirs": PROGRAMS[contest.theirs].title,
            "value": contest.value,
            "aim": contest.aim,
            "lower_wins": contest.lower_wins,
        }
        if ours and theirs:
            each = [a / b for a, b in zip(ours, theirs, strict=True)]
            median = statistics.median(each)
            outcome |= {
                "our_median": statistics.median(ours),
                "their_median": statistics.median(theirs),
                "ratio": median,
                "lowest": min(each),
                "highest": max(each),
                "met": contest.aim is None
                or (median <= contest.aim if contest.lower_wins else median >= contest.aim),
            }
        outcomes.append(outcome)
    return outcomes


# ---- the machine --------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    return {
        "kernel": platform.release(),
        "processor": processor(),
        "processors": os.cpu_count(),
        "soft": Soft.folder,
        "packages": versions(),
    }


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()


def versions() -> dict[str, str]:
    """The packages that the programs are from, as far as this system has dpkg."""
    names = sorted({program.package for program in PROGRAMS.values()})
    try:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f=${Package} ${Version}\n", *names],
            capture_output=True,
            text=True,
        )
    except OSError:
        return {}
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def check_programs() -> None:
    """End if a program is missing of those that run on the soft RNIC; tell of the others."""
    missing = [name for name in PROGRAMS if not installed(name)]
    if not missing:
        return
    packages = " ".join(sorted({PROGRAMS[name].package for name in missing}))
    text = (
        f"fabric: not installed: {', '.join(PROGRAMS[name].title.split()[0] for name in missing)}"
    )
    text += f" (Debian: apt-get install {packages})"
    if any(name.startswith("soft") for name in missing):
        sys.exit(text)
    print(f"{text}; measuring without", file=sys.stderr)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="3 rounds, and no picture")
    parser.add_argument("--rounds", type=int, default=None, help="default: 9")
    parser.add_argument("--drawn-rounds", type=int, default=3, help="of sizes without an aim")
    parser.add_argument("--no-plot", action="store_true", help="only the sizes that have an aim")
    parser.add_argument("--no-connections", action="store_true")
    parser.add_argument("--connections", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--soft", type=Path, metavar="FOLDER", help="the soft RNIC's libraries")
    parser.add_argument("--png", type=Path, default=Path("fabric.png"), help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    options = parser.parse_args()
    options.no_plot = options.no_plot or options.quick
    if options.rounds is None:
        options.rounds = 3 if options.quick else 9
    return options


def main() -> None:
    options = parsed()
    folder = options.soft or soft_folder()
    if folder is None:
        sys.exit("fabric: no soft RNIC: pip install . (in the venv that runs this), or --soft")
    Soft.folder = str(folder)
    check_programs()
    show = sys.stderr.isatty()

    def say(text: str) -> None:
        if show:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    began = time.monotonic()
    result: dict[str, Any] = {"machine": machine(), "rounds": options.rounds}
    load_before = os.getloadavg()[0]
    try:
        result["samples"] = measure(options, say)
        if not options.no_connections:
            with tempfile.TemporaryDirectory(prefix="fabric-") as work:
                result["connections"] = fabric_connections.measure(
                    Path(work), options.connections, options.rounds, say
                )
    except FailedError as error:
        say("")
        sys.exit(f"fabric: {error}")
    say("")
    result["ratios"] = ratios(result["samples"])
    result["load"] = [load_before, os.getloadavg()[0]]
    result["retries"] = Soft.retries
    result["seconds"] = round(time.monotonic() - began)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    fabric_report.show(result)
    if not options.no_plot:
        fabric_report.draw(result, options.png)


if __name__ == "__main__":
    main()
