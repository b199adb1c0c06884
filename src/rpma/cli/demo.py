# SPDX-License-Identifier: BSD-3-Clause
"""`rpma demo`: a file goes into another process's memory and comes back."""

from __future__ import annotations

import hashlib
import multiprocessing
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from rich.table import Table

import rpma
from rpma import FlushType, Usage, allocation
from rpma.cli.machine import Machine

STAGING_SIZE = 8 << 20
"""How much of the file is in local memory at a time, in bytes."""

SEGMENT_SIZE = 256 << 10
"""How much one request moves, in bytes."""

CONNECT_TIMEOUT = 30.0
"""How long the target's process may take to listen, and the connection to come, in seconds."""


@dataclass
class Story:
    """What happened."""

    file: Path
    size: int
    device: str
    address: str
    flush: FlushType
    source_digest: str
    target_digest: str
    returned_digest: str
    writes: int
    flushes: int
    reads: int
    write_seconds: float
    read_seconds: float

    @property
    def matches(self) -> bool:
        """Whether all three digests are the same."""
        return self.source_digest == self.target_digest == self.returned_digest


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


def run(file: Path, address: str | None, port: int) -> Story:
    """Do it, with a target in a process of its own.

    Raises:
        RpmaError: what goes wrong with RDMA; NoDeviceError where there is no device.
        OSError: what goes wrong with the file.
    """
    if address is None:
        address = default_address()
    size = file.stat().st_size
    context = multiprocessing.get_context("spawn")  # RDMA resources do not survive a fork
    ours, theirs = context.Pipe()
    target = context.Process(target=serve, args=(address, port, size, theirs), daemon=True)
    target.start()
    theirs.close()
    try:
        _expect(ours, "listening")
        story = put_and_get(file, size, address, port)
        story.target_digest = _expect(ours, "digest")
        return story
    finally:
        ours.close()
        target.join(CONNECT_TIMEOUT)
        target.kill()


def serve(address: str, port: int, size: int, pipe: Pipe) -> None:
    """The target: offer memory for the file, sleep while it is used, then look what is there."""
    usage = Usage.WRITE_DST | Usage.READ_SRC | Usage.FLUSH_TYPE_VISIBILITY
    try:
        memory = allocation.anonymous(_room(size))
        with (
            rpma.Peer.for_address(address) as peer,
            peer.register(memory, usage) as region,
            peer.listen(address, port) as endpoint,
        ):
            pipe.send(("listening", ""))
            with endpoint.accept(region.descriptor, timeout=CONNECT_TIMEOUT) as connection:
                connection.wait_closed()
            pipe.send(("digest", hashlib.sha256(region.view[:size]).hexdigest()))
    except Exception as error:
        pipe.send(("failed", str(error)))


def put_and_get(file: Path, size: int, address: str, port: int) -> Story:
    """The initiator: write the file into the target's memory, flush, read it back."""
    usage = Usage.WRITE_SRC | Usage.READ_DST
    memory = allocation.anonymous(min(STAGING_SIZE, _room(size)))
    config = rpma.ConnectionConfig(cq_size=64, sq_size=64)
    story = Story(file, size, "", address, FlushType.VISIBILITY, "", "", "", 0, 0, 0, 0.0, 0.0)
    source, returned = hashlib.sha256(), hashlib.sha256()
    with (
        rpma.Peer.for_address(address, remote=True) as peer,
        peer.register(memory, usage) as staging,
        peer.connect(address, port, config=config, timeout=CONNECT_TIMEOUT) as connection,
    ):
        story.device = peer.device.name
        remote = rpma.RemoteMemoryRegion(connection.private_data)
        view = staging.view
        with file.open("rb", buffering=0) as stream:
            for offset, length in _pieces(size, len(staging)):
                _read_exactly(stream, view[:length])
                source.update(view[:length])
                began = time.perf_counter()
                segments = [(offset + at, at, count) for at, count in _pieces(length, SEGMENT_SIZE)]
                connection.write_batch(remote, staging, segments, flush=story.flush)
                story.write_seconds += time.perf_counter() - began
                story.writes += len(segments)
                story.flushes += 1
        for offset, length in _pieces(size, len(staging)):
            view[:length] = bytes(length)  # what comes back cannot be what was there
            began = time.perf_counter()
            segments = [(at, offset + at, count) for at, count in _pieces(length, SEGMENT_SIZE)]
            connection.read_batch(staging, remote, segments)
            story.read_seconds += time.perf_counter() - began
            story.reads += len(segments)
            returned.update(view[:length])
        view.release()
        connection.disconnect()
        connection.wait_closed(CONNECT_TIMEOUT)
    story.source_digest, story.returned_digest = source.hexdigest(), returned.hexdigest()
    return story


def table(story: Story) -> Table:
    """The story as a table."""
    verdict = "[green]the digests match[/]" if story.matches else "[red]THE DIGESTS DIFFER[/]"
    shown = Table(
        title=f"{story.file.name}: {verdict}",
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    shown.add_row("bytes", f"{story.size:,}")
    shown.add_row("SHA-256 file", story.source_digest)
    shown.add_row("  at target", story.target_digest)
    shown.add_row("  read back", story.returned_digest)
    shown.add_row("requests", f"write {story.writes}, flush {story.flushes}, read {story.reads}")
    shown.add_row(
        "seconds", f"{story.write_seconds:.3f} to write, {story.read_seconds:.3f} to read back"
    )
    shown.add_row("device", f"{story.device} at {story.address}, Linux {platform.release()}")
    build = "debug" if rpma.library.is_debug else "normal"
    shown.add_row("librpma", f"{rpma.library.path} ({build} build)")
    shown.add_row("flush", f"{story.flush.name.lower()}: the target's memory is DRAM")
    return shown


def _room(size: int) -> int:
    """A region has at least as many bytes as a flush reads, also for an empty file."""
    return max(size, 8)


def _pieces(size: int, most: int) -> Iterator[tuple[int, int]]:
    return ((offset, min(most, size - offset)) for offset in range(0, size, most))


def _read_exactly(stream: object, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise OSError("the file became shorter while it was read")
        done += count


def _expect(pipe: Pipe, kind: str) -> str:
    """The target's next message, which must be of this kind."""
    if not pipe.poll(CONNECT_TIMEOUT):
        raise rpma.WaitTimeoutError(f"the target did not answer within {CONNECT_TIMEOUT} s")
    try:
        got, text = pipe.recv()
    except EOFError:
        raise rpma.ConnectionLost("the target's process died") from None
    if got != kind:
        raise rpma.RpmaError(f"the target failed: {text}")
    return str(text)
