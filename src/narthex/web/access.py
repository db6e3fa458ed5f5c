"""Who may use the server API: the operator's admin key, or a service's token with the permission `admin`.

Not here: verifying tokens (the front door's). Rules: the admin key sees every tenant, a token only its own;
a wrong key is refused like any wrong credential and slows its address down.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from starlette.requests import Request

from narthex.app.attempts import Attempts
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.domain.secrets import any_equal

Person = Callable[[Request], Awaitable[Identity | Refusal]]


class Operator(NamedTuple):
    """An authorised caller: `tenant` is the only one it may touch, None: any."""

    tenant: str | None
    name: str


class Access:
    """See the module.

    Args:
        admin_keys: live keys; none: only tokens count.
        person: whose token or cookie a request brings.
        address: the client's address of a request.
        now: seconds.
    """

    def __init__(
        self,
        admin_keys: Sequence[str],
        person: Person,
        address: Callable[[Request], str],
        now: Callable[[], float],
    ) -> None:
        self._keys = tuple(admin_keys)
        self._person = person
        self._address = address
        self._now = now
        self._wrong = Attempts(10, 60)  # as for end-to-end keys: nobody mistypes a key ten times a minute

    async def person(self, request: Request) -> Identity | Refusal:
        """The signed-in person of a request."""
        return await self._person(request)

    async def operator(self, request: Request) -> Operator | Refusal:
        """The operator of a request, or why not."""
        address, now = self._address(request), self._now()
        wait_s = self._wrong.wait_s(address, now)
        if wait_s > 0:
            return Refusal(code="rate_limited", retry_after_s=max(1, round(wait_s)))
        scheme, _, sent = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and "." not in sent:  # a JWT has dots, an admin key none
            if self._keys and any_equal(sent.strip(), self._keys):
                return Operator(None, "admin key")
            self._wrong.failed(address, now)
            return Refusal(
                code="token_invalid", detail="The admin key is wrong.", carriers_checked=("authorization",)
            )
        found = await self._person(request)
        if isinstance(found, Refusal):
            return found
        if not found.may("admin"):
            return Refusal(code="permission_denied", detail="The permission `admin` is needed.")
        return Operator(found.tenant, found.subject)
