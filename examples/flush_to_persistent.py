# SPDX-License-Identifier: BSD-3-Clause
"""Write into the other side's persistent memory, and flush it: the appliance persistency method.

How far a flush may go depends on the target's platform, which software cannot find out. Started
with --direct-write-to-pmem, the target states that what its RNIC writes goes to persistent memory
and not to CPU caches that lose it. If FILE is persistent memory it sends this statement, its peer
configuration, to the initiator, who then may flush until the data is durable. Otherwise a flush
makes it visible only: flush_to_persistent_gpspm.py shows what to do then.
"""

from __future__ import annotations

import argparse
import sys

import common

import rpma

SIZE = 1024


def target(arguments: argparse.Namespace) -> None:
    """Offer FILE to be written to and flushed, and say what the platform does."""
    memory = common.map_memory(arguments.file, SIZE)
    is_durable = common.is_durable_once_flushed(memory, arguments.direct_write_to_pmem)
    usage = rpma.Usage.WRITE_DST | rpma.Usage.READ_SRC | rpma.Usage.FLUSH_TYPE_VISIBILITY
    if is_durable:
        usage |= rpma.Usage.FLUSH_TYPE_PERSISTENT
    config = rpma.PeerConfig(direct_write_to_pmem=is_durable)
    with (
        memory,
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(memory, usage) as destination,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"found: {common.text_in(memory.view[:SIZE])}")
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        offer = common.Offer(destination.descriptor, peer_descriptor=config.descriptor)
        with endpoint.accept(offer.pack()) as connection:
            connection.wait_closed()
        print(f"written: {common.text_in(memory.view[:SIZE])}")


def initiator(arguments: argparse.Namespace) -> None:
    """Write, flush as far as the target's platform allows, and read back."""
    contents = arguments.text.encode().ljust(SIZE, b"\0")
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.register(bytearray(contents), rpma.Usage.WRITE_SRC) as source,
        peer.register(bytearray(SIZE), rpma.Usage.READ_DST) as copy,
        peer.connect(arguments.address, arguments.port) as connection,
    ):
        offer = common.Offer.unpack(connection.private_data)
        destination, at = offer.region(SIZE), offer.offset
        config = rpma.PeerConfig.from_descriptor(offer.peer_descriptor)
        connection.apply_remote_peer_config(config)

        if config.direct_write_to_pmem:
            flush, outcome = rpma.FlushType.PERSISTENT, "durable"
        else:
            flush, outcome = rpma.FlushType.VISIBILITY, "visible, but not durable"
        connection.write_wait(destination, at, source, 0, SIZE, flush=flush)
        print(f"written and flushed ({flush.name}): {arguments.text}")
        print(f"by what the target states it is {outcome}")

        if not destination.usage & rpma.Usage.READ_SRC:
            print("not read back: the target does not offer that")
            return
        connection.read_wait(copy, 0, destination, at, SIZE)
        if copy.view != contents:
            sys.exit("what was read back is not what was written")
        print("read back: the same")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    common.add_file(program.target)
    common.add_direct_write_to_pmem(program.target)
    program.initiator.add_argument("text", nargs="?", default="Hello from the initiator!")
    program.run()
