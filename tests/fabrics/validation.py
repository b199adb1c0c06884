"""Programs in C over the debug build of librpma: compiling them, and running them on it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "tests/validation"
SOURCES = ROOT / "native/validation"
OPTIONS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-Wall", "-Wextra", "-Werror", "-rdynamic"]
LIBRARIES = ["-lrpma", "-libverbs", "-pthread"]

#: What of this process's environment is not for them.
OURS = ("LD_LIBRARY_PATH", "LD_PRELOAD", "ASAN_OPTIONS", "PYTHONMALLOC")

#: A line of the log: time, process, thread, level, kind and the rest.
LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) \[(?P<pid>\d+)/(?P<thread>\d+)\] "
    r"(?P<level>[1-4]) (?P<kind>[a-z]+) (?P<rest>.*)"
)


def folder() -> Path:
    """Where the debug build of the rpma that is installed is, as `rpma debug-path` prints."""
    spec = importlib.util.find_spec("rpma")
    assert spec is not None, "rpma is not installed: pip install ."
    assert spec.submodule_search_locations, "rpma is not installed: pip install ."
    return Path(spec.submodule_search_locations[0]) / "debug"


def compile_program(name: str, target: Path, *options: str) -> Path:
    """A program of tests/validation, compiled against librpma-dev."""
    done = subprocess.run(
        ["gcc", *OPTIONS, *options, PROGRAMS / f"{name}.c", "-o", target, *LIBRARIES],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return target


@dataclass(frozen=True)
class Done:
    """How a program ended, and what it printed."""

    code: int
    output: str
    errors: str

    def log(self) -> list[re.Match[str]]:
        """The lines of the log that are among the errors; there is nothing else."""
        return parsed(self.errors)


def parsed(log: str) -> list[re.Match[str]]:
    """The lines of a log, each of which has to be one."""
    lines = []
    for line in log.splitlines():
        match = LINE.fullmatch(line)
        assert match, line
        lines.append(match)
    return lines


def run(
    *command: str | Path,
    level: int | str | None = None,
    file: str | Path | None = None,
    aborts: bool = True,
    debug: Path | None = None,
    variables: Mapping[str, str] | None = None,
    timeout: float = 120,
) -> Done:
    """Run a program on the debug build in the folder `debug`, or on the normal one."""
    environment = {name: value for name, value in os.environ.items() if name not in OURS}
    environment |= variables or {}
    path = [str(debug)] if debug else []
    path += [environment["LD_LIBRARY_PATH"]] if "LD_LIBRARY_PATH" in environment else []
    environment["LD_LIBRARY_PATH"] = ":".join(path)
    if level is not None:
        environment["RPMA_LOG_LEVEL"] = str(level)
    if file is not None:
        environment["RPMA_LOG_FILE"] = str(file)
    if not aborts:
        environment["RPMA_DEBUG_ABORT"] = "0"
    try:
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as late:
        said = [
            (part or b"")[-6000:].decode(errors="replace") for part in (late.output, late.stderr)
        ]
        raise AssertionError(f"not done after {timeout} s: {command}\n{''.join(said)}") from None
    return Done(done.returncode, done.stdout, done.stderr)
