"""The one type of ids: subjects, token ids, tenants and user ids, from the token's claims to the last route.

Not here: channel names and keys (`channels.py`), which are built from ids. Rules: every route, RPC and store
takes each id that admission takes (docs/design.md#ids); another form of the same text is refused, never normalised,
because two spellings of one id look like one user and are two for revocations.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Annotated, Final
from urllib.parse import quote

import msgspec

MAX_ID_LENGTH: Final = 255
ID_RULE: Final = "1 to 255 printable characters in Unicode's form NFC, with no space at either end"
"""For refusals and documents."""

EVERYBODY: Final = "*"
"""In place of a subject: every user of the tenant (revocations of what was issued before a moment). No user's id."""

MAX_EXACT_INTEGER: Final = 2**53 - 1
"""Numbers in bodies of the API: beyond it a JSON number is another number in JavaScript (RFC 8259 section 6)."""

Ident = Annotated[
    str,
    msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH, description=f"{ID_RULE[0].upper()}{ID_RULE[1:]}."),
]
"""An id in a body; the Struct that has one is `Identified`, because no JSON Schema can say "printable and in NFC"."""
ID_FIELDS: Final = frozenset(
    {
        *("user", "user_id", "tenant", "value", "thread_id", "thread_ids", "run_id", "interrupt_id"),
        *("client_message_id", "before_id", "agent", "test_run", "key"),
    }
)


class Identified(msgspec.Struct, frozen=True):
    """A body or params with ids: every field that goes by one of `ID_FIELDS` must be one, several, or None."""

    def __post_init__(self) -> None:
        """Raises ValueError, which the decoder turns into its own error; it names the field and never the value."""
        for name in self.__struct_fields__:
            value = getattr(self, name) if name in ID_FIELDS else None
            values = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(map(valid_id, values)):
                raise ValueError(f"Expected `{name}` of {ID_RULE}")


def valid_id(text: str) -> bool:
    """Whether `text` is an id: 1 to 255 printable characters in NFC; spaces stand inside only."""
    if not 0 < len(text) <= MAX_ID_LENGTH or not text.isprintable():
        return False
    if text.isascii():
        return text[0] != " " and text[-1] != " "
    return text == text.strip() and unicodedata.is_normalized("NFC", text)


@lru_cache(maxsize=4096)  # a handshake asks five times; and all that keep the key share one text
def user_key(tenant: str, subject: str) -> str:
    """`tenant/subject`, the key of limits, counts and control messages; different users have different keys."""
    return f"{quoted_tenant(tenant)}/{subject}"


def quoted_tenant(tenant: str) -> str:
    """A tenant as it stands in keys: without `/`, so that the first `/` of a key ends it. Most stand as they are."""
    if "/" in tenant or "%" in tenant:
        return tenant.replace("%", "%25").replace("/", "%2F")
    return tenant


def unquoted_tenant(text: str) -> str:
    """The inverse of `quoted_tenant`."""
    return text.replace("%2F", "/").replace("%25", "%") if "%" in text else text


def header_value(text: str) -> str:
    """An id in an HTTP header of ours: percent-encoded UTF-8 (docs/design.md#ids)."""
    return quote(text, safe="!#$&'*+-.^_`|~:@")
