# SPDX-License-Identifier: BSD-3-Clause
"""What goes wrong, as exceptions.

Every one is an `RpmaError` and also the builtin that Python programmers catch::

    RpmaError
     +-- UnknownError               RPMA_E_UNKNOWN           RuntimeError
     +-- NotSupportedError          RPMA_E_NOSUPP            NotImplementedError
     +-- ProviderError              RPMA_E_PROVIDER          OSError
     |    +-- NoDeviceError           no RDMA device has the address
     |    +-- QueueFullError          the queue takes no further request: BlockingIOError
     +-- OutOfMemoryError           RPMA_E_NOMEM             MemoryError
     +-- InvalidArgumentError       RPMA_E_INVAL             ValueError
     +-- NoCompletionError          RPMA_E_NO_COMPLETION     BlockingIOError
     +-- NoEventError               RPMA_E_NO_EVENT          BlockingIOError
     +-- AgainError                 RPMA_E_AGAIN             BlockingIOError
     +-- SharedChannelError         RPMA_E_SHARED_CHANNEL    RuntimeError
     +-- NotSharedChannelError      RPMA_E_NOT_SHARED_CHNL   RuntimeError
     +-- VersionError               check_version() fails    RuntimeError
     +-- WaitTimeoutError           a timeout has passed     TimeoutError
     +-- ClosedError                use after close()        ValueError
     +-- ForkedError                use in a forked child    RuntimeError
     +-- InUseError                 close() before the children, two threads    RuntimeError
     +-- CompletionError            a request failed         OSError
     |    +-- one class for each status of a work completion, see BY_STATUS
     +-- ConnectionEventError       a connection ended       ConnectionError
          +-- ConnectionClosed        ConnectionResetError
          +-- ConnectionLost          ConnectionAbortedError
          +-- ConnectionRejected      ConnectionRefusedError
          +-- ConnectionUnreachable   TimeoutError
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from rpma._native import lib, text
from rpma.constants import ConnectionEvent, WcStatus

if TYPE_CHECKING:
    from rpma.completion import WorkCompletion


def errormsg() -> str:
    """The last error message that librpma logged in this thread, or "" (rpma_errormsg).

    It is never cleared: it means something right after a call that failed.
    """
    return text(lib.rpmapy_errormsg())


def err_2str(code: int) -> str:
    """librpma's words for one of its return codes (rpma_err_2str)."""
    return text(lib.rpmapy_err_2str(code))


class RpmaError(Exception):
    """The base of all errors of librpma and of this binding.

    Attributes:
        code: librpma's return code (RPMA_E_*), or None where the error is not librpma's.
        name: the name of that code, or None.
        message: librpma's own message for the call, or "" where it had none.
    """

    code: int | None = None
    name: str | None = None

    def __init__(self, explanation: str = "", message: str = "") -> None:
        super().__init__(explanation)
        self.message = message

    def __str__(self) -> str:
        """The explanation, without the errno that OSError would put in front."""
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[object, ...]:
        state = dict(self.__dict__)
        if isinstance(self, OSError):
            state["errno"] = self.errno  # not in the dictionary, and args do not tell
        return type(self), (str(self), self.message), state


class UnknownError(RpmaError, RuntimeError):
    """RPMA_E_UNKNOWN: librpma met something it has no name for."""

    code, name = lib.RPMA_E_UNKNOWN, "RPMA_E_UNKNOWN"


class NotSupportedError(RpmaError, NotImplementedError):
    """RPMA_E_NOSUPP: the device, the region or the target's platform does not offer this."""

    code, name = lib.RPMA_E_NOSUPP, "RPMA_E_NOSUPP"


class ProviderError(RpmaError, OSError):
    """RPMA_E_PROVIDER: a call into libibverbs or librdmacm failed. `errno` says why, if known."""

    code, name = lib.RPMA_E_PROVIDER, "RPMA_E_PROVIDER"


class NoDeviceError(ProviderError):
    """No RDMA device belongs to the address."""


class QueueFullError(ProviderError, BlockingIOError):
    """The send or receive queue is full: collect work completions, then post again."""


class OutOfMemoryError(RpmaError, MemoryError):
    """RPMA_E_NOMEM: out of memory."""

    code, name = lib.RPMA_E_NOMEM, "RPMA_E_NOMEM"


class InvalidArgumentError(RpmaError, ValueError):
    """RPMA_E_INVAL: an argument is out of its range. The message names it."""

    code, name = lib.RPMA_E_INVAL, "RPMA_E_INVAL"


