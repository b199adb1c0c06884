# SPDX-License-Identifier: BSD-3-Clause
"""Types for annotations. Not imported at run time."""

import sys
from typing import Protocol

if sys.version_info >= (3, 12):
    from collections.abc import Buffer
else:
    from typing_extensions import Buffer


class HasView(Protocol):
    """An object that shows its memory as `view`, as `rpma.allocation.Memory` does."""

    @property
    def view(self) -> memoryview:
        """The memory, writable."""


WritableBuffer = Buffer | HasView

__all__ = ["Buffer", "HasView", "WritableBuffer"]
