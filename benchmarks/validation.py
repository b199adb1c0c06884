# SPDX-License-Identifier: BSD-3-Clause
"""What the debug build of librpma adds to a call: at level 0, and at level 3 to a file.

One C program (validation_calls.c) makes the data path's calls on the soft RNIC: on the normal
librpma, on the debug build at level 0, and at level 3, turn by turn. What is added is taken within
a round; the table gives the median of the rounds, and their spread.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PORT = 18700
CALLS = ("rpma_write", "rpma_read", "rpma_recv", "rpma_cq_get_wc,_one", "rpma_cq_get_wc,_none")

#: What a level may add to a call, in nanoseconds.
AIMS = {"0": 150, "3": 3000}

Round = dict[str, dict[str, float]]


def package() -> Path:
    """The folder of the rpma that is installed."""
    spec = importlib.util.find_spec("rpma")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("rpma is not installed: pip install .")
    return Path(spec.submodule_search_locations[0])


def compiled(folder: Path) -> Path:
    """The program, compiled into the folder."""
    program = folder / "validation_calls"
    subprocess.run(
        [
            *("gcc", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{HERE.parent / 'tests/validation'}"),
            *(HERE / "validation_calls.c", "-o", program, "-lrpma", "-libverbs"),
        ],
        check=True,
    )
    return program


def measure(program: Path, way: str, log: Path) -> dict[str, float]:
    """Nanoseconds by call; way: "normal", or the debug build's level."""
    folders = [package() / "softrnic"]
    variables = {"RPMA_TEST_PORT": str(PORT)}
    if way != "normal":
        folders.insert(0, package() / "debug")
        variables |= {"RPMA_LOG_LEVEL": way, "RPMA_LOG_FILE": str(log)}
    variables["LD_LIBRARY_PATH"] = ":".join(map(str, folders))
    done = subprocess.run(
        [program], env=os.environ | variables, capture_output=True, text=True, timeout=300
    )
    log.unlink(missing_ok=True)
    if done.returncode:
        sys.exit(f"{way}: {done.stderr}")
    return {name: float(value) for name, value in map(str.split, done.stdout.splitlines())}


def added(rounds: list[Round], call: str, level: str) -> list[float]:
    """What the level added to the call in each round, in nanoseconds."""
    return [each[level][call] - each["normal"][call] for each in rounds]


def report(rounds: list[Round]) -> bool:
    """Print the table; whether the aims are met."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"nanoseconds per call, medians of {len(rounds)} rounds")
    for heading in ("call", "normal", "level 0 adds", "level 3 adds"):
        table.add_column(heading, justify="left" if heading == "call" else "right")
    met = True
    for call in CALLS:
        cells = [f"{statistics.median(each['normal'][call] for each in rounds):.0f}"]
        for level, aim in AIMS.items():
            more = added(rounds, call, level)
            met = met and statistics.median(more) <= aim
            mark = "" if statistics.median(more) <= aim else f" over {aim}"
            cells.append(f"{statistics.median(more):.0f} ({min(more):.0f}-{max(more):.0f}){mark}")
        table.add_row(call.replace(",_", ", "), *cells)
    Console().print(table)
    print("aims: " + ", ".join(f"level {level}: {aim} ns" for level, aim in AIMS.items()))
    return met


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured")
    options = parser.parse_args()
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as name:
        program = compiled(Path(name))
        for _ in range(options.rounds):
            log = Path(name) / "log"
            rounds.append({way: measure(program, way, log) for way in ("normal", *AIMS)})
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=2))
    print("the aims are met" if report(rounds) else "an aim is missed")


if __name__ == "__main__":
    main()