class NoCompletionError(RpmaError, BlockingIOError):
    """RPMA_E_NO_COMPLETION: nothing has completed."""

    code, name = lib.RPMA_E_NO_COMPLETION, "RPMA_E_NO_COMPLETION"


class NoEventError(RpmaError, BlockingIOError):
    """RPMA_E_NO_EVENT: there is no event."""

    code, name = lib.RPMA_E_NO_EVENT, "RPMA_E_NO_EVENT"


class AgainError(RpmaError, BlockingIOError):
    """RPMA_E_AGAIN: a temporary error, try again."""

    code, name = lib.RPMA_E_AGAIN, "RPMA_E_AGAIN"


class SharedChannelError(RpmaError, RuntimeError):
    """RPMA_E_SHARED_CHANNEL: the completion channel is shared: use Connection.wait()."""

    code, name = lib.RPMA_E_SHARED_CHANNEL, "RPMA_E_SHARED_CHANNEL"


class NotSharedChannelError(RpmaError, RuntimeError):
    """RPMA_E_NOT_SHARED_CHNL: the completion channel is not shared: use CompletionQueue.wait()."""

    code, name = lib.RPMA_E_NOT_SHARED_CHNL, "RPMA_E_NOT_SHARED_CHNL"


class VersionError(RpmaError, RuntimeError):
    """The loaded librpma does not offer the API version asked for. `reason` says why."""

    @property
    def reason(self) -> str:
        """The reason text of rpma_check_version()."""
        return str(self)


class WaitTimeoutError(RpmaError, TimeoutError):
    """The timeout of a waiting call has passed."""


class ClosedError(RpmaError, ValueError):
    """The object, or one that the call was given, is closed."""


class ForkedError(RpmaError, RuntimeError):
    """The object belongs to the parent process: RDMA resources do not survive a fork."""


class InUseError(RpmaError, RuntimeError):
    """Others need the object, or another thread is using it."""


class CompletionError(RpmaError, OSError):
    """A request failed; its connection is in the error state and takes no more.

    Attributes:
        status: the status of the work completion.
        wc: the work completion, or None.
        request: which request of a batch failed, counted from 0.
        cause: the first request of the connection that failed, where this one was only flushed.
    """

    status: WcStatus
    wc: WorkCompletion | None = None
    request: int = 0
    cause: WorkCompletion | None = None


class LocalLengthError(CompletionError):
    """IBV_WC_LOC_LEN_ERR: a posted receive is shorter than the message, or a request too long."""

    status = WcStatus.LOC_LEN_ERR


class LocalQpOperationError(CompletionError):
    """IBV_WC_LOC_QP_OP_ERR: inconsistent queue pair on this side."""

    status = WcStatus.LOC_QP_OP_ERR


class LocalEecOperationError(CompletionError):
    """IBV_WC_LOC_EEC_OP_ERR: not used on connections."""

    status = WcStatus.LOC_EEC_OP_ERR


class LocalProtectionError(CompletionError, PermissionError):
    """IBV_WC_LOC_PROT_ERR: local memory is not registered for this, or no longer."""

    status = WcStatus.LOC_PROT_ERR


class RequestFlushedError(CompletionError, ConnectionAbortedError):
    """IBV_WC_WR_FLUSH_ERR: not executed, the connection had failed or was disconnected."""

    status = WcStatus.WR_FLUSH_ERR


class MemoryWindowBindError(CompletionError):
    """IBV_WC_MW_BIND_ERR: binding a memory window failed."""

    status = WcStatus.MW_BIND_ERR


class BadResponseError(CompletionError):
    """IBV_WC_BAD_RESP_ERR: the other side answered what was not asked."""

    status = WcStatus.BAD_RESP_ERR


class LocalAccessError(CompletionError, PermissionError):
    """IBV_WC_LOC_ACCESS_ERR: protection error on local memory while receiving a write."""

    status = WcStatus.LOC_ACCESS_ERR


class RemoteInvalidRequestError(CompletionError):
    """IBV_WC_REM_INV_REQ_ERR: the other side finds the request invalid, say a receive too short."""

    status = WcStatus.REM_INV_REQ_ERR


class RemoteAccessError(CompletionError, PermissionError):
    """IBV_WC_REM_ACCESS_ERR: the other side does not allow it: key, range or usage."""

    status = WcStatus.REM_ACCESS_ERR


