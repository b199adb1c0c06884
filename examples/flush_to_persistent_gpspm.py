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
REQUEST = struct.Struct("<QQ")
"""Offset and length of the range to make durable, in bytes."""
RESPONSE = struct.Struct("<i")
"""0: it is durable; otherwise an errno."""


def configure(arguments: argparse.Namespace) -> rpma.ConnectionConfig:
    """How the connection is to be made; the other side need not know."""
    if arguments.shared_channel:
        return rpma.ConnectionConfig(rcq_size=4, shared_channel=True)
    return rpma.ConnectionConfig()


def wait_for_message(connection: rpma.Connection, shared_channel: bool) -> None:
    """Wait until a posted receive has completed."""
    if not shared_channel:
        connection.cq.next_wc().raise_for_status()
        return
    completions: list[rpma.WorkCompletion] = []
    while not completions:  # an event may come without a completion
        completions = connection.wait().get_wcs()
    completions[0].raise_for_status()


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
        peer.register(bytearray(REQUEST.size), rpma.Usage.RECV) as inbox,
        peer.register(bytearray(RESPONSE.size), rpma.Usage.SEND) as outbox,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        with endpoint.next_conn_req(configure(arguments)) as request:
            request.recv(inbox, 0, len(inbox))  # there before the initiator can send
            connection = request.connect(destination.descriptor)
        with connection:
            connection.wait_established()
            wait_for_message(connection, arguments.shared_channel)
            offset, length = REQUEST.unpack(inbox.view)
            result = sync(memory, offset, length)
            print(f"sync of {length} bytes at {offset}: {os.strerror(result)}")
            RESPONSE.pack_into(outbox.view, 0, result)
            connection.send_wait(outbox, 0, len(outbox))
            connection.wait_closed()
        print(f"written: {common.text_in(memory.view[:SIZE])}")


def initiator(arguments: argparse.Namespace) -> None:
    """Write, ask the target to make it durable, and wait for its answer."""
    contents = arguments.text.encode()
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.register(bytearray(contents + b"\0"), rpma.Usage.WRITE_SRC) as source,
        peer.register(bytearray(len(source)), rpma.Usage.READ_DST) as copy,
        peer.register(bytearray(REQUEST.size), rpma.Usage.SEND) as outbox,
        peer.register(bytearray(RESPONSE.size), rpma.Usage.RECV) as inbox,
        peer.connect(arguments.address, arguments.port, config=configure(arguments)) as connection,
    ):
        destination = rpma.RemoteMemoryRegion(connection.private_data)
        connection.recv(inbox, 0, len(inbox))  # for the answer
        connection.write(destination, 0, source, 0, len(source))
        REQUEST.pack_into(outbox.view, 0, 0, len(source))
        connection.send_wait(outbox, 0, len(outbox))
        wait_for_message(connection, arguments.shared_channel)
        (result,) = RESPONSE.unpack(inbox.view)
        outcome = f"not durable ({os.strerror(result)})" if result else "durable"
        print(f"written: {arguments.text}")
        print(f"the target says that it is {outcome}")

        connection.read_wait(copy, 0, destination, 0, len(source))
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
