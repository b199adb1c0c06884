"""Machines made of files: what /sys, /proc, /dev and /lib would hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rpma.cli.machine import Machine

KERNEL = "6.1.0-9-amd64"

STATUS = "Name:\tpython3\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t7\t7\t7\t7\nGroups:\t7 44\n"
LIMITS = (
    "Limit                     Soft Limit           Hard Limit           Units\n"
    "Max core file size        0                    unlimited            bytes\n"
    "Max locked memory         {limit:<20} {limit:<20} bytes\n"
)
FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     |-- 192.0.2.2
        /32 host LOCAL
Local:
     |-- 192.0.2.2
        /32 host LOCAL
"""
IF_INET6 = """fd000000000000000000000000000002 04 40 00 82     eth0
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""


class Made:
    """A machine in the making: an ordinary one, without a device, for an ordinary user."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.user()
        self.limit("8388608")
        self.write("proc/sys/kernel/osrelease", f"{KERNEL}\n")
        self.write("proc/net/fib_trie", FIB_TRIE)
        self.write("proc/net/if_inet6", IF_INET6)
        self.modules(available=["rdma_rxe", "rdma_ucm", "ib_uverbs", "siw"])
        self.interface("lo", kind="772", state="unknown")
        self.interface("eth0", hardware=True)
        for name in ("librpma.so.0", "libibverbs.so.1", "librdmacm.so.1"):
            self.write(f"usr/lib/x86_64-linux-gnu/{name}")
        self.write("usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so")
        for name in ("ip", "rdma"):
            self.write(f"usr/sbin/{name}")
        self.soft = root / "site-packages/rpma/softrnic"
        for name in ("libibverbs.so.1", "librdmacm.so.1"):
            self.write(f"site-packages/rpma/softrnic/{name}")

    @property
    def machine(self) -> Machine:
        return Machine(self.root)

    def write(self, path: str, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def user(self, uid: int = 1000, *, may_lock: bool = False) -> None:
        capabilities = 1 << 14 if may_lock else 0
        self.write("proc/self/status", STATUS.format(uid=uid) + f"CapEff:\t{capabilities:016x}\n")

    def limit(self, value: str) -> None:
        self.write("proc/self/limits", LIMITS.format(limit=value))

    def modules(
        self,
        *,
        available: Sequence[str] = (),
        loaded: Sequence[str] = (),
        builtin: Sequence[str] = (),
    ) -> None:
        folder = f"lib/modules/{KERNEL}"
        lines = [f"kernel/drivers/infiniband/{name}.ko.xz: kernel/x.ko\n" for name in available]
        self.write(f"{folder}/modules.dep", "".join(lines))
        lines = [f"kernel/drivers/infiniband/{name}.ko\n" for name in builtin]
        self.write(f"{folder}/modules.builtin", "".join(lines))
        lines = [f"{name} 16384 0 - Live 0x0000000000000000\n" for name in loaded]
        self.write("proc/modules", "".join(lines))

    def interface(
        self, name: str, *, kind: str = "1", state: str = "up", hardware: bool = False
    ) -> None:
        self.write(f"sys/class/net/{name}/type", f"{kind}\n")
        self.write(f"sys/class/net/{name}/operstate", f"{state}\n")
        if hardware:
            self.write(f"sys/class/net/{name}/device/uevent")

    def device(
        self,
        name: str = "rxe0",
        *,
        state: str = "4: ACTIVE",
        interface: str = "eth0",
        gids: Sequence[str] = ("fe80:0000:0000:0000:0000:00ff:fe00:0001", "::ffff:10.9.9.1"),
        node_type: str = "1: CA",
        link_layer: str = "Ethernet",
        nodes: bool = True,
    ) -> None:
        """A device, with all that belongs to it unless told otherwise."""
        folder = f"sys/class/infiniband/{name}"
        self.write(f"{folder}/node_type", f"{node_type}\n")
        self.write(f"{folder}/ports/1/state", f"{state}\n")
        self.write(f"{folder}/ports/1/link_layer", f"{link_layer}\n")
        for slot, gid in enumerate(gids):
            self.write(f"{folder}/ports/1/gids/{slot}", f"{gid}\n")
            self.write(f"{folder}/ports/1/gid_attrs/ndevs/{slot}", f"{interface}\n")
        self.write("sys/class/infiniband_verbs/uverbs0/ibdev", f"{name}\n")
        self.modules(loaded=["ib_uverbs", "rdma_ucm", "rdma_rxe"], available=["siw"])
        if nodes:
            self.node("uverbs0")
            self.node("rdma_cm")

    def node(self, name: str, mode: int = 0o666) -> None:
        self.write(f"dev/infiniband/{name}").chmod(mode)
