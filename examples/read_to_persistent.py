# SPDX-License-Identifier: BSD-3-Clause
"""Read the other side's memory into persistent memory.

Here the target reads: the initiator offers its memory, and the target fetches it into FILE. What a
read brings is in this machine's memory when the read completes, and the reader itself makes it
durable, with Memory.sync().
"""

from __future__ import annotations

import argparse
import sys
import zlib

import common

import rpma

SIZE = 1024
CHECKSUM_SIZE = 4


def verify(contents: memoryview, checksum: bytes) -> None:
    """Compare what was read with the initiator's checksum; its twin in C sends none."""
    if not any(checksum):  # the network may pad with zeros
        print("the initiator sent no checksum to compare with")
    elif zlib.crc32(contents) != int.from_bytes(checksum, "little"):
        sys.exit("what was read is not what the initiator has")


def target(arguments: argparse.Namespace) -> None:
    """Read what the initiator offers into FILE, and make it durable."""
    with (
        common.map_memory(arguments.file, SIZE) as memory,
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(memory, rpma.Usage.READ_DST) as destination,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        with endpoint.accept() as connection:
            offer = common.Offer.unpack(connection.private_data)
            behind = connection.private_data[common.OFFER_SIZE :]
            connection.read_wait(destination, 0, offer.region(SIZE), offer.offset, SIZE)
        verify(memory.view[:SIZE], behind[:CHECKSUM_SIZE])
        print(f"read: {common.text_in(memory.view[:SIZE])}")
        common.sync(memory, SIZE)


def initiator(arguments: argparse.Namespace) -> None:
    """Offer memory, and wait until the target has read it and disconnects."""
    contents = arguments.text.encode().ljust(SIZE, b"\0")
    checksum = zlib.crc32(contents).to_bytes(CHECKSUM_SIZE, "little")
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.register(bytearray(contents), rpma.Usage.READ_SRC) as source,
        peer.connect(
            arguments.address,
            arguments.port,
            private_data=common.Offer(source.descriptor).pack() + checksum,
        ) as connection,
    ):
        print(f"offered: {arguments.text}")
        connection.wait_closed()
    print("the target has disconnected")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    common.add_file(program.target)
    program.initiator.add_argument("text", nargs="?", default="Hello from the initiator!")
    program.run()
