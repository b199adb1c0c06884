"""`python tests/powerfail N`: lose power N times, and say what became of the pools.

The exit code is 1 where anything that was acknowledged is not there, a pool does not open, or the
control pools, in which nothing is made durable, were not found to have lost anything.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "powerfail"

# Before rpma is imported. What runs in the guest chooses for itself.
os.environ["RPMA_FABRIC"] = "soft"

from powerfail import machine, rounds
from softroce import kernel
from softroce.kernel import KernelError

OVER = ("soft", "6.1", "6.12")

WRITE_FOR = (0.5, 5.0)
WRITE_FOR_KERNEL = (2.0, 8.0)
"""Where the clients are emulated, too, they take longer."""

#: The exit code where no such machine can be had.
UNAVAILABLE = 3


def main() -> int:
    """Parse the command line, lose power, return the exit code."""
    parser = argparse.ArgumentParser(prog="powerfail", description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, metavar="N", help="how many times")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    parser.add_argument("--report", type=Path, metavar="FILE", help="all figures, as JSON")
    parser.add_argument(
        "--over",
        nargs="+",
        default=OVER,
        metavar="WHAT",
        type=over,
        help='what carries the data: "soft", the soft RNIC, or a kernel series, whose Soft-RoCE it '
        f"then is; N times for each (default: {' '.join(OVER)})",
    )
    parser.add_argument(
        "--write-for",
        type=float,
        nargs=2,
        metavar=("LEAST", "MOST"),
        help=f"seconds before the power goes (default: {WRITE_FOR}; {WRITE_FOR_KERNEL} over a "
        "kernel's device)",
    )
    parser.add_argument(
        "--lying-disk",
        action="store_true",
        help="let the disk take no notice of flushes: that has to cost records",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if reason := machine.unavailable():
        print(f"powerfail: {reason}", file=sys.stderr)
        return UNAVAILABLE
    found: dict[str, rounds.Report] = {}
    for name in arguments.over:
        try:
            carrier = machine.Over.named(name)
        except KernelError as error:
            print(f"powerfail: not over {name}: {error}", file=sys.stderr)
            if name == "soft":  # that takes any kernel
                return 2
            continue
        # A socket is in it, whose path must be short.
        with tempfile.TemporaryDirectory(prefix="powerfail-") as folder:
            found[name] = rounds.run(
                carrier,
                arguments.rounds,
                arguments.seed,
                Path(folder),
                arguments.write_for or (WRITE_FOR if carrier.is_soft else WRITE_FOR_KERNEL),
                arguments.lying_disk,
            )
        what = "the soft RNIC" if carrier.is_soft else "Soft-RoCE"
        print(f"Over {what}, Linux {carrier.chosen.version}:\n")
        tell(found[name])
    if arguments.report:
        figures = {name: report.as_dict() for name, report in found.items()}
        arguments.report.write_text(json.dumps(figures, indent=1))
    if not found:
        return UNAVAILABLE
    return int(any(report.harm or report.undetected for report in found.values()))


def over(name: str) -> str:
    """What an argument says, if it says that well."""
    if name != "soft":
        kernel.series_of(name)
    return name


def tell(report: rounds.Report) -> None:
    """Print what came of it."""
    boot = sum(report.boot_seconds) / max(1, len(report.boot_seconds))
    unflushed, survived = report.sectors
    print(
        f"Power lost {report.rounds} times, in {report.seconds:.0f} s; a boot takes {boot:.0f} s; "
        f"seed {report.seed}.\nThe disk was told to flush {report.flushes} times, and had "
        f"{unflushed} sectors in its cache when the\npower went, of which {survived} survived.\n"
    )
    print(report.table() + "\n", flush=True)
    for complaint in report.errors:
        print(complaint, file=sys.stderr)
    for name in report.undetected:
        print(f"{name} should have lost records, and none were missed", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
