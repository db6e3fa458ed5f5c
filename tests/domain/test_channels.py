"""Channel names: what a client may say, and that a key is what was checked."""

from __future__ import annotations

import pytest

from narthex.domain.channels import channel_key, parse_channel, split_key, valid_tenant


@pytest.mark.parametrize("name", ["thread:abc", "user:ada@example.com", "thread:" + "x" * 240])
def test_a_name_is_a_kind_and_an_id(name: str) -> None:
    """And its key gives it back."""
    parsed = parse_channel(name)
    assert parsed is not None
    assert ":".join(parsed) == name
    assert split_key(channel_key("t", name)) == ("t", name)


@pytest.mark.parametrize(
    "name", ["", "thread:", "thread:a b", "room:x", "thread:abc\n", "\nthread:abc", "thread:" + "x" * 241]
)
def test_anything_else_is_no_channel(name: str) -> None:
    """A line's end behind a name would be checked as one thread and joined as another."""
    assert parse_channel(name) is None


def test_a_tenant_is_a_plain_word() -> None:
    """It stands in keys and in metric labels."""
    assert valid_tenant("acme-2.eu")
    assert not any(map(valid_tenant, ("", "a/b", "acme\n", "x" * 65)))
