# SPDX-License-Identifier: BSD-3-Clause
"""How much of C's speed Python keeps: the same operations from rpma and from a C twin.

Both use the same librpma, device, target process and connection settings. They take turns, run by
run, and each ratio is taken within one round; the table gives the median of the rounds.

On a machine without an RDMA device the measurement runs in the Soft-RoCE guest of tests/softroce,
whose processor is emulated: there only ratios mean something, and on a busy machine those spread
widely. With `--count` the guest's clock counts instructions, of programs and kernel alike, 2 ns
each. That repeats well and serves to compare two versions; it is a model, in which all
instructions cost the same and sleeping and waking cost nothing else, and decides no aim.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import select
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SOFTROCE = HERE.parent / "tests" / "softroce"
TWIN = HERE / "binding_twin.c"
CLIENT = HERE / "binding_client.py"

PORT = 18600
MEMORY = 4 << 20
QUEUE_SIZE = 64  # sq_size and cq_size of every connection
DEPTH = 16
SEGMENTS = 1000  # of a batch
ANSWER_LIMIT = 60.0  # seconds; a client that says nothing for so long hangs
IMPORT_AIM_MS = 100
IMPORT_RUNS = 15
IMPORT_WITHOUT = ("numpy", "rich", "typer")


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


def serve(address: str, port: str, connections: int) -> None:
    """The target: registers memory, accepts, and does nothing until its input ends."""
    import mmap

    import rpma

    usage = rpma.Usage.WRITE_DST | rpma.Usage.READ_SRC | rpma.Usage.FLUSH_TYPE_VISIBILITY
    config = rpma.ConnectionConfig(sq_size=QUEUE_SIZE, cq_size=QUEUE_SIZE)
    with (
        rpma.Peer.for_address(address) as peer,
        peer.register(mmap.mmap(-1, MEMORY), usage) as memory,
        ExitStack() as stack,
    ):
        with peer.listen(address, port) as endpoint:
            print("ready", flush=True)
            for _ in range(connections):
                stack.enter_context(
                    endpoint.accept(memory.descriptor, config=config, timeout=ANSWER_LIMIT)
                )
        sys.stdin.read()


class Process:
    """A process that is told things by lines and answers by lines."""

    def __init__(self, *command: str) -> None:
        self.name = Path(command[-1 if len(command) == 1 else 0]).name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
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
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass
class Clients:
    """The connected C twin and Python client."""

    sides: dict[str, Process]
    file: Path

    def run(self, way: Way, count: int) -> int:
        """Run `count` operations; the nanoseconds that they took."""
        return int(self.sides[way.side].tell(f"{way.name} {count} -"))

    def latencies(self, way: Way, count: int) -> array[int]:
        """Run `count` operations; the nanoseconds of each."""
        self.sides[way.side].tell(f"{way.name} {count} {self.file}")
        return array("Q", self.file.read_bytes())


@contextmanager
def connected(address: str, port: str, twin: str) -> Iterator[Clients]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="binding-"))

        def start(*command: str) -> Process:
            process = Process(*command)
            stack.callback(process.close)
            return process

        target = start(sys.executable, __file__, "--serve", address, port, "2")
        assert target.answer() == "ready"
        arguments = (address, port, str(QUEUE_SIZE), str(DEPTH))
        sides = {
            "C": start(twin, *arguments),
            "Python": start(sys.executable, str(CLIENT), *arguments),
        }
        for side in sides.values():
            assert side.answer() == "ready"
        yield Clients(sides, Path(folder, "latencies"))


# ---- the measurement, where the device is -------------------------------------------------------


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


TRACING = Path("/sys/kernel/tracing")
SYS_ENTER = TRACING / "events" / "raw_syscalls" / "sys_enter" / "trigger"
HISTOGRAM = "hist:key=common_pid,id.syscall:size=4096"


def count_syscalls(clients: Clients, loads: list[Workload]) -> dict[str, Any]:
    """System calls per operation, counted by the kernel's own tracing, which slows nothing down."""
    if not SYS_ENTER.exists():
        subprocess.run(["mount", "-t", "tracefs", "nodev", str(TRACING)], check=True)
    counted = {}
    for load in loads:
        count = load.batch or 300
        for way in load.ways:
            clients.run(way, count)
            SYS_ENTER.write_text(HISTOGRAM)
            clients.run(way, count)
            text = (SYS_ENTER.parent / "hist").read_text()
            SYS_ENTER.write_text("!" + HISTOGRAM)
            pid = clients.sides[way.side].pid
            calls = {
                name: int(hits) / count
                for who, name, hits in re.findall(
                    r"common_pid:\s*(\d+), id: sys_(\w+)\s+\[.*?hitcount:\s*(\d+)", text
                )
                if int(who) == pid and int(hits) > 5
            }
            counted[way.key] = dict(sorted(calls.items(), key=lambda item: -item[1]))
            say(f"system calls of {way.key}")
    return counted


