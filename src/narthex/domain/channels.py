"""Channel names: what a client sees, and the tenant-qualified key that brokers use.

A client sees `thread:<id>` and `user:<id>`; the key is `<tenant>/<name>`, so the same name in two tenants is
two channels. Rules: a tenant has no `/`; a key is never built from two client-supplied parts.
"""

from __future__ import annotations

import re
from typing import Final

MAX_CHANNEL_LENGTH: Final = 255
_NAME: Final = re.compile(r"(thread|user):([!-~]{1,240})")
_TENANT: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")


def parse_channel(name: str) -> tuple[str, str] | None:
    """Split a client's channel name into kind (`thread` or `user`) and id; None when it is neither."""
    match = _NAME.fullmatch(name)
    return (match[1], match[2]) if match else None


def valid_tenant(tenant: str) -> bool:
    """Whether `tenant` can stand in a channel key and in a metric label."""
    return _TENANT.fullmatch(tenant) is not None


def thread_channel(thread_id: str) -> str:
    """The client's name of a thread's channel."""
    return f"thread:{thread_id}"


def user_channel(subject: str) -> str:
    """The client's name of a user's own channel."""
    return f"user:{subject}"


def channel_key(tenant: str, name: str) -> str:
    """The broker's key of channel `name` of `tenant`."""
    return f"{tenant}/{name}"


def split_key(key: str) -> tuple[str, str]:
    """The inverse of `channel_key`: tenant and the client's name."""
    tenant, _, name = key.partition("/")
    return tenant, name
