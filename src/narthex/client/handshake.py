"""Prepares the headers of each connection attempt, and finds the reason of a failed one.

Not here: the connection itself (`gateway`). centrifuge-python retries a refused handshake for ever and reports only
that the transport closed; this module reads the refusal from the failed attempt, or asks `/ws/preflight`, which checks
the same credentials on the same code path. Rules: the token is sent in the `Authorization` header, never in the URL;
each attempt gets a fresh one; every wait is bounded.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from inspect import isawaitable
from urllib.parse import urlsplit, urlunsplit

import httpx2
from centrifuge import UnauthorizedError
from websockets.exceptions import InvalidStatus

from narthex.client.refusals import Refused, SignedOut, from_problem
from narthex.domain.endpoints import prefix_of


class TokenFailed(Exception):
    """`get_token` raised or took too long, so the gateway is not the cause. `__cause__` has the error."""


TokenSource = Callable[[], str | Awaitable[str | None] | None]
"""Returns a token for the next attempt, plain or awaited; `""` or None: no token. `SignedOut` ends the retries."""


class AttemptHeaders:
    """The headers of each attempt. The SDK keeps a reference to `headers`, so that a new token reaches it there."""

    def __init__(self, get_token: TokenSource | None, headers: Mapping[str, str], timeout_s: float) -> None:
        # Never empty: the SDK replaces an empty dict with its own.
        self.headers: dict[str, str] = {"User-Agent": "narthex-client", **headers}
        self.signed_out: str | None = None
        self._get_token = get_token
        self._timeout_s = timeout_s

    async def fresh(self) -> str:
        """Fetch a token and put it into the headers; the SDK calls this before each attempt and each refresh.

        Raises:
            UnauthorizedError: no user is signed in (the SDK stops then).
            TokenFailed: the source raised or took too long (the SDK tries again).
        """
        token = ""
        if self._get_token is not None:
            try:
                async with asyncio.timeout(self._timeout_s):
                    given = self._get_token()
                    token = (await given if isawaitable(given) else given) or ""
            except SignedOut as fault:
                self.signed_out = str(fault) or "No user is signed in."
                raise UnauthorizedError(self.signed_out) from fault
            except TimeoutError as fault:
                raise TokenFailed(f"get_token gave no token within {self._timeout_s:g} s") from fault
            except Exception as fault:
                raise TokenFailed(f"get_token raised {type(fault).__name__}: {fault}") from fault
        if token:
            self.headers["Authorization"] = f"Bearer {token}"
        elif self._get_token is not None:
            self.headers.pop("Authorization", None)
        return token


def preflight_url(url: str) -> str:
    """`/ws/preflight` beside a WebSocket endpoint."""
    parts = urlsplit(url)
    scheme = {"wss": "https", "ws": "http"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, prefix_of(parts.path) + "/ws/preflight", "", ""))


@dataclass(eq=False)
class PreflightClient:
    """Gets the gateway's verdict without an upgrade."""

    url: str
    headers: Mapping[str, str]
    timeout_s: float
    tls: ssl.SSLContext | None
    use_proxy: bool

    async def ask(self) -> Refused | bool:
        """The refusal; True: it would admit; False: unknown (no answer, or not a gateway's)."""
        # A TLS context costs some 50 ms of CPU, so plain HTTP gets none.
        verify: ssl.SSLContext | bool = self.tls if self.tls is not None else self.url.startswith("https")
        try:
            async with httpx2.AsyncClient(
                verify=verify, trust_env=self.use_proxy, timeout=self.timeout_s
            ) as client:
                answer = await client.get(self.url, headers=dict(self.headers))
        except (httpx2.HTTPError, OSError, ssl.SSLError):
            return False
        if answer.is_success:
            return True
        return from_problem(answer.status_code, answer.content, answer.headers.get("Retry-After")) or False


async def reason_of(error: Exception, preflight: PreflightClient) -> Refused | None:
    """The reason why an attempt failed.

    Args:
        error: the SDK's error.
        preflight: asked when the answer itself does not give the reason.

    Returns:
        The refusal; `handshake_blocked` (not final: a proxy may be repaired) when preflight admits although the
        upgrade failed; None when the reason is unknown.
    """
    if not isinstance(error, InvalidStatus):
        # Without the token, preflight would check an attempt without a credential, which is another case.
        if isinstance(error, OSError | TimeoutError | asyncio.TimeoutError | TokenFailed):
            return None
        verdict = await preflight.ask()
        return _blocked(0) if verdict is True else verdict or None
    response = error.response
    body = bytes(response.body or b"")
    said = from_problem(response.status_code, body, response.headers.get("Retry-After"))
    if said is not None:
        return said
    verdict = await preflight.ask()
    return _blocked(response.status_code) if verdict is True else verdict or None


def _blocked(status: int) -> Refused:
    seen = f" (HTTP {status})" if status else ""
    return Refused(
        "handshake_blocked",
        f"The gateway would accept this credential, but the WebSocket upgrade does not reach it{seen}.",
        "Configure the proxy to forward `Upgrade` and `Connection`; `narthex doctor URL` names the proxy.",
        status=status,
        close=1006,
    )
