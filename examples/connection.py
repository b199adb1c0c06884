# SPDX-License-Identifier: BSD-3-Clause
"""Make a connection, and end it.

While they connect, the two sides exchange a few bytes: private data, up to 56 bytes to the target
and 196 to the initiator on InfiniBand and RoCE. The network pads them with zeros. The other
examples use them to hand over the description of a memory region.
"""

from __future__ import annotations

import argparse
import sys

import common

import rpma

TO_TARGET = "Hello server!"
TO_INITIATOR = "Hello client!"


def expect(connection: rpma.Connection, text: str) -> None:
    """Print what the other side said, and verify it."""
    received = common.text_in(memoryview(connection.private_data))
    print(f"connected; the other side says: {received}")
    if received != text:
        sys.exit(f"expected: {text}")


def target(arguments: argparse.Namespace) -> None:
    """Accept one connection, end it, and wait until that is done."""
    with (
        rpma.Peer.for_address(arguments.address) as peer,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        with endpoint.accept(private_data=common.text(TO_INITIATOR)) as connection:
            expect(connection, TO_TARGET)
            connection.disconnect()
            connection.wait_closed()
            print(f"the connection has ended: {connection.ended}")


def initiator(arguments: argparse.Namespace) -> None:
    """Connect, and wait until the target ends the connection."""
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.connect(
            arguments.address, arguments.port, private_data=common.text(TO_TARGET)
        ) as connection,
    ):
        expect(connection, TO_INITIATOR)
        connection.wait_closed()
        print(f"the connection has ended: {connection.ended}")


if __name__ == "__main__":
    common.Program(__doc__, target, initiator).run()
