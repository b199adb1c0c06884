"""What reads, writes, flushes and messages move, byte for byte, and what their completions say."""
# ruff: noqa: PT012, PT017

from __future__ import annotations

import array
import errno
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
from pairs import (
    A_MOMENT,
    EVERYTHING,
    PERSISTENT,
    SIZE,
    SOON,
    VISIBILITY,
    Pair,
    completions,
    connections,
    has_native_flush,
    pair,
    pattern,
)

import rpma
from fabrics.fabric import Fabric
from rpma import CompletionFlags, Usage, WcFlags, WcOpcode, WcStatus

pytestmark = pytest.mark.fabric

ALWAYS = CompletionFlags.ALWAYS
ON_ERROR = CompletionFlags.ON_ERROR
SIZES = [1, 2, 7, 8, 1023, 1024, 1025, 4096, SIZE]


@pytest.mark.parametrize("length", SIZES)
def test_a_write_moves_its_bytes_and_no_others(linked: Pair, length: int) -> None:
    linked.memory[:] = b"\xee" * SIZE
    linked.own[:] = pattern(SIZE)
    dst, src = (SIZE - length) // 2, (SIZE - length) // 3
    linked.initiator.write_wait(
        linked.remote, dst, linked.local, src, length, flush=VISIBILITY, timeout=SOON
    )
    assert linked.memory[dst : dst + length] == linked.own[src : src + length]
    assert linked.memory[:dst] == b"\xee" * dst
    assert linked.memory[dst + length :] == b"\xee" * (SIZE - dst - length)
    assert linked.own == pattern(SIZE)


@pytest.mark.parametrize("length", SIZES)
def test_a_read_moves_its_bytes_and_no_others(linked: Pair, length: int) -> None:
    linked.own[:] = b"\xee" * SIZE
    linked.memory[:] = pattern(SIZE, 3)
    dst, src = (SIZE - length) // 2, (SIZE - length) // 3
    linked.initiator.read_wait(linked.local, dst, linked.remote, src, length, timeout=SOON)
    assert linked.own[dst : dst + length] == linked.memory[src : src + length]
    assert linked.own[:dst] == b"\xee" * dst
    assert linked.own[dst + length :] == b"\xee" * (SIZE - dst - length)
    assert linked.memory == pattern(SIZE, 3)


def test_both_sides_may_initiate(linked: Pair) -> None:
    with rpma.RemoteMemoryRegion(linked.local.descriptor) as remote:
        linked.memory[:100] = pattern(100, 9)
        linked.target.write_wait(remote, 50, linked.region, 0, 100, flush=VISIBILITY, timeout=SOON)
    assert linked.own[50:150] == pattern(100, 9)


def test_a_posted_write_completes_with_its_number(linked: Pair) -> None:
    linked.own[:8] = b"12345678"
    linked.initiator.write(linked.remote, 0, linked.local, 0, 8, flags=ALWAYS, wr_id=77)
    wc = linked.initiator.cq.next_wc(SOON)
    assert (wc.wr_id, wc.status, wc.opcode) == (77, WcStatus.SUCCESS, WcOpcode.RDMA_WRITE)
    assert wc.imm is None
    assert wc.qp_num == linked.initiator.qp_num
    assert WcFlags.WITH_IMM not in wc.flags
    wc.raise_for_status()
    assert linked.memory[:8] == b"12345678"
    assert linked.initiator.cq.get_wc() is None


@pytest.mark.parametrize("wr_id", [0, 1, (1 << 32) + 5, (1 << 63) - 1])
def test_any_number_below_2_63_names_a_request(linked: Pair, wr_id: int) -> None:
    linked.initiator.read(linked.local, 0, linked.remote, 0, 8, flags=ALWAYS, wr_id=wr_id)
    wc = linked.initiator.cq.next_wc(SOON)
    assert (wc.wr_id, wc.opcode) == (wr_id, WcOpcode.RDMA_READ)


