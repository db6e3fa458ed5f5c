"""The interface of another identity provider for sign-in: the OpenID authorization code flow.

Guarantees: an authorization code is redeemed with PKCE (RFC 7636); the ID token is verified like any token, and its
`nonce` and `aud` too (OpenID Connect Core 1.0 section 3.1.3.7); the rest of the answer is ignored.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from narthex.domain.identity import Identity
from narthex.domain.verdict import Rejected, Unavailable


class SignedInUser(msgspec.Struct, frozen=True, kw_only=True):
    """The user who signed in, mapped from the issuer's claims; `email` is empty unless the issuer verified it."""

    identity: Identity
    email: str = ""


class IdentityProvider(Protocol):
    """See the module's guarantees."""

    @property
    def issuer(self) -> str:
        """Its issuer identifier."""

    async def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """The URL to send the browser to; `challenge` is the S256 code challenge. Raises DependencyError."""

    async def redeem(
        self, code: str, *, redirect_uri: str, verifier: str, nonce: str, now: float
    ) -> SignedInUser | Rejected | Unavailable:
        """Exchange a code once, within the deadline of one fetch."""
