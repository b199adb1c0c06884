# SPDX-License-Identifier: BSD-3-Clause
"""A client's control channel at the target: frames over a TCP connection.

A client may be silent for as long as it likes, but whatever waits for it to take something has a
deadline, and ends the connection then.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

from rpma.pool.protocol import messages
from rpma.pool.protocol.address import numeric_host
from rpma.pool.protocol.channel import Channel

if TYPE_CHECKING:
    from rpma.pool.protocol.channel import Keys

SEND_TIMEOUT: Final = 10.0
"""How long a client may take to read what it is sent, in seconds."""

CLOSE_TIMEOUT: Final = 1.0
"""How long a client may take to read the rest when it is over, in seconds."""

MAX_LOGIN: Final = 1024
"""The longest payload that is taken of somebody who has not shown the token, in bytes."""

READ_AHEAD: Final = 32 << 10
"""While more than twice this waits to be looked at, nothing is read, in bytes."""

_READ_SIZE: Final = 64 << 10

#: A host that has died is given up after 60 s of silence and six probes.
_OPTIONS: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
)


class Stream:
    """One connection.

    Attributes:
        peer: the address of the client, None where there is none.
        local: by which of the target's addresses it came.
        where: the client's address and port, in words.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """It was accepted."""
        self._reader, self._writer = reader, writer
        self._channel = Channel(MAX_LOGIN)
        peer, local = (writer.get_extra_info(name) for name in ("peername", "sockname"))
        self.peer: str | None = numeric_host(peer) if peer else None
        self.local: str | None = numeric_host(local) if local else None
        self.where = f"{self.peer} port {peer[1]}" if peer else "nowhere"
        connection = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):  # it may be gone already
            for option in _OPTIONS:
                connection.setsockopt(*option)

    def secure(self, keys: Keys) -> None:
        """Authenticate the frames of both sides from here on."""
        self._channel.secure(key_in=keys.to_target, key_out=keys.to_client)

    async def send(self, message: messages.Message, timeout: float | None = None) -> None:
        """Send a message.

        Args:
            message: what to send.
            timeout: in seconds; `SEND_TIMEOUT`, if none is given.

        Raises:
            ConnectionError: the client is gone, or has not read for so long.
        """
        if timeout is None:
            timeout = SEND_TIMEOUT
        self._writer.write(self._channel.frame(messages.encode(message)))
        try:
            if self._writer.transport.get_write_buffer_size():
                await asyncio.wait_for(self._writer.drain(), timeout)
            else:
                await self._writer.drain()
        except asyncio.TimeoutError:
            self.abort()
            raise ConnectionAbortedError("it does not read what it is sent") from None

    async def receive(self) -> bytes:
        """The next payload.

        Raises:
            EOFError: the client has closed the channel.
        """
        while (payload := self._channel.next_payload()) is None:
            if not await self.hear():
                raise EOFError("it left")
        return payload

    async def hear(self) -> bool:
        """Wait for some bytes; False: the client has closed the channel."""
        data = await self._reader.read(_READ_SIZE)
        self._channel.feed(data)
        return bool(data)

    @property
    def at_eof(self) -> bool:
        """Whether the client has closed the channel, and said nothing before that was not read."""
        return self._reader.at_eof()

    def abort(self) -> None:
        """End the connection, whatever was to be sent."""
        self._writer.transport.abort()

    async def close(self, timeout: float) -> None:
        """Send what is to be sent, in so many seconds, and end the connection."""
        self._writer.close()
        closing = asyncio.ensure_future(self._writer.wait_closed())
        await asyncio.wait({closing}, timeout=timeout)
        self.abort()
        with contextlib.suppress(OSError):
            await closing
