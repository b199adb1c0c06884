"""The soft RNIC's wire formats and checksum, in C programs of their own under the sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest
from softrnic_programs import OPTIONS, SANITIZERS, SOURCES, TESTS, run


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
    files = [TESTS / program, *(SOURCES / source for source in sources)]
    run("gcc", *OPTIONS, *SANITIZERS["memory"], f"-I{SOURCES}", *files, "-o", test)
    run(test)
