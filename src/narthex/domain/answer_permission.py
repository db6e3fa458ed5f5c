"""Decides which users may answer an agent's question: a property of the question, which the agent sets.

Not here: whether the answer fits (`answer_schema.py`). Rule: the default is the person who began the run and the
thread's owners, because an approval spends what is theirs; a member who was added to read along approves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MAX_PERMISSION_CHARACTERS: Final = 256
ASKER: Final = "asker"
OWNER: Final = "owner"
MEMBER: Final = "member"
PERMISSION: Final = "permission:"
"""With the permission's name behind it. Empty, the default: the asker and the thread's owners."""


def answerer_fault(answerable_by: str) -> str:
    """The reason why `answerable_by` is invalid; empty when it is valid."""
    if answerable_by in ("", ASKER, OWNER, MEMBER):
        return ""
    name = answerable_by.removeprefix(PERMISSION)
    if name != answerable_by and 0 < len(name) <= MAX_PERMISSION_CHARACTERS and name.isprintable():
        return ""
    return "answerable_by must be asker, owner, member or permission:<name>."


def may_answer(answerable_by: str, *, asker: bool, role: str, may: Callable[[str], bool]) -> bool:
    """Whether a member of the thread may answer its question.

    Args:
        answerable_by: the question's.
        asker: they began the run that asks.
        role: theirs in the thread.
        may: whether they have a permission.
    """
    if answerable_by == ASKER:
        return asker
    if answerable_by == OWNER:
        return role == "owner"
    if answerable_by.startswith(PERMISSION):
        return may(answerable_by.removeprefix(PERMISSION))
    return answerable_by == MEMBER or asker or role == "owner"


def answerer_words(answerable_by: str) -> str:
    """The users who may answer, as the end of a sentence."""
    if answerable_by.startswith(PERMISSION):
        return f"members who have the permission {answerable_by.removeprefix(PERMISSION)}"
    return {
        ASKER: "the user who started the run",
        OWNER: "an owner of the thread",
        MEMBER: "any member of the thread",
    }.get(answerable_by, "the user who started the run, or an owner of the thread")