class RemoteOperationError(CompletionError):
    """IBV_WC_REM_OP_ERR: the other side could not carry it out."""

    status = WcStatus.REM_OP_ERR


class RetryExceededError(CompletionError, TimeoutError):
    """IBV_WC_RETRY_EXC_ERR: the other side does not answer: it is gone, or the network is."""

    status = WcStatus.RETRY_EXC_ERR


class RnrRetryExceededError(CompletionError, TimeoutError):
    """IBV_WC_RNR_RETRY_EXC_ERR: the other side never posted the receive that a message needs."""

    status = WcStatus.RNR_RETRY_EXC_ERR


class LocalRddViolationError(CompletionError):
    """IBV_WC_LOC_RDD_VIOL_ERR: not used on connections."""

    status = WcStatus.LOC_RDD_VIOL_ERR


class RemoteInvalidRdRequestError(CompletionError):
    """IBV_WC_REM_INV_RD_REQ_ERR: not used on connections."""

    status = WcStatus.REM_INV_RD_REQ_ERR


class RemoteAbortedError(CompletionError, ConnectionAbortedError):
    """IBV_WC_REM_ABORT_ERR: the other side aborted the request."""

    status = WcStatus.REM_ABORT_ERR


class InvalidEecNumberError(CompletionError):
    """IBV_WC_INV_EECN_ERR: not used on connections."""

    status = WcStatus.INV_EECN_ERR


class InvalidEecStateError(CompletionError):
    """IBV_WC_INV_EEC_STATE_ERR: not used on connections."""

    status = WcStatus.INV_EEC_STATE_ERR


class FatalError(CompletionError):
    """IBV_WC_FATAL_ERR: the device failed."""

    status = WcStatus.FATAL_ERR


class ResponseTimeoutError(CompletionError, TimeoutError):
    """IBV_WC_RESP_TIMEOUT_ERR: no response in time."""

    status = WcStatus.RESP_TIMEOUT_ERR


class GeneralError(CompletionError):
    """IBV_WC_GENERAL_ERR: the device names no reason."""

    status = WcStatus.GENERAL_ERR


class TagMatchingError(CompletionError):
    """IBV_WC_TM_ERR: tag matching failed."""

    status = WcStatus.TM_ERR


class RendezvousIncompleteError(CompletionError):
    """IBV_WC_TM_RNDV_INCOMPLETE: a tag matching rendezvous was not completed."""

    status = WcStatus.TM_RNDV_INCOMPLETE


class ConnectionEventError(RpmaError, ConnectionError):
    """The connection ended or was never made. `event` is librpma's."""

    event = ConnectionEvent.UNDEFINED


class ConnectionClosed(ConnectionEventError, ConnectionResetError):  # noqa: N818
    """RPMA_CONN_CLOSED: the other side disconnected."""

    event = ConnectionEvent.CLOSED


class ConnectionLost(ConnectionEventError, ConnectionAbortedError):  # noqa: N818
    """RPMA_CONN_LOST: connecting failed half-way, or the device was removed."""

    event = ConnectionEvent.LOST


class ConnectionRejected(ConnectionEventError, ConnectionRefusedError):  # noqa: N818
    """RPMA_CONN_REJECTED: nobody listens there, or the request was refused."""

    event = ConnectionEvent.REJECTED


class ConnectionUnreachable(ConnectionEventError, TimeoutError):  # noqa: N818
    """RPMA_CONN_UNREACHABLE: the other side does not answer."""

    event = ConnectionEvent.UNREACHABLE


BY_CODE: dict[int, type[RpmaError]] = {
    cls.code: cls
    for cls in (
        UnknownError,
        NotSupportedError,
        ProviderError,
        OutOfMemoryError,
        InvalidArgumentError,
        NoCompletionError,
        NoEventError,
        AgainError,
        SharedChannelError,
        NotSharedChannelError,
    )
}
"""The class for each of librpma's return codes."""

BY_STATUS: dict[int, type[CompletionError]] = {
    cls.status: cls for cls in CompletionError.__subclasses__()
}
"""The class for each status of a work completion that is not a success."""

BY_EVENT: dict[int, type[ConnectionEventError]] = {
    cls.event: cls for cls in ConnectionEventError.__subclasses__()
}
"""The class for each event that ends a connection."""

