"""Calls that the soft RNIC does not have: each says so, and docs/softrnic.md tells how."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from softrnic_programs import OPTIONS, ROOT, SOURCES, TESTS, run

from fabrics.soft import folder

#: These are in the same files, and do something.
WORKING = {
    "ibv_get_sysfs_path",
    "ibv_is_fork_initialized",
    "ibv_read_sysfs_file",
    "rpoll",
    "rselect",
}
#: They say EBADF, all of them.
ON_RSOCKETS = re.compile(r"r(?!socket$)(?!dma_)\w+")


def _documented() -> dict[str, str]:
    """What the table of docs/softrnic.md says of each call."""
    text = (ROOT / "docs/softrnic.md").read_text()
    table = text.partition("### Calls that are not there")[2].partition("|---|---|")[2]
    answers = {}
    for row in re.findall(r"^\| (.+) \| (.+) \|$", table, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", row[0]):
            assert name not in answers, name
            answers[name] = row[1]
    return answers


def test_the_documentation_tells_what_calls_that_are_not_there_answer(tmp_path: Path) -> None:
    test = tmp_path / "absent_test"
    libraries = folder()
    run(
        *("gcc", *OPTIONS, TESTS / "absent_test.c", "-o", test),
        *(f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-l:librdmacm.so.1", "-l:libibverbs.so.1"),
    )
    answers = dict(line.split("|") for line in run(test).splitlines())
    assert answers == _documented()


def test_every_call_that_is_not_there_is_documented(tmp_path: Path) -> None:
    defined = set()
    for name in ("unsupported.c", "cm/unsupported.c", "cm/rsocket.c"):
        target = tmp_path / "object.o"
        run("gcc", *OPTIONS, "-c", SOURCES / name, "-o", target)
        shown = subprocess.run(
            ["nm", "-g", "--defined-only", "--format=posix", target],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        defined |= {line.split()[0] for line in shown.splitlines()}
    absent = {name for name in defined - WORKING if not ON_RSOCKETS.fullmatch(name)}
    assert len(absent) > 20
    assert absent <= set(_documented())
