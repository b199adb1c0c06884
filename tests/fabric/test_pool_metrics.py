"""What a target says of itself, and what that takes."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from targets import connect, serving, wait_until

from fabrics.fabric import Fabric
from rpma.pool import Target
from rpma.pool.target import registry
from rpma.pool.target.store import Store

pytestmark = [pytest.mark.fabric, pytest.mark.soft_only("these never meet the device")]

SIZE = 4096
SOON = 20.0


def fill(folder: Path, count: int) -> None:
    with Store(folder) as store:
        for number in range(count):
            store.create(f"pool-{number}", SIZE).close()


def system_calls(monkeypatch: pytest.MonkeyPatch, target: Target) -> Counter[str]:
    """What is asked of the file system for one scrape."""
    asked: Counter[str] = Counter()

    def counting(name: str) -> Any:
        real = getattr(os, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            asked[name] += 1
            return real(*arguments, **keywords)

        return call

    with monkeypatch.context() as patch:
        for name in ("open", "stat", "fstat", "listdir", "scandir", "pread", "statvfs"):
            patch.setattr(os, name, counting(name))
        target.metrics(SOON)
    return asked


def test_a_scrape_costs_the_same_with_few_and_with_many_pools(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    for count in (3, 300):
        folder = tmp_path / f"{count}"
        folder.mkdir()
        fill(folder, count)
        with serving(fabric, folder) as target:
            wait_until(
                lambda target=target: target.metrics(SOON).pools.get("file"), "they are counted"
            )
            found = target.metrics(SOON)
            assert (found.pools["file"], found.bytes["file"]) == (count, count * SIZE)
            asked.append(system_calls(monkeypatch, target))
            with connect(target) as client:  # nor does what clients do make it dear
                client.create_pool("another", SIZE).close()
                client.remove_pool("pool-1")
            asked.append(system_calls(monkeypatch, target))
            assert target.metrics(SOON).pools["file"] == count
    assert asked[0] == asked[2]
    assert asked[1] == asked[3]
    assert sum(asked[0].values()) < 5


def test_a_scrape_does_not_wait_for_storage(
    fabric: Fabric, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    totals = registry.ServedPools.totals

    def wait_first(pools: registry.ServedPools) -> Any:
        go_on.wait(SOON)
        return totals(pools)

    with serving(fabric, tmp_path) as target, connect(target) as client:
        client.create_pool("pool", SIZE).close()
        assert target.metrics(SOON).pools["file"] == 1
        monkeypatch.setattr(registry.ServedPools, "totals", wait_first)
        began = time.monotonic()
        for _ in range(3):
            assert target.metrics(SOON).pools["file"] == 1  # the last that was found
        client.create_pool("another", SIZE).close()
        found = target.metrics(SOON)
        assert (found.pools["file"], found.requests["create"]) == (1, 2)
        assert time.monotonic() - began < 5
        go_on.set()
        wait_until(lambda: target.metrics(SOON).pools["file"] == 2, "they are counted")


def test_what_cannot_be_counted_is_not_told(
    fabric: Fabric,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_: registry.ServedPools) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(registry.ServedPools, "totals", fail)
    with serving(fabric, tmp_path) as target:
        found = target.metrics(SOON)
        assert (found.pools, found.bytes, found.clients) == ({}, {}, 0)
    assert "no count: [Errno 5] Input/output error" in caplog.text
