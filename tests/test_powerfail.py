"""Losing power: that nothing acknowledged is lost by it, and that a loss would be noticed."""

from __future__ import annotations

import itertools
import json
import random
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from powerfail.disk import SECTOR, Disk
from powerfail.ledger import Ledger, Record
from softroce import kernel

TESTS = Path(__file__).resolve().parent

#: How often power is lost here; `./run powerfail N` does it more often.
ROUNDS = 10
#: And over a kernel's device.
KERNEL_ROUNDS = 2
#: A boot takes 10 to 20 s where the machine has nothing else to do.
LIMIT = 1500.0


class Initiator:
    """Uses a disk, as QEMU does."""

    def __init__(self, disk: Disk) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(disk.socket))
        self._receive(18)
        self.socket.sendall(struct.pack(">I8sII", 3, b"IHAVEOPT", 7, 6) + bytes(6))
        export = self._receive(20 + 12 + 20)
        assert struct.unpack_from(">HQ", export, 20) == (0, 64 * SECTOR)

    def write(self, sector: int, byte: bytes, flags: int = 0) -> None:
        self._ask(1, sector * SECTOR, SECTOR, byte * SECTOR, flags)

    def flush(self) -> None:
        self._ask(3, 0, 0)

    def read(self, first: int, count: int) -> bytes:
        """The first byte of each of the sectors."""
        self._ask(0, first * SECTOR, count * SECTOR)
        return self._receive(count * SECTOR)[::SECTOR]

    def _ask(self, kind: int, offset: int, length: int, data: bytes = b"", flags: int = 0) -> None:
        header = struct.pack(">IHHQQI", 0x25609513, flags, kind, 7, offset, length)
        self.socket.sendall(header + data)
        assert struct.unpack(">IIQ", self._receive(16)) == (0x67446698, 0, 7)

    def __enter__(self) -> Initiator:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _receive(self, length: int) -> bytes:
        data = self.socket.recv(length, socket.MSG_WAITALL)
        assert len(data) == length
        return data


class TestDisk:
    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Disk]:
        with Disk(tmp_path, 64 * SECTOR) as disk:
            yield disk

    def test_keeps_what_was_flushed_and_loses_what_was_not(self, disk: Disk) -> None:
        with Initiator(disk) as user:
            user.write(0, b"a")
            user.write(1, b"b")
            user.flush()
            user.write(1, b"c")
            user.write(2, b"d")
            assert user.read(0, 4) == b"acd\0"
        assert disk.lose_power(random.Random(1), 0.0) == (2, 0)
        with Initiator(disk) as user:
            assert user.read(0, 4) == b"ab\0\0"

    def test_keeps_a_write_that_was_forced(self, disk: Disk) -> None:
        with Initiator(disk) as user:
            user.write(0, b"a")
            user.write(1, b"b", flags=1)
        disk.lose_power(random.Random(1), 0.0)
        with Initiator(disk) as user:
            assert user.read(0, 2) == b"\0b"

    def test_keeps_some_of_what_was_not_flushed(self, disk: Disk) -> None:
        with Initiator(disk) as user:
            for sector in range(64):
                user.write(sector, b"x")
        unflushed, survived = disk.lose_power(random.Random(1), 0.5)
        assert unflushed == 64
        assert 0 < survived < 64
        with Initiator(disk) as user:
            assert user.read(0, 64).count(b"x") == survived


class TestLedger:
    @pytest.fixture
    def ledger(self) -> Ledger:
        return Ledger("pool", 1)

    def write(self, ledger: Ledger, pool: bytearray, key: int, acknowledge: bool = True) -> int:
        place, offset, data = ledger.begin(key, random.Random(1))
        pool[offset : offset + len(data)] = data
        if acknowledge:
            ledger.acknowledge(place)
        return offset

    def test_is_content_with_all_that_was_acknowledged(self, ledger: Ledger) -> None:
        pool = bytearray(ledger.size)
        for key in range(ledger.keys):
            for _ in range(3):
                self.write(ledger, pool, key)
        findings = ledger.check(bytes(pool))
        assert (findings.checked, findings.lost, findings.torn) == (2 * ledger.keys, 0, 0)
        assert not ledger.complaints

    def test_never_writes_over_the_newest_of_a_key(self, ledger: Ledger) -> None:
        pool = bytearray(ledger.size)
        offsets = [self.write(ledger, pool, 3) for _ in range(6)]
        assert all(a != b for a, b in itertools.pairwise(offsets))
        again = [self.write(ledger, pool, 3, acknowledge=False) for _ in range(3)]
        assert offsets[-1] not in again

    def test_finds_a_lost_record(self, ledger: Ledger) -> None:
        pool = bytearray(ledger.size)
        self.write(ledger, pool, 2)
        before = bytes(pool)
        self.write(ledger, pool, 2)
        findings = ledger.check(before)
        assert (findings.checked, findings.lost, findings.torn) == (2, 1, 0)
        assert "holds none" in ledger.complaints[0]

    def test_finds_an_older_record(self, ledger: Ledger) -> None:
        pool = bytearray(ledger.size)
        self.write(ledger, pool, 2)
        self.write(ledger, pool, 2)
        before = bytes(pool)
        self.write(ledger, pool, 2)
        assert ledger.check(before).lost == 1
        assert "should hold record 3 and holds record 1" in ledger.complaints[0]

    def test_finds_one_wrong_byte(self, ledger: Ledger) -> None:
        pool = bytearray(ledger.size)
        offset = self.write(ledger, pool, 4)
        pool[offset + 60] ^= 1
        findings = ledger.check(bytes(pool))
        assert (findings.lost, findings.torn) == (0, 1)

    def test_finds_a_byte_that_nobody_wrote(self, ledger: Ledger) -> None:
        pool = bytearray(ledger.size)
        pool[-1] = 1
        assert ledger.check(bytes(pool)).torn == 1

    @pytest.mark.parametrize(("there", "field"), [(0, "old"), (30, "mixed"), (None, "new")])
    def test_takes_what_was_under_way_as_it_is(
        self, ledger: Ledger, there: int | None, field: str
    ) -> None:
        pool = bytearray(ledger.size)
        before = bytes(pool)
        offset = self.write(ledger, pool, 1, acknowledge=False)
        if there is not None:
            pool[offset + there :] = before[offset + there :]
        findings = ledger.check(bytes(pool))
        assert (getattr(findings, field), findings.checked) == (1, 0)
        assert not ledger.complaints

    def test_knows_its_own_records_only(self) -> None:
        record = Record.make(5, 9, 200)
        assert Record.number_in(record, 5) == 9
        assert Record.number_in(record, 4) is None
        assert Record.number_in(record[:-1], 5) is None


