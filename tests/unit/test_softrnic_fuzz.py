"""The soft RNIC against arbitrary bytes: libFuzzer's targets, for a fixed time each.

`./run fuzz` is the same for longer. What it finds and what reaches new code is kept in
tests/softrnic/corpus/, where these begin.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from softrnic_programs import OPTIONS, SOURCES, TESTS, compile_device, run

pytestmark = pytest.mark.timeout(3600 + float(os.environ.get("SOFTRNIC_FUZZ_SECONDS", 0)))

SECONDS = int(os.environ.get("SOFTRNIC_FUZZ_SECONDS", 20))

#: An offset from a null pointer that is 0 is not what this is about.
INSTRUMENTED = [
    *OPTIONS,
    "-fsanitize=fuzzer-no-link,address,undefined",
    "-fno-sanitize=pointer-overflow",
    "-fno-sanitize-recover=all",
]


@dataclass(frozen=True)
class Target:
    """What the fake peer of a target replaces, and how long its inputs may be."""

    wrapped: str
    length: int


TARGETS = {
    "wire": Target("", 600),
    "receiver": Target("recv recvmsg sendmsg getrandom pthread_create", 3000),
    "handshake": Target(
        "recv recvmsg send sendmsg connect accept4 getpeername engine_now pthread_create", 2000
    ),
}


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All sources, compiled for libFuzzer."""
    folder = tmp_path_factory.mktemp("softrnic")
    if not shutil.which("clang"):
        pytest.skip("libFuzzer comes with clang, which is not installed")
    empty = folder / "empty.c"
    empty.write_text("int LLVMFuzzerTestOneInput(void) { return 0; }\n")
    try:
        run("clang", "-fsanitize=fuzzer,address", empty, "-o", folder / "empty")
    except AssertionError as error:
        pytest.skip(f"clang lacks its runtime libraries (libclang-rt-dev): {error}")
    return compile_device(INSTRUMENTED, folder, compiler="clang")


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_do_any_harm(name: str, device: list[Path], tmp_path: Path) -> None:
    target = TARGETS[name]
    program = tmp_path / "fuzz"
    wraps = [f"-Wl,--wrap={function}" for function in target.wrapped.split()]
    run(
        *("clang", *INSTRUMENTED, "-fsanitize=fuzzer", f"-I{SOURCES}"),
        *(TESTS / f"fuzz_{name}.c", *device, *wraps, "-o", program),
    )
    found = Path(os.environ.get("SOFTRNIC_FUZZ_CORPUS", tmp_path)) / name / "found"
    found.mkdir(parents=True, exist_ok=True)
    run(
        *(program, f"-max_total_time={SECONDS}", f"-max_len={target.length}"),
        *(f"-artifact_prefix={found.parent}/", "-print_final_stats=1"),
        *(found, TESTS / "corpus" / name),
        timeout=SECONDS + 120,
    )
