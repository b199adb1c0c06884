"""`rpma trace`: what it reads, what it prints, what it writes, and what cannot upset it."""

from __future__ import annotations

import io
import json
import os
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rpma.cli import trace as command
from rpma.cli import trace_chrome, trace_summary
from rpma.cli import trace_log as log

SAMPLE = Path(__file__).parent / "trace_sample.log"
LIBRPMA = "librpma debug build 0.1.0 over /usr/lib/librpma.so.0:"

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command.trace)


def run(*arguments: str | Path, columns: int = 120, stdin: bytes | None = None) -> tuple[int, str]:
    result = CliRunner().invoke(
        app, list(map(str, arguments)), input=stdin, env={"COLUMNS": str(columns)}
    )
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def line(rest: str, at: int = 0, pid: int = 7, tid: int | None = None) -> str:
    """A line, so many nanoseconds after the log's beginning."""
    second, fraction = divmod(at, 10**9)
    tid = pid if tid is None else tid
    return f"2026-11-22T17:05:{second:02}.{fraction:09}Z [{pid}/{tid}] {rest}\n"


def call(text: str, result: str = "0", duration: int = 500, **where: int) -> str:
    return line(f"2 call {text} = {result} <{duration} ns>", **where)


def facts(*lines: str, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """What --json says of a log of these lines."""
    code, output = run("-", "--json", *arguments, stdin="".join(lines).encode())
    assert code == 0, output
    result: dict[str, Any] = json.loads(output)
    return result


def printed(*lines: str, columns: int = 120) -> str:
    code, output = run("-", columns=columns, stdin="".join(lines).encode())
    assert code == 0, output
    return output


def events(path: Path) -> list[dict[str, Any]]:
    """What is in a trace for Perfetto, with what holds of every such trace."""
    found: list[dict[str, Any]] = json.loads(path.read_text())["traceEvents"]
    open_spans: Counter[str] = Counter()
    for event in found:
        assert event["ph"] in "XMiCbneB"
        assert {"name", "ts", "pid", "tid", "args"} <= event.keys()
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
        if event["ph"] in "bne":
            open_spans[event["id"]] += {"b": 1, "n": 0, "e": -1}[event["ph"]]
            assert open_spans[event["id"]] == (event["ph"] != "e")
    assert not +open_spans
    return found


# ---- lines --------------------------------------------------------------------------------------

MADE = (
    call('rpma_conn_req_new(peer=peer#1, addr="::1", port="7204", cfg=NULL, req_ptr=conn_req#3)'),
    call("rpma_conn_req_connect(req_ptr=conn_req#3, pdata=(ptr=0x7ff, len=24), conn_ptr=conn#4)"),
)


def parse(rest: str) -> log.Record | None:
    return log.parse(line(rest).rstrip("\n"))


def test_a_call_is_read() -> None:
    write = "conn=conn#4, dst=mr_remote#6, dst_offset=0, len=4096, flags=ALWAYS, op_context=0x7"
    found = log.parse(
        f"2026-11-22T17:05:12.123456789Z [7/8] 2 call rpma_write({write}) = 0 <12 ns>"
    )
    assert found == log.Call(1795367112123456789, 7, 8, 2, "rpma_write", write, "0", 12)
    assert found.values == {
        "conn": "conn#4",
        "dst": "mr_remote#6",
        "dst_offset": 0,
        "len": 4096,
        "flags": "ALWAYS",
        "op_context": "0x7",
    }


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ("", {}),
        ("cfg=NULL", {"cfg": None}),
        ("conn_ptr=(NULL), a=-5", {"conn_ptr": None, "a": -5}),
        (r'a="b, (c) = \"d\" \\ \x07\303\n", e=1', {"a": 'b, (c) = "d" \\ \x07\xc3\n', "e": 1}),
        ("pdata=(ptr=0x7f, len=24, in=(a=1)), b=x|y", {"pdata": {"ptr": "0x7f", "len": 24, "in": {"a": 1}}, "b": "x|y"}),  # noqa: E501
        ("pdata=()", {"pdata": {}}),
        (f"n={'9' * 5000}", {"n": "9" * 5000}),
        ("n=1_0, m=٣", {"n": "1_0", "m": "٣"}),
    ],
)  # fmt: skip
def test_arguments_are_taken_apart(arguments: str, values: dict[str, log.Value]) -> None:
    found = parse(f"2 call rpma_f({arguments}) = 0 <1 ns>")
    assert isinstance(found, log.Call)
    assert found.values == values


@pytest.mark.parametrize(
    ("result", "is_error", "is_empty"),
    [
        ("0", False, False),
        ("RPMA_E_INVAL", True, False),
        ("-100010", True, False),
        ("3", False, False),
        ('") = 0 <5 ns>"', False, False),
        ("RPMA_E_NO_COMPLETION", False, True),
        ("RPMA_E_NO_EVENT", False, True),
    ],
)
def test_results_are_told_apart(result: str, is_error: bool, is_empty: bool) -> None:
    found = parse(f"3 call rpma_f(a=1) = {result} <310 ns>")
    assert isinstance(found, log.Call)
    assert (found.result, found.is_error, found.is_empty) == (result, is_error, is_empty)


def test_a_text_as_the_result_may_come_without_a_space() -> None:
    found = parse('3 call rpma_err_2str(ret=0) ="Success" <90 ns>')
    assert isinstance(found, log.Call)
    assert (found.arguments, found.result, found.duration) == ("ret=0", '"Success"', 90)


