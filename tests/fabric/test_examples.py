"""Every example does what it says, run as its users run it: as two or more processes."""

from __future__ import annotations

import argparse
import importlib
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import rpma
from fabrics.fabric import DAX_VARIABLE, Fabric
from rpma import allocation

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

#: Seconds that a process may take; the guest's processor is emulated.
LIMIT = 120

#: Not an example itself.
SHARED = "common"

#: An example with one side only, and without a device.
LOCAL = "log"

Arguments = tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One way to run an example, and what must come of it. FILE stands for a path on tmpfs, or for
    a device DAX.
    """

    example: str
    #: Arguments of the target, after address and port, and lines that it must print.
    target: Arguments = ()
    target_prints: Arguments = ()
    #: Arguments of each initiator, and lines that each must print.
    initiators: tuple[Arguments, ...] = ((),)
    initiator_prints: Arguments = ()
    #: What FILE holds before (None: there is no such file), and what it starts with afterwards.
    before: bytes | None = None
    after: bytes | None = None
    is_dax: bool = False


TEXT = "Les sanglots longs"
HELLO = "Hello from the initiator!"
LOG_BEFORE = b"LOG".ljust(8, b"\0") + (23).to_bytes(8, "little") + b"before\0"
LOG_AFTER = b"LOG".ljust(8, b"\0") + (31).to_bytes(8, "little") + b"before\0one\0two\0"

CASES = {
    "connection": Case(
        "connection",
        target_prints=(
            "connected; the other side says: Hello server!",
            "the connection has ended: Connection closed",
        ),
        initiator_prints=(
            "connected; the other side says: Hello client!",
            "the connection has ended: Connection closed",
        ),
    ),
    "read_to_volatile": Case(
        "read_to_volatile",
        target_prints=("offered: 14 bytes to read",),
        initiator_prints=("read: Hello client!",),
    ),
    "read_to_persistent": Case(
        "read_to_persistent",
        target=("FILE",),
        target_prints=(
            "mapped FILE: not on DAX", f"read: {TEXT}", "it is as durable as FILE can make it"
        ),
        initiators=((TEXT,),),
        initiator_prints=(f"offered: {TEXT}", "the target has disconnected"),
        after=TEXT.encode() + b"\0",
    ),
    "read_to_persistent, DRAM": Case(
        "read_to_persistent",
        target_prints=(
            f"read: {HELLO}",
            "it is not durable: sync: anonymous memory has no file to be written to",
        ),
    ),
    "write_to_persistent": Case(
        "write_to_persistent",
        target=("FILE",),
        target_prints=(
            "found: before", f"written: {TEXT}", "it is as durable as FILE can make it"
        ),
        initiators=((TEXT,),),
        initiator_prints=(
            f"written, visible on the target, not durable yet: {TEXT}", "read back: the same"
        ),
        before=b"before".ljust(8192, b"\0"),
        after=TEXT.encode() + b"\0",
    ),
    "flush_to_persistent": Case(
        "flush_to_persistent",
        target=("FILE", "--direct-write-to-pmem"),
        target_prints=("mapped FILE: persistent memory (DAX)", f"written: {TEXT}"),
        initiators=((TEXT,),),
        initiator_prints=(
            f"written and flushed (PERSISTENT): {TEXT}",
            "by what the target states it is durable",
            "read back: the same",
        ),
        before=b"before",
        after=TEXT.encode() + b"\0",
        is_dax=True,
    ),
    "flush_to_persistent, a false statement about a tmpfs": Case(
        "flush_to_persistent",
        target=("FILE", "--direct-write-to-pmem"),
        target_prints=(
            "beware: direct write to pmem is stated, but this is not persistent memory",
            f"written: {TEXT}",
        ),
        initiators=((TEXT,),),
        initiator_prints=(
            f"written and flushed (VISIBILITY): {TEXT}",
            "by what the target states it is visible, but not durable",
            "read back: the same",
        ),
        after=TEXT.encode() + b"\0",
    ),
    "flush_to_persistent, DRAM": Case(
        "flush_to_persistent",
        target_prints=(f"written: {HELLO}",),
        initiator_prints=(
            f"written and flushed (VISIBILITY): {HELLO}",
            "by what the target states it is visible, but not durable",
        ),
    ),
    "flush_to_persistent_gpspm": Case(
        "flush_to_persistent_gpspm",
        target=("FILE",),
        target_prints=(f"sync of {len(TEXT) + 1} bytes at 0: Success", f"written: {TEXT}"),
        initiators=((TEXT,),),
        initiator_prints=(
            f"written: {TEXT}", "the target says that it is durable", "read back: the same"
        ),
        after=TEXT.encode() + b"\0",
    ),
    "flush_to_persistent_gpspm, DRAM, shared channel": Case(
        "flush_to_persistent_gpspm",
        target=("--shared-channel",),
        target_prints=(
            f"sync of {len(HELLO) + 1} bytes at 0: Operation not supported", f"written: {HELLO}"
        ),
        initiators=(("--shared-channel",),),
        initiator_prints=("the target says that it is not durable (Operation not supported)",),
    ),
    "multiple_connections": Case(
        "multiple_connections",
        target=("--initiators", "2"),
        target_prints=("met Ada", "met Grace"),
        initiators=(("Ada",), ("Grace",)),
        initiator_prints=("the target has disconnected",),
    ),
    "multiple_connections, shared channel": Case(
        "multiple_connections",
        target=("--initiators", "2", "--shared-channel"),
        target_prints=("met Ada", "met Grace"),
        initiators=(("Ada",), ("Grace",)),
        initiator_prints=("the target has disconnected",),
    ),
    "atomic_write": Case(
        "atomic_write",
        target=("FILE", "--direct-write-to-pmem"),
        target_prints=("found: ['before']", "the log: ['before', 'one', 'two']"),
        initiators=(("one", "two"),),
        initiator_prints=(
            "appended: one (durable)",
            "appended: two (durable)",
            "the log: ['before', 'one', 'two']",
        ),
        before=LOG_BEFORE.ljust(4096, b"\0"),
        after=LOG_AFTER + b"\0",
        is_dax=True,
    ),
    "atomic_write, a false statement about a tmpfs": Case(
        "atomic_write",
        target=("FILE", "--direct-write-to-pmem"),
        target_prints=(
            "beware: direct write to pmem is stated, but this is not persistent memory",
            "the log: ['before', 'one']",
        ),
        initiators=(("one",),),
        initiator_prints=(
            "appended: one (visible, not durable)",
            "the log: ['before', 'one']",
        ),
        before=LOG_BEFORE.ljust(4096, b"\0"),
        after=LOG_AFTER[:-4].replace((31).to_bytes(8, "little"), (27).to_bytes(8, "little")),
    ),
    "atomic_write, DRAM": Case(
        "atomic_write",
        target_prints=("made an empty log", "found: []", "the log: ['one']"),
        initiators=(("one",),),
        initiator_prints=("appended: one (visible, not durable)", "the log: ['one']"),
    ),
    "messages_ping_pong": Case(
        "messages_ping_pong",
        target_prints=("received: 40", "received: 41", "the initiator is done"),
        initiators=(("--seed", "40", "--rounds", "2"),),
        initiator_prints=("received: 41", "received: 42"),
    ),
    "receive_completion_queue": Case(
        "receive_completion_queue",
        target_prints=("received: 40", "received: 41", "the initiator is done"),
        initiators=(("--seed", "40", "--rounds", "2"),),
        initiator_prints=("received: 41", "received: 42"),
    ),
    "receive_completion_queue, shared channel": Case(
        "receive_completion_queue",
        target=("--shared-channel",),
        target_prints=("received: 40", "received: 41", "the initiator is done"),
        initiators=(("--seed", "40", "--rounds", "2", "--shared-channel"),),
        initiator_prints=("received: 41", "received: 42"),
    ),
    **{
        f"shared_receive_queue, {completions}": Case(
            "shared_receive_queue",
            target=("--initiators", "2", "--completions", completions),
            target_prints=(
                "received: 7", "received: 8", "received: 70", "all initiators are done"
            ),
            initiators=(("--seed", "7", "--rounds", "2"), ("--seed", "70", "--rounds", "1")),
        )
        for completions in ("srq", "connection", "rcq")
    },
    "send_with_imm": Case(
        "send_with_imm",
        target_prints=("received immediate data: 0xcafe", "received word: 'Kaffee'"),
        initiators=(("0xCAFE", "Kaffee"),),
        initiator_prints=("sent 'Kaffee' with immediate data 0xcafe",),
    ),
    "send_with_imm, no word": Case(
        "send_with_imm",
        target_prints=("received immediate data: 0xffffffff", "received word: ''"),
        initiators=(("0xFFFFFFFF",),),
        initiator_prints=("sent '' with immediate data 0xffffffff",),
    ),
    "write_with_imm": Case(
        "write_with_imm",
        target_prints=("received immediate data: 0xcafe, found written: 0xcafe",),
        initiators=(("0xCAFE",),),
        initiator_prints=("wrote 0xcafe with the same as immediate data",),
    ),
}  # fmt: skip


class Processes:
    """Examples that run; none is left behind."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, example: str, *arguments: str) -> Process:
        command = [sys.executable, "-W", "always::ResourceWarning", f"{EXAMPLES / example}.py"]
        return self.start_program([*command, *arguments])

    def start_program(
        self, command: list[str], environment: dict[str, str] | None = None
    ) -> Process:
        path = self._folder / f"{len(self._running)}"
        with path.open("wb") as output:
            popen = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        self._running.append(popen)
        return Process(popen, path)

    def end(self) -> None:
        for popen in self._running:
            popen.kill()
            popen.wait()


