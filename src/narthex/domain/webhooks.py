"""Standard Webhooks (standardwebhooks.com): secrets, receivers, signatures. Not here: sending (`status`)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final, NamedTuple
from urllib.parse import urlsplit

PREFIX: Final = "whsec_"
MIN_SECRET, MAX_SECRET = 24, 64  # bytes; the specification's bounds


class WebhookReceiver(NamedTuple):
    """A receiver: its address, and its live secrets (two during a rotation)."""

    url: str
    secrets: tuple[bytes, ...]


class BadReceiver(ValueError):
    """A part of the setting is no receiver; the message says why, without a secret."""


def parse_secret(text: str) -> bytes | None:
    """The key of `whsec_…`; None: it is none."""
    if not text.startswith(PREFIX):
        return None
    try:
        key = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if MIN_SECRET <= len(key) <= MAX_SECRET else None


def parse_receivers(text: str, *, plain: bool) -> tuple[WebhookReceiver, ...]:
    """The receivers of `url=whsec_…, …`; an address that stands twice has two live secrets.

    Args:
        text: of the setting.
        plain: whether `http://` is accepted, outside staging and production.

    Raises:
        BadReceiver: one is not valid.
    """
    found: dict[str, tuple[bytes, ...]] = {}
    for number, entry in enumerate((part.strip() for part in text.replace("\n", ",").split(",")), 1):
        if not entry:
            continue
        url, separator, rest = entry.rpartition("=" + PREFIX)
        key = parse_secret(PREFIX + rest) if separator else None
        if key is None:
            raise BadReceiver(f"entry {number} does not end in =whsec_ and 24 to 64 bytes in base64")
        try:
            parts = urlsplit(url)
            good = bool(parts.hostname) and parts.port != 0 and not parts.username and not parts.fragment
        except ValueError:
            good = False
        if not good or parts.scheme not in (("https", "http") if plain else ("https",)):
            raise BadReceiver(
                f"entry {number} does not begin with a URL of https:// without a user or a fragment"
            )
        found[url] = (*found.get(url, ()), key)
    return tuple(WebhookReceiver(url, keys) for url, keys in found.items())


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """One signature, with its version."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
