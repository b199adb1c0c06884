# SPDX-License-Identifier: BSD-3-Clause
"""What a target has done so far, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from rpma.pool.target.answering import Counts

NOTHING = Counts(0, 0, 0, 0, 0)


@dataclass
class Tally:
    """What the sessions of a target count.

    Attributes:
        sessions: clients that came in.
        refused_logins: clients that did not show the token.
        refused_connections: clients with the token that were one too many.
        displaced_strangers: clients without, so far, that gave way to others.
        requests: requests on control channels, by kind: "create", "open" and so on.
        refused_requests: those of them that were refused, or failed; by kind.
        flushes: the flush requests of clients that have gone.
    """

    sessions: int = 0
    refused_logins: int = 0
    refused_connections: int = 0
    displaced_strangers: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    refused_requests: Counter[str] = field(default_factory=Counter)
    flushes: Counts = NOTHING


class Metrics(NamedTuple):
    """What a target has done, and what it has, at a moment.

    Attributes:
        clients: how many are in.
        sessions: how many came in.
        refused_logins: how many did not show the token.
        refused_connections: how many that have the token were one too many.
        displaced_strangers: how many that had not shown it yet gave way to others.
        pools: how many there are, by kind: "file" and "dram"; none before they have been counted.
        bytes: in these pools, by kind.
        open_pools: how many of them somebody has open.
        shadow_bytes: memory that copies take of pools whose files the device cannot work on.
        shadow_limit: how much of it they may take, in bytes.
        requests: on control channels, by kind.
        refused_requests: those of them that were refused, or failed; by kind.
        flushes: the flush requests of all clients; bytes in bytes.
    """

    clients: int
    sessions: int
    refused_logins: int
    refused_connections: int
    displaced_strangers: int
    pools: dict[str, int]
    bytes: dict[str, int]
    open_pools: int
    shadow_bytes: int
    shadow_limit: int
    requests: dict[str, int]
    refused_requests: dict[str, int]
    flushes: Counts


def total(*counts: Counts) -> Counts:
    """The sums."""
    return Counts(*map(sum, zip(NOTHING, *counts, strict=True)))
