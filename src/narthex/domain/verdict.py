"""The verdict on a credential. Three values, never mixed: valid, rejected, or "unavailable right now".

Rules: `Rejected` is final for the client and a *success* of the auth service; only `Unavailable` may count
against a circuit breaker. `Expired` is the one rejection that keeps the identity, because an expired but
otherwise verified credential lets its owner refresh in-band (docs/design.md#admission).
"""

from __future__ import annotations

import msgspec

from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal


class Valid(msgspec.Struct, frozen=True):
    """The credential verified; `key_id` and `algorithm` go into the handshake record."""

    identity: Identity
    key_id: str = ""
    algorithm: str = ""


class Rejected(msgspec.Struct, frozen=True):
    """The credential is bad for good.

    Attributes:
        code: a code of `narthex.domain.refusals.TABLE`.
        detail: safe to show.
        log_detail: for the log only; never the credential.
        expired: its identity, when expiry is its *only* fault (signature verified); else None.
        revoked: its identity, when it was revoked (signature verified); for operators, never for admission.
    """

    code: str
    detail: str = ""
    log_detail: str = ""
    key_id: str = ""
    algorithm: str = ""
    expired: Identity | None = None
    revoked: Identity | None = None

    def refusal(self, carriers: tuple[str, ...] = ()) -> Refusal:
        """The answer to the client, which sent the credential in one of `carriers`."""
        return Refusal(
            code=self.code, detail=self.detail, carriers_checked=carriers, log_detail=self.log_detail
        )


class Unavailable(msgspec.Struct, frozen=True):
    """The credential cannot be verified right now.

    Attributes:
        cause: for the log, for example `jwks fetch timed out`.
        retry_after_s: whole seconds after which asking again makes sense, ≥ 1.
    """

    cause: str
    retry_after_s: int = 1

    def refusal(self, _: tuple[str, ...] = ()) -> Refusal:
        """The answer to the client."""
        return Refusal(code="auth_unavailable", retry_after_s=self.retry_after_s, log_detail=self.cause)


Verdict = Valid | Rejected | Unavailable
