# SPDX-License-Identifier: BSD-3-Clause
"""`rpma doctor`: what stands in the way of a real RDMA device, and what to do about it.

Each check is a function of a `Machine` that yields findings. They look only: nothing is changed,
loaded or opened, and no rights are needed. They work where `import rpma` does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from rpma._fabric import SOFT_FOLDER, VARIABLE, Fabric, has_soft
from rpma._packages import LIBRARIES, how_to_install
from rpma.cli.machine import KernelDevice, Machine

ENOUGH_LOCKED_MEMORY = 1 << 30
"""Below this limit, in bytes, a program on a real device soon cannot register its memory."""

NOT_ON_LO = "rdma_cm does not work over Soft-RoCE on the loopback interface lo"

DUMMY = (
    "ip link add dummy0 type dummy && ip address add 10.9.9.1/24 dev dummy0 && "
    "ip link set dummy0 up"
)

MODULE_STATES = {
    "loaded": "loaded",
    "built in": "built in",
    "available": "not loaded",
    "missing": "not among this kernel's modules",
    "unknown": "not to be seen here",
}
"""What is said of a module, by its state."""

CONTAINER_OPTIONS = "--device=/dev/infiniband --cap-add=IPC_LOCK --ulimit memlock=-1 --network=host"


class Level(Enum):
    """How much a finding matters.

    A note tells what the machine has not, and need not have. A warning is about what may fail
    later. A problem is something broken, and makes the exit code 1.
    """

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """What a check has found: about what, what it is, and what to do."""

    level: Level
    subject: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Patient:
    """What the checks look at.

    Attributes:
        machine: the machine.
        fabric: the fabric that rpma has taken; None where `import rpma` fails.
        failure: why that fails.
        soft_folder: where the soft RNIC is installed.
    """

    machine: Machine
    fabric: Fabric | None
    failure: str = ""
    soft_folder: str = SOFT_FOLDER


def examine(patient: Patient) -> list[Finding]:
    """All findings, in the order of the checks."""
    return [finding for check in CHECKS for finding in check(patient)]


def exit_code(findings: list[Finding]) -> int:
    """1 if anything is broken; 0 if a device is usable, or none is there to be expected."""
    return int(any(finding.level is Level.PROBLEM for finding in findings))


def verdict(patient: Patient, findings: list[Finding]) -> str:
    """What rpma can use here, in a line."""
    problems = [finding for finding in findings if finding.level is Level.PROBLEM]
    broken = next((f for f in problems if f.subject in ("rpma", *LIBRARIES)), None)
    if patient.fabric is None:
        why = broken.text if broken is not None else "import rpma fails"
        return f"ready for nothing: {why}"
    soft = "yes" if patient.fabric.name == "soft" else f"yes, with {VARIABLE}=soft"
    if not has_soft(patient.soft_folder):
        soft = "no, because it is not installed"
    device = "yes" if patient.fabric.name == "rdma" else f"yes, with {VARIABLE}=rdma"
    if not patient.machine.devices:
        device = "no, because this machine has none"
    else:
        # The choice of fabric and the soft RNIC are no matter of the device's.
        of_device = (f for f in problems if f.subject not in ("rpma", "soft RNIC"))
        if found := next(of_device, None):
            device = f"no, because {found.subject}: {found.text}"
    return f"ready for: soft RNIC {soft}; RDMA device {device}"


# ---- the checks ---------------------------------------------------------------------------------


def check_fabric(patient: Patient) -> Iterator[Finding]:
    """What `import rpma` has come to."""
    if patient.fabric is None:
        yield Finding(Level.PROBLEM, "rpma", patient.failure or "import rpma fails")
        return
    name = "the soft RNIC" if patient.fabric.name == "soft" else "the kernel's RDMA devices"
    text = f"takes {name}: {patient.fabric.reason}"
    if patient.fabric.name == "rdma" and not patient.machine.devices:
        yield Finding(
            Level.PROBLEM,
            "rpma",
            f"{text}; but there is none",
            f"unset {VARIABLE} or set {VARIABLE}=soft, and import rpma before pyverbs",
        )
    elif patient.fabric.name == "soft" and patient.machine.devices:
        yield Finding(Level.WARNING, "rpma", f"{text}; a real device is left unused")
    else:
        yield Finding(Level.OK, "rpma", text)


def check_soft_rnic(patient: Patient) -> Iterator[Finding]:
    """Whether the soft RNIC is installed."""
    if has_soft(patient.soft_folder):
        yield Finding(Level.OK, "soft RNIC", patient.soft_folder)
    else:
        yield Finding(
            Level.WARNING if patient.machine.devices else Level.PROBLEM,
            "soft RNIC",
            f"not installed in {patient.soft_folder}",
            "install rpma again: pip install --force-reinstall rpma",
        )


def check_libraries(patient: Patient) -> Iterator[Finding]:
    """The libraries that rpma runs on."""
    for name, packages in LIBRARIES.items():
        if path := patient.machine.library(name):
            yield Finding(Level.OK, name, path)
        elif patient.fabric is not None:
            yield Finding(Level.OK, name, "not in the usual folders, but rpma has found it")
        else:
            yield Finding(Level.PROBLEM, name, "not found", how_to_install(packages))


def check_devices(patient: Patient) -> Iterator[Finding]:
    """Which devices there are, and whether librdmacm can use them."""
    machine = patient.machine
    if not machine.devices:
        yield Finding(Level.NOTE, "device", "this machine has no RDMA device")
    for device in machine.devices:
        yield from _check_device(machine, device)


def _check_device(machine: Machine, device: KernelDevice) -> Iterator[Finding]:
    subject = f"device {device.name}"
    interface = next(iter(device.interfaces), "INTERFACE")
    if "lo" in device.interfaces:
        yield Finding(
            Level.PROBLEM,
            subject,
            f"{device.transport} on lo; {NOT_ON_LO}",
            f"as root: rdma link delete {device.name} && {_soft_roce(machine)}",
        )
        return
    if not device.is_active:
        yield Finding(
            Level.PROBLEM,
            subject,
            f"{device.transport}, its port is {device.state}",
            f"plug in its cable, or as root: ip link set {interface} up",
        )
    elif not device.addresses and device.transport != "iWARP":  # whose GIDs are no addresses
        yield Finding(
            Level.PROBLEM,
            subject,
            f"{device.transport}, active, but without an IP address, which librdmacm needs",
            f"as root: ip address add ADDRESS/PREFIX dev {interface}",
        )
    else:
        yield Finding(
            Level.OK, subject, " ".join([f"{device.transport}, active", *device.addresses])
        )
    if not machine.providers:
        yield Finding(
            Level.PROBLEM,
            f"{subject}: driver",
            "libibverbs has no driver for any device",
            "'apt-get install ibverbs-providers' on Debian and Ubuntu; elsewhere libibverbs has "
            "them, or its package rdma-core",
        )


def check_nodes(patient: Patient) -> Iterator[Finding]:
    """The device nodes of what is there."""
    machine = patient.machine
    if not machine.devices:
        return
    in_container = f"start the container with {CONTAINER_OPTIONS}" if machine.container else ""
    wanted = [(device.node or "uverbs0", "ib_uverbs") for device in machine.devices]
    for name, module in [*wanted, ("rdma_cm", "rdma_ucm")]:
        node, path = machine.node(name), f"/dev/infiniband/{name}"
        if node is None:
            yield Finding(
                Level.PROBLEM, path, "missing", in_container or f"as root: modprobe {module}"
            )
        elif not node.is_open_to_us:
            yield Finding(
                Level.PROBLEM,
                path,
                f"this user may not open it ({node.permissions})",
                f"install rdma-core, whose udev rules open it, or as root: chmod 666 {path}",
            )
        else:
            yield Finding(Level.OK, path, node.permissions)


def check_locked_memory(patient: Patient) -> Iterator[Finding]:
    """Whether enough memory may be locked: a real device pins what is registered."""
    machine = patient.machine
    limit = machine.locked_memory_limit
    if limit is None or machine.may_lock_all:
        why = "unlimited" if limit is None else "this process may lock all memory (CAP_IPC_LOCK)"
        yield Finding(Level.OK, "locked memory", why)
        return
    text = f"RLIMIT_MEMLOCK is {_size(limit)}"
    if not machine.devices:
        yield Finding(
            Level.OK, "locked memory", f"{text}; the soft RNIC locks none, a device would"
        )
    elif limit < ENOUGH_LOCKED_MEMORY:
        yield Finding(
            Level.WARNING,
            "locked memory",
            f"{text}: regions together cannot be larger",
            "docker: --ulimit memlock=-1"
            if machine.container
            else "'* - memlock unlimited' in /etc/security/limits.conf and a new login; "
            "LimitMEMLOCK=infinity for a service of systemd",
        )
    else:
        yield Finding(Level.OK, "locked memory", text)


def check_container(patient: Patient) -> Iterator[Finding]:
    """A container has the host's kernel, and what of its devices it was given."""
    if not (kind := patient.machine.container):
        return
    if patient.machine.devices and patient.machine.node("rdma_cm"):
        yield Finding(Level.OK, "container", f"{kind}, with devices")
    else:
        yield Finding(
            Level.WARNING if patient.machine.devices else Level.NOTE,
            "container",
            f"{kind}: devices and kernel modules are the host's",
            f"if the host has a device, start the container with {CONTAINER_OPTIONS}",
        )


