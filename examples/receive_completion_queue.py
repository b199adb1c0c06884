# SPDX-License-Identifier: BSD-3-Clause
"""Send messages to and fro, with a completion queue for receives alone (RCQ).

It is messages_ping_pong.py, but sends complete on Connection.cq, and receives on Connection.rcq:
neither has to be sorted out of the other. With --shared-channel the two queues share a channel, and
Connection.wait() says for which of them there is something.
"""

from __future__ import annotations

import argparse
import struct
import sys

import common

import rpma
from rpma import WcOpcode

MESSAGE = struct.Struct("<Q")
DONE = 2**64 - 1


def verify(completion: rpma.WorkCompletion) -> None:
    """Raise unless the request has succeeded, and a message is of the size that it must have."""
    completion.raise_for_status()
    if completion.opcode is WcOpcode.RECV:
        common.expect_size(completion, MESSAGE.size)


def wait_for(connection: rpma.Connection, shared_channel: bool, *opcodes: WcOpcode) -> None:
    """Wait until requests with these opcodes have completed."""
    if not shared_channel:
        for opcode in opcodes:
            queue = connection.rcq if opcode is WcOpcode.RECV else connection.cq
            assert queue is not None  # as the configuration has it
            verify(queue.next_wc())
        return
    missing: set[int] = set(opcodes)
    while missing:
        for completion in connection.wait().get_wcs():
            verify(completion)
            missing.remove(completion.opcode)


def post(
    connection: rpma.Connection, inbox: rpma.MemoryRegion, outbox: rpma.MemoryRegion, number: int
) -> None:
    """Post a receive for the next message, and send a number."""
    connection.recv(inbox, 0, MESSAGE.size)
    MESSAGE.pack_into(outbox.view, 0, number)
    connection.send(outbox, 0, MESSAGE.size, flags=rpma.CompletionFlags.ALWAYS)


def target(arguments: argparse.Namespace) -> None:
    """Answer each number with the next one."""
    shared_channel = arguments.shared_channel
    config = rpma.ConnectionConfig(rcq_size=4, shared_channel=shared_channel)
    with (
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(bytearray(MESSAGE.size), rpma.Usage.RECV) as inbox,
        peer.register(bytearray(MESSAGE.size), rpma.Usage.SEND) as outbox,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        with endpoint.next_conn_req(config) as request:
            request.recv(inbox, 0, MESSAGE.size)
            connection = request.connect()
        with connection:
            connection.wait_established()
            wait_for(connection, shared_channel, WcOpcode.RECV)
            while (number := MESSAGE.unpack(inbox.view)[0]) != DONE:
                print(f"received: {number}")
                post(connection, inbox, outbox, number + 1)
                wait_for(connection, shared_channel, WcOpcode.SEND, WcOpcode.RECV)
            connection.wait_closed()
        print("the initiator is done")


def initiator(arguments: argparse.Namespace) -> None:
    """Send a number, and send on whatever is answered."""
    number = arguments.seed
    shared_channel = arguments.shared_channel
    config = rpma.ConnectionConfig(rcq_size=4, shared_channel=shared_channel)
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.register(bytearray(MESSAGE.size), rpma.Usage.RECV) as inbox,
        peer.register(bytearray(MESSAGE.size), rpma.Usage.SEND) as outbox,
        peer.connect(arguments.address, arguments.port, config=config) as connection,
    ):
        for _ in range(arguments.rounds):
            post(connection, inbox, outbox, number)
            wait_for(connection, shared_channel, WcOpcode.SEND, WcOpcode.RECV)
            (number,) = MESSAGE.unpack(inbox.view)
            print(f"received: {number}")
        MESSAGE.pack_into(outbox.view, 0, DONE)
        connection.send_wait(outbox, 0, MESSAGE.size)
    if number != arguments.seed + arguments.rounds:
        sys.exit(f"expected: {arguments.seed + arguments.rounds}")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    program.initiator.add_argument("--seed", type=int, default=0, help="the first number")
    program.initiator.add_argument("--rounds", type=int, default=3)
    for side in (program.target, program.initiator):
        side.add_argument("--shared-channel", action="store_true", help="one wait for both queues")
    program.run()
