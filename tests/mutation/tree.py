"""A copy of the tree, built, in which a fault is seeded, the tests run, and the fault taken out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .faults import ROOT, Fault

#: Where the package has what is built, by where meson puts it.
BUILT: Final = {
    "native/binding/_librpma.abi3.so": "",
    "native/softrnic/libibverbs.so.1": "softrnic",
    "native/softrnic/librdmacm.so.1": "softrnic",
    "native/validation/librpma.so.0": "debug",
}

NO_TESTS: Final = 5
"""pytest's exit code where nothing was run."""


class TreeError(RuntimeError):
    """The copy cannot be made or built."""


@dataclass(frozen=True)
class Outcome:
    """What the tests said.

    Attributes:
        code: pytest's exit code; None: it was stopped, since it took too long.
        failed: the first test that failed, or "".
        seconds: how long they took.
        output: what they printed.
    """

    code: int | None
    failed: str
    seconds: float
    output: str


class Tree:
    """The copy, in a folder of its own; `package` in it is what is imported."""

    def __init__(self, folder: Path) -> None:
        """Copy what git knows of, and what it would take in, and build it."""
        self._tree = folder / "tree"
        self._build = folder / "build"
        self._package = folder / "package"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for name in listed.split("\0"):
            if name and (ROOT / name).is_file():
                (self._tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self._tree / name)
        self._run("meson", "setup", str(self._build), str(self._tree))
        shutil.copytree(self._tree / "src", self._package)
        self._compile()

    @contextmanager
    def seeded(self, fault: Fault) -> Iterator[None]:
        """With a fault in it, for a while, and built so."""
        source = self._tree / fault.source
        sound = source.read_text()
        source.write_text(fault.seeded(sound))
        try:
            self._bring(fault)
            yield
        finally:
            source.write_text(sound)
            self._bring(fault)

    def test(self, arguments: tuple[str, ...], limit: float) -> Outcome:
        """Run tests, up to the first that fails, for at most so many seconds."""
        command = [sys.executable, "-m", "pytest", "--fabric=soft", "-x", "-q", "-rf"]
        start = time.monotonic()
        process = subprocess.Popen(
            [*command, "-p", "no:cacheprovider", *arguments],
            cwd=self._tree,
            env=self._environment() | {"PYTHONPATH": str(self._package)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
            code: int | None = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            code = None
        failed = [line.split()[1] for line in output.splitlines() if line.startswith("FAILED ")]
        return Outcome(code, failed[0] if failed else "", time.monotonic() - start, output)

    def _bring(self, fault: Fault) -> None:
        """A changed source to where the tests meet it."""
        if fault.is_native:
            self._compile()
        else:
            inside = Path(fault.source).relative_to("src")
            shutil.copy(self._tree / fault.source, self._package / inside)

    def _compile(self) -> None:
        self._run("meson", "compile", "-C", str(self._build))
        for built, folder in BUILT.items():
            target = self._package / "rpma" / folder
            target.mkdir(exist_ok=True)
            # Beside it first: a process may have the old one mapped.
            beside = target / f".{Path(built).name}.new"
            shutil.copy2(self._build / built, beside)
            beside.replace(target / Path(built).name)

    def _environment(self) -> dict[str, str]:
        # With meson, and with the same interpreter, that built what is installed.
        scripts = sysconfig.get_path("scripts")
        return os.environ | {
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, env=self._environment(), timeout=600
        )
        if done.returncode:
            raise TreeError(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
