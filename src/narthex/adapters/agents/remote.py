"""HTTP to remote agents: one streamed POST, its faults as `AgentError`, and a check for health.

Rules: no redirect is followed (a secret would follow it); the secret is in the Authorization header only and in
no message; an endpoint's text about a refusal is for the operator and goes to the log, because it may repeat the
secret; the answer is read as it arrives and never held whole; the run's cancellation closes the connection.
"""

from __future__ import annotations

import functools
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import httpx2
import msgspec
import structlog

from narthex._version import __version__
from narthex.adapters.agents.sse import MAX_EVENT_BYTES, MESSAGE, EventReader, ServerEvent
from narthex.domain.endpoints import http_url
from narthex.errors import ConfigError, DependencyError
from narthex.ports.agents import AgentError
from narthex.ports.tracing import Attributes, Span, Value, current_span

CONNECT_S: Final = 10.0
CHECK_S: Final = 3.0
ITS_OPERATOR: Final = "If the problem persists, the operator finds the cause in the gateway's log."
_STREAMS: Final = frozenset(
    {"text/event-stream", "application/x-ndjson", "application/jsonl", "text/plain", ""}
)
"""Content types under which endpoints send events; the first line of an answer that holds none is an error's text."""
_LOGGED_BYTES: Final = 300  # of an error's body, for the person who set the endpoint up

log = structlog.get_logger("narthex.agents", log_name="narthex.agents")


def parse_url(url: str) -> SplitResult:
    """The parts of an agent's URL. Raises ConfigError, which never repeats a password."""
    parts = http_url(url)
    if parts is None or parts.username or parts.password:
        shown = f"{url.partition(':')[0]}://{parts.hostname if parts else '?'}"
        raise ConfigError([f"Agent {shown}: the URL needs a host, and no user or password."])
    return parts


class Endpoint:
    """A remote agent's URL and its secret.

    Args:
        spec: as configured, for messages.
        url: http or https, without user information.
        secret: bearer token, empty for none.
    """

    def __init__(self, spec: str, url: str, secret: str) -> None:
        parts = parse_url(url)
        self.spec = spec
        self.url = url
        self.shown = f"{parts.scheme}://{parts.netloc}"
        self._secret = secret
        self._tls = _tls()
        self._headers = {"User-Agent": f"narthex/{__version__}"}
        if secret:
            self._headers["Authorization"] = f"Bearer {secret}"

    def hide(self, text: str) -> str:
        """An endpoint's own words as people may read them: without the secret, should it quote it."""
        return text.replace(self._secret, "…") if self._secret else text

    async def stream(
        self, url: str, body: Any, deadline: float, span: Span, *, whole: bool = False
    ) -> AsyncIterator[ServerEvent]:
        """POST `body` as JSON; yield each server-sent event.

        Args:
            url: where.
            body: anything msgspec encodes.
            deadline: of the run, seconds since the epoch; a silent endpoint is not waited for longer.
            span: of the request: the endpoint gets its trace context; the caller ends it.
            whole: take an answer in JSON that is not streamed as one event.

        Raises:
            AgentError: `agent_unavailable`, or the stream's fault.
        """
        timeout = httpx2.Timeout(CONNECT_S, read=max(1.0, deadline - time.time()))
        headers = {**self._headers, "Content-Type": "application/json", "Accept": "text/event-stream"}
        if span.context is not None:
            headers |= span.context.headers()
        reader = EventReader()
        try:
            async with (
                httpx2.AsyncClient(
                    timeout=timeout, follow_redirects=False, trust_env=False, verify=self._tls
                ) as client,
                client.stream("POST", url, content=msgspec.json.encode(body), headers=headers) as answer,
            ):
                span.set({"http.response.status_code": answer.status_code})
                if answer.status_code != 200:
                    log.warning(
                        "agent_endpoint_refused",
                        endpoint=self.shown,
                        status=answer.status_code,
                        answer=await _beginning(answer),
                    )
                    raise AgentError(
                        f"This agent's server answered {answer.status_code}. {ITS_OPERATOR}",
                        "agent_unavailable",
                    )
                kind = answer.headers.get("content-type", "").partition(";")[0].strip()
                if whole and kind == "application/json":
                    yield ServerEvent(MESSAGE, await _whole(answer))
                    return
                if kind not in _STREAMS:
                    log.warning("agent_endpoint_odd", endpoint=self.shown, content_type=kind[:100])
                    raise AgentError(
                        f"This agent's server answered {kind[:60]} instead of text/event-stream. "
                        f"{ITS_OPERATOR}",
                        "agent_unavailable",
                    )
                async for chunk in answer.aiter_bytes():
                    for event in reader.feed(chunk):
                        yield event
                for event in reader.end():
                    yield event
        except httpx2.HTTPError as fault:
            # People read the sentence; where the endpoint is and what the library says are the operator's.
            log.warning(
                "agent_endpoint_failed", endpoint=self.shown, error=f"{type(fault).__name__}: {fault}"[:300]
            )
            raise AgentError(
                f"This agent's server cannot be reached, or the connection to it was lost. Try again. {ITS_OPERATOR}",
                "agent_unavailable",
            ) from fault

    def request_span(self, name: str, attributes: Attributes | None = None) -> Span:
        """The span of a request to this endpoint, below that of the agent."""
        parent = current_span()
        if not parent.recording:
            return parent.child(name)
        parts = urlsplit(self.url)
        found: dict[str, Value] = {
            "http.request.method": "POST",
            "url.full": f"{self.shown}{parts.path}",
            "server.address": parts.hostname or "",
        }
        if parts.port:
            found["server.port"] = parts.port
        return parent.child(name, kind="client", attributes=found | dict(attributes or {}))

    def check(self, url: str) -> Callable[[], Awaitable[None]]:
        """A health check: the endpoint answers anything but 5xx to a GET of `url`."""

        async def look() -> None:
            try:
                async with (
                    httpx2.AsyncClient(timeout=CHECK_S, trust_env=False, verify=self._tls) as client,
                    # Its body may be a stream without end.
                    client.stream("GET", url, headers=self._headers) as answer,
                ):
                    status = answer.status_code
            except httpx2.HTTPError as fault:
                raise DependencyError(
                    "agents", f"{self.shown} cannot be reached: {type(fault).__name__}.", "Start it."
                ) from fault
            if status >= 500:
                raise DependencyError("agents", f"{self.shown} answers {status}.", "Check its log.")

        return look


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once, at start: it reads every authority's certificate, which holds the event loop for 30 ms."""
    return httpx2.create_ssl_context(trust_env=False)


async def _whole(answer: httpx2.Response) -> str:
    body = b""
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) > MAX_EVENT_BYTES:
            raise AgentError("The agent's endpoint sent an answer of more than 1 MB.", "agent_flood")
    return body.decode("utf-8-sig", "replace")


async def _beginning(answer: httpx2.Response) -> str:
    body = b""
    async for chunk in answer.aiter_bytes():
        body += chunk
        if len(body) >= _LOGGED_BYTES:
            break
    return " ".join(body[:_LOGGED_BYTES].decode("utf-8", "replace").split())