@pytest.mark.parametrize(
    ("rest", "record", "fields"),
    [
        (f"2 start {LIBRPMA} ./a: b c", log.Start, ("0.1.0", "/usr/lib/librpma.so.0", "./a: b c")),
        ("2 start what else", log.Start, ("", "", "what else")),
        ("4 enter rpma_cq_wait(cq=cq#5)", log.Enter, ("rpma_cq_wait", "cq=cq#5")),
        ("1 error rpma_f: a: b", log.Finding, ("error", "rpma_f", "a: b")),
        ("1 warning no function", log.Finding, ("warning", "", "no function")),
        ("1 assertion rpma_f: a", log.Finding, ("assertion", "rpma_f", "a")),
        ("1 leak conn#4: a", log.Finding, ("leak", "conn#4", "a")),
        ("1 where   ./a(main+1) [0x1]", log.Where, ("  ./a(main+1) [0x1]",)),
        ("1 where", log.Where, ("",)),
        ("1 librpma ERROR mr.c:120 f: a: b", log.Message, ("ERROR", "mr.c:120", "f", "a: b")),
        ("1 librpma NOTICE -:0 -: a", log.Message, ("NOTICE", "-:0", "-", "a")),
        ("1 librpma DEBUG hello", log.Message, ("DEBUG", "", "", "hello")),
        ("4 wc - cq#5 wr_id=0x7 status=WR_FLUSH_ERR", log.Completion, ("", "cq#5", "WR_FLUSH_ERR", {"wr_id": "0x7"})),  # noqa: E501
        ("4 wc conn#4 cq#5 wr_id=0x7 status=SUCCESS imm=0x9", log.Completion, ("conn#4", "cq#5", "SUCCESS", {"wr_id": "0x7", "imm": "0x9"})),  # noqa: E501
        ("4 queue srq#2 rq=5/20 cq=?/?", log.Queue, ("srq#2", {"rq": (5, 20), "cq": (None, None)})),
        ("4 descriptor mr_local#5 00ff", log.Descriptor, ("mr_local#5", b"\x00\xff")),
        ("2 end", log.End, ()),
    ],
)  # fmt: skip
def test_each_kind_is_read(rest: str, record: type[log.Line], fields: tuple[object, ...]) -> None:
    found = parse(rest)
    assert type(found) is record
    level = int(rest[0])
    assert found == record(1795367100000000000, 7, 7, level, *fields)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Connecting...",
        "2026-11-22T17:05:12Z [7/7] 2 end",
        "2026-13-22T17:05:12.000000000Z [7/7] 2 end",
        "2026-11-22T17:05:12.000000000Z [7/7] 5 end",
        "2026-11-22T17:05:12.000000000Z [7/99999999999] 2 end",
        "٢٠٢٦-11-22T17:05:12.000000000Z [7/7] 2 end",
        line("2 unknown"),
        line("2 call rpma_f(a=1) = 0 <5"),
        line("2 call rpma_f(a=1 = 0 <5 ns>"),
        line('2 call rpma_f(a="1) = 0 <5 ns>'),
        line("2 call rpma_f(a=(b=1) = 0 <5 ns>"),
        line("2 call rpma_f(a=1)) = 0 <5 ns>").replace("a=1", "a=(b=1)"),
        line(f"2 call rpma_f(a=1) = 0 <{'9' * 5000} ns>"),
        line(f"2 call rpma_f({'a=(' * 5000}) = 0 <5 ns>"),
        line("4 enter rpma_f(a=1"),
        line("4 wc conn#4"),
        line("4 queue conn#4"),
        line("4 queue conn#4 sq=3/x"),
        line("4 descriptor mr_local#5 0"),
        line("1 librpma NOISE a"),
    ],
)
def test_what_is_no_record_is_none(text: str) -> None:
    assert log.parse(text.rstrip("\n")) is None


ALMOST = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    "call ",
                    "enter ",
                    "start ",
                    "wc ",
                    "queue ",
                    "librpma ",
                    "descriptor ",
                    "where ",
                ),
                *(
                    "rpma_write",
                    "(",
                    ")",
                    "=",
                    ", ",
                    '"',
                    "\\",
                    " = 0",
                    " <5 ns>",
                    "conn#4",
                    "NULL",
                ),
                *("sq=3/10", "status=", "ERROR ", "a.c:1 ", "\n", "\r", "\0", "\x85", "\ud800"),
            ]
        ),
        st.text(max_size=5),
    ),
    max_size=20,
).map("".join)


@given(st.text() | ALMOST | ALMOST.map(lambda text: line(f"2 {text}").rstrip("\n")))
@settings(deadline=None, max_examples=500)
def test_no_text_upsets_the_parser(text: str) -> None:
    found = log.parse(text)
    if isinstance(found, log.Call | log.Enter):
        assert isinstance(found.values, dict)


# ---- records that are well-formed go through unchanged ----

NAMES = st.text(string.ascii_lowercase + "_", min_size=1, max_size=12)
NUMBERS = st.integers(0, 10**9)
OBJECTS = st.builds(lambda name, number: f"{name}#{number}", NAMES, NUMBERS)
FREE_TEXT = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))
PLAIN_VALUES = st.one_of(
    NUMBERS.map(lambda number: (str(number), number)),
    NUMBERS.map(lambda number: (str(-number), -number)),
    OBJECTS.map(lambda name: (name, name)),
    NUMBERS.map(hex).map(lambda text: (text, text)),
    st.just(("NULL", None)),
    FREE_TEXT.map(lambda text: (quoted(text), text)),
)
ARGUMENTS = st.recursive(
    st.dictionaries(NAMES, PLAIN_VALUES),
    lambda inner: st.dictionaries(NAMES, PLAIN_VALUES | inner.map(lambda group: ("", group))),
    max_leaves=4,
)
RESULTS = st.sampled_from(["0", "-1", "RPMA_E_INVAL"]) | FREE_TEXT.map(lambda text: quoted(text))


