"""The addressee of a message, and texts that are not an address."""

from __future__ import annotations

import pytest

from narthex.domain.mentions import mentioned, unknown_addressee

AGENTS = {"parrot": 1, "gpt-4.1": 1}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("@parrot hi", "parrot"),
        ("hi @parrot!", "parrot"),
        ("@nosuch and @gpt-4.1: hello", "gpt-4.1"),
        ("parrot", None),
        ("mail@parrot", None),
    ],
)
def test_an_agent_is_mentioned_anywhere(text: str, name: str | None) -> None:
    """The first one that there is."""
    assert mentioned(text, AGENTS) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("@nosuch", "nosuch"),
        ("@nosuch please help", "nosuch"),
        ("  @no-such.one, please", "no-such.one"),
        ("@parot: hello", "parot"),
        ("@parrot hi", None),
        ("@nosuch ask @parrot", None),
        ("ask @nosuch", None),
        ("@dataclass\nclass A: ...", None),
        ("@app.route('/')\ndef home(): ...", None),
        ("@", None),
        ("@ nosuch", None),
        ("", None),
        ("@" + "x" * 70, None),
    ],
)
def test_an_unknown_name_counts_at_the_beginning_only(text: str, name: str | None) -> None:
    """A decorator in pasted code, an e-mail address and a name in the middle are not addresses."""
    assert unknown_addressee(text, AGENTS) == name
