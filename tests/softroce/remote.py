"""The host's view of the pytest session in the guest: starts it, follows it, replays it."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from fabrics.fabric import DAX_VARIABLE, librpma

from .guest import DAX, Guest, GuestError, can_have_persistent_memory, tail
from .inside import rebuilt_warning, with_tuples
from .kernel import KernelError

#: How long a single test may take in the guest, unless --timeout says otherwise.
TEST_LIMIT = 120
#: How long the host then waits for the guest's pytest to have ended it, before it ends the guest.
GRACE = 60
#: How long pytest may take in the guest to start and collect.
COLLECT_LIMIT = 180

#: How much persistent memory the guest has, in bytes: what a namespace takes at least, and some.
PERSISTENT_MEMORY = 32 << 20

#: Where the guest's tests have their temporary folders: in its memory, new with every boot.
BASETEMP = "/run/pytest"

#: Plugins that the guest does without: it has no cache to write to, and there it takes ten seconds
#: to import hypothesis, whose decorators work without the plugin.
UNUSED = ("cacheprovider", "hypothesispytest")

#: pytest's options that change how a test runs or is reported: attribute, option.
PASSED_ON = (("tbstyle", "--tb"), ("timeout", "--timeout"), ("timeout_method", "--timeout-method"))


class NotCollectedError(RuntimeError):
    """The guest's pytest does not have a test that the host's has."""


class RemoteSession:
    """The fabric tests' run in the guest; it boots at the first `replay`, once."""

    def __init__(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self._config = config
        self._items = items
        self._folder = tempfile.TemporaryDirectory(prefix="softroce-")
        self._share = Path(self._folder.name).resolve()
        self._guest: Guest | None = None
        self._events = _Lines(self._share / "events")
        self._queue: deque[dict[str, Any]] = deque()
        self._missing: set[str] = set()
        self._failure: str | None = None
        self._facts: dict[str, str] = {}
        self._complaints: list[str] = []
        self._has_timeout = config.pluginmanager.hasplugin("timeout")
        self._timeout: str | None = None
        if self._has_timeout:
            self._timeout = config.option.timeout or config.getini("timeout") or None

    def __enter__(self) -> RemoteSession:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._guest is not None:
            self._guest.close()
        self._folder.cleanup()

    def description(self) -> str:
        """One line about the device, the kernel and the library that the tests ran on."""
        if not self._facts:
            return "none (the Soft-RoCE guest did not get ready)"
        device = self._facts["device"] or "no device"
        kernel = self._facts["kernel"]
        return f"{device} (Soft-RoCE guest, Linux {kernel}, {librpma()})"

    def replay(self, item: pytest.Item) -> None:
        """Report an item here as the guest reports it, and return when it has ended there."""
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        began = time.time()
        reports: list[pytest.TestReport] = []
        if self._failure is None:
            try:
                self._boot()
                self._follow(item, reports)
            except NotCollectedError as error:
                report = self._failed(item, reports, str(error), began)
                hook.pytest_runtest_logreport(report=report)
            except (GuestError, KernelError) as error:
                self._failure = str(error)
                report = self._failed(item, reports, f"{error}\n{self._pytest_log()}", began)
                hook.pytest_runtest_logreport(report=report)
        else:
            reason = self._failure.splitlines()[0]
            text = f"not run: {reason} (the log is with the first test that failed for it)"
            hook.pytest_runtest_logreport(report=self._failed(item, reports, text, began))
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _boot(self) -> None:
        if self._guest is not None:
            return
        (self._share / "items").write_text("".join(f"{item.nodeid}\n" for item in self._items))
        persistent_memory = PERSISTENT_MEMORY if can_have_persistent_memory() else 0
        self._guest = Guest(
            self._command(),
            self._share,
            cwd=self._config.invocation_params.dir,
            environment={
                # Nothing that the guest writes is kept, so it need not write byte code.
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONUNBUFFERED": "1",
                "RPMA_FABRIC": "rdma",
                DAX_VARIABLE: DAX if persistent_memory else "",
            },
            persistent_memory=persistent_memory,
        )
        self._guest.start()
        while not self._guest.ready():
            self._alive()
        self._facts = self._guest.facts()
        if not self._facts["device"]:
            raise GuestError(f"the guest could not make its device\n{self._guest.log()}")
        if persistent_memory and not self._facts["dax"]:
            raise GuestError(f"the guest has no persistent memory\n{self._guest.log()}")
        self._wait_for_event(COLLECT_LIMIT, "pytest in the guest did not finish collecting")

    def _command(self) -> list[str]:
        config = self._config
        files = dict.fromkeys(str(item.path) for item in self._items)
        command = [sys.executable, "-m", "pytest", f"--rootdir={config.rootpath}"]
        if config.inipath is not None:
            command += ["-c", str(config.inipath)]
        # What the host has selected is not to be selected again.
        command += ["-m", "", "-k", "", "--maxfail=0", "--continue-on-collection-errors"]
        for name in UNUSED:
            command += ["-p", f"no:{name}"]
        command += ["--fabric=native", f"--basetemp={BASETEMP}"]
        command += [f"--fabric-items={self._share / 'items'}"]
        command += [f"--fabric-events={self._events.file}"]
        for attribute, option in PASSED_ON:
            if (value := getattr(config.option, attribute, None)) is not None:
                command.append(f"{option}={value}")
        if self._has_timeout and self._timeout is None:
            command.append(f"--timeout={TEST_LIMIT}")
        for name in config.option.plugins or ():
            command += ["-p", name]
        if config.option.showlocals:
            command.append("--showlocals")
        command += ["-" + "v" * config.option.verbose] if config.option.verbose > 0 else []
        for override in config.option.override_ini or ():
            command += ["-o", override]
        for filter_ in config.option.pythonwarnings or ():
            command += ["-W", filter_]
        return [*command, *files]

    def _follow(self, item: pytest.Item, reports: list[pytest.TestReport]) -> None:
        """Take the guest's events until it has finished this item."""
        limit = self._limit_of(item)
        while item.nodeid not in self._missing:
            event = self._wait_for_event(limit, "the test did not end in the guest")
            self._queue.popleft()
            if event["event"] == "report":
                report = self._config.hook.pytest_report_from_serializable(
                    config=self._config, data=with_tuples(event["data"])
                )
                reports.append(report)
                item.ihook.pytest_runtest_logreport(report=report)
            elif event["event"] == "warning":
                self._warn(event)
            elif event["event"] == "finish" and event["test"] == item.nodeid:
                return
            elif event["event"] == "end":
                raise GuestError(f"pytest in the guest ended early, with code {event['code']}")
            elif event["event"] == "uncollected":
                self._complaints.append(f"{event['test']}: {event['text']}")
            elif event["event"] == "collected":
                self._missing.update(event["missing"])
        text = "\n".join(["pytest did not collect this test in the guest", *self._complaints])
        raise NotCollectedError(text)

    def _limit_of(self, item: pytest.Item) -> float:
        """How long to wait for an event: longer than pytest-timeout would in the guest."""
        marker = item.get_closest_marker("timeout")
        own = (marker.args[0] if marker.args else marker.kwargs.get("timeout")) if marker else None
        return float(own or self._timeout or TEST_LIMIT) + GRACE

    def _wait_for_event(self, limit: float, complaint: str) -> dict[str, Any]:
        """Return the next event, which stays queued."""
        deadline = time.monotonic() + limit
        while not self._queue:
            self._queue.extend(self._events.read())
            if self._queue:
                break
            if time.monotonic() > deadline:
                assert self._guest is not None
                self._guest.close()
                raise GuestError(f"{complaint} within {limit:.0f} s\n{self._guest.log()}")
            self._alive()
        return self._queue[0]

    def _alive(self) -> None:
        """Wait a moment; raise if the guest has ended and there is nothing left to read."""
        assert self._guest is not None
        try:
            code = self._guest.poll()
        except GuestError:
            self._queue.extend(self._events.read())
            if not self._queue:
                raise
            return
        if code is not None:
            self._queue.extend(self._events.read())
            if not self._queue:
                raise GuestError(f"pytest in the guest ended early, with code {code}")
            return
        time.sleep(0.05)

    def _warn(self, event: dict[str, Any]) -> None:
        location = event["location"]
        self._config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": rebuilt_warning(event),
                "when": event["when"],
                "nodeid": event["test"],
                "location": tuple(location) if location is not None else None,
            }
        )

    def _pytest_log(self) -> str:
        """The end of what pytest and the tests themselves printed in the guest."""
        parts = []
        for name in ("stdout", "stderr"):
            if text := tail(self._share / name):
                parts.append(f"--- {name} of pytest in the guest ---\n{text}")
        return "\n".join(parts)

    def _failed(
        self, item: pytest.Item, reports: list[pytest.TestReport], text: str, began: float
    ) -> pytest.TestReport:
        """Make the report of a test that the guest did not report on."""
        done = {report.when for report in reports}
        ended = time.time()
        return pytest.TestReport(
            nodeid=item.nodeid,
            location=item.location,
            keywords=dict.fromkeys(item.keywords, 1),
            outcome="failed",
            longrepr=f"Soft-RoCE guest: {text}",
            # A test that has already failed or passed in its call can only fail in its teardown.
            when="teardown" if "call" in done else "call",
            duration=ended - began,
            start=began,
            stop=ended,
        )


class _Lines:
    """Reads a growing file of JSON lines, whole lines only."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._offset = 0

    def read(self) -> Iterator[dict[str, Any]]:
        try:
            with self.file.open("rb") as source:
                source.seek(self._offset)
                chunk = source.read()
        except FileNotFoundError:
            return
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            yield json.loads(line)