@dataclass
class Process:
    """A side of an example, with all it prints in a file."""

    _popen: subprocess.Popen[bytes]
    _path: Path

    def output(self) -> str:
        return self._path.read_text()

    def wait_for_line(self, start: str) -> None:
        """Wait until it prints a line that starts so."""
        deadline = time.monotonic() + LIMIT
        while not any(line.startswith(start) for line in self.output().splitlines()):
            assert self._popen.poll() is None, f"it ended: {self.output()}"
            assert time.monotonic() < deadline, f"not {start!r} in time: {self.output()}"
            time.sleep(0.05)

    def finish(self, code: int = 0) -> list[str]:
        """Wait until it ends, with this exit code, and return the lines that it printed."""
        try:
            found = self._popen.wait(LIMIT)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end in time: {self.output()}")
        output = self.output()
        assert found == code, output
        assert "Traceback" not in output
        assert "ResourceWarning" not in output
        return output.splitlines()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path)
    yield running
    running.end()


@pytest.fixture
def file() -> Iterator[str]:
    """A path on tmpfs, of which nothing is left."""
    path = Path("/dev/shm") / f"rpma-example-{os.getpid()}"
    yield str(path)
    path.unlink(missing_ok=True)


@pytest.mark.fabric
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_does_what_it_says(case: Case, fabric: Fabric, processes: Processes, file: str) -> None:
    if case.is_dax:
        if fabric.dax is None:
            pytest.skip(f"takes persistent memory: {DAX_VARIABLE} names a device DAX")
        file = fabric.dax

    def with_file(arguments: Arguments) -> list[str]:
        return [argument.replace("FILE", file) for argument in arguments]

    if case.before is not None and case.is_dax:
        with allocation.map_file(file) as memory:
            memory.view[: len(case.before)] = case.before
    elif case.before is not None:
        Path(file).write_bytes(case.before)
    where = (fabric.address, fabric.next_port())

    target = processes.start(case.example, "target", *where, *with_file(case.target))
    target.wait_for_line("listening on ")
    initiators = [
        processes.start(case.example, "initiator", *where, *arguments)
        for arguments in case.initiators
    ]

    for initiator in initiators:
        assert_printed(with_file(case.initiator_prints), initiator.finish())
    assert_printed(with_file(case.target_prints), target.finish())
    if case.after is not None and case.is_dax:
        with allocation.map_file(file) as memory:
            assert bytes(memory.view[: len(case.after)]) == case.after
    elif case.after is not None:
        assert Path(file).read_bytes().startswith(case.after)


