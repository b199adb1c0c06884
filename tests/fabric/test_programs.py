"""Programs that know nothing of rpma run on the soft RNIC, unmodified, from Debian's packages.

Each is a row of a table: the arguments of its two sides, in which ADDRESS and PORT stand for what
the test has, and what each side must print. Both must end with exit code 0, in time.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from programs import Programs, programs_on

from fabrics.fabric import Fabric

pytestmark = pytest.mark.fabric

PYVERBS_PAIR = Path(__file__).with_name("pyverbs_pair.py")
PYTHON = "/usr/bin/python3"

#: 2 bytes to 8 MiB, as `-a` of perftest does.
ALL_SIZES = [2 << n for n in range(23)]


@dataclass(frozen=True)
class Case:
    """A server and a client, and how often each must print what (a regular expression)."""

    server: str
    client: str
    server_prints: tuple[str, int]
    client_prints: tuple[str, int]


def rping(*options: str, count: int) -> Case:
    both = " ".join(["-a ADDRESS -p PORT -v -V", *options])
    return Case(
        f"rping -s {both}",
        f"rping -c -C {count} {both}",
        ("^server ping data: rdma-ping-", count),
        ("^ping data: rdma-ping-", count),
    )


def ucmatose(*options: str) -> Case:
    both = " ".join(["-p PORT", *options])
    done = ("^return status 0$", 1)
    return Case(f"ucmatose -b ADDRESS {both}", f"ucmatose -s ADDRESS {both}", done, done)


CASES = {
    "rping": rping(count=1000),
    "rping, small": rping("-S 64", count=10),
    "rping, large": rping("-S 65535", count=100),
    "rping, its own queue pair": rping("-q", count=100),
    "ucmatose": ucmatose(),
    "ucmatose, many connections": ucmatose("-c 50 -C 10 -S 4096"),
    "ucmatose, no messages": ucmatose("-c 4 -C 0"),
    "ucmatose, migrating": ucmatose("-c 4 -m"),
    "rdma_server": Case(
        "rdma_server -s ADDRESS -p PORT",
        "rdma_client -s ADDRESS -p PORT",
        ("^rdma_server: end 0$", 1),
        ("^rdma_client: end 0$", 1),
    ),
    "pyverbs": Case(
        f"{PYTHON} {PYVERBS_PAIR} server ADDRESS PORT",
        f"{PYTHON} {PYVERBS_PAIR} client ADDRESS PORT",
        ("^received b'ping', written b'by the client'$", 1),
        ("^received b'pong', read b'by the server'$", 1),
    ),
}


#: The head of perftest's report, on either side.
TITLE = r"^ +(RDMA_Write|RDMA_Read|Send|Atomic).* Test$"


def perftest(program: str, options: str, sizes: list[int] | None = None) -> Case:
    """A benchmark must show a line of figures for each size, on the side that measures.

    Its releases before 23.07, Debian 12's among them, know IPv4 addresses only.
    """
    both = f"{program} -R -F -p PORT {options}"
    sizes = sizes or [64]
    # Not always numbers: it may fail to measure the processor's clock, and then prints "inf".
    rows = rf"^ *({'|'.join(map(str, sizes))}) +\d+ +\S+ +\S+"
    return Case(both, f"{both} ADDRESS", (TITLE, 1), (rows, len(sizes)))


PERFTEST = {
    "ib_write_lat": perftest("ib_write_lat", "-s 64"),
    "ib_write_lat, all sizes": perftest("ib_write_lat", "-a -n 10", ALL_SIZES),
    "ib_write_lat, inline": perftest("ib_write_lat", "-s 64 -I 64"),
    "ib_write_lat, not inline": perftest("ib_write_lat", "-s 64 -I 0"),
    "ib_write_bw": perftest("ib_write_bw", "-s 65536 -n 1000", [65536]),
    "ib_write_bw, all sizes": perftest("ib_write_bw", "-a -n 20", ALL_SIZES),
    "ib_write_bw, inline": perftest("ib_write_bw", "-s 64 -I 64"),
    "ib_write_bw, several queue pairs": perftest("ib_write_bw", "-s 4096 -q 4 -n 500", [4096]),
    "ib_write_bw, both ways": perftest("ib_write_bw", "-s 4096 -b", [4096]),
    "ib_read_lat": perftest("ib_read_lat", "-s 64"),
    "ib_read_lat, all sizes": perftest("ib_read_lat", "-a -n 10", ALL_SIZES),
    "ib_read_lat, events": perftest("ib_read_lat", "-s 64 -e"),
    "ib_read_bw": perftest("ib_read_bw", "-s 65536 -n 1000", [65536]),
    "ib_read_bw, all sizes": perftest("ib_read_bw", "-a -n 20", ALL_SIZES),
    "ib_read_bw, several queue pairs": perftest("ib_read_bw", "-s 4096 -q 4 -n 500", [4096]),
    "ib_read_bw, one outstanding": perftest("ib_read_bw", "-s 64 -o 1"),
    "ib_read_bw, events": perftest("ib_read_bw", "-s 64 -e"),
    "ib_read_bw, events, all sizes": perftest("ib_read_bw", "-a -n 20 -e", ALL_SIZES),
    "ib_send_lat": perftest("ib_send_lat", "-s 64"),
    "ib_send_lat, all sizes": perftest("ib_send_lat", "-a -n 10", ALL_SIZES),
    "ib_send_lat, events": perftest("ib_send_lat", "-s 64 -e"),
    "ib_send_lat, inline": perftest("ib_send_lat", "-s 64 -I 64"),
    "ib_send_lat, SRQ": perftest("ib_send_lat", "-s 64 --use-srq"),
    "ib_send_bw": perftest("ib_send_bw", "-s 65536 -n 1000", [65536]),
    "ib_send_bw, all sizes": perftest("ib_send_bw", "-a -n 20", ALL_SIZES),
    "ib_send_bw, inline": perftest("ib_send_bw", "-s 64 -I 64"),
    "ib_send_bw, several queue pairs": perftest("ib_send_bw", "-s 4096 -q 4 -n 500", [4096]),
    "ib_send_bw, both ways": perftest("ib_send_bw", "-s 4096 -b", [4096]),
    # Not with several queue pairs: on iWARP perftest gives credits by receives, as if each were one
    # queue pair's own; with receives that are shared it gives them to the wrong one, and stalls.
    "ib_send_bw, SRQ": perftest("ib_send_bw", "-s 4096 --use-srq", [4096]),
    # Neither with events (-e): those credits are RDMA Writes, which are no event for their target.
    # A client that has used up its window sleeps until a completion, also where none is due any
    # more when the credit comes: with a server that is 20 ms late every run stalls.
    "ib_atomic_lat, add": perftest("ib_atomic_lat", "-A FETCH_AND_ADD", [8]),
    "ib_atomic_lat, swap": perftest("ib_atomic_lat", "-A CMP_AND_SWAP", [8]),
}


@pytest.fixture
def programs(fabric: Fabric, tmp_path: Path) -> Iterator[Programs]:
    if fabric.name != "soft":
        pytest.skip("these programs test the soft RNIC; the kernel's devices have their own tests")
    with programs_on(fabric, tmp_path) as running:
        yield running


@pytest.fixture(params=["IPv4", "IPv6"])
def address(request: pytest.FixtureRequest, fabric: Fabric) -> str:
    if request.param == "IPv4":
        return fabric.address
    if fabric.address6 is None:
        pytest.skip("this machine has no IPv6")
    return fabric.address6


def check(case: Case, programs: Programs, address: str, port: str) -> None:
    def command(line: str) -> list[str]:
        words = [word.replace("ADDRESS", address).replace("PORT", port) for word in line.split()]
        if shutil.which(words[0]) is None:
            pytest.skip(f"{words[0]} is not installed")
        return words

    server, client = programs.pair(port, command(case.server), command(case.client))
    for printed, (wanted, count) in ((server, case.server_prints), (client, case.client_prints)):
        assert len(re.findall(wanted, printed, re.MULTILINE)) == count, programs.told()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_runs(case: Case, programs: Programs, fabric: Fabric, address: str) -> None:
    check(case, programs, address, fabric.next_port())


@pytest.mark.parametrize("case", PERFTEST.values(), ids=PERFTEST.keys())
def test_perftest_runs(case: Case, programs: Programs, fabric: Fabric) -> None:
    check(case, programs, fabric.address, fabric.next_port())


def test_a_persistent_rping_server_has_several_clients(
    programs: Programs, fabric: Fabric, address: str
) -> None:
    port, count = fabric.next_port(), 1000
    common = ["-a", address, "-p", port, "-V", "-v"]
    server = programs.start_server(port, "rping", "-s", "-P", *common)
    clients = []
    for _ in range(4):
        clients.append(programs.start("rping", "-c", "-C", str(count), *common))
        # One after another: rping itself mixes up requests that come at the same moment.
        while "ping data" not in clients[-1].output():
            assert clients[-1].popen.poll() is None, programs.told()
            assert time.monotonic() < programs.deadline, programs.told()
            time.sleep(0.005)
    for client in clients:
        printed = client.finish(programs.deadline)
        assert printed.count("ping data: rdma-ping-") == count
    assert server.popen.poll() is None, server.told()
    last = programs.start("rping", "-c", "-C", "10", *common)
    assert last.finish(programs.deadline).count("ping data: rdma-ping-") == 10


def test_rping_serves_all_addresses_at_the_wildcard(programs: Programs, fabric: Fabric) -> None:
    port = fabric.next_port()
    programs.start_server(
        port, "rping", "-s", "-P", "-a", "::0" if fabric.address6 else "0.0.0.0", "-p", port
    )
    for address in filter(None, (fabric.address, fabric.address6)):
        client = programs.start("rping", "-c", "-v", "-V", "-C", "10", "-a", address, "-p", port)
        assert client.finish(programs.deadline).count("ping data: rdma-ping-") == 10


def test_pyverbs_lists_the_device(programs: Programs, fabric: Fabric) -> None:
    code = "import pyverbs.device as d; print([x.name.decode() for x in d.get_device_list()])"
    printed = programs.start(PYTHON, "-c", code).finish(programs.deadline)
    assert printed == f"['{fabric.device}']\n"


def test_ibv_devinfo_describes_the_device(programs: Programs, fabric: Fabric) -> None:
    printed = programs.start("ibv_devinfo", "-v", "-d", fabric.device).finish(programs.deadline)
    for wanted in ("iWARP", "PORT_ACTIVE", "max_qp_wr"):
        assert wanted in printed
