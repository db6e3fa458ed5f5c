"""Makes output printable: characters that the terminal's encoding lacks are replaced and never an error.

Not here: colours (rich and the log look at the terminal themselves). Rules: standard library only.
"""

from __future__ import annotations

import codecs
from typing import Final, TextIO

HANDLER: Final = "narthex-plain"
_PLAIN: Final = {"…": "...", "–": "-", "—": "-", "×": "x", "·": "-", "→": "->", "“": '"', "”": '"', "’": "'"}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """A codec error handler: typographic signs become ASCII, anything else an escape that JSON reads too."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(sign) or _escaped(sign) for sign in text), error.end


def _escaped(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


codecs.register_error(HANDLER, _plain)


def make_printable(stream: TextIO | None) -> None:
    """Let `stream` replace what its encoding lacks. A stream that is none, or cannot be changed, stays as it is."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None and getattr(stream, "errors", "") == "strict":
        reconfigure(errors=HANDLER)
