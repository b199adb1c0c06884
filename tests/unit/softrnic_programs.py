"""Compiling C programs together with the soft RNIC's sources, and running them."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "native/softrnic"
TESTS = ROOT / "tests/softrnic"
OPTIONS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
SANITIZERS = {
    "memory": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "threads": ["-fsanitize=thread"],
}


def environment(**variables: str) -> dict[str, str]:
    """What such a program starts with."""
    # Where pytest itself runs under a sanitizer, that one is not for these programs.
    without = ("LD_PRELOAD", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "SOFTRNIC_CRC")
    return {name: value for name, value in os.environ.items() if name not in without} | variables


def run(*command: str | Path | int, timeout: float = 150, **variables: str) -> str:
    """What the command prints; it has to succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment(**variables),
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compile_device(
    options: list[str], folder: Path, *, without: tuple[str, ...] = (), compiler: str = "gcc"
) -> list[Path]:
    """The objects of both libraries' sources."""

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}-{source.stem}.o"
        run(compiler, *options, "-c", source, "-o", target)
        return target

    sources = [*sorted(SOURCES.glob("*.c")), *sorted(SOURCES.glob("cm/*.c"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compile_one, [one for one in sources if one.name not in without]))
