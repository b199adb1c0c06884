"""What others send, in log lines and messages: bounded, escaped, and not too often."""

from __future__ import annotations

import asyncio
import logging

import pytest

pytest.importorskip("msgspec")

from hypothesis import given
from hypothesis import strategies as st

from rpma.pool.protocol import messages, words
from rpma.pool.protocol.errors import PoolDamagedError, ProtocolError, TargetError
from rpma.pool.protocol.names import check_name
from rpma.pool.target.sparing import LINES, Sparing, told

#: What would end a line, command a terminal, or turn the order of what is shown.
NASTY = "a\nb\r\0\x1b[31m\x9b\u2028\u202e\ud800'\"\\"


@given(text=st.text() | st.just(NASTY), most=st.integers(1, 100))
def test_whatever_is_shown_is_short_and_one_line(text: str, most: int) -> None:
    for shown, length in (
        (words.plain(text), words.SHOWN),
        (words.plain(text * 100), words.SHOWN),
        (words.quoted(text, most), most),
    ):
        assert shown.isascii()
        assert shown.isprintable()
        assert len(shown) <= length + len("''...")
    for said in (text, text * 1000):
        assert words.explained(said).isprintable()
        assert len(words.explained(said)) <= words.EXPLAINED + len("...")


def test_an_explanation_may_be_in_any_script() -> None:
    assert words.explained("Datei oder Verzeichnis gehört jemandem") == (
        "Datei oder Verzeichnis gehört jemandem"
    )
    assert words.explained("a\n\u202e") == "a\\n\\u202e"


@pytest.mark.parametrize("text", ["", "pool-1", "it's", 64 * "x"])
def test_what_is_harmless_is_shown_as_it_is(text: str) -> None:
    assert words.plain(text) == text
    assert words.quoted(text) == repr(text)


def test_what_is_cut_off_says_so() -> None:
    assert words.plain(65 * "x") == 64 * "x" + "..."
    assert words.quoted("abcdef", 3) == "'abc'..."
    assert words.quoted("ab\n", 3) == "'ab\\'..."


def test_what_cannot_be_decoded_is_quoted_in_part_only() -> None:
    msgspec = pytest.importorskip("msgspec")
    nasty = NASTY.replace("\ud800", "") * 1000
    for message in ({"type": "login", nasty: 1}, {"type": nasty}):
        with pytest.raises(ProtocolError) as caught:
            messages.decode(msgspec.msgpack.encode(message), messages.Login)
        assert len(str(caught.value)) < 120
        assert str(caught.value).isprintable()


def test_a_name_that_cannot_be_is_quoted_in_part_only() -> None:
    with pytest.raises(ValueError, match="cannot be the name of a pool") as caught:
        check_name(NASTY + 1000 * "x")
    assert len(str(caught.value)) < 250
    assert str(caught.value).isprintable()


def test_what_a_client_is_told_has_no_path() -> None:
    damaged = PoolDamagedError("the pool is damaged", where="/srv/pools/a.pool")
    assert told(damaged) == "the pool is damaged"
    assert damaged.in_full == "the pool is damaged (/srv/pools/a.pool)"
    assert TargetError("busy").in_full == "busy"
    denied = PermissionError(13, "Permission denied", "/srv/pools/a.pool")
    assert told(denied) == "the target failed: Permission denied"


def test_lines_of_a_kind_are_counted_once_there_are_many(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rpma.pool.target.sparing.PERIOD", 0.05)
    log = logging.getLogger("rpma.test")

    async def flood() -> None:
        sparing = Sparing(log, asyncio.get_running_loop())
        for number in range(1000):
            sparing(logging.WARNING, "strangers have gone", "stranger %d", number)
        sparing(logging.WARNING, "others", "another")
        await asyncio.sleep(0.2)
        sparing(logging.WARNING, "strangers have gone", "stranger %d", 1000)
        sparing.sum_up()

    with caplog.at_level(logging.INFO, "rpma.test"):
        asyncio.run(flood())
    assert [record.getMessage() for record in caplog.records] == [
        *(f"stranger {number}" for number in range(LINES)),
        "another",
        f"{1000 - LINES} more lines left out: strangers have gone",
        "stranger 1000",
    ]
