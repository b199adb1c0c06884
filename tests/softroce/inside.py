"""The guest's half of the pytest plugin: runs the chosen tests and writes down what happens.

Every event is one line of JSON, written at once to a file that the host follows:

    {"event": "uncollected", "test": "...", "text": "..."}    a file that could not be imported
    {"event": "collected", "missing": [...]}    what the host chose and the guest does not have
    {"event": "start", "test": "..."}
    {"event": "report", "data": {...}}          pytest's own serialized report
    {"event": "finish", "test": "..."}
    {"event": "warning", ...}
    {"event": "end", "code": 0}                 the session is over
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest


class Recorder:
    """Selects the tests that `items` lists, in its order, and records events in `events`."""

    def __init__(self, config: pytest.Config, items: Path, events: Path) -> None:
        self._config = config
        self._wanted = items.read_text().splitlines()
        self._events = events.open("a")

    def _record(self, event: str, **fields: object) -> None:
        self._events.write(json.dumps({"event": event, **fields}, default=repr) + "\n")
        self._events.flush()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        found = {item.nodeid: item for item in items}
        items[:] = [found[name] for name in self._wanted if name in found]
        self._record("collected", missing=[name for name in self._wanted if name not in found])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._record("uncollected", test=report.nodeid, text=str(report.longrepr))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._record("start", test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._record("report", data=data)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._record("finish", test=nodeid)

    def pytest_warning_recorded(
        self,
        warning_message: warnings.WarningMessage,
        when: str,
        nodeid: str,
        location: tuple[str, int, str] | None,
    ) -> None:
        category = warning_message.category
        self._record(
            "warning",
            text=str(warning_message.message),
            category=f"{category.__module__}:{category.__qualname__}",
            file=warning_message.filename,
            line=warning_message.lineno,
            when=when,
            test=nodeid,
            location=location,
        )

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._record("end", code=int(exitstatus))
        self._events.close()


def with_tuples(report: dict[str, Any]) -> dict[str, Any]:
    """Undo what JSON does to a serialized report: pytest wants tuples where JSON has lists."""
    for name in ("location", "longrepr"):
        if isinstance(report.get(name), list):
            report[name] = tuple(report[name])
    for name in ("sections", "user_properties"):
        report[name] = [tuple(pair) for pair in report.get(name, ())]
    return report


def rebuilt_warning(event: Mapping[str, object]) -> warnings.WarningMessage:
    """Make of a recorded warning what the host's pytest takes; its class may not exist there."""
    category: type[Warning] = UserWarning
    module, _, name = str(event["category"]).partition(":")
    try:
        found = getattr(__import__(module, fromlist=["_"]), name)
        if isinstance(found, type) and issubclass(found, Warning):
            message: Warning | str = found(str(event["text"]))
            category = found
        else:
            message = str(event["text"])
    except Exception:  # whatever a class not made for it says to one string
        message = str(event["text"])
    return warnings.WarningMessage(message, category, str(event["file"]), int(str(event["line"])))
