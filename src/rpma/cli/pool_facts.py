# SPDX-License-Identifier: BSD-3-Clause
"""What `rpma list` and `rpma info TARGET/POOL` say of pools."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from rpma.cli.output import printable
from rpma.pool.protocol.address import TargetAddress
from rpma.pool.protocol.attributes import Attributes
from rpma.pool.protocol.messages import PoolInfo
from rpma.pool.protocol.sizes import format_size


def facts(info: PoolInfo) -> dict[str, Any]:
    """What ``--json`` prints of a pool."""
    return {
        "name": info.name,
        "kind": info.kind,
        "size": info.size,
        "allocated": info.allocated,
        "content_length": info.content_length,
        "incomplete": info.incomplete,
        "created": _created(info),
        "pool_id": str(info.pool_id) if info.pool_id else None,
        "attributes": None if info.attributes is None else _attributes(info.attributes),
        "users": info.users,
        "access": info.access,
        "problem": info.problem or None,
    }


def listing(pools: Sequence[PoolInfo]) -> Table:
    """Pools as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("POOL", "KIND", "SIZE", "CONTENT", "CREATED", "OPEN"):
        is_number = heading in ("SIZE", "CONTENT")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=is_number)
    with_problem = any(info.problem for info in pools)
    if with_problem:
        table.add_column("PROBLEM", overflow="fold")
    for info in pools:
        content = "" if info.content_length is None else format_size(info.content_length)
        if info.incomplete:
            content = f"{content}, incomplete".removeprefix(", ")
        cells = [
            Text(printable(info.name), style="bold"),
            Text(info.kind),
            Text("" if info.problem else format_size(info.size)),
            Text(content),
            Text((_created(info) or "")[:19].replace("T", " ")),
            Text(_open(info)),
        ]
        if with_problem:
            cells.append(Text(printable(info.problem), style="red"))
        table.add_row(*cells)
    return table


def description(address: TargetAddress, info: PoolInfo) -> Table:
    """One pool as a table."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")

    def row(title: str, text: str, style: str = "") -> None:
        table.add_row(title, Text(printable(text), style=style))

    row("pool", info.name, "bold")
    row("target", str(address))
    row("kind", "in DRAM: gone when the target ends" if info.kind == "dram" else "a file")
    if info.problem:
        row("problem", info.problem, "red")
    else:
        row("size", _size(info.size))
    row("allocated", _size(info.allocated))
    row("content", "not known" if info.content_length is None else _size(info.content_length))
    if info.incomplete:
        row("incomplete", "being filled, or never filled, or resized to less", "yellow")
    row("created", _created(info) or "not known")
    row("id", str(info.pool_id) if info.pool_id else "not known")
    row("open", _open(info) or "by nobody")
    if info.attributes is not None:
        for name, value in _attributes(info.attributes).items():
            if str(value).strip("0-"):
                row(name.replace("_", " "), str(value))
    return table


def _size(size: int) -> str:
    return format_size(size) if size < 1024 else f"{format_size(size)} ({size} bytes)"


def _open(info: PoolInfo) -> str:
    return f"by {info.users} for {info.access}" if info.users else ""


def _created(info: PoolInfo) -> str | None:
    """When it was created, as ISO 8601 has it."""
    try:
        moment = datetime.datetime.fromtimestamp(info.created // 10**9, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.isoformat().replace("+00:00", "Z") if info.created else None


def _attributes(attributes: Attributes) -> dict[str, Any]:
    """Attributes by name: bytes in hexadecimal digits."""
    found = {
        field.name: getattr(attributes, field.name) for field in dataclasses.fields(attributes)
    }
    return {name: _plain(value) for name, value in found.items()}


def _plain(value: object) -> int | str:
    if isinstance(value, int):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)
