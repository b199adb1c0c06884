# SPDX-License-Identifier: BSD-3-Clause
"""Where the `rpma` command starts: outside the package, whose import may fail.

`import rpma` needs librpma. Without it the command must still tell what is missing: then the
package is there in name only, its __init__ not run, and `rpma.cli` gets the reason. So it is for
`rpma trace`, too: librpma's debug build would write into the very log that is to be read.

Until a command has something to undo, Ctrl-C ends the process as it ends one in C: importing what
is needed takes most of the time of a short command, and a KeyboardInterrupt in the middle of that
would be a traceback. `rpma.cli.interrupts` has the rest.
"""

import _signal  # type: ignore[import-not-found]  # `signal` takes longer to import

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

import importlib.util
import os
import sys


def main() -> None:
    """Run the `rpma` command."""
    _have_standard_streams()
    broken = None
    try:
        if sys.argv[1:2] == ["trace"]:
            _take_name_only()
        else:
            import rpma  # noqa: F401 -- to see whether it works
    except ImportError as error:
        broken = error
        _take_name_only()
    from rpma.cli import main as run

    run(broken)


def _have_standard_streams() -> None:
    """Open those that are closed, so that using them fails.

    Else the next file or socket gets the descriptor, and what is printed goes there.
    """
    for fd, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # the lowest that is free
    for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 -- for good


def _take_name_only() -> None:
    spec = importlib.util.find_spec("rpma")
    if spec is None:
        raise ModuleNotFoundError("No module named 'rpma'", name="rpma")
    sys.modules["rpma"] = importlib.util.module_from_spec(spec)
