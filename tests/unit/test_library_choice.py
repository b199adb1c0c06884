"""Which librpma is loaded, and why: LD_LIBRARY_PATH, RPMA_LIBRARY, the system's, rpma's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rpma
from rpma import _library

ROOT = Path(__file__).parents[2]
DEBUG = Path(rpma.__file__).parent / "debug"

SHOW = "import rpma; x = rpma.library; print(x.path, x.is_debug, x.is_bundled, x.reason, sep='|')"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("LD_LIBRARY_PATH", _library.VARIABLE)
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def shown(**environment: str) -> list[str]:
    done = python(SHOW, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


def test_the_bundled_one_is_taken_where_it_is_asked_for() -> None:
    assert shown(RPMA_LIBRARY="bundled") == [
        _library.BUNDLED,
        "False",
        "True",
        "RPMA_LIBRARY=bundled",
    ]


def test_any_can_be_named() -> None:
    path = str(DEBUG / "librpma.so.0")
    assert shown(RPMA_LIBRARY=path) == [path, "True", "False", "RPMA_LIBRARY names it"]


def test_ld_library_path_comes_first() -> None:
    path, is_debug, _, reason = shown(RPMA_LIBRARY="bundled", LD_LIBRARY_PATH=str(DEBUG))
    assert (path, is_debug) == (str(DEBUG / "librpma.so.0"), "True")
    assert reason == f"LD_LIBRARY_PATH leads to it: {DEBUG}"


@pytest.mark.parametrize("choice", ["bundled", "system"])
def test_the_debug_build_wraps_the_one_that_is_asked_for(choice: str, tmp_path: Path) -> None:
    if choice == "system" and not has_system():
        pytest.skip("the system has no librpma")
    log = tmp_path / "log"
    variables = {"RPMA_LIBRARY": choice, "LD_LIBRARY_PATH": str(DEBUG), "RPMA_LOG_LEVEL": "2"}
    done = python("import rpma", **variables, RPMA_LOG_FILE=str(log))
    assert done.returncode == 0, done.stderr
    match = re.search(r"debug build \S+ over (\S+):", log.read_text())
    assert match
    assert _library.is_bundled(match[1]) == (choice == "bundled")


def test_the_debug_build_says_so_where_what_is_asked_for_is_missing() -> None:
    done = python("import rpma", RPMA_LIBRARY="/nowhere/librpma.so.0", LD_LIBRARY_PATH=str(DEBUG))
    assert done.returncode == 127
    assert "the normal librpma.so.0 was not found" in done.stderr


def has_system() -> bool:
    return python("import rpma", RPMA_LIBRARY="system").returncode == 0


def test_by_default_the_system_has_the_word() -> None:
    _, _, is_bundled, reason = shown()
    assert (is_bundled, reason) == (
        ("False", "the system has it") if has_system() else ("True", "the system has none")
    )


def test_where_the_system_has_none_the_bundled_one_is_taken() -> None:
    # As the dynamic linker says it of a library that is nowhere.
    code = """
import _cffi_backend
real = _cffi_backend.FFI.dlopen
class FFI(_cffi_backend.FFI):
    def dlopen(self, name, flags):
        if name == "librpma.so.0":
            raise OSError("cannot load library 'librpma.so.0': librpma.so.0: cannot open shared "
                          "object file: No such file or directory")
        return real(self, name, flags)
