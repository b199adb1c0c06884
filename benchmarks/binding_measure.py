# SPDX-License-Identifier: BSD-3-Clause
"""What benchmarks/binding.py measures, and how: the workloads, the processes, the rounds."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import syscalls
from processes import end_input

HERE = Path(__file__).resolve().parent
CLIENT = HERE / "binding_client.py"
TARGET = HERE / "binding_target.py"

QUEUE_SIZE = 64  # sq_size and cq_size of every connection
DEPTH = 16
SEGMENTS = 1000  # of a batch
ANSWER_LIMIT = 60.0  # seconds; a client that says nothing for so long hangs


@dataclass(frozen=True)
class Way:
    """One way to do the work: a function of the C twin, or a method of the Python client."""

    side: str
    name: str
    title: str

    @property
    def key(self) -> str:
        return f"{self.side} {self.name}"


@dataclass(frozen=True)
class Workload:
    """Work that C and Python do alike. Ratios are to the fastest of C's ways."""

    name: str
    title: str
    ways: tuple[Way, ...]
    aim: float | None  # for the first of Python's ways
    batch: int = 0  # operations of one call, where a run is several calls


WORKLOADS = (
    Workload(
        "one",
        "8 B write + flush, one at a time",
        (
            Way("C", "write_flush_event", "rpma_cq_wait, rpma_cq_get_wc"),
            Way("C", "write_flush_look", "rpma_cq_get_wc first"),
            Way("C", "write_flush_poll", "control: waits as Python does"),
            Way("Python", "write_flush", "write_wait(flush=)"),
            Way("Python", "write_flush_steps", "write, flush, next_wc"),
        ),
        0.9,
    ),
    Workload(
        "spin",
        "the same, never sleeping",
        (
            Way("C", "write_flush_spin", "until rpma_cq_get_wc has it"),
            Way("Python", "write_flush_spin", "until get_wc has it"),
        ),
        None,
    ),
    Workload(
        "window",
        f"4 KiB writes, {DEPTH} under way",
        (
            Way("C", "window", "rpma_write, rpma_cq_get_wc"),
            Way("Python", "window", "write, get_wcs"),
        ),
        None,
    ),
    Workload(
        "batch",
        f"4 KiB writes, batches of {SEGMENTS}",
        (
            Way("C", "batch", "a loop over rpma_write"),
            Way("Python", "batch", "write_batch of an array"),
            Way("Python", "batch_list", "write_batch of a list"),
        ),
        0.95,
        SEGMENTS,
    ),
)


# ---- the processes ------------------------------------------------------------------------------


class Process:
    """A process that is told things by lines and answers by lines."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self.name = Path(command[-1 if len(command) == 1 else 0]).name
        self._process = subprocess.Popen(
            command,
            env=os.environ | dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        self._rest = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        return self.answer()

    def answer(self) -> str:
        """The next line; ends the program if there is none."""
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], ANSWER_LIMIT)
            chunk = os.read(self._process.stdout.fileno(), 4096) if ready else b""
            if not chunk:
                sys.exit(f"binding: {self.name} {'ended' if ready else 'hangs'}")
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode()

    def close(self) -> None:
        end_input(self._process)


@dataclass
class Clients:
    """The connected C twin and Python client."""

    sides: dict[str, Process]
    target: Process
    file: Path

    def run(self, way: Way, count: int) -> int:
        """Run `count` operations; the nanoseconds that they took."""
        return int(self.sides[way.side].tell(f"{way.name} {count} -"))

    def latencies(self, way: Way, count: int) -> array[int]:
        """Run `count` operations; the nanoseconds of each."""
        self.sides[way.side].tell(f"{way.name} {count} {self.file}")
        return array("Q", self.file.read_bytes())


@contextmanager
def connected(
    address: str, port: str, twin: str, variables: Mapping[str, str]
) -> Iterator[Clients]:
    """Start all three. `variables`: what programs other than Python's need on this fabric."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="binding-"))

        def start(command: Sequence[str], variables: Mapping[str, str]) -> Process:
            process = Process(command, variables)
            stack.callback(process.close)
            return process

        target = start((sys.executable, str(TARGET), address, port, "2", str(QUEUE_SIZE)), {})
        assert target.answer() == "ready"
        arguments = (address, port, str(QUEUE_SIZE), str(DEPTH))
        sides = {
            "C": start((twin, *arguments), variables),
            "Python": start((sys.executable, str(CLIENT), *arguments), {}),
        }
        for side in sides.values():
            assert side.answer() == "ready"
        yield Clients(sides, target, Path(folder, "latencies"))


