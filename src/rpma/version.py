# SPDX-License-Identifier: BSD-3-Clause
"""Which librpma is loaded, and what its API offers (librpma(7), LIBRARY API VERSIONING)."""

from __future__ import annotations

import os
from typing import NamedTuple

from rpma._library import is_bundled
from rpma._native import lib, library_choice, text
from rpma.errors import InvalidArgumentError, VersionError

_INTERFACE = (1, 3)
"""The API version whose every function the extension is linked with. No later one added any."""


def version_mismatch(major: int, minor: int) -> str | None:
    """Why the loaded librpma does not support API version `major`.`minor`; None if it does.

    Any other major version is a mismatch; a library with a newer minor version is not. Asks
    rpma_check_version() where the library exports it.
    """
    for name, value in (("major", major), ("minor", minor)):
        if not isinstance(value, int):
            raise TypeError(f"{name} must be an int, not {type(value).__name__}")
        if not 0 <= value < 1 << 32:
            raise InvalidArgumentError(f"{name}={value} must be from 0 to {(1 << 32) - 1}")
    if lib.rpmapy_has_check_version():
        reason = lib.rpmapy_check_version(major, minor)
        return text(reason) if reason else None
    if major != _INTERFACE[0]:
        return f"librpma major version mismatch (need {major}, found {_INTERFACE[0]})"
    if minor > _INTERFACE[1]:
        return f"librpma minor version mismatch (need {minor}, found {_INTERFACE[1]})"
    return None


def check_version(major: int, minor: int) -> None:
    """Make sure that the loaded librpma supports API version `major`.`minor`.

    Raises:
        VersionError: it does not; `reason` has the text of rpma_check_version().
    """
    reason = version_mismatch(major, minor)
    if reason is not None:
        raise VersionError(reason)


def _api_version() -> tuple[int, int]:
    if not lib.rpmapy_has_check_version():
        return _INTERFACE
    minor = 0
    while minor < 1000 and version_mismatch(_INTERFACE[0], minor + 1) is None:
        minor += 1
    return _INTERFACE[0], minor


class Library(NamedTuple):
    """The librpma that the dynamic linker picked.

    Attributes:
        path: the file it was loaded from.
        api_version: the newest API version that it supports, (major, minor).
        is_debug: whether it is the debug build that librpma(7) describes.
        is_bundled: whether it is rpma's own.
        reason: why it is this one; RPMA_LIBRARY chooses.
        features: what it exports of librpma(7) that no release did: "check_version", "errormsg".
        ibverbs_path: the libibverbs below it.
        rdmacm_path: the librdmacm below it.
    """

    path: str
    api_version: tuple[int, int]
    is_debug: bool
    is_bundled: bool
    reason: str
    features: frozenset[str]
    ibverbs_path: str
    rdmacm_path: str


def _library() -> Library:
    exports = {
        "check_version": lib.rpmapy_has_check_version(),
        "errormsg": lib.rpmapy_has_errormsg(),
    }
    path = os.path.realpath(text(lib.rpmapy_library_path()))
    return Library(
        path=path,
        api_version=_api_version(),
        is_debug=lib.rpmapy_is_debug_build(),
        is_bundled=is_bundled(path),
        reason=library_choice.reason,
        features=frozenset(name for name, exported in exports.items() if exported),
        ibverbs_path=os.path.realpath(text(lib.rpmapy_ibverbs_path())),
        rdmacm_path=os.path.realpath(text(lib.rpmapy_rdmacm_path())),
    )


library = _library()
