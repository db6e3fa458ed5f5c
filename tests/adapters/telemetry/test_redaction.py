"""Redaction: no secret in any part of a record, and no harmless record spoilt."""

from __future__ import annotations

import string
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.adapters.telemetry.redaction import MASK, PIECE, Redactor, is_secret_name

SECRET = "q7Zp-live-Key+0f9A/xx=="
JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhZGEiLCJleHAiOjk5OTk5OTk5OTl9."
    "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)


def pieces(secret: str) -> set[str]:
    """Every piece of 8 characters, but those that are plain words."""
    return {secret[i : i + PIECE] for i in range(len(secret) - PIECE + 1)}


def clean(text: object, secret: str) -> bool:
    """Whether no piece of `secret` is in `text`."""
    return not any(piece in str(text) for piece in pieces(secret))


@pytest.fixture
def redactor() -> Redactor:
    """One that knows the live secret."""
    found = Redactor()
    found.register([SECRET])
    return found


@pytest.mark.parametrize(
    "text",
    [
        f"the key is {SECRET}.",
        f"prefix{SECRET}suffix",
        f"cut: {SECRET[:12]}…",
        f"cut: …{SECRET[5:17]}",
        f"exactly eight: {SECRET[3:11]}",
        f"{SECRET[:9]} and {SECRET[9:]}",
        repr(SECRET.encode()),
    ],
)
def test_a_live_secret_and_its_pieces_are_masked(redactor: Redactor, text: str) -> None:
    """Also cut, quoted and glued to other text."""
    assert clean(redactor.text(text), SECRET)
    assert MASK in redactor.text(text)


@pytest.mark.parametrize(
    "text",
    [
        f"token {JWT} is bad",
        f"token {JWT[:24]}",
        f"jwt-auth, jwt.{JWT}",
        f"Authorization: Bearer {JWT}",
        "Authorization: Bearer opaque-Token-12345678",
        "authorization=Basic dXNlcjpwYXNzd29yZA==",
        "(b'cookie', b'narthex=abcdefgh12345678; other=zz')",
        "Cookie: narthex=abcdefgh12345678; other=zzzzzzzz",
        "{'cookie': 'narthex=abcdefgh12345678'}",
        "Set-Cookie: narthex=abcdefgh12345678; HttpOnly",
        "sec-websocket-protocol: jwt-auth, jwt.opaque12345678",
        "X-E2E-Bypass-Key: abcdefgh12345678",
        'GET /ws?ticket=abcdefgh12345678&x=1 HTTP/1.1" 401',
        "ws://host/ws?ticket=abcdefgh12345678",
        "nats://user:abcdefgh12345678@host:4222",
        "postgresql://abcdefgh12345678@host/db",
        "client_secret=abcdefgh12345678",
        '{"password": "abcdefgh12345678"}',
        "ticket: 'abcdefgh12345678'",
        "-----BEGIN PRIVATE KEY-----\nabcdefgh12345678\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\nabcdefgh12345678 cut off",
        "a stray aB3dEfGh12345678JkLmNoPq in a text",
        "a stray " + "0123456789abcdef" * 3,
    ],
)
def test_what_looks_like_a_credential_is_masked(text: str) -> None:
    """Clients' secrets are unknown: their shapes and names reveal them."""
    found = Redactor().text(text)
    for secret in (
        JWT,
        "abcdefgh12345678",
        "opaque-Token-12345678",
        "opaque12345678",
        "dXNlcjpwYXNzd29yZA==",
    ):
        assert clean(found, secret), found
    assert "aB3dEfGh" not in found
    assert "0123456789abcdef" not in found


@pytest.mark.parametrize(
    "text",
    [
        "The gateway is ready on http://127.0.0.1:8000",
        "outcome=refused code=token_expired",
        "trace 4bf92f3577b34da6a3ce929d0e0e4736",
        "run 018f3c1e-7b1a-7c3e-9a53-0242ac120002 ended",
        "The token did not verify: wrong audience",
        "Cannot reach NATS at nats://127.0.0.1:4222 after 5 s.",
        "narthex.adapters.brokers.sqlite.SqliteBroker",
        "Is it well? Yes, it is.",
        "websockets.exceptions.ConnectionClosedError: no close frame received or sent",
    ],
)
def test_ordinary_records_stay_readable(text: str) -> None:
    """Masking harmless text makes faults harder to find."""
    assert Redactor().text(text) == text


def test_a_secret_of_ordinary_words_does_not_mask_those_words() -> None:
    """`development-key` is masked as a whole, `development` is not."""
    redactor = Redactor()
    redactor.register(["development-key"])
    assert redactor.text("environment development") == "environment development"
    assert redactor.text("key development-key") == f"key {MASK}"


def test_very_short_secrets_are_not_masked_by_value() -> None:
    """They would mask half of every text."""
    redactor = Redactor()
    redactor.register(["abc", ""])
    assert redactor.text("abc def") == "abc def"


