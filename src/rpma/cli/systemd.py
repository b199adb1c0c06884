# SPDX-License-Identifier: BSD-3-Clause
"""What a service tells systemd: sd_notify(3), without libsystemd."""

from __future__ import annotations

import os
import socket

VARIABLE = "NOTIFY_SOCKET"


def notify(*words: str) -> bool:
    """Tell the service manager, if there is one that listens.

    Args:
        words: such as "READY=1", "STOPPING=1", "STATUS=2 clients".

    Returns:
        Whether it was told.
    """
    path = os.environ.get(VARIABLE, "")
    if not path.startswith(("/", "@")):
        return False
    # "@" stands for the zero byte that begins the name of an abstract socket.
    address = b"\0" + os.fsencode(path[1:]) if path[0] == "@" else os.fsencode(path)
    message = "\n".join(word.replace("\n", " ") for word in words).encode()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.settimeout(1)  # it must not hold up the service
            out.sendto(message, address)
    except (OSError, ValueError):
        return False
    return True
