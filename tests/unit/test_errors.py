"""Every failure has its class, which is also the builtin that programmers catch."""

from __future__ import annotations

import builtins
import copy
import errno
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rpma
from rpma import errors
from rpma._native import lib
from rpma.constants import ConnectionEvent, WcFlags, WcOpcode, WcStatus

CODES = {
    "RPMA_E_UNKNOWN": (rpma.UnknownError, RuntimeError),
    "RPMA_E_NOSUPP": (rpma.NotSupportedError, NotImplementedError),
    "RPMA_E_PROVIDER": (rpma.ProviderError, OSError),
    "RPMA_E_NOMEM": (rpma.OutOfMemoryError, MemoryError),
    "RPMA_E_INVAL": (rpma.InvalidArgumentError, ValueError),
    "RPMA_E_NO_COMPLETION": (rpma.NoCompletionError, BlockingIOError),
    "RPMA_E_NO_EVENT": (rpma.NoEventError, BlockingIOError),
    "RPMA_E_AGAIN": (rpma.AgainError, BlockingIOError),
    "RPMA_E_SHARED_CHANNEL": (rpma.SharedChannelError, RuntimeError),
    "RPMA_E_NOT_SHARED_CHNL": (rpma.NotSharedChannelError, RuntimeError),
}
BINDING = {
    "RPMAPY_E_CLOSED": (rpma.ClosedError, ValueError),
    "RPMAPY_E_SRQ_CLOSED": (rpma.ClosedError, ValueError),
    "RPMAPY_E_FORKED": (rpma.ForkedError, RuntimeError),
    "RPMAPY_E_TIMEOUT": (rpma.WaitTimeoutError, TimeoutError),
    "RPMAPY_E_BUSY": (rpma.InUseError, RuntimeError),
    "RPMAPY_E_QUEUE_FULL": (rpma.QueueFullError, BlockingIOError),
}
EVENTS = {
    ConnectionEvent.CLOSED: (rpma.ConnectionClosed, ConnectionResetError),
    ConnectionEvent.LOST: (rpma.ConnectionLost, ConnectionAbortedError),
    ConnectionEvent.REJECTED: (rpma.ConnectionRejected, ConnectionRefusedError),
    ConnectionEvent.UNREACHABLE: (rpma.ConnectionUnreachable, TimeoutError),
}
FAILURES = [status for status in WcStatus if status is not WcStatus.SUCCESS]


def every_class() -> list[type[rpma.RpmaError]]:
    """Those of rpma.errors: other modules, which a test may have imported, have their own."""
    found = [rpma.RpmaError]
    for cls in found:
        subclasses = [sub for sub in cls.__subclasses__() if sub.__module__ == errors.__name__]
        found += [sub for sub in subclasses if sub not in found]
    return found


def completion(status: WcStatus) -> rpma.WorkCompletion:
    return rpma.WorkCompletion(7, status, WcOpcode.RDMA_WRITE, 0, None, 17, 0x99, WcFlags(0))


@pytest.mark.parametrize("name", CODES)
def test_each_code_has_its_class_and_builtin(name: str) -> None:
    cls, builtin = CODES[name]
    code = getattr(lib, name)
    error = errors.error_for(code, "do it")
    assert type(error) is cls
    assert isinstance(error, rpma.RpmaError)
    assert isinstance(error, builtin)
    assert (error.code, error.name) == (code, name)
    assert str(error).startswith("cannot do it: ")
    assert name in str(error)


def test_no_code_of_librpma_is_left_out() -> None:
    assert {name for name in dir(lib) if name.startswith("RPMA_E_")} == set(CODES)


@pytest.mark.parametrize("name", BINDING)
def test_each_code_of_the_binding_has_its_class_and_builtin(name: str) -> None:
    cls, builtin = BINDING[name]
    error = errors.error_for(getattr(lib, name), "do it")
    assert type(error) is cls
    assert isinstance(error, builtin)
    assert str(error).startswith("cannot do it: ")


def test_a_code_that_nobody_knows_is_an_unknown_error() -> None:
    assert type(errors.error_for(-424242, "do it")) is rpma.UnknownError


@pytest.mark.parametrize("status", FAILURES)
def test_each_status_of_a_completion_has_its_class(status: WcStatus) -> None:
    cls = errors.BY_STATUS[status]
    assert issubclass(cls, rpma.CompletionError)
    assert issubclass(cls, OSError)
    wc = completion(status)
    with pytest.raises(cls) as caught:
        wc.raise_for_status()
    assert type(caught.value) is cls
    assert caught.value.status is status
    assert caught.value.wc is wc
    assert f"IBV_WC_{status.name}" in str(caught.value)
    assert str(status) in str(caught.value)


def test_each_status_has_a_class_of_its_own() -> None:
    classes = [errors.BY_STATUS[status] for status in FAILURES]
    assert len(set(classes)) == len(FAILURES)


