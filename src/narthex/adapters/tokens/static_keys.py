"""Keys that settings hold: an HS secret, a PEM key or certificate, a JWK or JWK set. Nothing is ever fetched."""

from __future__ import annotations

from collections.abc import Iterable

from narthex.adapters.tokens.compact import Compact
from narthex.adapters.tokens.keys import (
    KeyTable,
    UnusableKey,
    VerificationKey,
    key_from_secret,
    keys_from_text,
)
from narthex.adapters.tokens.verification import IssuerRules, verify_token
from narthex.domain.verdict import Rejected, Valid
from narthex.errors import ConfigError
from narthex.ports.telemetry import Reading
from narthex.ports.tokens import VerifierStatus


class StaticKeys:
    """A `KeySource` of keys from settings.

    Args:
        keys: at least one.
        rules: the issuer's; `algorithms` is cut to what the keys can do.
        name: for health, for example `NARTHEX_JWT_SECRET`.

    Attributes:
        issuers: the configured issuer, or none: then tokens of any unclaimed issuer are tried.
    """

    def __init__(
        self, keys: Iterable[VerificationKey], rules: IssuerRules, *, name: str = "static keys"
    ) -> None:
        self._table = KeyTable(keys)
        allowed = rules.algorithms & self._table.algorithms
        if not allowed:
            able = ", ".join(sorted(self._table.algorithms)) or "nothing"
            wanted = ", ".join(sorted(rules.algorithms))
            raise ConfigError([f"{name}: the key can verify {able}, but {wanted} are allowed. Change one."])
        self._rules = IssuerRules(claims=rules.claims, algorithms=allowed)
        self._name = name
        self.issuers = (rules.claims.issuer,) if rules.claims.issuer else ()

    def readings(self) -> Iterable[Reading]:
        """The end of its certificates, for the metrics."""
        return self._table.readings(self._name)

    @classmethod
    def from_secret(cls, secret: str, rules: IssuerRules, *, name: str = "NARTHEX_JWT_SECRET") -> StaticKeys:
        """HS256/384/512 with a shared secret. Raises ConfigError, which does not hold it."""
        try:
            return cls([key_from_secret(secret)], rules, name=name)
        except UnusableKey as error:
            raise ConfigError([f"{name}: {error} A PEM key belongs in NARTHEX_JWT_PUBLIC_KEY."]) from None

    @classmethod
    def from_text(cls, text: str, rules: IssuerRules, *, name: str = "NARTHEX_JWT_PUBLIC_KEY") -> StaticKeys:
        """PEM, JWK or JWK set. Raises ConfigError, which does not hold it."""
        try:
            return cls(keys_from_text(text), rules, name=name)
        except UnusableKey as error:
            raise ConfigError([f"{name}: {error} Give a PEM public key, or a JWK (set) as JSON."]) from None

    def knows(self, algorithm: str, kid: str) -> bool:
        """Whether a key serves that algorithm and name."""
        return bool(self._table.select(algorithm, kid))

    def verify(
        self,
        token: Compact,
        *,
        now: float,
        traffic: str,  # noqa: ARG002 - of the port; nothing is fetched here
    ) -> Valid | Rejected:
        """The verdict, never an awaitable."""
        return verify_token(token, self._table, self._rules, now)

    async def check(self) -> VerifierStatus:
        """Keys that were loaded stay usable."""
        return VerifierStatus(status="healthy", detail=f"{self._name}: {len(self._table)} key(s)")

    async def start(self) -> None:
        """Nothing to fetch."""

    async def stop(self) -> None:
        """Nothing to end."""
