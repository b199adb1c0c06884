"""Rounds: boot, compare, write, lose the power. And what came of them."""

from __future__ import annotations

import random
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from rpma.pool import PoolError
from softroce.guest import GuestError

from .ledger import Findings
from .machine import KINDS, Machine, Over
from .workload import CALL_LIMIT, KERNEL_ROLES, ROLES, Gatherer, Keeper, Worker, Writer

LEAST: Final = 8
"""How many records of each control pool are acknowledged before the power goes: fewer need not show
a loss. An emulated machine that others slow down may take longer for that than it was given."""

PATIENCE: Final = 60.0
"""How much longer, in seconds."""


@dataclass
class Row:
    """What became of the pools of one role on one kind of storage.

    Attributes:
        acknowledged: records (or changes of the small pools) that were.
        findings: after the boots.
        unopened: pools that failed to open.
        misflushed: answers before which something else than the range was flushed.
    """

    acknowledged: int = 0
    findings: Findings = field(default_factory=Findings)
    unopened: int = 0
    misflushed: int = 0


@dataclass
class Report:
    """What came of all rounds.

    Attributes:
        seed: of all chance.
        rounds: how often the power was lost.
        seconds: how long all took.
        boot_seconds: how long each boot took, until the targets served.
        flushes: what the disk was asked for.
        sectors: how many the disk had not been told to flush when the power went, and how many of
            them survived.
        rows: by storage and role of the pools.
        controls: the rows in which records have to be lost.
        errors: what went wrong, in words.
    """

    seed: int
    rounds: int = 0
    seconds: float = 0.0
    boot_seconds: list[float] = field(default_factory=list)
    flushes: int = 0
    sectors: tuple[int, int] = (0, 0)
    rows: dict[str, Row] = field(default_factory=dict)
    controls: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def harm(self) -> int:
        """What must not be: anything lost, torn or failed, but for the control pools."""
        rows = [row for name, row in self.rows.items() if name not in self.controls]
        lost = sum(row.findings.lost + row.findings.torn for row in rows)
        # A control pool is a pool: it must open, whatever has become of its records.
        unopened = sum(row.unopened for row in self.rows.values())
        return lost + unopened + sum(row.misflushed for row in rows) + len(self.errors)

    @property
    def undetected(self) -> list[str]:
        """The control pools of which nothing was found lost."""
        found = {name: self.rows[name].findings for name in self.controls}
        return [name for name, each in found.items() if not each.lost + each.torn]

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "harm": self.harm, "undetected": self.undetected}

    def table(self) -> str:
        """As Markdown."""
        lines = [
            "| pools | acknowledged | checked | lost | torn | interrupted: old / new / mixed | "
            "flushed otherwise | failed to open |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for name, row in self.rows.items():
            found = row.findings
            interrupted = f"{found.old} / {found.new} / {found.mixed}"
            kind, _, role = name.partition("/")
            torn: object = found.torn
            if role == "small":
                torn = interrupted = ""
            misflushed = row.misflushed if kind == "dax" and role in ("mapped", "shadowed") else ""
            lines.append(
                f"| {name} | {row.acknowledged} | {found.checked} | {found.lost} | {torn} | "
                f"{interrupted} | {misflushed} | {row.unopened} |"
            )
        return "\n".join(lines)


def run(
    over: Over,
    rounds: int,
    seed: int,
    folder: Path,
    write_for: tuple[float, float],
    disk_lies: bool = False,
) -> Report:
    """Lose power so many times.

    Args:
        over: what carries the data.
        rounds: how many times.
        seed: of all chance that is not the machine's own.
        folder: where to put the storage.
        write_for: least and most time before the power goes, in seconds.
        disk_lies: whether the disk takes no notice of flushes while clients write.
    """
    chance = random.Random(seed)
    report = Report(seed)
    began = time.monotonic()
    with Machine(folder, chance, over) as machine:
        writers = [
            _writer(machine, kind, role, random.Random(chance.random()))
            for kind in KINDS
            for role in (ROLES if over.is_soft else KERNEL_ROLES)[kind]
        ]
        keepers = [Keeper(kind, random.Random(chance.random())) for kind in KINDS]
        workers: list[Worker] = [*writers, *keepers]
        report.rows = {worker.name: Row() for worker in workers}
        losing = ("control", "unruled") if over.pins_files else ("control",)
        report.controls = [writer.name for writer in writers if writer.role in losing]
        try:
            for number in range(rounds + 1):
                report.boot_seconds.append(machine.boot())
                for writer in writers:
                    found = writer.open(machine.connect(writer.kind, CALL_LIMIT))
                    report.rows[writer.name].findings += found
                for keeper in keepers:
                    keeper.open(machine.connect(keeper.kind, CALL_LIMIT))
                if number == rounds:
                    break
                machine.disk.lies = disk_lies
                enough = {
                    writer: writer.ledger.acknowledged + LEAST
                    for writer in writers
                    if writer.name in report.controls
                }
                for worker in workers:
                    worker.start()
                time.sleep(chance.uniform(*write_for))
                _wait_for(enough)
                machine.lose_power()
                for worker in workers:
                    worker.join()
                report.rounds += 1
                told = sum(writer.ledger.acknowledged for writer in writers)
                print(
                    f"power lost {report.rounds} times in {time.monotonic() - began:.0f} s, "
                    f"{told} records acknowledged",
                    file=sys.stderr,
                    flush=True,
                )
        except (GuestError, PoolError) as error:  # a storage that does not mount, say
            report.errors.append(str(error))
        finally:
            for worker in workers:
                worker.close()
        _sum_up(report, writers, keepers)
        report.flushes, report.sectors = machine.disk.flushes, machine.sectors
        if report.errors:
            report.errors.append(machine.log())
    report.seconds = time.monotonic() - began
    return report


def _wait_for(enough: dict[Writer, int]) -> None:
    """Wait until so many records of some pools have been acknowledged, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while any(writer.ledger.acknowledged < count for writer, count in enough.items()):
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)


def _writer(machine: Machine, kind: str, role: str, chance: random.Random) -> Writer:
    if role != "together":
        return Writer(kind, role, chance, machine.caches)
    connecting = partial(machine.connect_tasks, kind, CALL_LIMIT)
    return Gatherer(kind, role, chance, machine.caches, connecting)


def _sum_up(report: Report, writers: list[Writer], keepers: list[Keeper]) -> None:
    for writer in writers:
        row = report.rows[writer.name]
        row.acknowledged, row.unopened = writer.ledger.acknowledged, writer.unopened
        row.misflushed = writer.misflushed
        report.errors += writer.errors
        if writer.name not in report.controls:
            report.errors += writer.ledger.complaints
    for keeper in keepers:
        row = report.rows[keeper.name]
        row.acknowledged, row.unopened = keeper.acknowledged, keeper.unopened
        row.findings.checked, row.findings.lost = keeper.checked, keeper.lost
        report.errors += keeper.errors