_cffi_backend.FFI = FFI
"""
    done = python(code + SHOW)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().split("|")[1:] == ["False", "True", "the system has none"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("own", "RPMA_LIBRARY=own: set it to system, bundled (rpma's own) or the path of a"),
        ("/nowhere/librpma.so.0", "RPMA_LIBRARY=/nowhere/librpma.so.0: there is no such file"),
        (__file__, "does not load"),
    ],
)
def test_what_cannot_be_is_an_import_error(value: str, said: str) -> None:
    done = python("import rpma", RPMA_LIBRARY=value)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("ImportError: ")


def test_without_a_bundled_one_it_cannot_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="was installed without a librpma"):
        _library.choose({"RPMA_LIBRARY": "bundled"}, loaded=False, bundled=str(tmp_path / "none"))


def test_one_that_is_loaded_stays() -> None:
    choice = _library.choose({"RPMA_LIBRARY": "bundled"}, loaded=True)
    assert choice == (None, False, "librpma.so.0 was loaded before rpma was imported")


# ---- the library itself ----


def command(*words: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("rpma"), *words], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


VERSIONING = """
#include <librpma.h>
#include <stdio.h>
int main(void)
{
	const char *reason = rpma_check_version(RPMA_MAJOR_VERSION, RPMA_MINOR_VERSION);
	if (reason != NULL)
		return 1;
	struct rpma_peer *peer = NULL;
	if (rpma_peer_new(NULL, &peer) != RPMA_E_INVAL || peer)
		return 2;
	printf("%s|%s|%s\\n", rpma_check_version(2, 0), rpma_check_version(1, 4), rpma_errormsg());
	return 0;
}
"""


@pytest.mark.parametrize("with_pkg_config", [False, True])
def test_the_program_of_the_manual_runs_on_it(with_pkg_config: bool, tmp_path: Path) -> None:
    """librpma(7), LIBRARY API VERSIONING."""
    source, program = tmp_path / "versioning.c", tmp_path / "versioning"
    source.write_text(VERSIONING)
    folder = command("config", "--library-path")
    if with_pkg_config:
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", f"{folder}/pkgconfig/librpma.pc"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    else:
        flags = command("config", "--cflags", "--libs")
    subprocess.run(["gcc", "-Wall", "-Werror", source, "-o", program, *flags.split()], check=True)
    for path, said in ((folder, "ibv_ctx and peer_ptr must not be NULL"), (str(DEBUG), "1.3")):
        done = subprocess.run(
            [program],
            capture_output=True,
            text=True,
            env={**os.environ, "LD_LIBRARY_PATH": path, "RPMA_DEBUG_ABORT": "0"},
        )
        assert done.returncode == 0, done.stderr
        words = done.stdout.split("|")
        assert "major version" in words[0]
        assert "minor version" in words[1]
        assert said in words[2]


@pytest.mark.parametrize("words", [[], ["--library-path", "--libs"]])
def test_config_wants_to_know_what_for(words: list[str]) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("rpma"), "config", *words], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "--cflags, --libs or both, or --library-path" in done.stderr


def test_errors_are_a_threads_own_and_stay(tmp_path: Path) -> None:
    source, program = tmp_path / "errors.c", tmp_path / "errors"
    source.write_text(
        """
