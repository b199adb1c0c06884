# SPDX-License-Identifier: BSD-3-Clause
"""What there is to know of a pool that is open, blocking or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uuid

    from rpma.pool.client.pool_logic import PoolLogic
    from rpma.pool.protocol.attributes import Attributes
    from rpma.pool.protocol.messages import Access, PoolInfo
    from rpma.pool.protocol.persistency import Persistency


class OpenedPool:
    """The part of a `Pool` that asks nobody."""

    def __init__(self, pool: PoolLogic) -> None:
        """Of a pool that was opened."""
        self._logic = pool

    @property
    def name(self) -> str:
        """Its name."""
        return self._logic.info.name

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._logic.size

    @property
    def access(self) -> Access:
        """How it was opened."""
        return self._logic.access

    @property
    def persistency(self) -> Persistency:
        """How the target makes it durable."""
        return self._logic.persistency

    @property
    def info(self) -> PoolInfo:
        """All that the target said of it when it was opened."""
        return self._logic.info

    @property
    def attributes(self) -> Attributes:
        """What its creator noted."""
        attributes = self._logic.info.attributes
        assert attributes is not None
        return attributes

    @property
    def pool_id(self) -> uuid.UUID:
        """What tells it from any other pool that ever has the same name."""
        identity = self._logic.info.pool_id
        assert identity is not None
        return identity

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._logic.closed

    def __len__(self) -> int:
        return self._logic.size

    def _state(self) -> str:
        return " closed" if self.closed else f" of {self.size} bytes, {self.access}"
