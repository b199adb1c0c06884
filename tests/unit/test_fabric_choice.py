"""Which fabric rpma takes: what RPMA_FABRIC, /sys and the dynamic linker say, and what it tells."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rpma
from rpma import _fabric
from rpma._fabric import Plan

SOFT = Path(_fabric.SOFT_FOLDER)
NO_DEVICE: list[str] = []

needs_soft = pytest.mark.skipif(not _fabric.has_soft(), reason="there is no soft RNIC")
without_device = pytest.mark.skipif(bool(_fabric.devices()), reason="there is an RDMA device")

#: Prints the fabric after what `before` does.
SHOW = "import rpma; print(rpma.fabric.name, rpma.fabric.ibverbs_path, rpma.fabric.reason)"
LOAD_ANOTHER = "import ctypes; ctypes.CDLL('libibverbs.so.1')"


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it without a choice of this process's own."""
    inherited = {name: value for name, value in os.environ.items() if name != "RPMA_FABRIC"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def import_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    return last


# ---- the decision ------------------------------------------------------------------------------


@pytest.mark.parametrize("environ", [{}, {"RPMA_FABRIC": ""}, {"RPMA_FABRIC": "auto"}])
def test_the_default_is_auto(environ: dict[str, str]) -> None:
    assert _fabric.wanted(environ) == "auto"


@pytest.mark.parametrize("value", ["RDMA", "soft ", "none", "0"])
def test_any_other_value_is_an_import_error_that_names_the_values(value: str) -> None:
    with pytest.raises(ImportError, match=f"RPMA_FABRIC={value}: set it to auto .* rdma .* soft"):
        _fabric.wanted({"RPMA_FABRIC": value})


def test_auto_takes_a_real_device_where_there_is_one() -> None:
    made = _fabric.plan("auto", loaded=False, found=["mlx5_0", "rxe0"], installed=True)
    assert made == Plan(False, "this machine has an RDMA device: mlx5_0, rxe0")


def test_auto_takes_the_soft_rnic_where_there_is_no_device() -> None:
    made = _fabric.plan("auto", loaded=False, found=NO_DEVICE, installed=True)
    assert made == Plan(True, "this machine has no RDMA device")


def test_auto_goes_without_where_there_is_neither() -> None:
    made = _fabric.plan("auto", loaded=False, found=NO_DEVICE, installed=False)
    assert not made.load_soft
    assert "installed without the soft RNIC" in made.reason


def test_soft_is_taken_even_where_there_is_a_device() -> None:
    made = _fabric.plan("soft", loaded=False, found=["rxe0"], installed=True)
    assert made == Plan(True, "RPMA_FABRIC=soft")


def test_soft_without_a_soft_rnic_is_an_import_error_that_names_the_folder() -> None:
    with pytest.raises(ImportError, match=r"/nowhere lacks libibverbs\.so\.1 .*Install rpma again"):
        _fabric.plan("soft", loaded=False, found=NO_DEVICE, installed=False, folder="/nowhere")


@pytest.mark.parametrize("choice", _fabric.VALUES)
def test_a_second_libibverbs_is_never_loaded(choice: str) -> None:
    assert not _fabric.plan(choice, loaded=True, found=NO_DEVICE, installed=True).load_soft


def test_rdma_loads_nothing() -> None:
    made = _fabric.plan("rdma", loaded=False, found=NO_DEVICE, installed=True)
    assert made == Plan(False, "RPMA_FABRIC=rdma")


def test_devices_are_what_sys_lists(tmp_path: Path) -> None:
    assert _fabric.devices(str(tmp_path / "none")) == []
    for name in ("rxe0", "mlx5_0"):
        (tmp_path / name).mkdir()
    assert _fabric.devices(str(tmp_path)) == ["mlx5_0", "rxe0"]


def test_the_soft_rnic_is_both_of_its_libraries(tmp_path: Path) -> None:
    (tmp_path / "libibverbs.so.1").touch()
    assert not _fabric.has_soft(str(tmp_path))
    (tmp_path / "librdmacm.so.1").touch()
    assert _fabric.has_soft(str(tmp_path))


def test_a_loaded_libibverbs_is_seen_by_its_name(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    lines = ["7f00-7f01 r-xp 0 fe:00 1  /usr/lib/libc.so.6", "7f02-7f03 rw-p 0 00:00 0"]
    # A wheel's own copy, which has another name, is none that librpma would bind to.
    lines.append("7f04-7f05 r-xp 0 fe:00 2  /site-packages/x.libs/libibverbs-1a2b.so.1.14.44.0")
    maps.write_text("\n".join(lines))
    assert not _fabric.is_loaded("libibverbs.so.1", str(maps))
    lines.append("7f06-7f07 r-xp 0 fe:00 3  /usr/lib/libibverbs.so.1.14.44.0")
    maps.write_text("\n".join(lines))
    assert _fabric.is_loaded("libibverbs.so.1", str(maps))
    assert not _fabric.is_loaded("libibverbs.so.1", str(tmp_path / "none"))


THEIRS = ("/usr/lib/libibverbs.so.1", "/usr/lib/librdmacm.so.1")
OURS = (f"{SOFT}/libibverbs.so.1", f"{SOFT}/librdmacm.so.1")


@pytest.mark.parametrize(
    ("choice", "made", "paths", "expected"),
    [
        ("auto", Plan(True, "no device"), OURS, ("soft", "no device")),
        ("auto", Plan(False, "a device"), THEIRS, ("rdma", "a device")),
        ("rdma", Plan(False, "asked"), THEIRS, ("rdma", "asked")),
        ("soft", Plan(False, "asked"), OURS, ("soft", "asked")),
        (
            "auto",
            Plan(False, "a device"),
            OURS,
            ("soft", "LD_LIBRARY_PATH or LD_PRELOAD leads to the soft RNIC's libibverbs.so.1"),
        ),
    ],
)
def test_the_fabric_is_what_was_loaded(
    choice: str, made: Plan, paths: tuple[str, str], expected: tuple[str, str]
) -> None:
    fabric = _fabric.settle(choice, made, *paths)
    assert (fabric.name, fabric.reason) == expected
    assert fabric.ibverbs_path == paths[0]


@pytest.mark.parametrize(
    ("choice", "paths", "words"),
    [
        ("soft", THEIRS, ["RPMA_FABRIC=soft, but /usr/lib/libibverbs.so.1", "Import rpma first"]),
        ("rdma", OURS, ["RPMA_FABRIC=rdma, but this process has the soft RNIC", OURS[0]]),
        ("auto", (OURS[0], THEIRS[1]), ["both", OURS[0], THEIRS[1], f"LD_LIBRARY_PATH={SOFT}"]),
        ("auto", (THEIRS[0], OURS[1]), ["both", "LD_PRELOAD"]),
    ],
)
def test_a_conflict_is_an_import_error_that_says_what_to_do(
    choice: str, paths: tuple[str, str], words: list[str]
) -> None:
    with pytest.raises(ImportError) as caught:
        _fabric.settle(choice, Plan(False, ""), *paths)
    for word in words:
        assert word in str(caught.value)


# ---- the import --------------------------------------------------------------------------------


def test_the_fabric_tells_which_libibverbs_is_in_use() -> None:
    assert rpma.fabric.ibverbs_path == rpma.library.ibverbs_path
    assert rpma.fabric.name == (
        "soft" if Path(rpma.library.ibverbs_path).parent == SOFT else "rdma"
    )
    assert rpma.fabric.reason


def test_rdma_takes_the_systems_libraries() -> None:
    name, path, reason = python(SHOW, RPMA_FABRIC="rdma").stdout.split(maxsplit=2)
    assert (name, reason.strip()) == ("rdma", "RPMA_FABRIC=rdma")
    assert Path(path).parent != SOFT


@needs_soft
def test_soft_takes_our_libraries_for_librpma_as_well() -> None:
    code = f"{SHOW}; print(rpma.library.rdmacm_path)"
    first, rdmacm = python(code, RPMA_FABRIC="soft").stdout.splitlines()
    assert first == f"soft {SOFT / 'libibverbs.so.1'} RPMA_FABRIC=soft"
    assert rdmacm == str(SOFT / "librdmacm.so.1")


@needs_soft
@without_device
def test_without_a_device_the_soft_rnic_comes_by_itself() -> None:
    assert python(SHOW).stdout.startswith("soft ")


@needs_soft
def test_a_library_path_to_the_soft_rnic_chooses_it() -> None:
    done = python(f"{LOAD_ANOTHER}; {SHOW}", LD_LIBRARY_PATH=str(SOFT))
    assert done.stdout.startswith(f"soft {SOFT}"), done.stderr
    assert "LD_LIBRARY_PATH or LD_PRELOAD leads to" in done.stdout


@needs_soft
def test_a_library_path_to_the_soft_rnic_contradicts_rdma() -> None:
    done = python(SHOW, LD_LIBRARY_PATH=str(SOFT), RPMA_FABRIC="rdma")
    assert "RPMA_FABRIC=rdma, but this process has the soft RNIC" in import_error(done)


def test_what_somebody_else_has_loaded_is_taken_and_said() -> None:
    done = python(f"{LOAD_ANOTHER}; {SHOW}")
    assert done.stdout.startswith("rdma "), done.stderr
    assert "was loaded before rpma was imported" in done.stdout


@needs_soft
def test_what_somebody_else_has_loaded_contradicts_soft() -> None:
    text = import_error(python(f"{LOAD_ANOTHER}; {SHOW}", RPMA_FABRIC="soft"))
    assert "was loaded before rpma was imported" in text
    assert f"LD_LIBRARY_PATH={SOFT}" in text


def test_a_wrong_value_is_an_import_error() -> None:
    assert "RPMA_FABRIC=hard: set it to" in import_error(python(SHOW, RPMA_FABRIC="hard"))


@needs_soft
def test_the_choice_imports_nothing_heavy() -> None:
    code = "import sys; before = set(sys.modules); import rpma; print(*set(sys.modules) - before)"
    loaded = set(python(code, RPMA_FABRIC="soft").stdout.split())
    assert "rpma._fabric" in loaded
    assert not loaded & {"ctypes", "logging", "subprocess", "cffi", "pathlib"}


# ---- the log -----------------------------------------------------------------------------------

#: Looks devices up, with a listener that came after the import.
LISTEN = """
import contextlib, sys, rpma
from rpma.log import Level, Threshold
seen = []
def look():
    with contextlib.suppress(rpma.RpmaError):
        rpma.Device("127.0.0.1")
rpma.log.set_function(seen.append)
look()
rpma.log.flush()
assert not [r for r in seen if "soft RNIC" in r.message]  # librpma's threshold is WARNING
rpma.log.set_threshold(Threshold.MAIN, Level.NOTICE)
look()
look()
rpma.log.flush()
for record in seen:
    if "soft RNIC" in record.message:
        print(record.level.name, record.message)
"""


@needs_soft
def test_the_log_says_once_that_the_soft_rnic_was_taken() -> None:
    done = python(LISTEN, RPMA_FABRIC="soft")
    assert done.stdout == (
        "NOTICE the soft RNIC is the RDMA device of this process: RPMA_FABRIC=soft\n"
    ), done.stderr


def test_the_log_says_nothing_of_a_real_fabric() -> None:
    done = python(LISTEN, RPMA_FABRIC="rdma")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@needs_soft
def test_logging_gets_the_message_too() -> None:
    code = """
import contextlib, logging, rpma
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
rpma.log.use_logging()
with contextlib.suppress(rpma.RpmaError):
    rpma.Device("127.0.0.1")
rpma.log.flush()
"""
    done = python(code, RPMA_FABRIC="soft")
    assert "INFO rpma the soft RNIC is the RDMA device of this process" in done.stderr
