"""Files, pipes and terminals as users have them: what put, get and list do with them."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import random
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from targets import MIB, SOON, TOKEN, a_pool, connect, serving
from test_pool_commands import LIMIT, Served, served

import rpma
from fabrics.fabric import Fabric
from rpma.pool import Pool, Target, remove_pool

pytestmark = [pytest.mark.fabric, pytest.mark.soft_only("files and pipes never meet the device")]


@pytest.fixture(scope="module")
def target(fabric: Fabric, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(fabric, tmp_path_factory.mktemp("target") / "pools") as running:
        yield running


@pytest.fixture(scope="module")
def embedded(fabric: Fabric) -> Iterator[Target]:
    with serving(fabric, dram="64MiB") as running:
        yield running


def spawn(target: Served, *arguments: str | Path, **streams: Any) -> subprocess.Popen[bytes]:
    left_out = ("COLUMNS", "PYTHONUNBUFFERED")
    environment = {k: v for k, v in target._environment.items() if k not in left_out}
    command = [*target._command, *map(str, arguments)]
    return subprocess.Popen(command, env=environment | {"TERM": "xterm"}, **streams)


# ---- pipes that do not block -------------------------------------------------------------------


def test_a_put_from_a_pipe_that_does_not_block_is_whole(target: Served) -> None:
    data, pool = random.Random(7).randbytes(300_000), f"{target.target}/slow"
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    put = spawn(target, "put", "-", pool, "--size", "1MiB", stdin=reader, stdout=subprocess.PIPE)
    os.close(reader)
    with put:
        for at in range(0, len(data), 50_000):
            time.sleep(0.05)  # it finds nothing meanwhile
            os.write(writer, data[at : at + 50_000])
        os.close(writer)
        put.communicate(timeout=LIMIT)
    assert put.returncode == 0
    assert target.run("get", pool, "-")[0] == data


def test_more_than_there_is_room_for_is_noticed_in_such_a_pipe(target: Served) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    arguments = ("put", "-", f"{target.target}/full", "--size", "4KiB")
    put = spawn(target, *arguments, stdin=reader, stderr=subprocess.PIPE)
    os.close(reader)
    with put:
        os.write(writer, bytes(4096))
        target.wait_for("created pool 'full'")
        time.sleep(0.2)
        os.write(writer, b"more")
        os.close(writer)
        _, errors = put.communicate(timeout=LIMIT)
    assert put.returncode == 1
    assert errors.startswith(b"rpma put: more comes than the 4096 bytes that the pool has")


def test_a_get_into_a_pipe_that_does_not_block_is_whole(target: Served, tmp_path: Path) -> None:
    data, pool = random.Random(8).randbytes(MIB), f"{target.target}/get"
    (tmp_path / "file").write_bytes(data)
    target.run("put", tmp_path / "file", pool)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    get = spawn(target, "get", pool, "-", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    with get, open(reader, "rb") as stream:
        time.sleep(0.2)  # the pipe is full
        assert stream.read() == data
        assert get.stderr is not None
        assert get.stderr.read() == b""
    assert get.returncode == 0


@pytest.mark.parametrize("buffering", [0, -1])
def test_pools_write_what_comes_from_a_pipe_that_does_not_block(
    embedded: Target, buffering: int
) -> None:
    data = random.Random(9).randbytes(600_000)
    reader, writer = os.pipe()
    os.set_blocking(reader, False)

    def write() -> None:
        with open(writer, "wb") as stream:
            stream.write(data)

    thread = threading.Thread(target=write)
    with a_pool(embedded, volatile=True) as pool, open(reader, "rb", buffering) as source:
        thread.start()
        pool.write_from(5, source, len(data), timeout=SOON)
        thread.join()
        assert pool.read(5, len(data)) == data
    remove_pool(embedded.address, "pool", token=TOKEN)


@pytest.mark.parametrize("buffering", [0, -1])
def test_pools_are_read_to_a_pipe_that_does_not_block(embedded: Target, buffering: int) -> None:
    data, found = random.Random(9).randbytes(600_000), bytearray()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def read() -> None:
        with open(reader, "rb") as stream:
            found.extend(stream.read())

    thread = threading.Thread(target=read)
    with a_pool(embedded, volatile=True) as pool:
        pool.write(5, data)
        thread.start()
        with open(writer, "wb", buffering) as sink:
            pool.read_to(5, sink, len(data), timeout=SOON)
            os.set_blocking(writer, True)  # for what is in its buffer
        thread.join()
    assert found == data
    remove_pool(embedded.address, "pool", token=TOKEN)


def test_a_pipe_in_which_nothing_comes_is_waited_for_no_longer_than_said(embedded: Target) -> None:
    with connect(embedded) as client, client.create_pool("none", 4096, volatile=True) as pool:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        with (
            open(reader, "rb", 0) as source,
            open(writer, "wb", 0),
            pytest.raises(rpma.WaitTimeoutError),
        ):
            pool.write_from(0, source, 10, timeout=0.1)
        check_works(pool)


def check_works(pool: Pool) -> None:
    pool.write_from(0, io.BytesIO(b"works"), 5, timeout=SOON)
    assert pool.read(0, 5, timeout=SOON) == b"works"


# ---- sizes that lie ----------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["/proc/version", "/sys/class/net/lo/mtu"])
def test_what_the_system_says_of_its_own_files_is_not_believed(target: Served, file: str) -> None:
    pool = f"{target.target}/system"
    put = target.json("put", file, pool, "--overwrite")
    data = Path(file).read_bytes()
    assert (put["bytes"], put["durable"], put["size"]) == (len(data),) * 3
    assert target.run("get", pool, "-")[0] == data


def test_a_file_that_grows_while_it_is_put(target: Served, tmp_path: Path) -> None:
    file, pool = tmp_path / "log", f"{target.target}/log"
    file.write_bytes(bytes(8 * MIB))
    done = threading.Event()

    def append() -> None:
        with open(file, "ab", 0) as stream:
            while not done.is_set():
                stream.write(b"a line\n")
                time.sleep(0.01)

    thread = threading.Thread(target=append)
    thread.start()
    try:
        put = target.json("put", file, pool, code=1)
        _, errors = target.run("put", file, pool, "--overwrite", code=1)
    finally:
        done.set()
        thread.join()
    assert "log was written to while it was read" in put["error"]
    assert errors.endswith("; nothing was replaced\n")
    assert target.json("info", pool)["incomplete"]
    target.run("put", file, pool, "--overwrite")
    assert target.run("get", pool, "-")[0] == file.read_bytes()


def test_a_file_with_holes(target: Served, tmp_path: Path) -> None:
    file, pool = tmp_path / "holes", f"{target.target}/holes"
    with open(file, "wb") as stream:
        stream.seek(5 * MIB)
        stream.write(b"in the middle")
        stream.truncate(6 * MIB + 1)
    target.run("put", file, pool)
    assert target.run("get", pool, "-")[0] == file.read_bytes()


def test_devices(target: Served) -> None:
    pool = f"{target.target}/device"
    assert target.json("put", "/dev/null", pool, "--size", "16")["bytes"] == 0
    arguments = ("put", "/dev/zero", pool, "--size", "16", "--overwrite")
    _, errors = target.run(*arguments, code=1)
    assert errors.startswith("rpma put: more comes than the 16 bytes that the pool has; nothing")
    target.run("put", "-", pool, "--size", "16", "--overwrite", data=b"something")
    target.run("get", pool, "/dev/null")
    _, errors = target.run("get", pool, "/dev/full", code=1)
    assert errors == "rpma get: /dev/full: No space left on device\n"


# ---- where output goes -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_name(target: Served) -> str:
    name = "a-name-as-long-as-names-of-pools-may-be.2026-11-28".ljust(64, "x")
    target.run("put", "-", f"{target.target}/{name}", "--size", "9", data=b"something")
    return name


def test_a_terminal_of_80_columns_shows_names_as_they_are(target: Served, long_name: str) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    printed = b""
    with spawn(
        target, "list", target.target, stdin=theirs, stdout=theirs, stderr=theirs
    ) as listing:
        os.close(theirs)
        try:
            while data := os.read(ours, 1 << 16):
                printed += data
        except OSError:  # nobody has the other side any more
            pass
        os.close(ours)
    assert listing.returncode == 0
    assert b"\x1b[" in printed
    assert long_name.encode() in printed


def test_a_pipe_gets_names_as_they_are(target: Served, long_name: str) -> None:
    for columns in ("", "40"):
        output, errors = target.run("list", target.target, COLUMNS=columns)
        assert errors == ""
        assert long_name.encode() in output


def commands(target: Served, name: str, tmp_path: Path) -> list[list[str]]:
    at = target.target
    return [
        ["list", at],
        ["list", at, "--json"],
        ["info", f"{at}/{name}"],
        ["create", f"{at}/made-{random.randbytes(6).hex()}", "4096"],
        ["put", "/proc/version", f"{at}/put", "--overwrite"],
        ["put", "/proc/version", f"{at}/put", "--overwrite", "--json"],
        ["get", f"{at}/{name}", str(tmp_path / "got")],
        ["bench", at, "--sizes", "8", "--seconds", "0.01"],
        ["bench", at, "--sizes", "8", "--seconds", "0.01", "--json", "-"],
    ]


FULL = b"rpma: cannot write to the standard output: No space left on device\n"


def test_output_that_cannot_be_written(target: Served, long_name: str, tmp_path: Path) -> None:
    for arguments in commands(target, long_name, tmp_path):
        with (
            open("/dev/full", "wb") as full,
            spawn(target, *arguments, stdout=full, stderr=subprocess.PIPE) as command,
        ):
            _, errors = command.communicate(timeout=LIMIT)
        assert (command.returncode, errors) == (1, FULL), arguments
    bench = commands(target, long_name, tmp_path)[-1][:-1]
    _, errors = target.run(*bench, "/dev/full", code=1)
    assert errors == "rpma bench: /dev/full: No space left on device\n"
    with open("/dev/full", "wb") as full:
        get = spawn(target, "get", f"{target.target}/{long_name}", "-", stdout=full, stderr=-1)
        with get:
            _, errors = get.communicate(timeout=LIMIT)
    words = b"rpma get: the standard input or output: No space left on device\n"
    assert (get.returncode, errors) == (1, words)


def test_a_reader_that_has_left(target: Served, long_name: str, tmp_path: Path) -> None:
    at = target.target
    for arguments in (*commands(target, long_name, tmp_path), ["get", f"{at}/{long_name}", "-"]):
        reader, writer = os.pipe()
        os.close(reader)
        with spawn(target, *arguments, stdout=writer, stderr=subprocess.PIPE) as command:
            os.close(writer)
            _, errors = command.communicate(timeout=LIMIT)
        assert (command.returncode, errors) == (0, b""), arguments


def test_a_reader_of_a_named_pipe_that_has_left_is_an_error(target: Served, tmp_path: Path) -> None:
    pool, fifo = f"{target.target}/fifo", tmp_path / "fifo"
    target.run("put", "-", pool, "--size", "1MiB", data=bytes(MIB))
    os.mkfifo(fifo)
    with spawn(target, "get", pool, fifo, stderr=subprocess.PIPE) as get:
        with open(fifo, "rb") as stream:
            stream.read(1)
        _, errors = get.communicate(timeout=LIMIT)
    assert (get.returncode, errors) == (1, f"rpma get: {fifo}: Broken pipe\n".encode())


def test_any_encoding_will_do(target: Served, long_name: str, tmp_path: Path) -> None:
    for arguments in commands(target, long_name, tmp_path):
        output, errors = target.run(*arguments, PYTHONIOENCODING="ascii", LC_ALL="C")
        assert output.isascii(), arguments
        assert errors == "", arguments
