"""Signing keys that live in the store, so that every instance agrees: minting, verifying, rotating.

Not here: deciding which users get a token (`app/provider.py`, the end-to-end exchange). Rules: a private key leaves
the store only into this ring's memory; a new key is published `ROTATION_LEAD_S` before it signs, so that no instance
meets a token whose key it cannot know, and an old one stays published until its last token has ended.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, cast

import msgspec
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key

from narthex.adapters.tokens.claims import LEEWAY_S, ClaimRules
from narthex.adapters.tokens.compact import Compact, take_apart
from narthex.adapters.tokens.keys import KeyTable, UnusableKey, VerificationKey, key_from_jwk, sign_compact
from narthex.adapters.tokens.verification import IssuerRules, verify_token
from narthex.app.tasks import end_tasks, log_error
from narthex.domain.identity import Identity
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.errors import ConfigError, DependencyError
from narthex.ports.credentials import Credentials, SigningKey
from narthex.ports.later import Later
from narthex.ports.telemetry import Reading
from narthex.ports.tokens import VerifierStatus

RELOAD_EVERY_S: Final = (
    1.5  # so that a leaked key ends within 2 s; one small read, and nothing more while nothing changed
)
STALE_S: Final = 60.0  # without a read that worked: as long as the lead below
RELOAD_COOL_DOWN_S: Final = 1.0  # between reads that unknown `kid`s ask for
ROTATION_LEAD_S: Final = 60.0
MAX_TTL_S: Final = 31 * 86_400.0  # a token by `narthex token --ttl 31d`; keys stay published as long
GRACE_S: Final = 25.0  # docs/design.md#admission: a live socket may refresh so long after `exp`

SESSION_CLAIM: Final = "sid"  # the sign-in's family: tokens of one sign-in end as one
ENVIRONMENT_CLAIM: Final = "env"
SEALED_TYPE: Final = "narthex-sealed+jwt"

SigningAlgorithm = Literal["ES256", "RS256", "EdDSA"]
Purpose = Literal["provider", "e2e", "guard"]


def new_key(purpose: Purpose, algorithm: SigningAlgorithm, now: float, *, not_before: float) -> SigningKey:
    """Generate a key pair (about 1 ms; RS256 100 ms). Its `kid` is random and says nothing."""
    kid = f"{purpose}-{secrets.token_hex(8)}"
    parameters = cast("Any", {"kid": kid, "use": "sig", "alg": algorithm})
    key: Key
    if algorithm == "ES256":
        key = ECKey.generate_key("P-256", parameters)
    elif algorithm == "RS256":
        key = RSAKey.generate_key(2048, parameters)
    else:
        key = OKPKey.generate_key("Ed25519", parameters)
    return SigningKey(
        kid=kid,
        purpose=purpose,
        algorithm=algorithm,
        jwk=json.dumps(key.as_dict(private=True)),
        created_at=now,
        not_before=not_before,
    )


class KeyRing:
    """A `TokenMint` and a `KeySource` over the keys of one purpose in the store.

    Args:
        credentials: where the keys live.
        purpose: `provider`, `e2e` or `guard`.
        issuer: the `iss` of its tokens; also an attribute, as are `issuers` (with the aliases) and `name`.
        aliases: more `iss` values that its tokens may carry (the plain name, beside a public URL), so that
            `narthex token` without the server's variables is admitted too: only the holder of the keys could sign it.
        audience: put into every token when not empty; not required of one, for the same reason.
        rules: of the claims; `issuer` and `audiences` are not looked at.
        algorithm: for new keys.
        clock: seconds since the epoch.
        on_withdrawn: takes the names of keys that were in use and are accepted no longer; must not raise.
    """

    def __init__(
        self,
        credentials: Credentials,
        purpose: Purpose,
        *,
        issuer: str,
        aliases: tuple[str, ...] = (),
        audience: str = "",
        rules: ClaimRules,
        algorithm: SigningAlgorithm = "ES256",
        clock: Callable[[], float] = time.time,
        on_withdrawn: Callable[[frozenset[str]], None] = lambda _: None,
    ) -> None:
        self._credentials = credentials
        self._purpose: Purpose = purpose
        self.name = f"{purpose} keys"
        self.issuer = issuer
        self.issuers = (issuer, *(alias for alias in aliases if alias != issuer))
        self._audience = audience
        self._rules = IssuerRules(
            claims=msgspec.structs.replace(rules, issuer="", audiences=()),
            algorithms=frozenset({"ES256", "RS256", "EdDSA"}),
        )
        self._algorithm: SigningAlgorithm = algorithm
        self._clock = clock
        self._table = KeyTable(())
        self._on_withdrawn = on_withdrawn
        self._live: list[SigningKey] = []
        self._ended: set[str] = set()  # names of keys that were seen retired: a few a year
        self._signers: list[tuple[SigningKey, Key]] = []  # newest `not_before` first
        self._loaded_at: float | None = None  # monotonic: a step of the wall clock makes no read older
        self._asked_at = 0.0  # for the sake of an unknown key, besides the poll
        self._fault = "not loaded yet"
        self._reload: asyncio.Task[None] | None = None
        self._poll: asyncio.Task[None] | None = None

    # -- TokenMint -----------------------------------------------------------------------------------------

    def mint(self, identity: Identity, *, ttl_s: float, now: float) -> str:
        """See `TokenMint`. About 60 µs."""
        signer, key = self._signer(now)
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": identity.subject,
            "iat": int(now),
            "exp": int(now + min(ttl_s, MAX_TTL_S)),
            "jti": identity.token_id or secrets.token_hex(12),
            "tenant": identity.tenant,
            "plan": identity.plan,
        }
        if self._audience:
            claims["aud"] = self._audience
        if identity.permissions:
            claims["permissions"] = list(identity.permissions)
        if identity.name:
            claims["name"] = identity.name
        if identity.session:
            claims[SESSION_CLAIM] = identity.session
            if (
                self._rules.claims.environment
            ):  # tokens by `narthex token` are made without the server's variables
                claims[ENVIRONMENT_CLAIM] = self._rules.claims.environment
        if identity.e2e:
            claims["e2e"] = True
            claims["test_run"] = identity.test_run
        header = {"alg": signer.algorithm, "kid": signer.kid}
        return sign_compact(header, claims, signer.algorithm, key)

    def seal(self, values: dict[str, str], *, ttl_s: float, now: float) -> str:
        """See `TokenMint`: a JWS of its own type, which no verifier takes for a token."""
        signer, key = self._signer(now)
        claims: dict[str, Any] = {"iss": self.issuer, "exp": int(now + ttl_s), "sealed": values}
        header = {"alg": signer.algorithm, "kid": signer.kid, "typ": SEALED_TYPE}
        return sign_compact(header, claims, signer.algorithm, key)

    def unseal(self, sealed: str, now: float) -> dict[str, str] | None:
        """See `TokenMint`."""
        parts = take_apart(sealed, SEALED_TYPE)
        if isinstance(parts, Rejected):
            return None
        keys = self._table.select(parts.algorithm, parts.key_id) if parts.key_id else []
        if not any(key.verifies(parts.algorithm, parts.signing_input, parts.signature) for key in keys):
            return None
        values, until = parts.claims.get("sealed"), parts.claims.get("exp")
        if not isinstance(values, dict) or not isinstance(until, int) or until <= now:
            return None
        return {str(name): str(value) for name, value in values.items()}

    def public_keys(self) -> dict[str, object]:
        """Every key published now, those that begin to sign soon included."""
        return {
            "keys": [
                key.as_dict(private=False)
                for signing, key in self._signers
                if not _retired(signing, self._clock())
            ]
        }

    def _signer(self, now: float) -> tuple[SigningKey, Key]:
        live = [pair for pair in self._signers if not _retired(pair[0], now)]
        for signing, key in live:
            if signing.not_before <= now:
                return signing, key
        if (
            live
        ):  # this clock is behind that of the instance which made the first key: that key signs all the same
            return live[-1]
        raise DependencyError(
            "store",
            f"No {self._purpose} signing key is loaded.",
            "Check the store; `narthex keys list` shows it.",
        )

    # -- KeySource -----------------------------------------------------------------------------------------

    def knows(self, algorithm: str, kid: str) -> bool:
        """Whether a loaded key serves that algorithm and name."""
        return bool(self._table.select(algorithm, kid))

    def verify(
        self,
        token: Compact,
        *,
        now: float,
        traffic: str,  # noqa: ARG002 - of the port; the store has no breaker
    ) -> Later[Verdict]:
        """The verdict; a read of the store first when the key is unknown (another instance made a new one)."""
        if token.issuer not in self.issuers:
            return Rejected("wrong_issuer", key_id=token.key_id)
        verdict = verify_token(token, self._table, self._rules, now)
        if (
            isinstance(verdict, Rejected)
            and verdict.code == "unknown_key"
            and token.key_id not in self._ended
        ):
            if self._reload is None and now - self._asked_at < RELOAD_COOL_DOWN_S:
                return Unavailable(
                    "the key is unknown and the store was asked for one less than a second ago"
                )
            return self._verify_after_reload(token, now)
        return verdict

    async def _verify_after_reload(self, token: Compact, now: float) -> Verdict:
        if self._reload is None:
            self._asked_at = now
            self._reload = asyncio.get_running_loop().create_task(self._load())
            self._reload.add_done_callback(self._reloaded)
        try:
            # shielded: one client's deadline must not cancel what the others wait for
            await asyncio.shield(self._reload)
        except (DependencyError, ConfigError) as error:
            return Unavailable(error.message)
        return verify_token(token, self._table, self._rules, now)

    def _reloaded(self, task: asyncio.Task[None]) -> None:
        self._reload = None
        if not task.cancelled() and task.exception() is not None:
            self._fault = "the store did not return usable keys"

    def readings(self) -> Iterable[Reading]:
        """The moment at which no key of the ring is left, for the metrics; none while one has no end."""
        if self._live and all(key.retire_at for key in self._live):
            yield "key_expiry_timestamp_seconds", (self.name,), max(key.retire_at for key in self._live)

    async def check(self) -> VerifierStatus:
        """Mint a token and verify it."""
        began = time.perf_counter()
        try:
            self.self_check()
        except (ConfigError, DependencyError) as error:
            return VerifierStatus(status="degraded", detail=f"{self.name}: {error}")
        took = (time.perf_counter() - began) * 1000
        age_s = math.inf if self._loaded_at is None else time.monotonic() - self._loaded_at
        if age_s > STALE_S:
            since = "" if self._loaded_at is None else f" for {age_s:.0f} s"
            detail = f"{self.name}: {self._fault}{since}"
            return VerifierStatus(status="degraded", detail=detail, latency_ms=took)
        return VerifierStatus(status="healthy", detail=f"{self.name}: minted and verified", latency_ms=took)

    def self_check(self) -> None:
        """Mint and verify with what is loaded. Raises ConfigError when the token does not verify."""
        now = self._clock()
        e2e = self._rules.claims.allow_e2e and self._purpose == "e2e"
        token = self.mint(Identity(subject="self-check", e2e=e2e), ttl_s=60, now=now)
        parts = take_apart(token)
        verdict = parts if isinstance(parts, Rejected) else verify_token(parts, self._table, self._rules, now)
        if not isinstance(verdict, Valid):
            problem = f"A token signed with the newest {self._purpose} key does not verify ({verdict.code})."
            raise ConfigError([f"{problem} Create a new key: `narthex keys rotate --now`."])

    async def start(self) -> None:
        """Load the keys, or make the first one, then keep reading.

        Raises:
            DependencyError: the store does not answer.
            ConfigError: a stored key does not sign and verify.
        """
        await self.load_or_create()
        self.self_check()
        if self._poll is None:
            self._poll = asyncio.get_running_loop().create_task(
                self._keep_loading(), name=f"keys of {self.name}"
            )
            self._poll.add_done_callback(log_error)

    async def stop(self) -> None:
        """End the reading."""
        await end_tasks(self._poll, self._reload)
        self._poll = self._reload = None

    # -- the store -----------------------------------------------------------------------------------------

    async def load_or_create(self) -> None:
        """Load; make the first key when there is none (atomic: of instances that start together one wins)."""
        await self._load()
        now = self._clock()
        try:
            self._signer(now)
        except DependencyError:
            await self._credentials.add_key(
                new_key(self._purpose, self._algorithm, now, not_before=now), only_if_none=True
            )
            await self._load()

    async def rotate(self, *, immediately: bool = False) -> SigningKey:
        """Make a new key and let the others end.

        Args:
            immediately: the old keys are no longer accepted from now on (a leak); else they stay published
                until the last token they signed has ended.

        Returns:
            The new key, which signs from its `not_before` on.
        """
        now = self._clock()
        old = await self._credentials.keys(self._purpose)
        signs_already = any(key.not_before <= now and not _retired(key, now) for key in old)
        begins = now + ROTATION_LEAD_S if signs_already and not immediately else now
        key = await self._credentials.add_key(new_key(self._purpose, self._algorithm, now, not_before=begins))
        ends = now if immediately else begins + MAX_TTL_S + LEEWAY_S + GRACE_S
        for previous in old:
            if not previous.retire_at or previous.retire_at > ends:
                await self._credentials.retire_key(previous.kid, ends)
        await self._load()
        return key

    async def _keep_loading(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_EVERY_S)
            try:
                await self._load()
            except (DependencyError, ConfigError):
                self._fault = "the store did not return usable keys"  # those loaded go on serving

    async def _load(self) -> None:
        kept = await self._credentials.keys(self._purpose)
        now = self._clock()
        live = [signing for signing in kept if not _retired(signing, now)]
        self._ended.update(signing.kid for signing in kept if _retired(signing, now))
        if live != self._live:
            self._use(live)
        self._loaded_at = time.monotonic()
        self._fault = "they were not read from the store"

    def _use(self, live: list[SigningKey]) -> None:
        """From now on these sign and verify. Raises ConfigError, and then the ones before go on."""
        signers: list[tuple[SigningKey, Key]] = []
        public: list[VerificationKey] = []
        for signing in live:
            try:
                jwk = json.loads(signing.jwk)
                signers.append((signing, import_key(jwk)))
                public.append(key_from_jwk(jwk, allow_symmetric=False))
            except (ValueError, UnusableKey) as error:
                raise ConfigError(
                    [f"The {self._purpose} key {signing.kid} in the store cannot be read. Restore the store."]
                ) from error
        self._signers = sorted(signers, key=lambda pair: pair[0].not_before, reverse=True)
        self._table = KeyTable(public)
        before, self._live = self._live, live
        withdrawn = {key.kid for key in before} - {key.kid for key in live}
        if withdrawn:
            self._on_withdrawn(frozenset(withdrawn))


def _retired(key: SigningKey, now: float) -> bool:
    return bool(key.retire_at) and key.retire_at <= now
