"""Boots the guest, runs one command in it, and brings back its output and exit code.

The guest sees the machine's files, and what it writes to them stays in its own memory. One folder
is shared for results; both sides see it at the same path. Its files are the whole protocol:

    start.sh environment.sh command.sh    what the guest is to do
    facts ready                           written once the device is there, just before the command
    stdout stderr                         the command's output, as it comes
    exit                                  its exit code, written last
    persistent                            what its persistent memory holds, if it has any
    console kernel.log                    the console; the kernel's log where the command failed
"""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from . import initramfs, kernel

HERE = Path(__file__).resolve().parent

#: The file in the results folder that is the guest's persistent memory; what the guest makes of it.
PERSISTENT = "persistent"
DAX = "/dev/dax0.0"
DAX_MODULES = ("nfit", "nd_pmem", "dax_pmem", "device_dax")

#: Seconds from the start of QEMU until the guest must be ready for its command.
BOOT_LIMIT = 180.0
#: Seconds from the start of QEMU until the command must have ended.
RUN_LIMIT = 3240.0
#: How many bytes of a log an error carries.
LOG_TAIL = 6000

#: The variables of the machine's environment that commands in the guest see as well.
FORWARDED = (
    "CI",
    "COLUMNS",
    "FORCE_COLOR",
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "LINES",
    "NO_COLOR",
    "PATH",
    "TERM",
)
FORWARDED_PREFIXES = ("LC_", "RPMA_", "PYTHON", "HYPOTHESIS_")


class GuestError(RuntimeError):
    """The guest did not start, died, or took too long; the text ends with its console's log."""


@dataclass(frozen=True)
class Machine:
    """What QEMU needs to know about a kind of machine."""

    program: str
    package: str
    model: str
    console: str


MACHINES = {
    "x86_64": Machine("qemu-system-x86_64", "qemu-system-x86", "q35", "ttyS0"),
    "aarch64": Machine("qemu-system-aarch64", "qemu-system-arm", "virt", "ttyAMA0"),
}