def lose_power(folder: Path, rounds: int, *options: str) -> dict[str, Any]:
    """What came of losing power; in a process of its own, which has the soft RNIC.

    Skips the test where there can be no such machine.
    """
    file = folder / "report.json"
    command = [sys.executable, str(TESTS / "powerfail"), str(rounds), "--report", str(file)]
    done = subprocess.run(
        ["setpriv", "--pdeathsig", "TERM", *command, *options],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    print(done.stdout, done.stderr)
    assert file.exists(), done.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of it over the soft RNIC."""
    found = lose_power(tmp_path_factory.mktemp("powerfail"), ROUNDS, "--over", "soft")["soft"]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def kernel_report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of it over Soft-RoCE: of the kernel that pins files, where there is that."""
    try:
        kernel.obtain(kernel.PINNING_SERIES)
        series = kernel.PINNING_SERIES
    except kernel.KernelError:
        series = kernel.PREFERRED_SERIES
    name = ".".join(map(str, series))
    options = ("--over", name, "--write-for", "6", "8")
    found = lose_power(tmp_path_factory.mktemp("powerfail"), KERNEL_ROUNDS, *options)[name]
    assert isinstance(found, dict)
    return found | {"over": name}


@pytest.mark.timeout(LIMIT)
class TestLosingPower:
    def test_loses_nothing_that_was_acknowledged(self, report: dict[str, Any]) -> None:
        assert report["errors"] == []
        assert (report["rounds"], report["harm"]) == (ROUNDS, 0)

    @pytest.mark.parametrize("kind", ["dax", "disk"])
    @pytest.mark.parametrize("role", ["mapped", "shadowed"])
    def test_has_put_records_to_the_test(
        self, report: dict[str, Any], kind: str, role: str
    ) -> None:
        row = report["rows"][f"{kind}/{role}"]
        assert row["acknowledged"] > 2 * ROUNDS
        assert row["findings"]["checked"] > 2 * ROUNDS
        assert row["findings"]["lost"] == row["findings"]["torn"] == row["unopened"] == 0

    def test_has_flushed_exactly_what_was_asked_for(self, report: dict[str, Any]) -> None:
        rows = report["rows"]
        assert [rows[f"dax/{role}"]["misflushed"] for role in ("mapped", "shadowed")] == [0, 0]

    @pytest.mark.parametrize("kind", ["dax", "disk"])
    def test_has_changed_pools(self, report: dict[str, Any], kind: str) -> None:
        row = report["rows"][f"{kind}/small"]
        assert row["acknowledged"] > 0
        assert row["findings"]["lost"] == row["unopened"] == 0

    @pytest.mark.parametrize("kind", ["dax", "disk"])
    def test_notices_where_an_answer_was_a_lie(self, report: dict[str, Any], kind: str) -> None:
        """Nothing makes the control pools durable: what was acknowledged must be missed."""
        row = report["rows"][f"{kind}/control"]
        assert row["findings"]["lost"] + row["findings"]["torn"] > 0
        assert row["unopened"] == 0


@pytest.mark.timeout(LIMIT)
class TestLosingPowerOverAKernelsDevice:
    def test_loses_nothing_that_was_acknowledged(self, kernel_report: dict[str, Any]) -> None:
        assert kernel_report["errors"] == []
        assert (kernel_report["rounds"], kernel_report["harm"]) == (KERNEL_ROUNDS, 0)

    @pytest.mark.parametrize("kind", ["dax", "disk"])
    def test_has_put_records_to_the_test(self, kernel_report: dict[str, Any], kind: str) -> None:
        row = kernel_report["rows"][f"{kind}/shadowed"]
        assert min(row["acknowledged"], row["findings"]["checked"]) > KERNEL_ROUNDS
        assert row["findings"]["lost"] == row["findings"]["torn"] == row["unopened"] == 0

    def test_notices_where_an_answer_was_a_lie(self, kernel_report: dict[str, Any]) -> None:
        """Where the device works on a file on a disk itself, answers are lies, too."""
        lies = ["dax/control", "disk/unruled", "disk/control"]
        if kernel_report["over"] != "6.1":
            lies.remove("disk/unruled")
        assert (kernel_report["controls"], kernel_report["undetected"]) == (lies, [])
