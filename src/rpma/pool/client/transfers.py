# SPDX-License-Identifier: BSD-3-Clause
"""What a client does with the memory of a pool, as generators.

Each yields the `Waiter` that it cannot go on without, and is sent on when that is done; a driver,
blocking or asyncio, waits for it. A generator that is closed early leaves its requests under way
and the bounce buffers in them alone until they are done: the memory of the program is touched by
the generator only, never by the network.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from rpma.constants import ATOMIC_WRITE_ALIGNMENT, FlushType
from rpma.errors import RpmaError
from rpma.pool.client.datapath import SEGMENT_SIZE, DataPath
from rpma.pool.client.memory import InPlace, Slot
from rpma.pool.client.order import Call
from rpma.pool.client.waiting import SwapWaiter, Waiter, again
from rpma.pool.protocol.errors import TargetLost

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from rpma.memory import RemoteMemoryRegion

    T = TypeVar("T")
    Progress = Callable[[int, int], object]
    Steps = Generator[Waiter, None, T]


LONG_UNDER_WAY = 32
"""How many requests of a long write are under way at a time."""


class Cancelled(BaseException):
    """A driver throws it: nobody waits for the result any more.

    Only a transfer of registered memory goes on then, until the network is done with the memory.
    """


def wait(waiter: Waiter) -> Steps[None]:
    """Go on when it is done; raise its error if it failed."""
    while not waiter.done:
        yield waiter
    if waiter.error is not None:
        raise again(waiter.error)


def _turn(path: DataPath, call: Call, length: int, requests: int = 1) -> Steps[None]:
    """Go on when so many requests of a call can be posted, for its next `length` bytes."""
    path.check()
    while not (call.may_post(length) and path.has_room(requests)):
        yield from wait(call.turn())
        path.check()


def _give_back(path: DataPath, piece: Slot) -> None:
    piece.give_back()
    path.make_room()


def give_back_when_done(path: DataPath, piece: Slot, waiter: Waiter) -> None:
    """Nobody waits for the request any more, which may still use the slot."""
    waiter.also(lambda: _give_back(path, piece))


def _transfer(
    path: DataPath,
    call: Call,
    total: int,
    post: Callable[[int, int, Slot, Waiter], None],
    landed: Callable[[int, memoryview], object] | None,
    progress: Progress | None,
) -> Steps[None]:
    """Move `total` bytes through the bounce buffers, as many at a time as there is room for.

    Args:
        path: by which connection.
        call: for whom.
        total: how many bytes.
        post: posts the request for one piece: where it begins, how long it is, its slot.
        landed: called when it is done, with where it begins and its memory.
        progress: called with how many bytes are done, and of how many.
    """
    pieces: deque[tuple[Waiter, Slot, int, int]] = deque()
    begun = done = 0
    try:
        while done < total:
            path.check()
            if begun < total:
                rest = total - begun
                is_next = path.has_room(1) and call.may_post(min(rest, SEGMENT_SIZE))
                piece = path.slot(rest) if is_next else None
                if piece is not None:
                    count, waiter = min(len(piece.view), rest), Waiter()
                    pieces.append((waiter, piece, begun, count))  # first: a signal may raise
                    try:
                        post(begun, count, piece, waiter)
                    except Exception as error:
                        waiter.finish(error)
                        raise
                    call.posted(count)
                    begun += count
                    if not pieces[0][0].done:
                        continue
                elif not pieces:  # others have it all, or come first
                    yield from wait(call.turn())
                    continue
            waiter, piece, at, count = pieces[0]
            yield from wait(waiter)
            if landed is not None:
                landed(at, piece.view[:count])
            pieces.popleft()
            _give_back(path, piece)
            done += count
            if progress is not None:
                progress(done, total)
    except TargetLost as error:
        error.acknowledged = done
        raise
    finally:
        for waiter, piece, _, _ in pieces:
            give_back_when_done(path, piece, waiter)


def write(
    path: DataPath,
    call: Call,
    dst: RemoteMemoryRegion,
    offset: int,
    data: memoryview,
    *,
    progress: Progress | None = None,
) -> Steps[None]:
    """Write `data` (bytes) to `offset`; done when the target's RNIC has it.

    Raises:
        TargetLost: with `acknowledged`.
    """

    def fill(at: int, view: memoryview) -> None:
        view[:] = data[at : at + len(view)]

    return write_from(path, call, dst, offset, len(data), fill, progress=progress)


def post_copy(
    path: DataPath,
    dst: RemoteMemoryRegion,
    offset: int,
    data: bytes | bytearray | memoryview,
    piece: Slot,
    persist: Callable[[Waiter], Waiter] | None,
) -> Waiter:
    """Post a write of a copy of `data` in a slot with room for it, which is given back in time.

    Returns:
        What is done when the write is, or with `persist`, when it is durable.
    """
    waiter, length = Waiter(), len(data)
    free = waiter
    try:
        piece.view[:length] = data
        path.write(dst, offset, path.bounce, piece.offset, length, None if persist else waiter)
        if persist is not None:
            free = Waiter()  # never done, should what follows fail: the write is under way
            free = persist(waiter)
    except Exception as error:
        waiter.finish(error)
        raise
    finally:
        give_back_when_done(path, piece, free)
    return waiter


def write_from(
    path: DataPath,
    call: Call,
    dst: RemoteMemoryRegion,
    offset: int,
    total: int,
    fill: Callable[[int, memoryview], object],
    *,
    progress: Progress | None = None,
) -> Steps[None]:
    """As `write`, of what `fill` puts into the memory that it gets: what begins at so many bytes.

    It may raise; what was written before arrives.
    """

    def post(at: int, count: int, piece: Slot, waiter: Waiter) -> None:
        fill(at, piece.view[:count])
        path.write(dst, offset + at, path.bounce, piece.offset, count, waiter)

    return _transfer(path, call, total, post, None, progress)


def read(
    path: DataPath,
    call: Call,
    data: memoryview,
    src: RemoteMemoryRegion,
    offset: int,
    *,
    progress: Progress | None = None,
) -> Steps[None]:
    """Read from `offset` on, into `data`.

    Raises:
        TargetLost: with `acknowledged`: the first so many bytes are there.
    """

    def landed(at: int, view: memoryview) -> None:
        data[at : at + len(view)] = view

    return read_to(path, call, len(data), src, offset, landed, progress=progress)


def read_to(
    path: DataPath,
    call: Call,
    total: int,
    src: RemoteMemoryRegion,
    offset: int,
    landed: Callable[[int, memoryview], object],
    *,
    progress: Progress | None = None,
) -> Steps[None]:
    """As `read`, but `landed` takes the pieces, in order: where each begins, and its memory."""

    def post(at: int, count: int, piece: Slot, waiter: Waiter) -> None:
        path.read(path.bounce, piece.offset, src, offset + at, count, waiter)

    return _transfer(path, call, total, post, landed, progress)


def durable(
    path: DataPath, call: Call, length: int, persist: Callable[[Waiter], Waiter]
) -> Steps[None]:
    """Post what makes something durable, and wait for it."""
    waiter = Waiter()
    yield from _request_turn(path, call, length)
    persist(waiter)
    call.posted(length)
    yield from wait(waiter)


def _request_turn(path: DataPath, call: Call, length: int) -> Steps[None]:
    """Go on when the target can be asked something, for `length` bytes."""
    path.check()
    while not (call.may_post(length) and path.has_request_room()):
        yield from wait(call.turn())
        path.check()


def write_durable(
    path: DataPath,
    call: Call,
    dst: RemoteMemoryRegion,
    offset: int,
    data: memoryview,
    persist: Callable[[Waiter], Waiter],
) -> Steps[None]:
    """Write up to a slot's bytes and make them durable in one round trip."""
    length, piece = len(data), None
    while piece is None:
        path.check()
        if call.may_post(length) and path.has_request_room() and path.has_room(2):
            piece = path.slot(length)
        if piece is None:
            yield from wait(call.turn())
    waiter = post_copy(path, dst, offset, data, piece, persist)
    call.posted(length)
    yield from wait(waiter)


