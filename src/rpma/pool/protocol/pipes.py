# SPDX-License-Identifier: BSD-3-Clause
"""Lines from a pipe, which both ends of ssh read."""

from __future__ import annotations

import os
import select
import time


def read_line(fd: int, most: int, deadline: float | None) -> bytes | None:
    """The first line and what came with it, all if it ends before; None: it was not in time."""
    said = b""
    while b"\n" not in said and len(said) < most:
        left = None if deadline is None else max(deadline - time.monotonic(), 0)
        if not select.select([fd], [], [], left)[0]:
            return None
        data = os.read(fd, most)
        if not data:
            break
        said += data
    return said
