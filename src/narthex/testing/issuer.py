"""An issuer for tests: mints tokens that a server with its `environ` admits, and tokens that it must refuse.

Not here: the embedded provider of a gateway (`Running.token`). Rules: a forged token differs from a valid one in its
signature only; nothing is stored, and each issuer has keys of its own.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from typing import Any, Final

import httpx2
from joserfc.jwk import ECKey, OctKey

from narthex.adapters.tokens.keys import sign_compact
from narthex.domain.identity import DEFAULT_TENANT

REVOKED_WITHIN_S: Final = 5.0  # a guard's other processes read revocations every 500 ms
REQUEST_S: Final = 10.0


class Issuer:
    """Mints tokens.

    Args:
        secret: signs with HS256 and this secret, as a server with NARTHEX_JWT_SECRET expects; empty: with ES256 and a
            new key.
        url: the issuer's `iss`; empty for none.
        audience: `aud`; empty for none.
        tenant: the tenant of its users.
        admin_key: of the server, for `revoked`; empty: a new one.

    Attributes:
        environ: settings with which a server under test trusts this issuer.
    """

    def __init__(
        self,
        *,
        secret: str = "",
        url: str = "https://issuer.test",
        audience: str = "",
        tenant: str = DEFAULT_TENANT,
        admin_key: str = "",
    ) -> None:
        self._url = url
        self._audience = audience
        self._tenant = tenant
        self._admin_key = admin_key or secrets.token_urlsafe(24)
        self._algorithm = "HS256" if secret else "ES256"
        self._header: dict[str, Any] = {"alg": self._algorithm} | (
            {} if secret else {"kid": uuid.uuid4().hex[:8]}
        )
        self._key = OctKey.import_key(secret) if secret else ECKey.generate_key("P-256")
        self._foreign = OctKey.import_key(secrets.token_bytes(32)) if secret else ECKey.generate_key("P-256")
        key = {} if secret else {**self._key.as_dict(private=False), **self._header}
        self.environ: dict[str, str] = {
            name: value
            for name, value in {
                "NARTHEX_JWT_SECRET": secret,
                "NARTHEX_JWT_PUBLIC_KEY": json.dumps({"keys": [key]}) if key else "",
                "NARTHEX_JWT_ISSUER": url,
                "NARTHEX_JWT_AUDIENCE": audience,
                "NARTHEX_JWT_TENANT": tenant,
                "NARTHEX_ADMIN_KEY": self._admin_key,
            }.items()
            if value
        }

    def valid(self, subject: str = "ada", *, ttl_s: float = 300.0, **claims: Any) -> str:
        """A token that is admitted. `claims`: further ones, or others in the place of these."""
        return self._signed(subject, ttl_s, claims, self._key)

    def expired(self, subject: str = "ada", *, ago_s: float = 3600.0, **claims: Any) -> str:
        """A token that was valid until `ago_s` ago: refused `token_expired`."""
        return self._signed(subject, -ago_s, claims, self._key)

    def forged(self, subject: str = "ada", *, ttl_s: float = 300.0, **claims: Any) -> str:
        """A token with the names of this issuer and its key, signed by another key: refused `token_invalid`."""
        return self._signed(subject, ttl_s, claims, self._foreign)

    def revoked(self, base_url: str, subject: str = "ada", *, ttl_s: float = 300.0, **claims: Any) -> str:
        """A valid token that the server at `base_url` has revoked: refused `token_revoked`.

        Returns when the server's preflight refuses it. Blocks: use `asyncio.to_thread` where the server runs in the
        test's own event loop.

        Raises:
            AssertionError: the server does not revoke, for instance because it has another admin key.
        """
        identifier = str(uuid.uuid4())
        token = self.valid(subject, ttl_s=ttl_s, jti=identifier, **claims)
        with httpx2.Client(base_url=base_url.rstrip("/"), timeout=REQUEST_S, trust_env=False) as server:
            answer = server.post(
                "/api/v1/revoke",
                headers={"Authorization": f"Bearer {self._admin_key}"},
                json={
                    "kind": "jti",
                    "value": identifier,
                    "tenant": self._tenant,
                    "until": time.time() + ttl_s + 60,
                },
            )
            if answer.status_code != 200:
                raise AssertionError(
                    f"{base_url} did not revoke the token: HTTP {answer.status_code} {answer.text[:300]} "
                    "Start the server with `Issuer.environ`, or give Issuer its admin_key."
                )
            code, deadline = "", time.monotonic() + REVOKED_WITHIN_S
            while time.monotonic() < deadline:
                seen = server.get("/ws/preflight", headers={"Authorization": f"Bearer {token}"})
                code = _code_of(seen)
                if code == "token_revoked":
                    return token
                time.sleep(0.05)
        raise AssertionError(
            f"{base_url} revoked the token, and its preflight says {code or seen.status_code} after 5 s."
        )

    def _signed(self, subject: str, ttl_s: float, claims: dict[str, Any], key: ECKey | OctKey) -> str:
        now = time.time()
        body: dict[str, Any] = {
            "sub": subject,
            "iat": int(now + min(0.0, ttl_s) - 60),
            "exp": int(now + ttl_s),
            "jti": str(uuid.uuid4()),
        }
        if self._url:
            body["iss"] = self._url
        if self._audience:
            body["aud"] = self._audience
        return sign_compact(self._header, body | claims, self._algorithm, key)


def _code_of(answer: httpx2.Response) -> str:
    try:
        body = answer.json()
    except ValueError:
        return ""
    return str(body.get("code", "")) if isinstance(body, dict) else ""
