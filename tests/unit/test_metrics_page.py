"""The port for metrics: whoever asks gets the page, and nobody gets in the way of others."""

from __future__ import annotations

import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

pytest.importorskip("h11")
pytest.importorskip("msgspec")

from rpma.cli import web
from rpma.pool.target import sparing, strangers

PAGE = b"rpma_target_up 1.0\n"
SOON = 20.0

Address = tuple[str, int]


@contextmanager
def serving(
    page: Callable[[bool], tuple[str, bytes]] = lambda is_open: (f"text/{is_open}", PAGE),
) -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address: Address = listening.getsockname()
        with web.PageServer(page, logging.getLogger("rpma.test")).serving(listening):
            yield address


def get(address: Address, path: str = "/metrics", **headers: str) -> tuple[str, bytes]:
    request = urllib.request.Request(f"http://{address[0]}:{address[1]}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=SOON) as answer:
        return answer.headers["content-type"], answer.read()


def said(address: Address, data: bytes) -> bytes:
    """All that is answered to these bytes."""
    with socket.create_connection(address, SOON) as connection:
        connection.sendall(data)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            answer += data
    return answer


def test_the_page_in_both_formats() -> None:
    with serving() as address:
        assert get(address) == ("text/False", PAGE)
        assert get(address, "/?name=x") == ("text/False", PAGE)
        assert get(address, Accept="application/openmetrics-text;version=1.0.0,*/*") == (
            "text/True",
            PAGE,
        )
        answer = said(address, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert f"content-length: {len(PAGE)}\r\n".encode() in answer.lower()
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /secret HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"\x1b[31m\x00\xff\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + 20000 * b"x", b"431"),
        (b"GET /metrics HTTP/1.1\r\n" + 5000 * b"X: x\r\n", b"431"),
    ],
)
def test_what_is_no_request_for_it(
    data: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serving() as address:
        answer = said(address, data)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert len(answer) < 300
        assert get(address)[1] == PAGE
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert len(record.getMessage()) < 200


def test_nonsense_leaves_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with serving() as address:
        for _ in range(3 * sparing.LINES):
            said(address, b"nonsense\r\n\r\n")
    assert len(caplog.records) == sparing.LINES + 1


def test_who_does_not_ask_in_time_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "REQUEST_TIMEOUT", 0.5)
    with serving() as address, ExitStack() as stack:
        silent, trickling = (
            stack.enter_context(closing(socket.create_connection(address, SOON))) for _ in range(2)
        )
        trickling.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        began = time.monotonic()
        with suppress(OSError):  # it is sent away
            while time.monotonic() - began < SOON:
                trickling.sendall(b"X: x\r\n")
                time.sleep(0.05)
        assert rest(silent) == b""
        assert time.monotonic() - began < 5


def test_who_does_not_read_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "ANSWER_TIMEOUT", 0.5)
    with serving(lambda _: ("text/plain", bytes(8 << 20))) as address:
        with socket.create_connection(address, SOON) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(2)
            assert len(rest(connection)) < 8 << 20
        assert len(get(address)[1]) == 8 << 20


def test_many_who_are_idle_take_no_threads_and_keep_nobody_out() -> None:
    with serving() as address, ExitStack() as stack:
        get(address)
        before = threading.active_count()
        for _ in range(2 * strangers.MOST):
            stack.enter_context(closing(socket.create_connection(address, SOON)))
        for _ in range(3):
            assert get(address)[1] == PAGE
        assert threading.active_count() == before


def test_many_who_ask_at_once_are_given_one_page() -> None:
    made, go_on = 0, threading.Event()

    def page(_: bool) -> tuple[str, bytes]:
        nonlocal made
        made += 1
        go_on.wait(SOON)
        return "text/plain", PAGE

    with serving(page) as address, ExitStack() as stack:
        asking = []
        for _ in range(8):
            asking.append(stack.enter_context(closing(socket.create_connection(address, SOON))))
            asking[-1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.5)
        go_on.set()
        for connection in asking:
            assert rest(connection).endswith(PAGE)
        assert made == 1


def test_a_page_that_fails_is_no_page(caplog: pytest.LogCaptureFixture) -> None:
    def page(_: bool) -> tuple[str, bytes]:
        raise LookupError("nothing there")

    with serving(page) as address:
        assert said(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == b""
    assert "no metrics: LookupError('nothing there')" in caplog.text


def test_it_ends_though_some_are_served() -> None:
    with ExitStack() as stack:
        with serving() as address:
            for _ in range(10):
                stack.enter_context(closing(socket.create_connection(address, SOON)))
            get(address)
            began = time.monotonic()
        assert time.monotonic() - began < 3
