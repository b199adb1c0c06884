# SPDX-License-Identifier: BSD-3-Clause
"""The choice of librpma: the system's, rpma's own, or another one.

The dynamic linker picks the library, and LD_LIBRARY_PATH is heard first, as librpma(7) says. What
is decided here is what is loaded before it looks: then it finds that.
"""

import os
from collections.abc import Mapping
from typing import NamedTuple

VARIABLE = "RPMA_LIBRARY"

SONAME = "librpma.so.0"

BUNDLED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "librpma", SONAME)
"""rpma's own librpma."""


class Choice(NamedTuple):
    """What to do before the extension is loaded.

    Attributes:
        load: the library to load first; None to let the dynamic linker find one.
        or_bundled: whether rpma's own is the one if the dynamic linker finds none.
        reason: why that library.
    """

    load: str | None
    or_bundled: bool
    reason: str


def choose(environ: Mapping[str, str], *, loaded: bool, bundled: str = BUNDLED) -> Choice:
    """Decide which librpma it is to be.

    Args:
        environ: for LD_LIBRARY_PATH and RPMA_LIBRARY.
        loaded: whether this process has a librpma.so.0 already; a second one cannot be had.
        bundled: where rpma's own is.

    Raises:
        ImportError: RPMA_LIBRARY is none of what it can be, or names what is not there.
    """
    if loaded:
        return Choice(None, False, f"{SONAME} was loaded before rpma was imported")
    for folder in environ.get("LD_LIBRARY_PATH", "").replace(";", ":").split(":"):
        if folder and os.path.exists(os.path.join(folder, SONAME)):
            return Choice(None, False, f"LD_LIBRARY_PATH leads to it: {folder}")
    wanted = environ.get(VARIABLE) or "auto"
    if wanted == "auto":
        return Choice(None, os.path.exists(bundled), "the system has it")
    if wanted == "system":
        return Choice(None, False, f"{VARIABLE}=system")
    if wanted == "bundled":
        if not os.path.exists(bundled):
            raise ImportError(
                f"{VARIABLE}=bundled, but this rpma was installed without a librpma: there is no "
                f"{bundled}. Install rpma again, or unset {VARIABLE}",
                name="rpma",
            )
        return Choice(bundled, False, f"{VARIABLE}=bundled")
    if "/" not in wanted:
        raise ImportError(
            f"{VARIABLE}={wanted}: set it to system, bundled (rpma's own) or the path of a "
            f"{SONAME}, or unset it",
            name="rpma",
        )
    if not os.path.exists(wanted):
        raise ImportError(
            f"{VARIABLE}={wanted}: there is no such file. Set it to the path of a {SONAME}, or "
            "unset it",
            name="rpma",
        )
    return Choice(wanted, False, f"{VARIABLE} names it")


def is_bundled(path: str) -> bool:
    """Whether the library at `path` is rpma's own, of this installation or of another."""
    return os.path.basename(os.path.dirname(os.path.realpath(path))) == "librpma"
