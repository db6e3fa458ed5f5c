"""The tables of `narthex.toml`: `[[issuers]]`, `[[users]]` and `[plans.<name>]`.

Not here: the flat options (`model.py`) and the rules between options (`rules.py`). Rules: a secret member has
a `<member>_file` twin; the flat JWT options describe one more issuer of the same shape.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from narthex.settings.options import Secret, Words

HMAC_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
PUBLIC_KEY_ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"),
    *("EdDSA", "Ed25519"),
)
ALGORITHMS: Final = (*HMAC_ALGORITHMS, *PUBLIC_KEY_ALGORITHMS)
"""docs/design.md#admission: HS/RS/PS/ES 256-512 and EdDSA (`Ed25519` is its RFC 9864 name). `none` is not among
them.
"""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Claims(_Table):
    """Which claim of a token holds what; a dot reaches into an object (`realm_access.roles`)."""

    tenant: str = "tenant"
    plan: str = "plan"
    permissions: str = "permissions"
    name: str = "name"
    e2e: str = "e2e"
    test_run: str = "test_run"


class IssuerSettings(_Table):
    """One source of tokens. Exactly one of `secret`, `public_key`, `jwks_url`, `discovery`, `introspection_url`.

    Attributes:
        name: for logs and breakers.
        issuer: required `iss`; None accepts any (only with keys that this issuer alone holds).
        audience: one of these must be in the audience claim; empty does not look at it.
        audience_claim: `aud`; `client_id` for Cognito's access tokens, `azp` for Keycloak's and Clerk's.
        algorithms: allowed `alg`s; empty means the usual ones of the key's kind.
        secret: HMAC secret.
        public_key: PEM or JWK (set) as text.
        jwks_url: where the key set is.
        discovery: issuer URL whose `/.well-known/openid-configuration` names the key set.
        introspection_url: RFC 7662 end point for opaque tokens.
        tenant: a fixed tenant for all users of this issuer, which no other source may name; None: by claim.
        tenants: which tenants its tokens may name; `*` at the end matches the rest.
        permissions_allowed: which permissions it may give; None: see docs/authentication.md.
        plans_allowed: which plans it may put people on; None: any.
        permission_names: maps the issuer's role names to permissions: `{"grp-4711" = "admin"}`.
    """

    name: str = "default"
    issuer: str | None = None
    audience: Words = ()
    audience_claim: str = "aud"
    algorithms: Words = ()
    secret: Secret | None = None
    public_key: str | None = None
    jwks_url: str | None = None
    discovery: str | None = None
    introspection_url: str | None = None
    introspection_client_id: str | None = None
    introspection_client_secret: Secret | None = None
    tenant: str | None = None
    tenants: Words = ()
    permissions_allowed: Words | None = None
    plans_allowed: Words | None = None
    permission_names: dict[str, str] = {}
    claims: Claims = Claims()

    def key_sources(self) -> list[str]:
        """Names of the members that say where keys or answers come from; one is right."""
        names = ("secret", "public_key", "jwks_url", "discovery", "introspection_url")
        return [name for name in names if getattr(self, name)]


class UserSettings(_Table):
    """A user who may sign in at the embedded provider.

    Attributes:
        password_hash: argon2id, from `narthex auth hash`.
    """

    email: str = Field(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")
    password_hash: Secret | None = None
    name: str = ""
    tenant: str = "default"
    plan: str = "free"
    permissions: Words = ()


class PlanSettings(_Table):
    """Changes to a plan; None keeps the plan's default (docs/design.md#runs)."""

    connections: int | None = Field(None, ge=1, le=100_000)
    concurrent_runs: int | None = Field(None, ge=1, le=10_000)
    messages_per_minute: int | None = Field(None, ge=1, le=100_000)
    history_days: int | None = Field(None, ge=0, description="0: no end")
    thread_members: int | None = Field(None, ge=1, le=100_000)
    threads: int | None = Field(None, ge=0, le=10_000_000, description="0: no end")
    additions_per_day: int | None = Field(None, ge=0, le=1_000_000)
    exports: int | None = Field(None, ge=1, le=1_000)


SECRET_MEMBERS: Final = {
    "issuers": ("secret", "public_key", "introspection_client_secret"),
    "users": ("password_hash",),
}
"""Members of a table that may be given as `<member>_file` or as a Secret Manager name."""
