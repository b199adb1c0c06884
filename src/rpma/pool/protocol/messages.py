# SPDX-License-Identifier: BSD-3-Clause
"""The messages of the control channel, and their encoding: MessagePack, validated by msgspec."""

from __future__ import annotations

import uuid
from typing import Annotated, Any, Literal

try:
    import msgspec
    from msgspec import Meta, Struct
except ImportError as error:
    raise ImportError(
        "pools need msgspec, which is not installed: pip install 'rpma[pool]'", name="msgspec"
    ) from error

from rpma.pool.protocol.attributes import Attributes
from rpma.pool.protocol.channel import NONCE_SIZE, PROOF_SIZE
from rpma.pool.protocol.errors import ProtocolError
from rpma.pool.protocol.words import plain

VERSION = 3
"""The version of the protocol."""

LISTED_AT_ONCE = 64
"""How many pools one `Listing` has at most."""

Access = Literal["read", "write", "shared"]

WRITING: frozenset[Access] = frozenset({"write", "shared"})
"""The accesses that change a pool; by any other it is only looked at."""

READING: frozenset[Access] = WRITING | {"read"}
"""Those that let a client read it: all."""

# Annotations are read by msgspec when the classes are made.
_Nonce = Annotated[bytes, Meta(min_length=NONCE_SIZE, max_length=NONCE_SIZE)]
_Proof = Annotated[bytes, Meta(min_length=PROOF_SIZE, max_length=PROOF_SIZE)]
_User = Annotated[str, Meta(max_length=64)]
_Name = Annotated[str, Meta(max_length=255)]  # what it may be is the store's to say
_Size = Annotated[int, Meta(ge=0, le=1 << 62)]
_Number = Annotated[int, Meta(ge=0, lt=1 << 32)]
_Time = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Port = Annotated[int, Meta(ge=1, lt=1 << 16)]
_Descriptor = Annotated[bytes, Meta(max_length=255)]
_Text = Annotated[str, Meta(max_length=4096)]


class Message(Struct, forbid_unknown_fields=True):
    """What all messages are."""


# ---- coming in ----


class Hello(Message, tag="hello"):
    """The target's first words."""

    version: int
    nonce: _Nonce


class Login(Message, tag="login"):
    """The client's answer; `proof` shows that it has the token."""

    version: int
    user: _User
    nonce: _Nonce
    proof: _Proof


class Accepted(Message, tag="accepted"):
    """The client may come in; `proof` shows that the target has the token."""

    proof: _Proof


class Session(Message, tag="session"):
    """Where the client makes its data connection, with the ticket that both sides know.

    Attributes:
        host: an address of the target; None: the one by which the client came.
        port: where an endpoint waits for it, and for nobody else.
        depth: how many flush requests may be under way.
        peer_config: the descriptor of the target's peer configuration.
        software: what the target runs.
    """

    host: _Text | None
    port: _Port
    depth: Annotated[int, Meta(ge=1, le=4096)]
    peer_config: _Descriptor
    software: _Text


class Ready(Message, tag="ready"):
    """The data connection is there, as the target sees it."""


# ---- what a client asks for ----


class Create(Message, tag="create"):
    """Create a pool and open it for writing. The reply is `Opened`.

    Attributes:
        name: its name.
        size: in bytes.
        attributes: what its creator notes.
        content_length: how many of its bytes are a file's content, or None.
        volatile: whether it is in DRAM.
        incomplete: whether it is so until `Commit`.
        replaces: whether it is beside the pool of that name until `Commit`, and incomplete; without
            that it goes when it is closed.
    """

    name: _Name
    size: _Size
    attributes: Attributes
    content_length: _Size | None
    volatile: bool
    incomplete: bool
    replaces: bool


class Open(Message, tag="open"):
    """Open a pool. The reply is `Opened`."""

    name: _Name
    access: Access


class Close(Message, tag="close"):
    """Close a pool that this client has open: its key is worth nothing afterwards."""

    number: _Number


class SetContent(Message, tag="set content"):
    """Note how much of an open pool is a file's content."""

    number: _Number
    content_length: _Size | None


class Commit(Message, tag="commit"):
    """An open pool is whole; one that replaces another takes its place.

    Attributes:
        number: of the pool.
        content_length: how many of its bytes are a file's content; None: as it is.
    """

    number: _Number
    content_length: _Size | None


class List(Message, tag="list"):
    """List the pools whose names come after `after`. The reply is `Listing`."""

    after: _Name


class Describe(Message, tag="describe"):
    """Describe one pool. The reply is `Listing`, of one."""

    name: _Name


class Resize(Message, tag="resize"):
    """Change the size of a pool that nobody has open."""

    name: _Name
    size: _Size


class Remove(Message, tag="remove"):
    """Remove a pool that nobody has open."""

    name: _Name


# ---- what the target replies ----


class Done(Message, tag="done"):
    """It is done."""


class Failed(Message, tag="failed"):
    """It is not, and why: `code` is a `PoolError.wire_code`."""

    code: _Text
    text: _Text


class PoolInfo(Message, tag="pool"):
    """What a target says of one of its pools.

    Attributes:
        name: its name.
        kind: "file", or "dram": lost when the target ends.
        size: in bytes; 0 where `problem` says that the file is damaged.
        allocated: the bytes that its file takes.
        created: when, in nanoseconds since the epoch.
        content_length: how many of its bytes are a file that was put, or None.
        incomplete: whether it is being filled, or was and that never ended, or was cut since.
        pool_id: what tells it from any other pool that ever has the same name.
        attributes: what its creator noted.
        users: how many have it open.
        access: how they have it open.
        problem: what is wrong with it, or "".
    """

    name: _Text
    kind: Literal["file", "dram"]
    size: _Size
    allocated: _Size
    created: _Time
    content_length: _Size | None
    incomplete: bool
    pool_id: uuid.UUID | None
    attributes: Attributes | None
    users: _Number
    access: Access | None
    problem: _Text


class Listing(Message, tag="listing"):
    """Pools, in order of their names."""

    pools: Annotated[list[PoolInfo], Meta(max_length=LISTED_AT_ONCE)]
    more: bool


class Opened(Message, tag="opened"):
    """A pool is open.

    Attributes:
        number: by which flush requests and `Close` name it.
        descriptor: of the memory region, registered for this client and this access.
        persistency: how it becomes durable: a `rpma.pool.durability.Persistency`.
        info: what else there is to know.
    """

    number: _Number
    descriptor: _Descriptor
    persistency: _Text
    info: PoolInfo


Request = Create | Open | Close | SetContent | Commit | List | Describe | Resize | Remove
Reply = Done | Failed | Listing | Opened

_encode = msgspec.msgpack.Encoder().encode
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def encode(message: Struct) -> bytes:
    """A message as a payload."""
    return _encode(message)


def decode(payload: bytes, kind: Any) -> Any:
    """The message in a payload.

    Args:
        payload: what came.
        kind: the class, or the union of classes, that it may be.

    Raises:
        ProtocolError: it is none of them.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        words = plain(str(error))  # which may quote the message
        raise ProtocolError(f"a message came that is not the protocol's: {words}") from None
