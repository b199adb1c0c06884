# SPDX-License-Identifier: BSD-3-Clause
"""The thin layer: the compiled extension over librpma.so.0. Nothing else loads a library.

Exports `lib`, the C functions and constants of native/binding/decl/, and `ffi`. The extension is
linked with -lrpma, so that the dynamic linker picks the normal or the debug build of librpma, as
LD_LIBRARY_PATH says; where nothing leads to one, rpma's own is loaded first (`_library`). Where the
soft RNIC is to be the device (`_fabric`), its libibverbs and librdmacm are loaded before: librpma
binds to them by their names.
"""

import os
from typing import Any

from _cffi_backend import FFI

from rpma import _fabric, _library
from rpma._packages import LIBRARIES, how_to_install


def explain_import_error(error: ImportError) -> ImportError:
    """The ImportError that says what to install, for one that the dynamic linker raised."""
    text = str(error)
    for library, packages in LIBRARIES.items():
        if text.startswith(f"{library}: cannot open shared object file"):
            return ImportError(
                f"rpma needs {library}, which is not installed. Install it: "
                f"{how_to_install(packages)}. ({text})",
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


def _load_soft() -> list[Any]:
    """Load the soft RNIC; what is returned keeps it loaded.

    The dynamic linker then finds libibverbs.so.1 and librdmacm.so.1 among what is loaded, for
    librpma as for all that comes later. Their symbols stay out of the global scope, so that a
    libibverbs of another name that something brings along (as wheels do) is left alone.

    cffi's own dlopen, as in the modules that cffi generates: ctypes would take longer to import
    than this takes in all.
    """
    return [
        FFI().dlopen(os.path.join(_fabric.SOFT_FOLDER, name), os.RTLD_NOW)
        for name in _fabric.SOFT_LIBRARIES
    ]


_choice = _fabric.wanted(os.environ)
_plan = _fabric.plan(
    _choice,
    loaded=_fabric.is_loaded(_fabric.SOFT_LIBRARIES[0]),
    found=_fabric.devices(),
    installed=_fabric.has_soft(),
)
if _plan.load_soft:
    try:
        _soft = _load_soft()
    except OSError as error:
        if _choice == "soft":
            raise ImportError(f"the soft RNIC does not load: {error}", name="rpma") from error
        _plan = _fabric.Plan(False, f"{_plan.reason}, and the soft RNIC does not load: {error}")


def _load_librpma(path: str) -> Any:
    """Load a librpma, which the dynamic linker then finds; what is returned keeps it loaded."""
    try:
        return FFI().dlopen(path, os.RTLD_NOW)
    except OSError as error:
        raise ImportError(f"{path} does not load: {error}", name="rpma") from error


library_choice = _library.choose(os.environ, loaded=_fabric.is_loaded(_library.SONAME))
"""Which librpma, and why."""
if library_choice.load is not None:
    _loaded_librpma = _load_librpma(library_choice.load)
elif library_choice.or_bundled:
    try:
        _loaded_librpma = FFI().dlopen(_library.SONAME, os.RTLD_NOW)
    except OSError as error:
        if f"{_library.SONAME}: cannot open shared object file" in str(error):
            _loaded_librpma = _load_librpma(_library.BUNDLED)
            library_choice = library_choice._replace(reason="the system has none")

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


fabric = _fabric.settle(
    _choice,
    _plan,
    os.path.realpath(text(lib.rpmapy_ibverbs_path())),
    os.path.realpath(text(lib.rpmapy_rdmacm_path())),
)
"""What carries the bytes in this process."""