# ---- the rounds ---------------------------------------------------------------------------------


@dataclass
class Record:
    """What was measured of one way."""

    ops: list[float] = field(default_factory=list)  # operations per second, by round
    latencies: list[float] = field(default_factory=list)  # microseconds per operation


def measure(
    clients: Clients, loads: list[Workload], rounds: int, seconds: float, limit: float
) -> dict[str, Any]:
    """Run all the ways in turn, `rounds` times, or fewer where the time limit comes first."""
    began = time.monotonic()
    counts = {load.name: calibrated(clients, load, seconds) for load in loads}
    records = {way.key: Record() for load in loads for way in load.ways}
    done = 0
    for number in range(rounds):
        if number >= 2 and (time.monotonic() - began) * (number + 1) / number > limit:
            break
        for load in loads:
            # Who comes first alternates.
            for way in load.ways if number % 2 == 0 else reversed(load.ways):
                one_run(clients, load, way, counts[load.name], records[way.key])
        done += 1
        say(f"round {done} of {rounds}, {time.monotonic() - began:.0f} s")
    return {
        "rounds": done,
        "counts": counts,
        "ways": {key: summary(record) for key, record in records.items()},
    }


def calibrated(clients: Clients, load: Workload, seconds: float) -> int:
    """How many operations take about `seconds`. Every way is warm after it."""
    for way in load.ways[1:]:
        clients.run(way, load.batch or 50)
    count = load.batch or 50
    took = clients.run(load.ways[0], count)
    count = max(count, int(count * seconds * 1e9 / took))
    return count - count % load.batch if load.batch else count


def one_run(clients: Clients, load: Workload, way: Way, count: int, record: Record) -> None:
    if load.batch:
        times = [clients.run(way, load.batch) for _ in range(count // load.batch)]
        record.ops.append(count / sum(times) * 1e9)
        record.latencies += [took / load.batch / 1e3 for took in times]
        return
    # Operations are timed one by one in a run of their own, which the throughput does not count.
    record.ops.append(count / clients.run(way, count) * 1e9)
    record.latencies += [took / 1e3 for took in clients.latencies(way, max(50, count // 2))]


def summary(record: Record) -> dict[str, Any]:
    ordered = sorted(record.latencies)
    return {
        "ops": [round(ops, 2) for ops in record.ops],
        "p50_us": round(ordered[len(ordered) // 2], 3),
        "p99_us": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 3),
        "samples": len(ordered),
    }


def count_syscalls(clients: Clients, loads: list[Workload]) -> dict[str, Any]:
    """System calls per operation, of the client and of the target."""
    counted: dict[str, Any] = {}
    for load in loads:
        count = load.batch or 300
        for way in load.ways:
            client, target = clients.sides[way.side].pid, clients.target.pid
            clients.run(way, count)
            with syscalls.counted((client, target)) as calls:
                clients.run(way, count)
            counted[way.key] = {
                process: {name: hits / count for name, hits in calls[pid].items() if hits > 5}
                for process, pid in (("client", client), ("target", target))
            }
            say(f"system calls of {way.key}")
    return counted


def say(text: str) -> None:
    """Tell the process that shows the progress."""
    print(json.dumps({"progress": text}), flush=True)
