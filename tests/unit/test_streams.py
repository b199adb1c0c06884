"""A short read or write is never the end."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from rpma._streams import flush_fully, read_fully, write_fully
from rpma.errors import WaitTimeoutError

LONG = bytes(range(256)) * 4096  # more than a pipe holds

BUFFERINGS = [0, -1]


@contextmanager
def pipe(buffering: int) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Both ends of a pipe, neither of which blocks."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    reader = open(ends[0], "rb", buffering)  # noqa: SIM115 -- closed below
    writer = open(ends[1], "wb", buffering)  # noqa: SIM115
    try:
        yield reader, writer
    finally:
        reader.close()
        try:
            writer.close()
        except OSError:  # what is left in its buffer
            writer.close()


@pytest.mark.parametrize("buffering", BUFFERINGS)
def test_a_pipe_that_does_not_block(buffering: int) -> None:
    found = bytearray(len(LONG) + 100)
    with pipe(buffering) as (reader, writer):

        def write() -> None:
            with memoryview(LONG) as view:
                write_fully(writer, view)
            flush_fully(writer)
            writer.close()

        thread = threading.Thread(target=write)
        thread.start()
        count = read_fully(reader, memoryview(found))
        thread.join()
    assert bytes(found[:count]) == LONG


@pytest.mark.parametrize("buffering", BUFFERINGS)
def test_what_comes_piece_by_piece(buffering: int) -> None:
    """The reader finds nothing before each piece: the next is written when it waits."""
    found = bytearray(30)
    with pipe(buffering) as (reader, writer):
        pieces = [b"x" * 10, b"y" * 10, b"z" * 10]

        class Waits(io.RawIOBase):
            def readinto(self, view: memoryview) -> int | None:  # type: ignore[override]
                count: int | None = reader.readinto(view)  # type: ignore[attr-defined]
                if count is None:
                    os.write(writer.fileno(), pieces.pop(0))
                return count

            def fileno(self) -> int:
                return reader.fileno()

        assert read_fully(Waits(), memoryview(found)) == 30
    assert found == b"x" * 10 + b"y" * 10 + b"z" * 10
    assert pieces == []


@pytest.mark.parametrize("buffering", BUFFERINGS)
def test_waiting_has_a_deadline(buffering: int) -> None:
    with pipe(buffering) as (reader, writer):
        with pytest.raises(WaitTimeoutError, match="nothing came from the file in time"):
            read_fully(reader, memoryview(bytearray(1)), time.monotonic() + 0.01)
        with pytest.raises(WaitTimeoutError, match="nobody made room in the file in time"):
            write_fully(writer, memoryview(LONG), time.monotonic() + 0.01)


def test_a_writer_that_has_left_is_an_end_and_a_reader_that_has_an_error() -> None:
    with pipe(0) as (reader, writer):
        os.write(writer.fileno(), b"123")
        writer.close()
        assert read_fully(reader, memoryview(bytearray(10))) == 3
    with pipe(0) as (reader, writer):
        reader.close()
        with pytest.raises(BrokenPipeError):
            write_fully(writer, memoryview(LONG))


def test_a_file_that_can_only_be_read_into_bytes() -> None:
    class Bytes:
        def __init__(self) -> None:
            self.parts = [b"12", b"345", b""]

        def read(self, _length: int) -> bytes:
            return self.parts.pop(0)

    found = bytearray(10)
    assert read_fully(Bytes(), memoryview(found)) == 5
    assert found == b"12345" + bytes(5)
