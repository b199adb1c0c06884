# SPDX-License-Identifier: BSD-3-Clause
"""The target of benchmarks/binding.py: its memory is written, and it sleeps.

usage: binding_target.py ADDRESS PORT CONNECTIONS QUEUE_SIZE
"""

from __future__ import annotations

import mmap
import sys
from contextlib import ExitStack

import rpma

MEMORY = 4 << 20
LIMIT = 60.0


def main() -> None:
    """Register memory, accept, and do nothing until the input ends."""
    address, port, connections, queue_size = sys.argv[1:]
    usage = rpma.Usage.WRITE_DST | rpma.Usage.READ_SRC | rpma.Usage.FLUSH_TYPE_VISIBILITY
    config = rpma.ConnectionConfig(sq_size=int(queue_size), cq_size=int(queue_size))
    with (
        rpma.Peer.for_address(address) as peer,
        peer.register(mmap.mmap(-1, MEMORY), usage) as memory,
        ExitStack() as stack,
    ):
        with peer.listen(address, port) as endpoint:
            print("ready", flush=True)
            for _ in range(int(connections)):
                stack.enter_context(
                    endpoint.accept(memory.descriptor, config=config, timeout=LIMIT)
                )
        sys.stdin.read()


if __name__ == "__main__":
    main()
