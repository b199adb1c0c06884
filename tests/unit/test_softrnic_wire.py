"""The soft RNIC's wire formats and checksum, in C programs of their own under the sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "native/softrnic"
TESTS = ROOT / "tests/softrnic"
OPTIONS = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.mark.parametrize(
    ("program", "sources"),
    [
        pytest.param("wire_test.c", ["wire.c"], id="wire"),
        # It includes what it tests.
        pytest.param("crc32c_test.c", [], id="crc32c"),
    ],
)
def test_the_bytes_are_those_of_the_rfcs(program: str, sources: list[str], tmp_path: Path) -> None:
    test = tmp_path / "test"
    files = [str(TESTS / program), *(str(SOURCES / source) for source in sources)]
    # Where pytest itself runs under a sanitizer, that one is not for these programs.
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("LD_PRELOAD", "ASAN_OPTIONS")
    }
    for command in (
        ["gcc", *OPTIONS, *SANITIZERS, f"-I{SOURCES}", *files, "-o", str(test)],
        [str(test)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
