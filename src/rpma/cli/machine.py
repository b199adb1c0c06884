# SPDX-License-Identifier: BSD-3-Clause
"""What a machine says of its RDMA devices, modules, limits and addresses: files below one root.

Only files are read, so that a test can build a machine out of a folder. Nothing of this loads a
library or needs rights.
"""

from __future__ import annotations

import ipaddress
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

CAP_IPC_LOCK = 14
"""The capability's number: who has it may lock as much memory as there is."""

LIBRARY_FOLDERS = (
    *("usr/lib/*-linux-gnu", "lib/*-linux-gnu", "usr/lib64", "lib64", "usr/lib", "lib"),
    *("usr/local/lib", "usr/local/lib64", "usr/local/lib/*-linux-gnu"),
)


@dataclass(frozen=True)
class Port:
    """A port of a device: its number, its state ("ACTIVE", "DOWN") and its link layer."""

    number: int
    state: str
    link_layer: str


@dataclass(frozen=True)
class KernelDevice:
    """An RDMA device, as /sys/class/infiniband describes it.

    Attributes:
        name: such as "mlx5_0" or "rxe0".
        transport: "InfiniBand", "RoCE" or "iWARP".
        driver: the kernel's driver, or "" where that is not told, as of devices in software.
        ports: its ports.
        interfaces: the network interfaces that it is bound to.
        addresses: the IP addresses that lead to it, IPv4 first.
        node: its device node below /dev/infiniband, such as "uverbs0", or "".
    """

    name: str
    transport: str
    driver: str
    ports: tuple[Port, ...]
    interfaces: tuple[str, ...]
    addresses: tuple[str, ...]
    node: str

    @property
    def is_active(self) -> bool:
        """Whether any port is up."""
        return any(port.state == "ACTIVE" for port in self.ports)

    @property
    def state(self) -> str:
        """The state of its ports, in a word for each kind."""
        return ", ".join(dict.fromkeys(port.state for port in self.ports)) or "no port"


@dataclass(frozen=True)
class Node:
    """A device node, and whether this process may open it for reading and writing."""

    path: str
    permissions: str
    is_open_to_us: bool


