"""pytest's option --fabric: rpma is told in time, and what cannot be had is said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fabrics import native

TESTS = Path(__file__).resolve().parents[1]

TEST = """
import os, pytest

@pytest.mark.fabric
def test_it():
    print("wanted:", os.environ["RPMA_FABRIC"])
    assert os.environ["RPMA_FABRIC"] == "soft"
"""


def run(folder: Path, conftest: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(f'{conftest}\npytest_plugins = ["fabrics.plugin"]\n')
    (folder / "test_it.py").write_text(TEST)
    inherited = {name: value for name, value in os.environ.items() if "FABRIC" not in name}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_rpma_is_told_before_the_tests_are_read(tmp_path: Path) -> None:
    done = run(tmp_path, "", "--fabric=soft")
    assert done.returncode == 0, done.stdout
    assert "fabric: soft RNIC (libibverbs /" in done.stdout


def test_an_import_that_comes_too_early_is_an_error(tmp_path: Path) -> None:
    done = run(tmp_path, "import rpma", "--fabric=soft")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "something has imported rpma before it could be told" in done.stderr


@pytest.mark.skipif(bool(native.devices()), reason="there is a device")
def test_a_device_that_cannot_be_had_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without the tools that would add one
    done = run(tmp_path, "", "--fabric=native")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the machine has no RDMA device" in done.stdout + done.stderr
