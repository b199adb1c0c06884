# SPDX-License-Identifier: BSD-3-Clause
"""What the system has in huge pages, and what to say where it has not enough."""

from __future__ import annotations

import contextlib
import operator
import os
from typing import Final

_HUGE_PAGE_POOLS: Final = "/sys/kernel/mm/hugepages"
_MEMINFO: Final = "/proc/meminfo"


class HugePageError(MemoryError):
    """The system cannot supply the huge pages asked for; the message says how many it has, and what
    to do about it.
    """


def an_integer(name: str, value: object) -> int:
    """`value` as an int; bool is none."""
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            return operator.index(value)  # type: ignore[arg-type]
    raise TypeError(f"{name}: an int is needed, not {type(value).__name__}")


def _huge_page_pool(page: int) -> str:
    return os.path.join(_HUGE_PAGE_POOLS, f"hugepages-{page >> 10}kB")


def read_text(*path: str) -> str:
    """What is in a small file of the kernel."""
    # Not pathlib, whose import takes longer than that of the rest of rpma.
    with open(os.path.join(*path), encoding="ascii") as file:
        return file.read()


def huge_page_size(asked: object) -> int:
    """The huge page size in bytes that `huge_pages` (True or a size) asks for."""
    prefix = "hugepages-"
    try:
        names = os.listdir(_HUGE_PAGE_POOLS)
    except OSError:
        names = []
    sizes = sorted(int(n[len(prefix) : -2]) << 10 for n in names if n.startswith(prefix))
    if asked is not True:
        wanted = an_integer("huge_pages", asked)
        if sizes and wanted not in sizes:
            choices = ", ".join(map(str, sizes))
            raise ValueError(
                f"huge_pages: {wanted} is no huge page size here; use True or one of: {choices}"
            )
    if not sizes:
        raise HugePageError(
            f"huge_pages: this system has none ({_HUGE_PAGE_POOLS} is missing or empty)"
        )
    return wanted if asked is not True else _default_huge_page_size(sizes)


def _default_huge_page_size(sizes: list[int]) -> int:
    with contextlib.suppress(OSError):
        for line in read_text(_MEMINFO).splitlines():
            if line.startswith("Hugepagesize:"):
                return int(line.split()[1]) << 10
    return sizes[0]


def huge_page_shortage(size: int, page: int, error: OSError) -> str:
    """What to say where the kernel has refused `size` bytes of huge pages."""
    pool, needed = _huge_page_pool(page), -(-size // page)
    message = f"huge_pages: {size} bytes need {needed} huge pages of {page} bytes: {error.strerror}"
    try:
        total, free, reserved = (
            int(read_text(pool, name))
            for name in ("nr_hugepages", "free_hugepages", "resv_hugepages")
        )
    except (OSError, ValueError):
        return f"{message} (how many are free is not to be seen in {pool})"
    usable = max(free - reserved, 0)
    message += f"; {usable} of the system's {total} are free"
    if usable >= needed:
        return f"{message}: a cgroup (hugetlb) or the allowed memory nodes withhold them"
    target = total + needed - usable
    message += f"; as root: echo {target} > {pool}/nr_hugepages"
    if page == _default_huge_page_size([page]):
        message += f" (or sysctl vm.nr_hugepages={target})"
    return message
