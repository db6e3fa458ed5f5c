"""Parses the places in a request that can carry a credential, each by its RFC, and verifies none.

Not here: verifying a credential (adapters/tokens), whether its carrier may be used (`admission`). Rules: a
credential never appears in a repr or a message; a malformed carrier is named in the refusal, with the accepted form,
and never skipped.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl, unquote_plus

import msgspec

from narthex.domain.refusals import Refusal

AUTHORIZATION: Final = "authorization"
SUBPROTOCOL: Final = "subprotocol"
TICKET: Final = "ticket"
COOKIE: Final = "cookie"
E2E_KEY: Final = "e2e_key"
CONNECT_TOKEN: Final = "connect_token"  # noqa: S105 - a carrier's name
CONNECT_HEADER: Final = "connect_header"

HANDSHAKE_CARRIERS: Final = (AUTHORIZATION, SUBPROTOCOL, TICKET, COOKIE, E2E_KEY)
IN_BAND_CARRIERS: Final = (CONNECT_TOKEN, CONNECT_HEADER)

JWT_AUTH: Final = "jwt-auth"
EXPLAIN: Final = "narthex.explain"
PROTOBUF: Final = "centrifuge-protobuf"
SUBPROTOCOL_FORM: Final = "Offer the subprotocols `jwt-auth, jwt.<token>`, the token raw or base64url."

SESSION_COOKIE: Final = "narthex_session"  # set by /auth/login over http: HttpOnly, SameSite
HOST_SESSION_COOKIE: Final = (
    "__Host-narthex_session"  # over https: Secure, and browsers take it from this host only
)
E2E_KEY_HEADER: Final = "x-e2e-bypass-key"
E2E_TEST_RUN_HEADER: Final = "x-e2e-test-run"
_TEST_RUN: Final = re.compile(r"[A-Za-z0-9._~-]{1,64}")

_WANTED: Final = frozenset(
    {
        "host",
        "origin",
        "authorization",
        "cookie",
        "sec-websocket-protocol",
        "sec-fetch-site",
        "traceparent",
        "tracestate",
        "x-forwarded-for",
        "x-forwarded-proto",
        E2E_KEY_HEADER,
        E2E_TEST_RUN_HEADER,
    }
)
_B64TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750 section 2.1
_TCHARS: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
# Only at the start of a word: from every `eyJ` of `eyJeyJeyJ…` a search to the end would be quadratic.
_JWT_ANYWHERE: Final = re.compile(
    r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]*"
)
_TOKEN_PARAMETERS: Final = frozenset({"access_token", "token", "jwt", "id_token", "bearer", "authorization"})
_MAX_PARAMETERS: Final = 32  # nothing here takes more than three

Headers = dict[str, list[str]]
"""The headers that admission looks at: lower-case name → values in order."""


class Credential(msgspec.Struct, frozen=True):
    """A credential as received, and its carrier."""

    carrier: str
    value: str

    def __repr__(self) -> str:
        """Without the value: a repr ends up in tracebacks."""
        return f"Credential({self.carrier!r})"


class ParsedCarriers(msgspec.Struct, frozen=True, kw_only=True):
    """The credentials and subprotocols of a request.

    Attributes:
        credentials: in the order of `HANDSHAKE_CARRIERS`.
        subprotocol: the one to select, None for none.
        explain: the client offered `narthex.explain`.
        protobuf: the client offered `centrifuge-protobuf`.
        test_run: `X-E2E-Test-Run`, empty when it is not there.
        fault: the first carrier that is there and malformed.
        hint: the detail of the refusal when no credential was found: the nearest miss.
    """

    credentials: tuple[Credential, ...] = ()
    subprotocol: str | None = None
    explain: bool = False
    protobuf: bool = False
    test_run: str = ""
    fault: Refusal | None = None
    hint: str = ""


def admission_headers(headers: Iterable[tuple[str, str]]) -> Headers:
    """The headers that admission looks at; names are lower case already."""
    found: Headers = {}
    for name, value in headers:
        if name in _WANTED:
            if name in found:
                found[name].append(value)
            else:
                found[name] = [value]
    return found


def valid_test_run(text: str) -> bool:
    """Whether `text` can be a test run's name: 1 to 64 letters, digits, `.`, `_`, `~`, `-`."""
    return _TEST_RUN.fullmatch(text) is not None


