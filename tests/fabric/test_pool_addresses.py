"""By which addresses clients come in, and that their data takes the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fabrics.fabric import Fabric

pytestmark = pytest.mark.fabric

#: On lo: 127.0.0.1, ::1 and these.
ADDRESSES = ("10.9.8.7/32", "fe80::77/64")

#: The resolver puts IPv6 first.
HOSTS = "127.0.0.1 both\n::1 both\n10.9.8.7 far\n::1 far\n"

SCRIPT = f"""
set -e
ip link set lo up
for address in {" ".join(ADDRESSES)}; do ip address add $address dev lo nodad; done
mount --bind "$1" /etc/hosts
shift
exec "$@"
"""

PROGRAM = """
import asyncio, sys
import rpma.aio
from rpma.pool import Client, Target

TOKEN = "the token of the tests"
listen, rdma_address, *names = sys.argv[1:]
options = {"token": TOKEN, "timeout": 60}

async def list_pools(place):
    async with rpma.aio.connect(place, **options) as client:
        return [pool.name for pool in await client.list_pools()]

with Target(
    dram="1MiB", listen=listen, token=TOKEN, rdma_address=rdma_address or None
) as target:
    for name in names:
        place = f"{name}:{target.address.port}"
        with Client(place, **options) as client:
            with client.create_pool("pool", 4096, volatile=True) as pool:
                pool.write(0, b"data")
                assert pool.read(0, 4) == b"data"
            assert asyncio.run(list_pools(place)) == ["pool"]
            client.remove_pool("pool")
        print(name)
"""


def own_network(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a network that has lo alone, with these addresses and names."""
    (tmp_path / "hosts").write_text(HOSTS)
    return subprocess.run(
        [*("unshare", "-Urnm", "sh", "-c", SCRIPT, "sh"), str(tmp_path / "hosts"), *command],
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.parametrize(
    ("listen", "rdma_address", "names"),
    [
        pytest.param("127.0.0.1:0", "", ["both", "127.0.0.1"], id="IPv4 of a name with both"),
        pytest.param("10.9.8.7:0", "", ["far"], id="IPv4 of a name with both, not loopback"),
        pytest.param("[::1]:0", "", ["both", "[::1]"], id="IPv6"),
        pytest.param(
            "[::]:0",
            "",
            ["127.0.0.1", "[::1]", "both", "10.9.8.7", "[::ffff:127.0.0.1]", "[fe80::77%lo]"],
            id="all",
        ),
        pytest.param("0.0.0.0:0", "", ["127.0.0.1", "both", "far"], id="all of IPv4"),
        pytest.param("both:0", "", ["127.0.0.1", "[::1]", "both"], id="all of a name"),
        pytest.param("[fe80::77%lo]:0", "", ["[fe80::77%lo]"], id="link-local"),
        pytest.param(
            "[::]:0",
            "fe80::77%lo",
            ["[fe80::77%lo]"],
            id="link-local for data",
        ),
        pytest.param("[::]:0", "10.9.8.7", ["[::1]", "10.9.8.7"], id="another for data"),
    ],
)
def test_data_goes_where_the_client_came(
    fabric: Fabric, tmp_path: Path, listen: str, rdma_address: str, names: list[str]
) -> None:
    if fabric.name != "soft":
        pytest.skip("a network of its own has no device of a kernel's")
    if shutil.which("unshare") is None or own_network(tmp_path, "true").returncode:
        pytest.skip("this user may not make a network of its own")
    done = own_network(tmp_path, sys.executable, "-c", PROGRAM, listen, rdma_address, *names)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == names


def test_all_of_ipv4_has_no_ipv6(fabric: Fabric, tmp_path: Path) -> None:
    if fabric.name != "soft":
        pytest.skip("a network of its own has no device of a kernel's")
    if shutil.which("unshare") is None or own_network(tmp_path, "true").returncode:
        pytest.skip("this user may not make a network of its own")
    done = own_network(tmp_path, sys.executable, "-c", PROGRAM, "0.0.0.0:0", "", "[::1]")
    assert done.returncode == 1
    assert "cannot connect to [::1]:" in done.stderr