class Guest:
    """A guest that runs one command: start it, `poll` or `wait` for its exit code, close it.

    It is a context manager; leaving it ends QEMU, whatever state the guest is in. `chosen` is the
    kernel, if it is to be a certain one. `persistent_memory` is how much of that it has, emulated,
    in bytes: a device DAX, `DAX`, whose contents are the file `persistent` in `share`. `options`
    are added to QEMU's command line, `kernel_options` to the kernel's.
    """

    def __init__(
        self,
        command: Sequence[str],
        share: Path,
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        device: bool = True,
        chosen: kernel.Kernel | None = None,
        memory: str = "2G",
        persistent_memory: int = 0,
        processors: int = 2,
        boot_limit: float = BOOT_LIMIT,
        run_limit: float = RUN_LIMIT,
        options: Sequence[str] = (),
        kernel_options: Sequence[str] = (),
    ) -> None:
        self.share = share.resolve()
        self.boot_seconds: float | None = None
        self._command = list(command)
        self._cwd = cwd or Path.cwd()
        self._environment = dict(environment or {})
        self._device = device
        self._chosen = chosen
        self._memory = memory
        self._persistent_memory = persistent_memory
        self._processors = processors
        self._boot_limit = boot_limit
        self._run_limit = run_limit
        self._options = list(options)
        self._kernel_options = list(kernel_options)
        self._qemu: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._exit_code: int | None = None
        self._panics_at_boot = 0

    def __enter__(self) -> Guest:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Fill the results folder and start QEMU; the guest is not ready yet when this returns."""
        chosen = self._chosen or kernel.obtain()
        self._prepare()
        modules = initramfs.MODULES + (DAX_MODULES if self._persistent_memory else ())
        initramfs.build(chosen, HERE / "init.sh", self.share / "initramfs", modules)
        command = self._qemu_command(chosen)
        self._started = time.monotonic()
        with (self.share / "qemu.log").open("wb") as log:
            # A session of its own keeps Ctrl-C from it; close() ends it. Should this process be
            # killed outright, the kernel ends QEMU.
            self._qemu = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Return the command's exit code once it has ended, None before; raise if it cannot end."""
        if self._exit_code is not None:
            return self._exit_code
        if self._qemu is None:
            raise GuestError("the guest was not started")
        # QEMU's state comes first: a guest that ended in order has left its exit code by then.
        ended = self._qemu.poll() is not None
        elapsed = time.monotonic() - self._started
        if self.boot_seconds is None and self.ready():
            self.boot_seconds = elapsed
        try:
            self._exit_code = int((self.share / "exit").read_text())
        except FileNotFoundError:
            pass
        else:
            self.close()
            return self._exit_code
        if ended and self._panicked_at_boot():
            print("==> the guest's kernel panicked while it booted: once more", file=sys.stderr)
            self.start()
            return None
        if ended:
            self._fail("the guest died")
        if self.boot_seconds is None and elapsed > self._boot_limit:
            self._fail(f"the guest was not ready within {self._boot_limit:.0f} s")
        if elapsed > self._run_limit:
            self._fail(f"the command in the guest did not end within {self._run_limit:.0f} s")
        return None

    def wait(self, interval: float = 0.05) -> int:
        """Wait for the command to end and return its exit code."""
        while (code := self.poll()) is None:
            time.sleep(interval)
        return code

    def ready(self) -> bool:
        """Whether the guest has made its device and gone on to the command."""
        return (self.share / "ready").exists()

    def facts(self) -> dict[str, str]:
        """What the guest says about itself once it is ready: device, address, address6, kernel,
        dax.
        """
        try:
            lines = (self.share / "facts").read_text().splitlines()
        except FileNotFoundError:
            return {}
        return dict(line.split("=", 1) for line in lines)

    def log(self) -> str:
        """The ends of the logs: what QEMU said, the console, the kernel's log."""
        parts = []
        for name in ("qemu.log", "console", "kernel.log"):
            if text := tail(self.share / name):
                parts.append(f"--- {name} ---\n{text}")
        return "\n".join(parts) or "(the guest left no log)"

    def close(self) -> None:
        """End QEMU, at once and with all that it started."""
        qemu = self._qemu
        if qemu is None or qemu.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(qemu.pid, signal.SIGKILL)
        qemu.wait()
        (self.share / "initramfs").unlink(missing_ok=True)

    def _panicked_at_boot(self) -> bool:
        """Whether the kernel panicked before anything was tested, for the first time.

        Emulating two processors, QEMU now and then (1 boot in about 60) runs into an instruction
        that the kernel on the other one is patching, which it does while it boots.
        """
        if self.boot_seconds is not None or self._panics_at_boot:
            return False
        self._panics_at_boot += 1
        return "Kernel panic" in tail(self.share / "console")

    def _fail(self, reason: str) -> None:
        self.close()
        raise GuestError(f"{reason}\n{self.log()}")

    def _prepare(self) -> None:
        self.share.mkdir(parents=True, exist_ok=True)
        for name in ("facts", "ready", "exit", "console", "kernel.log", "without-device"):
            (self.share / name).unlink(missing_ok=True)
        if self._persistent_memory:
            with (self.share / PERSISTENT).open("ab") as file:
                file.truncate(self._persistent_memory)
        for name in ("stdout", "stderr"):
            (self.share / name).write_bytes(b"")
        if not self._device:
            (self.share / "without-device").touch()
        shutil.copy(HERE / "start.sh", self.share)
        variables = forwarded(os.environ) | self._environment
        (self.share / "environment.sh").write_text(
            "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        )
        share = shlex.quote(str(self.share))
        (self.share / "command.sh").write_text(
            f"cd {shlex.quote(str(self._cwd))} || exit 125\n"
            f"exec {shlex.join(self._command)} >>{share}/stdout 2>>{share}/stderr\n"
        )

    def _qemu_command(self, chosen: kernel.Kernel) -> list[str]:
        machine = MACHINES[platform.machine()]
        program = shutil.which(machine.program)
        if program is None:
            raise GuestError(f"{machine.program} is not installed (Debian: {machine.package})")
        parameters = [
            f"console={machine.console}",
            # Warnings and worse reach the console; a kernel that panics ends the guest.
            *("quiet", "loglevel=5", "panic=-1", "oops=panic"),
            # Emulation is slow enough: no guards against the processor, no self-tests.
            *("mitigations=off", "nokaslr", "no5lvl", "audit=0", "lsm=", "cryptomgr.notests"),
            *("random.trust_cpu=on", "rcupdate.rcu_expedited=1"),
            f'softroce_share="{self.share}"',
            f'softroce_modules="{chosen.modules}"',
            *self._kernel_options,
        ]
        return [
            program,
            # Never KVM: a device node that exists may still hang the guest.
            *("-machine", machine.model, "-accel", "tcg,thread=multi", "-cpu", "max"),
            *("-m", self._memory, "-smp", str(self._processors)),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-serial", f"file:{_escaped(self.share / 'console')}"),
            *("-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng"),
            *_folder("root", Path("/"), "readonly=on"),
            *_folder("share", self.share, "readonly=off"),
            *("-kernel", str(chosen.image), "-initrd", str(self.share / "initramfs")),
            *("-append", " ".join(parameters)),
            *(_nvdimm(self.share / PERSISTENT, self._persistent_memory)),
            *self._options,
        ]


def can_have_persistent_memory() -> bool:
    """Whether a guest can: QEMU emulates it for x86-64 only, and ndctl sets it up."""
    return platform.machine() == "x86_64" and shutil.which("ndctl") is not None


def forwarded(environment: Mapping[str, str]) -> dict[str, str]:
    """Pick what a command in the guest should see of the machine's environment."""
    return {
        name: value
        for name, value in environment.items()
        if name.isidentifier() and (name in FORWARDED or name.startswith(FORWARDED_PREFIXES))
    }


def tail(file: Path, size: int = LOG_TAIL) -> str:
    """The end of a log file, from the start of a line; nothing if there is no such file."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return ""
    if len(content) > size:
        content = content[-size:].split(b"\n", 1)[-1]
    return content.decode(errors="replace").replace("\r", "").strip()


def _nvdimm(file: Path, size: int) -> list[str]:
    """QEMU's options for persistent memory."""
    if not size:
        return []
    backend = f"memory-backend-file,id={PERSISTENT},share=on,mem-path={_escaped(file)},size={size}"
    return [
        *("-machine", "nvdimm=on", "-m", "slots=1,maxmem=16G"),
        *("-object", backend, "-device", f"nvdimm,memdev={PERSISTENT}"),
    ]


def _folder(tag: str, folder: Path, access: str) -> list[str]:
    source = f"local,id={tag},path={_escaped(folder)},security_model=none,multidevs=remap"
    return [
        *("-fsdev", f"{source},{access}"),
        *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
    ]


def _escaped(path: Path) -> str:
    """A path as QEMU's option syntax wants it: its commas doubled."""
    return str(path).replace(",", ",,")
