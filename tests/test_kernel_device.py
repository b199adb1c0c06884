"""What is persisted over a kernel's RDMA device is on the disk, whatever kernel that is.

Before Linux 6.5 such a device registers the mapping of any file, and the kernel does not learn of
what it writes there: msync succeeds and writes nothing.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from softroce import kernel
from softroce.guest import MACHINES, Guest

TESTS = Path(__file__).resolve().parent

NEEDED = (MACHINES[platform.machine()].program, "busybox", "mkfs.ext4")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DISK_SIZE = 32 << 20

COMMAND = """
set -e
modprobe -a virtio_blk ext4
mount -t ext4 /dev/vda /mnt
mkdir /mnt/pools
exec "$0" "$1" /mnt/pools /dev/vda 10.9.9.1
"""

#: By what `persisting` calls them: three times six writes.
EVERYWHERE = {"one place": [True] * 6, "first": [True] * 6, "second": [True] * 6}


@pytest.fixture(scope="module", params=[kernel.PINNING_SERIES, None], ids=["6.1", "present"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What `persisting` found in a guest with the kernel."""
    if missing := [program for program in NEEDED if shutil.which(program, path=PATH) is None]:
        pytest.skip(f"not installed: {' '.join(missing)}")
    try:
        chosen = kernel.obtain(request.param)
    except kernel.KernelError as error:
        if request.param is None:
            raise
        pytest.skip(f"Debian 12 has this kernel, and its successors have not: {error}")
    folder = tmp_path_factory.mktemp("kernel-device")
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_SIZE)
    program = shutil.which("mkfs.ext4", path=PATH)
    subprocess.run([str(program), "-q", "-F", "-b", "4096", str(disk)], check=True)
    guest = Guest(
        ["sh", "-c", COMMAND, sys.executable, str(TESTS / "softroce/persisting.py")],
        folder / "share",
        environment={"RPMA_FABRIC": "rdma", "PYTHONDONTWRITEBYTECODE": "1"},
        chosen=chosen,
        options=[
            *("-drive", f"if=none,id=disk,format=raw,file={str(disk).replace(',', ',,')}"),
            *("-device", "virtio-blk-pci,drive=disk"),
        ],
    )
    with guest:
        code = guest.wait()
    stderr = (guest.share / "stderr").read_text()
    assert code == 0, f"{stderr}\n{guest.log()}"
    answer: dict[str, Any] = json.loads((guest.share / "stdout").read_text())
    assert kernel.in_series(answer["kernel"], request.param or ()), answer
    return answer


@pytest.mark.timeout(600)
class TestPersisting:
    def test_what_is_acknowledged_is_on_the_disk(self, found: dict[str, Any]) -> None:
        assert {key: found["with"][key] for key in EVERYWHERE} == EVERYWHERE

    def test_an_ordinary_file_is_shadowed_and_one_on_tmpfs_is_not(
        self, found: dict[str, Any]
    ) -> None:
        assert (found["with"]["shadowed"], found["tmpfs"]) == (True, False)

    def test_without_the_rule_it_would_be_lost_where_the_kernel_pins_a_file(
        self, found: dict[str, Any]
    ) -> None:
        without = found["without"]
        if kernel.in_series(found["kernel"], kernel.PINNING_SERIES):
            # The first write makes a page dirty, since the device has just pinned it.
            assert not without["shadowed"]
            assert without["one place"] == [True] + [False] * 5
            assert without["second"] == [False] * 6
        else:
            assert without == EVERYWHERE | {"shadowed": True}

    def test_examples_refuse_a_file_whose_content_would_be_lost(
        self, found: dict[str, Any]
    ) -> None:
        assert "it would be lost" in found["example"]

    def test_which_mappings_keep_what_peers_write_is_told(self, found: dict[str, Any]) -> None:
        assert found["mappings"] == {
            "ext4": False,
            "ext4 by its descriptor": False,
            "ext4 bound to a tmpfs": False,
            "overlayfs": False,
            "tmpfs": True,
            "memfd": True,
            "hugetlbfs": True,
        }
