"""Ctrl-C at any moment of a command: no traceback, and nothing half-made is left behind.

The moments are those at which Python raises an audit event: an import, a file that is opened, a
socket that connects. So they are the same in each run, however fast the machine is.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpma import _fabric

pytestmark = pytest.mark.skipif(not _fabric.has_soft(), reason="there is no soft RNIC")

#: Runs the command; at the event of this number (0: never) its process group gets SIGINT, as from a
#: terminal. The last line says how many events there were.
DRIVER = """
import os, signal, sys
import rpma_command

at, count = int(sys.argv.pop(1)), 0

def hook(event, _arguments):
    global count
    count += 1
    if count == at:
        os.killpg(os.getpid(), signal.SIGINT)

sys.addaudithook(hook)
sys.argv[0] = "rpma"
try:
    rpma_command.main()
finally:
    if not at:
        print(f"EVENTS {count}", file=sys.stderr)
"""

NOWHERE = "127.0.0.1:1"

MOMENTS = 10
"""How many of them are tried, of each command."""


def start(at: int, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        # A shell ignores SIGINT in what it runs in the background, tests included.
        ["env", "--default-signal=INT", sys.executable, "-c", DRIVER, str(at)]
        + [str(argument) for argument in arguments],
        env=os.environ | {"RPMA_FABRIC": "soft", "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interrupted(*arguments: str | Path) -> Iterator[tuple[int, subprocess.CompletedProcess[str]]]:
    """The command, interrupted at each of some moments from its first to its last event."""
    with start(0, *arguments) as process:
        _, errors = process.communicate(timeout=60)
    normal, events = process.returncode, int(errors.rpartition("EVENTS ")[2])
    assert events > MOMENTS
    for number in range(MOMENTS):
        at = 1 + number * (events - 1) // (MOMENTS - 1)
        with start(at, *arguments) as process:
            try:
                output, errors = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        where = f"event {at} of {events}: {process.returncode} {errors}"
        for word in ("Traceback", "Exception ignored", "Fatal", "KeyboardInterrupt"):
            assert word not in output + errors, where
        assert process.returncode in (-signal.SIGINT, 130, normal), where
        yield normal, subprocess.CompletedProcess((), process.returncode, output, errors)


@pytest.mark.parametrize(
    "arguments",
    [
        ["version"],
        ["doctor"],
        ["list", NOWHERE],
        ["put", __file__, f"{NOWHERE}/pool"],
        ["bench", NOWHERE],
        ["trace", Path(__file__).with_name("trace_sample.log"), "--json"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_there_is_no_traceback(arguments: list[str]) -> None:
    for _ in interrupted(*arguments):
        pass


def test_a_token_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    file = folder / "token"
    for _ in interrupted("token", file):
        assert all(file.read_text().endswith("\n") for file in folder.iterdir())
        file.unlink(missing_ok=True)


@pytest.mark.parametrize("at", range(1, 2000, 200))
def test_a_target_ends(at: int, tmp_path: Path) -> None:
    with start(at, "serve", tmp_path, "--listen", "127.0.0.1:0") as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "listening" in line:  # its moment may never come then
                process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, -signal.SIGINT, 130), said
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_a_demo_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    file = tmp_path / "file"
    file.write_bytes(b"some")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for normal, done in interrupted("demo", file, "--port", str(port)):
        assert normal == 0, done
        assert not list(folder.iterdir()), done
