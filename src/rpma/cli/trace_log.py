# SPDX-License-Identifier: BSD-3-Clause
"""The log that librpma's debug build writes, as typed records, one at a time.

A log may be of many gigabytes, be cut off in the middle of a line, and have what programs print
to stderr in it. So nothing here keeps lines, and no text is an error: `parse` says what is not a
record, and `Reader` counts it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import BinaryIO, TypeAlias

from rpma._streams import read_some

BLOCK = 1 << 18
"""How much is read at a time, in bytes."""

LONGEST_LINE = 1 << 16
"""Of a longer line no more, in bytes, is kept: the log's are below 4096."""

DEEPEST_GROUP = 8
"""How many groups may be in one another."""

Value: TypeAlias = "int | str | dict[str, Value] | None"
"""An argument: objects, names, pointers and strings are str, a group is a dict, NULL is None, and
so is "(NULL)", a pointer to NULL."""


@dataclass(slots=True)
class Line:
    """What all records have.

    Attributes:
        time: in nanoseconds since 1970.
    """

    time: int
    pid: int
    tid: int
    level: int


@dataclass(slots=True)
class Start(Line):
    """The first line of a process: which librpma, and the command."""

    version: str
    library: str
    command: str


@dataclass(slots=True)
class Call(Line):
    """A call that has ended, at its time.

    Attributes:
        arguments: as they are in the line; `values` has them apart.
        result: "0", a name such as "RPMA_E_INVAL", a number, or a string in its quotes.
        duration: in nanoseconds.
    """

    function: str
    arguments: str
    result: str
    duration: int

    @property
    def values(self) -> dict[str, Value]:
        """The arguments by name."""
        return split_arguments(self.arguments) or {}

    @property
    def is_empty(self) -> bool:
        """Whether it found no completion or event, which is no error."""
        return self.result in ("RPMA_E_NO_COMPLETION", "RPMA_E_NO_EVENT")

    @property
    def is_error(self) -> bool:
        """Whether it failed."""
        return self.result.startswith(("RPMA_E_", "-")) and not self.is_empty


@dataclass(slots=True)
class Enter(Line):
    """A call that may block has begun."""

    function: str
    arguments: str

    @property
    def values(self) -> dict[str, Value]:
        """The arguments by name."""
        return split_arguments(self.arguments) or {}


@dataclass(slots=True)
class Finding(Line):
    """An error, a warning, an assertion or a leak: about which function or object, and what."""

    kind: str
    about: str
    message: str


@dataclass(slots=True)
class Where(Line):
    """More about the finding before it, of the same thread."""

    text: str


@dataclass(slots=True)
class Message(Line):
    """librpma's own message; place (such as "mr.c:120") and function are "" where not told."""

    severity: str
    place: str
    function: str
    text: str


@dataclass(slots=True)
class Completion(Line):
    """A work completion; conn is "" where it is not known, the details are wr_id, opcode, ..."""

    conn: str
    cq: str
    status: str
    details: dict[str, str]


@dataclass(slots=True)
class Queue(Line):
    """How full the queues of a connection or shared receive queue are: used and size, or None."""

    owner: str
    queues: dict[str, tuple[int | None, int | None]]


@dataclass(slots=True)
class Descriptor(Line):
    """An object's descriptor."""

    owner: str
    data: bytes


@dataclass(slots=True)
class End(Line):
    """The process exits normally."""


Record: TypeAlias = (
    Start | Call | Enter | Finding | Where | Message | Completion | Queue | Descriptor | End
)

Head: TypeAlias = "tuple[int, int, int, int]"
"""What every record starts with: time, pid, tid, level."""

