"""Joins characters that arrive in two halves: a JSON writer that cuts between the two escapes of an emoji sends a lone
surrogate in each of two strings. A half that stays alone becomes U+FFFD.
"""

from __future__ import annotations

from typing import Any


class Halves:
    """One stream of text."""

    __slots__ = ("_high",)

    def __init__(self) -> None:
        self._high = ""

    def feed(self, text: str) -> str:
        """Take the next piece; returns the text whose characters are complete."""
        if self._high:
            text, self._high = self._high + text, ""
        elif text.isascii():
            return text
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._high = text[:-1], text[-1]
        return joined(text)

    def end(self) -> str:
        """The text is over: a half that is left becomes U+FFFD."""
        left, self._high = self._high, ""
        return joined(left)


def joined(text: str) -> str:
    """The text with each pair of surrogates as its character, and lone ones as U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def cleaned(value: Any) -> Any:
    """A decoded JSON value with every text `joined`."""
    if isinstance(value, str):
        return joined(value)
    if isinstance(value, dict):
        return {joined(str(name)): cleaned(part) for name, part in value.items()}
    if isinstance(value, list):
        return [cleaned(part) for part in value]
    return value
