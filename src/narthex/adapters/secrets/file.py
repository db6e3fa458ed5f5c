"""A secret in a file (`<VARIABLE>_FILE`): Docker and Kubernetes mount them so.

Rules: one trailing line break is dropped, because editors and `echo` add it; an empty file is an error, because
an unset secret must be said, never guessed; the text never appears in an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from narthex.errors import ConfigError

MAX_SECRET_BYTES: Final = 64 * 1024  # Secret Manager's own bound; a longer file is the wrong file


def read_file(path: Path) -> str:
    """The secret in `path`.

    Raises:
        ConfigError: it cannot be read, is empty, too long or not UTF-8; one problem, a sentence that names
            the path.
    """
    try:
        with path.open("rb") as handle:
            raw = handle.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            [f"the file {path} cannot be read ({reason}). Mount it, or fix its path."]
        ) from error
    if len(raw) > MAX_SECRET_BYTES:
        raise ConfigError([f"the file {path} is longer than 64 KB. Name a file with the secret only."])
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        # `from None`: the library's message quotes the bytes.
        raise ConfigError([f"the file {path} is not UTF-8 text. Write the secret as text."]) from None
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise ConfigError([f"the file {path} is empty. Write the secret into it, or unset the variable."])
    return text
