# SPDX-License-Identifier: BSD-3-Clause
"""The libraries that rpma runs on, and what distributions call their packages."""

from typing import NamedTuple


class Packages(NamedTuple):
    """The package of a library, by family of distributions."""

    debian: str
    fedora: str
    suse: str


LIBRARIES = {
    "librpma.so.0": Packages("librpma0", "librpma", "librpma0"),
    "libibverbs.so.1": Packages("libibverbs1", "libibverbs", "libibverbs1"),
    "librdmacm.so.1": Packages("librdmacm1", "librdmacm", "librdmacm1"),
}


def how_to_install(packages: Packages) -> str:
    """The commands that install a package, for a sentence."""
    return (
        f"'apt-get install {packages.debian}' on Debian and Ubuntu, "
        f"'dnf install {packages.fedora}' on Fedora, 'zypper install {packages.suse}' on openSUSE"
    )
