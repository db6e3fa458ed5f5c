"""OpenID Connect Discovery 1.0: from an issuer's URL to the addresses that it publishes.

Rules: only a configured issuer is asked; its document must name that very issuer (section 4.3), else a program that
answers for one path could sign for it; every address in it must be as safe as the issuer's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from narthex.adapters.tokens.fetching import DocumentFault, Fetcher
from narthex.domain.environment import is_loopback

WELL_KNOWN: Final = "/.well-known/openid-configuration"
KEEP_S: Final = 3_600.0  # addresses change with deployments of the issuer, keys far more often


class Discovery:
    """One issuer's published configuration, kept for an hour.

    Args:
        issuer: as configured; exactly what the document and the tokens must say.
        fetcher: shared HTTP client.
        clock: monotonic seconds.
    """

    def __init__(self, issuer: str, fetcher: Fetcher, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._fetcher = fetcher
        self._clock = clock
        self._document: dict[str, Any] = {}
        self._fetched_at = 0.0

    async def address(self, member: str) -> str:
        """The URL under `member` (`jwks_uri`, `token_endpoint` …).

        Raises:
            DependencyError: the issuer does not answer.
            DocumentFault: its document is not its own, or lacks a safe URL there.
        """
        document = await self.document()
        url = document.get(member)
        if not isinstance(url, str) or not self._as_safe(url):
            raise DocumentFault(f"The discovery document has no usable `{member}`.")
        return url

    async def jwks_address(self) -> str:
        """The key set's URL."""
        return await self.address("jwks_uri")

    async def document(self) -> dict[str, Any]:
        """The whole document; fetched when there is none that is young enough. Raises as `address`."""
        if self._document and self._clock() - self._fetched_at < KEEP_S:
            return self._document
        found, _ = await self._fetcher.get_json(self._issuer.rstrip("/") + WELL_KNOWN)
        if not isinstance(found, dict):
            raise DocumentFault("The discovery document is not a JSON object.")
        named = found.get("issuer")
        if named != self._issuer:
            hint = " (only the slash at the end differs)" if _bare(named) == _bare(self._issuer) else ""
            raise DocumentFault(f"The discovery document names a different issuer than the settings{hint}.")
        self._document = found
        self._fetched_at = self._clock()
        return found

    def _as_safe(self, url: str) -> bool:
        """https, or the plain http that the issuer itself is configured with, and then only to loopback."""
        parts = urlsplit(url)
        if parts.scheme == "https" and parts.hostname:
            return True
        return (
            parts.scheme == "http"
            and urlsplit(self._issuer).scheme == "http"
            and (is_loopback(parts.hostname or "") or parts.hostname == urlsplit(self._issuer).hostname)
        )


def _bare(issuer: object) -> str:
    return issuer.rstrip("/") if isinstance(issuer, str) else ""
