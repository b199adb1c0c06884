"""`python tests/softroce -- COMMAND...`: run a command in the Soft-RoCE guest, as if it ran here.

The command's output comes out as it is written, its exit code becomes this program's, and nothing
of the guest's own is mixed in. A guest that fails is reported on stderr, with its log.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from softroce import kernel
from softroce.guest import BOOT_LIMIT, DAX, RUN_LIMIT, Guest, GuestError
from softroce.kernel import KernelError

#: The exit code when it is the guest that failed, not the command.
GUEST_FAILED = 125


def main() -> int:
    """Parse the command line, run the command, return its exit code."""
    parser = argparse.ArgumentParser(prog="softroce", description=__doc__.splitlines()[0])
    parser.add_argument("--memory", default="2G", help="the guest's memory (default: %(default)s)")
    parser.add_argument(
        "--persistent-memory",
        type=int,
        default=0,
        metavar="MIB",
        help=f"how much persistent memory it is to have, as {DAX} (x86-64; needs ndctl)",
    )
    parser.add_argument(
        "--kernel",
        type=kernel.series_of,
        metavar="SERIES",
        help="of which series the kernel is to be: 6.1, say (default: the best that there is)",
    )
    parser.add_argument("--boot-limit", type=float, default=BOOT_LIMIT, metavar="SECONDS")
    parser.add_argument("--run-limit", type=float, default=RUN_LIMIT, metavar="SECONDS")
    parser.add_argument("--no-device", action="store_true", help="do not make the RDMA device")
    parser.add_argument(
        "--share",
        type=Path,
        metavar="FOLDER",
        help="a folder that is shared with the guest and keeps its output and logs",
    )
    parser.add_argument("--facts", action="store_true", help="say on stderr what was booted")
    parser.add_argument("--prepare", action="store_true", help="only see that there is a kernel")
    parser.add_argument("command", nargs="*", help="the command and its arguments")
    arguments = parser.parse_args()

    if arguments.prepare:
        return prepare()
    if not arguments.command:
        parser.error("which command is to run in the guest?")

    size = shutil.get_terminal_size()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        share = arguments.share
        if share is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="softroce-"))
            share = Path(folder)
        try:
            chosen = kernel.obtain(arguments.kernel)
        except KernelError as error:
            print(f"softroce: {error}", file=sys.stderr)
            return GUEST_FAILED
        guest = Guest(
            arguments.command,
            share,
            environment={"COLUMNS": str(size.columns), "LINES": str(size.lines)},
            device=not arguments.no_device,
            chosen=chosen,
            memory=arguments.memory,
            persistent_memory=arguments.persistent_memory << 20,
            boot_limit=arguments.boot_limit,
            run_limit=arguments.run_limit,
        )
        try:
            with guest:
                code = follow(guest)
        except (GuestError, KernelError) as error:
            print(f"softroce: {error}", file=sys.stderr)
            return GUEST_FAILED
        except KeyboardInterrupt:
            return 130
        if arguments.facts:
            facts = " ".join(f"{name}={value}" for name, value in guest.facts().items())
            print(f"softroce: {facts} boot={guest.boot_seconds:.1f}s", file=sys.stderr)
        return code


def prepare() -> int:
    """Fetch the guest's kernels now, so that what needs them later need not wait or say so."""
    for series in (None, kernel.PINNING_SERIES):
        try:
            if not kernel.cached(series):
                words = "" if series is None else f" {'.'.join(map(str, series))}"
                print(f"==> fetching a kernel{words} for the Soft-RoCE guest", file=sys.stderr)
            kernel.obtain(series)
        except KernelError as error:
            print(f"softroce: {error}", file=sys.stderr)
            if series is None:
                return GUEST_FAILED
            print("softroce: the tests that need that kernel are skipped", file=sys.stderr)
    return 0


def follow(guest: Guest) -> int:
    """Copy the command's output to this program's until it ends; return its exit code."""
    with (
        (guest.share / "stdout").open("rb") as stdout,
        (guest.share / "stderr").open("rb") as stderr,
    ):
        while True:
            code = guest.poll()
            copy(stdout, sys.stdout.buffer)
            copy(stderr, sys.stderr.buffer)
            if code is not None:
                return code
            time.sleep(0.05)


def copy(source: BinaryIO, destination: BinaryIO) -> None:
    """Pass on what has been written since the last time."""
    if chunk := source.read():
        destination.write(chunk)
        destination.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
