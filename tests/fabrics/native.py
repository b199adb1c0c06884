"""RDMA devices of the machine that this runs on: which there are, and at which addresses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from .fabric import DAX_VARIABLE, Fabric, NoFabricError, librpma

INFINIBAND = Path("/sys/class/infiniband")

#: The device that `added_device` adds; names that nothing else has.
INTERFACE = "rpma-rxe-dummy"
DEVICE = "rpma-rxe"
ADDRESS = "10.9.9.1"
ADDRESS6 = "fd09:9::1"


def devices() -> list[str]:
    """List the machine's RDMA devices by name."""
    return sorted(entry.name for entry in INFINIBAND.iterdir()) if INFINIBAND.is_dir() else []


def interfaces(device: str) -> list[str]:
    """List the network interfaces that an RDMA device is bound to."""
    found: dict[str, None] = {}
    for file in sorted(INFINIBAND.glob(f"{device}/ports/*/gid_attrs/ndevs/*")):
        try:
            found.setdefault(file.read_text().strip())
        except OSError:  # a slot of the table without an address in it
            continue
    return [name for name in found if name]


def find() -> Fabric:
    """Return the first RDMA device that has an IPv4 address."""
    for device in devices():
        for interface in interfaces(device):
            if (addresses := _addresses(interface))["inet"]:
                return Fabric(
                    name="rdma",
                    device=device,
                    address=addresses["inet"][0],
                    address6=next(iter(addresses["inet6"]), None),
                    dax=os.environ.get(DAX_VARIABLE) or None,
                    resources=partial(resources, device),
                )
    raise NoFabricError("the machine has no RDMA device with an IPv4 address")


def resources(device: str) -> dict[str, int]:
    """How many objects the kernel has on the device."""
    done = subprocess.run(
        ["rdma", "-j", "resource", "show", device], capture_output=True, text=True, check=True
    )
    (found,) = json.loads(done.stdout)
    return {name: found[name] for name in ("pd", "cq", "qp", "cm_id", "mr", "srq") if name in found}


def description() -> str:
    """One line about the device and what the tests run on."""
    device = find().device
    kind = "Soft-RoCE" if device == DEVICE else "native"
    return f"{device} ({kind}, Linux {os.uname().release}, {librpma()})"


@contextmanager
def added_device() -> Iterator[bool]:
    """Add a Soft-RoCE device to this machine for a while, where its kernel lets this process.

    Yields whether there is one. What was added is removed again; what was there already stays.
    """
    if os.geteuid() != 0 or any(shutil.which(tool) is None for tool in ("ip", "rdma", "modprobe")):
        yield False
        return
    added = _quietly("modprobe", "rdma_rxe") and _quietly(
        "ip", "link", "add", INTERFACE, "type", "dummy"
    )
    try:
        if added:
            _quietly("modprobe", "rdma_ucm")
        yield (
            added
            and _quietly("ip", "address", "add", f"{ADDRESS}/24", "dev", INTERFACE)
            and _quietly("ip", "address", "add", f"{ADDRESS6}/64", "dev", INTERFACE, "nodad")
            and _quietly("ip", "link", "set", INTERFACE, "up")
            and _quietly("rdma", "link", "add", DEVICE, "type", "rxe", "netdev", INTERFACE)
        )
    finally:
        if added:
            _quietly("rdma", "link", "delete", DEVICE)
            _quietly("ip", "link", "delete", INTERFACE)


def _addresses(interface: str) -> dict[str, list[str]]:
    """The addresses of an interface by family, without those that only its link knows."""
    done = subprocess.run(
        ["ip", "-j", "address", "show", "dev", interface], capture_output=True, text=True
    )
    found: dict[str, list[str]] = {"inet": [], "inet6": []}
    if done.returncode == 0:
        for link in json.loads(done.stdout or "[]"):
            for address in link.get("addr_info", ()):
                if address["scope"] != "link":
                    found[address["family"]].append(address["local"])
    return found


def _quietly(*command: str) -> bool:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return done.returncode == 0
