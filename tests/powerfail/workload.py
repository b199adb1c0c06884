"""The clients: they write until the power goes, and remember what they were told."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import rpma.aio
from rpma.errors import RpmaError
from rpma.pool import Client, Persistency, Pool, TargetLost

from .agent import RemoteClient, RemotePool
from .caches import Caches
from .ledger import Findings, Ledger

#: The pools of each kind of storage. stubs.c and serve.py know them by their names.
ROLES: Final = {
    "dax": ("mapped", "shadowed", "control"),
    "disk": ("mapped", "shadowed", "control", "together"),
}

#: The same over a kernel's device. It works on no file itself but on that of "unruled", where it
#: can: the rule that keeps it from that is switched off for this pool.
KERNEL_ROLES: Final = {
    "dax": ("shadowed", "control"),
    "disk": ("shadowed", "unruled", "control"),
}

#: How many keys of each size they have.
KEYS: Final = {"mapped": 2, "shadowed": 1, "unruled": 1, "control": 1, "together": 2}

PERSISTENCY: Final = {"dax": Persistency.PMEM, "disk": Persistency.MSYNC}

CALL_LIMIT: Final = 60.0
"""How long a call may take: longer than any does, in seconds."""


class Worker:
    """A client that works until the power goes.

    Attributes:
        name: what it works on.
        unopened: pools that failed to open.
        errors: what went wrong, in words.
    """

    def __init__(self, name: str, chance: random.Random) -> None:
        """It has no connection."""
        self.name = name
        self.unopened = 0
        self.errors: list[str] = []
        self.client: Client | RemoteClient | None = None
        self.chance = chance
        self._thread: threading.Thread | None = None

    def work(self) -> None:
        """One piece of work."""
        raise NotImplementedError

    def start(self) -> None:
        """Go on, in a thread, until the power goes."""
        self._thread = threading.Thread(target=self._work, name=self.name)
        self._thread.start()

    def _work(self) -> None:
        try:
            while True:
                self.work()
        except TargetLost:
            pass
        except Exception as error:
            self.errors.append(f"{self.name}: {error!r}")

    def join(self) -> None:
        """Wait until the loss has been noticed, and clean up."""
        if self._thread is not None:
            self._thread.join(2 * CALL_LIMIT)
            if self._thread.is_alive():
                raise RuntimeError(f"{self.name}: the client does not notice the loss")
            self._thread = None
        self.close()

    def close(self) -> None:
        """Close the client."""
        if self.client is not None:
            self.client.close()
            self.client = None


class Writer(Worker):
    """Writes records into one pool.

    Attributes:
        kind: of the storage.
        role: of the pool, and its name.
        ledger: the pool's books.
        misflushed: answers before which something else was flushed than asked for.
    """

    def __init__(self, kind: str, role: str, chance: random.Random, caches: Caches) -> None:
        """A pool that is still to be created."""
        super().__init__(f"{kind}/{role}", chance)
        self.kind, self.role = kind, role
        self.ledger = Ledger(self.name, KEYS[role])
        self.misflushed = 0
        # libpmem is for one kind of storage only.
        self._caches = caches if kind == "dax" else None
        self._exists = False
        self._pool: Pool | RemotePool | None = None

    def open(self, client: Client | RemoteClient) -> Findings:
        """Open the pool, with a new client, and compare it with the books."""
        self.client, self._pool = client, None
        try:
            if self._exists:
                self._pool = client.open_pool(self.role, timeout=CALL_LIMIT)
            else:
                size = self.ledger.size
                self._pool = client.create_pool(self.role, size, timeout=CALL_LIMIT)
        except RpmaError as error:
            self.unopened += 1
            self.errors.append(f"{self.name} does not open: {error!r}")
            return Findings()
        self._exists = True
        if self._pool.persistency is not PERSISTENCY[self.kind]:
            self.errors.append(f"{self.name} is durable by {self._pool.persistency}")
        found = self._pool.read(timeout=CALL_LIMIT)
        if self._caches is not None:
            self._caches.persisted[self.role] = bytearray(found)
        return self.ledger.check(found)

    def work(self) -> None:
        """Write, in one of two ways."""
        if self._pool is None:
            raise TargetLost("it did not open")
        if self.chance.random() < 0.7:
            self._write_one(self._pool)
        else:
            self._write_some(self._pool)

    def _write_one(self, pool: Pool | RemotePool) -> None:
        """One record, durable as it is written."""
        key = self.chance.randrange(self.ledger.keys)
        place, offset, data = self.ledger.begin(key, self.chance)
        pool.write_persist(offset, data, timeout=CALL_LIMIT)
        self._check_flushed(offset, len(data))
        self.ledger.acknowledge(place)

    def _write_some(self, pool: Pool | RemotePool) -> None:
        """Records that are neighbours, which one request makes durable."""
        begin, end, places = self.ledger.size, 0, []
        for place, offset, data in self.ledger.batch(self.chance, 5):
            pool.write(offset, data, timeout=CALL_LIMIT)
            begin, end = min(begin, offset), max(end, offset + len(data))
            places.append(place)
        pool.persist(begin, end - begin, timeout=CALL_LIMIT)
        self._check_flushed(begin, end - begin)
        for place in places:
            self.ledger.acknowledge(place)

    def _check_flushed(self, offset: int, length: int) -> None:
        """Before this answer exactly this was flushed, no byte more or less."""
        if self._caches is None or self.role == "control":
            return
        flushed = self._caches.flushed(self.role)
        if flushed != [(offset, length)]:
            self.misflushed += 1
            self.errors.append(
                f"{self.name}: {length} bytes at {offset} were to be flushed, and {flushed} were"
            )


class Small(NamedTuple):
    """What a small pool may be: `byte` is each of its bytes, None: nobody knows."""

    size: int
    content_length: int | None
    incomplete: bool = False
    byte: int | None = 0


class Gatherer(Writer):
    """Writes several records at a time into one pool, by tasks that wait for one each.

    What they write is made durable together, and the answers come one by one.
    """

    def __init__(
        self,
        kind: str,
        role: str,
        chance: random.Random,
        caches: Caches,
        connecting: Callable[[], rpma.aio.Opening[rpma.aio.Client]],
    ) -> None:
        """A pool that is still to be created; the tasks have a client of their own."""
        super().__init__(kind, role, chance, caches)
        self._connecting = connecting

    def open(self, client: Client | RemoteClient) -> Findings:
        """Compare the pool with the books, and leave it to the tasks."""
        found = super().open(client)
        if self._pool is not None:
            self._pool.close()
        return found

    def work(self) -> None:
        """Write until the power goes."""
        if self._pool is None:
            raise TargetLost("it did not open")
        asyncio.run(self._gather())

    async def _gather(self) -> None:
        async with self._connecting() as client, client.open_pool(self.role) as pool:
            while True:
                keys = self.chance.sample(range(self.ledger.keys), self.chance.randint(2, 8))
                tasks = [self._write(pool, key) for key in keys]
                for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                    if isinstance(outcome, BaseException):
                        raise outcome

    async def _write(self, pool: rpma.aio.Pool, key: int) -> None:
        place, offset, data = self.ledger.begin(key, self.chance)
        await pool.write_persist(offset, data, timeout=CALL_LIMIT)
        self.ledger.acknowledge(place)


class Keeper(Worker):
    """Creates, changes, replaces and removes small pools.

    Attributes:
        kind: of the storage.
        acknowledged: changes that were.
        checked: pools that were compared, or their absence.
        lost: of those, how many were not as they had been acknowledged to be.
    """

    NAMES: Final = tuple(f"small-{number}" for number in range(4))

    def __init__(self, kind: str, chance: random.Random) -> None:
        """There is none yet."""
        super().__init__(f"{kind}/small", chance)
        self.kind = kind
        self.acknowledged = self.checked = self.lost = 0
        # What each pool may be, None being absent: one of these.
        self._allowed: dict[str, list[Small | None]] = {name: [None] for name in self.NAMES}

    def open(self, client: Client | RemoteClient) -> None:
        """Compare the pools with what was acknowledged, with a new client."""
        self.client = client
        there = {info.name: info for info in client.list_pools(timeout=CALL_LIMIT)}
        for name, info in there.items():
            if info.problem:
                self.unopened += 1
                self.errors.append(f"{self.kind}/{name}: {info.problem}")
        for name, allowed in self._allowed.items():
            self.checked += 1
            now: Small | None = None
            data = b""
            if name in there:
                info = there[name]
                now = Small(info.size, info.content_length, info.incomplete, None)
                if not info.problem:
                    try:
                        with client.open_pool(name, timeout=CALL_LIMIT) as pool:
                            data = pool.read(timeout=CALL_LIMIT)
                    except RpmaError as error:
                        self.unopened += 1
                        self.errors.append(f"{self.kind}/{name} does not open: {error!r}")
            found = [each for each in allowed if _is_so(each, now, data)]
            if not found:
                self.lost += 1
                self.errors.append(f"{self.kind}/{name} should be {allowed}, and is {now}")
            self._allowed[name] = found[:1] or [now]

    def work(self) -> None:
        """One change of one pool."""
        client = self.client
        assert client is not None
        name = self.chance.choice(self.NAMES)
        allowed = self._allowed[name]
        [now] = allowed
        size = self.chance.randint(1, 200_000)
        length = self.chance.choice((None, self.chance.randint(0, size)))
        deed = self.chance.choice(("remove", "resize", "content", "replace", "replace"))
        if deed == "replace":
            byte = self.chance.randint(1, 255)
            allowed.append(Small(size, length, byte=byte))
            with client.create_pool(
                name, size, content_length=length, replace=True, timeout=CALL_LIMIT
            ) as pool:
                pool.write(0, bytes([byte]) * size, timeout=CALL_LIMIT)
                pool.commit(length, timeout=CALL_LIMIT)
        elif now is None:
            allowed.append(Small(size, length))
            client.create_pool(name, size, content_length=length, timeout=CALL_LIMIT).close()
        elif deed == "remove":
            allowed.append(None)
            client.remove_pool(name, timeout=CALL_LIMIT)
        elif deed == "resize":
            kept = None if now.content_length is None else min(now.content_length, size)
            is_cut = now.incomplete or kept != now.content_length
            is_same = size <= now.size or now.byte == 0  # what is added is zero
            allowed.append(Small(size, kept, is_cut, now.byte if is_same else None))
            client.resize_pool(name, size, timeout=CALL_LIMIT)
        else:
            length = None if length is None else min(length, now.size)
            allowed.append(now._replace(content_length=length))
            with client.open_pool(name, timeout=CALL_LIMIT) as pool:
                pool.set_content_length(length, timeout=CALL_LIMIT)
        del allowed[:-1]
        self.acknowledged += 1
        time.sleep(self.chance.random() * 0.05)  # it costs the guest more than a record does


def _is_so(allowed: Small | None, now: Small | None, data: bytes) -> bool:
    if allowed is None or now is None:
        return allowed is now
    if allowed.byte is not None and data.strip(bytes([allowed.byte])):
        return False
    return now == allowed._replace(byte=None)
