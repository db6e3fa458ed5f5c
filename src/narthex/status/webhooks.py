"""Sends events of the status page to the operator's receivers, signed as Standard Webhooks define it.

    webhook-id: msg_…            the same at every try, so that a receiver handles an event once
    webhook-timestamp: …         of this try
    webhook-signature: v1,…      HMAC-SHA256 over id.timestamp.body, one for each live secret

Not here: the queue (`records`), the events (`service`). Rules: an address comes from the settings and from nowhere
else; it is never redirected, and of an answer only the status counts; a receiver that is away is tried again for three
days and holds up no other.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from narthex._version import __version__
from narthex.domain.webhooks import WebhookReceiver, sign
from narthex.status import records
from narthex.status.database import StatusDatabase

if TYPE_CHECKING:  # imported where it is used: most gateways send none, and it costs a start 60 ms
    import httpx2

TIMEOUT_S: Final = 15.0  # as the specification recommends, 15 to 30 s
CONNECT_S: Final = 5.0
LEASE_S: Final = 60.0
AT_ONCE: Final = 10
RETRIES_S: Final = (5.0, 300.0, 1_800.0, 7_200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Waits before each further try; 75 h in all."""


class WebhookSender:
    """Sends what is due; see the module.

    Args:
        database: has the queue.
        receivers: of the settings.
        now: seconds since the epoch.
        log: a structlog logger: gets each failure, without the receiver's path and query.
        retries_s: waits before further tries.
    """

    def __init__(
        self,
        database: StatusDatabase,
        receivers: Sequence[WebhookReceiver],
        now: Callable[[], float],
        log: Any,
        *,
        retries_s: Sequence[float] = RETRIES_S,
    ) -> None:
        self._database = database
        self._receivers = {one.url: one for one in receivers}
        self._now = now
        self._log = log
        self._retries_s = tuple(retries_s)
        self._client: httpx2.AsyncClient | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """The receivers' addresses."""
        return tuple(self._receivers)

    async def stop(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def send_due(self) -> int:
        """Send the deliveries that are due, at the same time. Returns their number. Raises DependencyError."""
        if not self._receivers:
            return 0
        due = await self._database.run(
            lambda connection: records.claim_deliveries(connection, self._now(), LEASE_S, AT_ONCE)
        )
        await asyncio.gather(*map(self._deliver, due))
        return len(due)

    async def _deliver(self, delivery: records.WebhookDelivery) -> None:
        receiver = self._receivers.get(delivery.url)
        error = "no longer configured" if receiver is None else await self._post(receiver, delivery)
        next_at = None
        if error and receiver is not None and delivery.attempts < len(self._retries_s):
            wait_s = self._retries_s[delivery.attempts]
            next_at = self._now() + wait_s * random.uniform(0.9, 1.1)  # noqa: S311 - jitter guards nothing
        await self._database.run(
            lambda connection: records.settle_delivery(connection, delivery.seq, error, next_at)
        )

    async def _post(self, receiver: WebhookReceiver, delivery: records.WebhookDelivery) -> str:
        """Send; returns the failure, empty when the receiver took it."""
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(
                follow_redirects=False,
                trust_env=False,
                timeout=httpx2.Timeout(TIMEOUT_S, connect=CONNECT_S),
                limits=httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=2),
            )
        timestamp = int(self._now())
        signatures = " ".join(
            sign(key, delivery.message_id, timestamp, delivery.body) for key in receiver.secrets
        )
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"narthex/{__version__}",
            "webhook-id": delivery.message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signatures,
        }
        try:
            async with asyncio.timeout(TIMEOUT_S):
                request = self._client.build_request(
                    "POST", receiver.url, content=delivery.body, headers=headers
                )
                answer = await self._client.send(request, stream=True)
                await answer.aclose()  # of the body nothing is read
            error = "" if 200 <= answer.status_code < 300 else f"HTTP {answer.status_code}"
        except TimeoutError:
            error = f"no answer within {TIMEOUT_S:g} s"
        except (httpx2.HTTPError, OSError) as fault:
            error = type(fault).__name__
        if error:
            host = httpx2.URL(receiver.url).host
            self._log.warning(
                "webhook", receiver=host, error=error, attempt=delivery.attempts + 1, id=delivery.message_id
            )
        return error
