"""The debug build of librpma under the sanitizers: what finds mistakes makes none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from softrnic_programs import SANITIZERS
from softrnic_programs import run as must

from fabrics import soft
from fabrics.fabric import Fabric
from fabrics.validation import OPTIONS, SOURCES, compile_program, run

pytestmark = pytest.mark.timeout(600)

#: What a sanitizer says it found something with.
FOUND = ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "WARNING: ThreadSanitizer")
FOUND += ("runtime error:",)

#: What wants more of the address space than ThreadSanitizer leaves.
TOO_LARGE = {"length_over_32_bits"}


@pytest.fixture(scope="module", params=SANITIZERS)
def sanitized(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Path], dict[str, str]]:
    """The build's folder, the programs, and what they need in their environment."""
    options = SANITIZERS[request.param]
    made = tmp_path_factory.mktemp("sanitized")
    generated = [made / name for name in ("interface.h", "wrappers.c", "librpma.map")]
    must(sys.executable, SOURCES / "generate.py", SOURCES / "interface.txt", *generated)
    must(
        *("gcc", "-shared", "-fPIC", *OPTIONS, "-O1", *options, "-fvisibility=hidden"),
        *(f"-I{made}", f"-I{SOURCES}", '-DRPMA_DEBUG_VERSION="test"'),
        *(
            *sorted(SOURCES.glob("*.c")),
            SOURCES.parent / "common/default_log.c",
            made / "wrappers.c",
        ),
        *("-Wl,-soname,librpma.so.0", f"-Wl,--version-script={made / 'librpma.map'}"),
        *("-o", made / "librpma.so.0", "-pthread"),
    )
    programs = {
        name: compile_program(name, made / name, *options)
        for name in ("sound", "overlap", "mistakes", "manual")
    }
    variables = {"LD_LIBRARY_PATH": str(soft.folder()), "RPMA_TEST_ADDRESS": "127.0.0.1"}
    # The device is not compiled for it here, so that its locks and counters are not seen; it has
    # tests of its own with it.
    suppressions = made / "suppressions"
    suppressions.write_text("race:libibverbs.so.1\nrace:librdmacm.so.1\n")
    variables["TSAN_OPTIONS"] = f"report_signal_unsafe=0:suppressions={suppressions}"
    return made, programs, variables


def check(errors: str) -> None:
    assert not any(words in errors for words in FOUND), errors[-4000:]


@pytest.mark.parametrize(("name", "level"), [("sound", 0), ("sound", 4), ("overlap", 4)])
def test_a_sound_program(
    name: str, level: int, sanitized: tuple[Path, dict[str, Path], dict[str, str]], tmp_path: Path
) -> None:
    debug, programs, variables = sanitized
    variables = {**variables, "RPMA_TEST_PORT": Fabric("soft", "", "").next_port()}
    done = run(programs[name], level=level, file=tmp_path / "log", debug=debug, variables=variables)
    check(done.errors)
    assert done.code == 0, done.errors


@pytest.mark.parametrize("what", ["error", "threads", "kept", "many", "forks", "function"])
def test_messages_and_logs(
    what: str, sanitized: tuple[Path, dict[str, Path], dict[str, str]], tmp_path: Path
) -> None:
    debug, programs, variables = sanitized
    done = run(
        *(programs["manual"], what),
        level=4,
        file=tmp_path / "log",
        debug=debug,
        variables=variables,
    )
    check(done.errors)
    assert done.code == 0, done.errors


def test_every_mistake(
    sanitized: tuple[Path, dict[str, Path], dict[str, str]], tmp_path: Path
) -> None:
    """They leak what they made, on purpose; that is not what is looked for."""
    debug, programs, variables = sanitized
    variables = {**variables, "ASAN_OPTIONS": "detect_leaks=0"}
    for name in must(programs["mistakes"], LD_LIBRARY_PATH=f"{debug}:{soft.folder()}").split():
        if name in TOO_LARGE:
            continue
        variables["RPMA_TEST_PORT"] = Fabric("soft", "", "").next_port()
        done = run(
            *(programs["mistakes"], name),
            level=4,
            file=tmp_path / name,
            aborts=False,
            debug=debug,
            variables=variables,
        )
        check(done.errors)
        assert done.code == 0, (name, done.errors[-2000:])
