# SPDX-License-Identifier: BSD-3-Clause
"""What librpma's objects have in common in Python: a handle, and a life."""

from __future__ import annotations

import operator
import time
import warnings
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from rpma._native import ffi, lib
from rpma.errors import InUseError, InvalidArgumentError, error_for

if TYPE_CHECKING:
    from collections.abc import Callable

Self = TypeVar("Self", bound="NativeObject")

FOREVER: int = lib.RPMAPY_FOREVER


class NativeObject:
    """An object of librpma: a context manager with an idempotent close().

    The C handle keeps its parents alive and is released with the Python object, after its
    children, in whatever order the garbage collector meets them.
    """

    __slots__ = ("__weakref__", "_h", "_out")

    _what = "object"
    _warns = True  # garbage-collected open: False where only memory is at stake

    _h: Any
    _out: Any

    def _adopt(self, out: Any) -> None:
        """Take over what C has put into `out`, made by `handle_out`."""
        self._out = out  # owns the handle
        self._h = out[0]

    @property
    def closed(self) -> bool:
        """Whether it is closed, or belongs to the parent process of a fork."""
        return bool(lib.rpmapy_state(self._h))

    def close(self) -> None:
        """Release it. Does nothing if it is closed already.

        Threads may call it at once, and while others use the object: it waits until they are out,
        and when it returns, in whichever thread, the object is gone.

        Raises:
            InUseError: objects made from it are still open.
            RpmaError: librpma reports a failure; the object is closed all the same.
        """
        ret = lib.rpmapy_close(self._h)
        if ret == lib.RPMAPY_E_CHILDREN:
            count = lib.rpmapy_children(self._h)
            raise InUseError(
                f"cannot close the {self._what}: {count} object(s) made from it are still open "
                "(regions, connections, endpoints, shared receive queues); close them first"
            )
        if ret:
            raise error_for(ret, f"close the {self._what}")

    def __enter__(self: Self) -> Self:
        """Return the object itself, if it is open."""
        ret = lib.rpmapy_state(self._h)
        if ret:
            raise error_for(ret, f"enter the {self._what}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it.

        While an exception passes, what was made from this object may still be held by its
        traceback: then it closes with the last of those, and that exception goes on.
        """
        try:
            self.close()
        except InUseError:
            if kind is None:
                raise

    def __del__(self) -> None:
        handle = getattr(self, "_h", None)
        if handle is None or lib.rpmapy_state(handle):
            return  # the constructor failed, or close() was called
        try:
            if self._warns:  # which raises where warnings are errors
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
        finally:
            # Now, before the attributes go: a region must not outlive its buffer. What still has
            # children is closed with the last of them, when the handle is released.
            lib.rpmapy_close(handle)

    def __reduce__(self) -> str:
        raise TypeError(f"a {self._what} cannot be pickled: it belongs to this process")

    def __repr__(self) -> str:
        state = " closed" if self.closed else ""
        return f"<rpma.{type(self).__name__}{state}>"


def handle_out(kind: str) -> Any:
    """Where C puts a new handle, and what owns it, from the start.

    From the start, since Ctrl-C may be raised as soon as C returns, before Python has looked at
    what came of it. And not by ffi.gc(): of a reference cycle the collector first calls all
    finalizers in any order, such destructors among them; those yet to come, a program's own
    included, would use freed memory. A plain pointer is nothing to the collector: it goes when
    nothing refers to it any more, after all of them.

    Args:
        kind: the name of the handle's structure.
    """
    cell = lib.rpmapy_cell_new()
    if not cell:
        raise error_for(lib.RPMA_E_NOMEM, "make an object")
    out = ffi.cast(f"struct {kind} **", cell)
    weakref.finalize(out, lib.rpmapy_cell_free, cell).atexit = False
    return out


def pointer_to(view: memoryview, kind: str = "void *") -> Any:
    """The memory of `view` as a pointer, good as long as the view is.

    What ffi.from_buffer() makes must not be kept, not even in the frame of a call that may raise:
    in a reference cycle with its memoryview (a traceback makes one) it crashes the garbage
    collector (cffi 2.1.1, CPython 3.11).
    """
    return ffi.cast(kind, ffi.from_buffer(view))


def deadline_after(timeout: float | None) -> int:
    """The moment `timeout` seconds from now, as C waits for it; None is forever."""
    if timeout is None:
        return FOREVER
    if not isinstance(timeout, (int, float)) and not hasattr(timeout, "__float__"):
        raise TypeError(f"timeout must be a number of seconds or None, not {_name(timeout)}")
    try:
        seconds = float(timeout)
    except OverflowError:  # an int beyond any float
        seconds = 1e9 if timeout > 0 else -1.0
    if not seconds >= 0:
        raise InvalidArgumentError(f"timeout={timeout} must not be negative")
    return min(time.monotonic_ns() + int(min(seconds, 1e9) * 1e9), FOREVER - 1)


def in_two_attempts(call: Callable[[bool], int]) -> int:
    """The result of a call that a signal interrupts, unless `call` is told to block signals.

    Ctrl-C is answered in the first attempt; the second cannot be interrupted over and over.
    """
    ret = call(False)
    return call(True) if ret == lib.RPMAPY_AGAIN else ret


def require(kind: type, name: str, value: object) -> None:
    """Raise TypeError unless `value`, the argument called `name`, is a `kind`."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(f"{name} must be {article} rpma.{kind.__name__}, not {_name(value)}")


def integer(name: str, value: object, maximum: int, unit: str = "", *, minimum: int = 0) -> int:
    """`value` as an int in that range, or the exception that says what is wrong with it."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{name} must be an integer{unit and ' of ' + unit}, not {_name(value)}"
        ) from None
    if not minimum <= number <= maximum:
        raise InvalidArgumentError(f"{name}={number} must be from {minimum} to {maximum}")
    return number


def _name(value: object) -> str:
    return type(value).__name__
