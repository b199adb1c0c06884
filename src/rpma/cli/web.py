# SPDX-License-Identifier: BSD-3-Clause
"""A page over HTTP, for whoever asks: in one event loop, each with a deadline, and not too many."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import h11

from rpma.pool.protocol.address import numeric_host
from rpma.pool.protocol.words import plain
from rpma.pool.target.sparing import Sparing
from rpma.pool.target.strangers import Strangers

REQUEST_TIMEOUT: Final = 5.0
"""How long a request may take to come, all of it, in seconds."""

ANSWER_TIMEOUT: Final = 10.0
"""How long the answer may take to be made, and to be read, in seconds."""

MOST_HEADER: Final = 8 << 10
"""The longest request that is read, in bytes."""

PATHS: Final = ("/", "/metrics")

#: Given whether OpenMetrics is understood: the type of what there is, and that.
Page = Callable[[bool], tuple[str, bytes]]


class PageServer:
    """Serves what `page` makes; made for all who ask while it is being made."""

    def __init__(self, page: Page, log: logging.Logger) -> None:
        """`page` may block, in a thread."""
        self._page, self._log = page, log
        self._visitors: Strangers[asyncio.StreamWriter] = Strangers()
        self._making: dict[bool, asyncio.Future[tuple[str, bytes]]] = {}
        self._maker = ThreadPoolExecutor(1, "rpma-metrics-page")
        self._sparing: Sparing
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._started = threading.Event()

    @contextlib.contextmanager
    def serving(self, *listening: socket.socket) -> Iterator[None]:
        """Serve on sockets for a while, in a thread."""
        thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(*listening)), name="rpma-metrics", daemon=True
        )
        thread.start()
        self._started.wait()
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()
            self._maker.shutdown()

    async def _serve(self, *listening: socket.socket) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._sparing = Sparing(self._log, self._loop)
        try:
            servers = [
                await asyncio.start_server(self._come, sock=one, limit=MOST_HEADER)
                for one in listening
            ]
        finally:
            self._started.set()
        await self._stop.wait()
        for server in servers:
            server.close()  # the end of the loop ends those who are served
        await asyncio.gather(*self._making.values(), return_exceptions=True)
        self._sparing.sum_up()

    async def _come(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        address = numeric_host(peer) if peer else None
        other = self._visitors.come(writer, address)
        if other is not None:
            other.transport.abort()
        try:
            await self._answer(reader, writer, address)
        except (OSError, asyncio.TimeoutError):
            pass
        except Exception as error:
            self._sparing(logging.ERROR, "metrics have failed", "no metrics: %r", error)
        finally:
            self._visitors.leave(writer)
            writer.transport.abort()  # if it has not ended in order

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str | None
    ) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_HEADER)
        status, kind, body = 200, "text/plain; charset=utf-8", b""
        request = None
        try:
            request = await asyncio.wait_for(_request(reader, connection), REQUEST_TIMEOUT)
            if request is None:
                return
            if request.method not in (b"GET", b"HEAD"):
                status = 405
            elif request.target.partition(b"?")[0].decode("latin-1") not in PATHS:
                status, body = 404, b"metrics are at /metrics\n"
            else:
                is_openmetrics = b"application/openmetrics-text" in dict(request.headers).get(
                    b"accept", b""
                )
                kind, body = await asyncio.wait_for(self._made(is_openmetrics), ANSWER_TIMEOUT)
        except asyncio.TimeoutError:
            if request is None:
                self._refused(address, "nothing in time; pool clients come in at --listen's port")
            raise
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            began, _ = connection.trailing_data
            is_tls = began.startswith(b"\x16\x03")
            words = "a TLS handshake; metrics are served without TLS" if is_tls else ""
            self._refused(address, words or plain(str(error)))
        headers = [
            ("content-type", kind),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        events: list[h11.Event] = [h11.Response(status_code=status, headers=headers)]
        if request is None or request.method != b"HEAD":
            events.append(h11.Data(data=body))
        for event in (*events, h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        writer.close()
        await asyncio.wait_for(writer.wait_closed(), ANSWER_TIMEOUT)

    def _refused(self, address: str | None, words: str) -> None:
        self._sparing(
            logging.INFO,
            "requests for metrics that are none",
            "a request for metrics from %s is none: %s",
            address,
            words,
        )

    async def _made(self, is_openmetrics: bool) -> tuple[str, bytes]:
        making = self._making.get(is_openmetrics)
        if making is None or making.done():
            making = self._loop.run_in_executor(self._maker, self._page, is_openmetrics)
            self._making[is_openmetrics] = making
        return await asyncio.shield(making)


async def _request(reader: asyncio.StreamReader, connection: h11.Connection) -> h11.Request | None:
    """The request; None: there is none."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await reader.read(MOST_HEADER))
