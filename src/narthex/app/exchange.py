"""The simulation exchange: proof of the end-to-end key, or CI's own token, for a test identity's token.

Not here: HTTP (web/e2e), checking keys (app/e2e). Rules: the caller chooses a name and a test run, never
permissions, tenant or plan; proof is checked before the body, so that no client learns the form by guessing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from narthex.app.credentials import WAIT_S
from narthex.app.e2e import Admissions, KeyProofs
from narthex.domain.admission import E2E_LIFE_S, key_proof_identity
from narthex.domain.carriers import AUTHORIZATION, E2E_KEY, bearer_token, valid_test_run
from narthex.domain.environment import NO_KEY_REASON, Environment
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Rejected, Unavailable, Verdict
from narthex.ports.later import Later
from narthex.ports.telemetry import Meter
from narthex.ports.tokens import TokenMint, TokenVerifier

MAX_EMAIL_LENGTH: Final = 128  # with a test run of 64 it still fits into a channel's name
MAX_NAME_LENGTH: Final = 128
_EMAIL: Final = re.compile(
    r"[A-Za-z0-9.!#$%&'*+=?^_`{|}~-]+@[A-Za-z0-9.-]+"
)  # no `:`, which divides subjects
_CHECKED: Final = (E2E_KEY, AUTHORIZATION)


class ExchangeBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The values that a caller of the exchange may choose. Permissions, tenant and plan are not among them."""

    email: str = ""
    name: str = ""
    test_run: str = ""


class ExchangeRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to the exchange. Its repr holds no credential.

    Attributes:
        keys: values of `X-E2E-Bypass-Key`.
        authorization: values of `Authorization`.
        body: unparsed; empty counts as `{}`.
        address: the client's.
        trace_id: of the request.
        fresh_id: random hex digits.
    """

    keys: tuple[str, ...]
    authorization: tuple[str, ...]
    body: bytes
    address: str
    trace_id: str
    fresh_id: str

    def __repr__(self) -> str:
        """Without credentials and body: a repr ends up in tracebacks."""
        return f"ExchangeRequest(trace_id={self.trace_id!r})"


class ExchangeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """`{access_token, token_type, expires_in, user}`."""

    access_token: str
    user: dict[str, object]
    token_type: str = "Bearer"  # noqa: S105 - RFC 6750's name of the type
    expires_in: int = E2E_LIFE_S

    def __repr__(self) -> str:
        """Without the token."""
        return f"ExchangeAnswer(expires_in={self.expires_in})"


class CiOidc(msgspec.Struct, frozen=True):
    """CI's own OIDC issuer, whose tokens serve instead of the key.

    Attributes:
        verifier: of its tokens.
        subject: the required `sub`; `*` at the end matches the rest.
    """

    verifier: TokenVerifier
    subject: str

    def names(self, subject: str) -> bool:
        """Whether a token's subject is the required one."""
        if self.subject.endswith("*"):
            return subject.startswith(self.subject[:-1])
        return bool(self.subject) and subject == self.subject


