# SPDX-License-Identifier: BSD-3-Clause
"""A target that ``rpma serve DIRECTORY --ssh`` is: started through ssh, for one client.

`rpma.pool.client.ssh` is the other end.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING

from rpma.pool.protocol.errors import PoolError, TargetError
from rpma.pool.protocol.pipes import read_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from rpma.pool.target.target import Target

TOKEN_TIMEOUT = 60.0
"""How long the client may take to send the token, in seconds."""

_MOST_TOKEN = 4096


def serve(make: Callable[[bytes], Target]) -> int:
    """Serve from the token on standard input to the end of that input.

    Args:
        make: makes the target, not started, that asks for a token.

    Returns:
        The exit code.
    """
    fd = sys.stdin.fileno()
    token = read_line(fd, _MOST_TOKEN, time.monotonic() + TOKEN_TIMEOUT)
    try:
        if token is None:
            raise TargetError("no token came in time")
        target = make(token.strip())
        target.start()
    except (PoolError, OSError, ValueError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"port": target.address.port}), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        while os.read(fd, _MOST_TOKEN):
            pass
    target.close()
    return 0
