# SPDX-License-Identifier: BSD-3-Clause
"""How much of C's speed Python keeps: the same operations from rpma and from a C twin.

Both use the same librpma, device, target process and connection settings. They take turns, run by
run, and each ratio is taken within one round; the table gives the median of the rounds.

The device is the one that rpma takes: this machine's own, or the soft RNIC where there is none, or
with RPMA_FABRIC=soft. With `--guest` it is the Soft-RoCE of an emulated machine (tests/softroce):
there only ratios mean something, and on a busy machine those spread widely. With `--count` the
guest's clock counts instructions, of programs and kernel alike, 2 ns each. That repeats well and
serves to compare two versions; it is a model, in which all instructions cost the same and sleeping
and waking cost nothing else, and decides no aim.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from binding_measure import HERE, WORKLOADS, connected, count_syscalls, measure
from binding_report import IMPORT_RUNS, IMPORT_WITHOUT, evaluate, report

SOFTROCE = HERE.parent / "tests" / "softroce"
TWIN = HERE / "binding_twin.c"
PORT = 18600

# ---- where the device is ------------------------------------------------------------------------


def fabric_part(options: argparse.Namespace) -> None:
    """Measure on this machine's device; print what came out as JSON lines."""
    sys.path.insert(0, str(SOFTROCE.parent))
    import rpma
    from fabrics import native, soft
    from fabrics.fabric import librpma

    found = soft.find() if rpma.fabric.name == "soft" else native.find()
    address = options.address or found.address
    result: dict[str, Any] = {
        "device": found.device,
        "fabric": rpma.fabric.name,
        "processors": os.cpu_count(),
        "address": address,
        "kernel": platform.release(),
        "librpma": librpma(),
        "rpma": rpma.__version__,
        "python": platform.python_version(),
    }
    with connected(address, options.port, options.twin, found.variables) as clients:
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


def run_fabric_part(options: argparse.Namespace, twin: Path) -> dict[str, Any]:
    """Run it here, or in the guest; show its progress; return its result."""
    command = [sys.executable, str(HERE / "binding.py"), "--fabric-part", "--twin", str(twin)]
    command += ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    command += ["--limit", str(options.limit), "--port", options.port]
    command += ["--syscalls"] if options.syscalls else []
    for load in options.only:
        command += ["--only", load.name]
    command += ["--address", options.address] if options.address else []
    if options.guest and not options.count:
        command = [sys.executable, str(SOFTROCE), "--", *command]
    elif options.guest:
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
        help="--guest, by a clock that counts instructions, on one processor; decides no aim",
    )
    parser.add_argument(
        "--guest", action="store_true", help="in the Soft-RoCE guest, an emulated machine"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured")
    parser.add_argument("--address", help="of the RDMA device; default: the first one's")
    parser.add_argument("--port", default=str(PORT), help="default: %(default)s")
    for name in ("--fabric-part", "--twin"):
        action = "store" if name == "--twin" else "store_true"
        parser.add_argument(name, action=action, help=argparse.SUPPRESS)
    parser.add_argument("--counting-guest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.guest = options.guest or options.count
    options.only = [load for load in WORKLOADS if load.name in (options.only or [load.name])]
    if options.rounds is None:
        options.rounds = 3 if options.quick else 9
    if options.seconds is None:
        options.seconds = 0.05 if options.quick else 0.1
    return options


def main() -> None:
    options = parsed()
    if options.fabric_part:
        return fabric_part(options)
    if options.counting_guest:
        sys.exit(run_in_counting_guest(options.counting_guest))

    for tool in ("pkg-config", os.environ.get("CC", "cc").split()[0]):
        if shutil.which(tool) is None:
            sys.exit(f"binding: {tool} is needed, to build the C twin, and not installed")
    times = measure_import()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="binding-") as folder:
        result = run_fabric_part(options, build_twin(Path(folder)))
    result["load"] = [load_before, os.getloadavg()[0]]
    result["emulated"] = options.guest
    result["clock"] = "instructions" if options.count else "wall"
    result["import"] = times
    if "ways" in result:
        result["ratios"] = evaluate(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    report(result)
    return None


if __name__ == "__main__":
    main()
