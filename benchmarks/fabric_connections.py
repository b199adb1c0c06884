# SPDX-License-Identifier: BSD-3-Clause
"""A thousand connections into one target: the part of benchmarks/fabric.py that needs its own C."""

from __future__ import annotations

import os
import select
import shlex
import statistics
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fabric_programs import ADDRESS, FailedError, Soft, free_port
from processes import end_input

HERE = Path(__file__).resolve().parent
QUEUE_SIZE = 16  # send and receive requests of every connection
OPERATIONS = 4000  # of a run
DEPTHS = (1, 16)  # writes under way
LIMIT = 60.0  # seconds for an answer

MEMORY_AIM_KIB = 64
COST_AIM = 1.3


class Process:
    """The target or the client: told things by lines, answering with numbers."""

    def __init__(self, program: Path, role: str, port: int) -> None:
        self._command = [str(program), role, ADDRESS, str(port), str(QUEUE_SIZE)]
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=Soft.environment(),
            bufsize=0,
        )
        self._answer()

    def ask(self, line: str) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        return int(self._answer())

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], LIMIT)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self.close()
            assert self._process.stderr is not None
            said = self._process.stderr.read().decode()
            raise FailedError(
                f"{shlex.join(self._command)} {'ended' if ready else 'hangs'}: {said}"
            )
        return line

    def close(self) -> None:
        end_input(self._process)


def build(folder: Path, name: str, *libraries: str) -> Path:
    program = folder / name
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=gnu11", "-O2", "-Wall", "-Wextra"]
    command += ["-o", str(program), str(HERE / f"{name}.c"), *libraries, "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise FailedError(f"{shlex.join(command)}:\n{done.stderr}")
    return program


@contextmanager
def started(program: Path) -> Iterator[dict[str, Process]]:
    """The target and the client, with one connection that has been used."""
    port = free_port()
    sides: dict[str, Process] = {}
    try:
        for role in ("target", "client"):
            sides[role] = Process(program, role, port)
        sides["client"].ask("connect 1")
        sides["client"].ask("write 1 1000 1")
        yield sides
    finally:
        for side in reversed(sides.values()):
            side.close()


def measure(folder: Path, count: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What a connection takes of memory, and what `count` of them make of an operation."""
    rdma = build(folder, "fabric_connections", "-lrdmacm", "-libverbs")
    sockets = build(folder, "fabric_sockets")
    say(f"{count} connections")
    with started(rdma) as sides:
        client = sides["client"]
        before = {name: side.ask("memory") for name, side in sides.items()}
        took = client.ask(f"connect {count}")
        # Every connection has been used before its memory is looked at.
        client.ask(f"write {count} {4 * count} 1")
        after = {name: side.ask("memory") for name, side in sides.items()}
        runs = all_rounds(sides, count, rounds, DEPTHS, say)
    # By themselves: sides that look for events all the time would be in each other's way.
    with started(sockets) as sides:
        sides["client"].ask(f"connect {count}")
        socket_runs = all_rounds(sides, count, rounds, (1,), say)
    return {
        "count": count,
        "queue_size": QUEUE_SIZE,
        "connect_us": took / (count - 1) / 1e3,
        "memory_kib": {name: (after[name] - before[name]) / (count - 1) / 1024 for name in before},
        "runs": runs,
        "cost": {str(depth): cost(runs, count, depth) for depth in DEPTHS},
        "socket_runs": socket_runs,
        "socket_cost": cost(socket_runs, count, 1),
    }


def all_rounds(
    sides: dict[str, Process],
    count: int,
    rounds: int,
    depths: Sequence[int],
    say: Callable[[str], None],
) -> dict[str, list[dict[str, float]]]:
    runs: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        for depth in depths:
            for over in (1, count) if number % 2 == 0 else (count, 1):
                say(f"round {number + 1} of {rounds}: writes over {over} connections")
                # The caches are those of the connections in question.
                sides["client"].ask(f"write {over} {min(over, 1000)} {depth}")
                runs.setdefault(f"{over} {depth}", []).append(
                    one_run(sides, over, OPERATIONS, depth)
                )
    return runs


def one_run(sides: dict[str, Process], over: int, operations: int, depth: int) -> dict[str, float]:
    cpu = {name: side.ask("cpu") for name, side in sides.items()}
    took = sides["client"].ask(f"write {over} {operations} {depth}")
    used = {f"{name}_cpu": (side.ask("cpu") - cpu[name]) for name, side in sides.items()}
    return {name: ns / operations / 1e3 for name, ns in {"us": took, **used}.items()}


def cost(runs: dict[str, list[dict[str, float]]], count: int, depth: int) -> dict[str, float]:
    one, many = runs[f"1 {depth}"], runs[f"{count} {depth}"]
    each = [m["us"] / o["us"] for o, m in zip(one, many, strict=True)]
    return {
        "one_us": statistics.median(run["us"] for run in one),
        "many_us": statistics.median(run["us"] for run in many),
        "ratio": statistics.median(each),
        "lowest": min(each),
        "highest": max(each),
    }
