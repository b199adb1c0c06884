# SPDX-License-Identifier: BSD-3-Clause
"""Makes a client's data connection, at the target."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from rpma.config import ConnectionConfig
from rpma.constants import ConnectionEvent
from rpma.errors import ProviderError, WaitTimeoutError
from rpma.pool.protocol.errors import TargetError
from rpma.pool.target.answering import Answering
from rpma.pool.target.tasks import free_ports, readable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rpma.conn_req import ConnectionRequest
    from rpma.connection import Connection
    from rpma.endpoint import Endpoint
    from rpma.peer import Peer
    from rpma.pool.protocol.channel import Keys
    from rpma.pool.target.sparing import Sparing

DEPTH = 64
"""How many flush requests of one client may be under way."""

_WHAT = "make its data connection"


def listen(peer: Peer, address: str, ports: Sequence[int]) -> Endpoint:
    """Listen on the first of these ports that is free; on any that is where there are none.

    Raises:
        TargetError: all are in use.
    """
    for port in ports or free_ports(address):
        try:
            return peer.listen(address, port)
        except ProviderError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise TargetError(
        "the target has no free port for the data connection: all of its --data-ports are in use"
    )


async def next_request(
    endpoint: Endpoint, keys: Keys, deadline: float, name: str, sparing: Sparing
) -> ConnectionRequest:
    """The connection request that shows the ticket; others are refused.

    Args:
        endpoint: where it comes.
        keys: those of the session, which have the ticket.
        deadline: of the monotonic clock.
        name: the client's, in the log.
        sparing: logs those that are refused.

    Raises:
        TargetError: it was not in time.
    """
    config = ConnectionConfig(
        sq_size=Answering.send_queue_size(DEPTH),
        rq_size=DEPTH,
        cq_size=Answering.send_queue_size(DEPTH) + DEPTH,
    )
    while True:
        await readable(endpoint.fd, deadline, _WHAT)
        try:
            request = endpoint.next_conn_req(config, timeout=0)
        except WaitTimeoutError:
            continue
        except ProviderError as error:
            sparing(logging.WARNING, "data connections have failed", "%s: %s", name, error)
            continue
        if keys.check_ticket(request.private_data):
            return request
        request.close()
        sparing(
            logging.WARNING,
            "data connections without a ticket are refused",
            "%s: a data connection without its ticket is refused",
            name,
        )


async def established(connection: Connection, deadline: float) -> None:
    """Wait for the client's side of it.

    Raises:
        TargetError: it was not made, or not in time.
    """
    while True:
        await readable(connection.event_fd, deadline, _WHAT)
        try:
            event = connection.next_event(0)
        except WaitTimeoutError:
            continue
        if event is ConnectionEvent.ESTABLISHED:
            return
        raise TargetError(f"the data connection was not made: {event!s}")
