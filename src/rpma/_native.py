# SPDX-License-Identifier: BSD-3-Clause
"""The thin layer: the compiled extension over librpma.so.0. Nothing else loads a library.

Exports `lib`, the C functions and constants of native/binding/decl/, and `ffi`. The extension is
linked with -lrpma, so that the dynamic linker picks the normal or the debug build of librpma, as
LD_LIBRARY_PATH says.
"""

from typing import Any

_PACKAGES = {
    "librpma.so.0": ("librpma0", "librpma", "librpma0"),
    "libibverbs.so.1": ("libibverbs1", "libibverbs", "libibverbs1"),
    "librdmacm.so.1": ("librdmacm1", "librdmacm", "librdmacm1"),
}


def explain_import_error(error: ImportError) -> ImportError:
    """The ImportError that says what to install, for one that the dynamic linker raised."""
    text = str(error)
    for library, (debian, fedora, suse) in _PACKAGES.items():
        if text.startswith(f"{library}: cannot open shared object file"):
            return ImportError(
                f"rpma needs {library}, which is not installed. Install it: "
                f"'apt-get install {debian}' on Debian and Ubuntu, "
                f"'dnf install {fedora}' on Fedora, 'zypper install {suse}' on openSUSE. ({text})",
                name="rpma._librpma",
            )
    if "undefined symbol: rpma_" in text:
        return ImportError(
            "the librpma.so.0 that was found is older than API 1.0, which rpma needs; install "
            f"librpma 1.0 or newer, or look at LD_LIBRARY_PATH. ({text})",
            name="rpma._librpma",
        )
    if error.name == "rpma" and text.startswith("cannot import name '_librpma'"):
        return ImportError(
            "the compiled part of rpma is missing: this is its source tree, or it was built for "
            f"another platform. Install it with 'pip install .' and run elsewhere. ({text})",
            name="rpma._librpma",
        )
    return error


try:
    from rpma import _librpma
except ImportError as error:
    explained = explain_import_error(error)
    if explained is error:
        raise
    raise explained from error

ffi: Any = _librpma.ffi
lib: Any = _librpma.lib

if lib.rpmapy_init():
    raise ImportError("rpma could not hook into librpma: out of memory", name="rpma._librpma")


def text(pointer: object) -> str:
    """A C string as str; librpma's messages are ASCII, but the locale may word errno's."""
    raw: bytes = ffi.string(pointer)
    return raw.decode("utf-8", "replace")
