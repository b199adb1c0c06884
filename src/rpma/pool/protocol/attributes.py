# SPDX-License-Identifier: BSD-3-Clause
"""What the creator of a pool says about it, and how large a pool can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from rpma._huge_pages import an_integer

__all__ = [
    "Attributes",
    "MAX_SIZE",
    "NO_ATTRIBUTES",
    "check_uuid",
    "in_range",
    "set_field",
]

MAX_SIZE: Final = 1 << 48
"""The most bytes of data that a pool can have."""

_NIL: Final = UUID(int=0)


def set_field(instance: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass, while it is made."""
    object.__setattr__(instance, name, value)


def in_range(name: str, value: object, lowest: int, highest: int) -> int:
    """`value`, an integer from `lowest` to `highest`; else TypeError or ValueError."""
    number = an_integer(name, value)
    if not lowest <= number <= highest:
        raise ValueError(f"{name}: {number} is out of range; use {lowest} to {highest}")
    return number


def _padded(name: str, value: Any, length: int) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"{name}: bytes are needed, not {type(value).__name__}")
    if len(value) > length:
        raise ValueError(f"{name}: {len(value)} bytes are too many; use at most {length}")
    return value.ljust(length, b"\0")


def check_uuid(name: str, value: object) -> None:
    """TypeError for what is no UUID."""
    if not isinstance(value, UUID):
        raise TypeError(f"{name}: a uuid.UUID is needed, not {type(value).__name__}")


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What the creator of a pool says about it; the target keeps it and does not look at it.

    The fields are those of librpmem's rpmem_pool_attr. TypeError or ValueError, with the name of
    the field, for what does not fit.

    Attributes:
        signature: at most 8 bytes; zeros are put behind it up to 8.
        major: version of the data's layout, 32 bits.
        compat_features: 32 bits.
        incompat_features: 32 bits.
        ro_compat_features: 32 bits.
        poolset_uuid: which set of pools it belongs to.
        uuid: which member of the set it is.
        next_uuid: the next member.
        prev_uuid: the previous member.
        user_flags: at most 16 bytes; zeros are put behind them up to 16.
    """

    signature: bytes = bytes(8)
    major: int = 0
    compat_features: int = 0
    incompat_features: int = 0
    ro_compat_features: int = 0
    poolset_uuid: UUID = _NIL
    uuid: UUID = _NIL
    next_uuid: UUID = _NIL
    prev_uuid: UUID = _NIL
    user_flags: bytes = bytes(16)

    def __post_init__(self) -> None:
        for name, length in (("signature", 8), ("user_flags", 16)):
            set_field(self, name, _padded(name, getattr(self, name), length))
        for name in ("major", "compat_features", "incompat_features", "ro_compat_features"):
            set_field(self, name, in_range(name, getattr(self, name), 0, (1 << 32) - 1))
        for name in ("poolset_uuid", "uuid", "next_uuid", "prev_uuid"):
            check_uuid(name, getattr(self, name))


NO_ATTRIBUTES: Final = Attributes()
"""The attributes of a pool whose creator says nothing about it: all zero."""
