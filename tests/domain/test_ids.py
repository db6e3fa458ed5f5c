"""Ids: one type from the token to the last route, and keys that cannot be confused."""

from __future__ import annotations

import unicodedata
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.channels import channel_key, parse_channel, split_key, user_channel
from narthex.domain.ids import Identified, header_value, user_key, valid_id


@pytest.mark.parametrize("text", ["a", "José A", "x" * 255, "用户", "a/b", "a%2Fb", "auth0|5f7", "🙂"])
def test_printable_text_in_nfc_is_an_id(text: str) -> None:
    """Spaces inside, slashes and all scripts are allowed."""
    assert valid_id(text)


@pytest.mark.parametrize(
    "text", ["", " a", "a ", "x" * 256, "a\nb", "a\x00", "\u202ea", "\ud800", "Jose\u0301", "\u00a0"]
)
def test_other_text_is_no_id(text: str) -> None:
    """Empty, too long, unprintable, with a space at an end, or in another normal form."""
    assert not valid_id(text)


ids = st.text(min_size=1, max_size=40).map(lambda text: unicodedata.normalize("NFC", text)).filter(valid_id)


@given(ids, ids, ids, ids)
def test_keys_of_different_users_differ(tenant: str, subject: str, other: str, another: str) -> None:
    """A tenant with a slash is not another tenant with another subject."""
    assert (user_key(tenant, subject) == user_key(other, another)) == ((tenant, subject) == (other, another))
    assert user_key(f"{tenant}/{other}", subject) != user_key(tenant, f"{other}/{subject}")


@given(ids, ids)
def test_a_channel_key_is_taken_apart_again(tenant: str, subject: str) -> None:
    """Key, tenant, channel and id survive the round trip."""
    key = channel_key(tenant, user_channel(subject))
    assert split_key(key) == (tenant, user_channel(subject))
    assert parse_channel(user_channel(subject)) == ("user", subject)


@given(ids)
def test_an_id_travels_in_a_header(text: str) -> None:
    """As percent-encoded ASCII, which every proxy passes."""
    value = header_value(text)
    assert value.isascii() and value.isprintable() and " " not in value
    assert unquote(value, errors="strict") == text


class Params(Identified, frozen=True):
    """As the params of an RPC method are."""

    thread_id: str = "t"
    thread_ids: tuple[str, ...] = ()
    before_id: str | None = None
    text: str = ""


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"thread_id": ""}, "thread_id"),
        ({"thread_ids": ("a", " b")}, "thread_ids"),
        ({"before_id": "a\n"}, "before_id"),
        ({"text": "\n", "before_id": None, "thread_ids": ("a", "b")}, ""),
    ],
)
def test_a_field_that_names_something_must_be_an_id(params: dict[str, Any], name: str) -> None:
    """One, several, or none; the error names the field and never the value. Other fields may be anything."""
    if not name:
        assert Params(**params).text == "\n"
        return
    with pytest.raises(ValueError, match=f"Expected `{name}`"):
        Params(**params)
