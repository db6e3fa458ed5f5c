"""Redaction: the one place that decides what a log record may show. Every record passes through it.

Not here: how records are rendered and written (`logging.py`).

Rules, in this order:

1. A member whose *name* could hold a secret shows `[redacted]` whatever its value is.
2. Of `headers` only the values of `ALLOWED_HEADERS` are kept; of the others, the names.
3. In every text, each live secret (`register`) and each piece of 8 characters of one is masked, then what looks
   like a credential: JWTs, Bearer and Basic values, cookies, query strings, `user:password@`, long random words.
4. Text is bounded and holds no control characters: one record is one line (CVE-2020-7694).

Nothing here raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

MASK: Final = "[redacted]"
PIECE: Final = 8
"""Characters: a prefix of this length already narrows a search, and tests look for pieces of this length."""
MIN_SECRET: Final = 6
"""Shorter live secrets are not masked by value: they would mask ordinary words."""
MAX_SECRETS: Final = 256  # settings hold a dozen, the store a few keys per purpose
MAX_TEXT: Final = 4_000
MAX_TRACEBACK: Final = 16_000
MAX_MEMBERS: Final = 60
MAX_DEPTH: Final = 4

ALLOWED_HEADERS: Final = frozenset(
    {
        *("accept", "accept-encoding", "accept-language", "connection", "content-length"),
        *("content-type", "host", "origin", "retry-after", "sec-websocket-extensions"),
        *("sec-websocket-version", "server", "upgrade", "user-agent", "x-e2e-test-run"),
    }
)
_SECRET_NAMES: Final = frozenset(
    {
        *("authorization", "cookie", "cookies", "set_cookie", "sec_websocket_protocol", "subprotocol"),
        *(
            *("subprotocols", "x_e2e_bypass_key", "token", "jwt", "ticket", "key", "secret"),
            *("password", "passwd"),
        ),
        *("credential", "credentials", "query", "query_string", "body", "payload", "jwk", "jwks", "pem"),
        *("private_key", "assertion", "session", "nonce", "apikey", "api_key"),
    }
)
_SECRET_ENDINGS: Final = (
    *("_token", "_secret", "_key", "_password", "_ticket", "_cookie", "_jwt", "_hash", "_jwk"),
)
# Ids are random by design and meant to be read; only rule 3's "long random words" leaves them alone.
_ID_NAMES: Final = frozenset({"client", "node", "epoch", "digest", "channel", "trace", "span", "commit"})

_PATTERNS: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # A JWT, whole or cut, raw or base64url once more ("eyJ" encodes to "ZXlK").
        (r"(?:eyJ|ZXlK)[A-Za-z0-9_+/=.-]{4,}", MASK),
        (r"(?i)\b(bearer|basic|digest|dpop)(\s+|%20)[^\s\"',;<>\]]+", r"\1 " + MASK),
        (r"\bjwt\.[A-Za-z0-9_+/=.-]{4,}", "jwt." + MASK),
        # Header lines and reprs of headers: the value runs to the end of the line or of the quotes.
        (
            (
                r"(?i)\b(authorization|(?:set-)?cookie|sec-websocket-protocol|x-e2e-bypass-key)"
                r"(['\"]?\s*[:=,]\s*(?:b(?=['\"]))?)(\"[^\"\n]*\"?|'[^'\n]*'?|[^\n'\"]+)"
            ),
            r"\1\2" + MASK,
        ),
        # name=value and "name": "value" of anything that is called like a secret.
        (
            (
                # Begins only where a name does: from within one it would be tried again at every hyphen.
                r"(?i)(?<![\w-])([\w-]*(?:token|ticket|secret|passw(?:or)?d|api[_-]?key|bypass[_-]?key|assertion|jwt))"
                r"(['\"]?\s*[=:]\s*b?['\"]?)(?!\[redacted\])[^\s'\"&;,)}\]]{4,}"
            ),
            r"\1\2" + MASK,
        ),
        (r"(?<=[\w/*.])\?[\w%.~\[\]-]+=[^\s\"'<>]*", "?" + MASK),
        (r"(?<=://)[^/\s@]+@", MASK + "@"),
        (r"-----BEGIN [A-Z ]+-----[\s\S]*?(?:-----END [A-Z ]+-----|\Z)", MASK),
    )
)
# Every pattern above needs one of these: a character that no plain word has, or the beginning of a token.
_SUSPECT: Final = re.compile(r"[\s?@=:,%]|eyJ|ZXlK|jwt\.")
MIN_RANDOM_WORD: Final = 16  # shorter words that mix cases and digits are names (`Utf8JsonParser`)
LONG_RANDOM_WORD: Final = 20  # from here on one of each class is enough: 120 bits of base64 are 20 characters
_WORD: Final = re.compile(r"[A-Za-z0-9_+=-]{16,}")
# `('name', 'value')` and `(b'name', b'value')`: how a list of headers looks in an f-string.
_PAIR: Final = re.compile(r"""\((b?(['"]))([A-Za-z0-9-]{1,64})\2, (b?(['"]))((?:(?!\5).)*)\5\)""")
_RUN: Final = re.compile(r"\S{8,}")
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Redactor:
    """Holds the live secrets and masks them, and all that looks like one."""

    def __init__(self) -> None:
        self._secrets: list[str] = []
        self._pieces: set[str] = set()

    def register(self, secrets: Iterable[str]) -> None:
        """Mask these values from now on (keys of the settings, the admin key, signing keys)."""
        for secret in secrets:
            if len(secret) < MIN_SECRET or secret in self._secrets or len(self._secrets) >= MAX_SECRETS:
                continue
            self._secrets.append(secret)
            windows = (secret[i : i + PIECE] for i in range(len(secret) - PIECE + 1))
            self._pieces.update(piece for piece in windows if not _is_plain_word(piece))
        self._secrets.sort(key=len, reverse=True)

    def forget(self) -> None:
        """Drop every registered secret (tests)."""
        self._secrets.clear()
        self._pieces.clear()

    def text(self, text: str, *, ids: bool = False, limit: int = MAX_TEXT) -> str:
        """`text` with secrets masked, bounded to `limit` characters; `ids` keeps long random words."""
        text = text[
            : limit + MAX_TEXT
        ]  # bounds the work; the last cut is after masking, so no half secret stays
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, MASK)
        if self._pieces:
            text = _RUN.sub(self._mask_pieces, text)
        if _SUSPECT.search(text):
            for pattern, replacement in _PATTERNS:
                text = pattern.sub(replacement, text)
            text = _PAIR.sub(_mask_pair, text)
        if not ids and len(text) >= MIN_RANDOM_WORD:
            text = _WORD.sub(_mask_random, text)
        return text if len(text) <= limit else text[:limit] + "…"

    def line(self, text: str, *, ids: bool = False) -> str:
        """As `text`, on one line: control characters are escaped."""
        if len(text) >= MIN_SECRET:
            text = self.text(text, ids=ids)
        return text if text.isprintable() else _CONTROL.sub(_escape, text)

    def _mask_pieces(self, match: re.Match[str]) -> str:
        run = match[0]
        pieces = self._pieces
        hits = [i for i in range(len(run) - PIECE + 1) if run[i : i + PIECE] in pieces]
        if not hits:
            return run
        covered = {i + offset for i in hits for offset in range(PIECE)}
        parts: list[str] = []
        for index, character in enumerate(run):
            if index not in covered:
                parts.append(character)
            elif not parts or parts[-1] != MASK:
                parts.append(MASK)
        return "".join(parts)

    def value(self, value: Any, name: str = "", depth: int = 0) -> Any:
        """A JSON-able copy of `value` with every text masked; `name` is the member it stands under."""
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self.line(value, ids=_is_id(name))
        if depth >= MAX_DEPTH:
            return "…"
        if isinstance(value, Mapping):
            if name == "headers":
                return self.headers(value.items())
            return self.members(value, depth + 1)
        if isinstance(value, list | tuple | set | frozenset):
            if name == "headers":
                return self.headers(value)
            return [self.value(part, name, depth + 1) for part in list(value)[:MAX_MEMBERS]]
        if isinstance(value, BaseException):
            return self.line(f"{type(value).__name__}: {value}")
        return self.line(as_text(value), ids=_is_id(name))

    def members(self, members: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
        """A copy of a record's members by the rules above."""
        kept: dict[str, Any] = {}
        for name, value in list(members.items())[:MAX_MEMBERS]:
            # The names of a record's own members are words of our code; deeper ones may be a client's.
            label = name if depth == 0 and isinstance(name, str) else self.line(str(name), ids=True)
            kept[label] = MASK if is_secret_name(label) and value else self.value(value, label, depth)
        return kept

    def headers(self, headers: Iterable[Any]) -> dict[str, str]:
        """Header names with the values of the allowed ones; the others show only that they are there."""
        kept: dict[str, str] = {}
        for entry in list(headers)[:MAX_MEMBERS]:
            if not isinstance(entry, tuple | list) or len(entry) != 2:
                continue
            name = self.line(as_text(entry[0]).lower())
            kept[name] = self.line(as_text(entry[1])) if name in ALLOWED_HEADERS else MASK
        return kept


@lru_cache(maxsize=1024)
def is_secret_name(name: str) -> bool:
    """Whether a member of this name could hold a secret."""
    plain = name.lower().replace("-", "_")
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)


def _is_id(name: str) -> bool:
    return name.endswith("_id") or name in _ID_NAMES or name == "logger"


def _is_plain_word(piece: str) -> bool:
    # A secret such as "development-key" must not mask the word "development" in every record.
    letters = piece.replace("-", "").replace("_", "")
    return letters.isalpha() and letters.islower()


def _mask_random(match: re.Match[str]) -> str:
    """Mask a word that no person would write: long hex, or upper case, lower case and digits mixed."""
    word = match[0]
    if _HEX.fullmatch(word):
        return MASK if len(word) > 32 else word  # 32 hex characters are a trace id or a UUID
    least = 1 if len(word) >= LONG_RANDOM_WORD else 2
    counts = (sum(map(test, word)) for test in (str.isupper, str.islower, str.isdigit))
    return MASK if all(count >= least for count in counts) else word


def _mask_pair(match: re.Match[str]) -> str:
    name = match[3].lower()
    return (
        match[0]
        if name in ALLOWED_HEADERS or match[6] == MASK
        else f"({match[1]}{match[3]}{match[2]}, {MASK})"
    )


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "backslashreplace").decode("ascii", "replace")


def as_text(value: object) -> str:
    """`value` as text, whatever it is; never raises. Not redacted."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except Exception:  # noqa: BLE001,RUF100 - a broken __str__ must not cost the record
        return f"<{type(value).__name__}>"


REDACTOR: Final = Redactor()
"""The process's redactor: logging, traces and error reports all use this one."""
