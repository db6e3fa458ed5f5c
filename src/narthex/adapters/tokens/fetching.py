"""Fetching small JSON documents from configured addresses only: bounded in size and time, never redirected.

Rules: an address comes from settings or from a configured issuer's discovery document, never from a token;
faults become `DependencyError` when the other side is away or broken (the breaker counts those) and
`DocumentFault` when it answered something that is of no use (the breaker does not).
"""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import TYPE_CHECKING, Any, Final

from narthex.errors import DependencyError, NarthexError

if TYPE_CHECKING:  # imported where it is used: most gateways never fetch, and it costs a start 60 ms
    import httpx2

FETCH_TIMEOUT_S: Final = 5.0  # of the whole exchange; clients wait less (`jwks.CLIENT_WAIT_S`)
CONNECT_TIMEOUT_S: Final = 2.0
MAX_DOCUMENT_BYTES: Final = 256 * 1024  # a hundred RSA keys are about 60 KB


class DocumentFault(NarthexError):
    """The server answered with something else than the requested document: its configuration must be checked."""

    def __init__(self, message: str) -> None:
        super().__init__("issuer_misconfigured", message, "Check the address in the settings.")


class Fetcher:
    """One HTTP client for all issuers, made on first use.

    Args:
        timeout_s: of one whole exchange.
        tls: trust settings; None takes the system's.
    """

    def __init__(self, *, timeout_s: float = FETCH_TIMEOUT_S, tls: ssl.SSLContext | None = None) -> None:
        self._timeout_s = timeout_s
        self._tls = tls
        self._client: httpx2.AsyncClient | None = None

    def _ready(self) -> httpx2.AsyncClient:
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(
                follow_redirects=False,
                timeout=httpx2.Timeout(self._timeout_s, connect=min(CONNECT_TIMEOUT_S, self._timeout_s)),
                limits=httpx2.Limits(max_connections=20, max_keepalive_connections=5),
                # compressed bodies are not asked for, so that the cap on bytes is a cap on memory
                headers={
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": "narthex",
                },
                verify=self._tls if self._tls is not None else True,
            )
        return self._client

    async def stop(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get_json(self, url: str) -> tuple[Any, str]:
        """Fetch a JSON document.

        Returns:
            The document and the answer's `Cache-Control`.

        Raises:
            DependencyError: no answer in time, a transport error, 429 or 5xx.
            DocumentFault: any other status than 200, a redirect, too large, no JSON.
        """
        import httpx2

        return await self._exchange(httpx2.Request("GET", url), None)

    async def post_form(self, url: str, fields: dict[str, str], auth: tuple[str, str] | None) -> Any:
        """Post a form, with Basic credentials if given; the JSON answer. Raises as `get_json`."""
        import httpx2

        return (await self._exchange(httpx2.Request("POST", url, data=fields), auth))[0]

    async def _exchange(self, request: httpx2.Request, auth: tuple[str, str] | None) -> tuple[Any, str]:
        import httpx2

        host = request.url.host
        try:
            async with asyncio.timeout(self._timeout_s):
                status, headers, body = await self._raw(request, auth)
        except TimeoutError as error:
            raise DependencyError("auth", f"{host} did not answer within {self._timeout_s:g} s.") from error
        except httpx2.InvalidURL as error:
            raise DocumentFault("The address is not a URL.") from error
        except (httpx2.HTTPError, ssl.SSLError, OSError) as error:
            # the library's own text may hold the whole URL; its kind says enough
            raise DependencyError("auth", f"{host} cannot be reached ({type(error).__name__}).") from error
        if status >= 500 or status == 429:
            raise DependencyError("auth", f"{host} answered {status}.")
        if status != 200:
            where = " (redirects are not followed)" if 300 <= status < 400 else ""
            raise DocumentFault(f"{host} answered {status}{where}.")
        try:
            return json.loads(body), headers.get("cache-control", "")
        except (ValueError, RecursionError) as error:
            raise DocumentFault(f"{host} did not answer with JSON.") from error

    async def _raw(
        self, request: httpx2.Request, auth: tuple[str, str] | None
    ) -> tuple[int, httpx2.Headers, bytes]:
        client = self._ready()
        prepared = client.build_request(
            request.method, request.url, content=request.content, headers=request.headers
        )
        response = await client.send(prepared, stream=True, auth=auth)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise DocumentFault(f"{request.url.host} sent compressed data unasked.")
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise DocumentFault(f"{request.url.host} answered more than {MAX_DOCUMENT_BYTES} bytes.")
            return response.status_code, response.headers, bytes(body)
        finally:
            await response.aclose()
