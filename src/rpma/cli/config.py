# SPDX-License-Identifier: BSD-3-Clause
"""What the compiler of a C program is told, to find rpma's own librpma."""

from __future__ import annotations

import os

from rpma._library import BUNDLED, SONAME

LIBRARY = os.path.dirname(BUNDLED)
"""The folder of the library."""

HEADER = os.path.join(os.path.dirname(LIBRARY), "include")
"""The folder of librpma.h."""

PKG_CONFIG = os.path.join(LIBRARY, "pkgconfig")
"""The folder of librpma.pc."""


def missing() -> str | None:
    """A file that this installation lacks, if any."""
    needed = (BUNDLED, os.path.join(HEADER, "librpma.h"), os.path.join(PKG_CONFIG, "librpma.pc"))
    return next((path for path in needed if not os.path.exists(path)), None)


def flags(*, cflags: bool, libs: bool) -> str:
    """The options for the compiler, for the linker, or both.

    The program has no run path: LD_LIBRARY_PATH picks the build of librpma when it runs, and the
    system's is taken where it is not set.
    """
    words = [f"-I{HEADER}"] if cflags else []
    words += [f"-L{LIBRARY}", f"-l:{SONAME}", "-libverbs"] if libs else []
    return " ".join(words)
