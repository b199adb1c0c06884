"""The pytest plugin: runs tests that are marked `fabric` on an RDMA device, in a guest if need be.

Tests without that mark get the mark `unit` and run as always. Where the fabric tests run is chosen
by --fabric or $RPMA_TEST_FABRIC: `native` on the machine's own RDMA device, `guest` in the
Soft-RoCE guest, `auto` (the default) on the machine's own if it has one or lets us add one.

In the guest, a second pytest runs exactly the tests that were selected here, and its reports are
replayed here one by one as they come, so that selection, -x, --lf and all reporting work as usual.
"""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from . import device
from .inside import Recorder
from .remote import RemoteSession

FABRIC_VARIABLE = "RPMA_TEST_FABRIC"
MODES = ("auto", "native", "guest")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --fabric, and the two options by which the host tells the guest's pytest what to do."""
    group = parser.getgroup("fabric")
    group.addoption(
        "--fabric",
        choices=MODES,
        default=None,
        help="where tests marked `fabric` run: on the machine's own RDMA device, in a Soft-RoCE "
        f"guest, or whichever can be had (default: auto, or ${FABRIC_VARIABLE})",
    )
    group.addoption("--fabric-items", type=Path, help=argparse.SUPPRESS)
    group.addoption("--fabric-events", type=Path, help=argparse.SUPPRESS)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marks; in the guest, record what happens."""
    config.addinivalue_line("markers", "fabric: needs an RDMA device")
    config.addinivalue_line("markers", "unit: needs no RDMA device (every test not marked fabric)")
    if events := config.getoption("--fabric-events"):
        config.pluginmanager.register(
            Recorder(config, config.getoption("--fabric-items"), events), "softroce-recorder"
        )
    else:
        config.pluginmanager.register(Director(config), "softroce-director")


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what needs no device as `unit`, in time for -m."""
    if item.get_closest_marker("fabric") is None:
        item.add_marker("unit")


@pytest.fixture(scope="session")
def fabric() -> device.Fabric:
    """The RDMA device under test: .device, .address, .address6 and .next_port()."""
    return device.find()


class Director:
    """The host's half: decides where the fabric tests run, and sees to it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._stack = ExitStack()
        self._remote: RemoteSession | None = None
        self._mode: str | None = None
        self._native = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Run unit tests first: they answer sooner."""
        items.sort(key=lambda item: _is_fabric(item))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Decide where to run the fabric tests, if there are any to run."""
        items = [item for item in session.items if _is_fabric(item)]
        if not items or self._config.option.collectonly:
            return
        self._mode = self._choose()
        if self._mode == "guest":
            self._remote = self._stack.enter_context(RemoteSession(self._config, items))

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Replay a fabric test from the guest instead of running it here."""
        if self._remote is None or not _is_fabric(item):
            return None
        self._remote.replay(item)
        return True

    @pytest.hookimpl(optionalhook=True, tryfirst=True)
    def pytest_timeout_set_timer(self, item: pytest.Item) -> bool | None:
        """Leave a test's time limit to the guest's pytest: here the boot would count as well."""
        return True if self._remote is not None and _is_fabric(item) else None

    def pytest_sessionfinish(self) -> None:
        """End the guest, or take away the device that was added, also after Ctrl-C."""
        self._stack.close()

    def pytest_unconfigure(self) -> None:
        """The same, for a session that never began."""
        self._stack.close()

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what the fabric tests ran on."""
        if self._remote is not None:
            terminalreporter.write_line(f"fabric: {self._remote.description()}")
        elif self._mode is not None:
            terminalreporter.write_line(f"fabric: {self._native}")

    def _choose(self) -> str:
        mode = self._config.getoption("--fabric") or os.environ.get(FABRIC_VARIABLE) or "auto"
        if mode not in MODES:
            raise pytest.UsageError(f"{FABRIC_VARIABLE}={mode}: choose from {', '.join(MODES)}")
        if mode == "guest":
            return mode
        if bool(device.devices()) or self._stack.enter_context(device.soft_device()):
            try:
                found = device.find()
            except device.NoDeviceError as error:
                if mode == "native":
                    raise pytest.UsageError(str(error)) from None
                return "guest"
            kind = "Soft-RoCE" if found.device == device.DEVICE else "native"
            self._native = (
                f"{found.device} ({kind}, Linux {os.uname().release}, {device.librpma()})"
            )
            return "native"
        if mode == "native":
            raise pytest.UsageError("the machine has no RDMA device, and none could be added")
        return "guest"


def _is_fabric(item: pytest.Item) -> bool:
    return item.get_closest_marker("fabric") is not None