def test_a_request_without_completion_leaves_none(linked: Pair) -> None:
    linked.initiator.write(linked.remote, 0, linked.local, 0, 8, flags=ON_ERROR, wr_id=1)
    linked.initiator.write(linked.remote, 0, linked.local, 0, 8, wr_id=2)
    linked.initiator.read(linked.local, 0, linked.remote, 0, 8, wr_id=3)
    linked.initiator.atomic_write(linked.remote, 0, bytes(8), wr_id=4)
    linked.initiator.flush(linked.remote, 0, 8, flags=ON_ERROR, wr_id=5)
    linked.initiator.flush(linked.remote, 0, 8, wr_id=6)  # a flush has one by default
    assert linked.initiator.cq.next_wc(SOON).wr_id == 6
    assert linked.initiator.cq.get_wc() is None


def test_requests_complete_in_the_order_they_were_posted(linked: Pair, peer: rpma.Peer) -> None:
    post = linked.initiator
    flush = WcOpcode.FLUSH if has_native_flush(peer) else WcOpcode.RDMA_READ
    for number in range(2):
        post.write(linked.remote, 0, linked.local, 0, 9, flags=ALWAYS, wr_id=4 * number)
        post.read(linked.local, 0, linked.remote, 0, 9, flags=ALWAYS, wr_id=4 * number + 1)
        post.flush(linked.remote, 0, 8, wr_id=4 * number + 2)
        post.atomic_write(linked.remote, 8, b"8 bytes!", flags=ALWAYS, wr_id=4 * number + 3)
    wcs = completions(post.cq, 8)
    assert [wc.wr_id for wc in wcs] == list(range(8))
    # Some devices have atomic writes of their own.
    kinds = {WcOpcode.ATOMIC_WRITE: WcOpcode.RDMA_WRITE}
    opcodes = [kinds.get(wc.opcode, wc.opcode) for wc in wcs]
    assert opcodes == [WcOpcode.RDMA_WRITE, WcOpcode.RDMA_READ, flush, WcOpcode.RDMA_WRITE] * 2
    assert {wc.status for wc in wcs} == {WcStatus.SUCCESS}


@pytest.mark.parametrize("imm", [0, 1, 0x01020304, 0xFFFFFFFF])
def test_a_write_with_imm_completes_a_receive(linked: Pair, imm: int) -> None:
    linked.target.recv(None, wr_id=8)
    linked.own[:30] = pattern(30)
    linked.initiator.write_with_imm(
        linked.remote, 10, linked.local, 0, 30, imm, flags=ALWAYS, wr_id=9
    )
    wc = linked.target.cq.next_wc(SOON)
    assert (wc.wr_id, wc.status, wc.opcode) == (8, WcStatus.SUCCESS, WcOpcode.RECV_RDMA_WITH_IMM)
    assert (wc.imm, wc.byte_len) == (imm, 30)
    assert WcFlags.WITH_IMM in wc.flags
    assert wc.qp_num == linked.target.qp_num
    assert linked.memory[10:40] == pattern(30)
    assert linked.initiator.cq.next_wc(SOON).wr_id == 9


@pytest.mark.parametrize("length", [0, 1, 1025, 5000])
@pytest.mark.parametrize("imm", [None, 0, 0xDEADBEEF])
def test_a_message_arrives(linked: Pair, length: int, imm: int | None) -> None:
    linked.target.recv(linked.region, 100, 6000, wr_id=3)
    linked.own[:length] = pattern(length, 4)
    if imm is None:
        linked.initiator.send(linked.local, 0, length, flags=ALWAYS, wr_id=4)
    else:
        linked.initiator.send_with_imm(linked.local, 0, length, imm, flags=ALWAYS, wr_id=4)
    wc = linked.target.cq.next_wc(SOON)
    assert (wc.wr_id, wc.status, wc.opcode) == (3, WcStatus.SUCCESS, WcOpcode.RECV)
    assert (wc.byte_len, wc.imm) == (length, imm)
    assert linked.memory[100 : 100 + length] == pattern(length, 4)
    assert not any(linked.memory[100 + length :])
    sent = linked.initiator.cq.next_wc(SOON)
    assert (sent.wr_id, sent.status, sent.opcode) == (4, WcStatus.SUCCESS, WcOpcode.SEND)


