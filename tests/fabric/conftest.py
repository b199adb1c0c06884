"""What fabric tests start from: a peer, and a connected pair on it.

rpma is imported by the fixtures, not here: pytest reads this file before the plugin can tell rpma
which fabric to take.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from fabrics.fabric import DAX_VARIABLE, Fabric

if TYPE_CHECKING:
    from pairs import Pair

    import rpma


@pytest.fixture(autouse=True, scope="module")
def _on_its_fabric(request: pytest.FixtureRequest) -> None:
    """What a module is marked with as `soft_only` is left out on a kernel's device."""
    mark = request.node.get_closest_marker("soft_only")
    if mark is not None and request.getfixturevalue("fabric").name != "soft":
        pytest.skip(mark.args[0])


@pytest.fixture(scope="session")
def peer(fabric: Fabric) -> Iterator[rpma.Peer]:
    """A peer on the device, shared by all tests."""
    import rpma

    with rpma.Peer.for_address(fabric.address) as opened:
        yield opened


@pytest.fixture
def persistent(peer: rpma.Peer, fabric: Fabric) -> Iterator[bytearray | rpma.allocation.Memory]:
    """Memory that may be registered for flushes to persistence: persistent memory where there is
    some, other memory where the device takes that.
    """
    from pairs import SIZE, has_native_flush

    import rpma

    if fabric.dax is not None:
        with rpma.allocation.map_file(fabric.dax) as memory:
            memory.view[:SIZE] = bytes(SIZE)
            yield memory
    elif has_native_flush(peer):
        pytest.skip(f"takes persistent memory: {DAX_VARIABLE} names a device DAX to be overwritten")
    else:
        yield bytearray(SIZE)


@pytest.fixture
def linked(peer: rpma.Peer, fabric: Fabric) -> Iterator[Pair]:
    """A connected pair with librpma's default configuration."""
    from pairs import pair

    with pair(peer, fabric) as made:
        yield made
