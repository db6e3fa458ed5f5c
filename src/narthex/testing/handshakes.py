"""Handshakes of a test: `ws_connect` opens a socket, `assert_refused` expects a refusal. Each failure says why.

Not here: the probes and their interpretation (`narthex.doctor`). Rules: real sockets only; a token reaches the named
host only, and no message of a failure; the server's answer decides, never a status alone.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection as SyncConnection
from websockets.sync.client import connect as sync_connect
from websockets.typing import Subprotocol

from narthex.client.refusals import Refused, from_close, from_problem
from narthex.doctor import dialing, reports
from narthex.doctor.diagnosis import Diagnosis, diagnose
from narthex.doctor.diagnosis.sockets import meaning_of
from narthex.doctor.examination import ExaminationOptions, examine
from narthex.doctor.exchanging import Line, Secrets, exchange
from narthex.doctor.observations import Attempt, Close, HttpExchange
from narthex.doctor.target import parse_target
from narthex.testing.blocking import HINT, blocks_a_loop, run_blocking

SETTLE_S: Final = 0.3  # a server that refuses after the upgrade closes within it
DOCTOR_S: Final = 30.0  # for about a dozen requests


class ConnectFailed(AssertionError):
    """The handshake failed; the message says why, and how to change it.

    Attributes:
        code: of the refusal, such as `token_expired`; empty when the server gave none.
        status: of its HTTP answer; 0 without one.
        diagnosis: the doctor's; None when it did not finish.
    """

    def __init__(
        self, message: str, *, code: str = "", status: int = 0, diagnosis: Diagnosis | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.diagnosis = diagnosis


class ws_connect:  # noqa: N801 - used as a function
    """A WebSocket for `async with` (a connection of `websockets.asyncio`) or `with` (of `websockets.sync`).

    A close that ends the block with `ConnectionClosed` has a note with the meaning of its code.

    Args:
        url: `ws://` or `wss://`, with the path.
        token: sent as `Authorization: Bearer`.
        headers: further ones.
        origin: of the page that connects; empty for none.
        subprotocols: to offer.
        timeout_s: of the handshake.
        ca_file: a root certificate to trust besides the system's.
        options: further ones of `websockets.connect`.

    Raises:
        ConnectFailed: the handshake failed.
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        origin: str = "",
        subprotocols: Sequence[str] = (),
        timeout_s: float = 10.0,
        ca_file: str = "",
        **options: Any,
    ) -> None:
        self._url = url
        self._token = token
        self._headers = dict(headers or {})
        self._origin = origin
        self._timeout_s = timeout_s
        self._ca_file = ca_file
        sent = self._headers | ({"Authorization": f"Bearer {token}"} if token else {})
        self._options: dict[str, Any] = {
            "additional_headers": sent,
            "origin": origin or None,
            "subprotocols": [Subprotocol(name) for name in subprotocols] or None,
            "open_timeout": timeout_s,
            "proxy": None,
            **options,
        }
        if ca_file and parse_target(url).tls:
            self._options.setdefault("ssl", ssl.create_default_context(cafile=ca_file))
        self._open: ClientConnection | SyncConnection | None = None

    def __repr__(self) -> str:
        """Without the token."""
        return f"ws_connect({parse_target(self._url).shown})"

    async def __aenter__(self) -> ClientConnection:
        """Open it."""
        try:
            opened: ClientConnection = await connect(self._url, **self._options)
        except (InvalidHandshake, OSError, TimeoutError) as error:
            raise await self._failed(error) from None
        self._open = opened
        return opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        _explain(error)
        assert isinstance(self._open, ClientConnection)
        await self._open.close()

    def __enter__(self) -> SyncConnection:
        """Open it."""
        try:
            opened: SyncConnection = sync_connect(self._url, **self._options).__enter__()
        except (InvalidHandshake, OSError, TimeoutError) as error:
            raise run_blocking(self._failed(error, HINT if blocks_a_loop() else "")) from None
        self._open = opened
        return opened

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        _explain(error)
        assert isinstance(self._open, SyncConnection)
        self._open.close()

    async def _failed(self, error: Exception, hint: str = "") -> ConnectFailed:
        target = parse_target(self._url)
        secrets = Secrets(self._token, tuple(self._headers.items()))
        refused, status, seen = None, 0, f"{type(error).__name__}: {error}"
        if isinstance(error, InvalidStatus):
            response = error.response
            status, seen = response.status_code, f"HTTP {response.status_code}"
            refused = from_problem(status, bytes(response.body or b""), response.headers.get("Retry-After"))
        lines = [f"No socket at {target.shown}: {seen}"]
        if refused is not None:
            lines = [f"No socket at {target.shown}: {_shown(refused)}", f"remedy: {refused.remedy}"]
        diagnosis = None
        options = ExaminationOptions(
            token=self._token,
            headers=tuple(self._headers.items()),
            origin=self._origin,
            timeout_s=min(5.0, self._timeout_s),
            patience_s=self._timeout_s,
            ca_file=self._ca_file,
        )
        try:
            async with asyncio.timeout(DOCTOR_S):
                observed = await examine(target, options)
                diagnosis = diagnose(observed)
            lines += [
                "",
                f"narthex doctor {target.shown}",
                reports.as_text(diagnosis, observed, details=True),
            ]
        except TimeoutError:
            lines.append(f"The doctor was not done within {DOCTOR_S:g} s: narthex doctor {target.shown}")
        if hint and isinstance(error, TimeoutError):
            lines.append(hint)
        return ConnectFailed(
            secrets.scrub("\n".join(lines)),
            code=refused.code if refused else "",
            status=status,
            diagnosis=diagnosis,
        )


