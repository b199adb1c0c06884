"""The device that the fabric tests run on works by itself, seen by tools that are not ours."""

from __future__ import annotations

import subprocess
import time

import pytest

from fabrics.fabric import Fabric

pytestmark = pytest.mark.fabric

#: Seconds; the guest's processor is emulated.
LIMIT = 60

PYVERBS = """
import sys
import pyverbs.device as device
with device.Context(name=sys.argv[1]) as context:
    print(context.query_device().max_mr_size > 0, context.query_port(1).state)
"""


def output(fabric: Fabric, *command: str) -> str:
    """Run a tool that must succeed on the fabric, and return what it printed."""
    done = subprocess.run(
        command, env=fabric.environment, capture_output=True, text=True, timeout=LIMIT
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_device_is_listed(fabric: Fabric) -> None:
    assert fabric.device in output(fabric, "ibv_devices").split()


def test_its_port_is_active(fabric: Fabric) -> None:
    assert "PORT_ACTIVE" in output(fabric, "ibv_devinfo", "-d", fabric.device)


def test_pyverbs_opens_it(fabric: Fabric) -> None:
    port_active = 4
    printed = output(fabric, "/usr/bin/python3", "-c", PYVERBS, fabric.device)
    assert printed.split() == ["True", str(port_active)]


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_rping_crosses_it(fabric: Fabric, family: str) -> None:
    address = fabric.address if family == "IPv4" else fabric.address6
    if address is None:
        pytest.skip("the device's interface has no IPv6 address")
    port = fabric.next_port()
    common = ["-a", address, "-p", port, "-C", "10", "-v"]
    server = subprocess.Popen(
        ["rping", "-s", *common],
        env=fabric.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        time.sleep(1)
        client = output(fabric, "rping", "-c", *common)
        received, _ = server.communicate(timeout=LIMIT)
    finally:
        server.kill()
        server.communicate()
    assert client.count("ping data: rdma-ping-") == 10
    assert received.count("server ping data: rdma-ping-") == 10
