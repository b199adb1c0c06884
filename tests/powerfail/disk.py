"""A disk with a volatile write cache, as real ones have, which forgets when its power goes.

A guest that is killed loses its page cache, but QEMU's writes would survive in the host's. So the
disk is served to QEMU from here, over NBD: a write goes to the cache, a flush takes it to the
medium, and `lose_power` drops what was not flushed, or any part of it, sector by sector.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from pathlib import Path
from typing import Final

SECTOR: Final = 512
"""What a disk writes as a whole, or not at all, in bytes."""

FLUSH_TIME: Final = 0.01
"""How long a flush takes, as with a disk that turns: the power shall go in the middle of some."""

_OPTIONS_MAGIC: Final = b"NBDMAGICIHAVEOPT"
_OPTION: Final = struct.Struct(">8sII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
_GO: Final = 7
_ACK: Final = 1
_INFO: Final = 3
_UNSUPPORTED: Final = (1 << 31) + 1

_REQUEST: Final = struct.Struct(">IHHQQI")
_REPLY: Final = struct.Struct(">IIQ")
_REQUEST_MAGIC: Final = 0x25609513
_REPLY_MAGIC: Final = 0x67446698
_READ, _WRITE, _DISCONNECT, _FLUSH = range(4)
_FUA: Final = 1
_EINVAL: Final = 22

#: It has flags, knows flushes, and writes that are forced to the medium.
_FLAGS: Final = 1 << 0 | 1 << 2 | 1 << 3


class Disk:
    """The disk; its medium is a file.

    Attributes:
        socket: where QEMU finds it.
        flushes: how often it was asked to flush.
        lies: whether it says that it has flushed, and has not.
    """

    def __init__(self, folder: Path, size: int) -> None:
        """Make it, empty, of `size` bytes."""
        self.socket = folder / "disk.socket"
        self.flushes = 0
        self.lies = False
        self._size = size
        self._medium = os.open(folder / "disk", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        os.ftruncate(self._medium, size)
        self._cache: dict[int, bytes] = {}
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.socket))
        self._server.listen()
        self._user: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="disk", daemon=True)
        self._idle = threading.Event()
        self._idle.set()
        self._thread.start()

    def close(self) -> None:
        """End it."""
        for end in (self._server, self._user):
            with contextlib.suppress(OSError):
                if end is not None:
                    end.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()
        os.close(self._medium)

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lose_power(self, chance: random.Random, survival: float) -> tuple[int, int]:
        """Forget the cache, once its user has gone.

        Args:
            chance: decides about each sector.
            survival: how likely a sector that was not flushed is on the medium all the same: disks
                write in any order, and before they are told to.

        Returns:
            How many sectors were in the cache, and how many of them reached the medium.
        """
        if not self._idle.wait(30):
            raise RuntimeError("the disk is still in use")
        kept = [number for number in sorted(self._cache) if chance.random() < survival]
        count = len(self._cache)
        self._to_medium(kept)
        self._cache.clear()
        return count, len(kept)

    # ---- the disk ----

    def _read(self, offset: int, length: int) -> bytes:
        data = bytearray(os.pread(self._medium, length, offset))
        if self._cache:
            first = offset // SECTOR
            for number in range(first, first + length // SECTOR):
                if (cached := self._cache.get(number)) is not None:
                    at = (number - first) * SECTOR
                    data[at : at + SECTOR] = cached
        return bytes(data)

    def _write(self, offset: int, data: bytes, forced: bool) -> None:
        first = offset // SECTOR
        for at in range(0, len(data), SECTOR):
            self._cache[first + at // SECTOR] = data[at : at + SECTOR]
        if forced and not self.lies:
            self._to_medium(list(range(first, first + len(data) // SECTOR)))

    def _flush(self) -> None:
        self.flushes += 1
        time.sleep(FLUSH_TIME)
        if not self.lies:
            self._to_medium(sorted(self._cache))

    def _to_medium(self, numbers: list[int]) -> None:
        for number in numbers:
            os.pwrite(self._medium, self._cache.pop(number), number * SECTOR)

    # ---- its protocol ----

    def _serve(self) -> None:
        while True:
            try:
                user, _ = self._server.accept()
            except OSError:  # it is closed
                return
            self._idle.clear()
            self._user = user
            # Whoever is killed leaves a request in the middle: then it has not been made.
            with user, contextlib.suppress(OSError, EOFError):
                self._agree(user)
                while self._answer(user):
                    pass
            self._idle.set()

    def _agree(self, user: socket.socket) -> None:
        user.sendall(_OPTIONS_MAGIC + struct.pack(">H", 3))
        _receive(user, 4)
        while True:
            _, option, length = _OPTION.unpack(_receive(user, _OPTION.size))
            _receive(user, length)
            if option != _GO:
                user.sendall(_OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, _UNSUPPORTED, 0))
                continue
            export = struct.pack(">HQH", 0, self._size, _FLAGS)
            user.sendall(_OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, _INFO, len(export)))
            user.sendall(export + _OPTION_REPLY.pack(_OPTION_REPLY_MAGIC, option, _ACK, 0))
            return

    def _answer(self, user: socket.socket) -> bool:
        """One request; whether there may be more."""
        header = _receive(user, _REQUEST.size)
        magic, flags, kind, cookie, offset, length = _REQUEST.unpack(header)
        data = _receive(user, length) if kind == _WRITE else b""
        if magic != _REQUEST_MAGIC or kind == _DISCONNECT:
            return False
        failure, reply = 0, b""
        if offset % SECTOR or length % SECTOR or offset + length > self._size:
            failure = _EINVAL
        elif kind == _READ:
            reply = self._read(offset, length)
        elif kind == _WRITE:
            self._write(offset, data, bool(flags & _FUA))
        elif kind == _FLUSH:
            self._flush()
        else:
            failure = _EINVAL
        user.sendall(_REPLY.pack(_REPLY_MAGIC, failure, cookie) + reply)
        return True


def _receive(user: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        more = user.recv(min(length - len(data), 1 << 20))
        if not more:
            raise EOFError
        data += more
    return bytes(data)
