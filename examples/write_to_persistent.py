# SPDX-License-Identifier: BSD-3-Clause
"""Write into the other side's persistent memory, and make sure that it has arrived.

A write completes when the data has reached the target's RNIC: it may not be in the target's memory
yet. A read of the same memory, posted behind the write, pushes it there: a read never overtakes a
write on the same connection. That is what a visibility flush does, see flush_to_persistent.py.

It makes the data visible, not durable. Here the target makes it durable, in its own time.
"""

from __future__ import annotations

import argparse
import sys

import common

import rpma

SIZE = 1024
PUSH_SIZE = 8
PUSH_ID = 1


def target(arguments: argparse.Namespace) -> None:
    """Offer FILE to be written to; make it durable when the initiator is gone."""
    with (
        common.map_memory(arguments.file, SIZE) as memory,
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(memory, rpma.Usage.WRITE_DST | rpma.Usage.READ_SRC) as destination,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"found: {common.text_in(memory.view[:SIZE])}")
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        with endpoint.accept(common.Offer(destination.descriptor).pack()) as connection:
            connection.wait_closed()
        print(f"written: {common.text_in(memory.view[:SIZE])}")
        common.sync(memory, SIZE)


def initiator(arguments: argparse.Namespace) -> None:
    """Write, push the write into the target's memory, and read all of it back."""
    contents = arguments.text.encode().ljust(SIZE, b"\0")
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.register(bytearray(contents), rpma.Usage.WRITE_SRC) as source,
        peer.register(bytearray(SIZE), rpma.Usage.READ_DST) as copy,
        peer.connect(arguments.address, arguments.port) as connection,
    ):
        offer = common.Offer.unpack(connection.private_data)
        destination, at = offer.region(SIZE), offer.offset

        # Two requests are under way at once. The write completes in silence unless it fails.
        connection.write(destination, at, source, 0, SIZE)
        connection.read(
            copy, 0, destination, at, PUSH_SIZE, flags=rpma.CompletionFlags.ALWAYS, wr_id=PUSH_ID
        )
        completion = connection.cq.next_wc()
        completion.raise_for_status()
        if completion.wr_id != PUSH_ID:
            sys.exit(f"an unexpected request has completed: {completion}")
        print(f"written, visible on the target, not durable yet: {arguments.text}")

        connection.read_wait(copy, 0, destination, at, SIZE)
        if copy.view != contents:
            sys.exit("what was read back is not what was written")
        print("read back: the same")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    common.add_file(program.target)
    program.initiator.add_argument("text", nargs="?", default="Hello from the initiator!")
    program.run()
