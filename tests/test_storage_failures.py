"""Storage that fails, and works again: nothing is acknowledged that is not on it.

A guest's file system is on a device-mapper device that fails when it is told to: dm-flakey with
`error_writes`, and the target "error".
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from softroce.guest import MACHINES, Guest

TESTS = Path(__file__).resolve().parent

NEEDED = (MACHINES[platform.machine()].program, "busybox", "mkfs.ext4", "dmsetup")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DISK_SIZE = 64 << 20

COMMAND = """
set -e
modprobe -a virtio_blk ext4 dm_mod dm_flakey
exec "$0" "$1" /dev/vda /mnt
"""

MEMORY = pytest.mark.parametrize("memory", ["mapped", "shadowed"])
KINDS = ("write errors", "flush errors", "both")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `failing` found in a guest."""
    if missing := [program for program in NEEDED if shutil.which(program, path=PATH) is None]:
        pytest.skip(f"not installed: {' '.join(missing)}")
    folder = tmp_path_factory.mktemp("storage-failures")
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_SIZE)
    guest = Guest(
        ["sh", "-c", COMMAND, sys.executable, str(TESTS / "softroce/failing.py")],
        folder / "share",
        environment={"RPMA_FABRIC": "soft", "PYTHONDONTWRITEBYTECODE": "1"},
        device=False,
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
    return answer


def check_told(found: dict[str, str]) -> None:
    """That it has failed is told, at once and for as long as the pool is open."""
    assert (found["first"], found["again"]) == ("StorageError", "StorageError"), found


@pytest.mark.timeout(600)
class TestStorageFailures:
    @MEMORY
    @pytest.mark.parametrize("how", ["closed", "restarted"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_was_lost_is_not_in_the_pool_that_is_opened_again(
        self, found: dict[str, Any], kind: str, how: str, memory: str
    ) -> None:
        case = found["data"][f"{kind}, {how}, {memory}"]
        check_told(case)
        assert (case["holds"], case["persist"], case["disk"]) == ("old", "done", "old")

    @MEMORY
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_another_process_keeps_in_the_cache_is_written_again(
        self, found: dict[str, Any], kind: str, memory: str
    ) -> None:
        case = found["data"][f"{kind}, mapped by another, {memory}"]
        check_told(case)
        assert (case["holds"], case["persist"], case["disk"]) == ("new", "done", "new")

    @MEMORY
    @pytest.mark.parametrize("kind", KINDS)
    def test_nothing_is_acknowledged_while_it_fails(
        self, found: dict[str, Any], kind: str, memory: str
    ) -> None:
        case = found["data"][f"{kind}, not mended, {memory}"]
        check_told(case)
        if kind != "write errors":
            assert "mend the storage, then open it again" in case["refused"]
        elif memory == "shadowed":  # the device-mapper fails reading as well
            assert "cannot read its file" in case["refused"]
        else:
            assert case["persist"] == "StorageError"

    def test_what_nobody_persisted_is_looked_after_when_the_pool_is_closed(
        self, found: dict[str, Any]
    ) -> None:
        assert found["unpersisted"] == {
            "close": "StorageError",
            "holds": "old",
            "persist": "done",
            "disk": "old",
        }

    @pytest.mark.parametrize("when", ["header", "header, killed"])
    def test_a_header_is_what_is_on_the_disk(self, found: dict[str, Any], when: str) -> None:
        case = found[when]
        assert case["first"] == ("StorageError" if when == "header" else "TargetLost")
        assert case["then"] == [1, 1]
        assert case["at last"] == [3, 3]
