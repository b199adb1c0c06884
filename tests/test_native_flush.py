"""A flush that a device carries out itself (native flush), on persistent memory.

Soft-RoCE has it, where librpma and rdma-core ask for it: Debian 13's do, Debian 12's flush by
reading, which is tested here as well. What the kernel flushes is seen by probes in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from softroce import guest, kernel

FLUSHING = Path(__file__).resolve().parent / "softroce" / "flushing.py"
SIZE = 32 << 20

#: What `flushing` flushes: offset and length.
RANGES = [[0, 8], [100, 1], [4000, 10000], [65531, 5], [65536, 0]]

#: The releases that have it, of librpma and of libibverbs (rdma-core 45).
SINCE = {"librpma": (1, 3), "libibverbs": (1, 14, 45)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `flushing` found in a guest, and what its persistent memory held after that."""
    if not guest.can_have_persistent_memory():
        pytest.skip("persistent memory is emulated for x86-64, and takes Debian's ndctl")
    machine = guest.Guest(
        [sys.executable, str(FLUSHING), guest.DAX],
        tmp_path_factory.mktemp("native-flush") / "share",
        environment={"RPMA_FABRIC": "rdma", "PYTHONDONTWRITEBYTECODE": "1"},
        chosen=kernel.obtain(),
        persistent_memory=SIZE,
    )
    with machine:
        code = machine.wait()
    stderr = (machine.share / "stderr").read_text()
    assert code == 0, f"{stderr}\n{machine.log()}"
    answer: dict[str, Any] = json.loads((machine.share / "stdout").read_text())
    with (machine.share / guest.PERSISTENT).open("rb") as file:
        file.seek(SIZE - answer["size"])
        answer["held"] = file.read(len(bytes.fromhex(answer["record"]))).hex()
    return answer


def installed(library: str) -> tuple[int, ...]:
    """Its version, as pkg-config tells."""
    done = subprocess.run(
        ["pkg-config", "--modversion", library], capture_output=True, text=True, check=True
    )
    return kernel.numbers_in(done.stdout)


@pytest.mark.timeout(600)
class TestFlushing:
    def test_the_device_flushes_where_librpma_and_rdma_core_can_ask_for_it(
        self, found: dict[str, Any]
    ) -> None:
        if all(installed(library) >= since for library, since in SINCE.items()):
            assert found["refuses DRAM"]
        wanted = ("FLUSH", "ATOMIC_WRITE") if found["refuses DRAM"] else ("RDMA_READ", "RDMA_WRITE")
        opcodes = {
            flush["opcode"] for kind in ("VISIBILITY", "PERSISTENT") for flush in found[kind]
        }
        assert (opcodes, found["atomic write"]) == ({wanted[0]}, wanted[1])

    @pytest.mark.parametrize("kind", ["VISIBILITY", "PERSISTENT"])
    def test_what_was_flushed_is_visible(self, found: dict[str, Any], kind: str) -> None:
        assert [flush["visible"] for flush in found[kind]] == [True] * len(RANGES)
        assert found["atomic write is there"]

    def test_a_flush_to_persistence_writes_back_the_range(self, found: dict[str, Any]) -> None:
        """At least that: near the region's end it begins earlier. Where a read is the flush nothing
        is written back: the memory must not need it.
        """
        for (offset, length), flush in zip(RANGES, found["PERSISTENT"], strict=True):
            if not found["refuses DRAM"]:
                assert (flush["persisted"], flush["written back"]) == ([], 0)
                continue
            ((first, count),) = flush["persisted"]
            assert first <= offset
            assert first + count == offset + length
            assert first == min(offset, 65536 - 8)
            assert flush["written back"] >= count

    def test_a_flush_to_visibility_writes_nothing_back(self, found: dict[str, Any]) -> None:
        for flush in found["VISIBILITY"]:
            assert (flush["persisted"], flush["written back"]) == ([], 0)

    @pytest.mark.parametrize("kind", ["VISIBILITY", "PERSISTENT"])
    def test_the_target_refuses_what_its_region_does_not_offer(
        self, found: dict[str, Any], kind: str
    ) -> None:
        """Where the flush is a read, it only has to allow reads."""
        refused = found["refuses DRAM"]
        assert found["not offered"][kind] == ("REM_ACCESS_ERR" if refused else "SUCCESS")

    def test_what_was_flushed_to_persistence_outlives_the_machine(
        self, found: dict[str, Any]
    ) -> None:
        assert found["held"] == found["record"]
