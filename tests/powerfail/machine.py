"""The machine that loses its power: a guest with persistent memory, a disk, and a target."""

from __future__ import annotations

import contextlib
import json
import lzma
import os
import platform
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import rpma.aio
from rpma.pool import Client
from softroce import initramfs, kernel
from softroce.guest import MACHINES, Guest, GuestError

from .agent import RemoteClient
from .caches import Caches
from .disk import Disk

HERE: Final = Path(__file__).resolve().parent

KINDS: Final = ("dax", "disk")
"""The kinds of storage: each has a target of its own."""

#: Drivers of the storage and the network, in the order in which they load.
MODULES: Final = ("virtio_blk", "virtio_net", "ext4", "nfit", "nd_pmem")

PMEM_SIZE: Final = 128 << 20
DISK_SIZE: Final = 96 << 20
CLIENTS: Final = 12
"""How many data connections can be made at a time, by kind of storage."""

SERVING_LIMIT: Final = 300.0
"""How long the guest may take from QEMU's start until its targets serve, in seconds."""

#: Programs that are needed, and Debian's packages for them.
PROGRAMS: Final = {
    "busybox": "busybox-static",
    "cc": "gcc",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "ndctl": "ndctl",
}


@dataclass(frozen=True)
class Over:
    """What carries the data.

    Attributes:
        name: "soft", or the series of the kernel whose Soft-RoCE it is: "6.1".
        chosen: the guest's kernel.
    """

    name: str
    chosen: kernel.Kernel

    @classmethod
    def named(cls, name: str) -> Over:
        """The one that is called so.

        Raises:
            KernelError: there is no such kernel here.
        """
        if name == "soft":
            return cls(name, kernel.obtain())
        return cls(name, kernel.obtain(kernel.series_of(name)))

    @property
    def is_soft(self) -> bool:
        """Whether it is the soft RNIC, which the clients outside of the guest have as well."""
        return self.name == "soft"

    @property
    def pins_files(self) -> bool:
        """Whether a device registers the mapping of a file on a disk, and its writes get lost."""
        return not self.is_soft and kernel.in_series(self.chosen.version, kernel.PINNING_SERIES)


