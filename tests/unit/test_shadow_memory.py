"""How much memory the copies of pools may take if nobody says."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpma.pool.target import shadows


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine of 4 GiB, on which this process is in a control group that is in another."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:        4194304 kB\nMemFree: 1 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("1:cpu:/old\n0::/outer/inner\n")
    (tmp_path / "sys/fs/cgroup/outer/inner").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 2 << 30),
        ({"outer": "max", "outer/inner": "max"}, 2 << 30),
        ({"outer": "1073741824", "outer/inner": "max"}, 1 << 29),
        ({"outer": "1073741824", "outer/inner": "536870912"}, 1 << 28),
        ({".": "1048576"}, 1 << 19),  # a container sees its own group as the root
        ({"outer": "1099511627776"}, 2 << 30),
    ],
)
def test_it_is_half_of_what_there_is(root: Path, limits: dict[str, str], expected: int) -> None:
    for group, limit in limits.items():
        (root / "sys/fs/cgroup" / group / "memory.max").write_text(f"{limit}\n")
    assert shadows.default_limit(str(root)) == expected


def test_without_control_groups_it_is_half_of_the_machines(root: Path) -> None:
    (root / "proc/self/cgroup").unlink()
    assert shadows.default_limit(str(root)) == 2 << 30


def test_of_this_machine_it_is_some_of_its_memory() -> None:
    lines = Path("/proc/meminfo").read_text().splitlines()
    total = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemTotal:"))
    assert 0 < shadows.default_limit() <= total // 2
