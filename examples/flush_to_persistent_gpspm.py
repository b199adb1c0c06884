# SPDX-License-Identifier: BSD-3-Clause
"""Write into the other side's persistent memory, and have the other side make it durable.

This is the general purpose server persistency method (GPSPM), for all platforms: the initiator
writes, and sends a message that names the range; the target syncs it, and answers. The message is
posted right behind the write: when the target gets it, the data is in its memory.

With --shared-channel, either side's sends and receives complete on two queues with one channel, so
that one Connection.wait() serves both.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import struct
import sys

import common

import rpma
from rpma import allocation

SIZE = 4096
MOST = 512
"""No message is longer, in bytes."""
CONTEXT = 0xF01D
"""Says which request an answer is for."""
FIELD = struct.Struct("<BQ")
FIXED64 = 1
"""What Protocol Buffers call the kind of such a field."""
OFFSET, LENGTH, OP_CONTEXT = 1, 2, 3
"""The fields of a request: which bytes to make durable, and what to answer with."""
ANSWERED, ERROR = 1, 2
"""The fields of an answer: the request's OP_CONTEXT; 0, or the errno that says why it is not
durable. The twin in C has no second field."""


def encode(fields: dict[int, int]) -> bytes:
    """A message of Protocol Buffers, as the twin in C has them: numbers of 64 bits."""
    return b"".join(FIELD.pack(number << 3 | FIXED64, value) for number, value in fields.items())


def decode(message: bytes) -> dict[int, int]:
    """The fields of such a message.

    Raises:
        PeerError: it is none.
    """
    fields = {}
    while message:
        try:
            key, value = FIELD.unpack_from(message)
        except struct.error:
            raise common.PeerError("the other side sent a message that ends too early") from None
        if key & 7 != FIXED64:
            raise common.PeerError("the other side sent a message that is not of 64-bit numbers")
        fields[key >> 3] = value
        message = message[FIELD.size :]
    return fields


def configure(arguments: argparse.Namespace) -> rpma.ConnectionConfig:
    """How the connection is to be made; the other side need not know."""
    if arguments.shared_channel:
        return rpma.ConnectionConfig(rcq_size=4, shared_channel=True)
    return rpma.ConnectionConfig()


def wait_for_message(connection: rpma.Connection, shared_channel: bool) -> int:
    """Wait until a posted receive has completed; how many bytes came."""
    if not shared_channel:
        return connection.cq.next_wc().raise_for_status().byte_len
    completions: list[rpma.WorkCompletion] = []
    while not completions:  # an event may come without a completion
        completions = connection.wait().get_wcs()
    return completions[0].raise_for_status().byte_len


def sync(memory: allocation.Memory, offset: int, length: int) -> int:
    """Make a range durable; 0, or the errno that says why it is not."""
    try:
        memory.sync(offset, length)
    except io.UnsupportedOperation:
        return errno.EOPNOTSUPP  # DRAM; or a device DAX, which needs libpmem's pmem_persist
    except ValueError:
        return errno.EINVAL
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def target(arguments: argparse.Namespace) -> None:
    """Offer FILE to be written to, sync the range that is asked for, and answer."""
    with (
        common.map_memory(arguments.file, SIZE) as memory,
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(memory, rpma.Usage.WRITE_DST | rpma.Usage.READ_SRC) as destination,
        peer.register(bytearray(MOST), rpma.Usage.RECV) as inbox,
        peer.register(bytearray(MOST), rpma.Usage.SEND) as outbox,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        with endpoint.next_conn_req(configure(arguments)) as request:
            request.recv(inbox, 0, len(inbox))  # there before the initiator can send
            connection = request.connect(common.Offer(destination.descriptor).pack())
        with connection:
            connection.wait_established()
            size = wait_for_message(connection, arguments.shared_channel)
            request_fields = decode(bytes(inbox.view[:size]))
            offset, length = request_fields.get(OFFSET, 0), request_fields.get(LENGTH, 0)
            result = sync(memory, offset, length)
            print(f"sync of {length} bytes at {offset}: {os.strerror(result)}")
            answer = encode({ANSWERED: request_fields.get(OP_CONTEXT, 0), ERROR: result})
            outbox.view[: len(answer)] = answer
            connection.send_wait(outbox, 0, len(answer))
            connection.wait_closed()
        print(f"written: {common.text_in(memory.view[:SIZE])}")


def outcome(error: int | None) -> str:
    """What the target's answer means."""
    if error is None:
        return "the target has answered, as if it were durable: of what memory it does not say"
    if error:
        return f"the target says that it is not durable ({os.strerror(error & 0x7FFFFFFF)})"
    return "the target says that it is durable"


def initiator(arguments: argparse.Namespace) -> None:
    """Write, ask the target to make it durable, and wait for its answer."""
    contents = arguments.text.encode()
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.register(bytearray(contents + b"\0"), rpma.Usage.WRITE_SRC) as source,
        peer.register(bytearray(len(source)), rpma.Usage.READ_DST) as copy,
        peer.register(bytearray(MOST), rpma.Usage.SEND) as outbox,
        peer.register(bytearray(MOST), rpma.Usage.RECV) as inbox,
        peer.connect(arguments.address, arguments.port, config=configure(arguments)) as connection,
    ):
        offer = common.Offer.unpack(connection.private_data)
        destination, at = offer.region(len(source)), offer.offset
        connection.recv(inbox, 0, len(inbox))  # for the answer
        connection.write(destination, at, source, 0, len(source))
        request = encode({OFFSET: at, LENGTH: len(source), OP_CONTEXT: CONTEXT})
        outbox.view[: len(request)] = request
        connection.send_wait(outbox, 0, len(request))
        size = wait_for_message(connection, arguments.shared_channel)
        answer = decode(bytes(inbox.view[:size]))
        if answer.get(ANSWERED) != CONTEXT:
            raise common.PeerError("the target answered another request than this one")
        print(f"written: {arguments.text}")
        print(outcome(answer.get(ERROR)))

        if not destination.usage & rpma.Usage.READ_SRC:
            print("not read back: the target does not offer that")
            return
        connection.read_wait(copy, 0, destination, at, len(source))
        if copy.view != source.view:
            sys.exit("what was read back is not what was written")
        print("read back: the same")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    common.add_file(program.target)
    program.initiator.add_argument("text", nargs="?", default="Hello from the initiator!")
    for side in (program.target, program.initiator):
        side.add_argument("--shared-channel", action="store_true", help="one wait for both queues")
    program.run()