def assert_printed(wanted: list[str], lines: list[str]) -> None:
    missing = [line for line in wanted if line not in lines]
    assert not missing, lines


# ---- with their twins in C -----------------------------------------------------------------------

#: The examples, and what both sides print: of a target in C, of an initiator in C.
TWINS: dict[str, tuple[Arguments, Arguments, Arguments]] = {
    "connection": (
        (),
        ("received: Hello server!", "connected; the other side says: Hello client!"),
        ("received: Hello client!", "connected; the other side says: Hello server!"),
    ),
    "read_to_volatile": ((), ("read: Hello client!",), ("read: Hello client!",)),
    "read_to_persistent": (
        (),
        (f"read: {HELLO}", f"offered: {HELLO}"),
        ("read: from C", "the initiator sent no checksum to compare with"),
    ),
    "write_to_persistent": (
        (),
        (f"written: {HELLO}", "read back: the same"),
        ("written: from C",),
    ),
    "flush_to_persistent": (
        (),
        (f"written: {HELLO}", "not read back: the target does not offer that"),
        ("written: from C",),
    ),
    "flush_to_persistent_gpspm": (
        (),
        (
            f"flush: {len(HELLO) + 1} at 0",
            f"written: {HELLO}",
            "the target has answered, as if it were durable: of what memory it does not say",
        ),
        ("answered", "sync of 1024 bytes at 0: Operation not supported", "written: from C"),
    ),
    "multiple_connections": (("Ada",), ("read: Ada",), ("met from C",)),
    "atomic_write": (
        ("one", "two"),
        ("word: one", "word: two", "the log: ['one', 'two']"),
        ("the log: ['from C']",),
    ),
    "messages_ping_pong": (
        ("--seed", "40"),
        ("received: 40", "received: 41", "received: 42", "received: 43"),
        ("received: 40", "received: 41", "received: 42", "received: 43"),
    ),
    "receive_completion_queue": (
        ("--seed", "40"),
        ("received: 40", "received: 41", "received: 42", "received: 43"),
        ("received: 40", "received: 41", "received: 42", "received: 43"),
    ),
    "shared_receive_queue": (
        ("--seed", "40"),
        ("received: 40", "received: 41", "received: 42", "received: 43"),
        ("received: 40", "received: 43", "all initiators are done"),
    ),
    "send_with_imm": (
        ("0xCAFE", "Kaffee"),
        ("received: Kaffee with 0xcafe",),
        ("received immediate data: 0xcafe", "received word: 'Kaffee'"),
    ),
    "write_with_imm": (
        ("0xCAFE",),
        ("written: 0xcafe with 0xcafe",),
        ("received immediate data: 0xcafe, found written: 0xcafe",),
    ),
}