def parse_carriers(headers: Headers, query: str, *, secure: bool = False) -> ParsedCarriers:
    """Parse all carriers of a request.

    Args:
        headers: from `admission_headers`.
        query: the raw query string without `?`.
        secure: the client uses TLS: then the plain cookie is ignored, because a neighbouring host may have set it.
    """
    reading = _CarrierParser()
    if "authorization" in headers:
        reading.authorization(headers["authorization"])
    if "sec-websocket-protocol" in headers:
        reading.subprotocols(headers["sec-websocket-protocol"])
    if query:
        reading.query(query)
    if "cookie" in headers:
        reading.cookie(headers["cookie"], secure=secure)
    if E2E_KEY_HEADER in headers:
        reading.e2e_key(headers[E2E_KEY_HEADER])
    if E2E_TEST_RUN_HEADER in headers:
        reading.test_run(headers[E2E_TEST_RUN_HEADER])
    return ParsedCarriers(
        credentials=tuple(reading.found),
        subprotocol=reading.selected,
        explain=reading.explain,
        protobuf=reading.protobuf,
        test_run=reading.run,
        fault=reading.fault,
        hint=reading.hint,
    )


def bearer_token(values: Sequence[str]) -> str | Refusal | None:
    """The token of `Authorization: Bearer` (RFC 6750 section 2.1).

    Returns:
        The token; None when the header has another scheme (such as `Basic` for a proxy); a
        refusal when it is malformed.
    """
    if len(values) > 1:
        return Refusal(code="bad_request", detail="The request has more than one Authorization header.")
    scheme, _, rest = values[0].strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    token = rest.strip()
    if _B64TOKEN.fullmatch(token) is None:
        return Refusal(code="token_malformed", detail="Authorization must be `Bearer` followed by one token.")
    return token


def connect_header(headers: Mapping[str, str] | None) -> str | Refusal | None:
    """The token of `connect.headers`, in which SDKs emulate the headers that a browser lets no page set.

    Returns:
        As `bearer_token`; None also without the header, whose name may be in any case.
    """
    values = [value for name, value in (headers or {}).items() if name.lower() == "authorization"]
    return bearer_token(values) if values else None


