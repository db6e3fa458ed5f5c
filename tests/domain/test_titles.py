"""Titles of threads: whole words of the question, and of the answer if the question is short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.titles import TITLE_CHARS, says_little, title_of


@pytest.mark.parametrize(
    ("question", "answer", "title"),
    [
        ("How healthy is this gateway right now?", "# Health", "How healthy is this gateway right now?"),
        ("Hi! Can you help me? I have a question.", "", "Hi! Can you help me?"),
        ("@concierge  who am I\nplease", "", "who am I"),
        ("@concierge health", "The gateway is **healthy**. All is well.", "health: The gateway is healthy."),
        ("help", "## What I can do\n\n- this", "help: What I can do"),
        ("hello!", "", "hello!"),
        ("```python\nx = 1\n```\nWhy does this fail at once?", "", "Why does this fail at once?"),
        ("```\nonly code\n```", "It prints nothing.", "It prints nothing."),
        (
            "> see [the long plan](https://example.org/x) and *act* on it",
            "",
            "see the long plan and act on it",
        ),
        ("snake_case and __init__ stay", "", "snake_case and init stay"),
        ("", "", ""),
        ("???", "", ""),
        (
            "Please compare the two proposals for the new billing system and tell me which one is cheaper",
            "",
            "Please compare the two proposals for the new billing…",
        ),
        ("x" * 100, "", "x" * 59 + "…"),
    ],
)
def test_titles(question: str, answer: str, title: str) -> None:
    """What a thread is called."""
    assert title_of(question, answer) == title


@given(st.text(), st.text())
def test_a_title_is_short_and_one_line(question: str, answer: str) -> None:
    """For any text."""
    title = title_of(question, answer)
    assert len(title) <= TITLE_CHARS
    assert len(title.splitlines()) <= 1
    assert title == title.strip()


def test_what_says_little() -> None:
    """One or two words."""
    assert [says_little(title) for title in ("", "hi", "hi there", "hi there you")] == [
        True,
        True,
        True,
        False,
    ]
