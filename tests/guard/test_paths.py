"""Which paths a guard admits to."""

from __future__ import annotations

import pytest

from narthex.guard.paths import PathPatterns

PATTERNS = PathPatterns(["/ws", "/rooms/{room}/live", "/feed/*"])


@pytest.mark.parametrize("path", ["/ws", "/rooms/7/live", "/rooms/a b/live", "/feed/", "/feed/a/b"])
def test_matches(path: str) -> None:
    """An exact path, one segment for a parameter, any rest for `*`."""
    assert PATTERNS.match(path)


@pytest.mark.parametrize(
    "path",
    ["/ws/", "//ws", "/WS", "/ws\n", "/rooms//live", "/rooms/7/8/live", "/rooms/7/live/", "/feed", "", "/"],
)
def test_variants_do_not_match(path: str) -> None:
    """A variant of a path is another path, which the guard refuses."""
    assert not PATTERNS.match(path)


@pytest.mark.parametrize("pattern", ["ws", "", "*", "/a*/b"])
def test_bad_patterns(pattern: str) -> None:
    """A pattern that could not match as meant is a mistake of the program."""
    with pytest.raises(ValueError, match="path"):
        PathPatterns([pattern])


@pytest.mark.parametrize(
    "path",
    [
        "/feed/../ws",
        "/feed/a/..",
        "/feed/./a",
        "/rooms/../live",
        "/rooms/./live",
        "/feed/..;/ws",
        "/rooms/..;x=1/live",
        "/feed/a;b/..;",
        "/feed/a\\..\\..\\ws",
        "/feed/..\\ws",
    ],
)
def test_dot_segments_match_no_wildcard(path: str) -> None:
    """A server behind that resolves them would serve another path than the guard matched."""
    assert path not in PATTERNS
    for other in ("/feed/.hidden", "/feed/...", "/feed/..a", "/feed/a..;b", "/rooms/a..b/live"):
        assert other in PATTERNS


def test_star_alone_below_the_root_matches_every_path() -> None:
    """`/*` guards every WebSocket of an application."""
    assert PathPatterns(["/*"]).match("/any/thing")
