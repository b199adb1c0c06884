"""Two sides of a connection in one process, and processes that are a side of their own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

import rpma
from fabrics.fabric import Fabric
from rpma import ConnectionConfig, ConnectionEvent, FlushType, Usage

#: How long what must happen may take, in seconds; the guest's processor is emulated.
SOON = 20.0
#: How long to see that something does not happen.
A_MOMENT = 0.2

VISIBILITY = FlushType.VISIBILITY
PERSISTENT = FlushType.PERSISTENT
#: What any memory can be registered for. Persistence is for the fixture `persistent`.
EVERYTHING = Usage(0xFF) & ~Usage.FLUSH_TYPE_PERSISTENT
SIZE = 1 << 16


@dataclass
class Pair:
    """An established connection: the target has memory, the initiator works on it."""

    target: rpma.Connection
    initiator: rpma.Connection
    #: The target's memory, as the target has it and as the initiator sees it.
    memory: bytearray | rpma.allocation.Memory
    region: rpma.MemoryRegion
    remote: rpma.RemoteMemoryRegion
    #: The initiator's memory.
    own: bytearray
    local: rpma.MemoryRegion

    def end(self) -> None:
        """Have both sides see the end."""
        self.initiator.disconnect()
        self.target.wait_closed(SOON)
        self.target.disconnect()
        self.initiator.wait_closed(SOON)


def connections(
    peer: rpma.Peer,
    fabric: Fabric,
    *,
    target: ConnectionConfig | None = None,
    initiator: ConnectionConfig | None = None,
    before: Callable[[rpma.ConnectionRequest], None] = lambda _: None,
    address: str | None = None,
) -> tuple[rpma.Connection, rpma.Connection]:
    """Connect this process with itself: the target's side, the initiator's side.

    Args:
        before: called with each side's request, before it connects or accepts.
    """
    address = address or fabric.address
    port = fabric.next_port()
    with peer.listen(address, port) as endpoint:
        with peer.request(address, port, initiator) as request:
            before(request)
            client = request.connect()
        server = accepted(endpoint, client, config=target, before=before)
    return server, client


def accepted(
    endpoint: rpma.Endpoint,
    client: rpma.Connection,
    *,
    config: ConnectionConfig | None = None,
    before: Callable[[rpma.ConnectionRequest], None] = lambda _: None,
) -> rpma.Connection:
    """Accept the connection that this process itself asks for.

    Endpoint.accept() is for two threads: it waits for the initiator, which has to look at its
    events for that.
    """
    with endpoint.next_conn_req(config, timeout=SOON) as request:
        before(request)
        server = request.connect()
    client.wait_established(SOON)
    server.wait_established(SOON)
    return server


@contextmanager
def pair(
    peer: rpma.Peer,
    fabric: Fabric,
    *,
    size: int = SIZE,
    memory: bytearray | rpma.allocation.Memory | None = None,
    usage: Usage = EVERYTHING,
    target: ConnectionConfig | None = None,
    initiator: ConnectionConfig | None = None,
) -> Iterator[Pair]:
    """A connection with memory on both sides, closed again at the end.

    Args:
        memory: the target's, if it is to be a certain one.
    """
    with ExitStack() as stack:
        memory, own = bytearray(size) if memory is None else memory, bytearray(size)
        region = stack.enter_context(peer.register(memory, usage))
        local = stack.enter_context(peer.register(own, EVERYTHING))
        remote = stack.enter_context(rpma.RemoteMemoryRegion(region.descriptor))
        server, client = connections(peer, fabric, target=target, initiator=initiator)
        stack.enter_context(server)
        stack.enter_context(client)
        yield Pair(server, client, memory, region, remote, own, local)


def has_native_flush(peer: rpma.Peer) -> bool:
    """Whether the device does, and librpma has it do so: then only persistent memory may be
    registered for flushes to persistence.
    """
    try:
        peer.register(bytearray(8), Usage.FLUSH_TYPE_PERSISTENT).close()
    except rpma.ProviderError as error:
        if error.errno != errno.EINVAL:
            raise
        return True
    return False


def pattern(length: int, seed: int = 0) -> bytes:
    """Bytes of which no two ranges look alike."""
    return bytes((i * 7 + (i >> 8) * 13 + seed * 31 + 1) & 0xFF for i in range(length))


def completions(queue: rpma.CompletionQueue, count: int) -> list[rpma.WorkCompletion]:
    """The next completions of a queue."""
    return [queue.next_wc(SOON) for _ in range(count)]


def ended(connection: rpma.Connection) -> bool:
    return connection.ended is not ConnectionEvent.UNDEFINED


def threads(*functions: Callable[[], object]) -> None:
    """Run the functions at once; raise the first exception of any."""
    raised: list[BaseException] = []
    barrier = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> None:
        try:
            barrier.wait(SOON)
            function()
        except BaseException as error:
            raised.append(error)

    started = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if raised:
        raise raised[0]


@contextmanager
def python(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process with pipes, killed at the end if it has not ended."""
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def line(child: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert child.stdout is not None
    text = child.stdout.readline().rstrip("\n")
    if not text:
        child.kill()
        _, errors = child.communicate()
        pytest.fail(f"the child printed nothing: {errors}")
    return text


def fork(function: Callable[[], object]) -> None:
    """Run the function in a forked child, which must succeed in time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException as error:
            os.write(2, f"in the child: {error!r}\n".encode())
        finally:
            os._exit(code)
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "the child has failed"
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    pytest.fail("the child hangs")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
