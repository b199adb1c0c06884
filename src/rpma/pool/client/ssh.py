# SPDX-License-Identifier: BSD-3-Clause
"""Targets that are started through ssh, for the life of a client's connection.

The client makes up a token and gives it to ``rpma serve DIRECTORY --ssh`` on the other machine, on
the standard input that the user's own ssh carries there. The target prints the port on which it
listens, and ends when that input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shlex
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

from rpma.errors import WaitTimeoutError
from rpma.pool.protocol.address import TargetAddress
from rpma.pool.protocol.errors import TargetError, TargetLost
from rpma.pool.protocol.pipes import read_line
from rpma.pool.protocol.words import explained

if TYPE_CHECKING:
    pass

SSH_VARIABLE = "RPMA_SSH"
"""The ssh command, with options if need be; ``ssh`` where it is not set."""

COMMAND_VARIABLE = "RPMA_SSH_TARGET_COMMAND"
"""The command on the target node; ``rpma`` where it is not set."""

_MOST_SAID = 64 << 10
_BOX = re.compile("[\u2500-\u257f]+")
_USAGE = re.compile(r"Usage: rpma |Try 'rpma ")
_END_TIMEOUT = 10.0


class SshTarget:
    """A target that was started through ssh.

    Attributes:
        address: where it listens.
        token: what it asks for.
    """

    def __init__(self, address: TargetAddress, timeout: float | None) -> None:
        """Start it.

        Args:
            address: with a directory.
            timeout: until it listens, in seconds; None waits for ever.

        Raises:
            TargetLost: ssh does not get there, or there is no ``rpma``; with what ssh said.
            TargetError: the target does not start, say as another one serves the directory.
            WaitTimeoutError: it took too long.
        """
        assert address.directory is not None
        self.token = secrets.token_hex(32).encode("ascii")
        ssh = shlex.split(os.environ.get(SSH_VARIABLE) or "ssh")
        where = [*(["-p", str(address.port)] if address.port else [])]
        where.append(f"{address.user}@{address.host}" if address.user else address.host)
        command = os.environ.get(COMMAND_VARIABLE) or "rpma"
        # The words of ssh go to a shell there.
        remote = f"{command} serve {shlex.quote(address.directory)} --ssh"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the rest
        try:
            self._process = subprocess.Popen(
                [*ssh, "-T", *where, remote],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        except OSError as error:
            self._errors.close()
            raise TargetLost(
                f"cannot run {ssh[0]}: {error.strerror}; {SSH_VARIABLE} names another ssh"
            ) from error
        try:
            deadline = None if timeout is None else time.monotonic() + timeout
            port = self._start(address, deadline)
            host = _host_name(ssh, where) or address.host
        except BaseException:
            self.close()
            raise
        self.address = TargetAddress(host, port)

    def _start(self, address: TargetAddress, deadline: float | None) -> int:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it said tells more
            self._process.stdin.write(self.token + b"\n")
            self._process.stdin.flush()
        line = self._line(address, deadline)
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        if not isinstance(said, dict):
            words = self._words(line)
            if "not found" in words:  # a shell's, of the command
                words += f"; {COMMAND_VARIABLE} says where rpma is there"
            raise TargetLost(f"cannot start a target at {address}: {words}")
        if "error" in said:
            words = explained(str(said["error"]))
            raise TargetError(f"cannot start a target at {address}: {words}")
        port = said.get("port")
        if not isinstance(port, int) or not 0 < port < 1 << 16:
            raise TargetLost(f"cannot start a target at {address}: it named no port")
        return port

    def _line(self, address: TargetAddress, deadline: float | None) -> bytes:
        """The first line of what it prints, or all if it ends before."""
        assert self._process.stdout is not None
        said = read_line(self._process.stdout.fileno(), _MOST_SAID, deadline)
        if said is None:
            raise WaitTimeoutError(f"no target was started in time at {address}")
        return said

    def _words(self, said: bytes) -> str:
        """What ssh, or the shell there, complains of."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._errors.seek(0)
        words = (self._errors.read(_MOST_SAID) or said).decode("utf-8", "replace")
        # Of what rpma says of its usage there, what is wrong, without the box around it.
        lines = (line.strip() for line in _BOX.sub(" ", words).split("\n"))
        shown = (line for line in lines if line not in ("", "Error") and not _USAGE.match(line))
        return explained(" ".join(shown)) or "ssh said nothing"

    def close(self) -> None:
        """Let the target end. Idempotent."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._errors.close()


def _host_name(ssh: list[str], where: list[str]) -> str | None:
    """The host behind a name of the user's ssh configuration."""
    try:
        done = subprocess.run(
            [*ssh, "-G", *where],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_END_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return None
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        word, _, rest = line.partition(" ")
        if word == "hostname":
            return rest.strip()
    return None