def test_messages_without_bytes_need_no_memory(linked: Pair) -> None:
    linked.target.recv(None, wr_id=1)
    linked.target.recv(None, wr_id=2)
    linked.target.recv(None, wr_id=3)
    linked.initiator.send(None, flags=ALWAYS, wr_id=4)
    linked.initiator.send_with_imm(None, 0, 0, 5)
    linked.initiator.send_wait(None, timeout=SOON)
    assert [wc.wr_id for wc in completions(linked.target.cq, 3)] == [1, 2, 3]
    assert linked.initiator.cq.next_wc(SOON).wr_id == 4


def test_requests_without_bytes_need_no_memory(linked: Pair) -> None:
    linked.target.recv(None, wr_id=9)
    post = linked.initiator
    post.write(None, 0, None, 0, 0, flags=ALWAYS, wr_id=1)
    post.read(None, 0, None, 0, 0, flags=ALWAYS, wr_id=2)
    post.write_with_imm(None, 0, None, 0, 0, 99, flags=ALWAYS, wr_id=3)
    assert [wc.wr_id for wc in completions(post.cq, 3)] == [1, 2, 3]
    assert linked.target.cq.next_wc(SOON).imm == 99


def test_a_request_of_length_0_moves_nothing(linked: Pair) -> None:
    linked.memory[:] = pattern(SIZE)
    for offset in (0, 5, SIZE):
        linked.initiator.write_wait(linked.remote, offset, linked.local, offset, 0, timeout=SOON)
        linked.initiator.read_wait(linked.local, offset, linked.remote, offset, 0, timeout=SOON)
        linked.initiator.flush_wait(linked.remote, offset, 0, timeout=SOON)
    assert linked.memory == pattern(SIZE)
    assert not any(linked.own)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: array.array("Q", b)])
def test_an_atomic_write_takes_any_buffer_of_8_bytes(linked: Pair, kind: type) -> None:
    linked.initiator.atomic_write(linked.remote, 16, kind(b"as whole"), flags=ALWAYS)
    linked.initiator.cq.next_wc(SOON)
    linked.initiator.atomic_write_wait(linked.remote, 24, kind(b"or never"), timeout=SOON)
    linked.initiator.flush_wait(linked.remote, 0, 8, timeout=SOON)
    assert linked.memory[16:32] == b"as wholeor never"


def test_an_atomic_write_copies_its_value_at_once(linked: Pair) -> None:
    value = bytearray(b"original")
    linked.initiator.atomic_write(linked.remote, 0, value, flags=ALWAYS)
    value[:] = b"changed!"
    linked.initiator.cq.next_wc(SOON)
    assert linked.memory[:8] == b"original"


@pytest.mark.parametrize("back", [0, 1, 3, 7, 8, 9])
@pytest.mark.parametrize("size", [8, 9, 4096])
def test_the_last_bytes_of_a_region_can_be_flushed(
    peer: rpma.Peer, linked: Pair, back: int, size: int
) -> None:
    if back > size:
        return
    with (
        peer.register(bytearray(size), EVERYTHING) as region,
        rpma.RemoteMemoryRegion(region.descriptor) as remote,
    ):
        linked.initiator.write_wait(
            remote, size - back, linked.local, 0, back, flush=VISIBILITY, timeout=SOON
        )
        linked.initiator.flush_wait(remote, size - back, back, timeout=SOON)
        linked.initiator.flush(remote, size - back, back, wr_id=6)
        assert linked.initiator.cq.next_wc(SOON).status is WcStatus.SUCCESS


@pytest.fixture
def durably_linked(
    peer: rpma.Peer, fabric: Fabric, persistent: bytearray | rpma.allocation.Memory
) -> Iterator[Pair]:
    """A connected pair whose target's memory may be flushed to persistence."""
    usage = EVERYTHING | Usage.FLUSH_TYPE_PERSISTENT
    with pair(peer, fabric, memory=persistent, usage=usage) as made:
        yield made


