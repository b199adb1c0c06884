"""The enumerations have C's values, and C's words."""

from __future__ import annotations

import pytest

import rpma
from rpma._native import ffi, lib

FAMILIES = [
    (rpma.Usage, "RPMA_MR_USAGE_"),
    (rpma.FlushType, "RPMA_FLUSH_TYPE_"),
    (rpma.CompletionFlags, "RPMA_F_COMPLETION_"),
    (rpma.ConnectionEvent, "RPMA_CONN_"),
    (rpma.WcFlags, "IBV_WC_"),
    (rpma.WcOpcode, "IBV_WC_"),
    (rpma.WcStatus, "IBV_WC_"),
    (rpma.Advice, "IBV_ADVISE_MR_ADVICE_"),
]


@pytest.mark.parametrize(("family", "prefix"), FAMILIES)
def test_members_have_the_values_of_c(family: type, prefix: str) -> None:
    for name, member in family.__members__.items():  # type: ignore[attr-defined]
        assert member == getattr(lib, prefix + name)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ("UNDEFINED", "Undefined connection event"),
        ("ESTABLISHED", "Connection established"),
        ("CLOSED", "Connection closed"),
        ("LOST", "Connection lost"),
        ("REJECTED", "Connection rejected"),
        ("UNREACHABLE", "Connection unreachable"),
    ],
)
def test_events_have_librpmas_words(event: str, words: str) -> None:
    member = rpma.ConnectionEvent[event]
    assert str(member) == words
    assert str(member) == ffi.string(lib.rpmapy_conn_event_2str(int(member))).decode()


@pytest.mark.parametrize("event", [-7, 99, 1 << 20])
def test_an_event_that_nobody_knows_has_words_too(event: int) -> None:
    assert ffi.string(lib.rpmapy_conn_event_2str(event)) == b"Unsupported connection event"


def test_statuses_have_the_words_of_libibverbs() -> None:
    assert str(rpma.WcStatus.SUCCESS) == "success"
    assert str(rpma.WcStatus.REM_ACCESS_ERR) == "remote access error"
    assert len({str(status) for status in rpma.WcStatus}) == len(rpma.WcStatus)


def test_usages_are_one_bit_each() -> None:
    assert sorted(rpma.Usage) == [1 << bit for bit in range(8)]


def test_limits() -> None:
    assert rpma.DEFAULT_TIMEOUT_MS == 1000
    assert rpma.ATOMIC_WRITE_ALIGNMENT == 8
