"""RDMA devices of the machine that this runs on: which there are, and at which addresses."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

INFINIBAND = Path("/sys/class/infiniband")

#: Ports that the tests listen on; below the range that the kernel hands out to clients.
FIRST_PORT = 18515

#: The device that `soft_device` adds; names that nothing else has.
INTERFACE = "rpma-rxe-dummy"
DEVICE = "rpma-rxe"
ADDRESS = "10.9.9.1"
ADDRESS6 = "fd09:9::1"

_ports = itertools.count(FIRST_PORT)


@dataclass(frozen=True)
class Fabric:
    """What a fabric test needs to know: the device, and an IPv4 address that leads to it."""

    device: str
    address: str
    #: An IPv6 address of the same interface, for tests of that; None if it has only a link's own.
    address6: str | None = field(default=None)

    def next_port(self) -> str:
        """A TCP port that no earlier call has given, as librpma wants it: in text."""
        return str(next(_ports))


class NoDeviceError(RuntimeError):
    """The machine has no RDMA device with an IPv4 address."""


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
                return Fabric(device, addresses["inet"][0], next(iter(addresses["inet6"]), None))
    raise NoDeviceError("the machine has no RDMA device with an IPv4 address")


@contextmanager
def soft_device() -> Iterator[bool]:
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


def librpma() -> str:
    """The installed librpma: its Debian package and version, or that there is none."""
    if shutil.which("dpkg-query"):
        done = subprocess.run(
            ["dpkg-query", "-W", "-f=${Package} ${Version}", "librpma0"],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0 and " " in done.stdout.strip():
            return done.stdout
    return "no librpma package"


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
