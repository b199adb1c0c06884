"""The soft RNIC's connection manager, in C programs over its public functions.

They run on the libraries as they are installed, and again compiled together with all of the soft
RNIC's sources, under the sanitizers.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from softrnic_programs import OPTIONS, TESTS, run

from fabrics.soft import folder

pytestmark = pytest.mark.timeout(300)

PROGRAMS = ["cm_test", "cm_endpoint_test", "cm_lifetime_test", "cm_handshake_test"]
programs = pytest.mark.parametrize("program", PROGRAMS)


@pytest.mark.parametrize(
    ("program", "variables"),
    [*((program, {}) for program in PROGRAMS), ("cm_test", {"SOFTRNIC_CRC": "1"})],
)
def test_connections_are_managed_as_with_a_kernel_device(
    program: str, variables: dict[str, str], tmp_path: Path
) -> None:
    test = tmp_path / program
    libraries = folder()
    run(
        *("gcc", *OPTIONS, TESTS / f"{program}.c", "-o", test),
        *(f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-l:librdmacm.so.1", "-l:libibverbs.so.1"),
    )
    run(test, **variables)


@programs
def test_managing_connections_meets_no_error_of_memory_or_threads(
    program: str, instrumented: tuple[list[str], list[Path]], tmp_path: Path
) -> None:
    options, device = instrumented
    test = tmp_path / program
    run("gcc", *options, TESTS / f"{program}.c", *device, "-o", test)
    run(test)


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
