"""./run: what it makes of an environment that is half-made, another's, or being made by another.

It is the real one, with a real venv and a real pip, in a folder with a project that builds at once
or, where a test wants to be in the middle of it, waits there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 600

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "rpma"
version = "1"
optional-dependencies = { dev = [] }
"""

BACKEND = """
import pathlib, time, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    here = pathlib.Path("HERE")
    (here / "building").touch()
    while (here / "wait").exists():
        time.sleep(0.02)
    info = "rpma-1.dist-info"
    files = {
        "rpma_command.py": "import sys\\ndef main(): print('ran', sys.argv[1])\\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: rpma\\nVersion: 1\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        f"{info}/entry_points.txt": "[console_scripts]\\nrpma = rpma_command:main\\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(pathlib.Path(directory) / "rpma-1-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "rpma-1-py3-none-any.whl"
"""


class Tree:
    """A source tree, and who runs ./run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        self.programs = folder / "bin"
        self.programs.mkdir()
        # Nothing of Debian's is missing, whatever system this is.
        for name, text in {"apt-get": "exit 1", "dpkg-query": "printf installed"}.items():
            (self.programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (self.programs / name).chmod(0o755)
        for place in ("src", "native"):
            (self.folder / place).mkdir(parents=True)
        for name, text in {
            "pyproject.toml": PYPROJECT,
            "meson.build": "",
            "constraints.txt": "",
        }.items():
            (self.folder / name).write_text(text)
        (self.folder / "backend.py").write_text(BACKEND.replace("HERE", str(self.folder)))
        shutil.copy(ROOT / "run", self.folder / "run")

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """./run demo, in a process group of its own, as a terminal has it."""
        with subprocess.Popen(
            ["./run", "demo", "/file"],
            cwd=self.folder,
            env=os.environ | {"PATH": f"{self.programs}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def run(self) -> str:
        """Let ./run demo end as it should; what it said."""
        with self.running() as process:
            out, err = process.communicate(timeout=LIMIT)
        assert (process.returncode, out) == (0, "ran demo\n"), err
        return err

    def interrupt(self, moment: Path, number: signal.Signals) -> None:
        """Let ./run be ended by a signal as soon as there is a file or folder."""
        with self.running() as process:
            wait_for(moment)
            os.killpg(process.pid, number)
            _, err = process.communicate(timeout=LIMIT)
        assert process.returncode != 0, err


def wait_for(moment: Path) -> None:
    deadline = time.monotonic() + LIMIT
    while not moment.exists():
        assert time.monotonic() < deadline, f"there is no {moment}"
        time.sleep(0.005)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (".venv/bin/python", signal.SIGINT),
        ("building", signal.SIGINT),
        ("building", signal.SIGKILL),
    ],
)
def test_an_environment_whose_making_is_interrupted_is_made_anew(
    moment: str, number: signal.Signals, tree: Tree
) -> None:
    (tree.folder / "wait").touch()
    tree.interrupt(tree.folder / moment, number)
    (tree.folder / "wait").unlink()
    said = tree.run()
    assert "made anew" in said
    assert "==> making .venv" in said
    assert "==>" not in tree.run()


def test_what_is_interrupted_while_it_renews_what_is_installed_is_made_anew(tree: Tree) -> None:
    tree.run()
    (tree.folder / "building").unlink()
    (tree.folder / "wait").touch()
    (tree.folder / "src" / "new.py").touch()
    tree.interrupt(tree.folder / "building", signal.SIGINT)
    (tree.folder / "wait").unlink()
    assert "made anew" in tree.run()


def test_what_fails_to_build_leaves_the_environment_as_it_was(tree: Tree) -> None:
    tree.run()
    good = (tree.folder / "backend.py").read_text()
    (tree.folder / "backend.py").write_text("raise SystemExit('a fault of the source')")
    (tree.folder / "src" / "new.py").touch()
    with tree.running() as process:
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert "a fault of the source" in err
    (tree.folder / "backend.py").write_text(good)
    said = tree.run()
    assert "made anew" not in said
    assert "building and installing" in said


def test_the_environment_of_another_folder_is_made_anew(tree: Tree, tmp_path: Path) -> None:
    tree.run()
    shutil.copytree(tree.folder, tmp_path / "copy", symlinks=True)
    tree.folder = tmp_path / "copy"
    assert "made anew" in tree.run()
    text = (tree.folder / ".venv" / "bin" / "rpma").read_text()
    assert str(tree.folder) in text


def test_the_environment_of_another_python_is_made_anew(tree: Tree) -> None:
    """As after an upgrade of the system: what was installed is for a Python that is gone."""
    tree.run()
    (library,) = (tree.folder / ".venv" / "lib").glob("python3.*")
    library.rename(library.with_name("python3.5"))
    assert "made anew" in tree.run()


def test_an_environment_that_was_made_by_hand_is_taken(tree: Tree) -> None:
    subprocess.run([sys.executable, "-m", "venv", tree.folder / ".venv"], check=True)
    (tree.folder / ".venv" / "mine").touch()
    assert "making" not in tree.run()
    assert (tree.folder / ".venv" / "mine").exists()


def test_of_two_at_once_one_waits_and_says_for_whom(tree: Tree) -> None:
    (tree.folder / "wait").touch()
    with tree.running() as first, tree.running() as second:
        wait_for(tree.folder / "building")
        processes = {first.pid: second, second.pid: first}
        holder = int((tree.folder / ".run" / "lock").read_text())
        waiting = processes[holder]
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        assert f"waiting for another ./run, process {holder}," in said
        (tree.folder / "wait").unlink()
        for process in (first, second):
            out, err = process.communicate(timeout=LIMIT)
            assert (process.returncode, out) == (0, "ran demo\n"), err


def test_without_apt_it_names_what_other_systems_call_it(tree: Tree) -> None:
    few = tree.folder / "few"
    few.mkdir()
    for name in ("cat", "dirname", "flock", "mkdir", "rm", "sh"):
        program = shutil.which(name)
        assert program is not None
        (few / name).symlink_to(program)
    done = subprocess.run(
        ["./run", "demo"], cwd=tree.folder, env={"PATH": str(few)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert (
        "Fedora:   dnf install python3-devel gcc pkgconf-pkg-config rdma-core-devel\n"
        in done.stderr
    )
    assert "openSUSE: zypper install python3-devel gcc pkg-config rdma-core-devel\n" in done.stderr
    assert "python3 -m venv .venv" in done.stderr
