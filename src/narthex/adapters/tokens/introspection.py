"""RFC 7662: verifies opaque tokens by asking their issuer, and caches positive answers for a moment.

Rules: a positive answer is kept until the token's `exp`, at most `POSITIVE_S`, under the token's hash, in bounded
memory; a negative one is never kept (a token may become active) and is final for the client; no answer is
`Unavailable`; a secret of narthex's own is never sent to the issuer.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

from narthex.adapters.tokens.claims import ClaimRules, identity_from
from narthex.adapters.tokens.fetching import DocumentFault, Fetcher
from narthex.adapters.tokens.jwks import CLIENT_WAIT_S
from narthex.app.buffers import buffer_readings
from narthex.domain.identity import Identity
from narthex.domain.secrets import fingerprint
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.errors import DependencyError, NarthexError
from narthex.ports.breaker import Breakers
from narthex.ports.later import Later
from narthex.ports.telemetry import Reading
from narthex.ports.tokens import MAX_TOKEN_BYTES, VerifierStatus

POSITIVE_S: Final = 10.0  # how long a revocation at the issuer may go unnoticed here
MAX_KEPT: Final = 10_000  # about 10 MB; the oldest go first
MAX_AT_ONCE: Final = 64  # questions under way; further ones get `Unavailable`
ANSWER_COUNTS_S: Final = 30.0  # for health: younger than that, an answer need not be asked for again
PROBE_TOKEN: Final = "narthex-health-probe"  # noqa: S105 - a token of no user
NO_EXPIRY_LIFE_S: Final = 300.0  # an answer without `exp` (it is optional) admits for so long


class Introspection:
    """An `OpaqueSource`.

    Args:
        name: for breakers, health and logs.
        url: the introspection end point.
        client: id and secret, sent as Basic credentials.
        rules: of the answer's claims.
        fetcher: shared HTTP client.
        breakers: by traffic class.
        on_fault: told why an answer was of no use; for the log.
        withheld: recognises our own secrets: a client may send one, or mistype one, where a token belongs.
    """

    def __init__(
        self,
        name: str,
        url: str,
        client: tuple[str, str],
        rules: ClaimRules,
        *,
        fetcher: Fetcher,
        breakers: Breakers,
        on_fault: Callable[[str, NarthexError], None] = lambda _name, _fault: None,
        withheld: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._withheld = withheld
        self._name = name
        self._url = url
        self._client = client
        self._rules = rules
        self._fetcher = fetcher
        self._breakers = breakers
        self._on_fault = on_fault
        self._kept: OrderedDict[str, tuple[float, Identity]] = OrderedDict()
        self._asking = 0
        self._fault = ""
        self._latency_s = 0.0
        self._answered_at = -ANSWER_COUNTS_S

    def readings(self) -> Iterable[Reading]:
        """The fill and the limits of what it remembers and of the requests under way."""
        return buffer_readings(
            [
                ("introspection_cache", self._kept.__len__, MAX_KEPT),
                ("introspections", lambda: self._asking, MAX_AT_ONCE),
            ]
        )

    @property
    def dependency(self) -> str:
        """The breaker's name."""
        return f"introspection:{self._name}"

    def verify(self, token: str, *, now: float, traffic: str) -> Later[Verdict]:
        """At once from memory, else by asking."""
        if len(token) > MAX_TOKEN_BYTES:
            return Rejected("token_malformed", f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
        if not token or not token.isascii() or not token.isprintable():
            return Rejected("token_malformed", "It contains characters that tokens cannot have.")
        key = fingerprint(token)
        until, identity = self._kept.get(key, (0.0, None))
        if identity is not None and until > now:
            return Valid(identity)
        if self._withheld(token):
            return Rejected("token_invalid")
        return self._ask(token, key, now, traffic)

    async def _ask(self, token: str, key: str, now: float, traffic: str) -> Verdict:
        if self._asking >= MAX_AT_ONCE:
            return Unavailable(f"{self._name}: {MAX_AT_ONCE} requests are in progress, the limit", 1)
        self._asking += 1
        try:
            answer = await self._breakers.get(self.dependency, traffic).call(lambda: self._question(token))
        except (DependencyError, DocumentFault) as error:
            return self._unavailable(error)
        finally:
            self._asking -= 1
        self._fault = ""
        return self._read(answer, key, now)

    async def _question(self, token: str) -> Any:
        """Time-outs are raised inside the breaker's call, so that it sees them."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(CLIENT_WAIT_S):
                fields = {"token": token, "token_type_hint": "access_token"}
                answer = await self._fetcher.post_form(self._url, fields, self._client)
        except TimeoutError as error:
            raise DependencyError("auth", f"no answer within {CLIENT_WAIT_S:g} s") from error
        self._answered_at = time.monotonic()
        self._latency_s = self._answered_at - began
        return answer

    def _unavailable(self, error: DependencyError | DocumentFault) -> Unavailable:
        self._fault = error.message
        self._on_fault(self._name, error)
        retry_s = error.retry_after_s if isinstance(error, DependencyError) else 5.0
        return Unavailable(f"{self._name}: {error.message}", max(1, round(retry_s)))

    def _read(self, answer: object, key: str, now: float) -> Verdict:
        if not isinstance(answer, dict) or not isinstance(answer.get("active"), bool):
            return self._unavailable(DocumentFault("The issuer's answer has no boolean `active`."))
        if not answer["active"]:
            self._kept.pop(key, None)
            return Rejected("token_invalid", "Its issuer reports that it is not active.")
        claims = {name: value for name, value in answer.items() if value is not None}
        claims.setdefault("exp", now + NO_EXPIRY_LIFE_S)
        if self._rules.issuer:
            claims.setdefault("iss", self._rules.issuer)  # optional in an answer, and we know whom we asked
        if (
            "permissions" not in claims
            and self._rules.names.permissions == "permissions"
            and "scope" in claims
        ):
            claims["permissions"] = claims["scope"]
        outcome = identity_from(claims, self._rules, now)
        if isinstance(outcome, Rejected):
            return outcome
        until = min(now + POSITIVE_S, outcome.expires_at or now)
        self._kept[key] = (until, outcome)
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return Valid(outcome)

    async def check(self) -> VerifierStatus:
        """Ask about a token that no user has, unless a question was answered a moment ago: never healthy unasked.

        It is the probe of a breaker that is not closed, so that one heals without a client's help.
        """
        states = self._breakers.states(self.dependency)
        shut = [traffic for traffic, state in states.items() if state != "closed"]
        if self._fault or shut or time.monotonic() - self._answered_at > ANSWER_COUNTS_S:
            await asyncio.gather(*(self._ask(PROBE_TOKEN, "", 0.0, traffic) for traffic in shut or ["user"]))
            states = self._breakers.states(self.dependency)
            shut = [traffic for traffic, state in states.items() if state != "closed"]
        return VerifierStatus(
            status="degraded" if self._fault or shut else "healthy",
            detail=f"{self._name}: {self._fault or 'introspection answers'}"
            + (f"; breaker not closed for {', '.join(shut)}" if shut else ""),
            latency_ms=self._latency_s * 1000,
            breakers={f"{self._name}/{traffic}": state for traffic, state in states.items()},
        )

    async def start(self) -> None:
        """Nothing to fetch before a token comes."""

    async def stop(self) -> None:
        """Forget what was remembered."""
        self._kept.clear()
