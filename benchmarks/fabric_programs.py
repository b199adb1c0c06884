# SPDX-License-Identifier: BSD-3-Clause
"""The programs that benchmarks/fabric.py measures: started in pairs, their output read.

Each is somebody else's, from a Debian package, but for `fabric_connections.c`. The RDMA programs
run unmodified on the soft RNIC, found by LD_LIBRARY_PATH.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ADDRESS = "127.0.0.1"
#: Seconds that a run may take; then it hangs.
LIMIT = 40.0
#: perftest 4.5 connects twice in quick succession and crashes where the second time is refused,
#: its server not having come round to it: then once more. Counted, and reported.
ATTEMPTS = 5

#: What one run has found: "p50_us" and "mean_us" (of half round trips), "gbps" (10^9 bytes per
#: second), "mops" (10^6 messages per second).
Values = dict[str, float]


class FailedError(RuntimeError):
    """A program has failed; the text has what it said."""


@dataclass(frozen=True)
class Program:
    """A program, its Debian package, and how to run it once with messages of a size."""

    title: str
    package: str
    run: Callable[[int, float], Values]

    @property
    def is_installed(self) -> bool:
        return shutil.which(self.title.split()[0]) is not None


class Soft:
    """Where the soft RNIC is, and how often perftest had to be started again."""

    folder = ""
    retries = 0

    @classmethod
    def environment(cls) -> dict[str, str]:
        return os.environ | {"LD_LIBRARY_PATH": cls.folder}


def soft_folder() -> Path | None:
    """The folder that `rpma soft-path` prints, of the rpma that is installed."""
    import importlib.util

    spec = importlib.util.find_spec("rpma")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place, "softrnic")
        if (folder / "libibverbs.so.1").is_file():
            return folder
    return None


# ---- processes ----------------------------------------------------------------------------------


def free_port() -> int:
    """A TCP port that nobody uses."""
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    """Whether somebody listens on the TCP port. Nothing is connected for that."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state = line.split()[:4]
            if state == "0A" and int(local.rsplit(":", 1)[1], 16) == port:
                return True
    return False


