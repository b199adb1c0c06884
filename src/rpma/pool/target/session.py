# SPDX-License-Identifier: BSD-3-Clause
"""One client at the target: it shows the token, connects for data, asks, and leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from rpma import allocation
from rpma.constants import Usage
from rpma.errors import RpmaError
from rpma.peer import Peer, PeerConfig
from rpma.pool.protocol import messages
from rpma.pool.protocol.channel import Keys, new_nonce
from rpma.pool.protocol.errors import (
    AuthenticationError,
    PoolAccessError,
    PoolError,
    ProtocolError,
    TargetError,
    undoing,
)
from rpma.pool.protocol.persistency import Persistency
from rpma.pool.protocol.wire import REQUEST_ROOM
from rpma.pool.protocol.words import quoted
from rpma.pool.target import accepting
from rpma.pool.target.accepting import DEPTH
from rpma.pool.target.answering import Answering
from rpma.pool.target.metrics import total
from rpma.pool.target.sparing import told
from rpma.pool.target.stream import CLOSE_TIMEOUT
from rpma.pool.target.tasks import Pace, cancelled, readable, to_its_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from rpma.connection import Connection
    from rpma.memory import MemoryRegion
    from rpma.pool.target.answering import Counts
    from rpma.pool.target.served_pool import ServedPool
    from rpma.pool.target.stream import Stream
    from rpma.pool.target.target import Target

log = logging.getLogger("rpma.target")

LOGIN_TIMEOUT = 10.0
"""How long a client may take to show the token, and to make its data connection, in seconds."""

MAX_OPEN = 256
"""How many pools one client may have open."""


class Session:
    """One client, from its first byte to its last.

    Attributes:
        name: what the log calls it.
        is_in: whether it has shown the token.
    """

    def __init__(self, target: Target, number: int, stream: Stream) -> None:
        """A connection was accepted."""
        self._target, self._stream = target, stream
        self.name = f"client {number}"
        self.is_in = False
        self._gives_way = False
        self._keys: Keys | None = None
        self._peer: Peer | None = None
        self._messages: MemoryRegion | None = None
        self._connection: Connection | None = None
        self._answering: Answering | None = None
        self._pools: dict[int, tuple[ServedPool, MemoryRegion]] = {}
        self._next_number = 1

    async def run(self) -> None:
        """Serve it to its end. Whatever it does, only this client's session ends by it."""
        why = "it left"
        try:
            await asyncio.wait_for(self._let_in(), LOGIN_TIMEOUT)
            await self._unless_it_leaves(self._connect_data())
            why = await self._converse()
        except asyncio.TimeoutError:
            why = "it took too long to come in"
        except AuthenticationError as error:
            why = f"refused: {error}"
            self._target.tally.refused_logins += 1
            await self._say_failure(error)
        except (ConnectionError, EOFError) as error:
            why = f"{error}" or type(error).__name__
            if self._gives_way:
                why = "it gave way to a newcomer"
            if isinstance(error, ProtocolError):
                await self._say_failure(error)
        except (RpmaError, OSError) as error:
            why = f"failed: {_for_log(error)}"
            await self._say_failure(error)
        except asyncio.CancelledError:
            why = "the target ends"
        except Exception:
            why = "an error of the target"
            self._target.sparing(
                logging.ERROR,
                "errors of the target",
                "%s: an error of the target",
                self.name,
                with_trace=True,
            )
        finally:
            await to_its_end(self._leave())
            words = "%s (%s) has gone: %s"
            if self.is_in:
                log.info(words, self.name, self._stream.where, why)
            else:
                self._target.sparing(
                    logging.WARNING,
                    "strangers have gone",
                    words,
                    self.name,
                    self._stream.where,
                    why,
                )

    def give_way(self) -> None:
        """Leave at once, being a stranger: others are waiting."""
        self._gives_way = True
        self._stream.abort()

    @property
    def flushes(self) -> Counts | None:
        """What its flush requests came to so far; None: nothing that is not in the tally."""
        return None if self._answering is None else self._answering.counts

    # ---- coming in -------------------------------------------------------------------------------

    async def _let_in(self) -> None:
        nonce = new_nonce()
        await self._stream.send(messages.Hello(messages.VERSION, nonce))
        login = messages.decode(await self._stream.receive(), messages.Login)
        if login.version != messages.VERSION:
            raise ProtocolError(
                f"the client speaks version {login.version} of the protocol, this target "
                f"{messages.VERSION}: install the same rpma on both"
            )
        token = self._target.token_of(login.user)
        keys = Keys.derive(token, nonce, login.nonce, login.user)
        if token and Keys.derive(b"", nonce, login.nonce, login.user).is_of_client(login.proof):
            raise AuthenticationError(
                "this target asks for a token, and none was given: give it with token=, or with "
                "--token-file or RPMA_TOKEN_FILE to a command"
            )
        if not token and not keys.is_of_client(login.proof):
            raise AuthenticationError(
                "this target asks for no token, and one was given: it is another one, or serves "
                "without a token file"
            )
        keys.check_client(login.proof)
        self._target.strangers.leave(self)
        await self._stream.send(messages.Accepted(keys.target_proof))
        self._stream.secure(keys)
        self._target.check_room()
        self._keys, self.is_in = keys, True
        self._target.tally.sessions += 1
        user = f" as {quoted(login.user)}" if login.user else ""
        log.info("%s came in from %s%s", self.name, self._stream.where, user)

    async def _connect_data(self) -> None:
        """Make a protection domain for this client, and wait in it for its data connection."""
        assert self._keys is not None
        here = self._stream.local or "127.0.0.1"
        address = self._target.rdma_address or here
        self._peer = await self._target.opening(partial(self._open_peer, address))
        size = DEPTH * REQUEST_ROOM + Answering.answers_size(DEPTH)
        self._messages = self._peer.register(allocation.anonymous(size), Usage.RECV | Usage.SEND)
        endpoint = accepting.listen(self._peer, address, self._target.data_ports)
        try:
            with PeerConfig(direct_write_to_pmem=self._target.direct_write_to_pmem) as config:
                descriptor = config.descriptor
            await self._stream.send(
                messages.Session(
                    host=None if address == here else address.partition("%")[0],
                    port=int(endpoint.port),
                    depth=DEPTH,
                    peer_config=descriptor,
                    software=self._target.software,
                )
            )
            deadline = time.monotonic() + LOGIN_TIMEOUT
            request = await accepting.next_request(
                endpoint, self._keys, deadline, self.name, self._target.sparing
            )
            with request:
                for number in range(DEPTH):
                    request.recv(self._messages, number * REQUEST_ROOM, REQUEST_ROOM, wr_id=number)
                self._connection = request.connect()
            await accepting.established(self._connection, deadline)
        finally:
            endpoint.close()
        self._answering = Answering(self._connection, self._messages, DEPTH)
        self._answering.start()
        await self._stream.send(messages.Ready())

    async def _unless_it_leaves(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it, but give it up when the client, which has nothing to say meanwhile, has gone."""
        doing = asyncio.ensure_future(work)
        hearing = asyncio.ensure_future(self._stream.hear())
        try:
            await asyncio.wait({doing, hearing}, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done() and not hearing.result():
                raise EOFError("it left before it had made its data connection")
            await doing
        finally:
            await cancelled(doing, hearing)

    def _open_peer(self, address: str) -> Peer:
        self._peer = Peer.for_address(address)  # here, for whom nobody waits any more
        return self._peer

    # ---- what it asks for ------------------------------------------------------------------------

    async def _converse(self) -> str:
        """Answer its requests; says why that ended."""
        assert self._answering is not None
        ended = asyncio.ensure_future(readable(self._answering.fd, None, "end"))
        requests = asyncio.ensure_future(self._answer_requests())
        try:
            await asyncio.wait({ended, requests}, return_when=asyncio.FIRST_COMPLETED)
            if requests.done():
                requests.result()
                return "it left"
            why = self._answering.failure or self._answering.ended
            return f"its data connection ended: {why}"
        finally:
            await cancelled(ended, requests)

    async def _answer_requests(self) -> None:
        """Until it closes the channel."""
        pace = Pace()
        while True:
            try:
                payload = await self._stream.receive()
            except EOFError:
                return
            request = messages.decode(payload, messages.Request)
            await pace.step()
            await self._stream.send(await self._reply(request))

    async def _reply(self, request: Any) -> messages.Reply:
        rule = _RULES[type(request)]
        kind, tally = request.__struct_config__.tag, self._target.tally
        tally.requests[kind] += 1
        try:
            if rule.accesses is not None:
                self._check_access(request.number, rule.accesses)
            return await rule.handler(self, request)
        except (RpmaError, OSError) as error:
            tally.refused_requests[kind] += 1
            is_expected = isinstance(error, PoolError)
            self._target.sparing(
                logging.INFO if is_expected else logging.ERROR,
                f"requests have failed: {kind}",
                "%s: %s %s: %s",
                self.name,
                _words(request),
                "refused" if is_expected else "failed",
                _for_log(error),
            )
            return messages.Failed(_wire_code(error), told(error))

    async def _create(self, request: messages.Create) -> messages.Reply:
        peer = self._check_room()
        pools = self._target.pools

        def create() -> tuple[ServedPool, messages.Opened]:
            pool = pools.create(request, self, peer)
            return pool, self._take(pool, "write")

        pool, opened = await self._target.on_storage(create, request.name)
        if self._stream.at_eof:
            raise EOFError("it left while its pool was created")
        pool.is_told = True
        kind = "in DRAM" if request.volatile else "in a file"
        kind += ", to replace another" if request.replaces else ""
        log.info("%s created pool %r of %d bytes %s", self.name, pool.name, pool.header.size, kind)
        return opened

    async def _open(self, request: messages.Open) -> messages.Reply:
        peer = self._check_room()
        pools = self._target.pools

        def open_it() -> tuple[ServedPool, messages.Opened]:
            pool = pools.open(request.name, request.access, self, peer)
            return pool, self._take(pool, request.access)

        pool, opened = await self._target.on_storage(open_it, request.name)
        how = pool.persistency
        kind = "in DRAM" if how is Persistency.NONE else f"durable by {how.value}"
        log.info("%s opened pool %r for %s, %s", self.name, pool.name, request.access, kind)
        return opened

    def _check_room(self) -> Peer:
        """Where one more pool may be registered."""
        assert self._peer is not None
        if len(self._pools) >= MAX_OPEN:
            raise TargetError(f"{MAX_OPEN} pools are open by this client: close one first")
        return self._peer

    def _take(self, pool: ServedPool, access: messages.Access) -> messages.Opened:
        """Give the client a pool that was opened for it; where that fails, it is so no longer.

        In a thread: pinning the pages of a large pool takes its time.
        """
        assert self._peer is not None
        assert self._answering is not None
        assert pool.durable is not None
        number, region = self._next_number, None
        self._next_number += 1
        try:
            region = pool.register(self._peer, access)
            self._answering.set_pool(number, pool.durable, access in messages.WRITING)
            opened = messages.Opened(
                number=number,
                descriptor=region.descriptor,
                persistency=pool.persistency.value,
                info=self._target.pools.info(pool),
            )
        except BaseException as error:
            with undoing(error):
                self._let_go(number, pool, region)
            raise
        self._pools[number] = pool, region
        return opened

    def _let_go(self, number: int, pool: ServedPool, region: MemoryRegion | None) -> None:
        """The order matters: no answer and no key must reach memory that goes."""
        try:
            if self._answering is not None:
                self._answering.clear_pool(number)  # after the flush that it may be at
            if region is not None:
                region.close()
        finally:
            self._target.pools.release(pool, self)

    async def _close(self, request: messages.Close) -> messages.Reply:
        pool, _ = self._pool(request.number)
        await self._close_pool(request.number)
        log.info("%s closed pool %r", self.name, pool.name)
        return messages.Done()

    async def _close_pool(self, number: int) -> None:
        pool, region = self._pools[number]

        def close() -> None:
            try:
                self._let_go(number, pool, region)
            finally:
                self._pools.pop(number, None)

        await self._target.on_storage(close, pool.name)

    async def _set_content(self, request: messages.SetContent) -> messages.Reply:
        pool, _ = self._pool(request.number)
        await self._target.on_storage(
            partial(self._target.pools.set_content_length, pool, request.content_length),
            pool.name,
        )
        return messages.Done()

    async def _commit(self, request: messages.Commit) -> messages.Reply:
        pool, _ = self._pool(request.number)
        await self._target.on_storage(
            partial(self._target.pools.commit, pool, request.content_length), pool.name
        )
        log.info("%s completed pool %r", self.name, pool.name)
        return messages.Done()

    async def _list(self, request: messages.List) -> messages.Reply:
        pools, more = await self._target.on_storage(partial(self._target.pools.list, request.after))
        return messages.Listing(pools, more)

    async def _describe(self, request: messages.Describe) -> messages.Reply:
        info = await self._target.on_storage(partial(self._target.pools.describe, request.name))
        return messages.Listing([info], False)

    async def _resize(self, request: messages.Resize) -> messages.Reply:
        await self._target.on_storage(
            partial(self._target.pools.resize, request.name, request.size), request.name
        )
        log.info("%s resized pool %r to %d bytes", self.name, request.name, request.size)
        return messages.Done()

    async def _remove(self, request: messages.Remove) -> messages.Reply:
        await self._target.on_storage(
            partial(self._target.pools.remove, request.name), request.name
        )
        log.info("%s removed pool %r", self.name, request.name)
        return messages.Done()

    def _pool(self, number: int) -> tuple[ServedPool, MemoryRegion]:
        try:
            return self._pools[number]
        except KeyError:
            raise TargetError(f"this client has no pool {number} open") from None

    def _check_access(self, number: int, allowed: frozenset[messages.Access]) -> None:
        pool, _ = self._pool(number)
        access = pool.users[self]
        if access not in allowed:
            raise PoolAccessError(
                f"pool {pool.name!r} is open for {access}: open it with access='write'"
            )

    async def _say_failure(self, error: Exception) -> None:
        with contextlib.suppress(OSError):
            await self._stream.send(messages.Failed(_wire_code(error), told(error)), CLOSE_TIMEOUT)

    # ---- the end ---------------------------------------------------------------------------------

    async def _leave(self) -> None:
        """Give back all that the client had; nothing of it is left to it."""
        if self._answering is not None:
            await self._target.on_storage(self._answering.close)  # after the flush that it is at
            self._target.tally.flushes = total(self._target.tally.flushes, self._answering.counts)
            self._answering = None
        for number in tuple(self._pools):
            name = self._pools[number][0].name
            try:
                await self._close_pool(number)
            except RpmaError as error:
                log.error("%s: pool %r: %s", self.name, name, _for_log(error))
            else:
                log.info("%s closed pool %r, by leaving", self.name, name)
        for thing in (self._connection, self._messages, self._peer):
            if thing is not None:
                with contextlib.suppress(RpmaError):
                    thing.close()
        await self._stream.close(0 if self._target.is_in_a_hurry else CLOSE_TIMEOUT)


class _Rule(NamedTuple):
    """How a request is answered.

    Attributes:
        handler: the method that does it.
        accesses: any of these the client must have to the pool that the request names by number.
            None: it names none, or by name, as whoever has the token may.
    """

    handler: Callable[[Session, Any], Awaitable[messages.Reply]]
    accesses: frozenset[messages.Access] | None


_RULES: dict[type, _Rule] = {
    messages.Create: _Rule(Session._create, None),
    messages.Open: _Rule(Session._open, None),
    messages.Close: _Rule(Session._close, messages.READING),
    messages.SetContent: _Rule(Session._set_content, messages.WRITING),
    messages.Commit: _Rule(Session._commit, messages.WRITING),
    messages.List: _Rule(Session._list, None),
    messages.Describe: _Rule(Session._describe, None),
    messages.Resize: _Rule(Session._resize, None),
    messages.Remove: _Rule(Session._remove, None),
}


def _words(request: Any) -> str:
    name = getattr(request, "name", None)
    what = type(request).__name__.lower()
    return f"{what} {quoted(name)}" if name is not None else what


def _wire_code(error: Exception) -> str:
    return error.wire_code if isinstance(error, PoolError) else TargetError.wire_code


def _for_log(error: Exception) -> str:
    return error.in_full if isinstance(error, PoolError) else str(error)
