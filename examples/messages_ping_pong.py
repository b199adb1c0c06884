# SPDX-License-Identifier: BSD-3-Clause
"""Send messages to and fro.

The initiator sends a number, the target answers with the next one, for some rounds. A message needs
a receive that the other side has posted before. The target posts its first one on the connection
request, so that it is there before the initiator can send; afterwards each side posts one before it
sends what will be answered.
"""

from __future__ import annotations

import argparse
import struct
import sys

import common

import rpma

MESSAGE = struct.Struct("<Q")
DONE = 2**64 - 1


def receive(connection: rpma.Connection, inbox: rpma.MemoryRegion) -> int:
    """Wait for a message, and return the number in it."""
    common.expect_size(connection.cq.next_wc().raise_for_status(), MESSAGE.size)
    (number,) = MESSAGE.unpack(inbox.view)
    return int(number)


def send(connection: rpma.Connection, outbox: rpma.MemoryRegion, number: int) -> None:
    """Send a number, and wait until the other side's RNIC has it."""
    MESSAGE.pack_into(outbox.view, 0, number)
    connection.send_wait(outbox, 0, MESSAGE.size)


def target(arguments: argparse.Namespace) -> None:
    """Answer each number with the next one."""
    with (
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(bytearray(MESSAGE.size), rpma.Usage.RECV) as inbox,
        peer.register(bytearray(MESSAGE.size), rpma.Usage.SEND) as outbox,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        with endpoint.next_conn_req() as request:
            request.recv(inbox, 0, MESSAGE.size)
            connection = request.connect()
        with connection:
            connection.wait_established()
            while (number := receive(connection, inbox)) != DONE:
                print(f"received: {number}")
                connection.recv(inbox, 0, MESSAGE.size)
                send(connection, outbox, number + 1)
            connection.wait_closed()
        print("the initiator is done")


def initiator(arguments: argparse.Namespace) -> None:
    """Send a number, and send on whatever is answered."""
    number = arguments.seed
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.register(bytearray(MESSAGE.size), rpma.Usage.RECV) as inbox,
        peer.register(bytearray(MESSAGE.size), rpma.Usage.SEND) as outbox,
        peer.connect(arguments.address, arguments.port) as connection,
    ):
        for _ in range(arguments.rounds):
            connection.recv(inbox, 0, MESSAGE.size)
            send(connection, outbox, number)
            number = receive(connection, inbox)
            print(f"received: {number}")
        send(connection, outbox, DONE)
    if number != arguments.seed + arguments.rounds:
        sys.exit(f"expected: {arguments.seed + arguments.rounds}")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    program.initiator.add_argument("--seed", type=int, default=0, help="the first number")
    program.initiator.add_argument("--rounds", type=int, default=3)
    program.run()