def check_modules(patient: Patient) -> Iterator[Finding]:
    """The kernel modules behind a device, and those that make one in software."""
    machine = patient.machine
    for name, purpose in (
        ("ib_uverbs", "devices for programs"),
        ("rdma_ucm", "librdmacm"),
        ("rdma_rxe", "Soft-RoCE: a device in software"),
        ("siw", "software iWARP: a device in software"),
    ):
        state = machine.module(name)
        text = f"{MODULE_STATES[state]} ({purpose})"
        is_needed = bool(machine.devices) and name in ("ib_uverbs", "rdma_ucm")
        if state in ("loaded", "built in") or (state == "available" and not is_needed):
            yield Finding(Level.OK, f"module {name}", text)
        elif is_needed and machine.node("rdma_cm"):
            # A container may see neither the modules nor their list, and have their nodes.
            yield Finding(Level.OK, f"module {name}", f"{text}, but its device node is there")
        elif state == "available":
            yield Finding(Level.PROBLEM, f"module {name}", text, f"as root: modprobe {name}")
        else:
            yield Finding(
                Level.PROBLEM if is_needed else Level.NOTE,
                f"module {name}",
                text,
                _where_modules_are(machine, state),
            )


def check_soft_roce(patient: Patient) -> Iterator[Finding]:
    """Whether a device could be made in software, and how."""
    machine = patient.machine
    if machine.devices:
        return
    state = machine.module("rdma_rxe")
    if machine.text("proc/sys/kernel/modules_disabled") == "1" and state == "available":
        yield Finding(
            Level.NOTE,
            "Soft-RoCE",
            "this kernel loads no more modules until it is started again (kernel.modules_disabled)",
        )
    elif state in ("loaded", "built in", "available"):
        missing = [name for name in ("ip", "rdma") if not machine.has_program(name)]
        yield Finding(
            Level.NOTE,
            "Soft-RoCE",
            f"a device can be made of an Ethernet interface ({NOT_ON_LO})",
            "as root: "
            + ("install the package iproute2, then: " if missing else "")
            + _soft_roce(machine),
        )
    else:
        yield Finding(
            Level.NOTE,
            "Soft-RoCE",
            "no device can be made in software here: no module rdma_rxe to be seen",
        )


CHECKS: tuple[Callable[[Patient], Iterator[Finding]], ...] = (
    check_fabric,
    check_soft_rnic,
    check_libraries,
    check_devices,
    check_nodes,
    check_locked_memory,
    check_container,
    check_modules,
    check_soft_roce,
)


def _soft_roce(machine: Machine) -> str:
    """The commands that make a Soft-RoCE device."""
    interface = machine.ethernet
    commands = ["modprobe rdma_rxe", "modprobe rdma_ucm"]
    if not interface:
        commands.append(DUMMY)
        interface = "dummy0"
    return " && ".join([*commands, f"rdma link add rxe0 type rxe netdev {interface}"])


def _where_modules_are(machine: Machine, state: str) -> str:
    if machine.container:
        return "it is the host's to load"
    if state == "unknown":
        return f"this kernel ({machine.kernel}) has no modules folder here, so it can load none"
    return (
        "install the kernel's remaining modules: linux-modules-extra-$(uname -r) on Ubuntu, "
        "linux-image-amd64 or -arm64 (not -cloud-) on Debian, kernel-modules-extra on Fedora"
    )


def _size(count: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.4g} {unit}"
    return f"{count} bytes"
