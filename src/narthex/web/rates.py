"""Limits the rate of HTTP requests from one address, in front of every route of ours.

Not here: a user's own rate (`request_rules`). Rules: probes (`/livez`, `/readyz`) are never refused, because the
platform would restart a healthy process; routes of an embedding program are not limited; a refusal says when to retry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from narthex.app.rates import Rates
from narthex.domain.addresses import bucket
from narthex.domain.refusals import Refusal
from narthex.web.problems import problem

ADDRESS_SHARE: Final = (
    10  # users behind one address, an office or a provider's NAT, at their full rate at once
)
NEVER_REFUSED: Final = frozenset({"/livez", "/readyz"})


class AddressRates:
    """ASGI middleware.

    Args:
        app: the application behind it.
        rates: by `bucket` of the address.
        address: returns the client's address of a request.
        foreign: routes of the embedding program, which have no limit here.
        cors: returns the headers by which a page may read the refusal.
        refused: called at each refusal.
        now: returns seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rates: Rates,
        address: Callable[[Request], str],
        foreign: Sequence[BaseRoute] = (),
        cors: Callable[[Request], Mapping[str, str]] = lambda _: {},
        refused: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._rates = rates
        self._address = address
        self._foreign = tuple(foreign)
        self._cors = cors
        self._refused = refused
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or answer 429."""
        if scope["type"] != "http" or scope["path"] in NEVER_REFUSED or self._is_foreign(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        wait_s = self._rates.take(bucket(self._address(request)), self._now())
        if not wait_s:
            await self._app(scope, receive, send)
            return
        self._refused()
        refusal = Refusal(
            code="rate_limited", detail="Too many requests from this address.", retry_after_s=wait_s
        )
        await problem(refusal, headers=dict(self._cors(request)))(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._foreign)
