"""Channel names: the names that a client may use, and their keys."""

from __future__ import annotations

import pytest

from narthex.domain.channels import channel_key, parse_channel, split_key


@pytest.mark.parametrize("name", ["thread:abc", "user:ada@example.com", "thread:" + "x" * 255, "user:José A"])
def test_a_name_is_a_kind_and_an_id(name: str) -> None:
    """And its key leads back to it."""
    parsed = parse_channel(name)
    assert parsed is not None
    assert ":".join(parsed) == name
    assert split_key(channel_key("t", name)) == ("t", name)


@pytest.mark.parametrize(
    "name", ["", "thread:", "thread: a", "room:x", "thread:abc\n", "\nthread:abc", "thread:" + "x" * 256]
)
def test_anything_else_is_no_channel(name: str) -> None:
    """A line's end behind a name would be checked as one thread and joined as another."""
    assert parse_channel(name) is None


def test_a_tenant_ends_at_the_first_slash_of_a_key() -> None:
    """One with a slash or a percent sign of its own is another key than any other tenant's."""
    assert channel_key("a/b", "user:c") == "a%2Fb/user:c"
    assert split_key("a%2Fb/user:c") == ("a/b", "user:c")
    assert channel_key("a%2Fb", "user:c") != channel_key("a/b", "user:c")
