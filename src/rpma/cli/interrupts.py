# SPDX-License-Identifier: BSD-3-Clause
"""Ctrl-C: it ends a command at once, unless there is something to undo first."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

CODE: Final = 130
"""The exit code of a command that was interrupted: what a shell makes of a death by SIGINT."""


@contextlib.contextmanager
def undoing() -> Iterator[None]:
    """Within it Ctrl-C is a KeyboardInterrupt, so that what was begun can be undone.

    Before and after it ends the process: see rpma_command.py. A process that ignores Ctrl-C, as
    what a shell runs in the background does, goes on ignoring it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    hook = sys.unraisablehook
    try:
        sys.unraisablehook = _again
        signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
    finally:
        end()
        sys.unraisablehook = hook


def end() -> None:
    """From here on Ctrl-C ends the process: nothing is to be undone any more."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C waits until it is over.

    A process that is started within it never hears of Ctrl-C: it is ended by other means.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _again(unraisable: UnraisableHookArgs) -> None:
    """A KeyboardInterrupt that hit a destructor or a callback, where it gets lost, comes again."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _thread.interrupt_main()
    else:
        sys.__unraisablehook__(unraisable)