class _CarrierParser:
    """Collects the credentials of one request; lives as long as `parse_carriers`."""

    __slots__ = ("explain", "fault", "found", "hint", "protobuf", "run", "selected")

    def __init__(self) -> None:
        self.found: list[Credential] = []
        self.selected: str | None = None
        self.explain = False
        self.protobuf = False
        self.run = ""
        self.fault: Refusal | None = None
        self.hint = ""

    def _refuse(self, code: str, detail: str) -> None:
        if self.fault is None:
            self.fault = Refusal(code=code, detail=detail)

    def authorization(self, values: list[str]) -> None:
        token = bearer_token(values)
        if isinstance(token, Refusal):
            self.fault = self.fault or token
        elif token is None:
            self.hint = "The Authorization header uses a scheme other than Bearer."
        else:
            self.found.append(Credential(AUTHORIZATION, token))

    def subprotocols(self, values: list[str]) -> None:
        """RFC 6455 section 4.1: a comma-separated list, in one header or several."""
        names = [name for value in values for part in value.split(",") if (name := part.strip(" \t"))]
        if not all(_TCHARS.fullmatch(name) for name in names):
            self._refuse(
                "bad_request", f"An offered subprotocol is not a token (RFC 6455). {SUBPROTOCOL_FORM}"
            )
            return
        self.explain = EXPLAIN in names
        self.protobuf = PROTOBUF in names
        offered = JWT_AUTH in names
        self.selected = JWT_AUTH if offered else EXPLAIN if self.explain else None
        tokens = {name[4:] for name in names if name.startswith("jwt.") and len(name) > 4}
        if len(tokens) > 1 or (tokens and not offered):
            self._refuse("bad_request", f"Offer one token, beside `jwt-auth`. {SUBPROTOCOL_FORM}")
        elif tokens:
            self.found.append(Credential(SUBPROTOCOL, _decoded(tokens.pop())))
        elif offered or any(name == "jwt" or _JWT_ANYWHERE.match(name) for name in names):
            self.hint = f"None of the offered subprotocols contains a token. {SUBPROTOCOL_FORM}"

    def query(self, query: str) -> None:
        # Searched as a whole, decoded: a token may stand inside a parameter's JSON (the SSE URL of the SDKs).
        if _JWT_ANYWHERE.search(unquote_plus(query)):
            self._refuse("credential_in_url", "The query string contains a JWT.")
            return
        try:
            parameters = parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
        except ValueError:
            self._refuse("bad_request", f"The query string has more than {_MAX_PARAMETERS} parameters.")
            return
        tickets: list[str] = []
        for name, value in parameters:
            if name.lower() in _TOKEN_PARAMETERS and value:
                self._refuse("credential_in_url", "The query string contains a token.")
            elif name == "ticket":
                tickets.append(value)
        if len(tickets) > 1:
            self._refuse("bad_request", "The request has more than one ticket.")
        elif tickets:
            if _B64TOKEN.fullmatch(tickets[0]) is None or len(tickets[0]) > 128:
                self._refuse("ticket_invalid", "The ticket was not issued by this gateway.")
            else:
                self.found.append(Credential(TICKET, tickets[0]))

    def cookie(self, values: list[str], *, secure: bool) -> None:
        """RFC 6265 section 5.4, as browsers send it. The host's own name decides where it is there."""
        found: dict[str, set[str]] = {HOST_SESSION_COOKIE: set(), SESSION_COOKIE: set()}
        for value in values:
            if SESSION_COOKIE not in value:  # part of the other name, too
                continue
            for pair in value.split(";"):
                name, equals, content = pair.strip(" \t").partition("=")
                if equals and name in found and content:
                    found[name].add(content.strip('"'))
        sessions = found[HOST_SESSION_COOKIE] or (set() if secure else found[SESSION_COOKIE])
        if len(sessions) > 1:  # a neighbouring subdomain can add one; the order proves nothing
            self._refuse("credential_conflict", "The request has two different session cookies.")
        elif sessions:
            self.found.append(Credential(COOKIE, sessions.pop()))

    def e2e_key(self, values: list[str]) -> None:
        if len(values) > 1:
            self._refuse("bad_request", "The request has more than one X-E2E-Bypass-Key header.")
        else:  # an empty key is kept: a harness whose variable is empty gets "wrong key" and not "no credential"
            self.found.append(Credential(E2E_KEY, values[0].strip()))

    def test_run(self, values: list[str]) -> None:
        if len(values) == 1 and valid_test_run(values[0].strip()):
            self.run = values[0].strip()
        else:
            self._refuse(
                "bad_request",
                "X-E2E-Test-Run must be one name of 1 to 64 letters, digits, `.`, `_`, `~`, `-`.",
            )


def _decoded(text: str) -> str:
    """A subprotocol's token: raw as it is, or out of base64url.

    A JWT has dots and base64url has none, so one cannot be taken for the other. A text without dots that is not
    the base64url of a JWT is an opaque token, taken as it is.
    """
    if "." in text:
        return text
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        return text
    return found if found.count(".") >= 2 and _B64TOKEN.fullmatch(found) else text