def test_a_persistent_flush_needs_the_word_of_the_target(durably_linked: Pair) -> None:
    linked = durably_linked
    conn = linked.initiator
    calls = [
        lambda: conn.flush(linked.remote, 0, 8, PERSISTENT),
        lambda: conn.flush_wait(linked.remote, 0, 8, PERSISTENT, timeout=SOON),
        lambda: conn.write_wait(
            linked.remote, 0, linked.local, 0, 8, flush=PERSISTENT, timeout=SOON
        ),
        lambda: conn.write_batch(
            linked.remote, linked.local, [(0, 0, 8)], flush=PERSISTENT, timeout=SOON
        ),
    ]
    for call in calls:
        with pytest.raises(rpma.NotSupportedError) as caught:
            call()
        assert isinstance(caught.value, NotImplementedError)
        assert "apply_remote_peer_config" in str(caught.value)
        assert "persisten" in caught.value.message  # librpma's own words
        assert caught.value.message == rpma.errormsg()
    with rpma.PeerConfig.from_descriptor(rpma.PeerConfig().descriptor) as config:
        conn.apply_remote_peer_config(config)
    with pytest.raises(rpma.NotSupportedError):
        conn.flush_wait(linked.remote, 0, 8, PERSISTENT, timeout=SOON)
    descriptor = rpma.PeerConfig(direct_write_to_pmem=True).descriptor
    with rpma.PeerConfig.from_descriptor(descriptor) as config:
        conn.apply_remote_peer_config(config)
    for call in calls[1:]:
        call()
    conn.flush(linked.remote, 0, 8, PERSISTENT, wr_id=5)
    assert conn.cq.next_wc(SOON).wr_id == 5
    conn.flush_wait(linked.remote, 0, 8, timeout=SOON)


def test_memory_that_is_not_persistent_is_refused_with_the_way_out(peer: rpma.Peer) -> None:
    """By a device that flushes by itself."""
    if not has_native_flush(peer):
        pytest.skip("the device, or librpma, flushes by reading: any memory will do")
    with pytest.raises(rpma.ProviderError) as caught:
        peer.register(bytearray(4096), EVERYTHING | Usage.FLUSH_TYPE_PERSISTENT)
    assert caught.value.errno == errno.EINVAL
    for words in ("FLUSH_TYPE_PERSISTENT", "persistent memory alone", "FLUSH_TYPE_VISIBILITY"):
        assert words in str(caught.value)
    with pytest.raises(rpma.ProviderError, match="FLUSH_TYPE_VISIBILITY"):
        peer.register(rpma.allocation.anonymous(4096), Usage.FLUSH_TYPE_PERSISTENT)
    peer.register(bytearray(4096), EVERYTHING).close()


@pytest.mark.parametrize("bad", ["x", None, 1, bytearray(1)])
def test_only_a_peer_configuration_is_applied(linked: Pair, bad: object) -> None:
    with pytest.raises(TypeError, match=r"config must be a rpma\.PeerConfig"):
        linked.initiator.apply_remote_peer_config(bad)  # type: ignore[arg-type]
    config = rpma.PeerConfig()
    config.close()
    with pytest.raises(rpma.ClosedError):
        linked.initiator.apply_remote_peer_config(config)


@pytest.mark.parametrize(
    ("registered", "refused"), [("VISIBILITY", PERSISTENT), ("PERSISTENT", VISIBILITY)]
)
def test_a_flush_needs_its_usage(
    peer: rpma.Peer,
    fabric: Fabric,
    persistent: bytearray | rpma.allocation.Memory,
    registered: str,
    refused: rpma.FlushType,
) -> None:
    usage = Usage.WRITE_DST | Usage.READ_SRC | Usage[f"FLUSH_TYPE_{registered}"]
    with (
        pair(peer, fabric, memory=persistent, usage=usage) as made,
        rpma.PeerConfig() as config,
    ):
        config.direct_write_to_pmem = True
        made.initiator.apply_remote_peer_config(config)
        for call in (made.initiator.flush, made.initiator.flush_wait):
            with pytest.raises(rpma.NotSupportedError) as caught:
                call(made.remote, 0, 8, refused)
            assert f"Usage.FLUSH_TYPE_{refused.name}" in str(caught.value)
            assert "flush" in caught.value.message  # librpma's own words
        made.initiator.flush_wait(made.remote, 0, 8, rpma.FlushType[registered], timeout=SOON)