def quoted(text: str) -> str:
    """As the log has it."""
    return '"' + "".join(
        f"\\{c}" if c in '"\\' else c if " " <= c <= "~" or ord(c) > 255 else f"\\x{ord(c):02x}"
        for c in text
    ) + '"'  # fmt: skip


def written(group: dict[str, Any]) -> tuple[str, dict[str, log.Value]]:
    """Arguments as text, and as they should be read."""
    texts, values = [], {}
    for name, (text, value) in group.items():
        if isinstance(value, dict):
            inner, value = written(value)
            text = f"({inner})"
        texts.append(f"{name}={text}")
        values[name] = value
    return ", ".join(texts), values


@given(
    st.integers(0, 59 * 10**9), NUMBERS, NUMBERS, NAMES, ARGUMENTS, RESULTS, st.integers(0, 10**17)
)
@settings(deadline=None)
def test_calls_go_through(
    at: int, pid: int, tid: int, name: str, group: dict[str, Any], result: str, duration: int
) -> None:
    text, values = written(group)
    rest = f"3 call {name}({text}) = {result} <{duration} ns>"
    found = log.parse(line(rest, at, pid, tid)[:-1])
    assert found == log.Call(1795367100 * 10**9 + at, pid, tid, 3, name, text, result, duration)
    assert found.values == values
    entered = log.parse(line(f"4 enter {name}({text})", at, pid, tid)[:-1])
    assert isinstance(entered, log.Enter)
    assert (entered.function, entered.values) == (name, values)


@given(NAMES, FREE_TEXT, OBJECTS, st.dictionaries(NAMES, st.tuples(NUMBERS, NUMBERS), min_size=1), st.binary())  # fmt: skip  # noqa: E501
@settings(deadline=None)
def test_other_records_go_through(
    name: str, text: str, thing: str, queues: dict[str, tuple[int, int]], data: bytes
) -> None:
    head = 1795367100 * 10**9, 7, 7, 1
    full = " ".join(f"{queue}={used}/{size}" for queue, (used, size) in queues.items())
    for rest, record in (
        (f"start {LIBRPMA} {text}", log.Start(*head, "0.1.0", "/usr/lib/librpma.so.0", text)),
        (f"where {text}", log.Where(*head, text)),
        (f"leak {thing}: {text}", log.Finding(*head, "leak", thing, text)),
        (f"error {name}: {text}", log.Finding(*head, "error", name, text)),
        (f"librpma INFO a.c:1 {name}: {text}", log.Message(*head, "INFO", "a.c:1", name, text)),
        (f"queue {thing} {full}", log.Queue(*head, thing, dict(queues))),
        (f"descriptor {thing} {data.hex()}", log.Descriptor(*head, thing, data)),
    ):
        assert parse(f"1 {rest}") == record


# ---- logs ---------------------------------------------------------------------------------------


def read(data: bytes) -> tuple[log.Reader, list[log.Record]]:
    reader = log.Reader(io.BytesIO(data))
    records = list(reader)
    return reader, records


def counts(data: bytes) -> tuple[int, int, int, int]:
    reader, records = read(data)
    assert reader.records == len(records)
    return reader.lines, reader.records, reader.foreign, reader.damaged


END = line("2 end").encode()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", (0, 0, 0, 0)),
        (END, (1, 1, 0, 0)),
        (END[:-1], (1, 1, 0, 0)),
        (END.replace(b"\n", b"\r\n") * 2, (2, 2, 0, 0)),
        (b"hello\n\n" + END, (3, 1, 2, 0)),
        (b"Connecting... " + END, (1, 1, 1, 0)),
        (END + END[:20], (2, 1, 0, 1)),
        (END + END[:-2] + b"\n", (2, 1, 0, 1)),
        (b"\xff\xfe\0" + END + b"\0\xff\n", (2, 1, 2, 0)),
        (line("1 where \xff\0").encode("latin1"), (1, 1, 0, 0)),
        (b"x" * (3 << 20) + b"\n" + END, (2, 1, 1, 0)),
        (b"x" * (3 << 20), (1, 0, 0, 1)),
    ],
)
def test_lines_that_are_not_the_logs_are_counted(
    data: bytes, expected: tuple[int, int, int, int]
) -> None:
    assert counts(data) == expected


class Pieces(io.BytesIO):
    """A pipe, which gives what has come by now."""

    def __init__(self, data: bytes, sizes: list[int]) -> None:
        super().__init__(data)
        self.sizes = sizes

    def read1(self, size: int | None = -1) -> bytes:
        return self.read(self.sizes.pop() if self.sizes else size)


@given(st.lists(st.integers(1, 200), max_size=50))
@settings(deadline=None)
def test_it_does_not_matter_in_which_pieces_a_log_comes(sizes: list[int]) -> None:
    data = SAMPLE.read_bytes()
    assert list(log.Reader(Pieces(data, sizes))) == read(data)[1]


@given(st.binary(max_size=2000))
@settings(deadline=None)
def test_no_bytes_upset_a_reader(data: bytes) -> None:
    reader, records = read(data + b"\n" + END)
    assert len(records) == reader.records >= 1
    summary = trace_summary.Summary()
    for record in records:
        summary.add(record)
    summary.finish()


