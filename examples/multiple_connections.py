# SPDX-License-Identifier: BSD-3-Clause
"""Serve many connections in one thread, with an event loop.

Endpoints, connections and completion queues have file descriptors, which select() and asyncio take.
The target accepts whoever comes, as long as it has a free slot; reads the initiator's name out of
the initiator's memory into that slot; and disconnects it. It never waits for any one of them.

With --shared-channel, the completion queues of a connection have one file descriptor between them,
and Connection.wait() tells which queue an event is for. (Here there is only one.)
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import selectors

import common

import rpma

NAME_SIZE = 32
SLOTS = 8


class Target:
    """The event loop, and the state behind it."""

    def __init__(
        self, endpoint: rpma.Endpoint, names: rpma.MemoryRegion, shared_channel: bool
    ) -> None:
        self.endpoint = endpoint
        self.names = names
        self.shared_channel = shared_channel
        self.config = rpma.ConnectionConfig(shared_channel=shared_channel)
        self.free_slots = list(range(SLOTS))
        self.met = 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(endpoint, selectors.EVENT_READ, self.on_request)

    def run(self, initiators: int) -> None:
        """Serve until so many initiators have come and gone."""
        while self.met < initiators or len(self.free_slots) < SLOTS:
            for key, _ in self.selector.select():
                key.data()
        self.selector.close()

    def on_request(self) -> None:
        """Accept a connection, if there is a slot for it. It is established a little later."""
        with self.endpoint.next_conn_req(self.config, timeout=0) as request:
            if not self.free_slots:
                print("no free slot: rejected")
                return  # a request that is closed without connect() is rejected
            connection = request.connect()
        slot = self.free_slots.pop()
        # One handler for both: waiting for completions also takes connection events that it meets.
        on_activity = functools.partial(self.on_activity, connection, slot)
        for fd in self.fds(connection):
            self.selector.register(fd, selectors.EVENT_READ, on_activity)

    def on_activity(self, connection: rpma.Connection, slot: int) -> None:
        """Do whatever can be done for a connection without waiting."""
        if connection.closed:
            return  # it was ended by the other of its two descriptors, a moment ago
        with contextlib.suppress(rpma.WaitTimeoutError):
            queue = connection.cq
            if self.shared_channel:
                queue = connection.wait(timeout=0)
            else:
                queue.wait(timeout=0)
            for completion in queue.get_wcs():
                self.on_completion(connection, slot, completion)
        with contextlib.suppress(rpma.WaitTimeoutError):
            while not connection.closed:
                self.on_event(connection, slot, connection.next_event(timeout=0))

    def on_completion(
        self, connection: rpma.Connection, slot: int, completion: rpma.WorkCompletion
    ) -> None:
        """Greet an initiator whose name has been read, and send it away."""
        if completion.status is rpma.WcStatus.SUCCESS:
            start = slot * NAME_SIZE
            print(f"met {common.text_in(self.names.view[start : start + NAME_SIZE])}", flush=True)
            self.met += 1
            connection.disconnect()

    def on_event(self, connection: rpma.Connection, slot: int, event: rpma.ConnectionEvent) -> None:
        """Read the name of an initiator that has come; free the slot of one that has gone."""
        if event is rpma.ConnectionEvent.ESTABLISHED:
            try:
                source = common.Offer.unpack(connection.private_data).region(NAME_SIZE)
            except (common.PeerError, rpma.InvalidArgumentError) as error:
                print(f"sent away: {error}", flush=True)
                connection.disconnect()
                return
            always = rpma.CompletionFlags.ALWAYS
            connection.read(self.names, slot * NAME_SIZE, source, 0, NAME_SIZE, flags=always)
        else:
            for fd in self.fds(connection):
                self.selector.unregister(fd)
            connection.close()
            self.free_slots.append(slot)

    def fds(self, connection: rpma.Connection) -> tuple[int, int]:
        """The file descriptors that tell of events, and of completions."""
        completions = connection.compl_fd if self.shared_channel else connection.cq.fd
        return connection.event_fd, completions


def target(arguments: argparse.Namespace) -> None:
    """Read the names of all who connect."""
    with (
        rpma.Peer.for_address(arguments.address) as peer,
        peer.register(bytearray(SLOTS * NAME_SIZE), rpma.Usage.READ_DST) as names,
        peer.listen(arguments.address, arguments.port) as endpoint,
    ):
        print(f"listening on {arguments.address}:{arguments.port}", flush=True)
        Target(endpoint, names, arguments.shared_channel).run(arguments.initiators)


def initiator(arguments: argparse.Namespace) -> None:
    """Offer a name to be read, and wait to be disconnected."""
    name = arguments.name.encode()[: NAME_SIZE - 1].ljust(NAME_SIZE, b"\0")
    with (
        rpma.Peer.for_address(arguments.address, remote=True) as peer,
        peer.register(bytearray(name), rpma.Usage.READ_SRC) as source,
        peer.connect(
            arguments.address,
            arguments.port,
            private_data=common.Offer(source.descriptor).pack(),
        ) as connection,
    ):
        print(f"connected as {arguments.name}")
        connection.wait_closed()
        print("the target has disconnected")


if __name__ == "__main__":
    program = common.Program(__doc__, target, initiator)
    program.target.add_argument("--initiators", type=int, default=3, help="how many to serve")
    program.target.add_argument("--shared-channel", action="store_true")
    program.initiator.add_argument("name")
    program.run()
