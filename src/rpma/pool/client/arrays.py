# SPDX-License-Identifier: BSD-3-Clause
"""Numpy arrays whose memory is registered: a part of a pool, without copies between."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from rpma import allocation
from rpma.constants import Usage
from rpma.errors import InvalidArgumentError
from rpma.pool.client.memory import InPlace

if TYPE_CHECKING:
    from collections.abc import Generator

    import numpy as np
    import numpy.typing as npt

    from rpma.pool.client.pool_logic import PoolLogic

Index = int | slice | None


class RegisteredArray:
    """The local side of a pool's array: registered memory, and which bytes an index means.

    Attributes:
        local: the numpy array; it is what the pool's bytes are read into and written from.
        offset: where it begins in the pool, in bytes.
    """

    def __init__(
        self,
        pool: PoolLogic,
        dtype: npt.DTypeLike,
        shape: int | tuple[int, ...] | None,
        offset: int,
    ) -> None:
        """Register memory for it. See `Pool.array`."""
        try:
            import numpy as np  # an optional extra
        except ImportError as error:
            raise ImportError(
                "Pool.array() needs numpy, which is not installed: pip install 'rpma[numpy]'"
            ) from error
        kind: np.dtype[Any] = np.dtype(dtype)
        if kind.hasobject or kind.itemsize == 0:
            raise InvalidArgumentError(
                f"dtype={kind!r} cannot lie in a pool: it needs items of a fixed size without "
                "Python objects"
            )
        self._logic = pool
        self.offset, rest = pool.range(offset, None)
        if shape is None:
            if rest % kind.itemsize:
                raise InvalidArgumentError(
                    f"shape=None: the {rest} bytes from offset {offset} on are not a whole number "
                    f"of {kind!r} items of {kind.itemsize} bytes"
                )
            shape = rest // kind.itemsize
        dims = shape if isinstance(shape, tuple) else (shape,)
        if not dims or any(operator.index(n) < 1 for n in dims):
            raise InvalidArgumentError(f"shape={shape!r} must be of positive numbers")
        size = kind.itemsize * math.prod(dims)
        pool.range(offset, size)
        memory = allocation.anonymous(size)
        usage = Usage.WRITE_SRC | Usage.READ_DST
        self._memory = InPlace(pool.path.register(memory, usage))
        # frombuffer holds the view, and so the memory.
        self.local: npt.NDArray[Any] = np.frombuffer(memory.view, kind).reshape(dims)
        self._stride = self.local.strides[0]

    def range(self, index: Index) -> tuple[int, int]:
        """Where the rows of an index begin in the array, and how long they are, in bytes."""
        rows = len(self.local)
        if index is None:
            return 0, self.local.nbytes
        if isinstance(index, slice):
            start, stop, step = index.indices(rows)
            if step != 1:
                raise InvalidArgumentError(f"index={index!r} must have a step of 1")
            return start * self._stride, max(stop - start, 0) * self._stride
        row = operator.index(index)
        if not -rows <= row < rows:
            raise InvalidArgumentError(f"index={row} is outside of the array's {rows} rows")
        return row % rows * self._stride, self._stride

    def read(self, index: Index) -> Generator[Any, Any, None]:
        """Read rows of the pool."""
        at, length = self.range(index)
        return self._logic.read_region(self.offset + at, self._memory, at, length)

    def write(self, index: Index) -> Generator[Any, Any, None]:
        """Write rows into the pool."""
        at, length = self.range(index)
        return self._logic.write_region(self.offset + at, self._memory, at, length)

    def close(self) -> None:
        """Deregister the memory, once the network is done with it; `local` lives on."""
        self._memory.close()