PREFIX = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})Z "
    r"\[(\d{1,10}/\d{1,10}\] [1-4]) ([a-z]{1,16})(?: |$)",
    re.ASCII,
)
# It finds the last ") = ", which is in no string, since there a quote has a backslash before it.
CALL = re.compile(
    r'(\w{1,64})\((.*)\) = ?(-?\w+|"(?:[^"\\]|\\.)*") <(\d{1,18}) ns>', re.ASCII | re.DOTALL
)
ENTER = re.compile(r"(\w{1,64})\((.*)\)", re.ASCII | re.DOTALL)
START = re.compile(r"librpma debug build (\S+) over (.*?): (.*)", re.DOTALL)
MESSAGE = re.compile(
    r"(FATAL|ERROR|WARNING|NOTICE|INFO|DEBUG)(?: (\S+:\d+) (\S+):)?(?: (.*))?", re.ASCII | re.DOTALL
)
OCCUPANCY = re.compile(r"(\w+)=(\d{1,18}|\?)/(\d{1,18}|\?)", re.ASCII)
NUMERIC = frozenset("-0123456789")
NUMBER = re.compile(r"-?\d{1,20}", re.ASCII)
PLAIN = re.compile(r'[^"(),]*')
NAME = re.compile(r"(\w+)=", re.ASCII)
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def parse(line: str) -> Record | None:
    """The record in a line without its end, or None if it is not one of the log's, or damaged."""
    match = PREFIX.match(line)
    if match is None:
        return None
    second, fraction, thread, kind = match.groups()
    start = _seconds.get(second)
    if start is None:
        start = _start_of(second)
        if start is None:
            return None
    pid, tid, level = _threads.get(thread) or _thread_of(thread)
    time = start + int(fraction)
    if kind == "call":  # nearly all lines are, so that this is short
        found = CALL.fullmatch(line, match.end())
        if found is None:
            return None
        function, arguments, result, duration = found.groups()
        if ('"' in arguments or "(" in arguments) and split_arguments(arguments) is None:
            return None
        return Call(time, pid, tid, level, function, arguments, result, int(duration))
    parser = PARSERS.get(kind)
    return parser((time, pid, tid, level), line[match.end() :]) if parser is not None else None


def split_arguments(text: str) -> dict[str, Value] | None:
    """Arguments by name; None if quotes or parentheses are left open."""
    if '"' not in text and "(" not in text:
        pairs = [part.partition("=") for part in text.split(", ")]
        return {name: _plain(value) for name, sep, value in pairs if sep}
    scanned = _group(text, 0, 0)
    return scanned[0] if scanned is not None and scanned[1] == len(text) else None


def _group(text: str, at: int, depth: int) -> tuple[dict[str, Value], int] | None:
    """Arguments up to the end or a closing parenthesis, and where that is."""
    values: dict[str, Value] = {}
    while at < len(text) and text[at] != ")":
        if values:
            if not text.startswith(", ", at):
                return None
            at += 2
        name = NAME.match(text, at)
        if name is None:
            return None
        at = name.end()
        if text.startswith('"', at):
            quoted = QUOTED.match(text, at)
            if quoted is None:
                return None
            values[name[1]] = unescape(quoted[1])
            at = quoted.end()
        elif text.startswith("(NULL)", at):  # a pointer to NULL
            values[name[1]] = None
            at += len("(NULL)")
        elif text.startswith("(", at):
            inner = _group(text, at + 1, depth + 1) if depth < DEEPEST_GROUP else None
            if inner is None or not text.startswith(")", inner[1]):
                return None
            values[name[1]] = inner[0]
            at = inner[1] + 1
        else:
            plain = PLAIN.match(text, at)
            assert plain is not None  # it matches nothing, too
            values[name[1]] = _plain(plain[0])
            at = plain.end()
    return values, at


def _plain(text: str) -> int | str | None:
    if text[:1] not in NUMERIC:
        return None if text == "NULL" else text
    # int() refuses thousands of digits, and takes "1_000".
    return int(text) if NUMBER.fullmatch(text) else text


def unescape(text: str) -> str:
    """What is in the quotes of a C string."""

    def character(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) > 1 and code[0] == "x":
            return chr(int(code[1:], 16))
        return chr(int(code, 8)) if code[0] in "01234567" else ESCAPES.get(code, code)

    return ESCAPE.sub(character, text) if "\\" in text else text


# What was read of late is most of what comes next: times in the same second, of the same threads.
_seconds: dict[str, int] = {}
_threads: dict[str, tuple[int, int, int]] = {}


def _start_of(second: str) -> int | None:
    try:
        moment = datetime.fromisoformat(second).replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    _seconds.clear()
    _seconds[second] = start = int(moment.timestamp()) * 1_000_000_000
    return start


def _thread_of(thread: str) -> tuple[int, int, int]:
    pid, _, rest = thread.partition("/")
    tid, _, level = rest.partition("] ")
    if len(_threads) > 1000:
        _threads.clear()
    _threads[thread] = found = int(pid), int(tid), int(level)
    return found