# ---- batches -----------------------------------------------------------------------------------


def scattered(count: int) -> list[tuple[int, int, int]]:
    """Segments that reverse blocks of different lengths."""
    step = SIZE // count
    return [((count - 1 - i) * step, i * step, 1 + (i * 5) % step) for i in range(count)]


def as_list(segments: list[tuple[int, int, int]]) -> object:
    return segments


def as_generator(segments: list[tuple[int, int, int]]) -> object:
    return (list(segment) for segment in segments)


def as_array(segments: list[tuple[int, int, int]]) -> object:
    return array.array("Q", [number for segment in segments for number in segment])


def as_numpy(segments: list[tuple[int, int, int]]) -> object:
    return numpy.array(segments, dtype=numpy.uint64).reshape(-1, 3)


forms = pytest.mark.parametrize("form", [as_list, as_generator, as_array, as_numpy])


@forms
@pytest.mark.parametrize("count", [0, 1, 2, 10, 11, 100])
@pytest.mark.parametrize("flush", [None, VISIBILITY])
def test_a_batch_of_writes_moves_every_segment(
    linked: Pair, form: object, count: int, flush: rpma.FlushType | None
) -> None:
    linked.own[:] = pattern(SIZE)
    expected = bytearray(SIZE)
    segments = scattered(count) if count else []
    for dst, src, length in segments:
        expected[dst : dst + length] = linked.own[src : src + length]
    linked.initiator.write_batch(
        linked.remote,
        linked.local,
        form(segments),  # type: ignore[operator]
        flush=flush,
        timeout=60,
    )
    if flush is None:
        linked.initiator.flush_wait(linked.remote, 0, SIZE, timeout=SOON)
    assert linked.memory == expected
    assert linked.initiator.cq.get_wc() is None


@forms
@pytest.mark.parametrize("count", [0, 1, 100])
def test_a_batch_of_reads_moves_every_segment(linked: Pair, form: object, count: int) -> None:
    linked.memory[:] = pattern(SIZE)
    expected = bytearray(SIZE)
    segments = scattered(count) if count else []
    for dst, src, length in segments:
        expected[dst : dst + length] = linked.memory[src : src + length]
    linked.initiator.read_batch(linked.local, linked.remote, form(segments), timeout=60)  # type: ignore[operator]
    assert linked.own == expected


@pytest.mark.parametrize(("sq_size", "cq_size"), [(1, 1), (1, 10), (2, 1), (3, 50), (50, 3)])
def test_a_batch_keeps_to_the_sizes_of_the_queues(
    peer: rpma.Peer, fabric: Fabric, sq_size: int, cq_size: int
) -> None:
    with (
        rpma.ConnectionConfig(sq_size=sq_size, cq_size=cq_size) as config,
        pair(peer, fabric, initiator=config) as made,
    ):
        made.own[:] = pattern(SIZE)
        segments = [(i * 64, i * 64, 64) for i in range(64)]
        made.initiator.write_batch(made.remote, made.local, segments, flush=VISIBILITY, timeout=60)
        assert made.memory[:4096] == made.own[:4096]
        made.own[:] = bytes(SIZE)
        made.initiator.read_batch(made.local, made.remote, segments, timeout=60)
        assert made.own[:4096] == pattern(SIZE)[:4096]


def test_a_batch_waits_for_room_among_the_programs_own_requests(linked: Pair) -> None:
    post = linked.initiator
    for round_ in range(5):
        linked.own[:] = pattern(SIZE, round_)
        for number in range(8):
            post.write(linked.remote, 0, linked.local, 0, 8, wr_id=number)
        post.write(linked.remote, 0, linked.local, 0, 8, flags=ALWAYS, wr_id=100 + round_)
        post.write_batch(
            linked.remote,
            linked.local,
            [(i * 512, i * 512, 512) for i in range(40)],
            flush=VISIBILITY,
            timeout=60,
        )
        assert linked.memory[: 40 * 512] == linked.own[: 40 * 512]
        assert post.cq.next_wc(SOON).wr_id == 100 + round_
        assert post.cq.get_wc() is None


