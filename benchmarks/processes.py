# SPDX-License-Identifier: BSD-3-Clause
"""Processes that are told things by lines: how they end."""

from __future__ import annotations

import subprocess


def end_input(process: subprocess.Popen[bytes], seconds: float = 10) -> None:
    """Close its input, at which it ends; kill it if it has not within so many seconds."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
