# SPDX-License-Identifier: BSD-3-Clause
"""Send messages to and fro with several initiators, with a shared receive queue (SRQ).

It is messages_ping_pong.py with one pool of receives for all connections of the target: a message,
from whomever, takes the next one. Its work completion names the receive (wr_id) and the connection
(qp_num). Where receives complete is the target's choice, --completions:

    srq         on the queue of the SRQ: one for all connections (the default)
    connection  on the main completion queue of each connection, among its sends
    rcq         on a receive completion queue of each connection
"""

from __future__ import annotations

import argparse
import contextlib
import selectors
import struct
import sys
from collections.abc import Iterator

import common

import rpma

MESSAGE = struct.Struct("<Q")
DONE = 2**64 - 1
RECEIVES = 8


def completions(queues: list[rpma.CompletionQueue]) -> Iterator[rpma.WorkCompletion]:
    """The work completions of all queues, as they come."""
    with selectors.DefaultSelector() as selector:
        for queue in queues:
            selector.register(queue, selectors.EVENT_READ, queue)
        while True:
            for key, _ in selector.select():
                queue = key.data
                queue.wait(timeout=0)
                while batch := queue.get_wcs():  # again: send_wait() may have met further ones
                    yield from batch


def target(arguments: argparse.Namespace) -> None:
    """Answer each number with the next one, until all initiators are done."""
    srq_rcq_size = RECEIVES if arguments.completions == "srq" else 0
    connection_rcq_size = RECEIVES if arguments.completions == "rcq" else 0
    srq_config = rpma.SharedReceiveQueueConfig(rq_size=RECEIVES, rcq_size=srq_rcq_size)
    with (
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(bytearray(RECEIVES * MESSAGE.size), rpma.Usage.RECV) as inbox,
        peer.register(bytearray(MESSAGE.size), rpma.Usage.SEND) as outbox,
        peer.create_srq(srq_config) as srq,
        peer.listen(arguments.address, arguments.port) as endpoint,
        contextlib.ExitStack() as stack,
    ):
        for slot in range(RECEIVES):
            srq.recv(inbox, slot * MESSAGE.size, MESSAGE.size, wr_id=slot)
        config = rpma.ConnectionConfig(srq=srq, rcq_size=connection_rcq_size)
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        connections: dict[int, rpma.Connection] = {}
        for _ in range(arguments.initiators):
            connection = stack.enter_context(endpoint.accept(config=config))
            connections[connection.qp_num] = connection
        queues = [srq.rcq] if srq.rcq else [each.rcq or each.cq for each in connections.values()]

        remaining = arguments.initiators
        for completion in completions(queues):
            common.expect_size(completion.raise_for_status(), MESSAGE.size)
            offset = completion.wr_id * MESSAGE.size
            (number,) = MESSAGE.unpack_from(inbox.view, offset)
            srq.recv(inbox, offset, MESSAGE.size, wr_id=completion.wr_id)
            if number != DONE:
                print(f"received: {number}")
                MESSAGE.pack_into(outbox.view, 0, number + 1)
                connections[completion.qp_num].send_wait(outbox, 0, MESSAGE.size)
            elif (remaining := remaining - 1) == 0:
                break
    print("all initiators are done")


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
            MESSAGE.pack_into(outbox.view, 0, number)
            connection.send_wait(outbox, 0, MESSAGE.size)
            common.expect_size(connection.cq.next_wc().raise_for_status(), MESSAGE.size)
            (number,) = MESSAGE.unpack(inbox.view)
            print(f"received: {number}")
        MESSAGE.pack_into(outbox.view, 0, DONE)
        connection.send_wait(outbox, 0, MESSAGE.size)
    if number != arguments.seed + arguments.rounds:
        sys.exit(f"expected: {arguments.seed + arguments.rounds}")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    program.target.add_argument("--initiators", type=int, default=1, help="how many to serve")
    program.target.add_argument(
        "--completions",
        choices=("srq", "connection", "rcq"),
        default="srq",
        help="where receives complete",
    )
    program.initiator.add_argument("--seed", type=int, default=0, help="the first number")
    program.initiator.add_argument("--rounds", type=int, default=3)
    program.run()
