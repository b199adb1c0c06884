"""How tests start the rpma command: as users do, or, where that takes long, by the nursery."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from fabrics.fabric import Fabric

HERE = Path(__file__).resolve().parent
COMMAND = str(Path(sysconfig.get_path("scripts")) / "rpma")

_nursery: list[str] = []


def rpma_command(fabric: Fabric) -> list[str]:
    """What a command line for `rpma` begins with, on this fabric.

    On the soft RNIC it is the command itself. On a kernel's device, which is an emulated machine's
    as a rule, its processes are forked from one that has the imports behind it: see nursery.py.
    """
    if fabric.name == "soft":
        return [COMMAND]
    if not _nursery:
        _nursery.extend(_start_nursery(fabric))
    return list(_nursery)


def _start_nursery(fabric: Fabric) -> list[str]:
    folder = Path(tempfile.mkdtemp(prefix="nursery-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program, address = str(folder / "nursery"), str(folder / "socket")
    subprocess.run(["cc", "-Wall", "-Wextra", "-O1", "-o", program, HERE / "nursery.c"], check=True)
    nursery = subprocess.Popen(
        [sys.executable, HERE / "nursery.py", address],
        env=fabric.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    atexit.register(nursery.wait)
    atexit.register(nursery.stdin.close)  # first: at which it ends
    assert nursery.stdout.readline() == b"ready\n"
    return [program, address, "rpma"]
