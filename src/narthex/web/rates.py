"""Limits the rate of HTTP requests from one address, in front of every route of ours.

Not here: a user's own rate (`request_rules`). Rules: probes (`/livez`, `/readyz`) are never refused, because the
platform would restart a healthy process; routes of an embedding program are not limited; a refusal says when to retry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from narthex.app.rates import Rates
from narthex.domain.addresses import bucket
from narthex.domain.refusals import rate_limited
from narthex.web.paths import route_path
from narthex.web.problems import problem
from narthex.web.request_rules import RequestRules

ADDRESS_SHARE: Final = (
    10  # users behind one address, an office or a provider's NAT, at their full rate at once
)
NEVER_REFUSED: Final = frozenset({"/livez", "/readyz"})


class AddressRates:
    """ASGI middleware.

    Args:
        app: the application behind it.
        rates: by `bucket` of the address.
        rules: the client's address, and CORS for the refusal.
        foreign: routes of the embedding program, which have no limit here.
        refused: called at each refusal.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        rates: Rates,
        rules: RequestRules,
        foreign: Sequence[BaseRoute] = (),
        refused: Callable[[], None],
    ) -> None:
        self._app = app
        self._rates = rates
        self._rules = rules
        self._foreign = tuple(foreign)
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on, or answer 429."""
        if scope["type"] != "http" or route_path(scope) in NEVER_REFUSED or self._is_foreign(scope):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        wait_s = self._rates.take(bucket(self._rules.address(request)), time.monotonic())
        if not wait_s:
            await self._app(scope, receive, send)
            return
        self._refused()
        refusal = rate_limited(wait_s, "Too many requests from this address.")
        await problem(refusal, headers=self._rules.cors(request))(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._foreign)
