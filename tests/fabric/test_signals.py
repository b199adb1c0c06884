"""Signals that arrive in the middle of making something: nothing is lost, nothing is left."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from fabrics.fabric import Fabric

pytestmark = pytest.mark.fabric

#: In a process of its own, since pytest-timeout has the timer. Arguments: address, two ports.
COMMON = """
import gc, signal, sys, time, warnings
import rpma
warnings.simplefilter("ignore", ResourceWarning)  # what is dropped on the way
address, port, another_port = sys.argv[1:]
arrived = 0

def alarm(after):
    signal.setitimer(signal.ITIMER_REAL, after)

peer = rpma.Peer.for_address(address)
buffer = bytearray(4096)
config = rpma.ConnectionConfig(rcq_size=10)
endpoint = peer.listen(address, port)

def make():
    with (
        rpma.Peer.for_address(address) as another,
        another.listen(address, another_port),
        another.register(bytearray(4096), rpma.Usage(0xFF) ^ rpma.Usage.FLUSH_TYPE_PERSISTENT),
        another.create_srq(),
        rpma.ConnectionConfig(sq_size=5),
        peer.register(buffer, rpma.Usage(0xFF) ^ rpma.Usage.FLUSH_TYPE_PERSISTENT) as region,
        rpma.RemoteMemoryRegion(region.descriptor) as remote,
    ):
        with peer.request(address, port, config) as request:
            client = request.connect()
        with client:
            with endpoint.next_conn_req(timeout=20) as request:
                server = request.connect()
            with server:
                client.wait_established(20)
                server.wait_established(20)
                client.write_wait(remote, 0, region, 8, 8, flush=rpma.FlushType.VISIBILITY)
                client.read_wait(region, 0, remote, 8, 8)

def seconds():
    began = time.monotonic()
    make()
    return time.monotonic() - began

#: What making takes: many milliseconds in the guest, few elsewhere; and when the signal comes.
TAKES = min(seconds() for _ in range(3))
MOMENTS = [TAKES * step / 20 for step in range(1, 21)]
"""

RAISING = """
class Arrived(Exception):
    pass

def handler(*_):
    global arrived
    arrived += 1
    raise Arrived

signal.signal(signal.SIGALRM, handler)
for moment in MOMENTS * 2:
    try:
        alarm(moment)
        make()
        alarm(0)
    except Arrived:
        pass
    except rpma.ProviderError as error:
        # A request of one that was interrupted, and is gone.
        assert "given up" in str(error), error
    gc.collect()
    while True:  # others of that kind
        try:
            endpoint.next_conn_req(timeout=0).close()
        except rpma.WaitTimeoutError:
            break
        except rpma.ProviderError:
            pass
alarm(0)
make()
endpoint.close()
peer.close()  # nothing made from it is left
buffer.append(1)  # nor held
print("good", arrived > 10)
"""

RETURNING = """
def handler(*_):
    global arrived
    arrived += 1

signal.signal(signal.SIGALRM, handler)
for moment in MOMENTS:
    signal.setitimer(signal.ITIMER_REAL, moment, TAKES / 4)
    make()
signal.setitimer(signal.ITIMER_REAL, 0)
endpoint.close()
peer.close()
print("good", arrived > 10)
"""


@pytest.mark.parametrize("code", [RAISING, RETURNING], ids=["raising", "returning"])
def test_a_signal_at_any_moment(fabric: Fabric, code: str) -> None:
    ports = (fabric.next_port(), fabric.next_port())
    done = subprocess.run(
        [sys.executable, "-c", COMMON + code, fabric.address, *ports],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "good True\n"), done.stderr


#: Arguments: address, port. What is written to is no memory any more, which the device finds out.
FAULTING = """
import ctypes, faulthandler, sys, time
faulthandler.enable()
import rpma
from rpma.allocation import anonymous
address, port = sys.argv[1:]
peer = rpma.Peer.for_address(address)
memory = anonymous(4096)
source = peer.register(bytearray(8), rpma.Usage.WRITE_SRC)
region = peer.register(memory, rpma.Usage.WRITE_DST)
remote = rpma.RemoteMemoryRegion(region.descriptor)
endpoint = peer.listen(address, port)
client = peer.request(address, port).connect()
server = endpoint.next_conn_req(timeout=20).connect()
client.wait_established(20)
server.wait_established(20)
assert ctypes.CDLL(None).munmap(ctypes.c_void_p(memory.address), ctypes.c_size_t(4096)) == 0
client.write(remote, 0, source, 0, 8, flags=rpma.CompletionFlags.ALWAYS)
time.sleep(20)
"""


def test_a_fault_in_the_soft_rnics_thread_reaches_the_programs_handler(fabric: Fabric) -> None:
    if fabric.name != "soft":
        pytest.skip("a kernel's device writes to the pages that it has pinned")
    command = [sys.executable, "-c", FAULTING, fabric.address, fabric.next_port()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGSEGV, done.stderr
    assert "Fatal Python error: Segmentation fault" in done.stderr


#: In a process of its own: other libraries have threads, too. The argument: the address.
THREADS = """
import re, signal, sys, threading
from pathlib import Path
from rpma.pool import Client, Target
faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP}
faults |= {signal.SIGSYS, signal.SIGABRT}
theirs = {signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD}
options = {"listen": "127.0.0.1:0", "token": "a token of tests", "rdma_address": sys.argv[1]}
with Target(dram=1 << 20, **options) as target:
    with Client(target.address, token=options["token"], timeout=20) as client:
        with client.create_pool("pool", 4096, volatile=True, timeout=20):
            pythons = {thread.native_id for thread in threading.enumerate()}
            tasks = [task for task in Path("/proc/self/task").iterdir()]
            ours = [task for task in tasks if int(task.name) not in pythons]
            assert ours
            for task in ours:
                text = (task / "status").read_text()
                mask = int(re.findall(r"SigBlk:\\t([0-9a-f]+)", text)[0], 16)
                blocked = {n for n in signal.valid_signals() if mask >> (n - 1) & 1}
                assert not blocked & faults, text
                assert theirs <= blocked, text
print("good")
"""


def test_threads_of_rpma_leave_the_programs_signals_to_it_and_faults_to_their_handlers(
    fabric: Fabric,
) -> None:
    """The soft RNIC's, and the one that answers a client's requests."""
    command = [sys.executable, "-c", THREADS, fabric.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr
