"""Runs in the guest: flushes over its RDMA device, and looks at what the kernel makes of it.

`python flushing.py DAX`: DAX is a device DAX. What was found is a line of JSON on stdout.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "fabric")]

from pairs import EVERYTHING, SOON, Pair, has_native_flush, pair  # noqa: E402

import rpma  # noqa: E402
from fabrics import native  # noqa: E402
from rpma import FlushType, Usage, allocation  # noqa: E402

ALWAYS = rpma.CompletionFlags.ALWAYS

TRACES = Path("/sys/kernel/tracing")

#: What Soft-RoCE does for a flush to persistence, and what the processor is told for it.
PROBES = (
    "p:flush/region rdma_rxe:rxe_flush_pmem_iova address=%si:u64 length=%dx:u32",
    "p:flush/lines arch_wb_cache_pmem length=%si:u64",
)

#: Offset and length: within a page, over several, up to the end of what is registered.
RANGES = ((0, 8), (100, 1), (4000, 10000), (65536 - 5, 5), (65536, 0))
SIZE = 65536


class Trace:
    """What the kernel flushed since the last look."""

    def __init__(self) -> None:
        subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACES], check=True)
        (TRACES / "kprobe_events").write_text("\n".join(PROBES) + "\n")
        (TRACES / "events/flush/enable").write_text("1")

    def take(self) -> dict[str, list[list[int]]]:
        """By probe: the arguments, of each time."""
        found: dict[str, list[list[int]]] = {"region": [], "lines": []}
        for line in (TRACES / "trace").read_text().splitlines():
            if line.startswith("#"):
                continue
            words = line.split()
            name = next(word[:-1] for word in words if word in ("region:", "lines:"))
            found[name].append([int(word.partition("=")[2]) for word in words if "=" in word])
        (TRACES / "trace").write_text("")
        return found


@contextmanager
def connected(
    peer: rpma.Peer, fabric: native.Fabric, memory: allocation.Memory, usage: Usage
) -> Iterator[Pair]:
    """A pair whose initiator may flush to persistence."""
    with (
        pair(peer, fabric, memory=memory, usage=usage) as made,
        rpma.PeerConfig(direct_write_to_pmem=True) as config,
    ):
        made.initiator.apply_remote_peer_config(config)
        yield made


def flush(made: Pair, trace: Trace, offset: int, length: int, kind: FlushType) -> dict[str, object]:
    """Write a range, flush it, and see what is there, and what the kernel did."""
    data = secrets.token_bytes(length)
    made.own[:length] = data
    trace.take()
    if length:
        made.initiator.write(
            made.remote, offset, made.local, 0, length, flags=rpma.CompletionFlags.ON_ERROR
        )
    made.initiator.flush(made.remote, offset, length, kind, flags=ALWAYS)
    completion = made.initiator.cq.next_wc(SOON).raise_for_status()
    is_there = bytes(made.region.view[offset : offset + length]) == data
    traced = trace.take()
    base = made.region.address
    return {
        "opcode": rpma.WcOpcode(completion.opcode).name,
        "visible": is_there,
        "persisted": [[address - base, length] for address, length in traced["region"]],
        "written back": sum(length for (length,) in traced["lines"]),
    }


def not_offered(
    peer: rpma.Peer, fabric: native.Fabric, memory: allocation.Memory, kind: FlushType
) -> str:
    """The status of a flush that the target's region is not registered for, though it says so."""
    usage = Usage.WRITE_DST | Usage.READ_SRC
    other = next(other for other in FlushType if other is not kind)
    with connected(peer, fabric, memory, usage | Usage[f"FLUSH_TYPE_{other.name}"]) as made:
        descriptor = bytearray(made.region.descriptor)
        descriptor[20] = usage | Usage[f"FLUSH_TYPE_{kind.name}"]
        with rpma.RemoteMemoryRegion(descriptor) as claimed:
            made.initiator.flush(claimed, 0, 8, kind, flags=ALWAYS)
            return made.initiator.cq.next_wc(SOON).status.name


def main() -> None:
    fabric = native.find()
    trace = Trace()
    with ExitStack() as stack:
        peer = stack.enter_context(rpma.Peer.for_address(fabric.address))
        memory = stack.enter_context(allocation.map_file(sys.argv[1]))
        view = stack.enter_context(memory.view[:SIZE])
        usage = EVERYTHING | Usage.FLUSH_TYPE_PERSISTENT
        found: dict[str, object] = {"refuses DRAM": has_native_flush(peer)}
        found["not offered"] = {
            kind.name: not_offered(peer, fabric, view, kind) for kind in FlushType
        }
        with connected(peer, fabric, view, usage) as made:
            for kind in FlushType:
                found[kind.name] = [flush(made, trace, *range_, kind) for range_ in RANGES]
            made.initiator.atomic_write(made.remote, 8, b"whole 8!", flags=ALWAYS)
            completion = made.initiator.cq.next_wc(SOON).raise_for_status()
            found["atomic write"] = rpma.WcOpcode(completion.opcode).name
            found["atomic write is there"] = bytes(view[8:16]) == b"whole 8!"
            record = secrets.token_bytes(SIZE)
            made.own[:] = record
            made.initiator.write_wait(
                made.remote, 0, made.local, 0, SIZE, flush=FlushType.PERSISTENT, timeout=SOON
            )
            found["size"] = len(memory)
            found["record"] = record.hex()
            made.end()
    print(json.dumps(found))


main()