@pytest.mark.parametrize(
    ("status", "builtin"),
    [
        (WcStatus.WR_FLUSH_ERR, ConnectionAbortedError),
        (WcStatus.REM_ACCESS_ERR, PermissionError),
        (WcStatus.LOC_PROT_ERR, PermissionError),
        (WcStatus.RETRY_EXC_ERR, TimeoutError),
        (WcStatus.RNR_RETRY_EXC_ERR, TimeoutError),
    ],
)
def test_statuses_that_programmers_catch_are_builtins(
    status: WcStatus, builtin: type[OSError]
) -> None:
    assert issubclass(errors.BY_STATUS[status], builtin)


def test_a_success_raises_nothing() -> None:
    completion(WcStatus.SUCCESS).raise_for_status()


@pytest.mark.parametrize("event", EVENTS)
def test_each_event_that_ends_a_connection_has_its_class(event: ConnectionEvent) -> None:
    cls, builtin = EVENTS[event]
    error = errors.event_error(event, "cannot connect")
    assert type(error) is cls
    assert isinstance(error, builtin)
    assert isinstance(error, rpma.ConnectionEventError)
    assert isinstance(error, ConnectionError)
    assert error.event is event
    assert str(error).startswith("cannot connect: ")


@pytest.mark.parametrize("cls", every_class())
def test_every_class_survives_pickling_and_copying(cls: type[rpma.RpmaError]) -> None:
    error = cls("cannot do it: because", "librpma's own words")
    if isinstance(error, rpma.CompletionError):
        error.wc, error.request = completion(WcStatus.REM_ACCESS_ERR), 3
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(error, protocol))
        assert type(again) is cls
        assert str(again) == "cannot do it: because"
        assert again.message == "librpma's own words"
        assert again.args == error.args
        assert (again.code, again.name) == (error.code, error.name)
        if isinstance(error, rpma.CompletionError):
            assert again.wc == error.wc
            assert again.request == 3
    assert str(copy.copy(error)) == str(error)


@pytest.mark.parametrize("cls", [cls for cls in every_class() if issubclass(cls, OSError)])
def test_errno_survives_pickling_and_copying(cls: type[OSError]) -> None:
    error = cls("cannot do it", "words")
    error.errno = errno.EADDRINUSE
    assert pickle.loads(pickle.dumps(error)).errno == errno.EADDRINUSE
    assert copy.copy(error).errno == errno.EADDRINUSE


@pytest.mark.parametrize("cls", every_class())
def test_every_class_is_exported_and_documented(cls: type[rpma.RpmaError]) -> None:
    assert getattr(errors, cls.__name__) is cls
    assert cls.__doc__
    if cls is not rpma.RpmaError:
        builtin = [base for base in cls.__mro__ if hasattr(builtins, base.__name__)]
        assert builtin[0] not in (Exception, BaseException, object)


def test_an_error_of_librpma_carries_its_message() -> None:
    with pytest.raises(rpma.InvalidArgumentError) as caught:
        rpma.RemoteMemoryRegion(b"short")
    assert caught.value.message == rpma.errormsg()
    assert "incorrect size of the descriptor" in caught.value.message
    assert caught.value.message in str(caught.value)


def test_an_error_without_message_has_none_of_an_earlier_call() -> None:
    with pytest.raises(rpma.InvalidArgumentError):
        rpma.RemoteMemoryRegion(b"short")
    with pytest.raises(rpma.InvalidArgumentError) as caught:
        rpma.ConnectionConfig().sq_size = -1
    assert caught.value.message == ""


@pytest.mark.parametrize(
    ("message", "number"),
    [
        ("rdma_connect() failed: Invalid argument", errno.EINVAL),
        ("rdma_resolve_addr(addr=1::2, port=7) failed: No such device", errno.ENODEV),
        ("rdma_connect() failed: Invalid argument (pdata->len is 57: RoCE takes 56)", errno.EINVAL),
        ("rpma_ep_listen: Address already in use (a: b) (c)", errno.EADDRINUSE),
        ("rdma_connect() failed", None),
        ("rdma_connect() failed: Success is not an errno: nor this", None),
        ("", None),
    ],
)
def test_the_errno_of_a_message_is_found(message: str, number: int | None) -> None:
    assert errors.errno_of(message) == number


@given(st.integers(-(1 << 31), (1 << 31) - 1))
def test_err_2str_has_words_for_any_code(code: int) -> None:
    words = rpma.err_2str(code)
    assert words
    assert words == words.strip()


def test_err_2str_has_librpmas_words() -> None:
    assert rpma.err_2str(lib.RPMA_E_INVAL) == "Invalid argument"
    assert rpma.err_2str(0) == "Success"
    words = {rpma.err_2str(getattr(lib, name)) for name in CODES}
    assert len(words) == len(CODES)


@pytest.mark.parametrize("bad", ["1", None, 1 << 40])
def test_err_2str_takes_ints_of_c(bad: object) -> None:
    with pytest.raises((TypeError, OverflowError)):
        rpma.err_2str(bad)  # type: ignore[arg-type]
