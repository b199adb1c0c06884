"""What the target flushed out of its processor's caches, as its libpmem tells (stubs.c)."""

from __future__ import annotations

import struct
import threading
from pathlib import Path
from typing import Final

from rpma.pool.target.header import DATA_OFFSET

_TOLD: Final = struct.Struct("<IIQQ")
_MAGIC: Final = 0x54534552


class Caches:
    """Follows what is told. Whoever has an acknowledgement finds what was flushed for it here.

    Attributes:
        persisted: by pool, what it holds that is persistent.
    """

    def __init__(self, file: Path) -> None:
        """It is told in `file`."""
        self.persisted: dict[str, bytearray] = {}
        self._file = file
        self._at = 0
        self._ranges: dict[str, list[tuple[int, int]]] = {}
        self._lock = threading.Lock()

    def reset(self) -> None:
        """Before a boot: nothing has been told."""
        self._file.unlink(missing_ok=True)
        self._at = 0
        self._ranges.clear()

    def flushed(self, name: str) -> list[tuple[int, int]]:
        """Offset and length of what has been flushed of a pool since the last call, in order."""
        with self._lock:
            self._follow()
            return self._ranges.pop(name, [])

    def follow(self) -> None:
        """Take note of all that has been told."""
        with self._lock:
            self._follow()

    def _follow(self) -> None:
        try:
            with self._file.open("rb") as file:
                file.seek(self._at)
                told = memoryview(file.read())
        except FileNotFoundError:
            return
        at = 0
        while len(told) - at >= _TOLD.size:
            magic, name_length, in_file, length = _TOLD.unpack_from(told, at)
            if magic != _MAGIC:
                raise RuntimeError("the target's libpmem tells something else")
            data_at = at + _TOLD.size + name_length
            # The last one may be on its way, and stay so when the power goes: nobody was answered.
            if data_at + length > len(told):
                break
            name = bytes(told[at + _TOLD.size : data_at]).decode()
            offset = in_file - DATA_OFFSET
            self._ranges.setdefault(name, []).append((offset, length))
            if name in self.persisted:
                self.persisted[name][offset : offset + length] = told[data_at : data_at + length]
            at = data_at + length
        self._at += at