def say(text: str) -> None:
    print(json.dumps({"progress": text}), flush=True)


def fabric_part(options: argparse.Namespace) -> None:
    """Measure on this machine's device; print what came out as JSON lines."""
    sys.path.insert(0, str(SOFTROCE.parent))
    import rpma
    from softroce.device import find, librpma

    found = find()
    address = options.address or found.address
    result: dict[str, Any] = {
        "device": found.device,
        "processors": os.cpu_count(),
        "address": address,
        "kernel": platform.release(),
        "librpma": librpma(),
        "rpma": rpma.__version__,
        "python": platform.python_version(),
    }
    with connected(address, options.port, options.twin) as clients:
        if options.syscalls:
            result["syscalls"] = count_syscalls(clients, options.only)
        else:
            result |= measure(clients, options.only, options.rounds, options.seconds, options.limit)
    print(json.dumps({"result": result}), flush=True)


# ---- the machine that it is started on ----------------------------------------------------------


def build_twin(folder: Path) -> Path:
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "librpma", "libibverbs"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    twin = folder / "binding_twin"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(
        [*compiler, "-std=gnu11", "-O3", *warnings, "-o", str(twin), str(TWIN), *flags], check=True
    )
    return twin


def run_fabric_part(options: argparse.Namespace, twin: Path, emulated: bool) -> dict[str, Any]:
    """Run it here, or in the guest; show its progress; return its result."""
    command = [sys.executable, str(HERE / "binding.py"), "--fabric-part", "--twin", str(twin)]
    command += ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    command += ["--limit", str(options.limit), "--port", options.port]
    command += ["--syscalls"] if options.syscalls else []
    for load in options.only:
        command += ["--only", load.name]
    command += ["--address", options.address] if options.address else []
    if emulated and not options.count:
        command = [sys.executable, str(SOFTROCE), "--", *command]
    elif emulated:
        command = [sys.executable, str(HERE / "binding.py"), "--counting-guest", *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] | None = None
    assert process.stdout is not None
    show = sys.stderr.isatty()
    for line in process.stdout:
        try:
            event = json.loads(line)
        except ValueError:
            print(line, end="", file=sys.stderr)
            continue
        result = event.get("result", result)
        if show and "progress" in event:
            print(f"\r\x1b[K{event['progress']}", end="", file=sys.stderr, flush=True)
    if show:
        print("\r\x1b[K", end="", file=sys.stderr)
    if process.wait() or result is None:
        sys.exit(f"binding: the measurement failed with code {process.returncode}")
    return result


def run_in_counting_guest(command: list[str]) -> int:
    """As `python tests/softroce -- COMMAND`, in a guest whose clock counts instructions."""
    sys.path.insert(0, str(SOFTROCE.parent))
    from softroce.__main__ import follow
    from softroce.guest import Guest, GuestError
    from softroce.kernel import KernelError

    class CountingGuest(Guest):
        def _qemu_command(self, chosen: Any) -> list[str]:
            command = super()._qemu_command(chosen)
            # QEMU counts only where a single thread runs all processors.
            command[command.index("-accel") + 1] = "tcg,thread=single"
            return [*command, "-icount", "shift=1,sleep=off"]

    with tempfile.TemporaryDirectory(prefix="binding-") as folder:
        try:
            with CountingGuest(command, Path(folder), processors=1) as guest:
                return follow(guest)
        except (GuestError, KernelError) as error:
            sys.exit(f"binding: {error}")


