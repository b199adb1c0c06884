# SPDX-License-Identifier: BSD-3-Clause
"""Endpoints: where a target listens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rpma._native import ffi, lib, text
from rpma._object import NativeObject, deadline_after, handle_out
from rpma.address import encode_address, encode_port
from rpma.config import ConnectionConfig, check_config, config_handle
from rpma.conn_req import ConnectionRequest, private_data_bytes
from rpma.connection import Connection
from rpma.errors import error_for

if TYPE_CHECKING:
    from rpma._types import Buffer
    from rpma.peer import Peer


class Endpoint(NativeObject):
    """A listening endpoint (rpma_ep_*). Made by `Peer.listen`."""

    __slots__ = ("_peer", "address", "port")
    _what = "endpoint"

    def __init__(self, peer: Peer, address: str, port: int | str) -> None:
        """Listen; see `Peer.listen`."""
        out = handle_out("rpmapy_ep")
        ret = lib.rpmapy_ep_listen(peer._h, encode_address(address), encode_port(port), out)
        if ret:
            raise error_for(ret, f"listen on {address}:{port}")
        self._adopt(out)
        self._peer = peer
        self.address = address
        self.port = port

    @property
    def peer(self) -> Peer:
        """The peer that listens."""
        return self._peer

    @property
    def fd(self) -> int:
        """A file descriptor that is readable when a request waits (rpma_ep_get_fd).

        It is non-blocking.
        """
        fd = ffi.new("int *")
        ret = lib.rpmapy_ep_fd(self._h, fd)
        if ret:
            raise error_for(ret, "get the file descriptor of the endpoint")
        return int(fd[0])

    def fileno(self) -> int:
        """`fd`, so that select and selectors take the endpoint itself."""
        return self.fd

    def next_conn_req(
        self, config: ConnectionConfig | None = None, *, timeout: float | None = None
    ) -> ConnectionRequest:
        """The next connection request, waiting for it (rpma_ep_next_conn_req).

        Args:
            config: for the connection to come; None is librpma's default.
            timeout: in seconds; None waits for ever, 0 only looks.

        Raises:
            WaitTimeoutError: there was none in time.
            ProviderError: the request cannot be taken, say because the one who asked has given up.
        """
        handle = config_handle(config)
        deadline = deadline_after(timeout)
        out = handle_out("rpmapy_conn_req")
        while (ret := lib.rpmapy_ep_next_conn_req(self._h, handle, deadline, out)) == (
            lib.RPMAPY_AGAIN
        ):
            pass
        if ret:
            check_config(ret, f"get a connection request on {self.address}:{self.port}")
            hint = ""
            if "rdma_create_qp" in text(lib.rpmapy_call_message()):
                hint = (
                    "the one who asked may have given up meanwhile, then go on with the next; or "
                    "the device has no room for the queues that `config` asks for"
                )
            raise error_for(ret, f"get a connection request on {self.address}:{self.port}", hint)
        return ConnectionRequest._incoming(self._peer, out, config)

    def accept(
        self,
        private_data: Buffer | None = None,
        *,
        config: ConnectionConfig | None = None,
        timeout: float | None = None,
    ) -> Connection:
        """Wait for a connection request, accept it, wait until the connection is established.

        A program that looks at the request first, or posts receives, takes `next_conn_req`.

        Args:
            private_data: bytes for the other side: 1 to 255, as many as the network takes:
                196 on InfiniBand and RoCE. None sends none.
            config: of the connection; None is librpma's default.
            timeout: for all of it, in seconds; None waits for ever.

        Raises:
            WaitTimeoutError: the timeout has passed.
            ConnectionLost: the other side gave up while connecting.
        """
        raw = private_data_bytes(private_data)  # before somebody waits for the answer
        deadline = deadline_after(timeout)
        with self.next_conn_req(config, timeout=timeout) as request:
            connection = request.connect(raw or None)
        return connection._established_by(deadline, f"cannot accept on {self.address}:{self.port}")

    def close(self) -> None:
        """Stop listening (rpma_ep_shutdown)."""
        super().close()

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<rpma.Endpoint{state} on {self.address}:{self.port}>"