# ---- sums ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**17) | st.integers(0, 5000), min_size=1, max_size=300))
@settings(deadline=None)
def test_durations_are_summed_up(durations: list[int]) -> None:
    function = trace_summary.Function()
    for duration in durations:
        function.add(duration)
    assert function.calls == len(durations)
    assert function.total == sum(durations)
    assert (function.least, function.greatest) == (min(durations), max(durations))
    for percent in (50, 99, 100):
        rank = -(-percent * len(durations) // 100)
        exact = sorted(durations)[rank - 1]
        assert abs(function.percentile(percent / 100) - exact) <= exact / 62


def test_calls_are_counted_by_function() -> None:
    found = facts(
        call("rpma_read(conn=conn#4, len=8)", duration=100),
        call("rpma_read(conn=conn#4, len=8)", duration=300),
        call("rpma_read(conn=conn#4, len=8)", "RPMA_E_PROVIDER", duration=200),
        call("rpma_cq_get_wc(cq=cq#5)", "RPMA_E_NO_COMPLETION", duration=7000),
        call("rpma_err_2str(ret=0)", '"Success"', duration=10),
    )
    read = {"calls": 3, "errors": 1, "empty": 0, "total": 600, "min": 100, "mean": 200}
    empty = {"calls": 1, "errors": 0, "empty": 1, "total": 7000, "min": 7000, "mean": 7000}
    text = {"calls": 1, "errors": 0, "empty": 0, "total": 10, "min": 10, "mean": 10}
    assert found["functions"] == [
        {"function": "rpma_cq_get_wc", **empty, "p50": 7000, "p99": 7000, "max": 7000},
        {"function": "rpma_read", **read, "p50": 202, "p99": 300, "max": 300},
        {"function": "rpma_err_2str", **text, "p50": 10, "p99": 10, "max": 10},
    ]


def errors(*lines: str) -> list[tuple[str, str, int, str, list[str]]]:
    keys = ("about", "code", "count", "message", "where")
    return [tuple(error[key] for key in keys) for error in facts(*lines)["errors"]]


def test_an_error_has_the_last_message_of_its_thread() -> None:
    write = call("rpma_write(conn=conn#4)", "RPMA_E_INVAL")
    assert errors(
        line("1 error rpma_write: first, RPMA_E_INVAL"),
        write,
        line("1 error rpma_read: another's", tid=9),
        line("1 error rpma_write: last, RPMA_E_INVAL"),
        line("1 where of it"),
        line("1 where of another", tid=9),
        write,
    ) == [
        ("rpma_write", "RPMA_E_INVAL", 2, "last", ["of it"]),
        ("rpma_read", "", 1, "another's", ["of another"]),
    ]


def test_errors_are_known_without_their_calls() -> None:
    one = line("1 error rpma_mr_reg: no memory, RPMA_E_NOMEM")
    assert errors(one, one) == [("rpma_mr_reg", "RPMA_E_NOMEM", 2, "no memory", [])]


def test_an_answer_is_no_error() -> None:
    ask = call("rpma_conn_next_event(conn=conn#4)", "RPMA_E_PROVIDER")
    answers = (
        ask,
        call("rpma_ep_next_conn_req(ep=ep#4)", "RPMA_E_NO_EVENT"),
        call("rpma_cq_get_wc(cq=cq#5)", "RPMA_E_NO_COMPLETION"),
        call("rpma_conn_get_compl_fd(conn=conn#4, fd=0x1)", "RPMA_E_NOT_SHARED_CHNL"),
    )
    assert errors(*answers) == []
    assert [it["empty"] for it in facts(*answers)["functions"]] == [1, 1, 1, 1]
    assert errors(line("1 error rpma_conn_next_event: broken"), ask) == [
        ("rpma_conn_next_event", "RPMA_E_PROVIDER", 1, "broken", [])
    ]


def test_findings_have_what_is_said_of_them() -> None:
    found = facts(
        line("1 leak conn#4: never deleted"),
        line("1 where conn#4 was made"),
        line("1 assertion rpma_write: conn is conn#5, which has been deleted", at=9, tid=9),
        line("1 where other thread"),
        line("1 where rpma_write(conn=conn#5)", tid=9),
        *[line("1 warning rpma_conn_delete: too early")] * 3,
    )["findings"]
    assert [(it["kind"], it["about"], it["count"], it["tid"], it["where"]) for it in found] == [
        ("assertion", "rpma_write", 1, 9, ["rpma_write(conn=conn#5)"]),
        ("warning", "rpma_conn_delete", 3, 7, []),
        ("leak", "conn#4", 1, 7, ["conn#4 was made", "other thread"]),
    ]


def test_an_assertion_tells_why_its_call_failed() -> None:
    assert errors(
        line("1 assertion rpma_read: conn is NULL"),
        line("1 where main()"),
        call("rpma_read(conn=NULL)", "RPMA_E_INVAL"),
    ) == [("rpma_read", "RPMA_E_INVAL", 1, "conn is NULL", [])]


def test_calls_that_do_not_end_are_found() -> None:
    wait = "rpma_cq_wait(cq=cq#5)"
    found = facts(
        line(f"4 enter {wait}", at=1),
        call(wait, at=2),
        line(f"4 enter {wait}", at=3, tid=8),
        line(f"4 enter {wait}", at=5),
        line("4 enter rpma_conn_wait(conn=conn#4)", at=6, tid=9),
        call(wait, at=7),
        line(f"2 start {LIBRPMA} ./again", at=20),
    )["unfinished"]
    assert [(it["function"], it["tid"], it["time"], it["waited"]) for it in found] == [
        ("rpma_cq_wait", 8, 2, 4),
        ("rpma_conn_wait", 9, 5, 1),
    ]


def lives(*lines: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = facts(*lines)["connections"]
    return found


def happened(life: dict[str, Any]) -> list[tuple[int, str]]:
    return [(event["time"], event["event"]) for event in life["events"]]


def test_a_connection_is_followed_from_its_request_on() -> None:
    (life,) = lives(
        line(f"2 start {LIBRPMA} ./a"),
        call('rpma_conn_req_new(peer=peer#1, addr="::1", port="1", req_ptr=conn_req#3)', at=10),
        call("rpma_conn_req_recv(req=conn_req#3, dst=mr_local#1, offset=0, len=64)", at=11),
        call("rpma_conn_req_connect(req_ptr=conn_req#3, pdata=NULL, conn_ptr=conn#4)", at=20),
        call("rpma_conn_get_cq(conn=conn#4, cq_ptr=cq#5)", at=21),
        call("rpma_conn_get_rcq(conn=conn#4, rcq_ptr=(NULL))", at=22),
        call("rpma_conn_next_event(conn=conn#4, event=ESTABLISHED)", at=30),
        call("rpma_conn_next_event(conn=conn#4)", "RPMA_E_NO_EVENT", at=31),
        call("rpma_write(conn=conn#4, dst=mr_remote#6, len=4096, flags=ALWAYS)", at=32),
        call("rpma_write(conn=conn#4, dst=mr_remote#6, len=4096)", "RPMA_E_INVAL", at=33),
        call("rpma_atomic_write(conn=conn#4, dst=mr_remote#6, src=0x1)", at=34),
        line("4 wc conn#4 cq#5 wr_id=0x7 status=SUCCESS opcode=RDMA_WRITE byte_len=0", at=35),
        line("4 wc - cq#5 wr_id=0x7 status=WR_FLUSH_ERR", at=36),
        line("4 wc - cq#9 wr_id=0x7 status=SUCCESS", at=36),
        line("4 queue conn#4 sq=3/10 rq=0/?", at=37),
        line("4 queue conn#4 sq=2/10 rq=?/?", at=38),
        call("rpma_conn_disconnect(conn=conn#4)", at=40),
        call("rpma_conn_next_event(conn=conn#4, event=CLOSED)", at=41),
        call("rpma_conn_delete(conn_ptr=conn#4)", "RPMA_E_PROVIDER", at=50),
        line("4 wc conn#4 cq#5 wr_id=0x7 status=SUCCESS", at=51),
    )
    assert (life["name"], life["about"], life["pid"]) == ("conn#4", "to [::1]:1", 7)
    assert happened(life) == [
        (10, "made"),
        (20, "connecting"),
        (30, "established"),
        (40, "disconnecting"),
        (41, "closed"),
        (50, "deleted (RPMA_E_PROVIDER)"),
    ]
    assert life["requests"] == {
        "recv": {"count": 1, "bytes": 64},
        "write": {"count": 1, "bytes": 4096},
        "atomic_write": {"count": 1, "bytes": 8},
    }
    assert life["cqs"] == ["cq#5"]
    assert life["completions"] == {"SUCCESS": 1, "WR_FLUSH_ERR": 1}
    assert life["queues"] == {
        "sq": {"greatest": 3, "size": 10},
        "rq": {"greatest": 0, "size": None},
    }


def test_a_server_knows_where_its_clients_come_to() -> None:
    refused, accepted = lives(
        call('rpma_ep_listen(peer=peer#1, addr="1.2.3.4", port="7204", ep_ptr=ep#2)'),
        call("rpma_ep_next_conn_req(ep=ep#2, cfg=NULL, req_ptr=conn_req#3)", at=1),
        call("rpma_ep_next_conn_req(ep=ep#2, cfg=NULL, req_ptr=conn_req#4)", at=2),
        call("rpma_conn_req_delete(req_ptr=conn_req#3)", at=3),
        call("rpma_conn_req_connect(req_ptr=conn_req#4, conn_ptr=(NULL))", "RPMA_E_NOMEM", at=4),
    )
    assert accepted["about"] == refused["about"] == "from a client of 1.2.3.4:7204"
    assert (refused["name"], happened(refused)) == ("conn_req#3", [(1, "made"), (3, "deleted")])
    assert happened(accepted) == [(2, "made"), (4, "connecting (RPMA_E_NOMEM)")]


def test_a_shared_receive_queue_is_followed_too() -> None:
    (life,) = lives(
        call("rpma_srq_new(peer=peer#1, cfg=NULL, srq_ptr=srq#2)"),
        call("rpma_srq_get_rcq(srq=srq#2, rcq_ptr=cq#3)"),
        call("rpma_srq_recv(srq=srq#2, dst=mr_local#1, offset=0, len=16)"),
        call("rpma_cq_get_wc(cq=cq#3, num_entries=4, wc=0x1, num_entries_got=3)"),
        call("rpma_cq_get_wc(cq=cq#3, num_entries=1, wc=0x1, num_entries_got=NULL)"),
        line("4 queue srq#2 rq=5/20"),
        call("rpma_srq_delete(srq_ptr=srq#2)"),
    )
    assert (life["name"], life["polled"]) == ("srq#2", 4)
    assert life["requests"] == {"recv": {"count": 1, "bytes": 16}}
    assert life["queues"] == {"rq": {"greatest": 5, "size": 20}}


def test_objects_with_one_number_of_many_processes_and_runs_are_many() -> None:
    run_of = [
        line(f"2 start {LIBRPMA} ./a"),
        *MADE,
        call("rpma_read(conn=conn#4, len=1)"),
        line("2 end"),
    ]
    found = facts(*run_of, *run_of, *(text.replace("[7/7]", "[8/8]") for text in run_of))
    assert [(it["pid"], it["has_ended"], it["calls"]) for it in found["processes"]] == [
        (7, True, 3),
        (7, True, 3),
        (8, True, 3),
    ]
    assert [life["requests"]["read"]["count"] for life in found["connections"]] == [1, 1, 1]


def test_a_forked_child_has_no_start() -> None:
    found = facts(
        line(f"2 start {LIBRPMA} ./a"),
        *MADE,
        call("rpma_read(conn=conn#4, len=1)", pid=8),
    )
    assert [(it["pid"], it["command"]) for it in found["processes"]] == [(7, "./a"), (8, "")]
    assert "(its start is not in the log)" in printed(call("rpma_read(conn=conn#4)", pid=8))


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_summary, "LIMIT", 10)
    monkeypatch.setattr(trace_summary, "LINES", 5)
    summary = trace_summary.Summary()
    for i in range(200):
        for text in (
            *MADE,
            call("rpma_conn_delete(conn_ptr=conn#4)"),
            call(f"rpma_f{i}(conn=conn#{i})", "RPMA_E_INVAL"),
            call(f"rpma_read(conn=conn#{i}, len=1)"),
            call(f"rpma_conn_get_cq(conn=conn#4, cq_ptr=cq#{i})"),
            call("rpma_conn_next_event(conn=conn#4, event=CLOSED)"),
            call(f'rpma_ep_listen(peer=peer#1, addr="a", port="1", ep_ptr=ep#{i})'),
            line(f"1 assertion rpma_f{i}: text {i}", tid=i),
            line("1 where text"),
            line("4 enter rpma_cq_wait(cq=cq#1)"),
            line("4 enter rpma_cq_wait(cq=cq#1)", tid=i),
            line(f"4 queue conn#4 q{i}=1/1"),
            line(f"4 wc conn#4 cq#1 status=S{i}"),
        ):
            for pid in (7, i):
                record = log.parse(text.rstrip("\n").replace("[7/", f"[{pid}/"))
                assert record is not None
                summary.add(record)

    def longest(thing: object) -> int:
        if isinstance(thing, str | int | type(None) | log.Line):
            return 0
        if isinstance(thing, dict):
            return max(len(thing), *map(longest, thing.values()), 0)
        if isinstance(thing, list | tuple | set):
            return max(len(thing), *map(longest, thing), 0)
        return max(map(longest, vars(thing).values()))

    assert longest(summary) <= 24  # the buckets of a function, or the attributes of the summary
    summary.finish()
    assert len(summary.unfinished) <= 10 + 5
    assert summary.left_out > 0


# ---- the command --------------------------------------------------------------------------------


def rows(output: str, title: str) -> list[list[str]]:
    """The lines of a part of the output, in words."""
    part = output.partition(f"\n{title}")[2].partition("\n\n")[0]
    return [text.split() for text in part.splitlines()]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_summary_fits_into_a_terminal(columns: int) -> None:
    code, output = run(SAMPLE, columns=columns)
    assert code == 0
    assert max(map(len, output.splitlines())) <= columns
    assert "..." not in output
    assert "…" not in output


def test_the_summary_has_it_all() -> None:
    code, output = run(SAMPLE)
    assert code == 0
    assert "189, up to level 4" in output
    assert "3 lines are not the log's" in output
    assert "1 line is damaged or cut off" in output
    assert "2026-11-22 17:05:12.000 to 17:05:15.541 UTC: 3.54 s" in output
    assert "/usr/lib/x86_64-linux-gnu/librpma.so.0, debug build 0.1.0" in output
    assert "1 ERROR" in output
    server, client, crashed = rows(output, "Processes")[3:]
    assert (server[:2], server[-1]) == (["4711", "./server"], "exited")
    assert (client[:2], client[-1]) == (["4712", "./client"], "exited")
    assert (crashed[0], crashed[-2:]) == ("4788", ["not", "logged"])
    calls = {row[0]: row[1:] for row in rows(output, "Calls") if len(row) > 2}
    assert calls["Function"] == ["Calls", "Empty", "Errors", "Total", "Mean", "p50", "p99", "Max"]
    assert calls["rpma_write"][:2] == ["14", "2"]  # two failed
    assert calls["rpma_cq_get_wc"][:2] == ["24", "12"]  # twelve found nothing
    assert calls["rpma_ep_next_conn_req"] == ["1", *["22ms"] * 5]
    assert rows(output, "Errors")[3][:3] == ["rpma_write", "RPMA_E_INVAL", "2"]
    assert "assertion rpma_mr_dereg: mr_ptr is mr_local#1, which a request" in output
    assert "    ./client(clean_up+0x33) [0x55d0c0002f33]" in output
    assert "leak peer#1: made by rpma_peer_new() and never deleted" in output
    assert "4788    4790  1.528897 s  2.01 s  rpma_cq_wait(cq=cq#1)" in output
    connections = [" ".join(row) for row in rows(output, "Connections")]
    at = connections.index("conn#1 of process 4712 to 127.0.0.1:7204")
    assert connections[at + 1 : at + 10] == [
        "0.022213 s made",
        "0.022278 s connecting",
        "0.022792 s established",
        "0.024053 s disconnecting",
        "0.024206 s closed",
        "0.027419 s deleted",
        "requests 12 write (48 KiB), 12 flush (48 KiB)",
        "completions 12 SUCCESS",
        "queues sq 5 of 8, rq 0 of 1, cq 4 of 16 at most",
    ]
    assert "3.540997 s lost" in connections


def test_a_summary_has_only_what_there_is() -> None:
    output = printed(line(f"2 start {LIBRPMA} ./a"), line("2 end"))
    for title in ("Function", "Errors", "Findings", "Connections", "not the log", "damaged"):
        assert title not in output


def test_long_lists_are_cut() -> None:
    many = [call(f"rpma_read(conn=conn#{i}, len=1)", pid=i + 1) for i in range(25)]
    output = printed(*many)
    assert output.count("and 5 more, with --json") == 2
    assert len(facts(*many)["connections"]) == 25


@pytest.mark.parametrize("text", ["\x1b[31mred", "[red]markup[/]", "\x9b2J", "\u202eabc", "a\rb"])
def test_a_log_cannot_command_the_terminal(text: str) -> None:
    output = printed(
        line(f"2 start {LIBRPMA} {text}"),
        line(f"1 warning rpma_f: {text}"),
        line(f"1 where {text}"),
        line(f"1 error rpma_f: {text}"),
        line(f'4 enter rpma_f(a="{text}")'),
        call(f'rpma_conn_req_new(peer=peer#1, addr="{text}", port="1", req_ptr=conn_req#3)'),
        line(f"4 queue conn#{text} sq=1/2"),
        columns=300,
    )
    assert all(c.isprintable() for c in output.replace("\n", ""))
    assert output.count(text.encode("unicode_escape").decode()) >= 6


def test_json_has_the_whole_summary() -> None:
    code, output = run(SAMPLE, "--json")
    assert code == 0
    found = json.loads(output)
    assert found["first"] == "2026-11-22T17:05:12.000006105Z"
    assert found["files"] == [
        {"name": str(SAMPLE), "lines": 193, "records": 189, "foreign": 3, "damaged": 1}
    ]
    assert found["messages"] == {"ERROR": 1}
    assert len(found["processes"]) == len(found["connections"]) == 3
    assert len(found["findings"]) == 3


def test_only_the_wanted_processes_are_summed_up(tmp_path: Path) -> None:
    code, output = run(SAMPLE, "--json", "--pid", "4711", "--pid", "4788")
    assert code == 0
    assert [it["pid"] for it in json.loads(output)["processes"]] == [4711, 4788]
    chrome = tmp_path / "trace.json"
    code, _ = run(SAMPLE, "--pid", "4788", "--chrome", chrome)
    assert {event["pid"] for event in events(chrome)} == {4788}
    code, output = run(SAMPLE, "--pid", "1", "--pid", "2")
    assert (code, output) == (1, "rpma trace: no record is of process 1 or 2\n")


def test_many_logs_are_one(tmp_path: Path) -> None:
    texts = SAMPLE.read_text().splitlines(keepends=True)
    (tmp_path / "a").write_text("".join(texts[:100]))
    (tmp_path / "b").write_text("".join(texts[100:]))
    code, output = run(tmp_path / "a", tmp_path / "b", "--json")
    assert code == 0
    whole, parts = json.loads(run(SAMPLE, "--json")[1]), json.loads(output)
    assert len(parts.pop("files")) == 2
    del whole["files"]
    assert parts == whole


def test_the_standard_input_is_read() -> None:
    code, output = run("-", stdin=SAMPLE.read_bytes())
    assert code == 0
    assert output.startswith("log           standard input ")
    assert output.partition("records")[2] == run(SAMPLE, columns=300)[1].partition("records")[2]


def test_what_is_no_log_is_said(tmp_path: Path) -> None:
    foreign, empty = tmp_path / "foreign", tmp_path / "empty"
    foreign.write_bytes(os.urandom(100_000) + b"\n" + Path(__file__).read_bytes())
    empty.touch()
    is_not = f"rpma trace: {foreign} is not the log of librpma's debug build\n"
    assert run(foreign) == (1, is_not)
    assert run(SAMPLE, foreign, "--json") == (1, is_not)
    assert run(empty) == (1, f"rpma trace: {empty} is empty\n")
    assert run("-", stdin=b"") == (1, "rpma trace: standard input is empty\n")


def test_wrong_usage_is_said(tmp_path: Path) -> None:
    missing, copy = tmp_path / "missing", tmp_path / "copy"
    copy.write_bytes(SAMPLE.read_bytes())
    for arguments, text in (
        ((), "Missing argument"),
        ((missing,), "does not exist"),
        ((tmp_path,), "is a directory"),
        ((SAMPLE, "--chrome", tmp_path), "is a directory"),
        ((SAMPLE, "--pid", "x"), "valid integer"),
        ((copy, "--chrome", copy), "is one of the logs"),
    ):
        code, output = run(*arguments, columns=300)
        assert code == 2, output
        assert text in output
    assert copy.read_bytes() == SAMPLE.read_bytes()


def test_what_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    code, output = run(SAMPLE, "--chrome", tmp_path / "no" / "folder")
    assert code == 1
    assert "No such file or directory" in output
    code, output = run(SAMPLE, "--chrome", "/dev/full")
    assert code == 1
    assert "No space left on device" in output


def test_neither_librpma_nor_a_terminal_of_many_characters_is_needed(tmp_path: Path) -> None:
    # As rpma_command.py does it where `import rpma` fails.
    (tmp_path / "librpma.so.0").touch()
    (tmp_path / "log").write_text(line(f"2 start {LIBRPMA} ./é"))
    code = (
        "import importlib.util, sys\n"
        "spec = importlib.util.find_spec('rpma')\n"
        "sys.modules['rpma'] = importlib.util.module_from_spec(spec)\n"
        "import typer\n"
        "from rpma.cli import output\n"
        "from rpma.cli.trace import trace\n"
        "app = typer.Typer()\n"
        "app.command()(trace)\n"
        "def work():\n"
        "    app(standalone_mode=False)\n"
        "    assert 'rpma._native' not in sys.modules\n"
        "output.run(work)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "log")],
        env=os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert r"./\xe9" in done.stdout


# ---- traces for Perfetto ------------------------------------------------------------------------


def exported(tmp_path: Path, *lines: str) -> list[dict[str, Any]]:
    path = tmp_path / "trace.json"
    code, output = run("-", "--chrome", path, stdin="".join(lines).encode())
    assert code == 0, output
    return events(path)


def of(phase: str, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in found if event["ph"] == phase]


def test_the_sample_becomes_a_trace(tmp_path: Path) -> None:
    code, _ = run(SAMPLE, "--chrome", tmp_path / "trace.json")
    found = events(tmp_path / "trace.json")
    assert code == 0
    expected = Counter(X=101, C=36, M=7, i=5, B=1, b=3, n=15, e=3)
    assert Counter(event["ph"] for event in found) == expected
    assert {it["args"]["name"] for it in of("M", found) if it["name"] == "process_name"} == {
        "./server 127.0.0.1 7204",
        "./client 127.0.0.1 7204",
        "./client --two-threads 127.0.0.1 7204",
    }


def test_a_call_is_a_slice(tmp_path: Path) -> None:
    first, second = of(
        "X",
        exported(
            tmp_path,
            call('rpma_f(a="x, y", b=(c=1))', at=1_000_000, duration=500),
            call("rpma_f(a=1)", "RPMA_E_INVAL", at=1_000_001, duration=1),
        ),
    )
    assert first["ts"] + first["dur"] == pytest.approx(second["ts"], abs=1e-4)
    assert (first["dur"], second["dur"]) == (0.5, 0.001)
    assert first["args"] == {"a": "x, y", "b": {"c": 1}, "result": "0"}
    assert second["args"] == {"a": 1, "result": "RPMA_E_INVAL"}


def test_queues_findings_and_waits_are_in_a_trace(tmp_path: Path) -> None:
    found = exported(
        tmp_path,
        line("4 queue conn#4 sq=3/10 rq=?/10"),
        line("1 warning rpma_f: text"),
        line("1 where here", tid=9),
        line("1 where there"),
        line("4 enter rpma_cq_wait(cq=cq#5)", tid=9),
    )
    (counter,), (instant,), (wait,) = of("C", found), of("i", found), of("B", found)
    assert (counter["name"], counter["args"]) == ("queues of conn#4", {"sq": 3})
    assert (instant["name"], instant["s"]) == ("warning: rpma_f", "t")
    assert instant["args"] == {"message": "text", "where": ["there"]}
    assert (wait["name"], wait["tid"], wait["args"]) == ("rpma_cq_wait", 9, {"cq": "cq#5"})
    names = [(it["name"], it["args"]["name"]) for it in of("M", found)]
    assert names == [
        ("process_name", "process 7"),
        ("thread_name", "main"),
        ("thread_name", "thread 9"),
    ]


def test_a_connection_is_a_span(tmp_path: Path) -> None:
    found = exported(
        tmp_path,
        call("rpma_read(conn=conn#1, len=1)"),
        *MADE,
        call("rpma_conn_delete(conn_ptr=conn#4)", at=2_000),
        call("rpma_conn_req_delete(req_ptr=conn_req#9)", at=3_000),
        line("2 end", at=4_000),
    )
    spans = {
        begin["name"]: end["ts"] - begin["ts"]
        for begin in of("b", found)
        for end in of("e", found)
        if begin["id"] == end["id"]
    }
    assert spans == pytest.approx({"conn#1": 4.0, "conn#4": 2.0, "conn_req#9": 3.0}, abs=1e-4)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    *MADE,
                    *(call(f"rpma_conn_{it}(conn=conn#4)") for it in ("delete", "disconnect")),
                    call("rpma_conn_req_delete(req_ptr=conn_req#3)"),
                    call("rpma_conn_req_connect(req_ptr=conn#4, conn_ptr=conn#4)"),
                    call("rpma_conn_next_event(conn=conn#4, event=LOST)"),
                    call("rpma_conn_get_cq(conn=conn#4, cq_ptr=cq#5)"),
                    *(line(f"4 {it} conn#4 cq#5 sq=1/1 status=SUCCESS") for it in ("wc", "queue")),
                    line("4 queue conn#4 sq=1/1"),
                    line("1 error rpma_f: a"),
                    line("1 where a"),
                    line("4 enter rpma_f(a=1)"),
                    line(f"2 start {LIBRPMA} ./a"),
                    line("2 end"),
                    "garbage\n",
                ]
            ),
            st.integers(1, 2),
            st.integers(21, 23),
        ),
        max_size=40,
    )
)
@settings(deadline=None, max_examples=60)
def test_any_order_of_records_makes_a_trace(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, int, int]]
) -> None:
    texts = (
        text.replace("[7/7]", f"[{pid}/{pid}]").replace("-11-22T17", f"-11-{day}T17")
        for text, pid, day in parts
    )
    folder = tmp_path_factory.mktemp("traces")
    exported(folder, line("2 end"), *texts)


def test_a_trace_is_whole_even_if_the_log_is_not(tmp_path: Path) -> None:
    (tmp_path / "foreign").write_text("hello\n")
    code, _ = run(tmp_path / "foreign", "--chrome", tmp_path / "trace.json")
    assert code == 1
    assert events(tmp_path / "trace.json") == []
    code, _ = run(SAMPLE, tmp_path / "foreign", "--chrome", tmp_path / "trace.json")
    assert code == 1
    assert len(events(tmp_path / "trace.json")) > 100


def test_a_trace_of_many_threads_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_chrome, "LIMIT", 10)
    with trace_chrome.Exporter(tmp_path / "trace.json") as exporter:
        for tid in range(100):
            record = log.parse(line("1 error rpma_f: a", tid=tid).rstrip("\n"))
            assert record is not None
            exporter.add(record)
        assert max(len(exporter._named), len(exporter._findings)) <= 11
    events(tmp_path / "trace.json")
