# SPDX-License-Identifier: BSD-3-Clause
"""What can be done with a pool that is open, as generators: see `rpma.pool.client.logic`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rpma._buffers import bytes_of
from rpma._object import integer
from rpma.constants import ATOMIC_WRITE_ALIGNMENT, FlushType
from rpma.errors import ClosedError, InvalidArgumentError, OutOfMemoryError
from rpma.memory import RemoteMemoryRegion
from rpma.pool.client import transfers
from rpma.pool.client.datapath import SEGMENT_SIZE, DataPath
from rpma.pool.client.needs import ask
from rpma.pool.client.order import Call
from rpma.pool.client.waiting import Waiter
from rpma.pool.protocol import messages
from rpma.pool.protocol.errors import NotDurableError, PoolAccessError, ProtocolError
from rpma.pool.protocol.persistency import Persistency
from rpma.pool.protocol.words import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from rpma._types import Buffer, WritableBuffer
    from rpma.pool.client.arrays import RegisteredArray
    from rpma.pool.client.memory import InPlace
    from rpma.pool.protocol.messages import Access

    Steps = Generator[Any, Any, Any]
    Progress = Callable[[int, int], object]

_SIZE_MAX = (1 << 64) - 1


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
        try:
            self.remote = RemoteMemoryRegion(opened.descriptor)
        except InvalidArgumentError as error:
            raise ProtocolError(f"the target did not say where the pool is: {error}") from None
        if self.remote.size < self.info.size:
            raise ProtocolError("the target opened less memory than the pool has")
        if (self.info.content_length or 0) > self.info.size:
            raise ProtocolError("the target says that more is in the pool than it holds")

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

    def _call(self, at: int, length: int, *, writes: bool = False) -> Call:
        return Call(self.path.order, self, at, length, writes=writes)

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
        try:
            data = bytearray(count)
        except MemoryError:
            raise OutOfMemoryError(
                f"{count} bytes of pool {self.info.name!r} do not fit into this process: read it "
                "piece by piece"
            ) from None
        with self._call(at, count) as call:
            view = memoryview(data)
            yield from transfers.read(self.path, call, view, self.remote, at, progress=progress)
        return bytes(data)

    def read_into(self, offset: int, buffer: WritableBuffer, progress: Progress | None) -> Steps:
        """Fill a buffer from `offset` on."""
        self._check(writes=False)
        view = bytes_of("buffer", buffer)
        if view.readonly:
            raise InvalidArgumentError("buffer must be writable")
        at, count = self.range(offset, len(view))
        with self._call(at, count) as call:
            yield from transfers.read(self.path, call, view, self.remote, at, progress=progress)

    def write(self, offset: int, data: Buffer, progress: Progress | None) -> Steps:
        """Write; done when the target's memory has it."""
        self._check(writes=True)
        view = bytes_of("data", data)
        at, count = self.range(offset, len(view))
        with self._call(at, count, writes=True) as call:
            yield from transfers.write(self.path, call, self.remote, at, view, progress=progress)

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
        if path.order.unposted and not path.order.lets_pass(self, offset, length, writes=True):
            return None
        try:
            piece = path.slot(length)
            if piece is None:
                return None
            persist = self._persister(offset, length) if persists else None
            return transfers.post_copy(path, self.remote, offset, data, piece, persist)
        except Exception:
            raise
        except BaseException:  # a signal handler's
            path.interrupted()
            raise

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
        path, dst = self.path, self.remote
        with self._call(at, count, writes=True) as call:
            yield from transfers.write_from(path, call, dst, at, count, fill, progress=progress)

    def write_long(
        self, offset: int, memory: InPlace, at: int, length: int, progress: Progress | None
    ) -> Steps:
        """Write from registered memory that nobody changes meanwhile."""
        self._check(writes=True)
        to, count = self.range(offset, length)
        path, dst = self.path, self.remote
        with self._call(to, count, writes=True) as call:
            yield from transfers.write_long(path, call, dst, to, memory, at, count, progress)

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
        path, src = self.path, self.remote
        with self._call(at, count) as call:
            yield from transfers.read_to(path, call, count, src, at, landed, progress=progress)

    def write_persist(self, offset: int, data: Buffer, progress: Progress | None) -> Steps:
        """Write and persist."""
        self._check(writes=True)
        view = bytes_of("data", data)
        at, count = self.range(offset, len(view))
        persist = self._persister(at, count)
        path, dst = self.path, self.remote
        if not count:
            return
        with self._call(at, count, writes=True) as call:
            if count <= SEGMENT_SIZE:
                yield from transfers.write_durable(path, call, dst, at, view, persist)
                if progress is not None:
                    progress(count, count)
            else:
                yield from transfers.write(path, call, dst, at, view, progress=progress)
                with self._call(at, count) as following:
                    yield from transfers.durable(path, following, count, persist)

    def persist(self, offset: int, length: int | None) -> Steps:
        """Make a range durable."""
        self._check(writes=True)
        at, count = self.range(offset, length)
        persist = self._persister(at, count)
        if count:
            with self._call(at, count) as call:
                yield from transfers.durable(self.path, call, count, persist)

    def flush(self, offset: int, length: int | None) -> Steps:
        """Make a range visible."""
        self._check(writes=True)
        at, count = self.range(offset, length)
        if count:
            with self._call(at, count) as call:
                yield from transfers.flush(self.path, call, self.remote, at, count)

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
        with self._call(at, ATOMIC_WRITE_ALIGNMENT, writes=True) as call:
            yield from transfers.atomic_store(self.path, call, self.remote, at, raw)

    def compare_and_swap(self, offset: int, expected: int, desired: int) -> Steps:
        """Replace 8 bytes as a whole if they are as expected; what they were."""
        self._check(writes=True)
        at = self._word(offset)
        numbers = integer("expected", expected, _SIZE_MAX), integer("desired", desired, _SIZE_MAX)
        path, number, length = self.path, self.number, ATOMIC_WRITE_ALIGNMENT
        with Call(path.order, self, at, length, writes=True, asks=True) as call:
            found: int = yield from transfers.compare_and_swap(path, call, number, at, *numbers)
        return found

    def atomic_load(self, offset: int) -> Steps:
        """Read 8 bytes as a whole."""
        self._check(writes=False)
        at, data = self._word(offset), bytearray(ATOMIC_WRITE_ALIGNMENT)
        with self._call(at, len(data)) as call:
            yield from transfers.read(self.path, call, memoryview(data), self.remote, at)
        return int.from_bytes(data, "little")

    # ---- registered memory ----

    def write_region(self, offset: int, memory: InPlace, at: int, length: int) -> Steps:
        """Write from registered memory."""
        self._check(writes=True)
        path, dst = self.path, self.remote
        if length:
            with self._call(offset, length, writes=True) as call:
                yield from transfers.write_region(path, call, dst, offset, memory, at, length)

    def read_region(self, offset: int, memory: InPlace, at: int, length: int) -> Steps:
        """Read into registered memory."""
        self._check(writes=False)
        path, src = self.path, self.remote
        if length:
            with self._call(offset, length) as call:
                yield from transfers.read_region(path, call, memory, at, src, offset, length)

    # ---- at the target ----

    def set_content_length(self, length: int | None) -> Steps:
        """Note how much of it is a file's content."""
        self._check(writes=True)
        if length is not None:
            length = self.range(0, length)[1]
        with self._call(0, 0):
            yield from ask(messages.SetContent(self.number, length), messages.Done)

    def commit(self, content_length: int | None, persists: bool) -> Steps:
        """Have it marked whole, and put in its place, when all that was issued is done."""
        self._check(writes=True)
        if content_length is not None:
            content_length = self.range(0, content_length)[1]
        with self._call(0, 0) as call:
            yield from transfers.settled(self.path, call, self.number)
            if persists and self.persistency is not Persistency.NONE:
                yield from self.persist(0, None)
            yield from ask(messages.Commit(self.number, content_length), messages.Done)

    def close(self, asks: bool = True) -> Steps:
        """Close it after what was issued is done; at the target, if that can be asked."""
        if not self.closed:
            self.closed = True
            with self._call(0, 0) as call:
                yield from transfers.settled(self.path, call, self.number)
                if asks:
                    yield from ask(messages.Close(self.number), messages.Done)

    def let_go(self, arrays: Iterable[RegisteredArray]) -> None:
        """The end of it here, whatever has come of `close`."""
        self.closed = True
        for array in arrays:
            array.close()
        held = self.path.held
        if held is not None and held.dst is self.remote:  # there was no time to wait for it
            self.path.post_held()
        self.remote.close()
