# SPDX-License-Identifier: BSD-3-Clause
"""What a client does, as generators: coming in, and asking for pools.

Each yields what it needs from outside, and is sent the result: a `Waiter` to be done, or one of the
requests below. So the blocking client and the one for asyncio do the same.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rpma._object import integer
from rpma.constants import ATOMIC_WRITE_ALIGNMENT, FlushType
from rpma.errors import ClosedError, InvalidArgumentError
from rpma.memory import RemoteMemoryRegion
from rpma.pool import dialing, messages, transfers
from rpma.pool.channel import Keys, new_nonce
from rpma.pool.datapath import SEGMENT_SIZE, DataPath, InPlace
from rpma.pool.durability import Persistency
from rpma.pool.errors import (
    BY_WIRE_CODE,
    AuthenticationError,
    NotDurableError,
    PoolAccessError,
    PoolError,
    PoolSizeError,
    ProtocolError,
)
from rpma.pool.header import MAX_SIZE, Attributes
from rpma.pool.messages import PoolInfo
from rpma.pool.names import check_name
from rpma.pool.sizes import parse_size
from rpma.pool.waiting import Waiter
from rpma.pool.words import explained, quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from rpma._types import Buffer, WritableBuffer
    from rpma.pool.address import TargetAddress
    from rpma.pool.arrays import RegisteredArray
    from rpma.pool.messages import Access
    from rpma.pool.ssh import SshTarget

    Steps = Generator[Any, Any, Any]
    Progress = Callable[[int, int], object]

T = TypeVar("T", bound="messages.Message")

_SIZE_MAX = (1 << 64) - 1
_ACCESSES = ("read", "write", "shared")


class Dial(NamedTuple):
    """Open the control channel to the target."""

    address: TargetAddress


class Receive(NamedTuple):
    """Receive the next payload of the control channel."""


class Exchange(NamedTuple):
    """Send a payload on the control channel, and receive the reply to it."""

    payload: bytes


class Secure(NamedTuple):
    """Authenticate the frames of the control channel from here on."""

    keys: Keys


class Run(NamedTuple):
    """Call a function that blocks."""

    function: Callable[[], Any]


# ---- coming in ----


def connect(
    address: TargetAddress, token: bytes, bounce_size: int, timeout: float | None
) -> Generator[Any, Any, DataPath]:
    """Show the token, see that the target has it too, make the data connection.

    An address with a directory has a target started there, which asks for a token of its own.

    Raises:
        AuthenticationError: one of the two has another token.
        ProtocolError: it is not a target, or one of another version.
    """
    started = None
    if address.directory is not None:
        started = yield Run(partial(_start_by_ssh, address, timeout))
        address, token = started.address, started.token
    try:
        path: DataPath = yield from _come_in(address, token, bounce_size, timeout)
    except BaseException:
        if started is not None:
            started.close()
        raise
    path.started = started
    return path


def _start_by_ssh(address: TargetAddress, timeout: float | None) -> SshTarget:
    from rpma.pool.ssh import SshTarget

    return SshTarget(address, timeout)


def _come_in(
    address: TargetAddress, token: bytes, bounce_size: int, timeout: float | None
) -> Generator[Any, Any, DataPath]:
    yield Dial(address)
    hello = _reply((yield Receive()), messages.Hello)
    if hello.version != messages.VERSION:
        raise ProtocolError(
            f"the target speaks version {hello.version} of the protocol, this client "
            f"{messages.VERSION}: install the same rpma on both"
        )
    user, nonce = address.user or "", new_nonce()
    keys = Keys.derive(token, hello.nonce, nonce, user)
    login = messages.Login(messages.VERSION, user, nonce, keys.client_proof)
    accepted = _reply((yield Exchange(messages.encode(login))), messages.Accepted)
    keys.check_target(accepted.proof)
    yield Secure(keys)
    session = _reply((yield Receive()), messages.Session)
    path: DataPath = yield Run(
        partial(dialing.connect, address.host, session, keys.ticket, bounce_size, timeout)
    )
    try:
        _reply((yield Receive()), messages.Ready)
    except BaseException:
        path.close()
        raise
    return path


def _reply(payload: bytes, kind: type[T]) -> T:
    """The reply, which is of this kind unless it says what failed."""
    reply = messages.decode(payload, kind | messages.Failed)
    if isinstance(reply, messages.Failed):
        cls = BY_WIRE_CODE.get(reply.code, PoolError)
        raise cls(explained(reply.text))
    assert isinstance(reply, kind)
    return reply


def _ask(request: messages.Request, kind: type[T]) -> Generator[Any, Any, T]:
    return _reply((yield Exchange(messages.encode(request))), kind)


def check_token(token: Buffer | str | None) -> bytes:
    """The bytes of a token; of none for a target that asks for none."""
    if token is None:
        return b""
    if isinstance(token, str):
        token = token.encode("utf-8")
    raw = bytes(memoryview(token))
    if not raw.strip():
        raise AuthenticationError("token is empty: give the target's, or None if it has none")
    return raw


# ---- asking for pools ----


def create(
    path: DataPath,
    name: str,
    size: int | str,
    attributes: Attributes | None,
    content_length: int | None,
    volatile: bool,
    incomplete: bool,
    replace: bool,
) -> Generator[Any, Any, PoolLogic]:
    """Create a pool and open it for writing."""
    if attributes is None:
        attributes = Attributes()
    elif not isinstance(attributes, Attributes):
        raise TypeError(f"attributes must be an Attributes, not {type(attributes).__name__}")
    count = _size(size)
    if content_length is not None:
        content_length = integer("content_length", content_length, count, "bytes")
    request = messages.Create(
        check_name(name),
        count,
        attributes,
        content_length,
        volatile=bool(volatile),
        incomplete=bool(incomplete or replace),
        replaces=bool(replace),
    )
    opened = yield from _ask(request, messages.Opened)
    return PoolLogic(path, opened, "write")


def open_(path: DataPath, name: str, access: Access) -> Generator[Any, Any, PoolLogic]:
    """Open a pool."""
    if access not in _ACCESSES:
        raise InvalidArgumentError(f"access={access!r} must be one of {', '.join(_ACCESSES)}")
    opened = yield from _ask(messages.Open(check_name(name), access), messages.Opened)
    return PoolLogic(path, opened, access)


def list_(_path: DataPath) -> Generator[Any, Any, list[PoolInfo]]:
    """All pools of the target, in order of their names."""
    found: list[PoolInfo] = []
    while True:
        after = found[-1].name if found else ""
        listing = yield from _ask(messages.List(after), messages.Listing)
        found += listing.pools
        if not listing.more or not listing.pools:
            return found


def describe(_path: DataPath, name: str) -> Generator[Any, Any, PoolInfo]:
    """What the target says of one pool."""
    listing = yield from _ask(messages.Describe(check_name(name)), messages.Listing)
    if len(listing.pools) != 1:
        raise ProtocolError(f"the target described {len(listing.pools)} pools, not one")
    return listing.pools[0]


def resize(_path: DataPath, name: str, size: int | str) -> Steps:
    """Change the size of a pool that nobody has open."""
    yield from _ask(messages.Resize(check_name(name), _size(size)), messages.Done)


def remove(_path: DataPath, name: str) -> Steps:
    """Remove a pool that nobody has open."""
    yield from _ask(messages.Remove(check_name(name)), messages.Done)


def _size(size: int | str) -> int:
    # What no pool can have is refused here: a message would not even carry all of it.
    count = parse_size(size)
    if not 1 <= count <= MAX_SIZE:
        raise PoolSizeError(f"size: {count} bytes cannot be a pool's size; use 1 to {MAX_SIZE}")
    return count


# ---- a pool that is open ----


class PoolLogic:
    """A pool that is open, and what can be done with it.

    Attributes:
        info: what the target said of it when it was opened.
        access: how it was opened.
        persistency: how it becomes durable.
        number: by which the target knows it.
        remote: its memory.
        closed: whether it is closed.
    """

    def __init__(self, path: DataPath, opened: messages.Opened, access: Access) -> None:
        """Made by `create` and `open_`."""
        self.path = path
        self.info = opened.info
        self.access = access
        self.closed = False
        try:
            self.persistency = Persistency(opened.persistency)
        except ValueError:
            raise ProtocolError(
                f"the target makes pools durable by {quoted(opened.persistency)}, which this "
                "client does not know: install the same rpma on both"
            ) from None
        self.number = opened.number
        self.remote = RemoteMemoryRegion(opened.descriptor)
        if len(self.remote) < self.info.size:
            raise ProtocolError("the target opened less memory than the pool has")

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.info.size

    # ---- checks ----

    def check_open(self) -> None:
        """Raise ClosedError if it is closed."""
        if self.closed:
            raise ClosedError(f"pool {self.info.name!r} is closed")

    def _check(self, writes: bool) -> None:
        self.check_open()
        if writes and self.access == "read":
            raise PoolAccessError(
                f"pool {self.info.name!r} is open for reading: open it with access='write'"
            )

    def range(self, offset: int, length: int | None) -> tuple[int, int]:
        """Offset and length, None being all from there on; InvalidArgumentError if outside."""
        at = integer("offset", offset, _SIZE_MAX, "bytes")
        if length is None:
            length = max(self.size - at, 0)
        count = integer("length", length, _SIZE_MAX, "bytes")
        if at > self.size or count > self.size - at:
            raise InvalidArgumentError(
                f"offset={at} and length={count} are outside of pool {self.info.name!r}, which "
                f"has {self.size} bytes"
            )
        return at, count

    def _persister(self, offset: int, length: int) -> Callable[[Waiter], Waiter]:
        if self.persistency is Persistency.NONE:
            raise NotDurableError(
                f"pool {self.info.name!r} is in DRAM: nothing can make it durable; flush() makes "
                "it visible"
            )
        path, remote, number = self.path, self.remote, self.number
        if self.persistency is Persistency.FLUSH:
            return lambda waiter: path.flush(remote, offset, length, FlushType.PERSISTENT, waiter)
        return lambda waiter: path.request_flush(number, offset, length, waiter)

    # ---- bytes ----

    def read(self, offset: int, length: int | None, progress: Progress | None) -> Steps:
        """The bytes of a range."""
        self._check(writes=False)
        at, count = self.range(offset, length)
        data = bytearray(count)
        yield from transfers.read(self.path, memoryview(data), self.remote, at, progress=progress)
        return bytes(data)

    def read_into(self, offset: int, buffer: WritableBuffer, progress: Progress | None) -> Steps:
        """Fill a buffer from `offset` on."""
        self._check(writes=False)
        view = as_bytes("buffer", buffer)
        if view.readonly:
            raise InvalidArgumentError("buffer must be writable")
        at, _ = self.range(offset, len(view))
        yield from transfers.read(self.path, view, self.remote, at, progress=progress)

    def write(self, offset: int, data: Buffer, progress: Progress | None) -> Steps:
        """Write; done when the target's memory has it."""
        self._check(writes=True)
        view = as_bytes("data", data)
        at, _ = self.range(offset, len(view))
        yield from transfers.write(self.path, self.remote, at, view, progress=progress)

    def post_small(self, offset: int, data: Buffer, persists: bool = False) -> Waiter | None:
        """Post what can be posted at once: a write of a copy of `data`, and what makes it durable.

        Returns:
            What is done when the write is, or when it is durable; None: nothing was posted. The
            steps of `write` and `write_persist` do it, or say why it cannot be.
        """
        path = self.path
        if (
            not isinstance(data, (bytes, bytearray))
            or type(offset) is not int
            or self.closed
            or self.access == "read"
            or (persists and self.persistency is Persistency.NONE)
            or path.broken is not None
            or path.torn
            or not path.has_room(2)
            or not (path.has_request_room() or not persists)
        ):
            return None
        length = len(data)
        if not 0 < length <= SEGMENT_SIZE or not 0 <= offset <= self.info.size - length:
            return None
        piece = path.slot(length)
        if piece is None:
            return None
        persist = self._persister(offset, length) if persists else None
        return transfers.post_copy(path, self.remote, offset, data, piece, persist)

    def write_from(
        self,
        offset: int,
        length: int,
        fill: Callable[[int, memoryview], object],
        progress: Progress | None,
    ) -> Steps:
        """Write what `fill` puts into the memory that it gets."""
        self._check(writes=True)
        at, count = self.range(offset, length)
        path = self.path
        yield from transfers.write_from(path, self.remote, at, count, fill, progress=progress)

    def write_long(
        self, offset: int, memory: InPlace, at: int, length: int, progress: Progress | None
    ) -> Steps:
        """Write from registered memory that nobody changes meanwhile."""
        self._check(writes=True)
        to, count = self.range(offset, length)
        path = self.path
        yield from transfers.write_long(path, self.remote, to, memory, at, count, progress)

    def read_to(
        self,
        offset: int,
        length: int,
        landed: Callable[[int, memoryview], object],
        progress: Progress | None,
    ) -> Steps:
        """Have `landed` take the bytes of a range, piece by piece."""
        self._check(writes=False)
        at, count = self.range(offset, length)
        path = self.path
        yield from transfers.read_to(path, count, self.remote, at, landed, progress=progress)

    def write_persist(self, offset: int, data: Buffer, progress: Progress | None) -> Steps:
        """Write and persist."""
        self._check(writes=True)
        view = as_bytes("data", data)
        at, count = self.range(offset, len(view))
        persist = self._persister(at, count)
        if 0 < count <= SEGMENT_SIZE:
            yield from transfers.write_durable(self.path, self.remote, at, view, persist)
            if progress is not None:
                progress(count, count)
        elif count:
            yield from transfers.write(self.path, self.remote, at, view, progress=progress)
            yield from transfers.durable(self.path, persist)

    def persist(self, offset: int, length: int | None) -> Steps:
        """Make a range durable."""
        self._check(writes=True)
        at, count = self.range(offset, length)
        persist = self._persister(at, count)
        if count:
            yield from transfers.durable(self.path, persist)

    def flush(self, offset: int, length: int | None) -> Steps:
        """Make a range visible."""
        self._check(writes=True)
        at, count = self.range(offset, length)
        if count:
            yield from transfers.flush(self.path, self.remote, at, count)

    # ---- 8 bytes as a whole ----

    def _word(self, offset: int) -> int:
        at, _ = self.range(offset, ATOMIC_WRITE_ALIGNMENT)
        if at % ATOMIC_WRITE_ALIGNMENT:
            raise InvalidArgumentError(
                f"offset={at} must be a multiple of {ATOMIC_WRITE_ALIGNMENT}"
            )
        return at

    def atomic_store(self, offset: int, value: int) -> Steps:
        """Write 8 bytes as a whole."""
        self._check(writes=True)
        at, number = self._word(offset), integer("value", value, _SIZE_MAX)
        raw = number.to_bytes(ATOMIC_WRITE_ALIGNMENT, "little")
        yield from transfers.atomic_store(self.path, self.remote, at, raw)

    def compare_and_swap(self, offset: int, expected: int, desired: int) -> Steps:
        """Replace 8 bytes as a whole if they are as expected; what they were."""
        self._check(writes=True)
        at = self._word(offset)
        numbers = integer("expected", expected, _SIZE_MAX), integer("desired", desired, _SIZE_MAX)
        found: int = yield from transfers.compare_and_swap(self.path, self.number, at, *numbers)
        return found

    def atomic_load(self, offset: int) -> Steps:
        """Read 8 bytes as a whole."""
        self._check(writes=False)
        at, data = self._word(offset), bytearray(ATOMIC_WRITE_ALIGNMENT)
        yield from transfers.read(self.path, memoryview(data), self.remote, at)
        return int.from_bytes(data, "little")

    # ---- registered memory ----

    def write_region(self, offset: int, memory: InPlace, at: int, length: int) -> Steps:
        """Write from registered memory."""
        self._check(writes=True)
        if length:
            yield from transfers.write_region(self.path, self.remote, offset, memory, at, length)

    def read_region(self, offset: int, memory: InPlace, at: int, length: int) -> Steps:
        """Read into registered memory."""
        self._check(writes=False)
        if length:
            yield from transfers.read_region(self.path, memory, at, self.remote, offset, length)

    # ---- at the target ----

    def set_content_length(self, length: int | None) -> Steps:
        """Note how much of it is a file's content."""
        self._check(writes=True)
        if length is not None:
            length = self.range(0, length)[1]
        yield from _ask(messages.SetContent(self.number, length), messages.Done)

    def commit(self, content_length: int | None, persists: bool) -> Steps:
        """Have it marked whole, and put in its place, when all that was issued is done."""
        self._check(writes=True)
        if content_length is not None:
            content_length = self.range(0, content_length)[1]
        yield from transfers.settled(self.path)
        if persists and self.persistency is not Persistency.NONE:
            yield from self.persist(0, None)
        yield from _ask(messages.Commit(self.number, content_length), messages.Done)

    def close(self, is_lost: bool, arrays: Iterable[RegisteredArray]) -> Steps:
        """Close it after what was issued is done, and let go of the memory of its arrays."""
        self.closed = True
        try:
            if not is_lost:
                yield from transfers.settled(self.path)
                yield from _ask(messages.Close(self.number), messages.Done)
        finally:
            for array in arrays:
                array.close()
            self.remote.close()


def as_bytes(name: str, data: Any) -> memoryview:
    """The buffer of `data` as bytes, without a copy."""
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(
            f"{name} must have a buffer, as bytes has, not {type(data).__name__}"
        ) from None
    if not view.c_contiguous:
        raise InvalidArgumentError(f"{name} must be contiguous")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")
