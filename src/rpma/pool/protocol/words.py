# SPDX-License-Identifier: BSD-3-Clause
"""What others send, in log lines and messages: so much of it, escaped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SHOWN: Final = 64
"""How much is shown of what a stranger sent, in characters."""

EXPLAINED: Final = 1000
"""How long an explanation of the other side may be, in characters."""


def plain(text: str) -> str:
    """What a stranger sent, or words that quote it: a little of it, in printable ASCII.

    So that it ends no line, starts no command of a terminal and turns no letters around.
    """
    return _one_line(text, SHOWN, lambda c: c.isascii() and c.isprintable())


def explained(text: str) -> str:
    """What the other side says of a failure: one line, in any script."""
    return _one_line(text, EXPLAINED, str.isprintable)


def _one_line(text: str, most: int, is_harmless: Callable[[str], bool]) -> str:
    shown = text[:most]
    if not is_harmless(shown):
        shown = "".join(c if is_harmless(c) else ascii(c)[1:-1] for c in shown)
    return f"{shown[:most]}..." if len(text) > most or len(shown) > most else shown


def quoted(text: str, most: int = SHOWN) -> str:
    """The same in quotes, as the value that it is."""
    shown = ascii(text[:most])
    is_cut = len(text) > most or len(shown) > most + 2
    return f"{shown[: most + 1]}{shown[-1]}..." if is_cut else shown
