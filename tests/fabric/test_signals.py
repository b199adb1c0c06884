"""Signals that arrive in the middle of making something: nothing is lost, nothing is left."""

from __future__ import annotations

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
        another.register(bytearray(4096), rpma.Usage(0xFF)),
        another.create_srq(),
        rpma.ConnectionConfig(sq_size=5),
        peer.register(buffer, rpma.Usage(0xFF)) as region,
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
