"""Taking a JWT apart: a header that was kept vouches for nothing that follows it."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest

from narthex.adapters.tokens import compact
from narthex.adapters.tokens.compact import HEADS_KEPT, KEPT_HEAD_LENGTH, Compact, take_apart
from narthex.domain.verdict import Rejected


def part(value: object) -> str:
    """One part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).decode().rstrip("=")


def token(header: object, claims: object, signature: bytes = b"s") -> str:
    """A token that nobody signed."""
    return f"{part(header)}.{part(claims)}.{part(signature)}"


def test_kept_header_does_not_vouch_for_what_follows() -> None:
    """After a good token, the same header before a broken payload or signature is refused as ever."""
    header = part({"alg": "HS256", "typ": "JWT"})
    good = take_apart(f"{header}.{part({'sub': 'ann'})}.{part(b's')}")
    assert isinstance(good, Compact)
    other = take_apart(f"{header}.{part({'sub': 'bob'})}.{part(b't')}")
    assert isinstance(other, Compact)
    assert (other.claims, other.signature) == ({"sub": "bob"}, b"t")
    assert other.signing_input == f"{header}.{part({'sub': 'bob'})}".encode()
    for rest in (f"{part(b'{')}.{part(b's')}", f"{part([1])}.{part(b's')}", f"{part({'sub': 'ann'})}.A"):
        refused = take_apart(f"{header}.{rest}")
        assert isinstance(refused, Rejected)
        assert refused.code == "token_malformed"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"alg": "none"}, "algorithm_not_allowed"),
        ({"alg": "HS256", "jwk": {}}, "token_invalid"),
        ({"alg": "HS256", "crit": []}, "token_invalid"),
        ({"alg": 1}, "token_malformed"),
        (b'{"alg":"HS256","alg":"none"}', "token_malformed"),
    ],
)
def test_bad_header_stays_bad(header: object, code: str) -> None:
    """A refused header is refused each time, kept or not, and its fault is told after the payload's."""
    for _ in range(3):
        refused = take_apart(token(header, {"sub": "ann"}))
        assert isinstance(refused, Rejected)
        assert refused.code == code
    broken = take_apart(f"{part(header)}.{part(b'{')}.{part(b's')}")
    assert isinstance(broken, Rejected)
    assert broken.code == "token_malformed"


def test_kept_header_is_told_by_its_whole_text() -> None:
    """One character of difference is another header, whatever it decodes to."""
    first = take_apart(token({"alg": "HS256", "kid": "a"}, {}))
    second = take_apart(token({"alg": "HS256", "kid": "b"}, {}))
    spaced = take_apart(token(b'{"alg": "HS512"}', {}))
    assert isinstance(first, Compact)
    assert isinstance(second, Compact)
    assert isinstance(spaced, Compact)
    assert (first.key_id, second.key_id, spaced.algorithm) == ("a", "b", "HS512")


def test_what_is_kept_is_bounded() -> None:
    """A flood of headers leaves at most `HEADS_KEPT` of them, and none that is long."""
    kept: Callable[[], Any] = compact._kept_head.cache_info
    for number in range(HEADS_KEPT + 50):
        take_apart(token({"alg": "HS256", "kid": str(number)}, {}))
    assert kept().currsize == HEADS_KEPT
    before = kept()
    take_apart(token({"alg": "HS256", "x": "y" * KEPT_HEAD_LENGTH}, {}))
    assert kept() == before
