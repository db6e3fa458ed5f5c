"""A thread's title, made from its first exchange in words.

Not here: when a thread gets it (`app/starting.py`, `app/runs/naming.py`). Rules: whole words, no Markdown, at most
`TITLE_CHARS` characters; a question of one or two words says little, so the answer's heading or first sentence
follows it.
"""

from __future__ import annotations

import re
from typing import Final

TITLE_CHARS: Final = 60
FEW_WORDS: Final = 3
_READ_CHARS: Final = 2_000  # of each text: a title comes from its beginning

_FENCED: Final = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_LINK: Final = re.compile(r"!?\[([^\]\n]*)\]\([^)\n]*\)")
_ADDRESS: Final = re.compile(r"^@\S+\s+")
_LINE_SIGNS: Final = re.compile(r"^\s*(?:#{1,6}\s+|>\s*|[-*+]\s+|\d{1,3}[.)]\s+|\|)")
_SIGNS: Final = re.compile(r"(?<!\w)[*_`~|]+(?=\w)|(?<=[\w.!?,;:)])[*_`~|]+(?!\w)")
_SENTENCE_END: Final = re.compile(r"[.!?。？！](?=\s|$)")


def title_of(question: str, answer: str = "") -> str:
    """The title of a thread with this beginning; empty where there are no words at all.

    Args:
        question: the first message.
        answer: the agent's answer, Markdown; empty while there is none.
    """
    asked = _first_words(_ADDRESS.sub("", question.lstrip()))
    if asked and len(asked.split()) >= FEW_WORDS:
        return _cut(asked)
    said = _first_words(answer)
    if not said:
        return _cut(asked)
    return _cut(f"{asked.rstrip('.!?')}: {said}" if asked else said)


def says_little(title: str) -> bool:
    """Whether a title has so few words that the answer should be added."""
    return len(title.split()) < FEW_WORDS


def _first_words(text: str) -> str:
    """The first sentence of the first line that has words."""
    plain = _LINK.sub(r"\1", _FENCED.sub("", text[:_READ_CHARS]))
    for line in plain.splitlines():
        words = " ".join(_SIGNS.sub("", _LINE_SIGNS.sub("", line)).split())
        if not any(sign.isalnum() for sign in words):
            continue
        ends = (words[: match.end()] for match in _SENTENCE_END.finditer(words))
        return next((sentence for sentence in ends if not says_little(sentence)), words)
    return ""


def _cut(text: str) -> str:
    if len(text) <= TITLE_CHARS:
        return text
    whole = text[: TITLE_CHARS - 1].rsplit(None, 1)
    kept = whole[0] if len(whole) == 2 and len(whole[0]) > TITLE_CHARS // 2 else text[: TITLE_CHARS - 1]
    return kept.rstrip(" ,;:–-") + "…"
