"""`narthex.domain.secrets`."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.secrets import any_equal, equal, fingerprint


@given(st.text(), st.text())
def test_equal_agrees_with_the_language(a: str, b: str) -> None:
    """Constant time changes nothing about what is equal, non-ASCII and lone surrogates included."""
    assert equal(a, b) == (a == b)
    assert equal(a, a)


def test_text_counts_as_its_utf8_bytes() -> None:
    """A key typed as text is the same as its bytes from a header."""
    assert equal("schlüssel", "schlüssel".encode())
    assert equal("\ud800", "\ud800")


def test_any_of_two_live_keys_is_right() -> None:
    """During a rotation both the old and the new key are right, and nothing else is."""
    live = ["old-key", "new-key"]
    assert any_equal("old-key", live)
    assert any_equal(b"new-key", live)
    assert not any_equal("old-ke", live)
    assert not any_equal("old-key", [])


def test_an_empty_live_key_opens_nothing() -> None:
    """An unset key must not match an empty header."""
    assert not any_equal("", ["", ""])
    assert any_equal("k", ["", "k"])


def test_fingerprint_is_sha256_hex() -> None:
    """Stores of all languages can compute it."""
    assert fingerprint("ticket") == hashlib.sha256(b"ticket").hexdigest()
