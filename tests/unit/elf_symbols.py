"""The dynamic symbols of an ELF file: what a library exports, what it needs from others."""

from __future__ import annotations

import struct
from pathlib import Path

_DYNSYM = 11


def dynamic_symbols(file: Path) -> tuple[set[str], set[str]]:
    """The names that a 64-bit little-endian ELF file defines, and those it leaves undefined."""
    raw = file.read_bytes()
    assert raw[:6] == b"\x7fELF\x02\x01", f"{file} is not ELF of 64 bits, little-endian"
    (table,) = struct.unpack_from("<Q", raw, 0x28)
    size, count = struct.unpack_from("<HH", raw, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", raw, table + i * size) for i in range(count)]
    defined: set[str] = set()
    undefined: set[str] = set()
    for _, kind, _, _, offset, length, link, _, _, entry in sections:
        if kind != _DYNSYM:
            continue
        names = sections[link][4]
        for at in range(offset, offset + length, entry):
            name, info, _, section = struct.unpack_from("<IBBH", raw, at)
            if info >> 4 not in (1, 2):  # neither global nor weak
                continue
            begin = names + name
            text = raw[begin : raw.index(b"\0", begin)].decode()
            (undefined if section == 0 else defined).add(text)
    return defined, undefined