class Machine:
    """The machine. It is off until `boot`.

    Attributes:
        over: what carries the data.
        caches: what its processor has flushed.
        disk: its disk.
        sectors: how many the disk had not flushed when the power went, and how many survived.
    """

    def __init__(self, folder: Path, chance: random.Random, over: Over) -> None:
        """Build it in a folder."""
        self.over = over
        self._share = folder / "share"
        self._share.mkdir()
        self._pmem = folder / "pmem"
        with self._pmem.open("wb") as file:
            file.truncate(PMEM_SIZE)
        self._build()
        self.disk = Disk(folder, DISK_SIZE)
        self.sectors = (0, 0)
        self.caches = Caches(self._share / "told")
        self._ports: dict[str, list[int]] = {}
        self._token = secrets.token_hex(16)
        self._chance = chance
        self._guest: Guest | None = None
        self._survival = 0.0
        self._is_formatted = False

    def _build(self) -> None:
        for name in ("guest.sh", "serve.py", "agent.py"):
            shutil.copy(HERE / name, self._share)
        done = subprocess.run(
            [
                *("cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra"),
                *("-o", str(self._share / "stubs.so"), str(HERE / "stubs.c"), "-ldl", "-pthread"),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"cc: {done.stderr}")
        folder = self._share / "modules"
        folder.mkdir()
        modules = self.over.chosen.modules
        loaded = initramfs.load_order(modules, initramfs.MODULES)
        wanted = [it for it in initramfs.load_order(modules, MODULES) if it not in loaded]
        # Unpacked here, since that takes the guest seconds.
        for number, module in enumerate(wanted):
            content = module.read_bytes()
            if module.suffix == ".xz":
                content = lzma.decompress(content)
            (folder / f"{number:02}-{module.name.split('.ko')[0]}.ko").write_bytes(content)

    def boot(self) -> float:
        """Switch it on, and wait until its targets serve. Returns how long it took, in seconds.

        Raises:
            GuestError: it did not start.
        """
        while True:
            try:
                return self._boot()
            except GuestError as error:
                # Somebody else was faster to take a port that was free.
                if "host forwarding rule" not in str(error):
                    raise

    def _boot(self) -> float:
        began = time.monotonic()
        if self.over.is_soft:
            ports = {kind: _free_ports(1 + CLIENTS) for kind in KINDS}
        else:
            ports = {"agent": _free_ports(1)}
        self._ports = ports
        self.caches.reset()
        self.disk.lies = False  # or it would not even mount
        for name, persisted in self.caches.persisted.items():
            (self._share / f"{name}.persisted").write_bytes(persisted)
        job = {
            "ports": ports,
            "token": self._token,
            "pins_files": self.over.pins_files,
            "persisted": list(self.caches.persisted),
            "seed": self._chance.getrandbits(32),
            "survival": self._survival,
        }
        (self._share / "job").write_text(json.dumps(job))
        serving = self._share / "serving"
        serving.unlink(missing_ok=True)
        environment = {
            "POWERFAIL_SHARE": str(self._share),
            "POWERFAIL_PYTHON": sys.executable,
            "PYTHONDONTWRITEBYTECODE": "1",
            "RPMA_FABRIC": "soft" if self.over.is_soft else "rdma",
        }
        if not self._is_formatted:
            environment["POWERFAIL_FORMAT"] = "1"
        guest = Guest(
            ["sh", str(self._share / "guest.sh")],
            self._share,
            environment=environment,
            device=not self.over.is_soft,
            chosen=self.over.chosen,
            memory="768M",
            processors=1,  # emulated, a second one costs more than it does
            run_limit=24 * 3600.0,
            options=self._options(ports),
        )
        self._guest = guest
        guest.start()
        while not serving.exists():
            code = guest.poll()
            if code is not None or time.monotonic() - began > SERVING_LIMIT:
                stderr = (self._share / "stderr").read_text()
                guest.close()
                why = "the guest does not serve in time" if code is None else f"exit code {code}"
                raise GuestError(f"{why}\n{stderr}\n{guest.log()}")
            time.sleep(0.05)
        self._is_formatted = True
        if (state := (self._share / "write_cache").read_text().strip()) != "write back":
            raise RuntimeError(f"the guest takes its disk's cache for {state}")
        return time.monotonic() - began

    def connect(self, kind: str, timeout: float) -> Client | RemoteClient:
        """A client of the target of a kind of storage."""
        if self.over.is_soft:
            return Client(self._address(kind), token=self._token, timeout=timeout)
        return RemoteClient(self._ports["agent"][0], kind)

    def connect_tasks(self, kind: str, timeout: float) -> rpma.aio.Opening[rpma.aio.Client]:
        """The same for tasks of asyncio, over the soft RNIC."""
        return rpma.aio.connect(self._address(kind), token=self._token, timeout=timeout)

    def _address(self, kind: str) -> str:
        return f"127.0.0.1:{self._ports[kind][0]}"

    def lose_power(self) -> None:
        """Switch it off, now, whatever it is doing."""
        assert self._guest is not None
        self._guest.close()
        self.caches.follow()  # to the last word
        # Now and then nothing survives that was not flushed, now and then most of it does.
        self._survival = self._chance.choice((0.0, 0.25, 0.75))
        unflushed, survived = self.disk.lose_power(self._chance, self._survival)
        self.sectors = (self.sectors[0] + unflushed, self.sectors[1] + survived)

    def log(self) -> str:
        """What the target and the guest said."""
        assert self._guest is not None
        return (self._share / "stderr").read_text() + self._guest.log()

    def close(self) -> None:
        """Switch it off, and take it apart."""
        if self._guest is not None:
            self._guest.close()
        self.disk.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _options(self, ports: dict[str, list[int]]) -> list[str]:
        backend = (
            f"memory-backend-file,id=pmem,share=on,mem-path={_escaped(self._pmem)},size={PMEM_SIZE}"
        )
        drive = (
            f"file.driver=nbd,file.server.type=unix,file.server.path={_escaped(self.disk.socket)}"
        )
        forwarded = "".join(
            f",hostfwd=tcp:127.0.0.1:{port}-:{port}" for some in ports.values() for port in some
        )
        return [
            *("-machine", "nvdimm=on", "-m", "slots=1,maxmem=2G"),
            *("-object", backend, "-device", "nvdimm,memdev=pmem"),
            # The guest is to know that its disk has a volatile cache, and QEMU to have none.
            *("-drive", f"if=none,id=disk,format=raw,cache=none,{drive}"),
            *("-device", "virtio-blk-pci,drive=disk"),
            *("-netdev", f"user,id=net,restrict=on{forwarded}"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        ]


def unavailable() -> str:
    """Why there can be no such machine here; "" where there can."""
    if platform.machine() != "x86_64":
        return "QEMU emulates persistent memory for x86-64 only"
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    wanted = {**PROGRAMS, MACHINES["x86_64"].program: MACHINES["x86_64"].package}
    packages = [name for program, name in wanted.items() if not shutil.which(program, path=path)]
    return f"not installed, by Debian's names: {' '.join(packages)}" if packages else ""


def _escaped(path: Path) -> str:
    """As QEMU's options have it."""
    return str(path).replace(",", ",,")


def _free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens on, at this moment."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(count):
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            ports.append(int(probe.getsockname()[1]))
    return ports
