"""What a fabric test needs to know of the fabric that it runs on, and in what fabrics differ."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

#: Ports that the tests listen on: below those that the kernel hands out to clients, and seldom
#: those of another run on this machine.
FIRST_PORT = 18515 + os.getpid() % 128 * 100

#: Addresses that nobody has (RFC 5737).
DOCUMENTATION = ("192.0.2.1", "198.51.100.1", "203.0.113.1")

#: Names a device DAX whose contents tests may overwrite.
DAX_VARIABLE = "RPMA_TEST_DAX"

_ports = itertools.count(FIRST_PORT)


class NoFabricError(RuntimeError):
    """The fabric that was asked for is not to be had here; the text says why."""


@dataclass(frozen=True)
class Fabric:
    """What a fabric test needs to know: the device, and addresses that lead to it.

    All that differs between fabrics, and that a test has to ask for, is here. The defaults are
    those of InfiniBand and RoCE.
    """

    #: What rpma.fabric.name says of it.
    name: str
    device: str
    address: str
    #: An IPv6 address of the same device; None if it has only a link's own.
    address6: str | None = None
    #: The most private data that librpma gets across, in bytes.
    to_target: int = 56
    to_initiator: int = 196
    #: Whether the other side gets that many, zeros behind the data.
    pads_private_data: bool = True
    #: What programs other than Python's with rpma need in their environment.
    variables: Mapping[str, str] = field(default_factory=dict)
    #: A device DAX that tests may write to, on a machine that says of one that they may.
    dax: str | None = None
    #: How many objects of each kind the device has, as far as it tells.
    resources: Callable[[], dict[str, int]] = dict

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of such a program."""
        return os.environ | dict(self.variables)

    def at_target(self, data: bytes) -> bytes:
        """Private data of the initiator as the target gets it."""
        return data.ljust(self.to_target, b"\0") if self.pads_private_data else data

    def at_initiator(self, data: bytes) -> bytes:
        """Private data of the target as the initiator gets it."""
        return data.ljust(self.to_initiator, b"\0") if self.pads_private_data else data

    @property
    def unrouted(self) -> str | None:
        """An address to which no route leads; None on a machine that has one to all of them."""
        return next((address for address in DOCUMENTATION if not _is_routed(address)), None)

    def next_port(self) -> str:
        """A free TCP port that no earlier call has given, as librpma wants it: in text."""
        return str(next(port for port in _ports if _is_free(port)))


def librpma() -> str:
    """The librpma in use: the system's Debian package and version, or rpma's own."""
    if os.environ.get("RPMA_LIBRARY") == "bundled":
        return "rpma's own librpma"
    if shutil.which("dpkg-query"):
        done = subprocess.run(
            ["dpkg-query", "-W", "-f=${Package} ${Version}", "librpma0"],
            capture_output=True,
            text=True,
        )
        if done.returncode == 0 and " " in done.stdout.strip():
            return done.stdout
    return "no librpma package"


def has_ipv6_loopback() -> bool:
    """Whether ::1 is an address of this machine."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def _is_routed(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing
        except OSError:
            return False
    return True


def _is_free(port: int) -> bool:
    for family, wildcard in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            probe = socket.socket(family)
        except OSError:  # no IPv6
            continue
        with probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((wildcard, port))
            except OSError:
                return False
    return True
