# SPDX-License-Identifier: BSD-3-Clause
"""The places of those who have not shown the token yet, and who gives way when there are many."""

from __future__ import annotations

import ipaddress
import time
from typing import Final, Generic, TypeVar

T = TypeVar("T")

PLACES: Final = 64
"""How many there are."""

PLACES_OF_ONE: Final = 16
"""How many of them are for one address."""

GRACE: Final = 1.0
"""How long nobody has to give way, in seconds: showing the token takes one round trip."""

MOST: Final = 256
"""How many are heard at a time, though all of them have just come."""


class Strangers(Generic[T]):
    """Who they are, by where they come from.

    A newcomer always finds a place. Beyond the places that there are, the one who has been there
    longest gives way: of the newcomer's own address, where that has too many, and otherwise of the
    address that has most. An honest client is among the youngest for as long as it takes it to show
    the token, so that it is not the one, however quickly others come back. What somebody has sent
    makes no difference: an honest client has sent nothing until it is no stranger any more.
    """

    def __init__(self) -> None:
        self._came: dict[str, dict[T, float]] = {}  # each in the order in which they came
        self._homes: dict[T, str] = {}

    def __len__(self) -> int:
        return len(self._homes)

    def come(self, who: T, address: str | None) -> T | None:
        """Somebody has come; returns who has to leave for that, and has left."""
        now, home = time.monotonic(), _home(address)
        neighbours = self._came.setdefault(home, {})
        neighbours[who] = now
        self._homes[who] = home
        if len(self) <= PLACES and len(neighbours) <= PLACES_OF_ONE:
            return None
        most = neighbours
        if len(self) > PLACES and (len(neighbours) <= PLACES_OF_ONE or len(self) > MOST):
            most = max(
                self._came.values(), key=lambda they: (len(they), -next(iter(they.values())))
            )
        oldest, since = next(iter(most.items()))
        if now - since < GRACE and len(self) <= MOST:
            return None
        self.leave(oldest)
        return oldest

    def leave(self, who: T) -> None:
        """Somebody has left, or is no stranger any more; if it has not been so before."""
        home = self._homes.pop(who, None)
        if home is not None:
            neighbours = self._came[home]
            del neighbours[who]
            if not neighbours:
                del self._came[home]


def _home(address: str | None) -> str:
    """What counts as one address: of IPv6 all of a network, which one host may have for itself."""
    if address is None:
        return ""
    found = ipaddress.ip_address(address)
    return str(found) if found.version == 4 else str(ipaddress.ip_network((found, 64), False))
