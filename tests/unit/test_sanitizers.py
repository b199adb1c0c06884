"""The binding's C under AddressSanitizer and LeakSanitizer, over the unit tests."""

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTENSION = "_librpma.abi3.so"
OUR_FRAME = re.compile(r"#\d+ \S+ in (?:rpmapy_|_cffi_f_rpmapy_)")


def _library(name: str) -> str:
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.fail(f"{name} is not installed beside gcc")
    return found


@pytest.fixture(scope="module")
def instrumented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package whose extension is built with AddressSanitizer."""
    folder = tmp_path_factory.mktemp("sanitized")
    options = ["-Dbuildtype=debugoptimized", "-Db_sanitize=address", "-Db_lundef=false"]
    scripts = Path(sysconfig.get_path("scripts"))
    # With meson, and with the same interpreter, that built what is installed.
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    for command in (
        ["meson", "setup", str(folder / "build"), str(ROOT), *options],
        ["meson", "compile", "-C", str(folder / "build")],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    package = folder / "package"
    package.mkdir()
    subprocess.run(["cp", "-r", str(ROOT / "src/rpma"), str(package)], check=True)
    (extension,) = (folder / "build").rglob(EXTENSION)
    subprocess.run(["cp", str(extension), str(package / "rpma")], check=True)
    return package


def _run(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "LD_PRELOAD": f"{_library('libasan.so')} {_library('libstdc++.so.6')}",
        # The interpreter leaks on purpose: what counts is in the report, not the exit code.
        "ASAN_OPTIONS": "detect_leaks=1:exitcode=0:abort_on_error=0:halt_on_error=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(package),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def _leaks_of_ours(report: str) -> list[str]:
    blocks = re.split(r"\n(?=(?:Direct|Indirect) leak of)", report)
    return [block for block in blocks if "leak of" in block and OUR_FRAME.search(block)]


def test_the_unit_tests_meet_no_memory_error_and_no_leak_of_the_binding(
    instrumented: Path,
) -> None:
    done = _run(
        instrumented,
        *("-m", "pytest", "tests/unit", "-q", "-x", "-m", "unit", "-p", "no:cacheprovider"),
        *("--ignore", "tests/unit/test_sanitizers.py", "--ignore", "tests/unit/test_allocation.py"),
    )
    report = done.stdout + done.stderr
    assert " passed" in done.stdout, report
    assert " failed" not in done.stdout, report
    assert "ERROR: AddressSanitizer" not in report, report
    assert not _leaks_of_ours(done.stderr), "\n".join(_leaks_of_ours(done.stderr))


def test_a_leak_of_the_binding_would_be_seen(instrumented: Path) -> None:
    leak = (
        "from rpma._native import ffi, lib\n"
        "out = ffi.new('struct rpmapy_conn_cfg **')\n"
        "assert lib.rpmapy_conn_cfg_new(out) == 0\n"
        "out[0] = ffi.NULL\n"
        "del out\n"
    )
    done = _run(instrumented, "-c", leak)
    assert done.returncode == 0, done.stderr
    assert _leaks_of_ours(done.stderr), done.stderr
