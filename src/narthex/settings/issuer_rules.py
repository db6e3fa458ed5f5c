"""Rules of one token issuer: one source of keys, algorithms that fit it, addresses that cannot be overheard.

Not here: how tokens are verified (`adapters/tokens`). Rules: as in `rules.py`. Mixing HMAC with public keys in
one issuer is refused, because a public key used as an HMAC secret is the classic forgery (RFC 8725 section 2.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from narthex.domain.endpoints import http_url
from narthex.domain.environment import is_loopback
from narthex.settings.model import Settings
from narthex.settings.tables import ALGORITHMS, HMAC_ALGORITHMS, IssuerSettings
from narthex.settings.trust import ambiguities, binding_problems

MIN_HMAC_BYTES = 32  # RFC 7518 section 3.2: a key as long as the hash
_FLAT_NAMES = {
    "secret": "NARTHEX_JWT_SECRET",
    "public_key": "NARTHEX_JWT_PUBLIC_KEY",
    "jwks_url": "NARTHEX_JWKS_URL",
    "discovery": "NARTHEX_OIDC_ISSUER",
    "introspection_url": "NARTHEX_INTROSPECTION_URL",
    "issuer": "NARTHEX_JWT_ISSUER",
    "audience": "NARTHEX_JWT_AUDIENCE",
    "algorithms": "NARTHEX_JWT_ALGORITHMS",
    "introspection_client_id": "NARTHEX_INTROSPECTION_CLIENT_ID",
    "introspection_client_secret": "NARTHEX_INTROSPECTION_CLIENT_SECRET",
}


def issuer_problems(settings: Settings, *, remote: bool) -> Iterator[str]:
    """Every problem of the flat issuer, of each `[[issuers]]`, and between them."""
    flat = settings.flat_issuer()
    if flat.key_sources():
        yield from _of_one(remote, flat, _FLAT_NAMES)
    else:
        for name in ("jwt_issuer", "jwt_audience", "jwt_algorithms"):
            if getattr(settings, name):
                yield (
                    f"NARTHEX_{name.upper()} is set, but no key is. Set NARTHEX_JWT_SECRET, NARTHEX_JWT_PUBLIC_KEY, "
                    "NARTHEX_JWKS_URL or NARTHEX_OIDC_ISSUER, or unset it."
                )
    if settings.jwks_url and settings.oidc_issuer and settings.jwt_issuer not in (None, settings.oidc_issuer):
        yield "NARTHEX_JWT_ISSUER and NARTHEX_OIDC_ISSUER differ. Unset one of them."
    if settings.oidc_client_id and not settings.oidc_issuer:
        yield "NARTHEX_OIDC_CLIENT_ID is set and NARTHEX_OIDC_ISSUER is not. Set the issuer to sign in with."
    for index, issuer in enumerate(settings.issuers):
        names = {member: f"issuers[{index}].{member}" for member in IssuerSettings.model_fields}
        if not issuer.key_sources():
            yield (
                f"issuers[{index}] has no source of keys. Give it secret, public_key, jwks_url, discovery or "
                "introspection_url."
            )
        else:
            yield from _of_one(remote, issuer, names)
    yield from _between(settings)
    yield from binding_problems(settings)
    if remote:
        yield from ambiguities(settings, remote=remote)


def _of_one(remote: bool, issuer: IssuerSettings, names: dict[str, str]) -> Iterator[str]:
    given = issuer.key_sources()
    if len(given) > 1:
        listed = " and ".join(names[name] for name in given)
        yield f"{listed} are set for one issuer. Keep one; [[issuers]] in narthex.toml takes more issuers."
    for algorithm in issuer.algorithms:
        if algorithm not in ALGORITHMS:
            yield f"{names['algorithms']} has {algorithm!r}. Choose from {', '.join(ALGORITHMS)}."
        elif (algorithm in HMAC_ALGORITHMS) != bool(issuer.secret) and issuer.introspection_url is None:
            kind = "a secret" if issuer.secret else "public keys"
            yield f"{names['algorithms']} has {algorithm}, which cannot be used with {kind}. Remove it."
    if issuer.secret and len(issuer.secret.get_secret_value().encode()) < MIN_HMAC_BYTES and remote:
        yield (
            f"{names['secret']} is shorter than {MIN_HMAC_BYTES} bytes (RFC 7518 section 3.2). Make a longer one: "
            "openssl rand -hex 32."
        )
    for member in ("jwks_url", "discovery", "introspection_url"):
        url = getattr(issuer, member)
        if url and not _safe_url(url, remote=remote):
            yield (
                f"{names[member]} must be an https:// URL: anyone who can change the answer can sign tokens. Use "
                f"https; http is allowed for loopback, and for other hosts only in development and testing."
            )
    if issuer.introspection_url and not (
        issuer.introspection_client_id and issuer.introspection_client_secret
    ):
        yield (
            f"{names['introspection_url']} needs {names['introspection_client_id']} and "
            f"{names['introspection_client_secret']} (RFC 7662 section 2.1). Set both."
        )


def _safe_url(url: str, *, remote: bool) -> bool:
    parts = http_url(url)
    return parts is not None and (parts.scheme == "https" or not remote or is_loopback(parts.hostname or ""))


def _between(settings: Settings) -> Iterator[str]:
    issuers = settings.all_issuers()
    for name, count in Counter(issuer.name for issuer in issuers).items():
        if count > 1:
            yield f"{count} issuers are called {name!r}. Give each [[issuers]] a name of its own."
    anonymous = [issuer.name for issuer in issuers if issuer.issuer is None and issuer.discovery is None]
    if len(issuers) > 1 and anonymous:
        yield (
            f"The issuer {anonymous[0]!r} has no `iss` and there are others, so a token cannot be matched to one "
            "issuer. Set its issuer (NARTHEX_JWT_ISSUER for the flat one)."
        )


def short_secrets(settings: Settings) -> Iterator[str]:
    """Warnings of development and testing about what staging and production refuse."""
    named = [("NARTHEX_JWT_SECRET", settings.flat_issuer())]
    named += [(f"issuers[{index}].secret", issuer) for index, issuer in enumerate(settings.issuers)]
    for name, issuer in named:
        length = len(issuer.secret.get_secret_value().encode()) if issuer.secret else MIN_HMAC_BYTES
        if length < MIN_HMAC_BYTES:
            yield (
                f"{name} has {length} bytes; with fewer than {MIN_HMAC_BYTES} staging and production do not start. "
                "Make a longer one: openssl rand -hex 32."
            )
