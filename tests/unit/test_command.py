"""The `rpma` command as its users run it: what it prints where, and its exit codes."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import rpma
from rpma import _fabric

COMMAND = Path(sysconfig.get_path("scripts")) / "rpma"

needs_soft = pytest.mark.skipif(not _fabric.has_soft(), reason="there is no soft RNIC")


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *arguments],
        env=os.environ | {"COLUMNS": "200"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def without_librpma(tmp_path: Path) -> str:
    """A library path on which librpma.so.0 is no library."""
    (tmp_path / "librpma.so.0").touch()
    return str(tmp_path)


@needs_soft
def test_soft_path_prints_the_folder_and_nothing_else() -> None:
    done = command("soft-path")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{_fabric.SOFT_FOLDER}\n", "")
    assert (Path(done.stdout.strip()) / "libibverbs.so.1").is_file()


def test_soft_path_fails_where_there_is_none(tmp_path: Path) -> None:
    # A copy of the package that was installed without it.
    package = Path(rpma.__file__).parent
    for file in package.rglob("*"):
        if file.is_file() and not {"softrnic", "__pycache__"} & set(file.parts):
            copy = tmp_path / "rpma" / file.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "rpma.cli", "soft-path"],
        env={name: value for name, value in os.environ.items() if name != "RPMA_FABRIC"}
        | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"{tmp_path}/rpma/softrnic lacks libibverbs.so.1" in done.stderr
    assert "Install rpma again" in done.stderr


DEBUG_FOLDER = Path(rpma.__file__).parent / "debug"


@needs_soft
@pytest.mark.parametrize("choice", ["soft", "rdma", "auto"])
def test_debug_path_prints_the_folders_that_the_fabric_needs_and_nothing_else(choice: str) -> None:
    is_soft = choice == "soft" or (choice == "auto" and not _fabric.devices())
    done = command("debug-path", RPMA_FABRIC=choice)
    path = f"{DEBUG_FOLDER}:{_fabric.SOFT_FOLDER}" if is_soft else str(DEBUG_FOLDER)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{path}\n", "")
    assert (DEBUG_FOLDER / "librpma.so.0").is_file()


def test_debug_path_says_what_rpma_fabric_should_be() -> None:
    done = command("debug-path", RPMA_FABRIC="hard")
    assert (done.returncode, done.stdout) == (1, "")
    assert "RPMA_FABRIC=hard: set it to auto" in done.stderr


def test_trace_reads_a_log_and_adds_nothing_to_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    debug = {"LD_LIBRARY_PATH": command("debug-path").stdout.strip(), "RPMA_LOG_LEVEL": "3"}
    debug["RPMA_LOG_FILE"] = str(log)
    assert command("version", **debug).returncode == 0
    written = log.read_bytes()
    done = command("trace", str(log), **debug)
    assert (done.returncode, done.stderr) == (0, "")
    assert "rpma_check_version" in done.stdout
    assert log.read_bytes() == written


@pytest.mark.parametrize("fabric", ["rdma", pytest.param("soft", marks=needs_soft)])
def test_info_tells_what_runs_on_what(fabric: str) -> None:
    done = command("info", "--json", RPMA_FABRIC=fabric)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["fabric"] == {"name": fabric, "reason": f"RPMA_FABRIC={fabric}"}
    assert (facts["rpma"], facts["python"]) == (rpma.__version__, platform.python_version())
    assert facts["kernel"] == platform.release()
    assert set(facts["libraries"]) == {"librpma", "libibverbs", "librdmacm"}
    librpma = facts["libraries"]["librpma"]
    assert (librpma["path"], librpma["build"]) == (rpma.library.path, "normal")
    in_soft = Path(facts["libraries"]["libibverbs"]["path"]).parent == Path(_fabric.SOFT_FOLDER)
    assert in_soft == (fabric == "soft")
    for device in facts["devices"]:
        assert set(device) == {"name", "fabric", "state", "transport", "addresses"}


def test_info_is_a_table_for_people() -> None:
    done = command("info", RPMA_FABRIC="rdma")
    assert done.returncode == 0, done.stderr
    assert "rdma: RPMA_FABRIC=rdma" in done.stdout
    assert rpma.library.path in done.stdout


def test_doctor_prints_a_line_for_each_check() -> None:
    done = command("doctor")
    lines = done.stdout.splitlines()
    verdict = lines.pop()
    assert verdict.startswith("ready for: soft RNIC ")
    assert "; RDMA device " in verdict
    assert {line.split()[0] for line in lines} <= {"ok", "note", "warning", "problem"}
    assert any(line.split()[1:2] == ["librpma.so.0"] for line in lines)
    assert done.returncode == any(line.startswith("problem") for line in lines)


def test_doctor_works_where_librpma_does_not(without_librpma: str) -> None:
    done = command("doctor", LD_LIBRARY_PATH=without_librpma)
    assert done.returncode == 1
    first, *_, last = done.stdout.splitlines()
    assert last.startswith("ready for nothing: ")
    assert "librpma.so.0" in last
    assert first.startswith("problem")
    assert "librpma.so.0" in first
    assert done.stderr == ""


@pytest.mark.parametrize("arguments", [["info"], ["version"], ["demo", __file__]])
def test_other_commands_say_why_they_cannot_run(arguments: list[str], without_librpma: str) -> None:
    done = command(*arguments, LD_LIBRARY_PATH=without_librpma)
    assert (done.returncode, done.stdout) == (1, "")
    assert "librpma.so.0" in done.stderr
    assert "rpma doctor" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_choice_is_said_by_the_command() -> None:
    done = command("info", RPMA_FABRIC="hard")
    assert done.returncode == 1
    assert "RPMA_FABRIC=hard: set it to auto" in done.stderr
    assert "Traceback" not in done.stderr


COMMANDS = (
    *("version", "info", "soft-path", "debug-path", "doctor", "demo", "trace", "serve", "token"),
    *("create", "list", "put", "get", "resize", "remove", "bench"),
)


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_is_short_too_and_an_option_without_a_value_takes_none(arguments: list[str]) -> None:
    short, long = command(*arguments, "-h"), command(*arguments, "--help")
    assert (short.returncode, short.stderr) == (0, "")
    assert short.stdout == long.stdout
    assert "Usage: rpma" in short.stdout
    shown = short.stdout.replace(" ", "")
    assert "<bool>" not in shown
    for name in ("json", "overwrite", "volatile", "partial", "ssh", "direct-write-to-pmem"):
        if f"--{name}" in shown and [name, *arguments] != ["json", "bench"]:  # whose takes a FILE
            assert f"--{name}--no-{name}" in shown


def test_a_flag_can_be_taken_back() -> None:
    done = command("info", "--json", "--no-json")
    assert done.returncode == 0
    assert done.stdout.startswith("fabric ")


def test_help_is_there_without_librpma(without_librpma: str) -> None:
    done = command("put", "--help", LD_LIBRARY_PATH=without_librpma)
    assert (done.returncode, done.stderr) == (0, "")
    assert "TARGET/POOL" in done.stdout


def test_version_is_an_option_too(without_librpma: str) -> None:
    for environment in ({}, {"LD_LIBRARY_PATH": without_librpma}):
        done = command("--version", **environment)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"rpma {rpma.__version__}\n", "")


def test_demo_says_which_fabric_it_takes() -> None:
    done = command("demo", __file__, RPMA_FABRIC="rdma")
    assert done.stderr.startswith("fabric: RDMA (RPMA_FABRIC=rdma)\n")
    if not _fabric.devices():
        assert done.returncode == 1
        assert "rpma demo: " in done.stderr
        assert "RPMA_FABRIC=soft does without a device" in done.stderr
