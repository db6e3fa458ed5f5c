"""Channel names: the name that a client sees, and the tenant-qualified key that brokers use.

A client sees `thread:<id>` and `user:<id>`; the key is `<tenant>/<name>`, so the same name in two tenants is
two channels. Rules: in a key the tenant has no `/` (`ids.quoted_tenant`), so that the first `/` ends it; a key is
never built from two client-supplied parts.
"""

from __future__ import annotations

from typing import Final

from narthex.domain.ids import MAX_ID_LENGTH, quoted_tenant, unquoted_tenant, valid_id

KINDS: Final = ("thread", "user")
MAX_CHANNEL_LENGTH: Final = max(map(len, KINDS)) + 1 + MAX_ID_LENGTH

OPERATORS: Final = "operator:"
"""The beginning of the names of operators' channels. They are of no tenant, and are in no log."""
OPERATOR_LIVE: Final = "operator:live"
"""The operators' channel with the snapshots of all processes."""


def parse_channel(name: str) -> tuple[str, str] | None:
    """Split a client's channel name into kind (`thread` or `user`) and id; None when it is neither."""
    kind, colon, found = name.partition(":")
    return (kind, found) if colon and kind in KINDS and valid_id(found) else None


def thread_channel(thread_id: str) -> str:
    """The client's name of a thread's channel."""
    return f"thread:{thread_id}"


def user_channel(subject: str) -> str:
    """The client's name of a user's own channel."""
    return f"user:{subject}"


def channel_key(tenant: str, name: str) -> str:
    """The broker's key of channel `name` of `tenant`."""
    return f"{quoted_tenant(tenant)}/{name}"


def operator_key(name: str) -> str:
    """The broker's key of an operators' channel."""
    return f"narthex/{name}"


def split_key(key: str) -> tuple[str, str]:
    """The inverse of `channel_key`: tenant and the client's name."""
    tenant, _, name = key.partition("/")
    return unquoted_tenant(tenant), name
