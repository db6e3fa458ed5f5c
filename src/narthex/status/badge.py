"""Draws the badge: an SVG image with the state now, for a README or an intranet page, and the page's icon.

Rules: no script, no font and no style from elsewhere; a screen reader gets the text as the image's title.
"""

from __future__ import annotations

from html import escape
from typing import Final

from narthex.domain.availability import ServiceState
from narthex.status.words import Words

_COLOURS: Final = {
    ServiceState.OPERATIONAL: "#23683f",
    ServiceState.DEGRADED: "#8a5a13",
    ServiceState.OUTAGE: "#9a2a20",
    ServiceState.MAINTENANCE: "#2c4a52",
    ServiceState.UNKNOWN: "#5c574c",
}
_GLYPH: Final = 6.6  # width of a letter at 11 px in the common sans-serif fonts
_NARROW: Final = frozenset("filjtI.,:;|!' ()")
MAX_NAME: Final = 40


def badge(name: str, state: ServiceState, words: Words) -> str:
    """The badge."""
    name = name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "…"
    text = words.states[state]
    left, right = _width(name), _width(text)
    whole, title = left + right, escape(f"{name}: {text}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="20" viewBox="0 0 {whole} 20" role="img" '
        f'aria-label="{title}"><title>{title}</title><clipPath id="c"><rect width="{whole}" height="20" rx="4"/>'
        f'</clipPath><g clip-path="url(#c)"><rect width="{left}" height="20" fill="#3b3a36"/>'
        f'<rect x="{left}" width="{right}" height="20" fill="{_COLOURS[state]}"/></g>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2}" y="14" textLength="{left - 12}" lengthAdjust="spacingAndGlyphs">{escape(name)}</text>'
        f'<text x="{left + right / 2}" y="14" textLength="{right - 12}" lengthAdjust="spacingAndGlyphs">'
        f"{escape(text)}</text></g></svg>\n"
    )


def icon(state: ServiceState) -> str:
    """The page's icon: a dot in the colour of the state."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" '
        f'fill="{_COLOURS[state]}" stroke="#fff"/></svg>\n'
    )


def _width(text: str) -> int:
    return round(sum(_GLYPH * (0.6 if letter in _NARROW else 1.0) for letter in text)) + 12
