# SPDX-License-Identifier: BSD-3-Clause
"""Append to a log in the other side's memory: atomically, and without the other side's CPU.

The log says how many of its bytes are used. The initiator writes an entry behind them, flushes it,
and only then moves the end, with an atomic write: whoever looks at the log, after a crash, too,
finds the whole entry or nothing of it. The four requests for an entry go out together, and one wait
is for all of them.

As to whether the log is durable, see flush_to_persistent.py.
"""

from __future__ import annotations

import argparse
import struct
import sys

import common

import rpma

SIZE = 4096
SIGNATURE = b"LOG".ljust(8, b"\0")
HEADER = struct.Struct("<8sQ")
"""The signature, and where the used part ends, from the start of the log."""
END = struct.Struct("<Q")
END_OFFSET = 8
MOST = 64 << 20
"""No log is larger, whatever the target says, in bytes."""


def entries(log: bytes | memoryview) -> list[str]:
    """The entries of a log, each with a zero byte at its end."""
    _, end = HEADER.unpack_from(log)
    return bytes(log[HEADER.size : end]).decode(errors="replace").split("\0")[:-1]


def target(arguments: argparse.Namespace) -> None:
    """Offer a log, and show what has become of it."""
    memory = common.map_memory(arguments.file, SIZE)
    is_durable = common.is_durable_once_flushed(memory, arguments.direct_write_to_pmem)
    usage = rpma.Usage.READ_SRC | rpma.Usage.WRITE_DST | rpma.Usage.FLUSH_TYPE_VISIBILITY
    if is_durable:
        usage |= rpma.Usage.FLUSH_TYPE_PERSISTENT
    config = rpma.PeerConfig(direct_write_to_pmem=is_durable)
    with (
        memory,
        rpma.Peer.for_address(arguments.address) as peer,
        memory.view[:SIZE] as view,  # a device DAX is larger than a log
        peer.register(view, usage) as log,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        if log.view[: len(SIGNATURE)] != SIGNATURE:
            HEADER.pack_into(log.view, 0, SIGNATURE, HEADER.size)
            print("made an empty log")
            common.sync(memory, HEADER.size)
        print(f"found: {entries(log.view)}")
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        offer = common.Offer(log.descriptor, END_OFFSET, config.descriptor)
        with endpoint.accept(offer.pack()) as connection:
            connection.wait_closed()
        print(f"the log: {entries(log.view)}")


def append(
    connection: rpma.Connection,
    log: rpma.RemoteMemoryRegion,
    end: int,
    scratch: rpma.MemoryRegion,
    entry: bytes,
    flush: rpma.FlushType,
) -> int:
    """Append an entry to a log that ends at `end`, and return where it ends now."""
    scratch.view[: len(entry)] = entry
    new_end = end + len(entry)
    quietly = rpma.CompletionFlags.ON_ERROR
    connection.write(log, end, scratch, 0, len(entry))
    connection.flush(log, end, len(entry), flush, flags=quietly)
    connection.atomic_write(log, END_OFFSET, new_end.to_bytes(8, "little"))
    connection.flush(log, END_OFFSET, 8, flush, wr_id=new_end)
    completion = connection.cq.next_wc()  # of the last; all before it are done as well
    completion.raise_for_status()
    return completion.wr_id


def platform(offer: common.Offer, log: rpma.RemoteMemoryRegion) -> rpma.PeerConfig:
    """What the target says of its platform.

    Its twin in C says nothing, but offers persistent flushes of persistent memory, and no others.
    """
    if offer.peer_descriptor:
        return rpma.PeerConfig.from_descriptor(offer.peer_descriptor)
    is_persistent = rpma.FlushType.PERSISTENT in log.flush_types
    return rpma.PeerConfig(direct_write_to_pmem=is_persistent)


def initiator(arguments: argparse.Namespace) -> None:
    """Append words to the target's log, and verify that they are there."""
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.connect(arguments.address, arguments.port) as connection,
    ):
        offer = common.Offer.unpack(connection.private_data)
        log = offer.region(END.size)
        if log.size > MOST or offer.offset != END_OFFSET:
            raise common.PeerError(f"{log.size} bytes, their end at {offer.offset}, are no log")
        config = platform(offer, log)
        connection.apply_remote_peer_config(config)
        is_durable = config.direct_write_to_pmem
        flush = rpma.FlushType.PERSISTENT if is_durable else rpma.FlushType.VISIBILITY

        usage = rpma.Usage.READ_DST | rpma.Usage.WRITE_SRC
        with peer.register(bytearray(log.size), usage) as scratch:
            connection.read_wait(scratch, 0, log, END_OFFSET, END.size)
            (end,) = END.unpack_from(scratch.view)
            if not HEADER.size <= end <= log.size:
                raise common.PeerError(f"the log ends at {end}, and has {log.size} bytes")
            for word in arguments.words:
                entry = common.text(word)
                if end + len(entry) > log.size:
                    sys.exit("the log is full")
                end = append(connection, log, end, scratch, entry, flush)
                print(f"appended: {word} ({'durable' if is_durable else 'visible, not durable'})")

            connection.read_wait(scratch, 0, log, 0, log.size)
            found = entries(scratch.view)
    print(f"the log: {found}")
    if found[-len(arguments.words) :] != arguments.words:
        sys.exit("the words are not at the end of the log")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    common.add_file(program.target)
    common.add_direct_write_to_pmem(program.target)
    program.initiator.add_argument("words", nargs="+")
    program.run()