_BINDING_ERRORS: dict[int, tuple[type[RpmaError], str]] = {
    lib.RPMAPY_E_CLOSED: (ClosedError, "it, or an object that it was given, is closed"),
    lib.RPMAPY_E_SRQ_CLOSED: (
        ClosedError,
        "the shared receive queue of the configuration is closed",
    ),
    lib.RPMAPY_E_FORKED: (
        ForkedError,
        "the RDMA resources of a process do not survive a fork: make them in the child, before "
        "the parent makes any, or start the child with the 'spawn' method of multiprocessing",
    ),
    lib.RPMAPY_E_TIMEOUT: (WaitTimeoutError, "the timeout has passed"),
    lib.RPMAPY_E_BUSY: (
        InUseError,
        "another thread is inside an operation of this connection; librpma allows one at a time: "
        "share a lock, or give each thread a connection",
    ),
    lib.RPMAPY_E_QUEUE_FULL: (
        QueueFullError,
        "the queue is full: collect work completions first (unsignalled requests are retired by a "
        "later signalled one), or configure a larger sq_size or rq_size",
    ),
}

_STRERRORS = {os.strerror(number): number for number in sorted(errno.errorcode, reverse=True)}

_HINTS = {
    errno.EADDRINUSE: "the port is in use: choose another",
    errno.ENODEV: "no RDMA device has this address ('rpma info' lists devices and addresses)",
    errno.ENOMEM: "is RLIMIT_MEMLOCK ('ulimit -l') large enough?",
    errno.EACCES: "may this user open the files below /dev/infiniband?",
    errno.EPERM: "is this process a fork of one that uses the soft RNIC? It must be forked before "
    "the device is used (docs/fabrics.md)",
    errno.EFAULT: "the memory cannot be pinned: Linux 6.5 and newer refuse mapped files, except on "
    "tmpfs, hugetlbfs and device DAX",
    errno.EOPNOTSUPP: "the memory cannot be pinned: file system DAX needs a device with on-demand "
    "paging",
    errno.ENETUNREACH: "there is no route to the address ('ip route get ADDRESS')",
}


def errno_of(message: str) -> int | None:
    """The errno that a message of librpma names, or None.

    librpma ends a message with strerror(errno) and keeps the number to itself; its debug build
    may say more behind that, in parentheses.
    """
    for part in message.split(": "):
        number = _STRERRORS.get(part.partition(" (")[0])
        if number is not None:
            return number
    return None


def error_for(code: int, what: str, hint: str = "") -> RpmaError:
    """The exception for a code that a call just returned: librpma's, or one of the binding's.

    Args:
        code: the code.
        what: what was attempted, as in "cannot " + what.
        hint: what to do about it, where the caller knows better than the code.
    """
    own = _BINDING_ERRORS.get(code)
    if own is not None:
        cls, reason = own
        error = cls(f"cannot {what}: {hint or reason}")
        if isinstance(error, QueueFullError):
            error.errno = errno.ENOMEM
            error.message = text(lib.rpmapy_call_message())
        return error
    message = text(lib.rpmapy_call_message())
    known = BY_CODE.get(code, UnknownError)
    number = None
    if known is ProviderError:
        number = errno_of(message)
        if number == errno.ENODEV:
            known = NoDeviceError
        if not hint and number is not None:
            hint = _HINTS.get(number, "")
    explanation = f"cannot {what}: {message or err_2str(code)}"
    explanation += f" ({known.name})"
    if hint:
        explanation += f"; {hint}"
    error = known(explanation, message)
    if isinstance(error, OSError):
        error.errno = number
    return error


def event_error(event: int, what: str) -> ConnectionEventError:
    """The exception for an event that ended a connection."""
    cls = BY_EVENT.get(event, ConnectionEventError)
    return cls(f"{what}: {(cls.__doc__ or '').partition(': ')[2].rstrip('.')}")


def completion_error(
    wc: WorkCompletion, what: str, request: int = 0, cause: WorkCompletion | None = None
) -> CompletionError:
    """The exception for a work completion that is not a success."""
    cls = BY_STATUS.get(wc.status, GeneralError)
    reason = (cls.__doc__ or "").partition(": ")[2].rstrip(".")
    explanation = f"{what} failed: {wc.status!s} (IBV_WC_{wc.status.name}): {reason}"
    if cause is not None and wc.status == WcStatus.WR_FLUSH_ERR:
        explanation += f"; the first failure on this connection was '{cause.status!s}'"
    error = cls(explanation)
    error.wc, error.request, error.cause = wc, request, cause
    return error