@pytest.mark.parametrize(
    "name",
    [
        "token",
        "Authorization",
        "Set-Cookie",
        "access_token",
        "client_secret",
        "X-E2E-Bypass-Key",
        "query",
        "body",
    ],
)
def test_members_are_masked_by_their_names(name: str, redactor: Redactor) -> None:
    """Whatever the value looks like, at any depth."""
    assert is_secret_name(name)
    assert redactor.members({name: "plain"}) == {name: MASK}
    deep = redactor.members({"outer": {"list": [{name: ["plain"]}]}})
    assert deep == {"outer": {"list": [{name: MASK}]}}


@pytest.mark.parametrize("name", ["key_id", "carriers", "code", "client", "identity_class", "test_run"])
def test_members_of_the_handshake_record_are_kept(name: str, redactor: Redactor) -> None:
    """Names only look alike."""
    assert redactor.members({name: "value"}) == {name: "value"}


def test_of_headers_only_the_allowed_values_are_kept(redactor: Redactor) -> None:
    """An allow-list: of an unknown header only the name is shown."""
    pairs = [("Host", "chat.example.com"), (b"X-Unheard-Of", b"value1234"), ("cookie", "a=b"), "nonsense"]
    assert redactor.members({"headers": pairs}) == {
        "headers": {"host": "chat.example.com", "x-unheard-of": MASK, "cookie": MASK}
    }
    assert redactor.members({"headers": {"Origin": f"https://a/{JWT}"}}) == {
        "headers": {"origin": f"https://a/{MASK}"}
    }


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\x00", "\u2028", "\x85", "\ud800"])
def test_a_value_cannot_begin_a_line_of_its_own(character: str, redactor: Redactor) -> None:
    """Log injection: control characters are escaped, in values and in names."""
    found = redactor.members({"user": f"a{character}level=error", "deep": {f"k{character}": 1}})
    assert found["user"].isprintable()
    assert all(name.isprintable() for name in found["deep"])


def test_records_are_bounded(redactor: Redactor) -> None:
    """In length, members and depth."""
    deep: Any = "end"
    for _ in range(50):
        deep = {"next": deep}
    found = redactor.members({"long": "x " * 50_000, "many": list(range(10_000)), "deep": deep})
    assert len(found["long"]) <= 4_001
    assert len(found["many"]) <= 60
    assert "…" in str(found["deep"])


def test_a_secret_across_the_cut_of_a_long_text_is_masked(redactor: Redactor) -> None:
    """The text is cut after masking."""
    found = redactor.text("x " * 1_990 + SECRET + " y" * 3_000)
    assert clean(found, SECRET)


class Rude:
    """An object whose text cannot be rendered."""

    def __str__(self) -> str:
        raise ValueError(SECRET)


@pytest.mark.parametrize(
    "value", [Rude(), object(), b"\xff\xfe", {1: 2}, {"a"}, ValueError(SECRET), float("nan")]
)
def test_nothing_raises(value: object, redactor: Redactor) -> None:
    """Whatever is logged."""
    assert clean(redactor.members({"value": value}), SECRET)


@pytest.mark.alone
@pytest.mark.parametrize("shape", ["a-", "token-", "-token", "cookie:", "?a=", "://a", "('a', 'b", "bearer "])
def test_no_text_of_a_stranger_takes_long(shape: str, redactor: Redactor) -> None:
    """A record may quote a client's text: masking takes linear time (8 KB once took 2.4 s)."""
    text = " " + shape * (8_000 // len(shape))
    began = time.process_time()
    redactor.line(text)
    assert time.process_time() - began < 0.5


PLACES: list[Callable[[str], object]] = [
    lambda secret: f"before {secret} after",
    lambda secret: [secret, {"deep": secret}],
    lambda secret: {"headers": [("x-thing", secret), ("origin", secret)]},
    lambda secret: {secret: 1},
    lambda secret: ValueError(f"bad {secret!r}"),
    lambda secret: secret.encode(),
    lambda secret: f"/path?x={secret}",
]


@given(
    secret=st.text(alphabet=string.ascii_letters + string.digits + "-_+/=.~", min_size=8, max_size=80),
    place=st.sampled_from(PLACES),
    start=st.integers(0, 72),
)
def test_no_piece_of_any_live_secret_survives(
    secret: str, place: Callable[[str], object], start: int
) -> None:
    """For any secret, whole or cut, in any place; pieces that are plain words are exempt."""
    redactor = Redactor()
    redactor.register([secret])
    cut = secret[start:] if len(secret) - start >= PIECE else secret
    found = str(redactor.members({"value": place(cut)}))
    for piece in pieces(cut):
        letters = piece.replace("-", "").replace("_", "")
        if not (letters.isalpha() and letters.islower()) and piece not in str(
            redactor.members({"value": place("")})
        ):
            assert piece not in found
