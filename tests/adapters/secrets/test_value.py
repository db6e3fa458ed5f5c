"""A value is the secret itself, unless it is a name."""

from __future__ import annotations

from narthex.adapters.secrets.value import read_value


def test_a_value_is_the_secret() -> None:
    """Also one that looks like another kind of URL."""
    assert read_value("gcp-secret") == "gcp-secret"
    assert read_value("postgresql://u:p@h/d") == "postgresql://u:p@h/d"


def test_a_name_is_read() -> None:
    """By the given reader."""
    assert read_value("gcp-secret://projects/p/secrets/s", lambda name: f"<{name}>") == (
        "<gcp-secret://projects/p/secrets/s>"
    )
