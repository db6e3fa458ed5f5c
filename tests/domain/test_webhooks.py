"""Signatures are those of the Standard Webhooks libraries, and the setting's receivers are read strictly."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from narthex.domain.webhooks import BadReceiver, parse_receivers, parse_secret, sign

KEY = b"k" * 24
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@given(st.binary(min_size=24, max_size=64), st.text(max_size=200))
def test_a_signature_is_that_of_the_official_library(key: bytes, text: str) -> None:
    """For any key and any body."""
    secret = "whsec_" + base64.b64encode(key).decode()
    parsed = parse_secret(secret)
    assert parsed == key
    body = text.encode()
    at = datetime(2026, 11, 30, 8, 0, tzinfo=UTC)
    expected = Webhook(secret).sign("msg_1", at, body.decode())
    assert sign(key, "msg_1", int(at.timestamp()), body) == expected


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_AAAA", "whsec_%%%", "MfKQ", SECRET + "!"])
def test_what_is_no_secret_is_not_taken_for_one(text: str) -> None:
    """A short key could be guessed."""
    assert parse_secret(text) is None


def test_receivers_and_their_secrets() -> None:
    """An address may have a query; one that stands twice is in a rotation."""
    other = "whsec_" + base64.b64encode(b"o" * 32).decode()
    found = parse_receivers(
        f"https://a.example/x?y=z={SECRET},\nhttps://b.example/={SECRET}\nhttps://a.example/x?y=z={other}",
        plain=False,
    )
    assert [(one.url, len(one.secrets)) for one in found] == [
        ("https://a.example/x?y=z", 2),
        ("https://b.example/", 1),
    ]
    assert parse_receivers("", plain=False) == ()


@pytest.mark.parametrize(
    "text",
    [
        "https://a.example",
        f"={SECRET}",
        f"ftp://a.example={SECRET}",
        f"http://a.example={SECRET}",
        f"https://user:word@a.example={SECRET}",
        f"https://a.example/#x={SECRET}",
        f"https://a.example:0/={SECRET}",
        f"https://[::1={SECRET}",
    ],
)
def test_what_is_no_receiver_is_refused_without_its_secret(text: str) -> None:
    """`http://` only in development."""
    with pytest.raises(BadReceiver) as refused:
        parse_receivers(text, plain=False)
    assert SECRET not in str(refused.value)


def test_development_may_use_http() -> None:
    """For a receiver on the same machine."""
    assert len(parse_receivers(f"http://127.0.0.1:9000/hook={SECRET}", plain=True)) == 1