#include <librpma.h>
#include <pthread.h>
#include <string.h>
static void *other(void *empty)
{
	if (rpma_errormsg()[0])
		return empty;
	(void)rpma_cq_get_fd(NULL, NULL);
	return strstr(rpma_errormsg(), "cq and fd") ? NULL : empty;
}
int main(void)
{
	pthread_t thread;
	void *failed;
	struct rpma_conn_cfg *cfg;
	if (rpma_errormsg()[0] || rpma_conn_cfg_new(NULL) != RPMA_E_INVAL)
		return 1;
	if (!strstr(rpma_errormsg(), "cfg_ptr"))
		return 2;
	pthread_create(&thread, NULL, other, &thread);
	pthread_join(thread, &failed);
	if (failed || rpma_conn_cfg_new(&cfg) || rpma_conn_cfg_delete(&cfg) || cfg)
		return 3;
	return strstr(rpma_errormsg(), "cfg_ptr") ? 0 : 4; /* never cleared */
}
"""
    )
    flags = command("config", "--cflags", "--libs").split()
    subprocess.run(["gcc", "-Wall", source, "-o", program, "-pthread", *flags], check=True)
    folder = command("config", "--library-path")
    variables = {"LD_LIBRARY_PATH": folder, "RPMA_LOG_LEVEL": "4", "RPMA_LOG_FILE": f"{tmp_path}/l"}
    done = subprocess.run([program], env={**os.environ, **variables}, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not (tmp_path / "l").exists()  # the normal build ignores both variables


def functions_of_header() -> set[str]:
    header = (ROOT / "native/librpma/librpma.h").read_text()
    plain = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    return set(re.findall(r"\b(rpma_\w+)\s*\(", plain)) - {"rpma_log_function"}  # a type


def exported(path: str) -> set[str]:
    done = subprocess.run(
        ["nm", "-D", "--defined-only", path], capture_output=True, text=True, check=True
    )
    return set(re.findall(r" T (rpma_\w+@@LIBRPMA_1\.0)$", done.stdout, flags=re.M))


def test_it_exports_what_its_header_declares_and_no_more() -> None:
    found = exported(_library.BUNDLED)
    assert found == {f"{name}@@LIBRPMA_1.0" for name in functions_of_header()}
    assert len(found) == 86


def test_it_exports_all_that_the_systems_does() -> None:
    if not has_system():
        pytest.skip("the system has no librpma")
    path = shown(RPMA_LIBRARY="system")[0]
    promised = {"rpma_check_version@@LIBRPMA_1.0", "rpma_errormsg@@LIBRPMA_1.0"}
    assert exported(_library.BUNDLED) - exported(path) == promised
    assert exported(path) - exported(_library.BUNDLED) == set()


def test_the_headers_agree(tmp_path: Path) -> None:
    """A program that includes both compiles: every declaration, constant and type is the same."""
    theirs = Path("/usr/include/librpma.h")
    if not theirs.exists():
        pytest.skip("librpma-dev is not installed")
    enums = ("rpma_util_ibv_context_type", "rpma_conn_event", "rpma_flush_type")
    enums = (*enums, "rpma_log_level", "rpma_log_threshold")
    text = theirs.read_text()
    plain = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    # The enumerators are compared one by one; C has no second enum or struct of a name.
    constants = {
        name
        for enum in enums
        for body in re.findall(rf"enum {enum} \{{(.*?)\}}", plain, flags=re.S)
        for name in re.findall(r"\b(RPMA_\w+)", body)
    }
    constants |= set(re.findall(r"#define (RPMA_\w+)[ \t]+[^\n]*\d", plain))
    assert len(constants) > 30
    values = []
    for header in (theirs, ROOT / "native/librpma/librpma.h"):
        source = tmp_path / "constants.c"
        lines = "".join(f'printf("%s %ld\\n", "{c}", (long){c});' for c in sorted(constants))
        source.write_text(
            f'#include "{header}"\n#include <stdio.h>\nint main(void) {{ {lines}'
            'printf("%zu\\n", sizeof(struct rpma_conn_private_data)); return 0; }\n'
        )
        program = tmp_path / "constants"
        subprocess.run(["gcc", "-o", program, source], check=True)
        values.append(subprocess.run([program], capture_output=True, check=True).stdout)
    assert values[0] == values[1]
    both = tmp_path / "both.c"
    for name in (*enums, "rpma_conn_private_data"):
        plain = re.sub(rf"(enum|struct) {name} \{{.*?\}};", "", plain, flags=re.S)
    plain = re.sub(r"#(ifn?def LIBRPMA_H|define LIBRPMA_H 1)", "", plain)
    plain = re.sub(
        r"#(define|include)[^\n]*|#ifdef __cplusplus.*?#endif|#endif", "", plain, flags=re.S
    )
    both.write_text(f'#include "{ROOT / "native/librpma/librpma.h"}"\n{plain}\n')
    done = subprocess.run(
        ["gcc", "-fsyntax-only", "-Wall", "-Werror", both], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
