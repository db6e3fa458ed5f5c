"""Sends samples to a status service over HTTP: those of a gateway with NARTHEX_STATUS_URL, those of `narthex probe`.

Not here: making samples (`sampling`, `cli/probe.py`). Rules: the address comes from the operator and is not
redirected, because a token goes with it; while the service does not answer, the newest ten minutes of samples wait
here, with the moment of each, and are sent later.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from narthex.errors import DependencyError
from narthex.status.measurements import LATE_S, Sample

if TYPE_CHECKING:  # imported where it is used: it costs a start 60 ms
    import httpx2

TIMEOUT_S: Final = 5.0
MAX_WAITING: Final = 5_000  # samples: more than ten minutes of a gateway's, eight every 2 s
AT_ONCE: Final = 500
PATH: Final = "/api/v1/status/samples"


class SampleReporter:
    """See the module; `record` fits `sampling.Record`.

    Args:
        url: of the status service.
        tokens: NARTHEX_STATUS_TOKEN of that service, or its admin key; the first counts, and may be renewed.
        now: seconds since the epoch.
    """

    def __init__(self, url: str, tokens: Sequence[str], now: Callable[[], float] = time.time) -> None:
        self._url = url.rstrip("/") + PATH
        self._tokens = tokens
        self._now = now
        self._waiting: deque[Sample] = deque(maxlen=MAX_WAITING)
        self._client: httpx2.AsyncClient | None = None

    @property
    def waiting(self) -> int:
        """The samples that wait."""
        return len(self._waiting)

    async def stop(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def record(self, samples: Sequence[Sample]) -> None:
        """Send these samples and those that wait. Raises DependencyError: they wait for the next call."""
        now = self._now()
        self._waiting.extend(msgspec.structs.replace(one, at=one.at or now) for one in samples)
        while self._waiting and self._waiting[0].at < now - LATE_S:
            self._waiting.popleft()
        while self._waiting:
            batch = [self._waiting[at] for at in range(min(AT_ONCE, len(self._waiting)))]
            await self._post(msgspec.json.encode({"samples": batch}))
            for _ in batch:
                self._waiting.popleft()

    async def _post(self, body: bytes) -> None:
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False)
        headers = {"Authorization": f"Bearer {self._tokens[0]}", "Content-Type": "application/json"}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._client.post(self._url, content=body, headers=headers)
        except (TimeoutError, httpx2.HTTPError, httpx2.InvalidURL, OSError) as fault:
            raise DependencyError(
                "status",
                f"The status service at {self._url} cannot be reached ({type(fault).__name__}).",
                "Start narthex status serve there, or correct the address.",
            ) from fault
        if answer.status_code != 200:
            raise DependencyError(
                "status",
                f"The status service at {self._url} answered {answer.status_code}{_detail(answer)}.",
                "Check NARTHEX_STATUS_TOKEN on both sides."
                if answer.status_code in (401, 403)
                else "See its log.",
            )


def _detail(answer: Any) -> str:
    try:
        return f": {answer.json()['detail'].rstrip('.')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
