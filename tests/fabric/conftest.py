"""What fabric tests start from: a peer, and a connected pair on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pairs import Pair, pair

import rpma
from softroce.device import Fabric


@pytest.fixture(scope="session")
def peer(fabric: Fabric) -> Iterator[rpma.Peer]:
    """A peer on the device, shared by all tests."""
    with rpma.Peer.for_address(fabric.address) as opened:
        yield opened


@pytest.fixture
def linked(peer: rpma.Peer, fabric: Fabric) -> Iterator[Pair]:
    """A connected pair with librpma's default configuration."""
    with pair(peer, fabric) as made:
        yield made
