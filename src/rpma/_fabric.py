# SPDX-License-Identifier: BSD-3-Clause
"""The choice of fabric: RDMA devices of the kernel, or the soft RNIC in user space.

What `RPMA_FABRIC` says, and what there is, decides which libibverbs and librdmacm come below
librpma. Pure decisions: nothing is loaded here, and libibverbs is not needed to look for a device.
"""

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

VARIABLE = "RPMA_FABRIC"
VALUES = ("auto", "rdma", "soft")

SOFT_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "softrnic")
"""Where the soft RNIC's libraries are installed: what `rpma soft-path` prints."""

SOFT_LIBRARIES = ("libibverbs.so.1", "librdmacm.so.1")
"""The soft RNIC's libraries, in the order in which they need each other."""

DEVICES = "/sys/class/infiniband"


class Fabric(NamedTuple):
    """What carries the bytes in this process.

    Attributes:
        name: "rdma": the kernel's RDMA devices; "soft": the soft RNIC, in user space.
        reason: why this one.
        ibverbs_path: the libibverbs in use.
    """

    name: str
    reason: str
    ibverbs_path: str


class Plan(NamedTuple):
    """What to do before librpma is loaded.

    Attributes:
        load_soft: whether to load the soft RNIC's libraries first, for librpma to bind to.
        reason: why the fabric will be the one that it will be.
    """

    load_soft: bool
    reason: str


def wanted(environ: Mapping[str, str]) -> str:
    """What RPMA_FABRIC says: one of `VALUES`.

    Raises:
        ImportError: it says something else; this runs when rpma is imported.
    """
    value = environ.get(VARIABLE) or "auto"
    if value not in VALUES:
        raise ImportError(
            f"{VARIABLE}={value}: set it to auto (a real RDMA device where there is one, else the "
            "soft RNIC), rdma (real devices only) or soft (the soft RNIC only), or unset it",
            name="rpma",
        )
    return value


def devices(folder: str = DEVICES) -> list[str]:
    """The names of the kernel's RDMA devices."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def is_loaded(library: str, maps: str = "/proc/self/maps") -> bool:
    """Whether this process has a library of that name already: the dynamic linker takes no second.

    By the names of the files that are mapped. dlopen() with RTLD_NOLOAD would know too, but it
    leaves no message for what is not loaded, and cffi 2.1 crashes on that.
    """
    try:
        with open(maps, "rb") as lines:
            return f"/{library}".encode() in lines.read()
    except OSError:  # no /proc: then what is loaded shows in `settle`
        return False


def has_soft(folder: str = SOFT_FOLDER) -> bool:
    """Whether the soft RNIC's libraries are installed there."""
    return all(os.path.exists(os.path.join(folder, name)) for name in SOFT_LIBRARIES)


def is_soft(path: str) -> bool:
    """Whether the library at `path` is a soft RNIC's, of this installation or of another."""
    return os.path.basename(os.path.dirname(os.path.realpath(path))) == "softrnic"


def plan(
    choice: str, *, loaded: bool, found: Iterable[str], installed: bool, folder: str = SOFT_FOLDER
) -> Plan:
    """Decide what to load.

    A device in /sys is taken even where its /dev/infiniband/rdma_cm is missing: who has a device
    expects it to be used, and its peers are on its network. Going to the soft RNIC in silence
    would turn a forgotten "modprobe rdma_ucm" into a program that is slow and meets nobody; the
    error that comes instead says what to do.

    Args:
        choice: what RPMA_FABRIC says.
        loaded: whether this process has a libibverbs.so.1 already; a second one cannot be had.
        found: the kernel's RDMA devices.
        installed: whether the soft RNIC is installed.
        folder: where the soft RNIC is installed.

    Raises:
        ImportError: RPMA_FABRIC=soft, and there is no soft RNIC.
    """
    names = ", ".join(found)
    if choice == "rdma":
        return Plan(False, f"{VARIABLE}=rdma")
    if choice == "soft":
        if not installed and not loaded:
            raise ImportError(
                f"{VARIABLE}=soft, but this rpma was installed without the soft RNIC: {folder} "
                f"lacks {' or '.join(SOFT_LIBRARIES)}. Install rpma again, or unset {VARIABLE}",
                name="rpma",
            )
        return Plan(not loaded, f"{VARIABLE}=soft")
    if loaded:
        return Plan(False, f"{SOFT_LIBRARIES[0]} was loaded before rpma was imported")
    if names:
        return Plan(False, f"this machine has an RDMA device: {names}")
    if not installed:
        return Plan(False, "no RDMA device here, and rpma was installed without the soft RNIC")
    return Plan(True, "this machine has no RDMA device")


def settle(
    choice: str, plan: Plan, ibverbs_path: str, rdmacm_path: str, folder: str = SOFT_FOLDER
) -> Fabric:
    """The fabric, now that librpma is loaded and the libraries below it are known.

    Args:
        choice: what RPMA_FABRIC says.
        plan: what was done before.
        ibverbs_path: the libibverbs that librpma is bound to.
        rdmacm_path: the librdmacm that librpma is bound to.
        folder: where the soft RNIC is installed.

    Raises:
        ImportError: it is not what RPMA_FABRIC says, or the two libraries do not belong together.
    """
    soft = is_soft(ibverbs_path)
    if soft != is_soft(rdmacm_path):
        raise ImportError(
            "libibverbs.so.1 and librdmacm.so.1 must both be the soft RNIC's, or neither; this "
            f"process has {ibverbs_path} and {rdmacm_path}. Look at LD_PRELOAD, and set "
            f"LD_LIBRARY_PATH={folder} for a program that is to use the soft RNIC",
            name="rpma",
        )
    if choice == "soft" and not soft:
        raise ImportError(
            f"{VARIABLE}=soft, but {ibverbs_path} was loaded before rpma was imported (by pyverbs, "
            "or by LD_PRELOAD), and a process can have only one. Import rpma first, or start the "
            f"program with LD_LIBRARY_PATH={folder}",
            name="rpma",
        )
    if choice == "rdma" and soft:
        raise ImportError(
            f"{VARIABLE}=rdma, but this process has the soft RNIC: {ibverbs_path}. Look at "
            f"LD_LIBRARY_PATH and LD_PRELOAD, or unset {VARIABLE}",
            name="rpma",
        )
    reason = plan.reason
    if soft and choice == "auto" and not plan.load_soft:
        # Not our doing: LD_LIBRARY_PATH or LD_PRELOAD has chosen.
        reason = "LD_LIBRARY_PATH or LD_PRELOAD leads to the soft RNIC's libibverbs.so.1"
    return Fabric("soft" if soft else "rdma", reason, ibverbs_path)
