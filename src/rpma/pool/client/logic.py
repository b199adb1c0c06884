# SPDX-License-Identifier: BSD-3-Clause
"""What a client does, as generators: coming in, and asking for pools.

Each yields what it needs from outside (`rpma.pool.client.needs`), and is sent the result. So the
blocking client and the one for asyncio do the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rpma._object import integer
from rpma.errors import InvalidArgumentError, WaitTimeoutError
from rpma.pool.client import data_connection, probing
from rpma.pool.client.needs import Dial, Exchange, Receive, Run, Secure, ask, reply
from rpma.pool.client.pool_logic import PoolLogic
from rpma.pool.protocol import messages
from rpma.pool.protocol.attributes import MAX_SIZE, Attributes
from rpma.pool.protocol.channel import Keys, new_nonce
from rpma.pool.protocol.errors import (
    AuthenticationError,
    PoolSizeError,
    ProtocolError,
    TargetLost,
)
from rpma.pool.protocol.messages import PoolInfo
from rpma.pool.protocol.names import check_name
from rpma.pool.protocol.sizes import parse_size

if TYPE_CHECKING:
    from collections.abc import Generator

    from rpma.pool.client.datapath import DataPath
    from rpma.pool.client.ssh import SshTarget
    from rpma.pool.protocol.address import TargetAddress
    from rpma.pool.protocol.messages import Access

    Steps = Generator[Any, Any, Any]

_ACCESSES = ("read", "write", "shared")


# ---- coming in ----


def connect(
    address: TargetAddress, token: bytes, bounce_size: int, timeout: float | None
) -> Generator[Any, Any, DataPath]:
    """Show the token, see that the target has it too, make the data connection.

    An address with a directory has a target started there, which asks for a token of its own.

    Raises:
        AuthenticationError: one of the two has another token.
        ProtocolError: it is not a target, or one of another version.
    """
    started = None
    if address.directory is not None:
        started = yield Run(partial(_start_by_ssh, address, timeout))
        address, token = started.address, started.token
    try:
        path: DataPath = yield from _come_in(address, token, bounce_size, timeout)
    except BaseException:
        if started is not None:
            started.close()
        raise
    path.started = started
    return path


def _hello(
    address: TargetAddress, reached: str, timeout: float | None
) -> Generator[Any, Any, messages.Hello]:
    """The first words of a target; where none come, it is found out what else is there."""
    patience = probing.PATIENCE if timeout is None or timeout > 2 * probing.PATIENCE else None
    try:
        payload = yield Receive(patience)
        if payload is None:
            assert address.port is not None
            words = yield Run(partial(probing.what_listens, reached, address.port))
            if words:
                raise ProtocolError(words)
            payload = yield Receive()
        return reply(payload, messages.Hello)
    except ProtocolError as error:
        raise ProtocolError(f"{address} is no target: {error}") from None
    except WaitTimeoutError:
        raise WaitTimeoutError(
            f"{address} has taken the connection and said nothing in time; a target says hello at "
            "once: is this the port of one?"
        ) from None
    except TargetLost as error:
        raise TargetLost(f"{address} did not say hello: {error}") from error


def _start_by_ssh(address: TargetAddress, timeout: float | None) -> SshTarget:
    from rpma.pool.client.ssh import SshTarget

    return SshTarget(address, timeout)


def _come_in(
    address: TargetAddress, token: bytes, bounce_size: int, timeout: float | None
) -> Generator[Any, Any, DataPath]:
    reached = yield Dial(address)
    hello = yield from _hello(address, reached, timeout)
    if hello.version != messages.VERSION:
        raise ProtocolError(
            f"the target speaks version {hello.version} of the protocol, this client "
            f"{messages.VERSION}: install the same rpma on both"
        )
    user, nonce = address.user or "", new_nonce()
    keys = Keys.derive(token, hello.nonce, nonce, user)
    login = messages.Login(messages.VERSION, user, nonce, keys.client_proof)
    try:
        accepted = reply((yield Exchange(messages.encode(login))), messages.Accepted)
    except AuthenticationError as error:
        if token.endswith(b"\n"):
            raise AuthenticationError(
                f"{error}: it ends with a newline, as a file's content does; hand it over as str, "
                "or without"
            ) from None
        raise
    keys.check_target(accepted.proof)
    yield Secure(keys)
    session = reply((yield Receive()), messages.Session)
    path: DataPath = yield Run(
        partial(
            data_connection.connect,
            reached,
            session,
            keys.ticket,
            bounce_size,
            timeout,
            str(address),
        )
    )
    try:
        reply((yield Receive()), messages.Ready)
    except BaseException:
        path.close()
        raise
    return path


# ---- asking for pools ----


def create(
    path: DataPath,
    name: str,
    size: int | str,
    attributes: Attributes | None,
    content_length: int | None,
    volatile: bool,
    incomplete: bool,
    replace: bool,
) -> Generator[Any, Any, PoolLogic]:
    """Create a pool and open it for writing."""
    if attributes is None:
        attributes = Attributes()
    elif not isinstance(attributes, Attributes):
        raise TypeError(f"attributes must be an Attributes, not {type(attributes).__name__}")
    count = _size(size)
    if content_length is not None:
        content_length = integer("content_length", content_length, count, "bytes")
    request = messages.Create(
        check_name(name),
        count,
        attributes,
        content_length,
        volatile=bool(volatile),
        incomplete=bool(incomplete or replace),
        replaces=bool(replace),
    )
    opened = yield from ask(request, messages.Opened)
    return PoolLogic(path, opened, "write")


def open_(path: DataPath, name: str, access: Access) -> Generator[Any, Any, PoolLogic]:
    """Open a pool."""
    if access not in _ACCESSES:
        raise InvalidArgumentError(f"access={access!r} must be one of {', '.join(_ACCESSES)}")
    opened = yield from ask(messages.Open(check_name(name), access), messages.Opened)
    return PoolLogic(path, opened, access)


def list_(_path: DataPath) -> Generator[Any, Any, list[PoolInfo]]:
    """All pools of the target, in order of their names."""
    found: list[PoolInfo] = []
    while True:
        after = found[-1].name if found else ""
        listing = yield from ask(messages.List(after), messages.Listing)
        if any(info.name <= after for info in listing.pools):
            raise ProtocolError("the target lists a pool twice, or not in the order of the names")
        found += listing.pools
        if not listing.more or not listing.pools:
            return found


def describe(_path: DataPath, name: str) -> Generator[Any, Any, PoolInfo]:
    """What the target says of one pool."""
    listing = yield from ask(messages.Describe(check_name(name)), messages.Listing)
    if len(listing.pools) != 1:
        raise ProtocolError(f"the target described {len(listing.pools)} pools, not one")
    return listing.pools[0]


def resize(_path: DataPath, name: str, size: int | str) -> Steps:
    """Change the size of a pool that nobody has open."""
    yield from ask(messages.Resize(check_name(name), _size(size)), messages.Done)


def remove(_path: DataPath, name: str) -> Steps:
    """Remove a pool that nobody has open."""
    yield from ask(messages.Remove(check_name(name)), messages.Done)


def _size(size: int | str) -> int:
    # What no pool can have is refused here: a message would not even carry all of it.
    count = parse_size(size)
    if not 1 <= count <= MAX_SIZE:
        raise PoolSizeError(f"size: {count} bytes cannot be a pool's size; use 1 to {MAX_SIZE}")
    return count
