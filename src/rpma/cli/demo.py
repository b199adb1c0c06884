# SPDX-License-Identifier: BSD-3-Clause
"""`rpma demo`: a file goes into a pool, its target is killed, and the file comes back."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import multiprocessing
import os
import platform
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.table import Table
from rich.text import Text

import rpma
from rpma._streams import read_fully
from rpma.cli import interrupts, output
from rpma.cli.machine import Machine
from rpma.cli.transfer import Source, source_of
from rpma.pool import Client, Target
from rpma.pool.target.header import DATA_OFFSET

STAGING_SIZE = 8 << 20
"""How much of the file is in local memory at a time, in bytes."""

POOL = "demo"
"""The name of the pool."""

CONNECT_TIMEOUT = 30.0
"""How long the target may take to serve, and the client to come in, in seconds."""


@dataclass
class Story:
    """What happened."""

    file: Path
    size: int
    device: str = ""
    address: str = ""
    persistency: str = ""
    source_digest: str = ""
    stored_digest: str = ""
    returned_digest: str = ""
    put_seconds: float = 0.0
    get_seconds: float = 0.0
    steps: list[tuple[str, str]] = field(default_factory=list)

    @property
    def matches(self) -> bool:
        """Whether all three digests are the same."""
        return self.source_digest == self.stored_digest == self.returned_digest


def default_address() -> str:
    """An address that leads to this machine's RDMA device: IPv4 if there is one.

    Raises:
        NoDeviceError: no device has an address.
    """
    if rpma.fabric.name == "soft":
        return "127.0.0.1"
    for device in Machine().devices:
        if device.addresses:
            return device.addresses[0]
    raise rpma.NoDeviceError(
        "this machine has no RDMA device with an IP address; 'rpma doctor' tells why, and "
        "RPMA_FABRIC=soft does without a device"
    )


def fabric_line() -> str:
    """Which fabric the demo takes, and why."""
    name = "the soft RNIC" if rpma.fabric.name == "soft" else "RDMA"
    return f"fabric: {name} ({rpma.fabric.reason})"


def run(file: Path, address: str | None, port: int = 0) -> Story:
    """Do it, with a target in a process of its own.

    Args:
        file: what to put into the pool.
        address: of an RDMA device of this machine, for the data; None: the first there is.
        port: where the target listens, on loopback; 0: on one that is free.

    Raises:
        RpmaError: what goes wrong with RDMA; NoDeviceError where there is no device.
        OSError: what goes wrong with the file.
    """
    if address is None:
        address = default_address()
    token = secrets.token_bytes(32)
    with (
        source_of(file) as source,
        _folder() as directory,
    ):
        if source.size is None:
            raise OSError(f"{file} does not say how long it is: take a regular file")
        story = Story(file, source.size, address=address)
        with _serving(directory, address, port, token) as (target, at):
            story.steps.append(("serve", f"a target, process {target.pid}, on 127.0.0.1:{at}"))
            _put(story, source, at, token)
            assert target.pid is not None
            os.kill(target.pid, signal.SIGKILL)
            target.join(CONNECT_TIMEOUT)
            story.steps.append(
                ("kill", f"SIGKILL to process {target.pid}: it had no time to write")
            )
        stored = os.path.join(directory, f"{POOL}.pool")
        story.stored_digest = _digest_of_data(stored, story.size)
        story.steps.append(("look", "at the data in the pool's file, while nothing serves it"))
        with _serving(directory, address, port, token) as (target, at):
            story.steps.append(("restart", f"a new target, process {target.pid}"))
            _get(story, at, token)
    return story


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A folder for the pools, which is gone afterwards, whenever Ctrl-C comes."""
    directory = ""
    try:
        with interrupts.held_back():
            directory = tempfile.mkdtemp(prefix="rpma-demo-")
        yield directory
    finally:
        with interrupts.held_back():
            if directory:
                shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _serving(
    directory: str, address: str, port: int, token: bytes
) -> Iterator[tuple[BaseProcess, int]]:
    """A target's process, and the port on which clients come in."""
    context = multiprocessing.get_context("spawn")  # RDMA resources do not survive a fork
    ours, theirs = context.Pipe()
    arguments = (directory, address, port, token, theirs)
    target = context.Process(target=_serve, args=arguments, daemon=True)
    resource_tracker.ensure_running()  # which would let Ctrl-C through again
    try:
        with interrupts.held_back():
            target.start()
        theirs.close()
        if not ours.poll(CONNECT_TIMEOUT):
            raise rpma.WaitTimeoutError(f"the target did not start within {CONNECT_TIMEOUT} s")
        try:
            said = ours.recv()
        except EOFError:
            raise rpma.ConnectionLost("the target's process died") from None
        if isinstance(said, str):
            raise rpma.RpmaError(f"the target failed: {said}")
        yield target, said
    finally:
        theirs.close()
        ours.close()  # by which it ends
        if target.pid is not None:
            target.join(CONNECT_TIMEOUT)
            target.kill()


