# SPDX-License-Identifier: BSD-3-Clause
"""The target: serves the pools of a directory, and pools in DRAM, to those with the token."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import threading
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any, TypeVar

from rpma._native import fabric
from rpma.address import why_not_listen
from rpma.errors import InvalidArgumentError, RpmaError, WaitTimeoutError
from rpma.pool.protocol.address import TargetAddress
from rpma.pool.protocol.errors import TargetError
from rpma.pool.protocol.sizes import parse_size
from rpma.pool.protocol.tokens import check_token
from rpma.pool.protocol.words import quoted
from rpma.pool.target.lanes import Lanes
from rpma.pool.target.listening import listen
from rpma.pool.target.metrics import Metrics, Tally, total
from rpma.pool.target.registry import ServedPools
from rpma.pool.target.session import Session
from rpma.pool.target.shadows import default_limit
from rpma.pool.target.sparing import Sparing
from rpma.pool.target.store import Store
from rpma.pool.target.strangers import Strangers
from rpma.pool.target.stream import READ_AHEAD, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from rpma._types import Buffer
    from rpma.pool.target.catalog import Totals

T = TypeVar("T")

log = logging.getLogger("rpma.target")

OPENING_THREADS = 4
"""How many clients that have shown the token are given their protection domain at a time."""

SHORTEST_TOKEN = 16
"""A shorter token can be found by trying, in bytes."""

COUNTED_WITHIN = 0.2
"""How long the metrics wait for a count of the pools, in seconds."""

DEFAULT_LISTEN = "127.0.0.1:7204"


class ListenError(OSError):
    """A target cannot listen where it was told to."""


class Target:
    """A target, running in threads of its own from `start` to `close`.

    Attributes:
        pools: what it serves.
        rdma_address: where clients make their data connections; None: where they come in.
        data_ports: the ports for that; empty: any that are free.
        direct_write_to_pmem: what its operator says of the platform.
        software: what it says of itself.
        tally: what its sessions count.
        strangers: those of its sessions that have not shown the token.
        sparing: by which they log what clients cause at their own pace.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        listen: str = DEFAULT_LISTEN,
        token: Buffer | str | None = None,
        tokens: Mapping[str, Buffer | str] | None = None,
        dram: int | str = 0,
        shadow_memory: int | str | None = None,
        rdma_address: str | None = None,
        data_ports: Sequence[int] = (),
        direct_write_to_pmem: bool = False,
        max_clients: int = 1024,
    ) -> None:
        """Prepare it; `start`, or a ``with`` block, starts it.

        Args:
            directory: where its pools are; None: it serves pools in DRAM only.
            listen: `host:port` on which clients come in; port 0 takes a free one, `[::]` is all
                addresses of IPv6 and IPv4, and a name is all that it has.
            token: what clients have to have, 16 random bytes at least; None: whoever comes over
                loopback may come in.
            tokens: the tokens of users by name, besides.
            dram: how much memory pools in DRAM may take together, in bytes or as "1GiB".
            shadow_memory: how much memory the copies of pools may take together whose files the
                RDMA device cannot work on (docs/durability.md, "Shadowed files"), in bytes or as
                "1GiB"; None: half of the machine's memory, or of its control group's.
            rdma_address: an address of the RDMA device for data connections; None: the one by which
                a client came in.
            data_ports: the ports for data connections; empty: any that are free.
            direct_write_to_pmem: whether what the RNIC writes to persistent memory is durable once
                it is there (eADR, or DDIO off).
            max_clients: how many may be in at a time.

        Raises:
            InvalidArgumentError: it would listen beyond loopback without a token, say.
            TargetError: another target serves the directory.
        """
        host, _, port = listen.rpartition(":")
        self._host = TargetAddress.parse(host).host if host else ""
        if not self._host or not port.isdecimal() or len(port) > 5 or int(port) >= 1 << 16:
            raise InvalidArgumentError(
                f"listen={listen!r} should be host:port, [IPv6]:port, with a port from 0 to 65535"
            )
        self._port = int(port)
        self._tokens = {"": check_token(token)} if token is not None else {}
        for user, secret in (tokens or {}).items():
            self._tokens[user] = check_token(secret)
        for user, secret in self._tokens.items():
            if len(secret) < SHORTEST_TOKEN:
                log.warning(
                    "the token%s has %d bytes only, and can be found by trying: use %d at least; "
                    "'rpma token' makes one",
                    f" of {quoted(user)}" if user else "",
                    len(secret),
                    SHORTEST_TOKEN,
                )
        if not self._tokens and not _is_loopback(self._host):
            raise InvalidArgumentError(
                f"listen={listen!r}: without a token a target listens on loopback only; give it "
                "one, or listen on 127.0.0.1"
            )
        if directory is None and not parse_size(dram, "dram"):
            raise InvalidArgumentError("a target needs a directory, or dram= for pools in DRAM")
        self.rdma_address = rdma_address
        self.data_ports = tuple(data_ports)
        self.direct_write_to_pmem = direct_write_to_pmem
        self.software = "rpma pool target"
        self._max_clients = max_clients
        self._directory = directory
        self._dram = parse_size(dram, "dram")
        self._shadow_memory = (
            default_limit() if shadow_memory is None else parse_size(shadow_memory, "shadow_memory")
        )
        self.pools: ServedPools
        self._lanes: Lanes
        self._opening: Lanes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event
        self._sessions: dict[asyncio.Task[None], Session] = {}
        self.tally = Tally()
        self.strangers: Strangers[Session] = Strangers()
        self.sparing: Sparing
        self._count = 0
        self._counting: asyncio.Future[dict[str, Totals]] | None = None
        self._totals: dict[str, Totals] = {}
        self._drain = 0.0
        self._hurry: asyncio.Event
        self._started = threading.Event()
        self._failure: BaseException | None = None

    # ---- for whoever embeds it -------------------------------------------------------------------

    def start(self) -> None:
        """Open the directory, listen, and serve until `close`.

        Raises:
            ListenError: it cannot listen there, which is an OSError.
            TargetError: another target serves the directory.
        """
        if self._thread is not None:
            raise TargetError("the target has been started before")
        store = Store(self._directory) if self._directory is not None else None
        self.pools = ServedPools(
            store,
            dram_limit=self._dram,
            shadow_limit=self._shadow_memory,
            direct_write_to_pmem=self.direct_write_to_pmem,
        )
        # A session has one thing done at a time; so has the metrics.
        self._lanes = Lanes("rpma-storage", self._max_clients + 1)
        self._opening = Lanes("rpma-opening", OPENING_THREADS)
        self._thread = threading.Thread(target=self._run, name="rpma-target", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    @property
    def address(self) -> TargetAddress:
        """Where clients come in, the port being the real one."""
        return TargetAddress(self._host, self._port)

    @property
    def clients(self) -> int:
        """How many clients are in."""
        return sum(session.is_in for session in tuple(self._sessions.values()))

    @property
    def failure(self) -> BaseException | None:
        """What ended it, where nobody asked it to end."""
        return self._failure

    def metrics(self, timeout: float | None = None) -> Metrics:
        """What it has done, and what it has.

        Args:
            timeout: in seconds; None waits for ever. The target answers at once, unless its process
                has no time: what it says of pools is what it last found where storage is busy.

        Raises:
            TargetError: it does not run.
            WaitTimeoutError: it has not answered for so long.
        """
        loop = self._loop
        if loop is None or self._thread is None or not self._thread.is_alive():
            raise TargetError("the target does not run")
        measuring = self._measure()
        try:
            future = asyncio.run_coroutine_threadsafe(measuring, loop)
        except RuntimeError:
            measuring.close()
            raise TargetError("the target does not run") from None
        try:
            return future.result(timeout)
        except FutureTimeoutError:
            future.cancel()
            raise WaitTimeoutError("the target does not answer in time") from None
        except CancelledError:
            raise TargetError("the target ends") from None

    def close(self, drain: float = 0.0) -> None:
        """End it. Clients in it lose their connections; what they persisted is durable.

        Args:
            drain: how long to wait for clients to leave by themselves, in seconds. No new ones
                come in meanwhile. While a thread waits so, another may call it again with 0 to
                end the waiting.
        """
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        if drain:
            self._drain = drain
        with contextlib.suppress(RuntimeError):  # it has ended
            loop.call_soon_threadsafe(self._stop.set)
            if not drain:
                loop.call_soon_threadsafe(self._hurry.set)
        thread.join()

    def __enter__(self) -> Target:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- for its sessions ------------------------------------------------------------------------

    def token_of(self, user: str) -> bytes:
        """The token that a user has to have."""
        if not self._tokens:
            return b""
        token = self._tokens.get(user)
        if token is None:
            # An unknown user meets the same words, and takes as long, as a wrong token.
            return os.urandom(32)
        return token

    def check_room(self) -> None:
        """Raise TargetError unless one more client may be in."""
        if self.clients >= self._max_clients:
            self.tally.refused_connections += 1
            raise TargetError(
                f"{self._max_clients} clients are in, and no more may be: come later, or raise the "
                "target's --max-clients"
            )

    @property
    def is_in_a_hurry(self) -> bool:
        """Whether it ends at once."""
        return self._hurry.is_set()

    async def on_storage(self, work: Callable[[], T], *names: str) -> T:
        """Do what may wait for storage, when nothing else is done with the pools of these names."""
        return await self._lanes.run(work, *names)

    async def opening(self, work: Callable[[], T]) -> T:
        """Do what a client that comes in needs from its device, past whatever waits for storage."""
        return await self._opening.run(work)

    # ---- its thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            if self._started.is_set():
                log.critical("the target ends: %s", error)
        finally:
            self._opening.close()
            self._lanes.close()
            self.pools.close()
            self._started.set()

    async def _serve(self) -> None:
        self._stop, self._hurry = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.sparing = Sparing(log, self._loop)
        try:
            listening = listen(self._host, self._port)
        except OSError as error:
            words = f"cannot listen on {self.address}: {why_not_listen(error)}"
            raise ListenError(error.errno, words) from None
        self._port = listening[0].getsockname()[1]
        servers = [
            await asyncio.start_server(self._come, sock=one, limit=READ_AHEAD) for one in listening
        ]
        log.info("listening on %s, over %s", self.address, fabric.name)
        self._started.set()
        try:
            await self._stop.wait()
        finally:
            for server in servers:
                server.close()  # without its wait_closed: that waits for all clients to leave
        for task, session in self._sessions.items():
            if not session.is_in:  # nobody comes in any more
                task.cancel()
        tasks = [task for task, session in self._sessions.items() if session.is_in]
        if tasks and not self._hurry.is_set():
            log.info("waiting up to %g s for %d clients to leave", self._drain, self.clients)
            await self._leaving(tasks)
        for task in self._sessions:
            task.cancel()
        if self._sessions:
            await asyncio.wait(self._sessions)
        self.sparing.sum_up()
        log.info("ended")

    async def _leaving(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Wait until all have left, `_drain` has passed, or there is no time any more."""
        hurry = asyncio.ensure_future(self._hurry.wait())
        left = asyncio.ensure_future(asyncio.wait(tasks))
        waiting: tuple[asyncio.Future[Any], ...] = (hurry, left)
        await asyncio.wait(waiting, timeout=self._drain, return_when=asyncio.FIRST_COMPLETED)
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _count_pools(self) -> dict[str, Totals]:
        """How many there are, and their size; what was found last while storage is busy."""
        if self._counting is None:
            self._counting = asyncio.ensure_future(self.on_storage(self.pools.totals))
        counting = self._counting
        await asyncio.wait({counting}, timeout=COUNTED_WITHIN)
        if counting.done() and counting is self._counting:
            self._counting = None
            try:
                self._totals = counting.result()
            except (RpmaError, OSError) as error:
                self.sparing(logging.WARNING, "pools are not counted", "no count: %s", error)
        return self._totals

    async def _measure(self) -> Metrics:
        totals = await self._count_pools()
        tally, flushes = self.tally, [session.flushes for session in self._sessions.values()]
        return Metrics(
            clients=self.clients,
            sessions=tally.sessions,
            refused_logins=tally.refused_logins,
            refused_connections=tally.refused_connections,
            displaced_strangers=tally.displaced_strangers,
            pools={kind: each.pools for kind, each in totals.items()},
            bytes={kind: each.size for kind, each in totals.items()},
            open_pools=self.pools.open_pools,
            shadow_bytes=self.pools.shadows.used,
            shadow_limit=self.pools.shadows.limit,
            requests=dict(tally.requests),
            refused_requests=dict(tally.refused_requests),
            flushes=total(tally.flushes, *(counts for counts in flushes if counts is not None)),
        )

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._count += 1
        task = asyncio.current_task()
        assert task is not None
        stream = Stream(reader, writer)
        session = Session(self, self._count, stream)
        self._sessions[task] = session
        try:
            other = self.strangers.come(session, stream.peer)
            if other is not None:
                self.tally.displaced_strangers += 1
                other.give_way()
            await session.run()
        finally:
            self.strangers.leave(session)
            del self._sessions[task]


def _is_loopback(host: str) -> bool:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidArgumentError(f"listen={host!r}: no such host: {error.strerror}") from None
    addresses = {str(entry[4][0]).partition("%")[0] for entry in found}
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)