def test_an_operation_finds_no_room_in_a_full_queue(peer: rpma.Peer, fabric: Fabric) -> None:
    """Nothing of its own will make room, so it says so instead of waiting."""
    with rpma.ConnectionConfig(cq_size=200) as config, pair(peer, fabric, initiator=config) as made:
        conn, posted = made.initiator, 0
        with pytest.raises(rpma.QueueFullError) as caught:
            while posted < 200:  # no receive is posted: none completes
                conn.send(made.local, 0, 8, flags=ALWAYS, wr_id=posted)
                posted += 1
        assert posted >= 10
        assert isinstance(caught.value, BlockingIOError)
        assert "collect work completions" in str(caught.value)
        with pytest.raises(rpma.QueueFullError):
            conn.write_wait(made.remote, 0, made.local, 0, 8, timeout=SOON)
        with pytest.raises(rpma.QueueFullError):
            conn.write_batch(made.remote, made.local, [(0, 0, 8)] * 5, timeout=SOON)
        for number in range(posted):
            made.target.recv(made.region, 0, 8, wr_id=number)
            assert made.target.cq.next_wc(SOON).wr_id == number
        assert [wc.wr_id for wc in completions(conn.cq, posted)] == list(range(posted))
        conn.write_wait(made.remote, 0, made.local, 0, 8, timeout=SOON)


# ---- memory of all kinds -----------------------------------------------------------------------


def test_memory_of_all_kinds_is_written_to_and_read(peer: rpma.Peer, linked: Pair) -> None:
    linked.own[:512] = pattern(512)
    buffers = [
        bytearray(4096),
        memoryview(bytearray(4096)),
        array.array("d", [0.0] * 512),
        numpy.zeros((16, 32), dtype=numpy.float64),
        mmap.mmap(-1, 4096),
        rpma.allocation.anonymous(4096),
    ]
    for buffer in buffers:
        with (
            peer.register(buffer, EVERYTHING) as region,
            rpma.RemoteMemoryRegion(region.descriptor) as remote,
        ):
            assert region.size == len(region) == 4096
            assert remote.size == 4096
            linked.initiator.write_wait(
                remote, 3, linked.local, 0, 512, flush=VISIBILITY, timeout=SOON
            )
            assert region.view[3:515] == pattern(512)
            linked.initiator.read_wait(linked.local, 1000, remote, 3, 512, timeout=SOON)
            assert linked.own[1000:1512] == pattern(512)
        if hasattr(buffer, "close"):
            buffer.close()


def test_a_part_of_a_buffer_can_be_registered(peer: rpma.Peer, linked: Pair) -> None:
    whole = bytearray(b"." * 100)
    with (
        peer.register(memoryview(whole)[10:20], EVERYTHING) as region,
        rpma.RemoteMemoryRegion(region.descriptor) as remote,
    ):
        linked.own[:10] = b"ten bytes!"
        linked.initiator.write_wait(remote, 0, linked.local, 0, 10, flush=VISIBILITY, timeout=SOON)
    assert whole == b"." * 10 + b"ten bytes!" + b"." * 80


def test_the_descriptor_tells_what_verbs_need(peer: rpma.Peer) -> None:
    with peer.register(bytearray(4096), Usage.WRITE_DST | Usage.SEND) as region:
        described = rpma.Descriptor.unpack(region.descriptor)
        assert described.address == region.address
        assert described.size == 4096
        assert described.rkey
        assert described.usage == region.usage == Usage.WRITE_DST | Usage.SEND
        assert region.peer is peer


