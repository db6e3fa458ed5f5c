"""The handshake check of health: connects to this gateway as a client, over loopback, with and without a credential.

Not here: health's rules (`app/health.py`), probing other gateways (`doctor`). Rules: the probe takes every step of a
client (TCP, upgrade, Centrifuge `connect`, RPC `echo`), relies only on the answer's content, and closes its
connections; the attempt without a credential must end as the policy requires, because a gateway that admits every
client is as broken as one that admits none. One deadline (health's) bounds all of it.
"""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Origin

from narthex.app.health import CheckFailed
from narthex.domain.identity import PROBE_QUERY
from narthex.protocol.client import ClientSession, MalformedMessage, Reply
from narthex.protocol.codes import INVALID_TOKEN, STALE

MAX_ANSWER: Final = 64 * 1024  # a connect reply and an echo are under 2 KB
MAX_REPLIES: Final = 16  # messages that may come before the awaited reply
CLOSE_TIMEOUT_S: Final = 0.5  # the server is this very process
INERT_ENDS: Final = (INVALID_TOKEN.code, STALE.code)

SelfAddress: TypeAlias = tuple[str, int] | Path
"""The address at which a process reaches itself: host and port, or the path of its Unix socket."""

Ticket = Callable[[], Awaitable[str]]
"""Issues a fresh ticket of class `probe`."""


class SelfProbe:
    """A `Check` of `app.health`.

    Args:
        address: returns the listening address, called at each probe: with port 0 it is known late.
        ticket: see `Ticket`.
        auth_required: whether a connection without a credential must be refused before the upgrade; otherwise it
            must be upgraded without any rights.
    """

    def __init__(self, address: Callable[[], SelfAddress], ticket: Ticket, *, auth_required: bool) -> None:
        self._address = address
        self._ticket = ticket
        self._auth_required = auth_required

    async def __call__(self) -> str:
        """Probe with and without a credential. Returns a description; raises CheckFailed."""
        await self._with_credential()
        await self._without()
        return (
            "connect and echo with a ticket, " + ("refused" if self._auth_required else "inert") + " without"
        )

    async def _with_credential(self) -> None:
        ticket = await self._ticket()
        nonce = secrets.token_hex(8)
        try:
            async with self._open(f"?ticket={ticket}") as socket:
                session = ClientSession()
                await _ask(socket, session, "connect", {"name": "narthex-probe"})
                reply = await _ask(socket, session, "rpc", {"method": "echo", "data": {"nonce": nonce}})
        except InvalidStatus as error:
            raise CheckFailed(f"a valid ticket was refused: {_refusal(error)}") from None
        except ConnectionClosed as error:
            raise CheckFailed(f"closed after the upgrade: {_close(error)}") from None
        except (InvalidHandshake, OSError) as error:
            raise CheckFailed(f"no handshake over loopback ({type(error).__name__})") from error
        if reply.result.get("data") != {"nonce": nonce}:
            raise CheckFailed("the echo reply differs from the message sent")

    async def _without(self) -> None:
        try:
            async with self._open(f"?{PROBE_QUERY}") as socket:
                if self._auth_required:
                    raise CheckFailed("a connection without a credential was upgraded")
                await _ask(socket, ClientSession(), "connect", {})
        except InvalidStatus as error:
            code = _refusal(error)
            if not self._auth_required or code != "auth_required":
                raise CheckFailed(f"a connection without a credential was refused: {code}") from None
        except ConnectionClosed as error:
            if error.rcvd is None or error.rcvd.code not in INERT_ENDS:
                raise CheckFailed(f"an inert connection was closed: {_close(error)}") from None
        except (InvalidHandshake, OSError) as error:
            raise CheckFailed(f"no handshake over loopback ({type(error).__name__})") from error
        else:
            if not self._auth_required:
                raise CheckFailed("a connection without a credential was admitted")

    def _open(self, query: str) -> connect:
        return probe_connection(self._address(), f"/ws{query}", max_size=MAX_ANSWER)


def probe_connection(
    address: SelfAddress, target: str, *, max_size: int, tls: ssl.SSLContext | None = None
) -> connect:
    """A connection of a health check to this process itself, over loopback.

    Args:
        address: of the listener; a Unix socket's path.
        target: path and query.
        max_size: of a message, in bytes.
        tls: where the listener speaks TLS itself.
    """
    where: dict[str, Any] = {"unix": True, "path": str(address)}
    port = 80  # of the Host header alone
    if isinstance(address, tuple):
        host, port = address
        where = {"host": reachable(host), "port": port}
    # No proxy: the connection must stay on loopback. No origin: the probe is no page.
    no_origin: Origin | None = None
    return connect(
        # The name is loopback's for every address, because loopback names are always served.
        f"{'ws' if tls is None else 'wss'}://localhost:{port}{target}",
        **where,
        ssl=tls,
        origin=no_origin,
        proxy=None,
        compression=None,
        max_size=max_size,
        open_timeout=None,
        close_timeout=CLOSE_TIMEOUT_S,
        ping_interval=None,
        user_agent_header="narthex-probe",
    )


async def _ask(socket: ClientConnection, session: ClientSession, command: str, body: dict[str, Any]) -> Reply:
    """Send a command and wait for its reply."""
    number = session.send(command, body)
    for _ in range(MAX_REPLIES):
        for message in session.data_to_send():
            await socket.send(message, text=True)
        try:
            found = session.receive(await socket.recv())
        except MalformedMessage as error:
            raise CheckFailed(f"{command} got a malformed reply: {error}") from None
        for reply in found:
            if isinstance(reply, Reply) and reply.id == number:
                if reply.error is not None:
                    raise CheckFailed(f"{command} got error {reply.error.code}")
                return reply
    raise CheckFailed(f"{command} got no reply")


def _refusal(error: InvalidStatus) -> str:
    """The code of a refusal's body, else the status."""
    response = error.response
    try:
        return str(json.loads(response.body or b"")["code"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"


def _close(error: ConnectionClosed) -> str:
    if error.rcvd is None:
        return "1006"
    return f"{error.rcvd.code} {error.rcvd.reason}".strip()


def reachable(host: str) -> str:
    """The address under which a server that listens on `host` is reached from its own machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - names what to replace
