# SPDX-License-Identifier: BSD-3-Clause
"""What the logic of a client needs from outside, and yields: a driver sees to it.

Or it yields a `Waiter`, which is to be done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rpma.pool.protocol import messages
from rpma.pool.protocol.errors import BY_WIRE_CODE, PoolError
from rpma.pool.protocol.words import explained

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rpma.pool.protocol.address import TargetAddress
    from rpma.pool.protocol.channel import Keys

T = TypeVar("T", bound="messages.Message")


class Dial(NamedTuple):
    """Open the control channel to the target.

    The result is the address that was reached, as `numeric_host` has it: a name may have others.
    """

    address: TargetAddress


class Receive(NamedTuple):
    """Receive the next payload of the control channel.

    Attributes:
        patience: where nothing has come for so long, in seconds, the result is None.
    """

    patience: float | None = None


class Exchange(NamedTuple):
    """Send a payload on the control channel, and receive the reply to it."""

    payload: bytes


class Secure(NamedTuple):
    """Authenticate the frames of the control channel from here on."""

    keys: Keys


class Run(NamedTuple):
    """Call a function that blocks, and whose result is to be closed where nobody gets it."""

    function: Callable[[], Any]


def reply(payload: bytes, kind: type[T]) -> T:
    """The reply, which is of this kind unless it says what failed."""
    message = messages.decode(payload, kind | messages.Failed)
    if isinstance(message, messages.Failed):
        cls = BY_WIRE_CODE.get(message.code, PoolError)
        raise cls(explained(message.text))
    assert isinstance(message, kind)
    return message


def ask(request: messages.Request, kind: type[T]) -> Generator[Any, Any, T]:
    """Ask the target on the control channel; its reply."""
    return reply((yield Exchange(messages.encode(request))), kind)
