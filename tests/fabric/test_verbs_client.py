"""A client of another make, on verbs alone, works on memory that rpma registered."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pairs import SOON, line

import rpma
from fabrics.fabric import Fabric
from rpma import Usage

pytestmark = pytest.mark.fabric

CLIENT = Path(__file__).with_name("verbs_client.py")
TEXT = "written by pyverbs, with an rkey from rpma.Descriptor"


def test_pyverbs_writes_into_a_region_and_reads_it_back(peer: rpma.Peer, fabric: Fabric) -> None:
    memory, port = bytearray(4096), fabric.next_port()
    usage = Usage.WRITE_DST | Usage.READ_SRC
    with (
        peer.register(memory, usage) as region,
        peer.listen(fabric.address, port) as endpoint,
    ):
        described = rpma.Descriptor.unpack(region.descriptor)
        command = ["/usr/bin/python3", str(CLIENT), fabric.device, fabric.address, port]
        client = subprocess.Popen(
            [*command, str(described.address + 100), str(described.rkey), TEXT],
            env=fabric.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert line(client) == "device True"
            with endpoint.accept(timeout=SOON) as connection:
                assert line(client) == "write 0"
                assert line(client) == "read 0"
                assert line(client) == f"back {TEXT}"
                connection.wait_closed(SOON)
            _, errors = client.communicate(timeout=60)
            assert client.returncode == 0, errors
        finally:
            client.kill()
            client.communicate()
    written = TEXT.encode()
    assert memory == bytes(100) + written + bytes(4096 - 100 - len(written))