def write_region(
    path: DataPath,
    call: Call,
    dst: RemoteMemoryRegion,
    offset: int,
    src: InPlace,
    src_offset: int,
    length: int,
) -> Steps[None]:
    """Write from registered memory, without a copy."""

    def post(at: int, count: int, waiter: Waiter) -> None:
        path.write(dst, offset + at, src.region, src_offset + at, count, waiter)

    return _in_place(path, call, src, length, post)


def write_long(
    path: DataPath,
    call: Call,
    dst: RemoteMemoryRegion,
    offset: int,
    src: InPlace,
    src_offset: int,
    total: int,
    progress: Progress | None,
) -> Steps[None]:
    """Write much from registered memory, without a copy.

    Raises:
        TargetLost: with `acknowledged`.
    """
    pieces: deque[tuple[Waiter, int]] = deque()
    begun = done = 0
    try:
        while done < total:
            path.check()
            count = min(SEGMENT_SIZE, total - begun)
            if count and len(pieces) < LONG_UNDER_WAY and path.has_room(1) and call.may_post(count):
                waiter = Waiter()
                path.write(dst, offset + begun, src.region, src_offset + begun, count, waiter)
                src.last = waiter
                call.posted(count)
                pieces.append((waiter, count))
                begun += count
            elif pieces:
                waiter, count = pieces.popleft()
                yield from wait(waiter)
                done += count
                if progress is not None:
                    progress(done, total)
            else:  # others have all the room, or come first
                yield from wait(call.turn())
    except TargetLost as error:
        error.acknowledged = done
        raise


