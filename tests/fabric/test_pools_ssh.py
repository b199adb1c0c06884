"""Targets that are started through the user's own ssh, with a real sshd on loopback."""

from __future__ import annotations

import asyncio
import getpass
import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import rpma_command
from pairs import SOON
from targets import wait_until

import rpma
from fabrics.fabric import Fabric
from rpma import aio
from rpma.pool import PoolNotFoundError, TargetError, TargetLost
from rpma.pool.client.ssh import COMMAND_VARIABLE, SSH_VARIABLE

pytestmark = pytest.mark.fabric

HOST = "target-node"

SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
"""

CLIENT = """
Host {host}
HostName 127.0.0.1
Port {port}
User {user}
IdentityFile {folder}/user_key
IdentitiesOnly yes
UserKnownHostsFile {folder}/known_hosts
StrictHostKeyChecking yes
BatchMode yes
"""


@pytest.fixture
def folder(fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory of pools on a node that ssh leads to."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    assert sshd, "install openssh-server"
    keys = tmp_path / "ssh"
    keys.mkdir(mode=0o700)
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)]
        subprocess.run(command, check=True, timeout=SOON)
    port = int(fabric.next_port())
    words = {"folder": keys, "port": port, "host": HOST, "user": getpass.getuser()}
    (keys / "sshd_config").write_text(SERVER.format(**words))
    (keys / "ssh_config").write_text(CLIENT.format(**words))
    host_key = (keys / "host_key.pub").read_text()
    (keys / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    monkeypatch.setenv(SSH_VARIABLE, f"ssh -F {keys}/ssh_config")
    command = keys / "rpma"  # as it would be there, but for which device to take
    variables = {**fabric.variables, "RPMA_FABRIC": rpma.fabric.name}
    exports = "".join(f"export {name}={shlex.quote(text)}\n" for name, text in variables.items())
    command.write_text(
        f"#!/bin/sh\n{exports}"
        f'exec {shlex.join(rpma_command(fabric))} "$@" --rdma-address {fabric.address}\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv(COMMAND_VARIABLE, shlex.quote(str(command)))
    with subprocess.Popen(
        [sshd, "-D", "-e", "-f", str(keys / "sshd_config")], stderr=subprocess.DEVNULL
    ) as server:
        try:
            wait_until(lambda: _answers(port), "sshd listens")
            pools = tmp_path / "the pools"
            pools.mkdir()
            yield pools
        finally:
            server.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _targets(folder: Path) -> list[str]:
    """The processes that serve the folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"serve" in words and os.fsencode(folder) in words:
                found.append(process.name)
    return found


def test_a_target_lives_as_long_as_the_connection(folder: Path) -> None:
    where = f"ssh://{HOST}{folder}"
    with rpma.create_pool(where, "journal", 4096, timeout=6 * SOON) as pool:
        pool.write_persist(0, b"through ssh")
        assert _targets(folder)
    wait_until(lambda: not _targets(folder), "the target ends")
    with rpma.open_pool(where, "journal", access="read", timeout=6 * SOON) as pool:
        assert pool[:11] == b"through ssh"
    wait_until(lambda: not _targets(folder), "the target ends")


def test_asyncio_starts_targets_too(folder: Path) -> None:
    async def test() -> None:
        where = f"ssh://{HOST}{folder}"
        async with aio.create_pool(where, "journal", 4096, timeout=6 * SOON) as pool:
            await pool.write_persist(0, b"through ssh")

    asyncio.run(test())
    wait_until(lambda: not _targets(folder), "the target ends")


def test_the_target_ends_where_the_client_cannot_go_on(folder: Path) -> None:
    with pytest.raises(PoolNotFoundError):
        rpma.open_pool(f"ssh://{HOST}{folder}", "nothing", timeout=6 * SOON)
    wait_until(lambda: not _targets(folder), "the target ends")


def test_what_the_target_says_is_told(folder: Path) -> None:
    with pytest.raises(TargetLost, match=r"cannot start a target at ssh://.*not exist") as caught:
        rpma.open_pool(f"ssh://{HOST}{folder}/nowhere", "journal", timeout=6 * SOON)
    assert str(caught.value).isascii()
    assert "Usage" not in str(caught.value)
    with (
        rpma.create_pool(f"ssh://{HOST}{folder}", "journal", 4096, timeout=6 * SOON),
        pytest.raises(TargetError, match="another"),
    ):
        rpma.open_pool(f"ssh://{HOST}{folder}", "journal", timeout=6 * SOON)


def test_what_ssh_says_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"ssh://{HOST}{folder}"
    monkeypatch.setenv(COMMAND_VARIABLE, "no-such-command")
    with pytest.raises(TargetLost, match=r"no-such-command.*; RPMA_SSH_TARGET_COMMAND says where"):
        rpma.open_pool(where, "journal", timeout=6 * SOON)
    with pytest.raises(TargetLost, match="Permission denied"):
        rpma.open_pool(f"ssh://somebody-else@{HOST}{folder}", "journal", timeout=6 * SOON)
    monkeypatch.setenv(SSH_VARIABLE, "/nowhere/ssh")
    with pytest.raises(TargetLost, match=r"cannot run /nowhere/ssh: .*; RPMA_SSH names another"):
        rpma.open_pool(where, "journal", timeout=6 * SOON)
