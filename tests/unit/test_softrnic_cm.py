"""The soft RNIC's connection manager, in C programs over its public functions.

They run on the libraries as they are installed, and again compiled together with all of the soft
RNIC's sources, under the sanitizers.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fabrics.soft import folder

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "native/softrnic"
TESTS = ROOT / "tests/softrnic"
OPTIONS = ["-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
SANITIZERS = {
    "memory": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "threads": ["-fsanitize=thread"],
}

pytestmark = pytest.mark.timeout(300)

PROGRAMS = ["cm_test", "cm_endpoint_test", "cm_lifetime_test", "cm_handshake_test"]
programs = pytest.mark.parametrize("program", PROGRAMS)


def _run(*command: str | Path, **variables: str) -> None:
    # Where pytest itself runs under a sanitizer, that one is not for these programs.
    environment = variables | {
        name: value
        for name, value in os.environ.items()
        if name not in ("LD_PRELOAD", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "SOFTRNIC_CRC")
    }
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env=environment,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module", params=SANITIZERS)
def instrumented(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], Path]:
    """How to compile for a sanitizer, and all sources compiled so."""
    options = [*OPTIONS, *SANITIZERS[request.param]]
    device = tmp_path_factory.mktemp("softrnic") / "device.o"
    sources = [*sorted(SOURCES.glob("*.c")), *sorted(SOURCES.glob("cm/*.c"))]
    _run("gcc", *options, "-r", "-nostdlib", *sources, "-o", device)
    return options, device


@pytest.mark.parametrize(
    ("program", "variables"),
    [*((program, {}) for program in PROGRAMS), ("cm_test", {"SOFTRNIC_CRC": "1"})],
)
def test_connections_are_managed_as_with_a_kernel_device(
    program: str, variables: dict[str, str], tmp_path: Path
) -> None:
    test = tmp_path / program
    libraries = folder()
    _run(
        *("gcc", *OPTIONS, TESTS / f"{program}.c", "-o", test),
        *(f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-l:librdmacm.so.1", "-l:libibverbs.so.1"),
    )
    _run(test, **variables)


@programs
def test_managing_connections_meets_no_error_of_memory_or_threads(
    program: str, instrumented: tuple[list[str], Path], tmp_path: Path
) -> None:
    options, device = instrumented
    test = tmp_path / program
    _run("gcc", *options, TESTS / f"{program}.c", device, "-o", test)
    _run(test)


def test_the_symbols_are_those_of_rdma_core() -> None:
    def symbols(library: Path) -> set[str]:
        shown = subprocess.run(
            ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
        ).stdout
        return {line.split()[-1] for line in shown.splitlines()}

    found = subprocess.run(
        ["gcc", "-print-file-name=librdmacm.so.1"], capture_output=True, text=True, check=True
    ).stdout.strip()
    versions = tuple(f"@@RDMACM_1.{minor}" for minor in range(4))
    wanted = {symbol for symbol in symbols(Path(found)) if symbol.endswith(versions)}
    assert wanted
    assert wanted <= symbols(folder() / "librdmacm.so.1")
