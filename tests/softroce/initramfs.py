"""The guest's initramfs: a static busybox, the modules for its root and its device, and init.sh.

Building it here rather than taking the distribution's makes the boot short: the modules arrive
unpacked, in the order in which they load, and there is no udev to wait for.
"""

from __future__ import annotations

import lzma
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from .kernel import Kernel, KernelError

#: What the guest loads before anything else, with what these depend on.
MODULES = (
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "overlay",
    "dummy",
    "crc32_generic",
    "rdma_rxe",
    "rdma_ucm",
)

#: Where in a program the name of its dynamic linker would be.
HEADERS = 8192

_DIRECTORY = 0o040755
_PROGRAM = 0o100755
_CHARACTER_DEVICE = 0o020600


def build(kernel: Kernel, init: Path, destination: Path, modules: Iterable[str] = MODULES) -> None:
    """Write the initramfs that loads modules and runs the script `init` as the guest's first
    process.
    """
    busybox = shutil.which("busybox")
    if busybox is None:
        raise KernelError("busybox is not installed (Debian package: busybox-static)")
    program = Path(busybox).read_bytes()
    if b"/ld-linux" in program[:HEADERS]:
        raise KernelError(f"{busybox} is not static (Debian package: busybox-static)")
    names = []
    with destination.open("wb") as file:
        archive = _Archive(file)
        for folder in ("bin", "dev", "proc", "sys", "modules"):
            archive.add(folder, _DIRECTORY)
        # The kernel opens /dev/console for init before init can mount anything.
        archive.add("dev/console", _CHARACTER_DEVICE, device=(5, 1))
        archive.add("bin/busybox", _PROGRAM, program)
        for module in load_order(kernel.modules, modules):
            names.append(module.name.split(".ko")[0])
            archive.add(f"modules/{names[-1]}.ko", _PROGRAM, _unpacked(module))
        archive.add("modules/order", _PROGRAM, "".join(f"{name}\n" for name in names).encode())
        archive.add("init", _PROGRAM, init.read_bytes())
        archive.end()


def load_order(modules: Path, wanted: Iterable[str]) -> list[Path]:
    """List the files of the wanted modules and of all that they depend on, in loading order.

    Modules that are built into the kernel are left out.
    """
    files: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, dependencies = line.partition(":")
        files[_module_name(file)] = file
        needs[file] = dependencies.split()
    builtin = {
        _module_name(line) for line in (modules / "modules.builtin").read_text().splitlines()
    }
    ordered: dict[str, None] = {}
    for name in wanted:
        if name.replace("-", "_") in builtin:
            continue
        try:
            file = files[name.replace("-", "_")]
        except KeyError:
            raise KernelError(f"{modules} has no module {name}") from None
        # modules.dep lists what to load first last.
        for step in [*reversed(needs[file]), file]:
            ordered.setdefault(step)
    return [modules / step for step in ordered]


def _module_name(file: str) -> str:
    return file.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


def _unpacked(module: Path) -> bytes:
    content = module.read_bytes()
    return lzma.decompress(content) if module.suffix == ".xz" else content


class _Archive:
    """Writes the kernel's initramfs format, a cpio archive with hexadecimal headers ("newc")."""

    def __init__(self, file: BinaryIO) -> None:
        self._write = file.write
        self._count = 0

    def add(
        self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._count += 1
        encoded = name.encode() + b"\0"
        fields = (
            self._count,
            mode,
            *(0, 0, 1, 0),  # owner, group, links, time
            len(content),
            *(0, 0),  # the device that holds the file
            *device,
            len(encoded),
            0,  # no checksum
        )
        header = b"070701" + b"".join(b"%08x" % field for field in fields)
        self._padded(header + encoded)
        self._padded(content)

    def end(self) -> None:
        self.add("TRAILER!!!", 0)

    def _padded(self, data: bytes) -> None:
        self._write(data + b"\0" * (-len(data) % 4))