@dataclass(frozen=True)
class Machine:
    """A machine whose /sys, /proc, /dev and /lib are below `root`."""

    root: Path = Path("/")
    environ: Mapping[str, str] = field(default_factory=dict)

    def text(self, path: str) -> str:
        """The content of a file without the white space around it; "" if it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except (OSError, ValueError):
            return ""

    def names(self, path: str) -> list[str]:
        """What is in a folder."""
        try:
            return sorted(entry.name for entry in (self.root / path).iterdir())
        except OSError:
            return []

    # ---- devices -------------------------------------------------------------------------------

    @cached_property
    def devices(self) -> list[KernelDevice]:
        """The kernel's RDMA devices."""
        return [self._device(name) for name in self.names("sys/class/infiniband")]

    def _device(self, name: str) -> KernelDevice:
        folder = f"sys/class/infiniband/{name}"
        ports = tuple(
            Port(
                int(number),
                _word(self.text(f"{folder}/ports/{number}/state")) or "unknown",
                self.text(f"{folder}/ports/{number}/link_layer"),
            )
            for number in self.names(f"{folder}/ports")
            if number.isdigit()
        )
        if self.text(f"{folder}/node_type").startswith("4"):
            transport = "iWARP"
        elif any(port.link_layer == "Ethernet" for port in ports):
            transport = "RoCE"
        else:
            transport = "InfiniBand"
        driver = self.root / folder / "device" / "driver"
        return KernelDevice(
            name=name,
            transport=transport,
            driver=driver.resolve().name if driver.exists() else "",
            ports=ports,
            interfaces=tuple(dict.fromkeys(self._slots(folder, "gid_attrs/ndevs"))),
            addresses=tuple(_addresses(self._slots(folder, "gids"))),
            node=self._node_of(name),
        )

    def _slots(self, folder: str, table: str) -> Iterator[str]:
        """What is in a table of all ports; most slots are empty, and cannot be read then."""
        for port in self.names(f"{folder}/ports"):
            for slot in sorted(self.names(f"{folder}/ports/{port}/{table}"), key=_by_number):
                if text := self.text(f"{folder}/ports/{port}/{table}/{slot}"):
                    yield text

    def _node_of(self, device: str) -> str:
        for node in self.names("sys/class/infiniband_verbs"):
            if self.text(f"sys/class/infiniband_verbs/{node}/ibdev") == device:
                return node
        return ""

    def node(self, name: str) -> Node | None:
        """A device node of /dev/infiniband, if it is there."""
        path = f"dev/infiniband/{name}"
        try:
            status = (self.root / path).stat()
        except OSError:
            return None
        user, groups = self.identity
        shift = 6 if status.st_uid == user else 3 if status.st_gid in groups else 0
        allowed = user == 0 or status.st_mode >> shift & 6 == 6
        return Node(f"/{path}", stat.filemode(status.st_mode), allowed)

    # ---- this process --------------------------------------------------------------------------

    def _status(self, field: str) -> list[str]:
        for line in self.text("proc/self/status").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return value.split()
        return []

    @cached_property
    def identity(self) -> tuple[int, set[int]]:
        """The user that files are opened as, and all groups."""
        users = [int(number) for number in self._status("Uid")]
        groups = [int(number) for number in self._status("Gid") + self._status("Groups")]
        return (users[-1] if users else 0), set(groups)

    @property
    def may_lock_all(self) -> bool:
        """Whether this process may lock memory without a limit."""
        effective = self._status("CapEff")
        return bool(effective) and bool(int(effective[0], 16) >> CAP_IPC_LOCK & 1)

    @property
    def locked_memory_limit(self) -> int | None:
        """RLIMIT_MEMLOCK in bytes; None: unlimited."""
        for line in self.text("proc/self/limits").splitlines():
            if line.startswith("Max locked memory"):
                soft = line.removeprefix("Max locked memory").split()[0]
                return int(soft) if soft.isdigit() else None
        return None

    @property
    def container(self) -> str:
        """What kind of container this is, or ""."""
        if (self.root / ".dockerenv").exists():
            return "docker"
        if (self.root / "run/.containerenv").exists():
            return "podman"
        if kind := self.text("run/systemd/container"):
            return kind
        groups = self.text("proc/1/cgroup")
        for kind in ("kubepods", "docker", "containerd", "lxc"):
            if f"/{kind}" in groups:
                return kind
        return ""

    # ---- the kernel ----------------------------------------------------------------------------

    @property
    def kernel(self) -> str:
        """The kernel's release."""
        return self.text("proc/sys/kernel/osrelease")

    @property
    def modules_folder(self) -> Path | None:
        """Where this kernel's modules are, if they are to be seen from here."""
        for base in ("lib/modules", "usr/lib/modules"):
            folder = self.root / base / self.kernel
            if self.kernel and folder.is_dir():
                return folder
        return None

    def module(self, name: str) -> str:
        """A kernel module: "loaded", "built in", "available", "missing" or "unknown"."""
        loaded = {line.split()[0] for line in self.text("proc/modules").splitlines()}
        if name in loaded or (self.root / "sys/module" / name).is_dir():
            return "loaded"
        folder = self.modules_folder
        if folder is None:
            return "unknown"
        for state, file in (("built in", "modules.builtin"), ("available", "modules.dep")):
            try:
                lines = (folder / file).read_text(errors="replace").splitlines()
            except OSError:
                continue
            files = (line.partition(":")[0].rpartition("/")[2] for line in lines)
            if any(file.partition(".ko")[0].replace("-", "_") == name for file in files):
                return state
        return "missing"

    # ---- the network ---------------------------------------------------------------------------

    @property
    def addresses(self) -> list[str]:
        """The machine's IP addresses, without those that only a link knows; IPv4 first."""
        found: dict[str, None] = {}
        last = ""
        for line in self.text("proc/net/fib_trie").splitlines():
            words = line.split()
            if words[:1] == ["|--"]:
                last = words[1]
            elif words[:3] == ["/32", "host", "LOCAL"]:
                found.setdefault(last)
        for line in self.text("proc/net/if_inet6").splitlines():
            address = ipaddress.IPv6Address(int(line.split()[0], 16))
            if not address.is_link_local:
                found.setdefault(str(address))
        return list(found)

    @property
    def ethernet(self) -> str:
        """An Ethernet interface that is up, of hardware if there is one, or ""."""
        up = [
            name
            for name in self.names("sys/class/net")
            if self.text(f"sys/class/net/{name}/type") == "1"
            and self.text(f"sys/class/net/{name}/operstate") == "up"
        ]
        return next(
            (name for name in up if (self.root / f"sys/class/net/{name}/device").exists()),
            next(iter(up), ""),
        )

    # ---- libraries -----------------------------------------------------------------------------

    def library(self, name: str) -> str:
        """Where a library is, as far as LD_LIBRARY_PATH and the usual folders tell; or ""."""
        for folder in self.environ.get("LD_LIBRARY_PATH", "").split(":"):
            if folder and (self.root / folder.lstrip("/") / name).exists():
                return f"{folder.rstrip('/')}/{name}"
        for pattern in LIBRARY_FOLDERS:
            for folder_found in sorted(self.root.glob(pattern)):
                if (folder_found / name).exists():
                    return f"/{(folder_found / name).relative_to(self.root)}"
        return ""

    @property
    def providers(self) -> list[str]:
        """The devices' user space drivers of libibverbs, such as "mlx5" and "rxe"."""
        found = set()
        for pattern in LIBRARY_FOLDERS:
            for file in self.root.glob(f"{pattern}/libibverbs/lib*-rdmav*.so"):
                found.add(file.name.removeprefix("lib").partition("-rdmav")[0])
        return sorted(found)

    def has_program(self, name: str) -> bool:
        """Whether the system has a program."""
        folders = ("usr/sbin", "usr/bin", "sbin", "bin", "usr/local/sbin", "usr/local/bin")
        return any((self.root / folder / name).exists() for folder in folders)


def _word(state: str) -> str:
    """The word of "4: ACTIVE"."""
    return state.rpartition(":")[2].strip()


def _by_number(slot: str) -> tuple[int, str]:
    return (int(slot) if slot.isdigit() else -1), slot


def _addresses(gids: Iterator[str]) -> list[str]:
    """The IP addresses among GIDs, IPv4 first."""
    found = set()
    for gid in gids:
        try:
            number = ipaddress.IPv6Address(gid)
        except ValueError:
            continue
        if number.ipv4_mapped is not None:
            found.add(str(number.ipv4_mapped))
        elif not number.is_link_local and not number.is_unspecified:
            found.add(str(number))
    return sorted(found, key=lambda text: (":" in text, text))
