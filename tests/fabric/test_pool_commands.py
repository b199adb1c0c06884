"""The commands about pools as their users run them: a target, and what is asked of it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from commands import rpma_command
from pairs import SOON

import rpma
from fabrics.fabric import Fabric
from rpma.pool import Client
from rpma.pool.target.header import DATA_OFFSET

pytestmark = pytest.mark.fabric

TOKEN = "the token of the tests"
MIB = 1 << 20

#: Seconds that a command may take; the guest's processor is emulated.
LIMIT = 120

LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+), over")
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warning|error|critical) +\S.*"
)


class Served:
    """`rpma serve` in a process of its own, and commands that ask it."""

    def __init__(self, fabric: Fabric, token_file: Path, process: subprocess.Popen[str]) -> None:
        self._environment = fabric.environment | {
            "RPMA_TOKEN_FILE": str(token_file),
            "COLUMNS": "200",
        }
        self._command = rpma_command(fabric)
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.target = ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as log:
            for line in log:
                self.lines.append(line.rstrip("\n"))

    def find(self) -> None:
        """Wait until it listens, and learn where."""
        self.target = f"127.0.0.1:{self.wait_for(LISTENING)[1]}"

    def wait_for(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """The first line of the log that has it."""
        deadline = time.monotonic() + LIMIT
        while True:
            ended = not self._reader.is_alive()
            for line in tuple(self.lines):
                if match := re.search(pattern, line):
                    return match
            assert not ended, f"it has ended: {self.lines}"
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.01)

    def end(self) -> int:
        """Its exit code, which must come by itself; its log is complete then."""
        code = self.process.wait(LIMIT)
        self._reader.join(SOON)
        return code

    def client(self) -> Client:
        return Client(self.target, token=TOKEN, timeout=SOON)

    def popen(self, *arguments: str | Path, **environment: str) -> subprocess.Popen[bytes]:
        # A shell ignores SIGINT in what it runs in the background, tests included.
        return subprocess.Popen(
            ["env", "--default-signal=INT", *self._command, *map(str, arguments)],
            env=self._environment | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(
        self, *arguments: str | Path, data: bytes = b"", code: int = 0, **environment: str
    ) -> tuple[bytes, str]:
        """What a command prints on stdout and stderr; it must end with this exit code."""
        with self.popen(*arguments, **environment) as process:
            try:
                output, errors = process.communicate(data, LIMIT)
            except BaseException:
                process.kill()
                raise
        assert process.returncode == code, (arguments, output, errors)
        return output, errors.decode()

    def json(self, *arguments: str | Path, data: bytes = b"", code: int = 0) -> Any:
        output, _ = self.run(*arguments, "--json", data=data, code=code)
        return json.loads(output)


@contextmanager
def served(
    fabric: Fabric,
    folder: Path,
    *options: str,
    tokens: str = TOKEN,
    limit: int | None = None,
    **environment: str,
) -> Iterator[Served]:
    """Serve a folder; `limit` is the longest file that it can make, in KiB."""
    token_file = folder.parent / "token"
    token_file.touch(0o600)
    token_file.write_text(f"{tokens}\n")
    folder.mkdir(exist_ok=True)
    command = [*rpma_command(fabric), "serve", str(folder), "--token-file", str(token_file)]
    command += ["--listen", "127.0.0.1:0", "--rdma-address", fabric.address, *options]
    if limit is not None:
        command = ["sh", "-c", f'ulimit -f {limit * 2}; exec "$@"', "sh", *command]
    process = subprocess.Popen(
        command,
        env=fabric.environment | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    made = Served(fabric, token_file, process)
    try:
        made.find()
        yield made
    finally:
        process.kill()
        made.end()


@pytest.fixture
def target(fabric: Fabric, tmp_path: Path) -> Iterator[Served]:
    with served(fabric, tmp_path / "pools", "--dram", "16MiB") as running:
        yield running


def some_file(path: Path, size: int) -> Path:
    path.write_bytes(random.Random(size).randbytes(size))
    return path


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wait_until(condition: Callable[[], object], limit: float = LIMIT) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# ---- files go in and come out ------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, 9 * MIB + 17])
def test_what_was_put_comes_back(target: Served, tmp_path: Path, size: int) -> None:
    file, back = some_file(tmp_path / "file", size), tmp_path / "back"
    pool = f"{target.target}/pool"
    put = target.json("put", file, pool)
    assert put.pop("seconds") > 0
    assert put == {
        "target": target.target,
        "name": "pool",
        "file": str(file),
        "size": max(size, 1),
        "bytes": size,
        "durable": size,
        "persistency": "msync",
        "error": None,
    }
    stored = (tmp_path / "pools" / "pool.pool").read_bytes()[DATA_OFFSET:]
    assert digest(stored[:size]) == digest(file.read_bytes())
    got = target.json("get", pool, back)
    assert (got["bytes"], got["content_length"], got["size"]) == (size, size, max(size, 1))
    assert digest(back.read_bytes()) == digest(file.read_bytes())
    assert {path.name for path in tmp_path.iterdir()} == {"back", "file", "pools", "token"}


def test_pipes(target: Served) -> None:
    pool, data = f"{target.target}/pool", random.Random(1).randbytes(5 * MIB)
    put = target.json("put", "-", pool, "--size", "6MiB", data=data)
    assert (put["size"], put["bytes"], put["durable"]) == (6 * MIB, 5 * MIB, 5 * MIB)
    output, errors = target.run("get", pool, "-")
    assert digest(output) == digest(data)
    assert (
        errors == f"rpma get: note: the pool has {6 * MIB} bytes; {5 * MIB} of them are a file's\n"
    )
    put = target.json("put", "-", pool, "--overwrite", "--size", "1MiB", data=data, code=1)
    assert put["error"].startswith(f"more comes than the {MIB} bytes that the pool has; ")


def test_a_pool_that_is_there_is_replaced_if_asked(target: Served, tmp_path: Path) -> None:
    pool = f"{target.target}/pool"
    long, short = some_file(tmp_path / "long", 50000), some_file(tmp_path / "short", 30000)
    target.run("put", long, pool)
    output, errors = target.run("put", short, pool, code=1)
    assert output == b""
    assert errors.startswith("rpma put: ")
    assert errors.endswith("; --overwrite replaces it\n")
    assert target.run("get", pool, "-")[0] == long.read_bytes()
    output, errors = target.run("put", short, pool, "--overwrite")
    assert b"put" in output
    assert errors == ""
    assert target.run("get", pool, "-")[0] == short.read_bytes()


def test_a_pool_stays_if_there_is_no_room_for_the_one_that_replaces_it(
    fabric: Fabric, tmp_path: Path
) -> None:
    old, new = some_file(tmp_path / "old", 100_000), some_file(tmp_path / "new", 2 * MIB)
    with served(fabric, tmp_path / "pools", limit=1024) as target:
        pool = f"{target.target}/pool"
        target.run("put", old, pool)
        put = target.json("put", new, pool, "--overwrite", code=1)
        assert (put["bytes"], put["durable"]) == (0, 0)
        assert "there must be room for both" in put["error"]
        assert target.run("get", pool, "-")[0] == old.read_bytes()


@pytest.mark.parametrize("what", ["the put is interrupted", "the target is killed"])
def test_a_pool_stays_until_the_one_that_replaces_it_is_whole(
    fabric: Fabric, tmp_path: Path, what: str
) -> None:
    old, data = some_file(tmp_path / "old", 100_000), random.Random(3).randbytes(12 * MIB)
    with served(fabric, tmp_path / "pools") as target:
        pool = f"{target.target}/pool"
        target.run("put", old, pool)
        arguments = ("put", "-", pool, "--overwrite", "--size", str(len(data)), "--json")
        with target.popen(*arguments) as put:
            assert put.stdin is not None
            put.stdin.write(data[: 8 * MIB])
            put.stdin.flush()
            target.wait_for("created pool 'pool' of .* to replace another")
            # The next bytes are taken when the ones before are written.
            assert target.run("get", pool, "-")[0] == old.read_bytes()
            assert target.json("info", pool)["size"] == 100_000
            if what == "the put is interrupted":
                put.send_signal(signal.SIGINT)
                output, _ = put.communicate(timeout=LIMIT)
            else:
                target.process.kill()
                target.process.wait()
                output, _ = put.communicate(data[8 * MIB :], LIMIT)
        assert put.returncode == (130 if what == "the put is interrupted" else 1)
        told = json.loads(output)
        assert told["durable"] == 0
        assert told["error"].endswith("; nothing was replaced")
        if what == "the target is killed":
            assert told["error"].startswith(f"the connection to {target.target} is lost: ")
            assert "Flushed" not in told["error"]
    with served(fabric, tmp_path / "pools") as target:
        assert {path.name for path in (tmp_path / "pools").iterdir()} == {".lock", "pool.pool"}
        assert target.run("get", f"{target.target}/pool", "-")[0] == old.read_bytes()


def test_a_pool_that_is_incomplete_is_got_only_if_asked(target: Served, tmp_path: Path) -> None:
    file, back = some_file(tmp_path / "file", 50_000), some_file(tmp_path / "back", 999)
    pool, before = f"{target.target}/pool", back.read_bytes()
    # A put that fails midway: more comes than there is room for.
    put = target.json("put", "-", pool, "--size", "30000", data=file.read_bytes(), code=1)
    assert put["durable"] == 0
    assert b"0 B, incomplete" in target.run("list", target.target)[0]
    target.run("get", pool, back, code=1)
    assert back.read_bytes() == before
    target.run("put", file, pool, "--overwrite")
    described = target.json("info", pool)
    assert (described["incomplete"], described["content_length"]) == (False, 50_000)
    target.run("resize", pool, "30000")
    assert b"incomplete" in target.run("info", pool)[0]
    _, errors = target.run("get", pool, back, code=1)
    assert "30000 bytes of a file are there, in a pool of 30000; " in errors
    assert back.read_bytes() == before
    got = target.json("get", pool, back, "--partial")
    assert (got["incomplete"], got["bytes"]) == (True, 30_000)
    assert back.read_bytes() == file.read_bytes()[:30_000]
    assert {path.name for path in tmp_path.iterdir()} == {"back", "file", "pools", "token"}


def test_in_dram_nothing_is_durable(target: Served, tmp_path: Path) -> None:
    file, pool = some_file(tmp_path / "file", 5 * MIB), f"{target.target}/pool"
    put = target.json("put", file, pool, "--volatile")
    assert (put["bytes"], put["durable"], put["persistency"]) == (5 * MIB, 0, "none")
    assert target.run("get", pool, "-")[0] == file.read_bytes()
    assert target.json("info", pool)["kind"] == "dram"
    _, errors = target.run("create", f"{target.target}/more", "12MiB", "--volatile", code=1)
    assert errors.startswith("rpma create: 12 MiB of DRAM are asked for")


def test_a_file_stays_if_the_pool_is_missing(target: Served, tmp_path: Path) -> None:
    file = some_file(tmp_path / "file", 100)
    before = file.read_bytes()
    target.run("get", f"{target.target}/pool", file, code=1)
    assert file.read_bytes() == before


# ---- what there is -----------------------------------------------------------------------------


def test_pools_are_created_listed_described_resized_and_removed(target: Served) -> None:
    at = target.target
    created = target.json("create", f"{at}/one", "64KiB")
    assert created["persistency"] == "msync"
    assert target.json("create", f"{at}/two", "4096", "--volatile")["persistency"] == "none"
    listed = target.json("list", at)
    assert listed["target"] == at
    assert [pool["name"] for pool in listed["pools"]] == ["one", "two"]
    one = target.json("info", f"{at}/one")
    assert set(one) == {
        *("target", "name", "kind", "size", "allocated", "content_length", "created", "pool_id"),
        *("attributes", "users", "access", "problem", "incomplete"),
    }
    assert {"target": at, **listed["pools"][0]} == one
    assert (one["kind"], one["size"], one["content_length"]) == ("file", 65536, None)
    assert (one["users"], one["access"], one["problem"]) == (0, None, None)
    assert one["incomplete"] is False
    assert one["pool_id"] == created["pool_id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", one["created"])
    assert one["attributes"]["signature"] == "0" * 16
    output, _ = target.run("info", f"{at}/one")
    assert b"64 KiB (65536 bytes)" in output
    assert len(target.run("list", at)[0].splitlines()) == 3
    target.run("resize", f"{at}/one", "1MiB")
    assert target.json("info", f"{at}/one")["size"] == MIB
    output, errors = target.run("remove", f"{at}/one", f"{at}/none", f"{at}/two", code=1)
    assert output == b""
    assert errors.startswith("rpma remove: there is no pool 'none'")
    assert errors.count("\n") == 1
    assert target.json("list", at)["pools"] == []
    assert target.run("list", at) == (b"", f"{at} has no pools\n")


def test_a_pool_in_use(target: Served) -> None:
    at = target.target
    with target.client() as client, client.create_pool("pool", 4096):
        described = target.json("info", f"{at}/pool")
        assert (described["users"], described["access"]) == (1, "write")
        assert b"by 1 for write" in target.run("list", at)[0]
        for arguments in (["get", f"{at}/pool", "-"], ["remove", f"{at}/pool"]):
            output, errors = target.run(*arguments, code=1)
            assert output == b""
            assert errors.startswith(f"rpma {arguments[0]}: pool 'pool' is open by 1")


def test_no_room(fabric: Fabric, tmp_path: Path) -> None:
    file = some_file(tmp_path / "file", 2 * MIB)
    with served(fabric, tmp_path / "pools", limit=1024) as target:
        put = target.json("put", file, f"{target.target}/pool", code=1)
        assert (put["bytes"], put["durable"]) == (0, 0)
        _, errors = target.run("put", file, f"{target.target}/pool", code=1)
        assert errors.startswith("rpma put: ")
        assert errors.count("\n") == 1
        assert target.json("list", target.target)["pools"] == []
        target.run("create", f"{target.target}/pool", "64KiB")


# ---- who may come in ---------------------------------------------------------------------------


def test_the_wrong_token(target: Served, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.touch(0o600)
    wrong.write_text("wrong")
    output, errors = target.run("list", target.target, "--token-file", wrong, code=1)
    assert output == b""
    assert errors == "rpma list: the token is not this target's\n"
    _, errors = target.run("list", target.target, RPMA_TOKEN_FILE="", code=1)
    assert errors.startswith("rpma list: this target asks for a token, and none was given: ")
    assert "--token-file" in errors
    target.wait_for(r"warning  client 2 .* has gone: refused: .*, and none was given")
    target.wait_for(r"warning  client 1 .* has gone: refused: the token is not this target's")
    assert all(TOKEN not in line for line in target.lines)


def test_tokens_of_users(fabric: Fabric, tmp_path: Path) -> None:
    tokens = "# who may come in\nalice:one\n\nbob:two"
    with served(fabric, tmp_path / "pools", tokens=tokens) as target:
        target.run("create", f"alice@{target.target}/pool", "4096")
        assert b"pool" in target.run("list", f"bob@{target.target}")[0]
        target.wait_for("client 1 came in from .* as 'alice'")
        target.wait_for("client 2 came in from .* as 'bob'")
        _, errors = target.run("list", target.target, code=1)
        assert "only those of users: alice, bob" in errors


# ---- the end of a target -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(fabric: Fabric, tmp_path: Path, number: signal.Signals) -> None:
    with served(fabric, tmp_path / "pools", "--drain", str(LIMIT)) as target:
        with target.client() as client:
            target.process.send_signal(number)
            target.wait_for(f"{number.name}: draining")
            target.wait_for(f"waiting up to {LIMIT} s for 1 clients to leave")
            with pytest.raises(rpma.RpmaError):
                target.client()
            with client.create_pool("pool", 4096) as pool:  # who is in works as ever
                pool.write_persist(0, b"while it drains")
            assert target.process.poll() is None
        assert target.end() == 0
    assert all(LINE.fullmatch(line) for line in target.lines), target.lines
    assert target.lines[-1].endswith("ended")


def test_drains_no_longer_than_asked(fabric: Fabric, tmp_path: Path) -> None:
    with served(fabric, tmp_path / "pools", "--drain", "0.5") as target, ExitStack() as stack:
        client = stack.enter_context(target.client())
        target.process.send_signal(signal.SIGTERM)
        assert target.end() == 0
        with pytest.raises(rpma.RpmaError):
            client.list_pools(timeout=SOON)


def test_a_second_signal_ends_it_at_once(fabric: Fabric, tmp_path: Path) -> None:
    with served(fabric, tmp_path / "pools", "--drain", "3600") as target, target.client():
        target.process.send_signal(signal.SIGTERM)
        target.wait_for("clients to leave")
        target.process.send_signal(signal.SIGTERM)
        assert target.end() == 0
        target.wait_for("warning  SIGTERM: ending at once")


def test_systemd_is_told(fabric: Fabric, tmp_path: Path) -> None:
    name = f"rpma-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        manager.settimeout(LIMIT)
        with served(fabric, tmp_path / "pools", NOTIFY_SOCKET=f"@{name}") as target:
            assert "READY=1" in manager.recv(4096).decode().splitlines()
            with target.client():
                while manager.recv(4096) != b"STATUS=1 clients":
                    pass
            target.process.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in manager.recv(4096).decode().splitlines():
                pass
            assert target.end() == 0


def test_one_target_serves_a_directory(target: Served, tmp_path: Path) -> None:
    _, errors = target.run("serve", tmp_path / "pools", "--listen", "127.0.0.1:0", code=1)
    assert errors.startswith("rpma serve: ")
    assert errors.count("\n") == 1
    _, errors = target.run("serve", tmp_path, "--listen", target.target, code=1)
    assert errors.startswith(f"rpma serve: cannot listen on {target.target}: ")
    assert errors.endswith("; --listen HOST:PORT takes another port\n")


def test_a_target_that_dies_in_a_put(fabric: Fabric, tmp_path: Path) -> None:
    folder, data = tmp_path / "pools", random.Random(2).randbytes(24 * MIB)
    with served(fabric, folder) as target, target.client() as client:
        pool = f"{target.target}/pool"
        with target.popen("put", "-", pool, "--size", str(len(data)), "--json") as put:
            assert put.stdin is not None
            # A piece a second or slower, each of which is made durable then.
            for at in range(0, 8 * MIB, 4 * MIB):
                time.sleep(1.1)
                put.stdin.write(data[at : at + 4 * MIB])
                put.stdin.flush()

            def durable() -> int:
                found = client.list_pools(timeout=LIMIT)
                return found[0].content_length or 0 if found else 0

            wait_until(lambda: durable() >= 4 * MIB)
            target.process.kill()
            target.process.wait()
            output, errors = put.communicate(data[8 * MIB :], LIMIT)
        assert put.returncode == 1
        told = json.loads(output)
        assert 4 * MIB <= told["durable"] < len(data)
        assert told["error"].endswith(f"; {told['durable']} bytes are durable")
        assert errors.decode() == f"rpma put: {told['error']}\n"
    with served(fabric, folder) as target:
        described = target.json("info", f"{target.target}/pool")
        assert described["content_length"] >= told["durable"]
        assert described["incomplete"]
        output, errors = target.run("get", f"{target.target}/pool", "-", code=1)
        assert output == b""
        came = f"{described['content_length']} bytes of a file are there, in a pool of {len(data)}"
        assert errors.startswith(
            f"rpma get: pool 'pool' is incomplete: {came}; its put never ended"
        )
        assert errors.endswith("--partial gets what is there\n")
        output, errors = target.run("get", f"{target.target}/pool", "-", "--partial")
        assert digest(output) == digest(data[: described["content_length"]])
        assert errors.startswith("rpma get: note: the pool is incomplete; ")


# ---- metrics, and how fast it is ---------------------------------------------------------------


def test_metrics(fabric: Fabric, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    options = ("--metrics", "127.0.0.1:0", "--dram", "1MiB", "--shadow-memory", "8MiB")
    with served(fabric, tmp_path / "pools", *options) as target, target.client() as client:
        address = target.wait_for(r"metrics at (http://\S+)")[1]

        def metrics() -> dict[str, float]:
            with urllib.request.urlopen(address, timeout=LIMIT) as answer:
                lines = answer.read().decode().splitlines()
            pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
            return {name: float(value) for name, value in pairs}

        with client.create_pool("pool", 65536) as pool:
            pool.write_persist(0, bytes(1000))
            pool.write_persist(0, bytes(24))
            found = metrics()
            assert found["rpma_target_up"] == 1
            assert (found["rpma_clients"], found["rpma_sessions_total"]) == (1, 1)
            assert (found['rpma_pools{kind="file"}'], found['rpma_pools{kind="dram"}']) == (1, 0)
            assert found['rpma_pool_bytes{kind="file"}'] == 65536
            assert found["rpma_open_pools"] == 1
            assert found["rpma_shadow_limit_bytes"] == 8 << 20
            assert found['rpma_requests_total{kind="create"}'] == 1
            assert found["rpma_flush_requests_total"] == 2
            assert found["rpma_flush_bytes_total"] == 1024
            assert found["rpma_flush_failures_total"] == 0
        with pytest.raises(rpma.RpmaError):
            client.open_pool("none")
        with pytest.raises(rpma.RpmaError):
            Client(target.target, token="wrong", timeout=SOON)
        client.close()
        target.wait_for("client 1 .* has gone: it left")
        found = metrics()  # what a client did is counted when it has gone, too
        assert (found["rpma_clients"], found["rpma_sessions_total"]) == (0, 1)
        assert found["rpma_refused_logins_total"] == 1
        assert found['rpma_refused_requests_total{kind="open"}'] == 1
        assert found["rpma_flush_requests_total"] == 2
        assert found["rpma_open_pools"] == 0


OPERATIONS = ["write", "write_persist", "read"]


@pytest.mark.parametrize("volatile", [False, True])
def test_bench(target: Served, tmp_path: Path, volatile: bool) -> None:
    arguments = ["bench", target.target, "--sizes", "8,64KiB", "--seconds", "0.05"]
    arguments += ["--volatile"] if volatile else []
    output, _ = target.run(*arguments, "--json", tmp_path / "figures")
    result = json.loads((tmp_path / "figures").read_text())
    operations = [name for name in OPERATIONS if name != "write_persist" or not volatile]
    assert (b"skipped" in output) == volatile
    assert [(line["operation"], line["size"]) for line in result["results"]] == [
        (operation, size) for operation in operations for size in (8, 65536)
    ]
    for line in result["results"]:
        percentiles = [line[key] for key in ("min_us", "p50_us", "p99_us", "p999_us", "max_us")]
        assert percentiles == sorted(percentiles)
        assert percentiles[0] > 0
        assert sum(line["histogram"]["counts"]) == line["count"] >= 10
    assert target.json("list", target.target)["pools"] == []


def test_bench_draws(target: Served, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["bench", target.target, "--sizes", "64", "--seconds", "0.02", "--json", "-"]
    output, _ = target.run(*arguments, "--png", tmp_path / "picture")
    assert json.loads(output)["persistency"] == "msync"
    assert (tmp_path / "picture").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_bench_leaves_nothing(target: Served, number: signal.Signals) -> None:
    with target.popen("bench", target.target, "--seconds", "3600") as bench:
        target.wait_for("client 1 created pool 'bench-")
        bench.send_signal(number)
        bench.communicate(timeout=LIMIT)
    assert bench.returncode not in (0, -number)
    assert target.json("list", target.target)["pools"] == []


# ---- by ssh ------------------------------------------------------------------------------------


def test_serving_by_ssh(fabric: Fabric, tmp_path: Path) -> None:
    """What ssh starts on the other machine: it ends with the input that brings its token."""
    process = subprocess.Popen(
        [*rpma_command(fabric), "serve", str(tmp_path), "--ssh", "--rdma-address", fabric.address],
        env=fabric.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{TOKEN}\n".encode())
        process.stdin.flush()
        port = json.loads(process.stdout.readline())["port"]
        with Client(f"127.0.0.1:{port}", token=TOKEN, timeout=SOON) as client:
            client.create_pool("pool", 4096).close()
        with pytest.raises(rpma.RpmaError):
            Client(f"127.0.0.1:{port}", timeout=SOON)
        process.stdin.close()
        assert process.wait(LIMIT) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
