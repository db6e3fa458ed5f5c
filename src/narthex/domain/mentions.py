"""Finds the addressee of a message: `@name` of an agent anywhere in it, or an unknown name at its beginning.

Rules: a name is an agent's or it is not, so that decorators, e-mail addresses and CSS in pasted code have no addressee;
an unknown name counts only as the first word of a sentence (`@nosuch please help`), where the author meant an agent.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Final

_LEADING: Final = re.compile(r"@([A-Za-z0-9][A-Za-z0-9_.\-]{0,63}?)[,.:;!?]*(?=$|[ \t]+\S)")


def mentioned(text: str, agents: Container[str]) -> str | None:
    """The first agent that `text` mentions."""
    for word in text.split():
        if word.startswith("@") and (name := word[1:].rstrip(",.:;!?")) in agents:
            return name
    return None


def unknown_addressee(text: str, agents: Container[str]) -> str | None:
    """The name that `text` begins with, `@` left out, if it mentions no agent at all."""
    match = _LEADING.match(text.strip())
    return match[1] if match is not None and mentioned(text, agents) is None else None
