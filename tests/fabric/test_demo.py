"""`rpma demo`: the main job on real input, in a story."""

from __future__ import annotations

import hashlib
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
