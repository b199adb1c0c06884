"""The fabric tests once more, in a process of their own: over another librpma than this run's."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fabrics.fabric import Fabric
from fabrics.validation import run

SUITE = Path(__file__).parent

#: These choose a librpma themselves, or know nothing of Python.
OTHERS = ("bundled_librpma", "programs", "validation", "validation_patterns")


def of(fabric: Fabric, modules: Iterable[str]) -> list[str | Path]:
    """The arguments for the whole suite; on a kernel's device, for some of its modules."""
    if fabric.name == "soft":
        ignored = [f"--ignore={SUITE / f'test_{name}.py'}" for name in OTHERS]
        return ["--fabric=soft", SUITE, *ignored]
    return ["--fabric=native", *(SUITE / f"test_{name}.py" for name in modules)]


def passes(*arguments: str | Path, **options: Any) -> str:
    """See that tests pass. If not: what they say, and which was the last to begin if they crash.

    Args:
        arguments: pytest's.
        options: what `run` takes.

    Returns:
        What was printed.
    """
    pytest = (sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider")
    done = run(*pytest, *arguments, timeout=1700, **options)
    begun = re.findall(r"^\S+::test_.*?(?= (?:[A-Z]+ .*)?$)", done.output, re.MULTILINE)
    last = begun[-1] if begun else "none"
    assert done.code == 0, (
        f"exit code {done.code}; the last test to begin: {last}\n"
        f"...{done.output[-12000:]}\n...{done.errors[-6000:]}"
    )
    return done.output
