# SPDX-License-Identifier: BSD-3-Clause
"""How many system calls processes make, all of their threads, by the kernel's tracing.

It needs root. The counters are the kernel's own where it has them (CONFIG_HIST_TRIGGERS), which
hardly disturb; else `perf trace`, which slows the processes down.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
TRIGGER = TRACING / "events" / "raw_syscalls" / "sys_enter" / "trigger"
HISTOGRAM = "hist:key=common_pid,id.syscall:size=4096"

Calls = dict[int, dict[str, int]]  # by process, then by name; the most frequent first


@contextmanager
def counted(pids: Sequence[int]) -> Iterator[Calls]:
    """Count while the block runs. What it yields is filled in when the block ends."""
    calls: Calls = {pid: {} for pid in pids}
    found: list[tuple[int, str, int]] = []
    with (by_histogram if has_histograms() else by_perf)(pids, found):
        threads = {thread: pid for pid in pids for thread in threads_of(pid)}
        yield calls
    for thread, name, hits in found:
        if thread in threads:
            of_process = calls[threads[thread]]
            of_process[name] = of_process.get(name, 0) + hits
    for pid, of_process in calls.items():
        calls[pid] = dict(sorted(of_process.items(), key=lambda item: -item[1]))


def threads_of(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def has_histograms() -> bool:
    if not TRIGGER.exists():
        subprocess.run(["mount", "-t", "tracefs", "nodev", str(TRACING)], check=True)
    try:
        TRIGGER.write_text(HISTOGRAM)
        TRIGGER.write_text("!" + HISTOGRAM)
    except OSError:
        return False
    return True


@contextmanager
def by_histogram(_: Sequence[int], found: list[tuple[int, str, int]]) -> Iterator[None]:
    TRIGGER.write_text(HISTOGRAM)
    try:
        yield
        text = (TRIGGER.parent / "hist").read_text()
    finally:
        TRIGGER.write_text("!" + HISTOGRAM)
    for thread, name, hits in re.findall(
        r"common_pid:\s*(\d+), id: sys_(\w+)\s+\[.*?hitcount:\s*(\d+)", text
    ):
        found.append((int(thread), name, int(hits)))


@contextmanager
def by_perf(pids: Sequence[int], found: list[tuple[int, str, int]]) -> Iterator[None]:
    with tempfile.NamedTemporaryFile("r") as output:
        command = ["perf", "trace", "-s", "-o", output.name, "-p", ",".join(map(str, pids))]
        try:
            tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
        except FileNotFoundError:
            sys.exit(
                "to count system calls, a kernel with CONFIG_HIST_TRIGGERS or perf is needed "
                "(Debian: apt-get install linux-perf)"
            )
        try:
            time.sleep(0.5)  # it says nothing once it is ready
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            _, said = tracer.communicate()
        thread = 0
        for line in output.read().splitlines():
            if head := re.match(r"\s*\S.* \((\d+)\), \d+ events", line):
                thread = int(head[1])
            elif row := re.match(r"\s+(\w+)\s+(\d+)\s+\d+\s+[\d.]+", line):
                found.append((thread, row[1], int(row[2])))
        if not found:
            sys.exit(f"perf trace counted nothing: {said.decode()}")
