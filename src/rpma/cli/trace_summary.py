# SPDX-License-Identifier: BSD-3-Clause
"""What the log of librpma's debug build comes to.

A log may have more of everything than memory has room for, so only sums are kept, and of what has
no bound of its own the first LIMIT.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import TypeVar

from rpma.cli import trace_log as log

Key = TypeVar("Key")
Entry = TypeVar("Entry")

LIMIT = 10_000
"""How many processes, connections, findings and so on are kept."""

LINES = 100
"""How many lines are kept of where a finding was, and of what became of a connection."""

POSTS = {
    f"rpma_{name}": name.removeprefix("conn_req_").removeprefix("srq_")
    for name in (
        *("read", "write", "write_with_imm", "atomic_write", "flush", "send", "send_with_imm"),
        *("recv", "conn_req_recv", "srq_recv"),
    )
}
"""The functions that post a request, and its kind."""

ASKING = (
    *("rpma_conn_next_event", "rpma_ep_next_conn_req"),  # no event may be RPMA_E_PROVIDER, too
    *("rpma_conn_get_compl_fd", "rpma_cq_get_fd"),  # a failure tells whether the channel is shared
)
"""The functions that programs ask: a failure of theirs is one only if an error is logged of it."""

LENGTH = re.compile(r", len=(\d{1,20})", re.ASCII)
GOT = re.compile(r", num_entries_got=(\d{1,10})", re.ASCII)
CODE = re.compile(r", (RPMA_E_\w+)$", re.ASCII)


@dataclass
class Function:
    """The calls of a function, and how long they took, in nanoseconds."""

    calls: int = 0
    errors: int = 0
    empty: int = 0
    total: int = 0
    least: int = sys.maxsize
    greatest: int = 0
    buckets: dict[int, int] = field(default_factory=dict)

    def add(self, duration: int) -> None:
        """Count a call."""
        self.calls += 1
        self.total += duration
        if duration < self.least:
            self.least = duration
        if duration > self.greatest:
            self.greatest = duration
        # 32 buckets for each power of two, so that a percentile is at most 1.6 % off.
        shift = duration.bit_length() - 6
        bucket = (shift << 6) + (duration >> shift) if shift > 0 else duration
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def percentile(self, share: float) -> int:
        """What this share of the calls took at most."""
        missing = ceil(share * self.calls)
        for bucket in sorted(self.buckets):
            missing -= self.buckets[bucket]
            if missing <= 0:
                shift = bucket >> 6
                middle = ((bucket & 63) << shift) + (1 << shift >> 1)
                return min(max(middle, self.least), self.greatest)
        return self.greatest


@dataclass
class Problem:
    """Errors or findings that are alike, and where the last of them was."""

    kind: str
    about: str
    code: str
    message: str = ""
    count: int = 0
    pid: int = 0
    tid: int = 0
    time: int = 0
    where: list[str] = field(default_factory=list)

    def add(self, record: log.Call | log.Finding, said: Said | None) -> None:
        """Count another one."""
        self.count += 1
        self.pid, self.tid, self.time = record.pid, record.tid, record.time
        if said is not None:
            finding, where = said
            self.message = CODE.sub("", finding.message)
            # What an assertion has found is said there, and need not be said twice.
            self.where = [] if (self.kind, finding.kind) == ("error", "assertion") else where


Said = tuple[log.Finding, list[str]]
"""What a thread has said last was wrong, and where; the call itself ends after that."""


@dataclass
class Life:
    """What became of a connection, from the request for it on, or of a shared receive queue."""

    pid: int
    name: str
    about: str = ""
    events: list[tuple[int, str]] = field(default_factory=list)
    requests: dict[str, list[int]] = field(default_factory=dict)  # how many, how many bytes
    completions: dict[str, int] = field(default_factory=dict)
    cqs: list[str] = field(default_factory=list)
    polled: int = 0
    queues: dict[str, tuple[int, int | None]] = field(default_factory=dict)

    def event(self, time: int, what: str) -> None:
        """Something has happened."""
        if len(self.events) < LINES:
            self.events.append((time, what))


@dataclass
class Process:
    """A process, and what is going on in it: by thread or by object."""

    pid: int
    first: int
    last: int
    command: str = ""
    librpma: str = ""
    calls: int = 0
    has_started: bool = False
    has_ended: bool = False
    lives: dict[str, Life] = field(default_factory=dict)
    cqs: dict[str, Life] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    endpoints: dict[str, str] = field(default_factory=dict)
    entered: dict[int, list[log.Enter]] = field(default_factory=dict)
    said: dict[int, Said] = field(default_factory=dict)
    where: dict[int, list[str]] = field(default_factory=dict)


class Summary:
    """What the records come to.

    Attributes:
        when_over: called with each life when it ends, and at the log's end with the others.
        left_out: how often something was not kept since there was too much of it.
    """

    def __init__(self, when_over: Callable[[Process, Life], None] | None = None) -> None:
        self.when_over = when_over
        self.left_out = self.level = self.records = self.first = self.last = self.connections = 0
        self.functions: dict[str, Function] = {}
        self.errors: dict[tuple[str, str], Problem] = {}
        self.findings: dict[tuple[str, str, str], Problem] = {}
        self.messages: dict[str, int] = {}
        self.unfinished: list[tuple[Process, log.Enter]] = []
        self.processes: list[Process] = []
        self.lives: list[Life] = []
        self._running: dict[int, Process] = {}

    def add(self, record: log.Record) -> None:
        """Take in the next record."""
        process = self._running.get(record.pid)
        if process is None or (isinstance(record, log.Start) and process.has_started):
            process = self._new_process(record)
        if record.time > process.last:
            process.last = record.time
        elif record.time < process.first:
            process.first = record.time
        self.records += 1
        if record.level > self.level:
            self.level = record.level
        if isinstance(record, log.Call):  # nearly all are
            self._call(process, record)
            return
        match record:
            case log.Completion():
                life = self._life(process, record.conn) or process.cqs.get(record.cq)
                if life is not None:
                    self._count(life.completions, record.status)
            case log.Queue():
                if (life := self._life(process, record.owner)) is not None:
                    _fill(life, record)
            case log.Enter():
                if len(stack := self._kept(process.entered, record.tid, list)) < LINES:
                    stack.append(record)
            case log.Finding():
                self._finding(process, record)
            case log.Where():
                if len(lines := process.where.get(record.tid, [])) < LINES:
                    lines.append(record.text)
            case log.Message():
                self._count(self.messages, record.severity)
            case log.Start():
                process.command, process.has_started = record.command, True
                if record.library:
                    process.librpma = f"{record.library}, debug build {record.version}"
            case log.End():
                process.has_ended = True

    def finish(self) -> None:
        """The log is at its end, and with it all that has not ended in it."""
        for process in list(self._running.values()):
            self._end(process)
        self.first = min((process.first for process in self.processes), default=0)
        self.last = max((process.last for process in self.processes), default=0)
        self.processes.sort(key=lambda process: process.first)
        self.lives.sort(key=lambda life: life.events[0][0] if life.events else self.first)

    def _kept(self, table: dict[Key, Entry], key: Key, make: Callable[[], Entry]) -> Entry:
        """The entry of a table: a new one where there is none, which a full table does not keep."""
        entry = table.get(key)
        if entry is None:
            entry = make()
            if len(table) < LIMIT:
                table[key] = entry
            else:
                self.left_out += 1
        return entry

    def _count(self, table: dict[str, int], key: str) -> None:
        if key in table or len(table) < LINES:
            table[key] = table.get(key, 0) + 1
        else:
            self.left_out += 1

    def _new_process(self, record: log.Record) -> Process:
        if record.pid in self._running:  # an earlier run's, or the program before an exec()
            self._end(self._running[record.pid])
        time = record.time
        return self._kept(self._running, record.pid, lambda: Process(record.pid, time, time))

    def _end(self, process: Process) -> None:
        del self._running[process.pid]
        for said in process.said.values():
            self._unheard(said)
        for stack in process.entered.values():
            if len(self.unfinished) < LIMIT:
                self.unfinished += [(process, enter) for enter in stack]
        for life in list(process.lives.values()):
            self._over(process, life)
        if len(self.processes) < LIMIT:
            self.processes.append(process)
        else:
            self.left_out += 1

    # ---- calls ----

    def _call(self, process: Process, call: log.Call) -> None:
        name = call.function
        function = self.functions.get(name) or self._kept(self.functions, name, Function)
        function.add(call.duration)
        process.calls += 1
        process.has_started = True
        if process.entered:
            _leave(process, call)
        if call.result != "0" or process.said:
            self._result(process, call, function)
        if name in POSTS:
            if call.result == "0":
                self._post(process, call)
        elif name == "rpma_cq_get_wc":
            if call.result == "0" and (life := process.cqs.get(_first_argument(call))) is not None:
                got = GOT.search(call.arguments)
                life.polled += int(got[1]) if got is not None else 1
        elif name.startswith(("rpma_conn_", "rpma_ep_", "rpma_srq_")):
            self._follow(process, call)

    def _result(self, process: Process, call: log.Call, function: Function) -> None:
        said = process.said.pop(call.tid, None)
        if said is not None and (not call.is_error or said[0].about != call.function):
            self._unheard(said)
            said = None
        is_answer = call.is_error and said is None and call.function in ASKING
        if call.is_empty or is_answer:
            function.empty += 1
        elif call.is_error:
            function.errors += 1
            key = call.function, call.result
            self._kept(self.errors, key, lambda: Problem("error", *key)).add(call, said)

    def _unheard(self, said: Said) -> None:
        """An error without its call: one that is logged at a level that this log does not have."""
        finding = said[0]
        if finding.kind == "error":
            code = CODE.search(finding.message)
            key = finding.about, code[1] if code is not None else ""
            self._kept(self.errors, key, lambda: Problem("error", *key)).add(finding, said)

    def _finding(self, process: Process, record: log.Finding) -> None:
        said = record, self._new_where(process, record.tid)
        if record.kind in ("error", "assertion"):
            if record.tid in process.said:
                self._unheard(process.said[record.tid])
            if record.tid in process.said or len(process.said) < LIMIT:
                process.said[record.tid] = said
        if record.kind != "error":
            key = record.kind, record.about, record.message
            problem = self._kept(self.findings, key, lambda: Problem(record.kind, record.about, ""))
            problem.add(record, said)

    def _new_where(self, process: Process, tid: int) -> list[str]:
        process.where.pop(tid, None)
        return self._kept(process.where, tid, list)

    # ---- connections ----

    def _life(self, process: Process, name: str) -> Life | None:
        """A connection that is not over, or a request for one, or a shared receive queue."""
        life = process.lives.get(name)
        if life is not None or name in process.gone:
            return life
        if not name.startswith(("conn#", "conn_req#", "srq#")):
            return None
        # The log has begun after it was made, or the parent of a forked process has made it.
        return self._kept(process.lives, name, lambda: Life(process.pid, name))

    def _begin(self, process: Process, call: log.Call, name: str, about: str) -> None:
        life = self._life(process, name)
        if life is not None:
            life.about = about
            life.event(call.time, "made")

    def _over(self, process: Process, life: Life) -> None:
        process.lives.pop(life.name, None)
        for cq in life.cqs:
            process.cqs.pop(cq, None)
        if len(process.gone) < LIMIT:
            process.gone.add(life.name)
        self.connections += 1
        if len(self.lives) < LIMIT:
            self.lives.append(life)
        if self.when_over is not None:
            self.when_over(process, life)

    def _post(self, process: Process, call: log.Call) -> None:
        first = _first_argument(call)
        life = process.lives.get(first) or self._life(process, first)
        if life is None:
            return
        length = LENGTH.search(call.arguments)
        kind = POSTS[call.function]
        sums = life.requests.get(kind)
        if sums is None:
            sums = life.requests[kind] = [0, 0]
        sums[0] += 1
        if length is not None:
            sums[1] += int(length[1])
        elif call.function == "rpma_atomic_write":
            sums[1] += 8

    def _follow(self, process: Process, call: log.Call) -> None:
        """What a call means for a connection."""
        values = call.values

        def text(name: str) -> str:
            value = values.get(name)
            return "" if value is None else str(value)

        first = _first_argument(call)
        ended = "" if call.result == "0" else f" ({call.result})"
        match call.function:
            case "rpma_ep_listen" if not ended:
                address = _address(text("addr"), text("port"))
                if len(process.endpoints) < LIMIT:
                    process.endpoints[text("ep_ptr")] = address
            case "rpma_conn_req_new" if not ended:
                address = _address(text("addr"), text("port"))
                self._begin(process, call, text("req_ptr"), f"to {address}")
            case "rpma_ep_next_conn_req" if not ended:
                at = process.endpoints.get(first, first)
                self._begin(process, call, text("req_ptr"), f"from a client of {at}")
            case "rpma_srq_new" if not ended:
                self._begin(process, call, text("srq_ptr"), "shared receive queue")
            case "rpma_conn_req_connect":
                self._connect(process, call, first, text("conn_ptr"), ended)
            case "rpma_conn_next_event" if not ended:
                if (life := self._life(process, first)) is not None:
                    life.event(call.time, text("event").lower())
            case "rpma_conn_disconnect":
                if (life := self._life(process, first)) is not None:
                    life.event(call.time, f"disconnecting{ended}")
            case "rpma_conn_get_cq" | "rpma_conn_get_rcq" | "rpma_srq_get_rcq" if not ended:
                self._own(process, first, text("cq_ptr") or text("rcq_ptr"))
            case "rpma_conn_wait" if not ended:
                self._own(process, first, text("cq"))
            case "rpma_conn_req_delete" | "rpma_conn_delete" | "rpma_srq_delete":
                if (life := self._life(process, first)) is not None:
                    life.event(call.time, f"deleted{ended}")
                    self._over(process, life)

    def _own(self, process: Process, name: str, cq: str) -> None:
        """A completion queue is a connection's."""
        is_new = cq.startswith("cq#") and cq not in process.cqs
        life = self._life(process, name) if is_new else None
        if life is not None and len(life.cqs) < LINES:
            life.cqs.append(cq)
            process.cqs[cq] = life

    def _connect(
        self, process: Process, call: log.Call, request: str, name: str, ended: str
    ) -> None:
        """A request becomes a connection, which some records may have been of already."""
        life = self._life(process, request)
        if life is None:
            return
        life.event(call.time, f"connecting{ended}")
        if not ended and name.startswith("conn#") and process.lives.pop(request, None) is life:
            earlier = process.lives.get(name)
            if earlier is not None:
                life.queues |= earlier.queues
            process.lives[name] = life
            life.name = name


def _first_argument(call: log.Call) -> str:
    """The object that a call is about, which is always the first."""
    text = call.arguments
    end = text.find(",")
    return text[text.find("=") + 1 : end if end >= 0 else len(text)]


def _leave(process: Process, call: log.Call) -> None:
    """The call that a thread has entered has ended; so have those that it entered later."""
    stack = process.entered.get(call.tid, [])
    for at in reversed(range(len(stack))):
        if stack[at].function == call.function:
            del stack[at:]
            break
    if not stack:
        process.entered.pop(call.tid, None)


def _fill(life: Life, record: log.Queue) -> None:
    for name, (used, size) in record.queues.items():
        is_most = used is not None and used >= life.queues.get(name, (0, None))[0]
        if used is not None and is_most and (name in life.queues or len(life.queues) < LINES):
            life.queues[name] = used, size


def _address(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
