"""`rpma demo`: the main job on real input, in a story."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import subprocess
from pathlib import Path

import pytest
from commands import rpma_command
from pairs import pattern

from fabrics.fabric import Fabric

pytestmark = pytest.mark.fabric


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_a_file_survives_the_death_of_its_target(size: int, fabric: Fabric, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(pattern(size, 1))
    done = subprocess.run(
        [*rpma_command(fabric), "demo", str(file), "--port", fabric.next_port()],
        capture_output=True,
        text=True,
        timeout=120,
        env=fabric.environment | {"COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the digests match" in done.stdout
    assert done.stdout.count(hashlib.sha256(pattern(size, 1)).hexdigest()) == 3
    steps = [line.split()[0] for line in done.stdout.splitlines()[1:8]]
    assert steps == ["serve", "create", "put", "kill", "look", "restart", "get"]
    assert "SIGKILL" in done.stdout


def test_a_file_that_tells_a_wrong_size_and_has_an_awkward_name(
    fabric: Fabric, tmp_path: Path
) -> None:
    link, data = tmp_path / "[red] \x1b[31m", Path("/proc/version").read_bytes()
    link.symlink_to("/proc/version")
    done = subprocess.run(
        [*rpma_command(fabric), "demo", str(link)],
        capture_output=True,
        text=True,
        timeout=120,
        env=fabric.environment | {"COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("[red] \\x1b[31m: the digests match")
    assert done.stdout.count(hashlib.sha256(data).hexdigest()) == 3


def test_a_file_that_tells_no_size(fabric: Fabric) -> None:
    done = subprocess.run(
        [*rpma_command(fabric), "demo", "/dev/stdin"],
        input="something",
        capture_output=True,
        text=True,
        timeout=120,
        env=fabric.environment,
    )
    assert done.returncode == 1
    assert "rpma demo: /dev/stdin does not say how long it is" in " ".join(done.stderr.split())


def test_two_at_once_take_ports_that_are_free(fabric: Fabric, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(pattern(1000, 1))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else has it: as well
            stack.enter_context(socket.create_server(("127.0.0.1", 7204)))
        demos = [
            stack.enter_context(
                subprocess.Popen(
                    [*rpma_command(fabric), "demo", str(file)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    env=fabric.environment | {"COLUMNS": "100"},
                )
            )
            for _ in range(2)
        ]
        outputs = [demo.communicate(timeout=120)[0] for demo in demos]
    for demo, output in zip(demos, outputs, strict=True):
        assert demo.returncode == 0, output
        assert "the digests match" in output
    ports = {*re.findall(r"on 127\.0\.0\.1:([0-9]+)", "".join(outputs))}
    assert len(ports) == 2
    assert "7204" not in ports


def test_a_port_that_is_not_free_is_told_with_the_option(fabric: Fabric, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [*rpma_command(fabric), "demo", str(file), "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=120,
            env=fabric.environment,
        )
    assert done.returncode == 1
    output = " ".join(done.stderr.split())
    assert f"cannot listen on 127.0.0.1:{port}: " in output
    assert "; name another with --port, or none: " in output
