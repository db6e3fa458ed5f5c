"""The identity of a user after a credential was verified. Verification lives in `adapters/tokens`.

Rules: an `Identity` is immutable and belongs to one connection; `tenant` and `subject` together name a user,
neither alone does. A test identity is always in tenant `e2e`.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from narthex.domain.ids import user_key

E2E_TENANT = "e2e"
PROBE_TENANT = "probe"
DEFAULT_TENANT = "default"
ADMIN = "admin"
"""The permission to administer one's own tenant."""
OPERATOR = "operator"
"""The permission to run the process, which serves every tenant."""
PROBE_QUERY = "probe"
"""By which health's own attempt without a credential tells itself from people's, for the metrics only."""


class IdentityClass(StrEnum):
    """The metric label and the limit set of a connection (`class` in metrics)."""

    USER = "user"
    GUEST = "guest"
    E2E = "e2e"
    PROBE = "probe"


class Identity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A verified identity. Texts and numbers only, so the cycle collector need not know it: one lives per socket.

    Attributes:
        subject: the `sub` claim; unique within `tenant`, 1 to 255 characters.
        tenant: isolation boundary; no data crosses it.
        plan: name of a plan in `narthex.domain.plans`.
        permissions: granted by the issuer or a server-side list, never by the caller.
        name: for display; may be empty.
        e2e: a confined test identity; then `tenant` is `e2e`.
        test_run: the test run of a test identity, else empty.
        identity_class: `user`, `guest`, `e2e` or `probe`.
        issuer: `iss` of the token, or `narthex` for tickets' and proofs' own identities.
        token_id: `jti`, empty when the token has none.
        issued_at: `iat`, seconds since the epoch; None counts as issued before any cut.
        expires_at: `exp`, seconds since the epoch; None for a guest and a probe; 15 min for a key proof.
        session: the sign-in at the embedded provider (a family of tokens that ends as one); empty elsewhere.
    """

    subject: str
    tenant: str = DEFAULT_TENANT
    plan: str = "free"
    permissions: tuple[str, ...] = ()
    name: str = ""
    e2e: bool = False
    test_run: str = ""
    identity_class: IdentityClass = IdentityClass.USER
    issuer: str = ""
    token_id: str = ""
    issued_at: float | None = None
    expires_at: float | None = None
    session: str = ""

    @property
    def user(self) -> str:
        """`tenant/subject`: the one key under which limits, counts and revocations are kept."""
        return user_key(self.tenant, self.subject)

    def same_user(self, other: Identity) -> bool:
        """Whether both name the same user of the same tenant."""
        return self.subject == other.subject and self.tenant == other.tenant

    @property
    def is_operator(self) -> bool:
        """Whether it may see and do what concerns every tenant. A test identity never may."""
        return not self.e2e and OPERATOR in self.permissions

    def may(self, permission: str) -> bool:
        """Whether the issuer granted `permission`. `admin` grants all of its own tenant, and so not `operator`."""
        return permission in self.permissions or (permission != OPERATOR and ADMIN in self.permissions)
