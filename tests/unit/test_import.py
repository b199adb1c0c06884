"""`import rpma`: what it loads, what it does not, and what it says when it cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from elf_symbols import dynamic_symbols

import rpma
from rpma._native import explain_import_error

#: Functions that answer with text; all others answer with 0.
OF_TEXT = {"rpma_err_2str", "rpma_utils_conn_event_2str"}

PRELUDE = """
#include <stddef.h>
#include <stdio.h>
const char *rpma_err_2str(int code) { (void)code; return "words of the other library"; }
const char *rpma_utils_conn_event_2str(int event) { (void)event; return "its event"; }
"""
DEBUG_BUILD = """
const char *rpma_errormsg(void) { return "message of the other library"; }
const char *rpma_check_version(unsigned major, unsigned minor)
{
    static char reason[100];
    if (major == 1 && minor <= 7)
        return NULL;
    snprintf(reason, sizeof(reason), "the other library has no %u.%u", major, minor);
    return reason;
}
"""


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def build_library(folder: Path, *, debug: bool, without: str | None = None) -> Path:
    """Build a librpma.so.0 that has the symbols of the real one, and does nothing."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    defined, _ = dynamic_symbols(Path(rpma.library.path))
    names = {name for name in defined if name.startswith("rpma_")}
    names -= {"rpma_check_version", "rpma_errormsg", without, *OF_TEXT}
    source = folder / "other.c"
    text = PRELUDE + (DEBUG_BUILD if debug else "")
    text += "".join(f"int {name}(void) {{ return 0; }}\n" for name in sorted(names))
    source.write_text(text)
    (folder / "versions").write_text("LIBRPMA_1.0 { global: rpma_*; local: *; };")
    library = folder / "librpma.so.0"
    subprocess.run(
        [
            *(compiler, "-shared", "-fPIC", "-Wl,-soname,librpma.so.0"),
            *(f"-Wl,--version-script={folder / 'versions'}", "-o", str(library), str(source)),
        ],
        check=True,
    )
    return library


def test_ld_library_path_picks_the_debug_build(tmp_path: Path) -> None:
    other = build_library(tmp_path, debug=True)
    code = """
import rpma
print(rpma.library.path)
print(rpma.library.is_debug, rpma.library.api_version, sorted(rpma.library.features))
print(rpma.errormsg())
print(rpma.err_2str(0))
print(str(rpma.ConnectionEvent.LOST))
print(rpma.version_mismatch(1, 7))
print(rpma.version_mismatch(1, 8))
try:
    rpma.check_version(2, 0)
except rpma.VersionError as error:
    print(error.reason)
"""
    done = python(code, LD_LIBRARY_PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        str(other),
        "True (1, 7) ['check_version', 'errormsg']",
        "message of the other library",
        "words of the other library",
        "its event",
        "None",
        "the other library has no 1.8",
        "the other library has no 2.0",
    ]


def test_ld_library_path_picks_another_normal_build(tmp_path: Path) -> None:
    other = build_library(tmp_path, debug=False)
    code = "import rpma; print(rpma.library.path, rpma.library.is_debug, rpma.errormsg() == '')"
    done = python(code, LD_LIBRARY_PATH=str(tmp_path))
    assert done.stdout.split() == [str(other), "False", "True"], done.stderr


@pytest.mark.parametrize("missing", ["rpma_srq_new", "rpma_peer_new", "rpma_atomic_write"])
def test_a_librpma_before_1_0_is_an_import_error(tmp_path: Path, missing: str) -> None:
    build_library(tmp_path, debug=False, without=missing)
    done = python("import rpma", LD_LIBRARY_PATH=str(tmp_path), LD_BIND_NOW="1")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: the librpma.so.0 that was found is older than API 1.0")
    assert missing in last


@pytest.mark.parametrize(
    ("library", "packages"),
    [
        ("librpma.so.0", ("librpma0", "librpma", "librpma0")),
        ("libibverbs.so.1", ("libibverbs1", "libibverbs", "libibverbs1")),
        ("librdmacm.so.1", ("librdmacm1", "librdmacm", "librdmacm1")),
    ],
)
def test_a_missing_library_is_explained(library: str, packages: tuple[str, str, str]) -> None:
    raised = ImportError(f"{library}: cannot open shared object file: No such file or directory")
    text = str(explain_import_error(raised))
    debian, fedora, suse = packages
    assert f"'apt-get install {debian}' on Debian and Ubuntu" in text
    assert f"'dnf install {fedora}' on Fedora" in text
    assert f"'zypper install {suse}' on openSUSE" in text
    assert str(raised) in text


def test_without_librpma_the_import_error_names_the_packages(tmp_path: Path) -> None:
    found = Path(rpma.library.path).parent
    (tmp_path / "empty").mkdir()
    hide = (
        f"mkdir -p {tmp_path}/upper {tmp_path}/work && "
        f"for f in {found}/librpma.so.0*; do mount --bind {tmp_path}/empty/file $f || exit 99; done"
    )
    (tmp_path / "empty" / "file").write_text("")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{hide}; exec '{sys.executable}' -c 'import rpma'"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("this user may not mount")
    assert done.returncode == 1
    assert "ImportError: " in done.stderr
    assert "librpma.so.0" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "raised",
    [
        ImportError("librpma.so.0: undefined symbol: something_else"),
        ImportError("libfoo.so.0: cannot open shared object file: No such file or directory"),
        ModuleNotFoundError("No module named 'cffi'", name="cffi"),
    ],
)
def test_other_import_errors_stay_what_they_are(raised: ImportError) -> None:
    assert explain_import_error(raised) is raised


def test_the_source_tree_says_that_it_is_not_built() -> None:
    source = Path(__file__).parents[2] / "src"
    code = f"import sys; sys.path.insert(0, {str(source)!r}); import rpma"
    done = python(code, RPMA_FABRIC="auto")
    assert done.returncode == 1
    assert "the compiled part of rpma is missing" in done.stderr.splitlines()[-1]
    assert "pip install ." in done.stderr.splitlines()[-1]


def test_import_loads_none_of_the_optional_packages() -> None:
    done = python("import rpma, sys; print(*sys.modules)")
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "rpma" in loaded
    assert not loaded & {"numpy", "rich", "typer", "click", "typing_extensions", "asyncio"}


def test_import_writes_nothing_and_warns_of_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", "import rpma"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_starts_no_thread() -> None:
    code = "import rpma, os; print(len(os.listdir('/proc/self/task')))"
    assert python(code).stdout.strip() == "1"


def test_the_extension_works_with_every_cpython_from_3_10() -> None:
    from rpma import _librpma

    assert re.search(r"_librpma\.abi3\.so$", _librpma.__file__)
