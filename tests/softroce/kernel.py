"""The guest's kernel: a Debian kernel package, unpacked into a cache folder and never installed."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The first numbers of a kernel's version.
Series = tuple[int, ...]

#: The kernel series that is known to work; others are taken only where it cannot be had.
PREFERRED_SERIES = (6, 12)

#: Debian 12's own: the last with which a device pins the pages of any file.
PINNING_SERIES = (6, 1)

#: How Debian ends the names of its ordinary kernels, by machine.
FLAVOURS = {"x86_64": "amd64", "aarch64": "arm64"}

#: How many candidates to try: a package that apt knows of can be gone from the archive already.
ATTEMPTS = 3

CACHE_VARIABLE = "RPMA_KERNEL_CACHE"


class KernelError(RuntimeError):
    """No kernel could be had; the text says what was tried."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package: `folder` holds boot/ and lib/modules/ as the package does."""

    version: str
    folder: Path

    @property
    def image(self) -> Path:
        """The compressed kernel that QEMU boots."""
        return self.folder / "boot" / f"vmlinuz-{self.version}"

    @property
    def modules(self) -> Path:
        """What /lib/modules/VERSION is on a system that runs this kernel."""
        for base in ("lib", "usr/lib"):
            modules = self.folder / base / "modules" / self.version
            if modules.is_dir():
                return modules
        raise KernelError(f"{self.folder} has no modules of Linux {self.version}")

    def usable(self) -> bool:
        """Whether the kernel has Soft-RoCE and depmod has been over its modules."""
        if not self.image.is_file():
            return False
        try:
            modules = self.modules
        except KernelError:
            return False
        rxe = modules / "kernel/drivers/infiniband/sw/rxe"
        return (modules / "modules.dep").is_file() and any(rxe.glob("rdma_rxe.ko*"))


def cache_folder() -> Path:
    """Where kernels are kept: $RPMA_KERNEL_CACHE, or rpma/kernel in the user's cache folder."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rpma" / "kernel"


def cached(series: Series | None = None) -> Kernel | None:
    """The best kernel that is in the cache already: of a series, or for what needs no certain one.

    The kernel that other tests fetched for their series is no reason to do without a better one.
    """
    found = _cached(cache_folder())
    if series is not None:
        return next((k for k in found if in_series(k.version, series)), None)
    return next((k for k in found if not in_series(k.version, PINNING_SERIES)), None)


def obtain(series: Series | None = None) -> Kernel:
    """Return a kernel from the cache, or download, unpack and index the newest that apt offers:
    of a series, or the best for what needs no certain one.
    """
    if found := cached(series):
        return found
    cache = cache_folder()
    with _locked(cache):
        if found := cached(series):
            return found
        for leftover in cache.glob("tmp-*"):
            shutil.rmtree(leftover)
        reasons = []
        for package in _candidates(series)[:ATTEMPTS]:
            version = package.removeprefix("linux-image-")
            if (known := Kernel(version, cache / version)).usable():
                return known
            try:
                return _unpack(package, cache)
            except KernelError as error:
                reasons.append(f"{package}: {error}")
    raise KernelError(
        "no kernel with Soft-RoCE to be had:\n" + "\n".join(reasons or ["none known"])
    )


def flavour() -> str:
    """Debian's name for this machine's kind of kernel."""
    try:
        return FLAVOURS[platform.machine()]
    except KeyError:
        raise KernelError(f"no guest kernel for {platform.machine()} machines") from None


def in_series(name: str, series: Series) -> bool:
    """Whether a kernel package or version is of a series."""
    return numbers_in(name)[: len(series)] == series


def numbers_in(name: str) -> tuple[int, ...]:
    """The numbers of a kernel package or version, without those of Debian's backports."""
    return tuple(int(n) for n in re.findall(r"\d+", name.split("+")[0]))


def series_of(text: str) -> Series:
    """The series that people call so: "6.1".

    Raises:
        ValueError: it is none.
    """
    return tuple(int(number) for number in text.split("."))


def order(name: str) -> tuple[bool, tuple[int, ...]]:
    """Sort key of a kernel package or version: the preferred series first, then by number."""
    return in_series(name, PREFERRED_SERIES), numbers_in(name)


def select(names: list[str], kind: str, series: Series | None = None) -> list[str]:
    """Pick the ordinary signed kernel packages of Linux 6 and later, or of one series, the best
    first.

    The pattern leaves out the real-time, cloud, unsigned and debug variants, and meta packages.
    """
    pattern = re.compile(rf"linux-image-([6-9]|\d\d)\.\d+\.\d+[-+.~\w]*?-{kind}")
    variants = re.compile(r"-(rt|cloud|16k|dbg|unsigned)\b")
    return sorted(
        (
            name
            for name in names
            if pattern.fullmatch(name)
            and not variants.search(name)
            and (series is None or in_series(name, series))
        ),
        key=order,
        reverse=True,
    )


def _cached(cache: Path) -> Iterator[Kernel]:
    """The kernels in the cache, the best first."""
    if not cache.is_dir():
        return
    kind = flavour()
    folders = sorted(cache.iterdir(), key=lambda folder: order(folder.name), reverse=True)
    for folder in folders:
        kernel = Kernel(folder.name, folder)
        if folder.name[0].isdigit() and folder.name.endswith(f"-{kind}") and kernel.usable():
            yield kernel


def _candidates(series: Series | None) -> list[str]:
    kind = flavour()
    for update in (False, True):
        if update:
            _call("apt-get", "-q", "update")
        names = _call("apt-cache", "pkgnames", "linux-image-").split()
        if chosen := select(names, kind, series):
            return chosen
        if series is not None and select(names, kind):
            break  # its lists are there, and this system has no such series
    wanted = "6.*" if series is None else ".".join(map(str, series)) + ".*"
    raise KernelError(f"apt knows no kernel package linux-image-{wanted}-{kind}")


def _unpack(package: str, cache: Path) -> Kernel:
    version = package.removeprefix("linux-image-")
    work = Path(tempfile.mkdtemp(prefix="tmp-", dir=cache))
    try:
        _call("apt-get", "-q", "download", package, cwd=work)
        archive = next(work.glob("*.deb"))
        fresh = Kernel(version, work / "root")
        fresh.folder.mkdir()
        _call("dpkg-deb", "-x", str(archive), str(fresh.folder))
        # depmod looks below lib/modules; newer packages have it below usr/lib.
        if not (fresh.folder / "lib").exists():
            (fresh.folder / "lib").symlink_to("usr/lib")
        _call("depmod", "-b", str(fresh.folder), version)
        if not fresh.usable():
            raise KernelError("it has no rdma_rxe module")
        final = cache / version
        if final.exists():
            shutil.rmtree(final)
        fresh.folder.rename(final)
        return Kernel(version, final)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Let one process at a time fill the cache; the lock goes with the process that holds it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / "lock").open("w")
    except OSError as error:
        raise KernelError(f"no place for a kernel ({CACHE_VARIABLE} chooses): {error}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _call(*command: str, cwd: Path | None = None) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    program = shutil.which(command[0], path=path)
    if program is None:
        raise KernelError(f"{command[0]} is not installed")
    done = subprocess.run(
        [program, *command[1:]], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise KernelError(f"{' '.join(command)} failed:\n{(done.stderr or done.stdout).strip()}")
    return done.stdout