@contextmanager
def server(command: list[str], port: int, environment: dict[str, str]) -> Iterator[None]:
    """A server while the client runs. Ended if it does not end by itself."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    try:
        end = time.monotonic() + 10
        while not is_listening(port) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        yield
        wait(process, 0.5)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            wait(process, 1)
        if process.poll() is None:
            process.kill()
            process.wait()


def wait(process: subprocess.Popen[bytes], seconds: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def pair(
    serve: list[str], connect: list[str], port: int, environment: dict[str, str] | None = None
) -> str:
    """Run a server, and a client whose output is returned."""
    environment = dict(os.environ) if environment is None else environment
    with server(serve, port, environment):
        try:
            done = subprocess.run(
                connect,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise FailedError(f"{shlex.join(connect)} took more than {LIMIT:.0f} s") from None
        if done.returncode:
            raise FailedError(
                f"{shlex.join(connect)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
    return done.stdout


# ---- perftest, on the soft RNIC -----------------------------------------------------------------


def perftest(tool: str, size: int, iterations: int, *options: str) -> list[float]:
    """The numbers of the only line of results."""
    for attempt in range(ATTEMPTS):
        port = free_port()
        command = [tool, "-R", "-F", "-p", str(port), "-s", str(size), "-n", str(iterations)]
        command += options
        try:
            printed = pair(command, [*command, ADDRESS], port, Soft.environment())
            line = re.findall(rf"^\s*{size}\s+{iterations}\s+(.*)$", printed, re.M)
            if line:
                return [float(word) for word in line[-1].split()]
            failure = FailedError(f"{shlex.join(command)} printed no result:\n{printed}")
        except FailedError as error:
            failure = error
        if attempt + 1 < ATTEMPTS:
            Soft.retries += 1
            time.sleep(0.1)
    raise failure


def perftest_latency(tool: str, *options: str) -> Callable[[int, float], Values]:
    def run(size: int, seconds: float) -> Values:
        # Half a round trip is some microseconds, and a kilobyte takes half of one.
        iterations = max(200, int(seconds / (10e-6 + size * 0.6e-9) / 2))
        _, _, typical, mean, *_ = perftest(tool, size, iterations, *options)
        return {"p50_us": typical, "mean_us": mean}

    return run


def write_bandwidth(size: int, seconds: float) -> Values:
    iterations = max(300, int(seconds / (0.8e-6 + size / 3e9)))
    # Without the peak, whose search takes the square of the iterations.
    options = ("-t", "128", "-N", "--report_gbits")
    _, gigabits, mops = perftest("ib_write_bw", size, iterations, *options)
    return {"gbps": mops * size / 1e3 if mops > 0.01 else gigabits / 8, "mops": mops}


# ---- the others, over TCP -----------------------------------------------------------------------


def fi_pingpong(size: int, seconds: float) -> Values:
    port = free_port()
    iterations = max(200, int(seconds / (13e-6 + size * 0.6e-9) / 2))
    command = ["fi_pingpong", "-p", "tcp", "-e", "msg", "-I", str(iterations), "-S", str(size)]
    printed = pair([*command, "-B", str(port)], [*command, "-P", str(port), ADDRESS], port)
    # bytes #sent #ack total time MB/sec usec/xfer Mxfers/sec
    return {"mean_us": float(printed.split()[-2])}


UCX = {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "lo", "UCX_WARN_UNUSED_ENV_VARS": "n"}


def ucx(test: str, size: int, iterations: int) -> list[float]:
    """Iterations; then of times the percentile, average, overall; bandwidths; message rates."""
    port = free_port()
    environment = os.environ | UCX
    command = ["ucx_perftest", "-p", str(port)]
    client = [*command, ADDRESS, "-f", "-t", test, "-s", str(size), "-n", str(iterations)]
    client += ["-w", str(max(10, iterations // 20))]
    printed = pair(command, client, port, environment)
    numbers = re.findall(rf"^\s*{iterations}((?:\s+[\d.]+)+)\s*$", printed, re.M)
    if not numbers:
        raise FailedError(f"{shlex.join(client)} printed no result:\n{printed}")
    return [float(word) for word in numbers[-1].split()]


def ucx_latency(size: int, seconds: float) -> Values:
    p50, mean, *_ = ucx("ucp_put_lat", size, max(200, int(seconds / (15e-6 + size * 1e-9) / 2)))
    return {"p50_us": p50, "mean_us": mean}


def ucx_bandwidth(size: int, seconds: float) -> Values:
    numbers = ucx("ucp_put_bw", size, max(300, int(seconds / (0.8e-6 + size / 1.2e9))))
    rate = numbers[-1]
    # Of very large messages less than a hundred fit in a second: the rate is a whole number.
    gbps = rate * size / 1e9 if rate > 1000 else numbers[-3] * 2**20 / 1e9
    return {"gbps": gbps, "mops": rate / 1e6}


def sockperf(size: int, seconds: float) -> Values:
    port = free_port()
    common = ["--tcp", "-i", ADDRESS, "-p", str(port)]
    message = ["-m", str(max(size, 14)), "-t", str(max(1, round(seconds)))]
    printed = pair(
        ["sockperf", "server", *common], ["sockperf", "ping-pong", *common, *message], port
    )
    median = re.search(r"percentile 50\.000 =\s*([\d.]+)", printed)
    mean = re.search(r"avg-latency=([\d.]+)", printed)
    if not median or not mean:
        raise FailedError(f"sockperf printed no result:\n{printed}")
    return {"p50_us": float(median[1]), "mean_us": float(mean[1])}


def iperf3(size: int, seconds: float) -> Values:
    """One stream, by writes of the size (iperf3 takes 1 MiB at most)."""
    port = free_port()
    command = ["iperf3", "-p", str(port)]
    client = [*command, "-c", ADDRESS, "-l", str(min(size, 1 << 20)), "-J"]
    client += ["-t", str(max(1, round(seconds)))]
    printed = pair([*command, "-s", "-1"], client, port)
    received = json.loads(printed)["end"]["sum_received"]
    return {"gbps": received["bits_per_second"] / 8e9}


PROGRAMS = {
    "soft write latency": Program("ib_write_lat -R", "perftest", perftest_latency("ib_write_lat")),
    "soft send latency": Program(
        "ib_send_lat -R -e", "perftest", perftest_latency("ib_send_lat", "-e")
    ),
    "soft write": Program("ib_write_bw -R -t 128", "perftest", write_bandwidth),
    "fi_pingpong": Program("fi_pingpong -p tcp -e msg", "libfabric-bin", fi_pingpong),
    "ucx latency": Program("ucx_perftest -t ucp_put_lat", "ucx-utils", ucx_latency),
    "ucx write": Program("ucx_perftest -t ucp_put_bw", "ucx-utils", ucx_bandwidth),
    "sockperf": Program("sockperf ping-pong --tcp", "sockperf", sockperf),
    "iperf3": Program("iperf3", "iperf3", iperf3),
}
