# SPDX-License-Identifier: BSD-3-Clause
"""A store over gRPC: a put writes to a file and returns when fsync has. For benchmarks/pool.py.

As `python pool_grpc.py FOLDER` it serves, and prints its port.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PUT = "/rpma.benchmark.Store/Put"
HEAD = struct.Struct("<Q")
SIZE = 64 << 20


def serve(folder: Path) -> None:
    import grpc

    fd = os.open(folder / "grpc", os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(fd, 0, SIZE)

    def put(request: bytes, _context: object) -> bytes:
        (offset,) = HEAD.unpack_from(request)
        os.pwrite(fd, memoryview(request)[HEAD.size :], offset)
        os.fsync(fd)
        return b""

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(put) if details.method == PUT else None

    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Handler(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None)


@contextmanager
def connected(port: int) -> Iterator[Callable[[int, bytes], object]]:
    """What puts bytes at an offset."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(PUT)
        call(HEAD.pack(0) + b"x", wait_for_ready=True, timeout=10)
        yield lambda offset, data: call(HEAD.pack(offset) + data)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
