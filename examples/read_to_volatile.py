# SPDX-License-Identifier: BSD-3-Clause
"""Read the other side's memory into one's own.

The target registers a piece of DRAM as the source of reads, and sends its description, the
descriptor, as private data. The initiator reads it: the target's CPU has no part in that.
"""

from __future__ import annotations

import argparse
import sys

import common

import rpma

TEXT = "Hello client!"
MOST = 1024
"""More is not read, whatever the target says, in bytes."""


def target(arguments: argparse.Namespace) -> None:
    """Offer memory, and do nothing while it is read."""
    with (
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(bytearray(common.text(TEXT)), rpma.Usage.READ_SRC) as source,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        with endpoint.accept(common.Offer(source.descriptor).pack()) as connection:
            print(f"offered: {len(source)} bytes to read")
            connection.wait_closed()


def initiator(arguments: argparse.Namespace) -> None:
    """Read what the target offers."""
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.connect(arguments.address, arguments.port) as connection,
    ):
        source = common.Offer.unpack(connection.private_data).region(1)
        if source.size > MOST:
            raise common.PeerError(f"the target offers {source.size} bytes, {MOST} can be read")
        with peer.register(bytearray(source.size), rpma.Usage.READ_DST) as destination:
            connection.read_wait(destination, 0, source, 0, source.size)
            text = common.text_in(destination.view)
    print(f"read: {text}")
    if text != TEXT:
        sys.exit(f"expected: {TEXT}")


if __name__ == "__main__":
    common.Program(__doc__, target, initiator).run()