def test_messages_go_both_ways_at_once(peer: rpma.Peer, fabric: Fabric) -> None:
    with (
        peer.register(bytearray(1024), EVERYTHING) as region,
        rpma.ConnectionConfig(rq_size=16, sq_size=16, cq_size=64) as config,
    ):

        def before(request: rpma.ConnectionRequest) -> None:
            for number in range(8):
                request.recv(region, 512 + 8 * number, 8, wr_id=100 + number)

        server, client = connections(peer, fabric, target=config, initiator=config, before=before)
        with server, client:
            for number in range(8):
                for side in (server, client):
                    side.send(region, 8 * number, 8, flags=ALWAYS, wr_id=number)
            for side in (server, client):
                got = sorted(wc.wr_id for wc in completions(side.cq, 16))
                assert got == [*range(8), *range(100, 108)]


def test_a_send_waits_for_its_receive(linked: Pair) -> None:
    linked.initiator.send(linked.local, 0, 8, flags=ALWAYS, wr_id=1)
    with pytest.raises(rpma.WaitTimeoutError):
        linked.initiator.cq.next_wc(A_MOMENT)
    linked.target.recv(linked.region, 0, 8, wr_id=2)
    assert linked.initiator.cq.next_wc(SOON).status is WcStatus.SUCCESS
    assert linked.target.cq.next_wc(SOON).wr_id == 2


def test_an_operation_that_timed_out_leaves_no_completion_behind(linked: Pair) -> None:
    with pytest.raises(rpma.WaitTimeoutError, match="may still be under way"):
        linked.initiator.send_wait(linked.local, 0, 8, timeout=A_MOMENT)
    linked.target.recv(linked.region, 0, 8, wr_id=2)
    assert linked.target.cq.next_wc(SOON).wr_id == 2
    linked.initiator.write_wait(linked.remote, 0, linked.local, 0, 8, timeout=SOON)
    linked.initiator.write(linked.remote, 0, linked.local, 0, 8, flags=ALWAYS, wr_id=5)
    assert linked.initiator.cq.next_wc(SOON).wr_id == 5
    assert linked.initiator.cq.get_wc() is None


def test_an_advice_is_taken_or_not_supported(peer: rpma.Peer) -> None:
    with peer.register(bytearray(4096), EVERYTHING) as region:
        try:
            region.advise(0, 4096)
        except rpma.NotSupportedError as error:
            assert "advise" in str(error)
        except rpma.ProviderError as error:
            pytest.fail(f"not explained: {error}")
        with pytest.raises(rpma.InvalidArgumentError, match="offset=4097"):
            region.advise(4097, 0)
        with pytest.raises(rpma.InvalidArgumentError, match="length=4097"):
            region.advise(0, 4097)
        with pytest.raises(TypeError, match="advice must be an integer"):
            region.advise(0, 1, "soon")  # type: ignore[arg-type]


@pytest.mark.parametrize("advice", rpma.Advice)
def test_the_soft_rnic_has_pages_of_an_ordinary_file_ready(
    peer: rpma.Peer, fabric: Fabric, tmp_path: Path, advice: rpma.Advice
) -> None:
    if fabric.name != "soft":
        pytest.skip("a kernel's device needs on-demand paging for that")
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * 4096))
    with (
        path.open("r+b") as file,
        mmap.mmap(file.fileno(), 4 * 4096) as memory,
        peer.register(memory, EVERYTHING) as region,
    ):
        region.advise(4096, 8192, advice, rpma.AdviseFlags.NONE)
        assert not _mapped_pages(memory)
        region.advise(4096, 8192, advice)
        # The kernel may map their neighbours as well.
        is_fetched = advice != rpma.Advice.PREFETCH_NO_FAULT
        assert _mapped_pages(memory) >= ({1, 2} if is_fetched else set())
        assert bool(_mapped_pages(memory)) == is_fetched


def _mapped_pages(memory: mmap.mmap) -> set[int]:
    """Which of its pages this process has in its page table."""
    address = numpy.frombuffer(memory, numpy.uint8).ctypes.data
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(address // 4096 * 8)
        entries = numpy.frombuffer(pagemap.read(len(memory) // 4096 * 8), numpy.uint64)
    return set(numpy.flatnonzero(entries >> numpy.uint64(63)).tolist())
