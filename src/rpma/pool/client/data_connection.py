# SPDX-License-Identifier: BSD-3-Clause
"""Makes a client's data connection, as the target's session says."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from rpma import allocation
from rpma.config import ConnectionConfig
from rpma.constants import Usage
from rpma.errors import ConnectionEventError, InvalidArgumentError, WaitTimeoutError
from rpma.peer import Peer, PeerConfig
from rpma.pool.client.datapath import RECEIVE, SEND_QUEUE_SIZE, DataPath
from rpma.pool.protocol.address import is_link_local
from rpma.pool.protocol.errors import ProtocolError
from rpma.pool.protocol.wire import ANSWER_ROOM, REQUEST_ROOM

if TYPE_CHECKING:
    from rpma.pool.protocol.messages import Session


def connect(
    host: str,
    session: Session,
    ticket: bytes,
    bounce_size: int,
    timeout: float | None,
    target: str,
) -> DataPath:
    """Make the data connection of a session.

    Args:
        host: the address of the target that the control channel has reached.
        session: what the target said of it.
        ticket: what lets this connection in.
        bounce_size: how many bytes of bounce buffers, in bytes.
        timeout: in seconds.
        target: how errors name it.

    Raises:
        ConnectionEventError: the target does not let it in, or is not there.
        NoDeviceError: no RDMA device leads there.
    """
    depth = session.depth
    where = _data_host(session.host, host)
    config = ConnectionConfig(
        sq_size=SEND_QUEUE_SIZE, rq_size=depth, cq_size=SEND_QUEUE_SIZE + depth
    )
    with ExitStack() as undo:
        peer = undo.enter_context(Peer.for_address(where, remote=True))
        memory = allocation.anonymous(bounce_size)
        bounce = undo.enter_context(peer.register(memory, Usage.WRITE_SRC | Usage.READ_DST))
        memory = allocation.anonymous(depth * (REQUEST_ROOM + ANSWER_ROOM))
        messages = undo.enter_context(peer.register(memory, Usage.SEND | Usage.RECV))
        with peer.request(where, session.port, config) as request:
            for number in range(depth):
                at = depth * REQUEST_ROOM + number * ANSWER_ROOM
                request.recv(messages, at, ANSWER_ROOM, wr_id=RECEIVE | number)
            connection = undo.enter_context(request.connect(ticket))
        try:
            connection.wait_established(timeout)
        except (ConnectionEventError, WaitTimeoutError) as error:
            raise type(error)(
                f"{target} has let this client in, but the data connection, to port {session.port} "
                f"of {where}, was not made: {error}"
            ) from error
        try:
            platform = PeerConfig.from_descriptor(session.peer_config)
        except InvalidArgumentError as error:
            raise ProtocolError(f"the target did not describe its platform: {error}") from None
        connection.apply_remote_peer_config(platform)
        path = DataPath(peer, connection, bounce, messages, depth, target)
        undo.pop_all()
    return path


def _data_host(said: str | None, reached: str) -> str:
    """Where the data connection goes.

    Args:
        said: what the target says; None: where the control channel goes.
        reached: where that goes. A link-local address needs the name of an interface, of which a
            target knows its own only.
    """
    if said is None:
        return reached
    scope = reached.partition("%")[2]
    return f"{said}%{scope}" if scope and is_link_local(said) else said
