# SPDX-License-Identifier: BSD-3-Clause
"""What the debug build of librpma adds to a call: at level 0, and at level 3 to a file.

A C program (validation_calls.c) makes the data path's calls on the soft RNIC, on the normal librpma
and on the debug build, which it has both loaded, turn by turn; what is added is the difference
within a turn. It runs several times at each level: the table gives the median of the runs, and
their spread.
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

#: Of a run, by call: nanoseconds on the normal build, on the debug build, and what is added.
Run = dict[str, tuple[float, float, float]]


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
            *(HERE / "validation_calls.c", "-o", program, "-ldl"),
        ],
        check=True,
    )
    return program


def normal() -> str:
    """The distribution's librpma.so.0."""
    import rpma

    if rpma.library.is_debug:
        sys.exit("unset LD_LIBRARY_PATH: this process has the debug build")
    return rpma.library.path


def measure(program: Path, level: str, log: Path) -> Run:
    """One run of the program."""
    variables = {
        "LD_LIBRARY_PATH": str(package() / "softrnic"),
        "RPMA_LOG_LEVEL": level,
        "RPMA_LOG_FILE": str(log),
        "RPMA_TEST_PORT": str(PORT),
    }
    done = subprocess.run(
        [program, normal(), package() / "debug" / "librpma.so.0"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    log.unlink(missing_ok=True)
    if done.returncode:
        sys.exit(f"level {level}: {done.stderr}")
    lines = map(str.split, done.stdout.splitlines())
    return {name: (float(a), float(b), float(more)) for name, a, b, more in lines}


def report(runs: dict[str, list[Run]]) -> bool:
    """Print the table; whether the aims are met."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"nanoseconds per call, medians of {len(runs['0'])} runs at each level")
    for heading in ("call", "normal", "level 0 adds", "level 3 adds"):
        table.add_column(heading, justify="left" if heading == "call" else "right")
    met = True
    for call in CALLS:
        cells = [f"{statistics.median(run[call][0] for run in runs['0']):.0f}"]
        for level, aim in AIMS.items():
            more = [run[call][2] for run in runs[level]]
            is_met = statistics.median(more) <= aim
            met = met and is_met
            spread = f"({min(more):.0f}-{max(more):.0f})"
            mark = "" if is_met else f" over {aim}"
            cells.append(f"{statistics.median(more):.0f} {spread}{mark}")
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
    runs: dict[str, list[Run]] = {level: [] for level in AIMS}
    with tempfile.TemporaryDirectory() as name:
        program = compiled(Path(name))
        for _ in range(options.rounds):
            for level in AIMS:
                runs[level].append(measure(program, level, Path(name) / "log"))
    if options.json:
        options.json.write_text(json.dumps(runs, indent=2))
    print("the aims are met" if report(runs) else "an aim is missed")


if __name__ == "__main__":
    main()
