# SPDX-License-Identifier: BSD-3-Clause
"""A thousand connections into one target: the part of benchmarks/fabric.py that needs its own C."""

from __future__ import annotations

import os
import select
import shlex
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fabric_programs import ADDRESS, FailedError, Soft, free_port

SOURCE = Path(__file__).resolve().with_suffix(".c")
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
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def build(folder: Path) -> Path:
    program = folder / "fabric_connections"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    command = [*compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(program), str(SOURCE)]
    command += ["-lrdmacm", "-libverbs", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise FailedError(f"{shlex.join(command)}:\n{done.stderr}")
    return program


def measure(folder: Path, count: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What a connection takes of memory, and what `count` of them make of an operation."""
    program, port = build(folder), free_port()
    target = Process(program, "target", port)
    client = Process(program, "client", port)
    try:
        say(f"{count} connections")
        sides = {"target": target, "client": client}
        # All that is needed once is there after the first connection has been used.
        client.ask("connect 1")
        client.ask("write 1 1000 1")
        before = {name: side.ask("memory") for name, side in sides.items()}
        took = client.ask(f"connect {count}")
        # Every connection has been used before its memory is looked at.
        client.ask(f"write {count} {4 * count} 1")
        after = {name: side.ask("memory") for name, side in sides.items()}
        runs: dict[str, list[dict[str, float]]] = {}
        for number in range(rounds):
            for depth in DEPTHS:
                for over in (1, count) if number % 2 == 0 else (count, 1):
                    say(f"round {number + 1} of {rounds}: writes over {over} connections")
                    runs.setdefault(f"{over} {depth}", []).append(
                        one_run(sides, over, OPERATIONS, depth)
                    )
    finally:
        client.close()
        target.close()
    per_connection = {name: (after[name] - before[name]) / (count - 1) / 1024 for name in sides}
    return {
        "count": count,
        "queue_size": QUEUE_SIZE,
        "connect_us": took / (count - 1) / 1e3,
        "memory_kib": per_connection,
        "runs": runs,
        "cost": {str(depth): cost(runs, count, depth) for depth in DEPTHS},
    }


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
