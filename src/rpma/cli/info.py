# SPDX-License-Identifier: BSD-3-Clause
"""`rpma info`: the devices, the fabric that was chosen, and the versions of everything below."""

from __future__ import annotations

import platform
import shutil
import subprocess
from typing import Any

from rich.table import Table

import rpma
from rpma._fabric import is_soft
from rpma.cli.machine import Machine

Facts = dict[str, Any]
"""What `rpma info --json` prints."""


def gather(machine: Machine) -> Facts:
    """Find out everything."""
    library = rpma.library
    return {
        "rpma": rpma.__version__,
        "fabric": {"name": rpma.fabric.name, "reason": rpma.fabric.reason},
        "libraries": {
            "librpma": {
                "path": library.path,
                "package": "rpma's own" if library.is_bundled else package_of(library.path),
                "reason": library.reason,
                "api_version": ".".join(map(str, library.api_version)),
                "build": "debug" if library.is_debug else "normal",
            },
            "libibverbs": _library(library.ibverbs_path),
            "librdmacm": _library(library.rdmacm_path),
        },
        "devices": [*soft_devices(machine), *kernel_devices(machine)],
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def kernel_devices(machine: Machine) -> list[Facts]:
    """The kernel's devices, whether this process can use them or not."""
    return [
        {
            "name": device.name,
            "fabric": "rdma",
            "state": device.state,
            "transport": device.transport,
            "addresses": list(device.addresses),
        }
        for device in machine.devices
    ]


def soft_devices(machine: Machine) -> list[Facts]:
    """The soft RNIC's device, where this process has it: any address of the machine leads to it."""
    if rpma.fabric.name != "soft":
        return []
    addresses = machine.addresses
    found = []
    for name in rpma.devices():
        state, transport = "unknown", "iWARP"
        for address in addresses:
            try:
                attributes = rpma.Device(address).attributes
            except rpma.RpmaError:
                continue
            state = "ACTIVE" if attributes.is_active else "DOWN"
            transport = attributes.transport
            break
        found.append(
            {
                "name": name,
                "fabric": "soft",
                "state": state,
                "transport": transport,
                "addresses": addresses,
            }
        )
    return found


def table(facts: Facts) -> Table:
    """The facts as a table."""
    shown = Table(show_header=False, box=None, pad_edge=False)
    shown.add_column(style="dim")
    shown.add_column(overflow="fold")
    shown.add_row("fabric", f"{facts['fabric']['name']}: {facts['fabric']['reason']}")
    for device in facts["devices"]:
        used = "" if device["fabric"] == facts["fabric"]["name"] else " (not used: see fabric)"
        shown.add_row(
            f"device {device['name']}", f"{device['transport']}, {device['state'].lower()}{used}"
        )
        at = ", ".join(device["addresses"]) or "none"
        note = "any of this machine: " if device["fabric"] == "soft" else ""
        shown.add_row("  addresses", note + at)
    if not facts["devices"]:
        shown.add_row("devices", "none ('rpma doctor' tells why)")
    shown.add_row("rpma", facts["rpma"])
    for name, library in facts["libraries"].items():
        package = f" ({library['package']})" if library["package"] else ""
        shown.add_row(name, f"{library['path']}{package}")
    librpma = facts["libraries"]["librpma"]
    shown.add_row("  API version", f"{librpma['api_version']}, {librpma['build']} build")
    shown.add_row("  because", librpma["reason"])
    shown.add_row("Linux", facts["kernel"])
    shown.add_row("Python", facts["python"])
    return shown


def _library(path: str) -> Facts:
    return {"path": path, "package": "rpma's soft RNIC" if is_soft(path) else package_of(path)}


def package_of(path: str) -> str:
    """The package that a file belongs to, and its version, as dpkg or rpm knows them; or ""."""
    if shutil.which("dpkg-query"):
        owner = _output("dpkg-query", "-S", path).partition(": ")[0].partition(",")[0]
        if owner:
            return _output("dpkg-query", "-W", "-f=${Package} ${Version}", owner)
    if shutil.which("rpm"):
        return _output("rpm", "-qf", "--qf", "%{NAME} %{VERSION}-%{RELEASE}", path)
    return ""


def _output(*command: str) -> str:
    """What a command prints, or "" if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
