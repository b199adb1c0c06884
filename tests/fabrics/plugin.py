"""The pytest plugin: runs tests that are marked `fabric` on the fabric that was asked for.

Tests without that mark get the mark `unit` and run as always. Where the fabric tests run is chosen
by --fabric or $RPMA_TEST_FABRIC:

    soft      on the soft RNIC
    native    on a device of this machine, or on a Soft-RoCE device that it lets us add
    softroce  on Soft-RoCE in the guest
    kernel    on a kernel's device: native where that can be had, else softroce
    auto      (the default) as rpma chooses: native where the machine has a device, else soft

rpma reads its own choice, RPMA_FABRIC, when it is imported: the plugin sets it before that, and
for the processes that tests start.

In the guest, a second pytest runs exactly the tests that were selected here, and its reports are
replayed here one by one as they come, so that selection, -x, --lf and all reporting work as usual.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from softroce.inside import Recorder
from softroce.remote import RemoteSession

from . import native, soft
from .fabric import Fabric, NoFabricError

FABRIC_VARIABLE = "RPMA_TEST_FABRIC"
MODES = ("auto", "soft", "native", "softroce", "kernel")

_MODE = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --fabric, and the two options by which the host tells the guest's pytest what to do."""
    group = parser.getgroup("fabric")
    group.addoption(
        "--fabric",
        choices=MODES,
        default=None,
        help="where tests marked `fabric` run: on the soft RNIC, on a device of this machine, on "
        "Soft-RoCE in a guest, on whichever of these two can be had (kernel), or as rpma itself "
        f"chooses (default: auto, or ${FABRIC_VARIABLE})",
    )
    group.addoption("--fabric-items", type=Path, help=argparse.SUPPRESS)
    group.addoption("--fabric-events", type=Path, help=argparse.SUPPRESS)


def pytest_configure(config: pytest.Config) -> None:
    """Choose the fabric, declare the marks; in the guest, record what happens."""
    config.addinivalue_line("markers", "fabric: needs an RDMA device")
    config.addinivalue_line("markers", "soft_only(why): a module for the soft RNIC alone")
    config.addinivalue_line("markers", "unit: needs no RDMA device (every test not marked fabric)")
    config.stash[_MODE] = _choose(config)
    if events := config.getoption("--fabric-events"):
        config.pluginmanager.register(
            Recorder(config, config.getoption("--fabric-items"), events), "softroce-recorder"
        )
    else:
        config.pluginmanager.register(Director(config), "fabric-director")


def _choose(config: pytest.Config) -> str:
    """Which fabric it is to be, as long as rpma can still be told."""
    mode: str = config.getoption("--fabric") or os.environ.get(FABRIC_VARIABLE) or "auto"
    if mode not in MODES:
        raise pytest.UsageError(f"{FABRIC_VARIABLE}={mode}: choose from {', '.join(MODES)}")
    if mode == "auto":
        by_rpma = {"soft": "soft", "rdma": "native"}.get(os.environ.get("RPMA_FABRIC", ""))
        return by_rpma or ("native" if native.devices() else "soft")
    # On the guest's behalf this process does not need a device, only the same libraries.
    wanted = "soft" if mode == "soft" else "rdma"
    if "rpma" in sys.modules and os.environ.get("RPMA_FABRIC") != wanted:
        raise pytest.UsageError(
            f"--fabric={mode}: something has imported rpma before it could be told; set "
            f"RPMA_FABRIC={wanted}, and let conftest.py and plugins import rpma in fixtures only"
        )
    os.environ["RPMA_FABRIC"] = wanted
    return mode


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what needs no device as `unit`, in time for -m."""
    if item.get_closest_marker("fabric") is None:
        item.add_marker("unit")


@pytest.fixture(scope="session")
def fabric(pytestconfig: pytest.Config) -> Fabric:
    """The fabric under test: its device, .address, .address6 and .next_port()."""
    import rpma

    found = soft.find() if pytestconfig.stash[_MODE] == "soft" else native.find()
    assert rpma.fabric.name == found.name, rpma.fabric
    return found


class Director:
    """The host's half: sees to it that the fabric tests run where they are to."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._stack = ExitStack()
        self._remote: RemoteSession | None = None
        self._description = ""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Run unit tests first: they answer sooner."""
        items.sort(key=lambda item: _is_fabric(item))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Prepare the fabric, if there are tests to run on it."""
        items = [item for item in session.items if _is_fabric(item)]
        if not items or self._config.option.collectonly:
            return
        mode = self._config.stash[_MODE]
        try:
            if mode == "soft":
                self._description = soft.description()
            elif mode == "native":
                self._description = self._native()
            elif mode == "kernel":
                with suppress(NoFabricError):
                    self._description = self._native()
        except NoFabricError as error:
            raise pytest.UsageError(f"--fabric={mode}: {error}") from None
        if not self._description:
            self._remote = self._stack.enter_context(RemoteSession(self._config, items))

    def _native(self) -> str:
        """This machine's device, or one that it lets us add."""
        if not native.devices() and not self._stack.enter_context(native.added_device()):
            raise NoFabricError("the machine has no RDMA device, and none could be added")
        return native.description()

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
            self._description = self._remote.description()
        if self._description:
            terminalreporter.write_line(f"fabric: {self._description}")


def _is_fabric(item: pytest.Item) -> bool:
    return item.get_closest_marker("fabric") is not None
