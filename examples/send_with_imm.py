# SPDX-License-Identifier: BSD-3-Clause
"""Send a message with immediate data: 32 bits beside it, which come in the work completion.

A message may consist of nothing else: that is what is sent where no word is given.
"""

from __future__ import annotations

import argparse
import struct
import sys

import common

import rpma

SIZE = 1024
IMM = struct.Struct("<I")


def target(arguments: argparse.Namespace) -> None:
    """Receive one message, and verify its immediate data, which the initiator announces."""
    with (
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(bytearray(SIZE), rpma.Usage.RECV) as inbox,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        with endpoint.next_conn_req() as request:
            if len(request.private_data) < IMM.size:
                raise common.PeerError("the initiator announced no immediate data")
            (announced,) = IMM.unpack_from(request.private_data)
            request.recv(inbox, 0, SIZE)
            connection = request.connect()
        with connection:
            connection.wait_established()
            completion = connection.cq.next_wc()
            completion.raise_for_status()
            if completion.imm is None:
                raise common.PeerError("the initiator sent a message without immediate data")
            print(f"received immediate data: {completion.imm:#x}")
            print(f"received word: {common.text_in(inbox.view[: completion.byte_len])!r}")
            if completion.imm != announced:
                sys.exit(f"announced was {announced:#x}")
            connection.wait_closed()


def initiator(arguments: argparse.Namespace) -> None:
    """Send a message with immediate data."""
    word = arguments.word.encode()[: SIZE - 1]
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.register(bytearray(SIZE), rpma.Usage.SEND) as outbox,
        peer.connect(
            arguments.address,
            arguments.port,
            private_data=IMM.pack(arguments.imm),
        ) as connection,
    ):
        outbox.view[: len(word)] = word
        connection.send_with_imm(
            outbox if word else None, 0, len(word), arguments.imm, flags=rpma.CompletionFlags.ALWAYS
        )
        connection.cq.next_wc().raise_for_status()
        print(f"sent {arguments.word!r} with immediate data {arguments.imm:#x}")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    program.initiator.add_argument(
        "imm", type=lambda text: int(text, 0), help="immediate data: 32 bits, as 0xCAFE"
    )
    program.initiator.add_argument("word", nargs="?", default="")
    program.run()
