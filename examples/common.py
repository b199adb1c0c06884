# SPDX-License-Identifier: BSD-3-Clause
"""What the examples share: a command line with two sides, and memory out of a file."""

from __future__ import annotations

import argparse
import io
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import rpma
from rpma import allocation

Side = Callable[[argparse.Namespace], None]


class Program:
    """The command line of an example: the sub-commands `target` and `initiator`.

    A side that returns has verified what it promised: exit code 0. A side that cannot keep its
    promise calls sys.exit() with a message: exit code 1, as for what librpma reports.
    """

    def __init__(self, description: str | None, target: Side, initiator: Side) -> None:
        self._parser = argparse.ArgumentParser(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sides = self._parser.add_subparsers(metavar="{target,initiator}", required=True)
        self.target = sides.add_parser("target", help="listen; start this one first")
        self.target.add_argument("address", help="an address of this machine's RDMA device")
        self.target.add_argument("port", help="the port to listen on")
        self.target.set_defaults(side=target)
        self.initiator = sides.add_parser("initiator", help="connect to the target")
        self.initiator.add_argument("address", help="the address that the target listens on")
        self.initiator.add_argument("port", help="the port that it listens on")
        self.initiator.set_defaults(side=initiator)

    def run(self) -> None:
        """Run the side that the command line names."""
        arguments = self._parser.parse_args()
        try:
            arguments.side(arguments)
        except (rpma.RpmaError, OSError) as error:
            sys.exit(f"{type(error).__name__}: {error}")


def add_file(parser: argparse.ArgumentParser) -> None:
    """Let a side take its memory out of a file."""
    parser.add_argument(
        "file",
        nargs="?",
        help="a device DAX, or a file on DAX, tmpfs or hugetlbfs, to take the memory from: made if "
        "it is missing, overwritten if not; DRAM without it",
    )


def add_direct_write_to_pmem(parser: argparse.ArgumentParser) -> None:
    """Let a target state what its platform does: software cannot find out."""
    parser.add_argument(
        "--direct-write-to-pmem",
        action="store_true",
        help="what the RNIC writes goes to persistent memory, not to CPU caches that lose it (DDIO "
        "off, or eADR): the initiator may then flush to persistence",
    )


def is_durable_once_flushed(memory: allocation.Memory, is_stated: bool) -> bool:
    """Whether a flush to persistence makes durable what is written into the memory: it has to be
    persistent memory, and the operator has to state that writes go there.

    Only then is it registered for such flushes: a device that flushes by itself would refuse other
    memory, and no other device makes it durable.
    """
    if is_stated and not memory.is_dax:
        print("beware: direct write to pmem is stated, but this is not persistent memory")
    return is_stated and memory.is_dax


def map_memory(file: str | None, size: int) -> allocation.Memory:
    """Map a file, at least `size` bytes of it; or take DRAM where there is no file."""
    if file is None:
        print("no FILE given: the memory is DRAM, and lost when this program ends")
        return allocation.anonymous(size)
    is_new = not Path(file).exists()
    memory = allocation.map_file(file, size, create=True) if is_new else allocation.map_file(file)
    if len(memory) < size:
        sys.exit(f"{file} has {len(memory)} bytes, the example needs {size}")
    if not memory.keeps_rdma_writes:
        sys.exit(
            f"{file} is written back to storage, and the kernel does not learn of what its RDMA "
            "device writes there: it would be lost. Use a file on tmpfs, hugetlbfs or DAX, or the "
            "soft RNIC"
        )
    print(f"mapped {file}: {'persistent memory (DAX)' if memory.is_dax else 'not on DAX'}")
    return memory


def sync(memory: allocation.Memory, length: int) -> None:
    """Make the first bytes of the memory durable, if that can be done from here, and say so."""
    try:
        memory.sync(0, length)
    except io.UnsupportedOperation as error:  # DRAM; or a device DAX, which takes libpmem
        print(f"it is not durable: {error}")
    else:
        print(f"it is as durable as {memory.path} can make it")


def text_in(buffer: memoryview) -> str:
    """The text at the start of a buffer, up to the first zero byte."""
    return bytes(buffer).partition(b"\0")[0].decode(errors="replace")


def text(value: str) -> bytes:
    """A text as C has it: with a zero byte at its end."""
    return value.encode() + b"\0"


class PeerError(ConnectionError):
    """What the other side sent is not what this example's other side sends."""


class Offer(NamedTuple):
    """What a side says of its memory, as the private data of a connection.

    In bytes it is the `struct common_data` of librpma's C examples, so that each program here and
    its twin in C understand each other.

    Attributes:
        descriptor: of the memory region.
        offset: where in the region the other side is to read or write, in bytes.
        peer_descriptor: of the peer configuration; may be empty.
    """

    descriptor: bytes
    offset: int = 0
    peer_descriptor: bytes = b""

    def pack(self) -> bytes:
        """The bytes for the other side."""
        sizes = len(self.descriptor), len(self.peer_descriptor)
        return _OFFER.pack(self.offset, *sizes, self.descriptor + self.peer_descriptor)

    @classmethod
    def unpack(cls, private_data: bytes) -> Offer:
        """The other side's offer; bytes behind it (padding, or more) do not matter.

        Raises:
            PeerError: the bytes are no offer.
        """
        if len(private_data) < _OFFER.size:
            raise PeerError(
                f"the other side sent {len(private_data)} bytes of private data, an offer of "
                f"memory has {_OFFER.size}"
            )
        offset, size, peer_size, descriptors = _OFFER.unpack_from(private_data)
        if not size or size + peer_size > len(descriptors):
            raise PeerError(
                f"the other side sent no offer of memory: descriptors of {size} and {peer_size} "
                f"bytes, in {len(descriptors)} bytes"
            )
        return cls(descriptors[:size], offset, descriptors[size : size + peer_size])

    def region(self, size: int) -> rpma.RemoteMemoryRegion:
        """The memory, which must have at least so many bytes from `offset` on.

        Raises:
            PeerError: it has not.
            InvalidArgumentError: the descriptor is none.
        """
        region = rpma.RemoteMemoryRegion(self.descriptor)
        if region.size < self.offset + size:
            raise PeerError(
                f"the other side offers {region.size} bytes, and {self.offset + size} are needed"
            )
        return region


_OFFER = struct.Struct("<HBB24s")
"""The offset, the sizes of both descriptors, and the descriptors, one behind the other."""

OFFER_SIZE = _OFFER.size
"""How many bytes an offer has."""


def expect_size(completion: rpma.WorkCompletion, size: int) -> None:
    """Raise PeerError unless a message of that size has been received."""
    if completion.byte_len != size:
        raise PeerError(
            f"the other side sent a message of {completion.byte_len} bytes, not of {size}"
        )