def read_region(
    path: DataPath,
    call: Call,
    dst: InPlace,
    dst_offset: int,
    src: RemoteMemoryRegion,
    offset: int,
    length: int,
) -> Steps[None]:
    """Read into registered memory, without a copy."""

    def post(at: int, count: int, waiter: Waiter) -> None:
        path.read(dst.region, dst_offset + at, src, offset + at, count, waiter)

    return _in_place(path, call, dst, length, post)


def _in_place(
    path: DataPath,
    call: Call,
    memory: InPlace,
    length: int,
    post: Callable[[int, int, Waiter], None],
) -> Steps[None]:
    while memory.abandoned is not None and not memory.abandoned.done:
        call.turn()  # nobody overtakes it meanwhile
        yield memory.abandoned
    waiter = Waiter()
    waiter.done = True  # while nothing is posted
    try:
        for at in range(0, length, SEGMENT_SIZE):
            count = min(SEGMENT_SIZE, length - at)
            yield from _turn(path, call, count)
            following = Waiter()
            post(at, count, following)
            waiter = memory.last = following
            call.posted(count)
        yield from wait(waiter)
    except Cancelled:
        call.withdraw()
        while not waiter.done:  # requests complete in order: then all are done
            with suppress(Cancelled):
                yield waiter
        raise
    finally:
        if not waiter.done:
            memory.abandoned = waiter


def atomic_store(
    path: DataPath, call: Call, dst: RemoteMemoryRegion, offset: int, value: bytes
) -> Steps[None]:
    """Write 8 bytes as a whole."""
    yield from _turn(path, call, len(value))
    waiter = Waiter()
    path.atomic_write(dst, offset, value, waiter)
    call.posted(len(value))
    yield from wait(waiter)


def compare_and_swap(
    path: DataPath, call: Call, number: int, offset: int, expected: int, desired: int
) -> Steps[int]:
    """Have the target put `desired` where `expected` is; what it has found there."""
    yield from _request_turn(path, call, ATOMIC_WRITE_ALIGNMENT)
    waiter = SwapWaiter()
    path.request_swap(number, offset, expected, desired, waiter)
    call.asked(waiter)
    yield from wait(waiter)
    return waiter.found


def flush(
    path: DataPath, call: Call, dst: RemoteMemoryRegion, offset: int, length: int
) -> Steps[None]:
    """Make what was written visible to whoever reads the target's memory."""
    yield from _turn(path, call, length)
    waiter = Waiter()
    path.flush(dst, offset, length, FlushType.VISIBILITY, waiter)
    call.posted(length)
    yield from wait(waiter)


def settled(path: DataPath, call: Call, number: int) -> Steps[None]:
    """Go on when all is done that was asked of a call's pool before, or nothing ever will be again.

    Args:
        path: the connection.
        call: which waits for those that were made before it.
        number: by which the target knows it.
    """
    for earlier in path.order.before(call):
        while not earlier.ended.done and path.broken is None:
            yield earlier.ended
    try:
        path.post_held()
        if path.posted != path.retired:  # some of it, perhaps, by calls that were given up
            marker = Waiter()
            yield from _turn(path, call, 0)
            path.nothing(marker)
            call.posted(0)
            yield from wait(marker)
        for answer in path.unanswered(number):
            while not answer.done:
                yield answer
    except RpmaError:
        if path.broken is None:
            raise
