# SPDX-License-Identifier: BSD-3-Clause
"""A log as a trace for https://ui.perfetto.dev and chrome://tracing.

It is in the JSON trace event format, and written as the records come, so that its size is not
limited by memory. All times in it are in microseconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rpma.cli import trace_log as log

if TYPE_CHECKING:
    from rpma.cli.trace_summary import Life, Process

DAY = 24 * 3600 * 1_000_000_000

LIMIT = 100_000
"""Of how many threads it is kept that their names are written."""

LINES = 100
"""How many lines are kept of where a finding was."""


class Exporter:
    """A trace that is being written: a context manager, which makes it whole at its end."""

    def __init__(self, path: Path) -> None:
        """Begin the file.

        Raises:
            OSError: it cannot be written, as all other methods may raise too.
        """
        self._file = path.open("w", encoding="ascii")
        self._encode = json.JSONEncoder(separators=(",", ":")).encode
        self._separator = '{"displayTimeUnit":"ns","traceEvents":[\n'
        self._base: int | None = None
        self._named: set[tuple[int, int]] = set()
        self._findings: dict[tuple[int, int], tuple[log.Finding, list[str]]] = {}
        self._spans = 0

    def __enter__(self) -> Exporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:
            for thread in list(self._findings):
                self._say(thread)
            if self._separator.startswith("{"):
                self._file.write(self._separator)
            self._file.write("\n]}\n")

    def add(self, record: log.Record) -> None:
        """Write what the next record is, if anything."""
        thread = record.pid, record.tid
        if self._findings and not isinstance(record, log.Where):
            self._say(thread)
        if thread not in self._named:
            self._name(record)
        match record:
            case log.Call():
                told = record.values | {"result": record.result}
                time, duration = record.time - record.duration, record.duration / 1000
                self._write(record, "X", record.function, told, time, dur=duration)
            case log.Queue():
                used = {name: count for name, (count, _) in record.queues.items()}
                known = {name: count for name, count in used.items() if count is not None}
                self._write(record, "C", f"queues of {record.owner}", known)
            case log.Finding() if len(self._findings) < LIMIT:
                self._findings[thread] = record, []
            case log.Where():
                if thread in self._findings and len(self._findings[thread][1]) < LINES:
                    self._findings[thread][1].append(record.text)
            case log.Start():
                self._write(record, "M", "process_name", {"name": record.command})

    def life(self, process: Process, life: Life) -> None:
        """Write the span of a connection, or of what else has a life, which is over."""
        self._spans += 1
        events = life.events
        begin = events[0][0] if events and events[0][1] == "made" else process.first
        is_deleted = bool(events) and events[-1][1].startswith("deleted")
        end = max(begin, events[-1][0] if is_deleted else process.last)
        told = {
            "about": life.about,
            "requests": {kind: count for kind, (count, _) in life.requests.items()},
            "bytes": {kind: size for kind, (_, size) in life.requests.items()},
            "completions": life.completions,
        }
        line = log.Line(begin, life.pid, life.pid, 1)
        span: dict[str, Any] = {"cat": life.name.partition("#")[0], "id": f"0x{self._spans:x}"}
        self._write(line, "b", life.name, told, **span)
        for time, what in events:
            self._write(line, "n", what, {}, time, **span)
        self._write(line, "e", life.name, {}, end, **span)

    def unfinished(self, enter: log.Enter) -> None:
        """Write a call that has begun, and does not end in the log."""
        self._write(enter, "B", enter.function, enter.values)

    def _name(self, record: log.Record) -> None:
        """Name a thread, and with the first of them its process, unless its start does."""
        process = record.pid, 0
        if len(self._named) < LIMIT:
            if process not in self._named and not isinstance(record, log.Start):
                self._write(record, "M", "process_name", {"name": f"process {record.pid}"})
            self._named |= {process, (record.pid, record.tid)}
            name = "main" if record.tid == record.pid else f"thread {record.tid}"
            self._write(record, "M", "thread_name", {"name": name})

    def _say(self, thread: tuple[int, int]) -> None:
        """Write a thread's last finding, now that it is known what was said of it."""
        if thread in self._findings:
            finding, where = self._findings.pop(thread)
            name = f"{finding.kind}: {finding.about}"
            self._write(finding, "i", name, {"message": finding.message, "where": where}, s="t")

    def _write(
        self,
        line: log.Line,
        phase: str,
        name: str,
        told: dict[str, Any],
        time: int | None = None,
        **more: Any,
    ) -> None:
        if time is None:
            time = line.time
        if self._base is None:
            # The microseconds since 1970 leave no bits for nanoseconds. None should be below 0: a
            # call begins before its line, and the files of processes come in any order.
            self._base = (time // DAY - 1) * DAY
        event = {
            "ph": phase,
            "name": name,
            "cat": "librpma",
            "ts": (time - self._base) / 1000,
            "pid": line.pid,
            "tid": line.tid,
            **more,
            "args": told,
        }
        self._file.write(self._separator + self._encode(event))
        self._separator = ",\n"