def assert_refused(
    url: str,
    code: str,
    token: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    origin: str = "",
    carrier: str = "authorization",
    timeout_s: float = 10.0,
    ca_file: str = "",
) -> Refused:
    """Expect that a handshake is refused with this code; returns the refusal, with status, detail and remedy.

    Where the server's answer carries no reason (daphne's bare 403), a second handshake offers `narthex.explain`.
    Blocks: use `asyncio.to_thread` where the server runs in the test's own event loop.

    Args:
        url: `ws://` or `wss://`, with the path.
        code: of docs/refusals.md, such as `token_expired`.
        token: the credential; empty for none.
        headers: further ones.
        origin: of the page that connects; empty for none.
        carrier: of the token: `authorization` or `subprotocol`.
        timeout_s: of each step.
        ca_file: a root certificate to trust besides the system's.

    Raises:
        AssertionError: it was admitted, refused with another code, or nothing answered.
    """
    target = parse_target(url)
    secrets = Secrets(token, tuple((headers or {}).items()))
    line = Line(target, secrets, timeout_s=timeout_s, ca_file=ca_file)
    attempt = Attempt(name="handshake", presents="good", carrier=carrier if token else "", origin=origin)
    made = run_blocking(_attempted(line, attempt))
    refused = None if made is None else _refusal_of(made)
    if refused is not None and refused.code == code:
        return refused
    if made is None:
        seen = "nothing answered"
    elif refused is not None:
        seen = f"it was refused with {_shown(refused)}"
    elif made.opened:
        seen = "it was admitted: HTTP 101, and the socket is open"
    elif made.close is not None:
        seen = f"it was upgraded and closed with {made.close.code}: {meaning_of(made.close)}"
    else:
        seen = f"the answer gives no reason: {f'HTTP {made.status}' if made.status else made.end}"
    lines = [f"{target.shown}: the handshake must be refused with `{code}`; {seen}."]
    if refused is None and (made is None or not made.opened):
        lines.append(f"narthex doctor {target.shown} says more.")
        lines += [HINT] if blocks_a_loop() else []
    raise AssertionError(secrets.scrub("\n".join(lines)))


async def _attempted(line: Line, attempt: Attempt) -> HttpExchange | None:
    """The answer, with the reason where the server can give one; None when nothing answers."""
    lookup = await dialing.look_up(line.target, line.timeout_s)
    for address in lookup.addresses:
        made = await exchange(line, address, attempt, settle_s=SETTLE_S)
        if made.end == "unreachable":
            continue
        if made.status >= 400 and _refusal_of(made) is None:
            explained = Attempt(
                name="handshake",
                presents="good",
                carrier=attempt.carrier,
                origin=attempt.origin,
                explain=True,
            )
            again = await exchange(line, address, explained, settle_s=SETTLE_S)
            return again if _refusal_of(again) is not None else made
        return made
    return None


def _refusal_of(made: HttpExchange) -> Refused | None:
    if made.close is not None:
        return from_close(made.close.code, made.close.reason)
    if made.end != "response" or made.status == 101:
        return None
    return from_problem(made.status, made.body.encode(), made.headers.get("retry-after"))


def _shown(refused: Refused) -> str:
    where = f"HTTP {refused.status}" if refused.status else f"close {refused.close}"
    trace = f" (trace_id {refused.trace_id})" if refused.trace_id else ""
    return f"{where} `{refused.code}`: {refused.detail}{trace}"


def _explain(error: BaseException | None) -> None:
    """Add the meaning of the server's close code to the exception that ends the block."""
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        close = Close(code=error.rcvd.code, reason=error.rcvd.reason)
        error.add_note(
            f"The server closed with {close.code}: {meaning_of(close)}. narthex doctor --explain {close.code}"
        )
