"""Taking a JWT apart: the quick ways read exactly what the careful ones do, and nothing kept vouches for anything."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from narthex.adapters.tokens import compact
from narthex.adapters.tokens.compact import HEADS_KEPT, KEPT_HEAD_LENGTH, Compact, take_apart
from narthex.domain.verdict import Rejected

# Text that looks like a payload, with everything that could make the count of members wrong: colons, quotes,
# backslashes and braces in strings, space around colons, members that stand twice, numbers no float holds.
_STRINGS = st.sampled_from(
    [
        '"sub"',
        '"a"',
        '":"',
        '"{"',
        '"a:b"',
        '"\\u003a"',
        '"\\""',
        '"\\\\"',
        '" :"',
        '"ä"',
        '"\x01"',
        '""',
        '"}"',
    ]
)
_SCALARS = st.one_of(
    _STRINGS,
    st.sampled_from(
        ["1", "-0", "1.5", "1e400", "NaN", "true", "null", "01", "[", "]", '["a",":"]', "{}", "x"]
    ),
    st.integers().map(str),
    st.floats(allow_nan=False).map(repr),
)
_COLONS = st.sampled_from([":", " :", ": ", "::", ""])
_MEMBERS = st.tuples(_STRINGS, _COLONS, _SCALARS).map("".join)
_OBJECTS = st.lists(_MEMBERS, max_size=5).map(lambda members: "{" + ",".join(members) + "}")
_NESTED = st.tuples(_STRINGS, _COLONS, _OBJECTS).map(lambda parts: "{" + "".join(parts) + "}")


def part(value: object) -> str:
    """One part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(raw).decode().rstrip("=")


def token(header: object, claims: object, signature: bytes = b"s") -> str:
    """A token that nobody signed."""
    return f"{part(header)}.{part(claims)}.{part(signature)}"


def read(text: str) -> object:
    """What a part is read as, or the fault's sentence."""
    try:
        return compact._object(text)
    except (ValueError, RecursionError) as fault:
        return compact._fault_sentence(fault)


@given(st.one_of(_OBJECTS, _NESTED, st.text(max_size=40)))
@example('{"a":1,"a" :2,"b":":"}')
@example('{"a":1,"a":2}')
@example('{"a" :1,"a" :2}')
@example('{"a":"x","a":"y:z"}')
@example('{"a":":","b":2}')
@example('{"a":1e400}')
@example('{"a":[{}]}')
@example('[":"]')
@example("\ufeff{}")
def test_quick_json_is_the_careful_one(text: str) -> None:
    """Whatever stands there is read the same with and without the quick way, faults included."""
    encoded = part(text.encode())
    quick = read(encoded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact, "_plain", lambda _: None)
        careful = read(encoded)
    assert repr(quick) == repr(careful)  # of dicts: types, order and -0.0 too


@given(st.binary(max_size=60))
def test_quick_json_of_any_bytes(raw: bytes) -> None:
    """Bytes that are no UTF-8 are refused on both ways alike."""
    encoded = part(b'{"a":"' + raw + b'"}')
    quick = read(encoded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact, "_plain", lambda _: None)
        assert repr(quick) == repr(read(encoded))


@pytest.mark.parametrize("digits", [100, 4090, 4299, 4301, 5000])
def test_long_numbers_end_alike(digits: int) -> None:
    """The json module refuses numbers of more than 4,300 digits: the quick way is not asked about them."""
    encoded = part(b'{"n":' + b"9" * digits + b"}")
    quick = read(encoded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact, "_plain", lambda _: None)
        assert quick == read(encoded)


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
