"""Building rpma: what it says where something is missing, and which Pythons a build serves."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

import rpma._librpma

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(sysconfig.get_path("scripts"))

PYPROJECT = (ROOT / "pyproject.toml").read_text()

INSTALL = {
    "Debian and Ubuntu": "apt-get install gcc pkg-config python3-dev libibverbs-dev librdmacm-dev",
    "Fedora": "dnf install gcc pkgconf-pkg-config python3-devel rdma-core-devel",
    "openSUSE": "zypper install gcc pkg-config python3-devel rdma-core-devel",
}


def setup(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `pip install .` does first."""
    return subprocess.run(
        [SCRIPTS / "meson", "setup", folder / "build", ROOT],
        # ninja is beside meson, as pip has it; the environment's own may be on nobody's PATH.
        env=os.environ | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def pkg_config_without(folder: Path, *names: str) -> str:
    """A folder that has the machine's *.pc files but for some."""
    found = subprocess.run(
        ["pkg-config", "--variable=pc_path", "pkg-config"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for place in map(Path, found.split(":")):
        for file in place.glob("*.pc"):
            if file.stem not in names and not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
    return str(folder)


@pytest.mark.parametrize("missing", [["librdmacm"], ["libibverbs", "librdmacm"]])
def test_a_build_names_the_libraries_that_are_missing(missing: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "pkgconfig"
    folder.mkdir()
    done = setup(tmp_path, PKG_CONFIG_LIBDIR=pkg_config_without(folder, *missing))
    assert done.returncode != 0
    assert f"this machine lacks: {', '.join(missing)}. As root," in done.stdout
    for system, command in INSTALL.items():
        assert f"on {system}:\n  {command}\n" in done.stdout


def test_a_build_names_all_that_a_bare_machine_lacks(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    done = setup(tmp_path, PATH=str(folder))
    assert done.returncode != 0
    lacks = "pkg-config, libibverbs, librdmacm, a C compiler"
    assert f"this machine lacks: {lacks}. As root," in done.stdout
    for system, command in INSTALL.items():
        assert f"on {system}:\n  {command}\n" in done.stdout


def test_a_build_with_all_that_it_needs_is_configured(tmp_path: Path) -> None:
    done = setup(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_extension_keeps_to_the_stable_abi_of_the_lowest_python_that_is_claimed() -> None:
    (lowest,) = re.findall(r'^requires-python = ">=([0-9.]+)"$', PYPROJECT, re.MULTILINE)
    extension = rpma._librpma.__file__
    done = subprocess.run(
        [SCRIPTS / "abi3audit", "--strict", "--report", "--assume-minimum-abi3", lowest, extension],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["specs"][extension]["object"]["result"]
    assert found["is_abi3"]
    assert found["is_abi3_baseline_compatible"]
    assert found["baseline"] == lowest


def test_what_pip_builds_serves_later_pythons_too() -> None:
    """As README says of it: that is what the tag of a wheel with the stable ABI says."""
    wheel = importlib.metadata.distribution("rpma").read_text("WHEEL")
    assert wheel is not None
    (tag,) = re.findall(r"^Tag: (.*)$", wheel, re.MULTILINE)
    assert re.match(r"cp3[0-9]+-abi3-", tag), tag
