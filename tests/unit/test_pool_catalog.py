"""What rpma.pool.target.catalog promises about finding a directory's pools, and what that costs."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpma.pool.protocol.errors import PoolNotFoundError
from rpma.pool.protocol.messages import LISTED_AT_ONCE
from rpma.pool.target import catalog
from rpma.pool.target.header import DATA_OFFSET, SLOT_SIZE
from rpma.pool.target.name_table import NameTable
from rpma.pool.target.registry import ServedPools
from rpma.pool.target.store import Store

PAGE = 4096


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pools"
    made.mkdir()
    return made


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store(folder) as opened:
        yield opened


@pytest.fixture
def pools(store: Store) -> ServedPools:
    return ServedPools(store, dram_limit=1 << 20, shadow_limit=1 << 20, direct_write_to_pmem=False)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system's clock is as fine as it says."""
    monkeypatch.setattr(catalog, "_SETTLED", 0)


def make(store: Store, *names: str) -> None:
    for name in names:
        store.create(name, PAGE).close()


def numbered(count: int) -> list[str]:
    return [f"pool-{number:05}" for number in range(count)]


def listed(pools: ServedPools) -> list[str]:
    """All names, as a client asks for them."""
    names: list[str] = []
    more = True
    while more:
        infos, more = pools.list(names[-1] if names else "")
        names += [info.name for info in infos]
    return names


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """How often files are opened, read and looked at, and how many names of files are met."""
    counts: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "pread", "stat", "listdir", "scandir"):

            def call(*arguments: Any, name: str = name, **keywords: Any) -> Any:
                result = getattr(os, f"real_{name}")(*arguments, **keywords)
                counts[name] += len(result) if name == "listdir" else 1
                return result

            patch.setattr(os, f"real_{name}", getattr(os, name), raising=False)
            patch.setattr(os, name, call)
        yield counts


@pytest.mark.parametrize("count", [10, LISTED_AT_ONCE + 1, 6 * LISTED_AT_ONCE])
def test_listing_costs_as_much_for_each_pool_however_many_there_are(
    store: Store, pools: ServedPools, count: int
) -> None:
    names = numbered(count)
    make(store, *names)
    with counting() as counts:
        assert listed(pools) == names
    assert counts["open"] <= count
    assert counts["pread"] <= count
    assert counts["stat"] <= 2 * count
    assert counts["listdir"] <= 2 * (count + 1)
    assert not counts["scandir"]


@pytest.mark.usefixtures("settled")
def test_a_header_is_read_once(store: Store, pools: ServedPools) -> None:
    names = numbered(LISTED_AT_ONCE + 1)
    make(store, *names)
    listed(pools)
    with counting() as counts:
        assert listed(pools) == names
    assert not counts["open"]
    assert counts["stat"] <= len(names)


def test_one_pool_is_found_without_a_look_at_the_others(store: Store, pools: ServedPools) -> None:
    make(store, *numbered(100))
    with counting() as counts:
        assert pools.describe("pool-00050").size == PAGE
        with pytest.raises(PoolNotFoundError):
            pools.describe("pool-00100")
    assert counts["open"] <= 1
    assert not counts["listdir"]


def test_totals_cost_the_same_with_few_and_many_pools(store: Store, pools: ServedPools) -> None:
    make(store, *numbered(100))
    assert pools.totals()["file"] == (100, 100 * PAGE)
    store.resize("pool-00001", 3 * PAGE)
    store.remove("pool-00002")
    make(store, "another")
    with counting() as counts:
        assert pools.totals()["file"] == (100, 102 * PAGE)
    assert not counts


@pytest.mark.usefixtures("settled")
def test_what_others_do_in_the_directory_is_found(
    folder: Path, store: Store, pools: ServedPools, tmp_path: Path
) -> None:
    make(store, "a", "b", "c", "d")
    assert listed(pools) == ["a", "b", "c", "d"]
    assert pools.totals()["file"] == (4, 4 * PAGE)
    shutil.copy(folder / "b.pool", folder / "e.pool")
    (folder / "a.pool").unlink()
    os.truncate(folder / "b.pool", DATA_OFFSET)
    with open(folder / "c.pool", "r+b") as file:
        file.write(bytes(DATA_OFFSET))
    with Store(tmp_path) as other:
        other.create("d", 2 * PAGE).close()
    os.replace(tmp_path / "d.pool", folder / "d.pool")
    assert listed(pools) == ["b", "c", "d", "e"]
    problems = {one.name: one.problem for one in store.list()}
    assert "its header asks for" in problems["b"]
    assert "it is empty" in problems["c"]
    assert problems["d"] == problems["e"] == ""
    assert pools.describe("d").size == 2 * PAGE
    assert pools.totals()["file"] == (4, 4 * PAGE)
    (folder / "e.pool").unlink()
    make(store, "f", "g")  # and so the directory's time is of a change of ours
    assert pools.totals()["file"] == (5, 5 * PAGE)


def test_a_header_that_changes_within_a_tick_of_the_clock_is_seen(
    folder: Path, store: Store, pools: ServedPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store, "a")
    monkeypatch.setattr(catalog, "_state", lambda _: (0, 0, 0))  # a clock that stands still
    assert listed(pools) == ["a"]
    with open(folder / "a.pool", "r+b") as file:
        file.write(b"x" * 2 * SLOT_SIZE)
    assert "does not begin as one" in pools.describe("a").problem


def test_what_is_made_and_removed_while_the_directory_is_read(
    store: Store, pools: ServedPools, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(store, "a", "b", "d")
    real = os.listdir

    def meanwhile(directory: Any) -> list[str]:
        found = real(directory)
        monkeypatch.setattr(os, "listdir", real)
        make(store, "c")
        store.remove("b")
        return found

    monkeypatch.setattr(os, "listdir", meanwhile)
    assert listed(pools) == ["a", "c", "d"]
    assert pools.totals()["file"] == (3, 3 * PAGE)


def test_a_page_whose_pools_have_all_gone_is_not_the_end(
    folder: Path, store: Store, pools: ServedPools
) -> None:
    names = numbered(3 * LISTED_AT_ONCE)
    make(store, *names)
    infos, more = pools.list("")
    assert more
    for name in names[LISTED_AT_ONCE : 2 * LISTED_AT_ONCE]:
        (folder / f"{name}.pool").unlink()
    infos, more = pools.list(infos[-1].name)
    assert [info.name for info in infos] == names[2 * LISTED_AT_ONCE :]
    assert not more


NAMES = st.sampled_from(["a", "b", "ba", "c", "d"])


@settings(max_examples=200)
@given(st.lists(st.tuples(NAMES, st.none() | st.integers()) | st.sets(NAMES)), NAMES)
def test_a_table_has_its_names_in_order(changes: list[Any], name: str) -> None:
    table: NameTable[int] = NameTable()
    model: dict[str, int] = {}
    for change in changes:
        if isinstance(change, set):
            table.have(change, -1)
            model = {one: model.get(one, -1) for one in change}
        elif change[1] is None:
            assert table.pop(change[0]) == model.pop(change[0], None)
        else:
            table[change[0]] = model[change[0]] = change[1]
        assert len(table) == len(model)
        assert table.after("", 9) == sorted(model)
    assert sorted(table.values()) == sorted(model.values())
    assert table.after(name, 2) == sorted(one for one in model if one > name)[:2]
    assert (table.get(name), name in table) == (model.get(name), name in model)
