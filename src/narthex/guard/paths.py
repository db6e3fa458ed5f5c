"""Matches the WebSocket paths that a guard admits to.

Rules: a path is exact; `{name}` matches one segment, `*` at the end matches any rest. Any other path is refused,
because an application may route a variant of a path (`/ws/`, `//ws`) to the same handler, and a guard that passes what
it does not know is open to it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_DOTS: Final = re.compile(r"[/\\]\.\.?(?=[/\\;]|\Z)")
_PARAMETER: Final = re.compile(r"\{[^{}/]+\}")


class PathPatterns:
    """A set of patterns.

    Args:
        patterns: see the module.

    Raises:
        ValueError: a pattern does not begin with `/`, or has a `*` that is not at its end.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self._exact = frozenset(one for one in patterns if "{" not in one and "*" not in one)
        self._compiled = [_compiled(one) for one in patterns if one not in self._exact]
        for one in self._exact:
            _check(one)

    def match(self, path: str) -> bool:
        """Whether a percent-decoded path matches one of the patterns.

        A segment `.` or `..` is matched by no parameter and no `*`: the server behind may resolve it to another path.
        So may one with a parameter (`..;`, Tomcat) or behind a backslash (the URL class of browsers and Node).
        """
        if path in self._exact:
            return True
        if "." in path and _DOTS.search(path):
            return False
        return any(pattern.fullmatch(path) for pattern in self._compiled)

    def example(self) -> str:
        """A path that the first pattern matches."""
        return _PARAMETER.sub("x", self.patterns[0]).rstrip("*")

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self.match(path)


def _check(pattern: str) -> None:
    if not pattern.startswith("/"):
        raise ValueError(f"The path {pattern!r} does not begin with `/`.")


def _compiled(pattern: str) -> re.Pattern[str]:
    _check(pattern)
    rest = pattern.endswith("*")
    body = pattern[:-1] if rest else pattern
    if "*" in body:
        raise ValueError(f"The path {pattern!r} has a `*` that is not at its end.")
    literal = map(re.escape, _PARAMETER.split(body))
    # Not `.`: a line break in a path must not make two readings of it.
    return re.compile("[^/]+".join(literal) + (r"[\s\S]*" if rest else ""))
