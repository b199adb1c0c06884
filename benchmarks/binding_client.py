# SPDX-License-Identifier: BSD-3-Clause
"""The Python side of benchmarks/binding.py: with rpma what binding_twin.c does with librpma.

usage: binding_client.py ADDRESS PORT QUEUE_SIZE DEPTH

The two read the same commands and answer alike; binding_twin.c says how.
"""

from __future__ import annotations

import mmap
import sys
from array import array
from time import perf_counter_ns

import rpma
from rpma import CompletionFlags, FlushType, Usage, WcStatus

BLOCK = 4096
LIMIT = 30.0

Latencies = array  # of "Q": nanoseconds


class Client:
    """A connection to the target, and the ways to use it that are measured."""

    def __init__(self, address: str, port: str, queue_size: int, depth: int) -> None:
        peer = rpma.Peer.for_address(address, remote=True)
        config = rpma.ConnectionConfig(sq_size=queue_size, cq_size=queue_size)
        self.connection = peer.connect(address, port, config=config, timeout=LIMIT)
        self.remote = rpma.RemoteMemoryRegion(self.connection.private_data)
        self.size = self.remote.size
        memory = mmap.mmap(-1, self.size)
        memory[:] = b"\1" * self.size
        self.local = peer.register(memory, Usage.WRITE_SRC)
        self.peer = peer
        self.depth = depth

    def close(self) -> None:
        self.connection.disconnect()
        self.connection.close()
        self.local.close()
        self.peer.close()

    # ---- 8 bytes, written and flushed, one at a time ----

    def write_flush(self, count: int, latencies: Latencies | None) -> None:
        """One call for it all."""
        write_wait, remote, local = self.connection.write_wait, self.remote, self.local
        visibility = FlushType.VISIBILITY
        if latencies is None:
            for _ in range(count):
                write_wait(remote, 0, local, 0, 8, flush=visibility)
            return
        for i in range(count):
            begin = perf_counter_ns()
            write_wait(remote, 0, local, 0, 8, flush=visibility)
            latencies[i] = perf_counter_ns() - begin

    def write_flush_steps(self, count: int, latencies: Latencies | None) -> None:
        """The pieces that `write_wait` is made of: three crossings."""
        connection, remote, local = self.connection, self.remote, self.local
        cq = connection.cq
        for i in range(count):
            begin = perf_counter_ns() if latencies is not None else 0
            connection.write(remote, 0, local, 0, 8)
            connection.flush(remote, 0, 8)
            cq.next_wc().raise_for_status()
            if latencies is not None:
                latencies[i] = perf_counter_ns() - begin

    def write_flush_spin(self, count: int, latencies: Latencies | None) -> None:
        """Never sleep."""
        connection, remote, local = self.connection, self.remote, self.local
        cq = connection.cq
        for i in range(count):
            begin = perf_counter_ns() if latencies is not None else 0
            connection.write(remote, 0, local, 0, 8)
            connection.flush(remote, 0, 8)
            while (wc := cq.get_wc()) is None:
                pass
            wc.raise_for_status()
            if latencies is not None:
                latencies[i] = perf_counter_ns() - begin

    # ---- 4 KiB writes, each with its completion, `depth` of them under way ----

    def window(self, count: int, latencies: Latencies | None) -> None:
        remote, local, size, depth = self.remote, self.local, self.size, self.depth
        cq = self.connection.cq
        write, get_wcs, wait = self.connection.write, cq.get_wcs, cq.wait
        always, success = CompletionFlags.ALWAYS, WcStatus.SUCCESS
        posted_at = array("Q", bytes(8 * count)) if latencies is not None else array("Q")
        posted = done = 0
        while done < count:
            while posted < count and posted - done < depth:
                offset = posted * BLOCK % size
                if latencies is not None:
                    posted_at[posted] = perf_counter_ns()
                write(remote, offset, local, offset, BLOCK, flags=always, wr_id=posted)
                posted += 1
            wcs = get_wcs(depth)
            if not wcs:
                wait()
                continue
            for wc in wcs:
                if wc.status is not success:
                    wc.raise_for_status()
                if latencies is not None:
                    latencies[wc.wr_id] = perf_counter_ns() - posted_at[wc.wr_id]
            done += len(wcs)

    # ---- a batch of 4 KiB writes: the queue kept full ----

    def batch(self, count: int, latencies: Latencies | None) -> None:
        """In one call, of segments that are at hand as 64-bit numbers."""
        self._batch(self.segments(count), latencies)

    def batch_list(self, count: int, latencies: Latencies | None) -> None:
        """In one call, of segments that are at hand as a list of triples."""
        numbers = self.segments(count)
        triples = list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
        self._batch(triples, latencies)

    def segments(self, count: int) -> array[int]:
        numbers = array("Q")
        for i in range(count):
            offset = i * BLOCK % self.size
            numbers.extend((offset, offset, BLOCK))
        return numbers

    def _batch(
        self, segments: array[int] | list[tuple[int, int, int]], latencies: Latencies | None
    ) -> None:
        begin = perf_counter_ns()
        self.connection.write_batch(self.remote, self.local, segments)
        self.batch_took = perf_counter_ns() - begin
        if latencies is not None:
            latencies[0] = self.batch_took


def main() -> None:
    address, port, queue_size, depth = sys.argv[1:]
    client = Client(address, port, int(queue_size), int(depth))
    print("ready", flush=True)
    for line in sys.stdin:
        way, count, file = line.split()
        values = 1 if way.startswith("batch") else int(count)
        latencies = None if file == "-" else array("Q", bytes(8 * values))
        begin = perf_counter_ns()
        getattr(client, way)(int(count), latencies)
        took = perf_counter_ns() - begin
        if latencies is not None:
            # Before the answer, which says that it is there.
            with open(file, "wb") as out:
                latencies.tofile(out)
        # The segments of a batch are made before the clock runs, as C has nothing to make.
        print(client.batch_took if way.startswith("batch") else took, flush=True)
    client.close()


if __name__ == "__main__":
    main()
