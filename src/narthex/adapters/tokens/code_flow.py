"""`narthex.ports.sign_in` over OpenID Connect: discovery, token end point, ID token (Core 1.0 section 3.1)."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec

from narthex.adapters.tokens.compact import Compact, take_apart
from narthex.adapters.tokens.fetching import DocumentFault, Fetcher
from narthex.adapters.tokens.jwks import JwksKeys
from narthex.adapters.tokens.oidc import Discovery
from narthex.adapters.tokens.verification import IssuerRules
from narthex.domain.secrets import equal
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.errors import DependencyError
from narthex.ports.breaker import Breakers
from narthex.ports.later import settled
from narthex.ports.sign_in import SignedInUser

SCOPES: Final = "openid email profile"


class CodeFlow:
    """Implements `IdentityProvider`.

    Args:
        name: for breakers and logs.
        issuer: its URL.
        client_id: as registered there.
        client_secret: empty for a public client (PKCE alone).
        rules: of the ID token's claims; `audiences` is set to the client id here.
        fetcher: shared HTTP client.
        breakers: by traffic class.
    """

    def __init__(
        self,
        name: str,
        issuer: str,
        client_id: str,
        client_secret: str,
        rules: IssuerRules,
        *,
        fetcher: Fetcher,
        breakers: Breakers,
    ) -> None:
        self._name = name
        self.issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._discovery = Discovery(issuer, fetcher)
        self._fetcher = fetcher
        self._breakers = breakers
        claims = msgspec.structs.replace(rules.claims, issuer=issuer, audiences=(client_id,), allow_e2e=False)
        self._keys = JwksKeys(
            f"{name}-sign-in",
            self._discovery.jwks_address,
            IssuerRules(claims=claims, algorithms=rules.algorithms),
            fetcher=fetcher,
            breakers=breakers,
        )

    async def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """See the port."""
        try:
            endpoint = await self._discovery.address("authorization_endpoint")
        except DocumentFault as error:
            raise DependencyError("auth", error.message, error.remedy, retry_after_s=5) from error
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self._client_id,
                "redirect_uri": redirect_uri,
                "scope": SCOPES,
                "state": state,
                "nonce": nonce,
                "code_challenge": challenge,
                "code_challenge_method": "S256",
            }
        )
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{query}"

    async def redeem(
        self, code: str, *, redirect_uri: str, verifier: str, nonce: str, now: float
    ) -> SignedInUser | Rejected | Unavailable:
        """See the port."""
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self._client_id,
            "code_verifier": verifier,
        }
        # RFC 6749 section 2.3.1: both parts are form-encoded before they are joined
        auth = (
            (quote(self._client_id, safe=""), quote(self._client_secret, safe=""))
            if self._client_secret
            else None
        )
        try:
            endpoint = await self._discovery.address("token_endpoint")
            breaker = self._breakers.get(f"sign-in:{self._name}", "user")
            # a code serves once, so this is never retried
            answer = await breaker.call(lambda: self._fetcher.post_form(endpoint, fields, auth))
        except DependencyError as error:
            return Unavailable(error.message, max(1, round(error.retry_after_s)))
        except DocumentFault as error:
            return Rejected(
                "token_invalid", "The provider did not accept the code.", log_detail=error.message
            )
        return await self._verify(answer, nonce, now)

    async def _verify(self, answer: Any, nonce: str, now: float) -> SignedInUser | Rejected | Unavailable:
        text = answer.get("id_token") if isinstance(answer, dict) else None
        if not isinstance(text, str):
            return Rejected("token_invalid", "The provider did not return an ID token.")
        parts = take_apart(text)
        if isinstance(parts, Rejected):
            return parts
        verdict: Verdict = await settled(self._keys.verify(parts, now=now, traffic="user"))
        if not isinstance(verdict, Valid):
            return verdict
        if not self._for_us(parts, nonce):
            return Rejected("token_invalid", "The ID token belongs to another sign-in.")
        email = parts.claims.get("email")
        verified = (
            parts.claims.get("email_verified") is True and isinstance(email, str) and email.isprintable()
        )
        return SignedInUser(identity=verdict.identity, email=str(email)[:254] if verified else "")

    def _for_us(self, parts: Compact, nonce: str) -> bool:
        found, audience = parts.claims.get("nonce"), parts.claims.get("aud")
        # OpenID Connect Core 1.0 section 3.1.3.7: among several audiences `azp` says to whom it was issued.
        several = isinstance(audience, list) and len(audience) > 1
        party = parts.claims.get("azp", None if several else self._client_id)
        return isinstance(found, str) and equal(found, nonce) and party == self._client_id

    async def stop(self) -> None:
        """See the port."""
        await self._keys.stop()
