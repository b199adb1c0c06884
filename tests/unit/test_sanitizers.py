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
#: The last line of pytest's: how many passed, failed, ...
SUMMARY = re.compile(r"^(\d+ (?:passed|failed|error)[\w, ]*) in [\d.]+s", re.MULTILINE)
#: About builds, processes and files: none of the binding's C, and slow under a sanitizer.
OF_PROCESSES = (
    *("build", "command", "command_output", "doctor", "documentation", "first_hour", "interrupts"),
    *("library_choice", "pins", "pool_catalog", "pool_command", "pool_store", "run"),
)
OUR_FRAME = re.compile(r"#\d+ \S+ in (?:rpmapy_|_cffi_f_rpmapy_)")


def _library(name: str) -> str:
    found = subprocess.run(
        ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        pytest.fail(f"{name} is not installed beside gcc")
    return found


# Before the interpreter takes itself apart: what lives until then is no leak, and not released.
# Not in the command's own processes: typer loads pydantic_core, on whose thread-local storage GCC's
# checker crashes, and takes the exit code with it.
CHECK_BEFORE_THE_END = """
import atexit, ctypes, os, sys
check = ctypes.CDLL(None).__lsan_do_recoverable_leak_check
if "tests/unit" in sys.orig_argv:  # of its children some may be met by the same
    atexit.register(lambda: open(os.environ["SANITIZER_CHECKED"], "w").close())  # after the check
if not any(os.path.basename(word) == "rpma" for word in sys.orig_argv[:2]):
    atexit.register(check)
# A child of a process with threads: the check cannot stop what is not there, and ends it.
os.register_at_fork(after_in_child=lambda: atexit.unregister(check))
"""

pytestmark = pytest.mark.timeout(1200)


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
    (package / "rpma" / "softrnic").mkdir()
    for library in (folder / "build" / "native" / "softrnic").glob("lib*.so.1"):
        subprocess.run(["cp", str(library), str(package / "rpma" / "softrnic")], check=True)
    (package / "rpma" / "debug").mkdir()
    debug = folder / "build" / "native" / "validation" / "librpma.so.0"
    subprocess.run(["cp", str(debug), str(package / "rpma" / "debug")], check=True)
    (package / "rpma" / "librpma").mkdir()
    own = folder / "build" / "native" / "librpma" / "librpma.so.0"
    subprocess.run(["cp", str(own), str(package / "rpma" / "librpma")], check=True)
    (package / "sitecustomize.py").write_text(CHECK_BEFORE_THE_END)
    return package


def _run(
    package: Path, reports: Path, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run Python on the instrumented package; also what the sanitizers wrote, of every process."""
    environment = os.environ | {
        "LD_PRELOAD": f"{_library('libasan.so')} {_library('libstdc++.so.6')}",
        # The interpreter leaks on purpose: what counts is in the reports, not the exit code.
        # Tests ask for more memory than there can be.
        "ASAN_OPTIONS": "detect_leaks=1:leak_check_at_exit=0:exitcode=0:"
        f"allocator_may_return_null=1:log_path={reports / 'report'}",
        "SANITIZER_CHECKED": str(reports / "checked"),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(package),
        "RPMA_FABRIC": "auto",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1100,
    )
    return done, [file.read_text(errors="replace") for file in reports.glob("report.*")]


def _leaks_of_ours(reports: list[str]) -> list[str]:
    blocks = re.split(r"\n(?=(?:Direct|Indirect) leak of)", "\n".join(reports))
    return [block for block in blocks if "leak of" in block and OUR_FRAME.search(block)]


def test_the_unit_tests_meet_no_memory_error_and_no_leak_of_the_binding(
    instrumented: Path, tmp_path: Path
) -> None:
    done, reports = _run(
        instrumented,
        tmp_path,
        *("-m", "pytest", "tests/unit", "-q", "-m", "unit", "-p", "no:cacheprovider"),
        *("--ignore", "tests/unit/test_sanitizers.py", "--ignore", "tests/unit/test_allocation.py"),
        # These build programs with sanitizers of their own.
        *("--ignore-glob=tests/unit/test_softrnic_*", "--ignore=tests/unit/test_librpma_7.py"),
        *("--ignore-glob=tests/unit/test_validation_*", "--ignore=tests/unit/test_trace.py"),
        *(f"--ignore=tests/unit/test_{name}.py" for name in OF_PROCESSES),
        # AddressSanitizer keeps freed memory for a while: the process does grow.
        *("--deselect", "tests/unit/test_objects.py::test_memory_does_not_grow"),
    )
    # Not anywhere in the output: tests that are skipped say why, in words of any kind.
    (summary,) = SUMMARY.findall(done.stdout) or [done.stdout + done.stderr]
    assert re.fullmatch(r"\d+ passed(, \d+ (skipped|deselected|warnings?))*", summary), done.stdout
    assert reports
    assert (tmp_path / "checked").exists(), "the checker of leaks has crashed"
    errors = [report for report in reports if "ERROR: AddressSanitizer" in report]
    assert not errors, "\n".join(errors)
    assert not _leaks_of_ours(reports), "\n".join(_leaks_of_ours(reports))


def test_a_leak_of_the_binding_would_be_seen(instrumented: Path, tmp_path: Path) -> None:
    leak = (
        "from rpma._native import ffi, lib\n"
        "out = ffi.new('struct rpmapy_conn_cfg **')\n"
        "assert lib.rpmapy_conn_cfg_new(out) == 0\n"
        "out[0] = ffi.NULL\n"
        "del out\n"
    )
    done, reports = _run(instrumented, tmp_path, "-c", leak)
    assert done.returncode == 0, done.stderr
    assert _leaks_of_ours(reports), reports
