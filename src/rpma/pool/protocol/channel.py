# SPDX-License-Identifier: BSD-3-Clause
"""The control channel: frames over a stream, and how both sides show that they have the token.

No input or output here: bytes come in by `Channel.feed` and go out as return values. A frame is a
length (4 bytes, little endian), once the channel is `secure` an authentication code of 16 bytes,
and the payload. docs/pool-protocol.md says it in full.
"""

from __future__ import annotations

import hmac
import os
import struct
from dataclasses import dataclass

from rpma.pool.protocol.errors import AuthenticationError, ProtocolError
from rpma.pool.protocol.foreign import words_for

MAX_PAYLOAD = 64 << 10
"""A longer payload is not accepted, in bytes."""

NONCE_SIZE = 32
PROOF_SIZE = 32
TICKET_SIZE = 32
"""What a client shows on its data connection, in bytes: RoCE takes 56 of private data."""

_LENGTH = struct.Struct("<I")
_NUMBER = struct.Struct("<Q")
_CODE_SIZE = 16


def _mac(key: bytes, *parts: bytes) -> bytes:
    # The parts have fixed lengths, but for the last one: nothing can move from one to the next.
    return hmac.digest(key, b"".join(parts), "sha256")


def new_nonce() -> bytes:
    """Bytes that nobody has seen before."""
    return os.urandom(NONCE_SIZE)


@dataclass(frozen=True)
class Keys:
    """What follows from a token and both nonces. The token itself is never sent.

    Attributes:
        client_proof: by which the client shows that it has the token.
        target_proof: by which the target does.
        to_target: the key of the client's frames.
        to_client: the key of the target's frames.
        ticket: what lets the client's data connection in, once.
    """

    client_proof: bytes
    target_proof: bytes
    to_target: bytes
    to_client: bytes
    ticket: bytes

    @classmethod
    def derive(cls, token: bytes, target_nonce: bytes, client_nonce: bytes, user: str) -> Keys:
        """The keys of one session."""
        secret = _mac(
            token, b"rpma pool session 1\0", target_nonce, client_nonce, user.encode("utf-8")
        )
        names = ("client proof", "target proof", "to target", "to client", "ticket")
        return cls(*(_mac(secret, name.encode()) for name in names))

    def check_client(self, proof: bytes) -> None:
        """Raise AuthenticationError unless this is the proof of a client that has the token."""
        if not self.is_of_client(proof):
            raise AuthenticationError("the token is not this target's")

    def is_of_client(self, proof: bytes) -> bool:
        """Whether this is the proof of a client that has the token."""
        return hmac.compare_digest(proof, self.client_proof)

    def check_target(self, proof: bytes) -> None:
        """Raise AuthenticationError unless this is the proof of a target that has the token."""
        if not hmac.compare_digest(proof, self.target_proof):
            raise AuthenticationError(
                "the target does not have this token: it is another one, or an impostor"
            )

    def check_ticket(self, private_data: bytes) -> bool:
        """Whether a connection request shows the ticket. The network may pad what it shows."""
        return hmac.compare_digest(private_data[:TICKET_SIZE], self.ticket)


class Channel:
    """One side of a control channel."""

    def __init__(self, most: int = MAX_PAYLOAD) -> None:
        """A channel without authentication codes; see `secure`.

        Args:
            most: the longest payload that is accepted until then, in bytes.
        """
        self._received = bytearray()
        self._most = most
        self._key_in: bytes | None = None
        self._key_out: bytes | None = None
        self._number_in = 0
        self._number_out = 0
        self._is_first = True

    def secure(self, *, key_in: bytes, key_out: bytes) -> None:
        """From the next frame on, in both directions, frames carry authentication codes."""
        self._key_in, self._key_out = key_in, key_out
        self._most = MAX_PAYLOAD

    def frame(self, payload: bytes) -> bytes:
        """The bytes to send for a payload.

        Raises:
            ProtocolError: it is longer than `MAX_PAYLOAD`.
        """
        if len(payload) > MAX_PAYLOAD:
            raise ProtocolError(f"a message of {len(payload)} bytes, {MAX_PAYLOAD} can be sent")
        code = b""
        if self._key_out is not None:
            code = _mac(self._key_out, _NUMBER.pack(self._number_out), payload)[:_CODE_SIZE]
            self._number_out += 1
        return _LENGTH.pack(len(payload)) + code + payload

    def feed(self, data: bytes) -> None:
        """Take in what came from the other side."""
        self._received += data

    def next_payload(self) -> bytes | None:
        """The payload of the next frame that is complete, or None.

        Raises:
            ProtocolError: it is too long, or not the other side's: nothing more can be read then.
        """
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if length > self._most:
            # Text is a length that is too long by far.
            foreign = words_for(bytes(self._received[:64])) if self._is_first else ""
            words = f"a message of {length} bytes came, {self._most} are accepted"
            raise ProtocolError(foreign or words)
        begin = _LENGTH.size + (_CODE_SIZE if self._key_in is not None else 0)
        if len(self._received) < begin + length:
            return None
        payload = bytes(self._received[begin : begin + length])
        if self._key_in is not None:
            code = bytes(self._received[_LENGTH.size : begin])
            wanted = _mac(self._key_in, _NUMBER.pack(self._number_in), payload)[:_CODE_SIZE]
            if not hmac.compare_digest(code, wanted):
                raise ProtocolError("a message came that is not the other side's")
            self._number_in += 1
        del self._received[: begin + length]
        self._is_first = False
        return payload
