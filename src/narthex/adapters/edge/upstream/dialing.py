"""Opens the handshake with the upstream: connects, sends the head, reads the answer.

Not here: the head and the check of the answer (`heads`), what follows a 101 (`relay`). Rules: one deadline bounds all
of it; a cancelled handshake leaves no connection; the fault says which of the four it was: the upstream refused the
connection, it is slow, it went away, or its answer is no HTTP.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final, cast

import httptools

from narthex.adapters.edge.head import header
from narthex.adapters.edge.responses import Headers
from narthex.adapters.edge.upstream.heads import HeadAnswer
from narthex.domain.refusals import Refusal

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_BODY_BYTES: Final = 1024 * 1024
"""Of an upstream's refusal, which is kept whole: an error page, not a download."""
RETRY_AFTER_S: Final = 1
_LENGTHS: Final = frozenset({"content-length", "transfer-encoding"})


class UpstreamFault(Exception):
    """The upstream gave no answer that can be passed on; `refusal` is the client's."""

    def __init__(self, code: str, detail: str, log_detail: str = "") -> None:
        super().__init__(detail)
        self.refusal = Refusal(code=code, detail=detail, retry_after_s=RETRY_AFTER_S, log_detail=log_detail)


class Upstream:
    """The address of the server behind.

    Args:
        host: name or address.
        port: its port.
        tls: of `wss://` and `https://`; None for plain TCP.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.host = host
        self.port = port
        self.tls = tls

    async def handshake(
        self, request: bytes, *, within_s: float
    ) -> tuple[HeadAnswer, asyncio.Transport | None]:
        """Send a handshake.

        Args:
            request: the whole head.
            within_s: the deadline of everything.

        Returns:
            The answer; with a 101 its connection, whose reading is paused and whose protocol the caller sets.

        Raises:
            UpstreamFault: see the module.
        """
        protocol: _Handshake | None = None
        try:
            async with asyncio.timeout(within_s):
                protocol = await self._connect()
                protocol.transport.write(request)
                return await protocol.answer
        except TimeoutError:
            waited = "did not answer the handshake" if protocol is not None else "did not take the connection"
            raise UpstreamFault("upstream_timeout", f"It {waited} within {within_s:.1f} s.") from None
        except OSError as error:
            unresolved = isinstance(error, socket.gaierror)
            detail = "Its name does not resolve." if unresolved else "It refuses connections."
            raise UpstreamFault("upstream_refused", detail, str(error)) from error
        finally:
            if protocol is not None:
                protocol.leave()

    async def _connect(self) -> _Handshake:
        loop = asyncio.get_running_loop()
        name = self.host if self.tls is not None else None
        _, protocol = await loop.create_connection(
            _Handshake, self.host, self.port, ssl=self.tls, server_hostname=name
        )
        return protocol


class _Handshake(asyncio.Protocol):
    """Reads one answer. Attribute `answer`: the result, or an `UpstreamFault`."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.answer: asyncio.Future[tuple[HeadAnswer, asyncio.Transport | None]] = (
            asyncio.get_running_loop().create_future()
        )
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._head_complete = False
        self._body = bytearray()
        self._read = 0

    def leave(self) -> None:
        """The caller waits no longer: keep the connection only if it was handed over."""
        handed = not self.answer.cancelled() and self.answer.done() and self.answer.exception() is None
        if not (handed and self.answer.result()[1] is not None):
            self.answer.cancel()
            self.transport.abort()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """A piece of the answer."""
        if self.answer.done():
            return
        self._read += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self.answer.done():
                self.transport.pause_reading()
                answer = HeadAnswer(
                    self._parser.get_status_code(), self._headers, rest=data[int(upgrade.args[0]) :]
                )
                self.answer.set_result((answer, self.transport))
        except httptools.HttpParserError:
            self._fail("upstream_invalid", "Its answer is no HTTP.")
        if self._read > MAX_HEAD_BYTES + MAX_BODY_BYTES:
            self._fail("upstream_invalid", "Its answer is too large.")

    def eof_received(self) -> bool:
        """The upstream's FIN: the end of an answer without a length, else it went away."""
        if self._head_complete and not {name for name, _ in self._headers} & _LENGTHS:
            self.on_message_complete()
        self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection broke."""
        del exc
        self._gone()

    # llhttp's callbacks.

    def on_message_begin(self) -> None:
        """A first or, behind an interim answer, a next status line."""
        self._headers = []
        self._head_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line."""
        self._headers.append(header(name, value))

    def on_headers_complete(self) -> None:
        """The empty line."""
        self._head_complete = True

    def on_body(self, body: bytes) -> None:
        """A piece of a refusal's body."""
        self._body += body

    def on_message_complete(self) -> None:
        """The whole answer; interim answers (1xx) other than 101 are not the last one."""
        status = self._parser.get_status_code()
        if status >= 200 and not self.answer.done():
            self.answer.set_result((HeadAnswer(status, self._headers, bytes(self._body)), None))

    def _gone(self) -> None:
        self._fail("upstream_gone", "It closed the connection before it answered the handshake.")

    def _fail(self, code: str, detail: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(UpstreamFault(code, detail))
