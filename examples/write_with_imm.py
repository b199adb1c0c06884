# SPDX-License-Identifier: BSD-3-Clause
"""Write into the other side's memory with immediate data: the other side learns of it.

A write goes unnoticed on the target. One with immediate data takes a receive there, and completes
it: the target knows that the data is in its memory, and gets 32 bits that may say what it is. The
bytes of the receive's own buffer stay untouched.
"""

from __future__ import annotations

import argparse
import sys

import common

import rpma

SIZE = 4
ROOM = 1024
"""Its twin in C writes so much, of which the first 4 bytes are the number."""


def target(arguments: argparse.Namespace) -> None:
    """Wait for a write with immediate data, and verify that both say the same."""
    with (
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(bytearray(ROOM), rpma.Usage.WRITE_DST | rpma.Usage.RECV) as destination,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        with endpoint.next_conn_req() as request:
            request.recv(destination, 0, 0)  # for the immediate data: no room needed
            connection = request.connect(common.Offer(destination.descriptor).pack())
        with connection:
            connection.wait_established()
            completion = connection.cq.next_wc()
            completion.raise_for_status()
            if completion.opcode is not rpma.WcOpcode.RECV_RDMA_WITH_IMM:
                sys.exit(f"not a write with immediate data: {completion}")
            written = int.from_bytes(destination.view[:SIZE], "little")
            print(f"received immediate data: {completion.imm:#x}, found written: {written:#x}")
            if completion.imm != written:
                sys.exit("they differ")
            connection.wait_closed()


def initiator(arguments: argparse.Namespace) -> None:
    """Write a number into the target's memory, with the same number as immediate data."""
    contents = bytearray(arguments.imm.to_bytes(SIZE, "little"))
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.register(contents, rpma.Usage.WRITE_SRC) as source,
        peer.connect(arguments.address, arguments.port) as connection,
    ):
        offer = common.Offer.unpack(connection.private_data)
        destination = offer.region(SIZE)
        connection.write_with_imm(
            destination,
            offer.offset,
            source,
            0,
            SIZE,
            arguments.imm,
            flags=rpma.CompletionFlags.ALWAYS,
        )
        connection.cq.next_wc().raise_for_status()
        print(f"wrote {arguments.imm:#x} with the same as immediate data")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    program.initiator.add_argument(
        "imm", type=lambda text: int(text, 0), help="immediate data: 32 bits, as 0xCAFE"
    )
    program.run()
