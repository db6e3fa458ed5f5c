"""Which users may answer an agent's question: every rule, for every kind of member."""

from __future__ import annotations

import pytest

from narthex.domain.answer_permission import (
    MAX_PERMISSION_CHARACTERS,
    answerer_fault,
    answerer_words,
    may_answer,
)


@pytest.mark.parametrize(
    ("rule", "asker", "owner", "member", "holder"),
    [
        ("", True, True, False, False),
        ("asker", True, False, False, False),
        ("owner", False, True, False, False),
        ("member", True, True, True, True),
        ("permission:approve", False, False, False, True),
        ("permission:other", False, False, False, False),
    ],
)
def test_the_rule_decides(rule: str, asker: bool, owner: bool, member: bool, holder: bool) -> None:
    """The person who began the run, an owner, any member, a member who has the permission."""

    def may(*, asks: bool = False, role: str = "member", has: str = "") -> bool:
        return may_answer(rule, asker=asks, role=role, may=lambda name: name == has)

    assert (may(asks=True), may(role="owner"), may(), may(has="approve")) == (asker, owner, member, holder)


def test_a_rule_is_one_of_the_words_or_names_a_permission() -> None:
    """A permission's name has 1 to 256 printable characters."""
    longest = "permission:" + "p" * MAX_PERMISSION_CHARACTERS
    for rule in ("", "asker", "owner", "member", "permission:p", longest):
        assert answerer_fault(rule) == ""
    for rule in ("Asker", "anybody", "permission:", longest + "p", "permission:a\nb", "approve"):
        assert "must be asker, owner, member or permission:<name>" in answerer_fault(rule)


def test_the_rule_in_words() -> None:
    """As the end of a refusal's sentence."""
    assert answerer_words("asker") == "the user who started the run"
    assert answerer_words("owner") == "an owner of the thread"
    assert answerer_words("member") == "any member of the thread"
    assert answerer_words("permission:x") == "members who have the permission x"
    assert answerer_words("") == "the user who started the run, or an owner of the thread"
