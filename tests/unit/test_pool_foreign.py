"""A pool's protocol meets another one: whoever runs into it learns what is there."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest

import rpma
import rpma.aio
from rpma.pool import AuthenticationError, Client, ProtocolError, TargetLost
from rpma.pool.protocol.channel import Channel
from rpma.pool.protocol.foreign import words_for

LIMIT = 30.0

GET = b"GET / HTTP/1.1\r\nHost: db1\r\n\r\n"


def tls_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="db1").do_handshake()
    return sent.read()


def through_the_client(target: str, timeout: float) -> None:
    Client(target, timeout=timeout).close()


def through_asyncio(target: str, timeout: float) -> None:
    async def connect() -> None:
        await rpma.aio.connect(target, timeout=timeout)

    asyncio.run(connect())


both = pytest.mark.parametrize("connect", [through_the_client, through_asyncio])
Connect = Callable[[str, float], None]


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Answers each connection in a thread; yields where."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                answer(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = listening.accept()[0]
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


# ---- what is known -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (GET, "an HTTP request came"),
        (b"PRI * HTTP/2.0\r\n", "an HTTP request came"),
        (b"HTTP/1.1 200 OK\r\n", "an HTTP server answered"),
        (tls_hello(), "a TLS handshake came"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "a TLS server answered"),
        (b"\x16\x03\x03\x00\x7a\x02\x00", "a TLS server answered"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "an SSH server answered"),
        (b"220 mail.example ESMTP\r\n", "'220 mail.example ESMTP' came"),
        (b"\x1b[31mred\r\n", ""),
        (b"\x00\x00\x00\x01", ""),
    ],
)
def test_what_speaks(data: bytes, words: str) -> None:
    found = words_for(data)
    assert found.startswith(words)
    assert bool(found) == bool(words)
    assert found.isascii()
    assert found.isprintable()
    if words:
        channel = Channel()
        channel.feed(data)
        with pytest.raises(ProtocolError, match=r"came|answered"):
            channel.next_payload()


def test_a_later_message_is_not_taken_for_another_protocol() -> None:
    channel = Channel()
    channel.feed(Channel().frame(b"first") + GET)
    assert channel.next_payload() == b"first"
    with pytest.raises(ProtocolError, match="a message of 542393671 bytes came"):
        channel.next_payload()


# ---- a client at another server's port ---------------------------------------------------------


@both
def test_a_port_of_http(connect: Connect) -> None:
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    ) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{web.server_port}"
        with pytest.raises(ProtocolError) as caught:
            connect(place, LIMIT)
        web.shutdown()
    assert str(caught.value).startswith(f"{place} is no target: an HTTP server answered")


@both
def test_a_port_of_tls(connect: Connect) -> None:
    def handshake(connection: socket.socket) -> None:
        # Without a certificate: it ends in an alert.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).wrap_socket(connection, server_side=True)

    with server(handshake) as place, pytest.raises(ProtocolError) as caught:
        connect(place, LIMIT)
    assert str(caught.value).startswith(f"{place} is no target: a TLS server answered")


@both
def test_a_port_of_ssh(connect: Connect) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
        connection.recv(1)

    with server(greet) as place, pytest.raises(ProtocolError) as caught:
        connect(place, LIMIT)
    assert str(caught.value).startswith(f"{place} is no target: an SSH server answered")


@both
@pytest.mark.parametrize("timeout", [0.2, 5.0])
def test_a_port_that_is_silent(connect: Connect, timeout: float) -> None:
    ended = threading.Event()
    with server(lambda _: bool(ended.wait(LIMIT))) as place:
        try:
            with pytest.raises(rpma.WaitTimeoutError) as caught:
                connect(place, timeout)
        finally:
            ended.set()
    assert str(caught.value).startswith(f"{place} has taken the connection and said nothing")


@both
def test_a_port_that_closes(connect: Connect) -> None:
    with server(lambda _: None) as place, pytest.raises(TargetLost) as caught:
        connect(place, LIMIT)
    assert str(caught.value).startswith(f"{place} did not say hello: ")


@both
def test_the_port_of_metrics(connect: Connect) -> None:
    pytest.importorskip("prometheus_client")
    from rpma.cli.metrics import export

    target = rpma.Target(dram="1MiB", listen="127.0.0.1:0")
    with target, export(target, "127.0.0.1", 0) as port, pytest.raises(ProtocolError) as caught:
        connect(f"127.0.0.1:{port}", LIMIT)
    assert str(caught.value).startswith(f"127.0.0.1:{port} is no target: an HTTP server answered")


# ---- others at a target's port -----------------------------------------------------------------


def said_to(port: int, data: bytes) -> bytes:
    """All that is answered."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), LIMIT) as connection:
        connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(4096):
                answer += more
    return answer


@pytest.mark.parametrize(
    ("data", "words"), [(GET, "an HTTP request came"), (tls_hello(), "a TLS handshake came")]
)
def test_a_target_says_what_came(data: bytes, words: str, caplog: pytest.LogCaptureFixture) -> None:
    with rpma.Target(dram="1MiB", listen="127.0.0.1:0") as target:
        port = target.address.port
        assert port is not None
        assert words.encode() in said_to(port, data)
    assert any(f"has gone: {words}, but " in line for line in caplog.messages)


def test_the_port_of_metrics_says_what_came(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("prometheus_client")
    from rpma.cli.metrics import export

    caplog.set_level(logging.INFO, "rpma.serve")
    target = rpma.Target(dram="1MiB", listen="127.0.0.1:0")
    with target, export(target, "127.0.0.1", 0) as port:
        assert said_to(port, tls_hello()).startswith(b"HTTP/1.1 400")
    assert any("is none: a TLS handshake; metrics are served without" in m for m in caplog.messages)


# ---- tokens ------------------------------------------------------------------------------------


@both
def test_no_token_is_told_from_a_wrong_one(connect: Connect) -> None:
    with rpma.Target(dram="1MiB", listen="127.0.0.1:0", token="the token of it") as target:
        with pytest.raises(AuthenticationError, match=r"none was given: .*--token-file"):
            connect(str(target.address), LIMIT)
        with pytest.raises(AuthenticationError, match="the token is not this target's"):
            Client(target.address, token="another")
        with pytest.raises(AuthenticationError, match="asks for a token, and none was given"):
            connect(f"alice@{target.address}", LIMIT)


def test_a_token_is_not_shown_to_a_target_without_one() -> None:
    with (
        rpma.Target(dram="1MiB", listen="127.0.0.1:0") as target,
        pytest.raises(AuthenticationError, match="asks for no token, and one was given"),
    ):
        Client(target.address, token="another")