#: Whose messages are another example's, in C: only queues of its own side differ.
AS = {"receive_completion_queue": "messages_ping_pong"}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The other side of each example, in C."""
    program = tmp_path_factory.mktemp("twins") / "example_twins"
    source = Path(__file__).parent / "example_twins.c"
    options = ("-Wall", "-Wextra", "-Werror", "-O1")
    subprocess.run(["gcc", *options, source, "-lrpma", "-libverbs", "-o", program], check=True)
    return str(program)


def example_in_c(example: str, side: str) -> str:
    if example == "shared_receive_queue" and side == "target":
        return "messages_ping_pong"  # one connection: nobody sees from where receives are taken
    return AS.get(example, example)


@pytest.mark.fabric
@pytest.mark.parametrize("example", TWINS)
def test_it_understands_a_target_in_c(
    example: str, fabric: Fabric, processes: Processes, twin: str
) -> None:
    arguments, prints, _ = TWINS[example]
    where = (fabric.address, fabric.next_port())
    in_c = [twin, "target", example_in_c(example, "target"), *where]
    target = processes.start_program(in_c, fabric.environment)
    target.wait_for_line("listening")
    initiator = processes.start(example, "initiator", *where, *arguments)
    assert_printed([*prints], initiator.finish() + target.finish())


@pytest.mark.fabric
@pytest.mark.parametrize("example", TWINS)
def test_it_understands_an_initiator_in_c(
    example: str, fabric: Fabric, processes: Processes, twin: str
) -> None:
    _, _, prints = TWINS[example]
    where = (fabric.address, fabric.next_port())
    extra = ["--initiators", "1"] if example == "multiple_connections" else []
    target = processes.start(example, "target", *where, *extra)
    target.wait_for_line("listening on ")
    in_c = [twin, "initiator", example_in_c(example, "initiator"), *where]
    initiator = processes.start_program(in_c, fabric.environment)
    assert_printed([*prints], initiator.finish() + target.finish())


def test_every_example_has_a_twin() -> None:
    assert set(TWINS) | {LOCAL} == {path.stem for path in EXAMPLES.glob("*.py")} - {SHARED}


# ---- with others ---------------------------------------------------------------------------------

OFFER = struct.Struct("<HBB24s")


def an_offer(size: int = 1 << 10, offset: int = 0, sizes: tuple[int, int] = (21, 0)) -> bytes:
    descriptor = struct.pack("<QQIB", 4096, size, 1, int(rpma.Usage(0xFF)))
    return OFFER.pack(offset, *sizes, descriptor)


#: What a target may send as private data, and what is not said of it.
LIES = {
    "nothing": None,
    "a byte": b"a",
    "zeros": bytes(56),
    "text": b"Hello client!".ljust(56, b"\0"),
    "a descriptor alone": an_offer()[4:],
    "a size before it": bytes([21]) + an_offer()[4:],
    "more than there is": an_offer(sizes=(24, 1)),
    "no descriptor": an_offer(sizes=(0, 1)),
    "half a descriptor": an_offer(sizes=(20, 1)),
    "a region of all there is": an_offer(size=(1 << 64) - 1),
    "a region of most": an_offer(size=1 << 62, offset=8),
    "a small region": an_offer(size=7),
    "an end beyond": an_offer(offset=65535),
}

ASKING = ("read_to_volatile", "write_to_persistent", "flush_to_persistent_gpspm", "atomic_write")


@pytest.mark.fabric
@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("example", ASKING)
def test_what_a_target_says_is_not_believed(example: str, lie: str, fabric: Fabric) -> None:
    """In this process: it ends in a sentence, not in MemoryError, struct.error or OverflowError."""
    if fabric.name != "soft":
        pytest.skip("one fabric is enough: no byte of this depends on it")
    if lie == "a region of most" and example in (
        "write_to_persistent",
        "flush_to_persistent_gpspm",
    ):
        pytest.skip("they write to the beginning of it: that may be")
    arguments = argparse.Namespace(
        address=fabric.address,
        port=fabric.next_port(),
        text="text",
        words=["word"],
        shared_channel=False,
    )
    told: list[BaseException] = []

    def ask() -> None:
        try:
            example_module(example).initiator(arguments)
        except BaseException as error:
            told.append(error)

    with (
        rpma.Peer.for_address(fabric.address) as peer,
        peer.listen(fabric.address, arguments.port) as endpoint,
    ):
        thread = threading.Thread(target=ask)
        thread.start()
        with endpoint.accept(LIES[lie], timeout=LIMIT) as connection:
            connection.wait_closed(LIMIT)
        thread.join(LIMIT)
    (error,) = told
    is_peers = type(error).__name__ in ("PeerError", "InvalidArgumentError")
    assert is_peers or isinstance(error, rpma.CompletionError), repr(error)
    assert len(str(error)) > 20


def example_module(name: str) -> Any:
    """An example, as a module; run as programs, they find what they share beside them."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.mark.fabric
def test_an_initiator_without_a_target_fails(fabric: Fabric, processes: Processes) -> None:
    where = (fabric.address, fabric.next_port())
    (line,) = processes.start("read_to_volatile", "initiator", *where).finish(code=1)
    assert line.startswith("ConnectionRejected: ")


def test_the_log_goes_where_it_is_sent(processes: Processes) -> None:
    lines = processes.start(LOCAL).finish()
    for start in ("to a function: [ERROR]", "to logging: ERROR rpma:", "with the log disabled"):
        assert any(line.startswith(start) for line in lines), lines


def test_no_example_is_left_out() -> None:
    examples = {path.stem for path in EXAMPLES.glob("*.py")} - {SHARED}
    assert {case.example for case in CASES.values()} | {LOCAL} == examples
    readme = (EXAMPLES / "README.md").read_text()
    assert not [name for name in examples if f"({name}.py)" not in readme]
