"""The doctor's observations: plain values, unchanged, with no opinion.

Not here: their meaning (`diagnosis`). Rules: every value can be written as JSON and read back, so that a diagnosis
can be made again from a report; times are milliseconds unless a name says otherwise; nothing here holds a
credential, and header values only of names that cannot carry one (`heads.KEPT`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

Credential = Literal["none", "bad", "good"]
End = Literal[
    "response",  # a whole HTTP head came
    "eof",  # closed, not one byte
    "reset",  # RST, not one byte
    "timeout",  # not one byte in time
    "partial",  # closed within the head
    "slow",  # bytes came, but no whole head in time
    "not_http",  # bytes that are no HTTP
    "unreachable",  # no connection, this time
]


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """Name resolution. `error` is empty when it worked; `addresses` are textual, IPv6 or IPv4."""

    addresses: tuple[str, ...] = ()
    error: str = ""
    ms: float = 0.0


class Dial(msgspec.Struct, frozen=True, kw_only=True):
    """One TCP connect: `outcome` is `ok`, `refused`, `timeout`, `unreachable`."""

    address: str
    outcome: str
    ms: float
    detail: str = ""


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """The TLS handshake with the requested name, offering only http/1.1.

    Attributes:
        outcome: `ok`, `not_tls`, `expired`, `not_yet_valid`, `wrong_name`, `untrusted`, `alpn`, `closed`,
            `timeout` or `failed`.
        detail: the library's message.
        alpn: the server's choice.
        prefers: its choice when h2 is offered as well.
        names: of the certificate; read without verifying when it does not verify.
        issuer: of the certificate, its common name or organisation.
        not_after: `YYYY-MM-DD`.
    """

    outcome: str
    detail: str = ""
    version: str = ""
    alpn: str = ""
    prefers: str = ""
    names: tuple[str, ...] = ()
    issuer: str = ""
    not_after: str = ""
    ms: float = 0.0


class Close(msgspec.Struct, frozen=True, kw_only=True):
    """A close frame: `code` is 1005 when it carried none."""

    code: int
    reason: str = ""
    after_ms: float = 0.0


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One request to send.

    Attributes:
        name: for people.
        upgrade: a handshake; otherwise a plain GET.
        presents: none, a bad token, or the user's own credential.
        carrier: `authorization` or `subprotocol`.
        origin: the `Origin` header; empty for none.
        random_path: a path that cannot exist.
        large: 9 KB of padding in one header.
        bare: without the headers of `--header`.
        explain: offers `narthex.explain`.
        path: another path, such as `/ws/health`.
    """

    name: str
    upgrade: bool = True
    presents: Credential = "none"
    carrier: str = "authorization"
    origin: str = ""
    random_path: bool = False
    large: bool = False
    bare: bool = False
    explain: bool = False
    path: str = ""


class HttpExchange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request and its answer.

    Attributes:
        start_hex: first bytes in hex when it is not HTTP.
        body: at most 4,000 characters of text (64 KB of a narthex's own routes), secrets taken out.
        body_bytes: bytes of the body that arrived, all of them.
        body_cut: closed before the announced length.
        second_status: of another answer on the same socket.
        faults: the faults of a 101: see `heads.faults_of`.
        close: the close frame that the server sent on its own.
        cut_ms: after a 101, when the socket ended with no close frame.
        pong_ms: after a 101, how long a WebSocket ping took.
        frame_fault: the fault of the bytes after a 101.
        at: this machine's clock at the first byte of the answer, seconds since the epoch; 0: there was none.
    """

    attempt: Attempt
    address: str
    end: End
    connect_ms: float = 0.0
    first_byte_ms: float = 0.0
    total_ms: float = 0.0
    status: int = 0
    phrase: str = ""
    version: str = ""
    headers: dict[str, str] = {}
    header_count: int = 0
    body: str = ""
    body_bytes: int = 0
    body_cut: bool = False
    received: int = 0
    start_hex: str = ""
    second_status: int = 0
    subprotocol: str = ""
    faults: tuple[str, ...] = ()
    close: Close | None = None
    cut_ms: float | None = None
    pong_ms: float | None = None
    frame_fault: str = ""
    waited_s: float = 0.0
    at: float = 0.0

    @property
    def opened(self) -> bool:
        """Whether a correct 101 came, and its socket stayed open with valid frames."""
        return self.accepted and self.close is None and self.cut_ms is None and not self.frame_fault

    @property
    def accepted(self) -> bool:
        """Whether a correct 101 came, whatever followed."""
        return self.status == 101 and self.end == "response" and not self.faults

    @property
    def html(self) -> bool:
        """Whether the body is a page for people."""
        start = self.body[:200].lstrip().lower()
        return "text/html" in self.headers.get("content-type", "") or start.startswith(("<!doctype", "<html"))


class ConversationStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the conversation with a narthex: `ok`, its duration, and the fault."""

    name: str
    ok: bool
    ms: float = 0.0
    detail: str = ""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A socket that was held open: `lived_s`, and how it ended: `held`, `close`, `eof`, `reset`, `not_opened`.

    Attributes:
        began_s: since the first socket; sockets of different ages distinguish a time limit from a restart.
    """

    pings: bool
    lived_s: float
    ended: str
    close: Close | None = None
    ping_every_s: float = 0.0
    heard_s: float = 0.0
    began_s: float = 0.0


class GatewayFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A narthex's reports about itself; empty dicts where a route did not answer properly."""

    beacon: dict[str, object]
    health_status: int = 0
    health: dict[str, object] = {}
    config: dict[str, object] = {}
    preflight: dict[str, object] = {}
    preflight_bad: dict[str, object] = {}


class UserInput(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the user's input, without its values."""

    token: bool = False
    claims: dict[str, object] = {}  # exp, nbf, iat, iss, aud of the token; unverified, never the token
    headers: tuple[str, ...] = ()  # names
    origin: str = ""
    credential_in_query: str = ""
    timeout_s: float = 5.0
    now: float = 0.0  # seconds since the epoch at the start, for exp and skew


class Observations(msgspec.Struct, frozen=True, kw_only=True):
    """All observations of one endpoint, in order."""

    url: str
    endpoint: str
    tls_asked: bool
    loopback: bool
    asked: UserInput
    lookup: Lookup = Lookup()
    dials: tuple[Dial, ...] = ()
    tls: Tls | None = None
    other_scheme: str = ""  # `tls` or `http`: the scheme that the port answers to instead of ours
    exchanges: tuple[HttpExchange, ...] = ()
    gateway: GatewayFacts | None = None
    steps: tuple[ConversationStep, ...] = ()
    holds: tuple[Hold, ...] = ()
    hold_asked_s: float = 0.0