def _serve(directory: str, address: str, port: int, token: bytes, pipe: Pipe) -> None:
    """The target's process: tell its port, or what is wrong; serve until the pipe ends."""
    target = Target(directory, listen=f"127.0.0.1:{port}", token=token, rdma_address=address)
    try:
        target.start()
    except OSError as error:
        busy = "; name another with --port, or none: then it is one that is free"
        words = error.strerror or str(error)
        pipe.send(words + busy if error.errno == errno.EADDRINUSE else words)
        return
    except Exception as error:
        pipe.send(str(error))
        return
    pipe.send(target.address.port)
    with contextlib.suppress(EOFError):
        pipe.recv()
    target.close()


def _put(story: Story, source: Source, port: int, token: bytes) -> None:
    """Create the pool in the file's size, write the file into it, have it persisted and noted."""
    size = max(story.size, 1)  # a pool has at least a byte
    digest = hashlib.sha256()
    with (
        Client(f"127.0.0.1:{port}", token=token, timeout=CONNECT_TIMEOUT) as client,
        client.create_pool(POOL, size, incomplete=True) as pool,
    ):
        story.device = client.device
        story.persistency = pool.persistency.value
        story.steps.append(("create", f"pool {pool.name!r} of {size:,} bytes"))
        began, at = time.perf_counter(), 0
        staging = memoryview(bytearray(min(STAGING_SIZE, size)))
        while at < story.size:
            count = read_fully(source.stream, staging[: story.size - at])
            if not count:
                raise OSError("the file became shorter while it was read")
            digest.update(staging[:count])
            pool.write(at, staging[:count])
            at += count
        source.check_unchanged()
        pool.commit(story.size)
        story.put_seconds = time.perf_counter() - began
        story.steps.append(("put", f"{_rate(story.size, story.put_seconds)}, durable on return"))
    story.source_digest = digest.hexdigest()


def _get(story: Story, port: int, token: bytes) -> None:
    """Read the file back from the pool."""
    digest = hashlib.sha256()
    with (
        Client(f"127.0.0.1:{port}", token=token, timeout=CONNECT_TIMEOUT) as client,
        client.open_pool(POOL, access="read") as pool,
    ):
        if pool.info.incomplete:
            raise rpma.RpmaError("the pool is incomplete, although its commit had returned")
        length = pool.info.content_length or 0
        began = time.perf_counter()
        staging = memoryview(bytearray(min(STAGING_SIZE, pool.size)))
        for at in range(0, length, STAGING_SIZE):
            part = staging[: min(STAGING_SIZE, length - at)]
            pool.read_into(at, part)
            digest.update(part)
        story.get_seconds = time.perf_counter() - began
        story.steps.append(("get", _rate(length, story.get_seconds)))
    story.returned_digest = digest.hexdigest()


def _digest_of_data(path: str, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(DATA_OFFSET)
        while size and (data := file.read(min(size, STAGING_SIZE))):
            digest.update(data)
            size -= len(data)
    return digest.hexdigest()


def _rate(size: int, seconds: float) -> str:
    words = f"{size:,} bytes in {seconds * 1000:.1f} ms"
    return f"{words}, {size / seconds / 1e6:,.0f} MB/s" if size >= 1 << 20 else words


def table(story: Story) -> Table:
    """The story as a table."""
    title = Text(f"{output.printable(story.file.name)}: ")
    if story.matches:
        title.append("the digests match", style="green")
    else:
        title.append("THE DIGESTS DIFFER", style="red")
    shown = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    for what, words in story.steps:
        shown.add_row(what, words)
    shown.add_row("SHA-256 file", story.source_digest)
    shown.add_row("  in the pool", story.stored_digest)
    shown.add_row("  got back", story.returned_digest)
    shown.add_row("durable by", story.persistency)
    shown.add_row("device", f"{story.device} at {story.address}, Linux {platform.release()}")
    build = "debug" if rpma.library.is_debug else "normal"
    shown.add_row("librpma", f"{rpma.library.path} ({build} build)")
    return shown
