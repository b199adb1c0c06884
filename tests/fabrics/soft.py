"""The soft RNIC of the rpma that is installed. Nothing here imports rpma before it is time."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

from .fabric import Fabric, NoFabricError, has_ipv6_loopback, librpma

LIBRARIES = ("libibverbs.so.1", "librdmacm.so.1")


def folder() -> Path:
    """Where it is installed, as `rpma soft-path` prints."""
    spec = importlib.util.find_spec("rpma")
    if spec is None or not spec.submodule_search_locations:
        raise NoFabricError("rpma is not installed: pip install .")
    found = Path(spec.submodule_search_locations[0]) / "softrnic"
    if not all((found / name).is_file() for name in LIBRARIES):
        raise NoFabricError(f"the rpma that is installed has no soft RNIC in {found}")
    return found


def find() -> Fabric:
    """Return it, as this process has it."""
    import rpma

    return Fabric(
        name="soft",
        device=rpma.devices()[0],
        address="127.0.0.1",
        address6="::1" if has_ipv6_loopback() else None,
        # iWARP takes 512 bytes and pads none; librpma has 8 bits for the length.
        to_target=255,
        to_initiator=255,
        pads_private_data=False,
        variables={"LD_LIBRARY_PATH": str(folder())},
        resources=resources,
    )


def resources() -> dict[str, int]:
    """How many objects the device has in this process."""
    count = ctypes.CDLL(str(folder() / LIBRARIES[0])).softrnic_count
    return {name: count(name.encode()) for name in ("pd", "cq", "qp", "mr", "srq", "channel")}


def description() -> str:
    """One line about the libraries that the tests run on."""
    return f"soft RNIC (libibverbs {folder() / LIBRARIES[0]}, {librpma()})"
