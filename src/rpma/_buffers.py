# SPDX-License-Identifier: BSD-3-Clause
"""The memory behind what programs pass as a buffer: their objects have many shapes and formats."""

from __future__ import annotations

import re
import sys
from typing import Any

from rpma.errors import InvalidArgumentError

_NAMES = re.compile(r":[^:]*:")
"""The names of a structure's members, in the format of a buffer."""

_NOT_CONTIGUOUS = "{} is not contiguous: give the whole array, and offsets, or a copy of this part"


def bytes_of(
    name: str, value: Any, wanted: str = "an object with a buffer, as bytes is"
) -> memoryview:
    """The memory of `value` as bytes, of one dimension, without a copy.

    Args:
        name: of the argument, for the messages.
        value: a buffer of any format and shape, or a `rpma.allocation.Memory`; or a numpy array of
            a type that the buffer protocol has no format for, as datetime64 and bfloat16 are.
        wanted: what the argument must be, for the messages.

    Raises:
        TypeError: it has no buffer.
        InvalidArgumentError: it is not contiguous, or of Python objects.
    """
    view = _view_of(name, value, wanted)
    if view is None:
        if not value.flags.c_contiguous:
            raise InvalidArgumentError(_NOT_CONTIGUOUS.format(name))
        return memoryview(value.reshape(-1).view("u1"))
    if not view.c_contiguous:
        raise InvalidArgumentError(_NOT_CONTIGUOUS.format(name))
    if view.format == "B" and view.ndim == 1:
        return view
    if not view.nbytes:  # memoryview.cast refuses a shape with a zero in it
        return memoryview(b"" if view.readonly else bytearray())
    return view.cast("B")


def copied(name: str, value: Any, wanted: str = "bytes") -> bytes:
    """A copy of the bytes of `value`, contiguous or not; the rest is as for `bytes_of`."""
    if type(value) is bytes:
        return value
    view = _view_of(name, value, wanted)
    copy: bytes = value.tobytes() if view is None else view.tobytes()
    return copy


def _view_of(name: str, value: Any, wanted: str) -> memoryview | None:
    """Its buffer; None: it is a numpy array of a type that the buffer protocol has no word for."""
    own = getattr(value, "view", None)
    if isinstance(own, memoryview):  # rpma.allocation.Memory, which is a buffer from 3.12 on only
        return memoryview(own)  # the caller may release it
    try:
        view = memoryview(value)
    except TypeError:
        hint = "; of a torch CPU tensor take .numpy()" if hasattr(value, "numpy") else ""
        raise TypeError(f"{name} must be {wanted}, not {type(value).__name__}{hint}") from None
    except (ValueError, BufferError) as error:
        numpy = sys.modules.get("numpy")
        if numpy is None or not isinstance(value, numpy.ndarray):
            raise InvalidArgumentError(f"{name} cannot be used: {error}") from None
        holds_objects = value.dtype.hasobject
    else:
        holds_objects = "O" in _NAMES.sub("", view.format)
        if not holds_objects:
            return view
    if holds_objects:
        raise InvalidArgumentError(
            f"{name} holds Python objects ({getattr(value, 'dtype', type(value).__name__)}): their "
            "addresses mean nothing elsewhere"
        )
    return None