def measure_import() -> dict[str, Any]:
    """How long `import rpma` takes in a new interpreter, and what it brings along."""
    program = (
        "import sys, time; begin = time.perf_counter(); import rpma;"
        "print((time.perf_counter() - begin) * 1e3, *sys.modules)"
    )
    times = []
    for _ in range(IMPORT_RUNS + 1):
        printed = subprocess.run(
            # Away from the source tree, whose src/rpma has no compiled part.
            [sys.executable, "-I", "-c", program],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        times.append(float(printed[0]))
    return {
        "median_ms": round(statistics.median(times[1:]), 1),
        "worst_ms": round(max(times[1:]), 1),
        "unwanted": sorted(set(printed[1:]) & set(IMPORT_WITHOUT)),
    }


# ---- the report ---------------------------------------------------------------------------------


def evaluate(result: dict[str, Any]) -> dict[str, Any]:
    """Ratios to C, by round, of each of Python's ways."""
    ways = result["ways"]
    ratios = {}
    for load in measured(result):
        fastest = max(
            (way for way in load.ways if way.side == "C"),
            key=lambda way: statistics.median(ways[way.key]["ops"]),
        )
        aim = load.aim
        for way in load.ways:
            if way.side == "C":
                continue
            each = [
                python / c
                for python, c in zip(ways[way.key]["ops"], ways[fastest.key]["ops"], strict=True)
            ]
            ratios[way.key] = {
                "to": fastest.key,
                "median": round(statistics.median(each), 3),
                "lowest": round(min(each), 3),
                "highest": round(max(each), 3),
                "aim": aim,
            }
            aim = None
    return ratios


def measured(result: dict[str, Any]) -> list[Workload]:
    keys = result.get("ways") or result["syscalls"]
    return [load for load in WORKLOADS if load.ways[0].key in keys]


def report(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{result['device']}, Linux {result['kernel']}, Python {result['python']}, "
        f"rpma {result['rpma']}, {result['librpma']}"
    )
    if result["emulated"]:
        console.print(
            "[bold]The processor is emulated (Soft-RoCE guest): the times and rates are no "
            "device's; only the ratios mean something.[/bold] "
            + ("2 ns per instruction, one processor." if result["clock"] != "wall" else "")
        )
    console.print(
        f"load of the machine before and after: {result['load'][0]:.1f}, {result['load'][1]:.1f}"
    )
    if "ways" in result:
        console.print(rates_table(result))
    if "syscalls" in result:
        table = Table(title="system calls per operation")
        table.add_column("operation")
        table.add_column("way")
        table.add_column("calls", justify="right")
        table.add_column("which")
        for load in measured(result):
            for number, way in enumerate(load.ways):
                calls = result["syscalls"][way.key]
                which = ", ".join(f"{name} {hits:.2f}" for name, hits in calls.items())
                title = load.title if number == 0 else ""
                total = f"{sum(calls.values()):.2f}"
                table.add_row(title, f"{way.side}: {way.title}", total, which)
            table.add_section()
        console.print(table)
    times = result["import"]
    verdict = "reached" if times["median_ms"] < IMPORT_AIM_MS else "missed"
    console.print(
        f"import rpma: {times['median_ms']} ms (median of {IMPORT_RUNS} new interpreters, worst "
        f"{times['worst_ms']} ms; aim: under {IMPORT_AIM_MS} ms, {verdict}); "
        + (f"it imports {', '.join(times['unwanted'])}" if times["unwanted"] else "without ")
        + ("" if times["unwanted"] else ", ".join(IMPORT_WITHOUT))
    )


def rates_table(result: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(
        title=f"medians of {result['rounds']} rounds; queues of {QUEUE_SIZE}",
        caption="of C: Python's ops/s to those of the fastest C, median (lowest-highest round)",
    )
    for heading in ("operation", "way"):
        table.add_column(heading)
    for heading in ("ops/s", "µs p50", "µs p99", "of C"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("aim")
    for load in measured(result):
        for number, way in enumerate(load.ways):
            data = result["ways"][way.key]
            ratio = result["ratios"].get(way.key)
            of_c = aim = ""
            if ratio:
                of_c = f"{ratio['median']:.2f} ({ratio['lowest']:.2f}-{ratio['highest']:.2f})"
            if ratio and ratio["aim"] and result["clock"] == "wall":
                reached = ratio["median"] >= ratio["aim"]
                aim = f"{ratio['aim']} {'reached' if reached else '[red]missed[/red]'}"
            table.add_row(
                load.title if number == 0 else "",
                f"{way.side}: {way.title}",
                f"{statistics.median(data['ops']):.0f}",
                f"{data['p50_us']:.0f}" if data["p50_us"] >= 100 else f"{data['p50_us']:.1f}",
                f"{data['p99_us']:.0f}" if data["p99_us"] >= 100 else f"{data['p99_us']:.1f}",
                of_c,
                aim,
            )
        table.add_section()
    return table


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 short rounds: does it work at all?")
    parser.add_argument("--rounds", type=int, default=None, help="default: 9")
    parser.add_argument("--seconds", type=float, default=None, help="of a run; default: 0.1")
    parser.add_argument(
        "--limit", type=float, default=120.0, help="seconds for all rounds; default: %(default)s"
    )
    parser.add_argument(
        "--syscalls",
        action="store_true",
        help="count system calls per operation instead (needs root, and the kernel's tracing)",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[load.name for load in WORKLOADS],
        help="only this operation; may be given several times",
    )
    parser.add_argument(
        "--count",
        action="store_true",
        help="in the guest: by a clock that counts instructions, on one processor; decides no aim",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--address", help="of the RDMA device; default: the first one's")
    parser.add_argument("--port", default=str(PORT), help="default: %(default)s")
    for name in ("--fabric-part", "--twin"):
        action = "store" if name == "--twin" else "store_true"
        parser.add_argument(name, action=action, help=argparse.SUPPRESS)
    parser.add_argument("--counting-guest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.only = [load for load in WORKLOADS if load.name in (options.only or [load.name])]
    if options.rounds is None:
        options.rounds = 3 if options.quick else 9
    if options.seconds is None:
        options.seconds = 0.05 if options.quick else 0.1
    return options


def main() -> None:
    options = parsed()
    if options.serve:
        address, port, connections = options.serve
        return serve(address, port, int(connections))
    if options.fabric_part:
        return fabric_part(options)
    if options.counting_guest:
        sys.exit(run_in_counting_guest(options.counting_guest))

    for tool in ("pkg-config", os.environ.get("CC", "cc").split()[0]):
        if shutil.which(tool) is None:
            sys.exit(f"binding: {tool} is needed, to build the C twin, and not installed")
    devices = Path("/sys/class/infiniband")
    emulated = not (devices.is_dir() and any(devices.iterdir()))
    if emulated:
        clock = "a clock that counts instructions" if options.count else "the machine's clock"
        print(f"no RDMA device here: measuring in the Soft-RoCE guest (emulated, {clock})")
    times = measure_import()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="binding-") as folder:
        result = run_fabric_part(options, build_twin(Path(folder)), emulated)
    result["load"] = [load_before, os.getloadavg()[0]]
    result["emulated"] = emulated
    result["clock"] = "instructions" if emulated and options.count else "wall"
    result["import"] = times
    if "ways" in result:
        result["ratios"] = evaluate(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    report(result)
    return None


if __name__ == "__main__":
    main()
