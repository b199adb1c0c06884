# SPDX-License-Identifier: BSD-3-Clause
"""Connection requests: connections to be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpma._buffers import copied
from rpma._native import lib, text
from rpma._object import NativeObject, handle_out, in_two_attempts, require
from rpma.address import encode_address, encode_port
from rpma.config import ConnectionConfig, check_config, config_handle
from rpma.connection import Connection, read_private_data
from rpma.errors import InvalidArgumentError, error_for
from rpma.memory import MemoryRegion
from rpma.request import explain_receive, rest_of

if TYPE_CHECKING:
    from rpma._types import Buffer
    from rpma.peer import Peer

_PRIVATE_DATA_MAX = 255


class ConnectionRequest(NativeObject):
    """A connection to be: an outgoing request, or an incoming one (rpma_conn_req_*).

    Made by `Peer.request` and `Endpoint.next_conn_req`. Closing an incoming one rejects it.
    """

    __slots__ = ("_config", "_peer", "is_incoming")
    _what = "connection request"

    _peer: Peer
    _config: ConnectionConfig | None  # keeps its shared receive queue alive
    is_incoming: bool

    def __init__(self) -> None:
        """Not for programs."""
        raise TypeError("make it with Peer.request() or Endpoint.next_conn_req()")

    @classmethod
    def _incoming(cls, peer: Peer, out: Any, config: ConnectionConfig | None) -> ConnectionRequest:
        self = cls.__new__(cls)
        self._adopt(out)
        self._peer, self._config, self.is_incoming = peer, config, True
        return self

    @classmethod
    def _outgoing(
        cls, peer: Peer, address: str, port: int | str, config: ConnectionConfig | None
    ) -> ConnectionRequest:
        handle = config_handle(config)
        out = handle_out("rpmapy_conn_req")
        host, service = encode_address(address), encode_port(port)
        ret = in_two_attempts(
            lambda second: lib.rpmapy_conn_req_new(peer._h, host, service, handle, second, out)
        )
        if ret:
            check_config(ret, f"prepare a connection to {address}:{port}")
            raise error_for(ret, f"prepare a connection to {address}:{port}")
        self = cls.__new__(cls)
        self._adopt(out)
        self._peer, self._config, self.is_incoming = peer, config, False
        return self

    @property
    def private_data(self) -> bytes:
        """The bytes that an incoming request brought (rpma_conn_req_get_private_data).

        InfiniBand and RoCE pad them with zeros, to 56 bytes.
        """
        return read_private_data(lib.rpmapy_conn_req_private_data, self._h, self._what)

    def recv(
        self, dst: MemoryRegion, offset: int = 0, length: int | None = None, *, wr_id: int = 0
    ) -> None:
        """Post a receive before the connection is made (rpma_conn_req_recv).

        So it is there for a message that comes at once. The arguments are `Connection.recv`'s, but
        that librpma wants a region here.
        """
        if length is None:
            length = rest_of(dst, "dst", offset)
        try:
            ret = lib.rpmapy_conn_req_recv(self._h, dst._h, offset, length, wr_id)
        except (TypeError, OverflowError, AttributeError):
            ret = lib.RPMAPY_E_ARGUMENT
        if ret:
            require(MemoryRegion, "dst", dst)
            raise explain_receive(ret, self._h, dst, offset, length, wr_id)

    def connect(self, private_data: Buffer | None = None) -> Connection:
        """Start connecting, or accept (rpma_conn_req_connect). The request is closed by that.

        The connection is usable after its event ESTABLISHED: see `Connection.wait_established`.

        Args:
            private_data: bytes for the other side: 1 to 255, as many as the network takes: on
                InfiniBand and RoCE 56 to the target, 196 to the initiator. None sends none.

        Raises:
            InvalidArgumentError: empty private data, or too much; the request is as it was.
            ProviderError: it cannot be done, say because the one who asked has given up.
        """
        raw = private_data_bytes(private_data)
        out = handle_out("rpmapy_conn")
        ret = lib.rpmapy_conn_req_connect(self._h, raw, len(raw), out)
        if ret:
            hint = ""
            if "rdma_accept" in text(lib.rpmapy_call_message()):
                hint = "the one who asked may have given up meanwhile, then go on with the next"
            if len(raw) > (196 if self.is_incoming else 56):
                hint = (
                    f"private_data has {len(raw)} bytes, InfiniBand and RoCE take "
                    f"{196 if self.is_incoming else 56}: send the rest as a message"
                )
            raise error_for(ret, "accept" if self.is_incoming else "connect", hint)
        return Connection._made(self._peer, out, self._config)

    def close(self) -> None:
        """Give the request up; an incoming one is rejected (rpma_conn_req_delete)."""
        super().close()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        way = "incoming" if self.is_incoming else "outgoing"
        return f"<rpma.ConnectionRequest{state} {way}>"


def private_data_bytes(private_data: Any) -> bytes:
    """The private data to send, or the exception that says what is wrong with it."""
    if private_data is None:
        return b""
    raw = copied("private_data", private_data, "bytes or None")
    if not raw:
        raise InvalidArgumentError(
            "private_data is empty: librpma takes 1 to 255 bytes; None sends none"
        )
    if len(raw) > _PRIVATE_DATA_MAX:
        raise InvalidArgumentError(
            f"private_data has {len(raw)} bytes, at most {_PRIVATE_DATA_MAX} can be sent"
        )
    return raw