# ---- the kinds but calls ------------------------------------------------------------------------


def _start(head: Head, rest: str) -> Start:
    match = START.fullmatch(rest)
    return Start(*head, *match.groups()) if match is not None else Start(*head, "", "", rest)


def _enter(head: Head, rest: str) -> Enter | None:
    match = ENTER.fullmatch(rest)
    if match is None or split_arguments(match[2]) is None:
        return None
    return Enter(*head, match[1], match[2])


def _finding(kind: str) -> Callable[[Head, str], Finding]:
    def parser(head: Head, rest: str) -> Finding:
        about, colon, message = rest.partition(": ")
        return Finding(*head, kind, about if colon else "", message if colon else rest)

    return parser


def _where(head: Head, rest: str) -> Where:
    return Where(*head, rest)


def _message(head: Head, rest: str) -> Message | None:
    match = MESSAGE.fullmatch(rest)
    return Message(*head, *match.groups("")) if match is not None else None


def _completion(head: Head, rest: str) -> Completion | None:
    words = rest.split(" ")
    details = {name: value for name, _, value in (word.partition("=") for word in words[2:])}
    status = details.pop("status", "")
    if not status:
        return None
    return Completion(*head, "" if words[0] == "-" else words[0], words[1], status, details)


def _queue(head: Head, rest: str) -> Queue | None:
    owner, *words = rest.split(" ")
    queues = {}
    for word in words:
        match = OCCUPANCY.fullmatch(word)
        if match is None:
            return None
        used, size = (None if text == "?" else int(text) for text in match.groups()[1:])
        queues[match[1]] = used, size
    return Queue(*head, owner, queues) if queues else None


def _descriptor(head: Head, rest: str) -> Descriptor | None:
    owner, _, data = rest.partition(" ")
    try:
        return Descriptor(*head, owner, bytes.fromhex(data))
    except ValueError:
        return None


def _end(head: Head, _rest: str) -> End:
    return End(*head)


PARSERS: dict[str, Callable[[Head, str], Record | None]] = {
    "start": _start,
    "enter": _enter,
    **{kind: _finding(kind) for kind in ("error", "warning", "assertion", "leak")},
    "where": _where,
    "librpma": _message,
    "wc": _completion,
    "queue": _queue,
    "descriptor": _descriptor,
    "end": _end,
}


# ---- a whole log --------------------------------------------------------------------------------


class Reader:
    """The records of a stream, in their order.

    Attributes:
        lines: how many lines there were so far.
        records: how many of them were records.
        foreign: how many were not the log's, as when a program's stderr is mixed in.
        damaged: how many were the log's, but cut off or unreadable.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.lines = self.records = self.foreign = self.damaged = 0

    def __iter__(self) -> Iterator[Record]:
        """Read to the end.

        Raises:
            OSError: the stream cannot be read.
        """
        for lines, is_whole in self._blocks():
            self.lines += len(lines)
            for line in lines:
                record = parse(line) or self._within(line, is_whole)
                if record is not None:
                    self.records += 1
                    yield record

    def _within(self, line: str, is_whole: bool) -> Record | None:
        """The record in a line that does not start with one: a program printed half a line."""
        match = PREFIX.search(line)
        record = parse(line[match.start() :]) if match is not None else None
        if record is not None:
            self.foreign += 1
        elif match is not None or not is_whole:
            self.damaged += 1
        else:
            self.foreign += 1
        return record

    def _blocks(self) -> Iterator[tuple[list[str], bool]]:
        """Lines, many at a time, and whether they have their ends: only the last may have none."""
        # What a pipe has by now, instead of waiting until a block is full.
        block, rest = memoryview(bytearray(BLOCK)), b""
        while count := read_some(self._stream, block):
            data = bytes(block[:count])
            whole, newline, last = data.rpartition(b"\n")
            if newline:
                yield _decoded(rest + whole), True
                rest = last
            else:
                # Of a line without an end in sight enough is kept to see whose it is.
                rest = (rest + data)[:LONGEST_LINE]
        if rest:
            yield _decoded(rest), False


def _decoded(data: bytes) -> list[str]:
    unix = data.removesuffix(b"\r").replace(b"\r\n", b"\n")
    return unix.decode("utf-8", "backslashreplace").split("\n")
