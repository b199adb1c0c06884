"""Runs programs of other makes, in pairs: a server that must listen, and then a client."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fabrics.fabric import Fabric

#: Seconds that a pair may take.
LIMIT = 60.0

#: The state of a listening socket in /proc/net/tcp.
LISTENING = "0A"


@dataclass
class Program:
    """A program that runs, its output in files: the two streams apart, or they mix within lines."""

    popen: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path
    command: list[str]

    def output(self) -> str:
        return self.stdout.read_text(errors="replace")

    def told(self) -> str:
        """All about it, for the message of a failed test."""
        code, errors = self.popen.poll(), self.stderr.read_text(errors="replace")
        return f"{' '.join(self.command)} -> {code}\n{self.output()[-3000:]}\n{errors[-3000:]}"

    def finish(self, deadline: float) -> str:
        """Wait until it ends well, and return what it printed."""
        while (code := self.popen.poll()) is None:
            assert time.monotonic() < deadline, f"it did not end in time: {self.told()}"
            time.sleep(0.005)
        assert code == 0, self.told()
        return self.output()


class Programs:
    """Programs that run on a fabric."""

    def __init__(self, fabric: Fabric, folder: Path) -> None:
        self._fabric = fabric
        self._folder = folder
        self._running: list[Program] = []
        self.deadline = time.monotonic() + LIMIT

    def start(self, *command: str) -> Program:
        stdout, stderr = (
            self._folder / f"{len(self._running)}.{stream}" for stream in ("stdout", "stderr")
        )
        with stdout.open("wb") as output, stderr.open("wb") as errors:
            popen = subprocess.Popen(
                command,
                env=self._fabric.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=self._folder,
            )
        program = Program(popen, stdout, stderr, list(command))
        self._running.append(program)
        return program

    def start_server(self, port: str, *command: str) -> Program:
        """Start it, and wait until it listens."""
        program = self.start(*command)
        while not is_listening(int(port)):
            assert program.popen.poll() is None, f"it ended: {program.told()}"
            assert time.monotonic() < self.deadline, f"it does not listen: {program.told()}"
            time.sleep(0.01)
        return program

    def pair(self, port: str, server: list[str], client: list[str]) -> tuple[str, str]:
        """Run both to their ends, which must be good; return what each has printed."""
        serving = self.start_server(port, *server)
        asking = self.start(*client)
        try:
            # The client first: the server of one that fails may wait for ever.
            printed = asking.finish(self.deadline)
            return serving.finish(self.deadline), printed
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.told()}") from None

    def told(self) -> str:
        return "\n".join(program.told() for program in self._running)

    def end(self) -> None:
        for program in self._running:
            program.popen.kill()
            program.popen.wait()


@contextmanager
def programs_on(fabric: Fabric, folder: Path) -> Iterator[Programs]:
    running = Programs(fabric, folder)
    try:
        yield running
    finally:
        running.end()


def is_listening(port: int) -> bool:
    """Whether anybody listens on a TCP port, which is what the soft RNIC listens on."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:  # no IPv6
            continue
        for line in lines:
            local, state = line.split()[1], line.split()[3]
            if state == LISTENING and int(local.rpartition(":")[2], 16) == port:
                return True
    return False
