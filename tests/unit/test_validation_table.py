"""docs/validation.md has a row for every mistake that the debug build is tested with."""

from __future__ import annotations

import re
import subprocess

from fabrics.validation import PROGRAMS, ROOT, SOURCES

ROW = re.compile(r"^\| `(\w+)` \|.*\| (error|assertion|warning) \|$", re.MULTILINE)


def test_each_mistake_has_its_row() -> None:
    mistakes = re.findall(
        r"^\tMISTAKE\((\w+)\)", (PROGRAMS / "mistakes.c").read_text(), re.MULTILINE
    )
    rows = [name for name, _ in ROW.findall((ROOT / "docs/validation.md").read_text())]
    assert sorted(rows) == sorted(mistakes)


def test_the_table_of_functions_has_each_of_librpmas_once() -> None:
    names = re.findall(
        r"^[23] (?:\w+ )?(rpma_\w+)\(", (SOURCES / "interface.txt").read_text(), re.M
    )
    preprocessed = subprocess.run(
        ["gcc", "-E", "-include", "librpma.h", "-xc", "/dev/null"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    declared = set(re.findall(r"\b(rpma_\w+)\(", preprocessed)) - {"rpma_log_function"}
    assert sorted(names) == sorted(declared)


THREADS_ROW = re.compile(r"^\| (`rpma_\w+`(?:, `rpma_\w+`)*) \| [^|]+ \| [^|]+ \|$", re.MULTILINE)
CLAIMS = re.compile(r"\b(uses|reads|sets|takes|waits|delete)\b")


def test_the_table_of_threads_has_each_function_once_by_what_is_checked() -> None:
    table = (SOURCES / "interface.txt").read_text()
    claims = {
        name: CLAIMS.findall(arguments)
        for name, arguments in re.findall(
            r"^[23] (?:\w+ )?(rpma_\w+)\((.*?)\)", table, re.MULTILINE
        )
    }
    rows = THREADS_ROW.findall((ROOT / "docs/validation.md").read_text())
    functions = [row.replace("`", "").split(", ") for row in rows]
    assert sorted(name for together in functions for name in together) == sorted(claims)
    for together in functions:
        assert len({tuple(claims[name]) for name in together}) == 1, together