@dataclass(kw_only=True, eq=False)
class TokenExchange:
    """`POST /auth/e2e/test-auth`: a key, or CI's token, for a token of a confined test identity.

    Attributes:
        environment: in production nothing is exchanged.
        proofs: checks keys; without a live key nothing is exchanged either.
        mint: signs for issuer `narthex-e2e`.
        admissions: records each.
        ci: None: CI's tokens are not taken.
        meter: counts refusals.
        clock: seconds since the epoch.
    """

    environment: Environment
    proofs: KeyProofs
    mint: TokenMint
    admissions: Admissions
    ci: CiOidc | None
    meter: Meter
    clock: Callable[[], float] = time.time

    async def exchange(self, request: ExchangeRequest) -> ExchangeAnswer | Refusal:
        """Check the proof, then the body, then mint.

        Raises:
            DependencyError: there is no signing key yet.
        """
        refusal = self._closed() or await self._unproven(request)
        if refusal is not None:
            return refusal
        body = _body(request.body)
        if isinstance(body, Refusal):
            self.meter.e2e_admission("bad_body")
            return body
        identity = self._identity(body, request.fresh_id)
        proof = E2E_KEY if request.keys else "oidc"
        unrecorded = await self.admissions.record(
            identity,
            surface="exchange",
            proof=proof,
            address=request.address,
            trace_id=request.trace_id,
            wait_s=WAIT_S,
        )
        if unrecorded is not None:
            return unrecorded
        token = self.mint.mint(identity, ttl_s=E2E_LIFE_S, now=self.clock())
        user: dict[str, object] = {
            "id": identity.subject,
            "email": body.email,
            "name": identity.name,
            "tenant": identity.tenant,
            "plan": identity.plan,
            "permissions": list(identity.permissions),
            "e2e": True,
            "test_run": identity.test_run,
        }
        return ExchangeAnswer(access_token=token, user=user)

    def _closed(self) -> Refusal | None:
        if self.environment is Environment.PRODUCTION:
            self.meter.e2e_admission("not_allowed")
            return Refusal(code="e2e_not_allowed_here", detail="This is production.")
        if not self.proofs.possible:
            self.meter.e2e_admission("no_key")
            return Refusal(code="auth_unavailable", detail=f"{NO_KEY_REASON}.")
        return None

    async def _unproven(self, request: ExchangeRequest) -> Refusal | None:
        bearer = bearer_token(request.authorization) if request.authorization else None
        if isinstance(bearer, Refusal):
            return bearer
        if request.keys:
            if bearer is not None or len(request.keys) > 1:
                detail = "Send X-E2E-Bypass-Key once, and no other credential with it."
                return Refusal(code="credential_conflict", detail=detail, carriers_checked=_CHECKED)
            return self.proofs.check(request.keys[0].strip(), request.address)
        if bearer is None or self.ci is None:
            return Refusal(
                code="e2e_key_wrong", detail="X-E2E-Bypass-Key is missing.", carriers_checked=_CHECKED
            )
        return await self._ci_refusal(self.ci, bearer)

    async def _ci_refusal(self, ci: CiOidc, token: str) -> Refusal | None:
        verdict = await _bounded(ci.verifier.verify(token, now=self.clock(), traffic="e2e"))
        if isinstance(verdict, Unavailable):
            self.meter.e2e_admission("unavailable")
            return verdict.refusal()
        if isinstance(verdict, Rejected):
            self.meter.e2e_admission("wrong_token")
            return verdict.refusal(_CHECKED)
        if not ci.names(verdict.identity.subject):
            self.meter.e2e_admission("wrong_subject")
            return Refusal(
                code="permission_denied",
                detail="This workflow's subject is not allowed to run tests here.",
                carriers_checked=_CHECKED,
            )
        return None

    def _identity(self, body: ExchangeBody, fresh_id: str) -> Identity:
        """The identity: one e-mail is one user within a test run; without either the user is new each time."""
        identity = key_proof_identity(
            test_run=body.test_run,
            fresh_id=fresh_id,
            permissions=self.proofs.permissions,
            now=self.clock(),
        )
        who = f"{identity.subject}:{body.email}" if body.test_run else f"e2e:{body.email}"
        return msgspec.structs.replace(
            identity, subject=who if body.email else identity.subject, name=body.name or identity.name
        )


async def _bounded(verdict: Later[Verdict]) -> Verdict:
    if isinstance(verdict, Verdict):
        return verdict
    try:
        async with asyncio.timeout(WAIT_S):
            return await verdict
    except TimeoutError:
        return Unavailable("CI's issuer did not answer in time")


def _body(raw: bytes) -> ExchangeBody | Refusal:
    try:
        body = msgspec.json.decode(raw.strip() or b"{}", type=ExchangeBody)
    except (msgspec.DecodeError, RecursionError) as fault:
        known = isinstance(fault, msgspec.ValidationError)  # its text names members, never values
        said = f" ({str(fault)[:200]})" if known else ""
        return _invalid(f"The body is not {{email?, name?, test_run?}} as JSON{said}.")
    email = body.email.strip().lower()
    if email and (len(email) > MAX_EMAIL_LENGTH or _EMAIL.fullmatch(email) is None):
        return _invalid(f"`email` is not an ASCII e-mail address of at most {MAX_EMAIL_LENGTH} characters.")
    if len(body.name) > MAX_NAME_LENGTH or not body.name.isprintable():
        return _invalid(f"`name` is not printable text of at most {MAX_NAME_LENGTH} characters.")
    if body.test_run and not valid_test_run(body.test_run):
        return _invalid("`test_run` is not 1 to 64 letters, digits, `.`, `_`, `~`, `-`.")
    return msgspec.structs.replace(body, email=email)


def _invalid(detail: str) -> Refusal:
    return Refusal(code="body_invalid", detail=detail)
