"""Taking a JWT apart: the compact form, its header's rules, its JSON. Nothing here is believed yet.

Not here: keys and signatures (`keys.py`), what claims mean (`claims.py`). Rules: every input ends in a `Compact`
or a `Rejected`, never in an exception; nothing named in a header is ever fetched (RFC 8725 section 3.10); a
detail shown to a client is a fixed sentence and never repeats a part of the token.
"""

from __future__ import annotations

import json
import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, NamedTuple, NoReturn

from narthex.domain.verdict import Rejected
from narthex.ports.tokens import MAX_TOKEN_BYTES

MAX_JSON_DEPTH: Final = 32  # docs/design.md#limits
MAX_KEY_ID_LENGTH: Final = 256
HEADS_KEPT: Final = 256  # an issuer signs with a handful of headers
KEPT_HEAD_LENGTH: Final = 512  # characters of base64url; bounds what is kept to 128 KB and a bit

_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", re.ASCII)
_URLSAFE: Final = bytes.maketrans(b"-_", b"+/")
_NESTING: Final = re.compile(rb'"(?:[^"\\]|\\.?)*+(?:"|\Z)|[\[{]|[\]}]', re.DOTALL)

# Each lets a token bring or name its own key, or changes what is signed.
_FORBIDDEN_HEADERS: Final = ("jku", "x5u", "jwk", "b64", "crit")


class Compact(NamedTuple):
    """A token taken apart, nothing of it verified.

    Attributes:
        algorithm: the header's `alg`, never `none`.
        key_id: the header's `kid`, empty when there is none.
        claims: the payload; duplicate members and deep nesting were refused.
        signing_input: the bytes that the signature covers.
        signature: its bytes; may be empty.
    """

    algorithm: str
    key_id: str
    claims: dict[str, Any]  # Any: claims are an issuer's own JSON
    signing_input: bytes
    signature: bytes

    @property
    def issuer(self) -> str:
        """The unverified `iss`, empty when missing or no string: only for choosing whose keys to try."""
        issuer = self.claims.get("iss")
        return issuer if isinstance(issuer, str) else ""


def looks_like_jwt(token: str) -> bool:
    """Whether `token` has a compact JWS's shape; any other token may be opaque (RFC 7662)."""
    return _SHAPE.fullmatch(token) is not None


def take_apart(token: str, kind: str = "") -> Compact | Rejected:
    """Split, decode and check the form of a compact JWS (RFC 7515 section 7.1, RFC 8725).

    Args:
        token: as the client sent it.
        kind: the only `typ` that is taken; empty: those of access tokens.

    Returns:
        The parts, or `token_malformed`, `algorithm_not_allowed` (`none`) or `token_invalid` (a header that
        brings or names its own key, or a critical extension).
    """
    if len(token) > MAX_TOKEN_BYTES:
        return Rejected("token_malformed", f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
    if _SHAPE.fullmatch(token) is None:
        return Rejected("token_malformed", "It is not three base64url parts joined by dots.")
    signing_text, _, signature_text = token.rpartition(".")
    header_text, _, payload_text = signing_text.partition(".")
    try:
        keeps = not kind and len(header_text) <= KEPT_HEAD_LENGTH
        head = _kept_head(header_text) if keeps else _head(header_text, kind)
        claims = _object(payload_text)
        signature = _decode(signature_text)
    except (ValueError, RecursionError) as fault:
        return Rejected("token_malformed", _fault_sentence(fault))
    if head.fault is not None:
        return head.fault
    return Compact(head.algorithm, head.key_id, claims, signing_text.encode(), signature)


class _Head(NamedTuple):
    """A token's decoded header, and its fault."""

    algorithm: str
    key_id: str
    fault: Rejected | None


def _head(text: str, kind: str = "") -> _Head:
    header = _object(text)
    algorithm, key_id = header.get("alg"), header.get("kid", "")
    return _Head(str(algorithm), str(key_id), _header_fault(header, algorithm, key_id, kind))


_kept_head = lru_cache(HEADS_KEPT)(_head)
"""`_head`, kept by its whole argument, since all tokens of a key begin alike (2 µs a token). What is kept is a
function of that text alone and vouches for nothing: payload and signature are read and verified each time.
"""


def _header_fault(header: dict[str, Any], algorithm: object, key_id: object, wanted: str) -> Rejected | None:
    if not isinstance(algorithm, str) or not algorithm:
        return Rejected("token_malformed", "The header does not name an algorithm.")
    if algorithm.lower() == "none":
        return Rejected("algorithm_not_allowed", "An unsigned token is never accepted.")
    if not isinstance(key_id, str) or len(key_id) > MAX_KEY_ID_LENGTH or not key_id.isprintable():
        return Rejected("token_malformed", "The header's `kid` is not a short printable string.")
    for name in _FORBIDDEN_HEADERS:
        if name in header:
            return Rejected("token_invalid", f"The header member `{name}` is not accepted.")
    kind = header.get("typ")
    if wanted:
        return None if kind == wanted else Rejected("token_invalid", "The token's `typ` is for another use.")
    if isinstance(kind, str):
        lowered = kind.lower().removeprefix("application/")
        # RFC 8725 section 3.11: a token typed for something else (logout, DPoP proof …) is no access token.
        if lowered.endswith("+jwt") and lowered != "at+jwt":
            return Rejected("token_invalid", "The token's `typ` is not for access tokens.")
    elif kind is not None:
        return Rejected("token_malformed", "The header's `typ` is not a string.")
    return None


def _decode(text: str) -> bytes:
    """Unpadded base64url (RFC 7515 section 2); the alphabet was checked by `_SHAPE`."""
    raw = text.encode().translate(_URLSAFE)
    return a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)


def _object(encoded: str) -> dict[str, Any]:
    raw = _decode(encoded)
    # Openers bound the depth from above, so most tokens skip the exact count.
    if raw.count(b"{") + raw.count(b"[") > MAX_JSON_DEPTH and nesting(raw) > MAX_JSON_DEPTH:
        raise _FormFault("Its JSON is nested too deeply.")
    text = raw.decode()
    try:
        value, end = _SCAN(text, 0)
    except StopIteration:  # white space before it, or no JSON
        end = -1
    if end != len(text):
        value = _DECODER.decode(text)
    if not isinstance(value, dict):
        raise _FormFault("Its header or payload is not a JSON object.")
    return value


def nesting(raw: bytes) -> int:
    """How deep the arrays and objects of a JSON text nest; linear, without recursion."""
    depth = deepest = 0
    for match in _NESTING.finditer(raw):
        mark = match[0]
        if mark in {b"{", b"["}:
            depth += 1
            deepest = max(deepest, depth)
        elif mark in {b"}", b"]"}:
            depth -= 1
    return deepest


class _FormFault(ValueError):
    """A fault with a sentence of ours, safe to show."""


def _fault_sentence(fault: BaseException) -> str:
    if isinstance(fault, _FormFault):
        return str(fault)
    if isinstance(fault, Base64Error):
        return "A part of it is not base64url."
    return "Its header or payload is not JSON in UTF-8."


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 8725 section 2.6, RFC 7519 section 4: with duplicates, two parsers read two different tokens."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _FormFault("Its JSON has a member twice.")
    return found


def _no_constant(_: str) -> NoReturn:
    raise _FormFault("Its JSON contains a number that JSON does not allow.")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_SCAN: Final[Callable[[str, int], tuple[Any, int]]] = _DECODER.scan_once  # type: ignore[attr-defined]  # not in typeshed
