"""What becomes of the commands' output where it cannot be written, or not as it is."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import sysconfig
import termios
import time
from pathlib import Path
from typing import IO

import pytest
import typer.main

from rpma import _fabric
from rpma.cli.app import app

COMMAND = Path(sysconfig.get_path("scripts")) / "rpma"
SAMPLE = Path(__file__).parent / "trace_sample.log"

HELPS = [[name, "--help"] for name in typer.main.get_command(app).commands]  # type: ignore[attr-defined]

#: All that prints something without a target.
EACH = [
    ["--help"],
    ["version"],
    ["info"],
    ["info", "--json"],
    ["doctor"],
    ["debug-path"],
    *([["soft-path"]] if _fabric.has_soft() else []),
    ["token"],
    ["trace", str(SAMPLE)],
    ["trace", str(SAMPLE), "--json"],
    ["COMPLETION"],
]


def command(
    arguments: list[str], stdout: int | IO[bytes] | None = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    left_out = ("PYTHONUNBUFFERED", "COLUMNS")  # what is buffered fails late
    inherited = {name: value for name, value in os.environ.items() if name not in left_out}
    if arguments == ["COMPLETION"]:
        arguments, environment = [], environment | {"_RPMA_COMPLETE": "source_bash"}
    return subprocess.run(
        [str(COMMAND), *arguments],
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", [*EACH, *HELPS], ids=" ".join)
def test_output_that_cannot_be_written_is_a_failure(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = command(arguments, full)
    assert done.returncode == 1
    words = b"rpma: cannot write to the standard output: No space left on device\n"
    assert done.stderr == words


@pytest.mark.parametrize("arguments", EACH, ids=" ".join)
def test_a_reader_that_has_left_is_none(arguments: list[str]) -> None:
    usual = command(arguments)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = command(arguments, writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (usual.returncode, b"")


@pytest.mark.parametrize("arguments", EACH, ids=" ".join)
def test_any_encoding_will_do(arguments: list[str]) -> None:
    usual = command(arguments)
    done = command(arguments, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (usual.returncode, b"")
    assert done.stdout.count(b"\n") == usual.stdout.count(b"\n")
    assert done.stdout.isascii()


def test_a_standard_output_that_is_closed() -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" "$@" >&-', str(COMMAND), "info", "--json"],
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == b"rpma: cannot write to the standard output: Bad file descriptor\n"


def test_a_standard_error_that_cannot_be_written_changes_nothing() -> None:
    for redirection in ("2>&-", "2>/dev/full"):
        script = f'exec "$0" "$@" {redirection}'
        done = subprocess.run(["sh", "-c", script, str(COMMAND), "list", "127.0.0.1:1"], timeout=60)
        assert done.returncode == 1


def test_a_pipe_that_does_not_block_gets_all_of_it() -> None:
    code = "from rpma.cli import output; output.run(lambda: print('x' * 1_000_000))"
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    with process, os.fdopen(reader, "rb") as stream:
        assert stream.read() == b"x" * 1_000_000 + b"\n"
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_a_log_is_read_to_its_end_from_a_pipe_that_does_not_block() -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    process = subprocess.Popen(
        [str(COMMAND), "trace", "-", "--json"], stdin=reader, stdout=subprocess.PIPE
    )
    os.close(reader)
    lines = SAMPLE.read_bytes().splitlines(keepends=True)
    with process:
        for part in (lines[:9], lines[9:]):
            time.sleep(0.3)  # it finds nothing meanwhile
            os.write(writer, b"".join(part))
        os.close(writer)
        printed, _ = process.communicate(timeout=60)
    assert json.loads(printed)["files"][0]["lines"] == len(lines)


def test_what_an_encoding_lacks_is_written_in_another_way() -> None:
    code = (
        "from rpma.cli import output\n"
        "output.run(lambda: print('12 µs ▁█ … \\N{SNOWMAN} \\N{LATIN SMALL LETTER E WITH ACUTE} "
        "\\udcff'))"
    )
    for encoding, words in (
        ("ascii", b"12 us _# ~ \\u2603 \\xe9 \\udcff\n"),
        ("latin-1", b"12 \xb5s _# ~ \\u2603 \xe9 \\udcff\n"),
        ("utf-8", "12 µs ▁█ … ☃ é \\udcff\n".encode()),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, words, b"")


def on_a_terminal(arguments: list[str], columns: int) -> tuple[int, bytes]:
    """The exit code of a command on a terminal of so many columns, and what it prints."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [str(COMMAND), *arguments],
        env=inherited | {"TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    printed = b""
    with process:
        try:
            while data := os.read(ours, 1 << 16):
                printed += data
        except OSError:  # nobody has the other side any more
            pass
        finally:
            os.close(ours)
    return process.returncode, printed


@pytest.mark.parametrize("arguments", [["version"], ["info"], ["trace", str(SAMPLE)]], ids=" ".join)
def test_nothing_is_cut(arguments: list[str]) -> None:
    assert "…".encode() not in command(arguments).stdout
    code, printed = on_a_terminal(arguments, 60)
    assert code == 0
    assert b"\x1b[" in printed  # it takes it for a terminal
    assert "…".encode() not in printed
