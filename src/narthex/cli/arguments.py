"""Reads arguments of `doctor`, `gate` and `probe`: times, tokens and headers.

Not here: the commands. Rules: a secret can come from stdin or a file, because arguments show up in process lists;
a value that cannot be sent is refused before anything is sent.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path
from typing import Final

from narthex.domain.carriers import E2E_KEY_HEADER, E2E_TEST_RUN_HEADER
from narthex.domain.endpoints import http_url
from narthex.errors import EXIT_USAGE, ClientError

_TIME: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)?")
_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
MAX_HEADER_BYTES: Final = 16_384  # the most that a narthex reads of a request head


def seconds_of(option: str, text: str) -> float:
    """`5`, `2.5s`, `250ms`, `10m` or `1h` in seconds; 0 is allowed. Raises ClientError."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ClientError(
            "bad_time",
            f"--{option}: {text[:20]!r} is not a duration.",
            "Give one like 250ms, 5s, 10m or 1h.",
        )
    return float(match[1]) * _UNITS[match[2] or ""]


def given_token(text: str) -> str:
    """A token as given, from `-` (stdin) or `@FILE`. Raises ClientError, which never repeats it."""
    if text == "-":
        text = sys.stdin.readline()
    elif text.startswith("@"):
        text = _content(Path(text[1:]), "The token file", "Check the path after the @.")
    text = text.strip()
    if len(text) > MAX_HEADER_BYTES or not text.isascii() or not text.isprintable() or " " in text:
        raise ClientError(
            "bad_token",
            "The token contains characters that a header cannot carry, or is too long.",
            "Give the token exactly as it was issued.",
        )
    return text


def given_headers(lines: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """`Name: value` lines, each as a pair. Raises ClientError, which never repeats a value.

    An end-to-end key without a test run gets one: every connection would be another user's otherwise, and none would
    find the runs of the one before.
    """
    found: list[tuple[str, str]] = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or _HEADER_NAME.fullmatch(name.strip()) is None or _CONTROL.search(value):
            raise ClientError("bad_header", "--header is not a header line.", "Give it as 'Name: value'.")
        if len(value) > MAX_HEADER_BYTES:
            raise ClientError("bad_header", f"The value of {name.strip()} is too long.", "Shorten it.")
        found.append((name.strip(), value.strip()))
    names = {name.lower() for name, _ in found}
    if E2E_KEY_HEADER in names and E2E_TEST_RUN_HEADER not in names:
        found.append(("X-E2E-Test-Run", f"cli-{secrets.token_hex(8)}"))
    return tuple(found)


def writable(path: Path | None, what: str = "a report") -> None:
    """Find out that `path` cannot be written before minutes of work, not after them. Raises ClientError.

    None, and `-` for standard output, are not looked at.
    """
    if path is None or str(path) == "-":
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ClientError(
            "bad_path", f"The folder {path.parent} for {what} does not exist.", "Create the folder first."
        )
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise ClientError("bad_path", f"{path} cannot be written.", "Name a file that this user can write.")


def given_text(path: Path | None, what: str) -> str:
    """The content of a file without its outer white space; empty for None. Raises ClientError, never quoting it."""
    if path is None:
        return ""
    text = _content(path, f"{what} {path}", "Check the path.").strip()
    if not text:
        raise ClientError("bad_file", f"{what} {path} is empty.", "Name a file that is not empty.")
    return text


def _content(path: Path, name: str, remedy: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror or "") if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ClientError("bad_file", f"{name} cannot be read: {why}.", remedy) from error


def usage(error: ClientError) -> int:
    """Report a wrong argument; exit 2, so that it is not taken for a finding."""
    print(f"error: {error.message}\nremedy: {error.remedy}", file=sys.stderr)
    return EXIT_USAGE


def base_url(text: str) -> str:
    """The URL of a gateway without a slash at its end. Raises ClientError."""
    if http_url(text) is None:
        raise ClientError(
            "bad_url",
            f"{text[:60]!r} is not an http:// or https:// URL of a gateway.",
            "Give it as http://host:port.",
        )
    return text.rstrip("/")
